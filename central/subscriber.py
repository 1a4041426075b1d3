"""Central's shell: one thread takes all that waits, commits it together, then acknowledges and answers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from math import inf
from random import Random
from typing import Protocol

import msgspec

from wire import codec, topics
from wire.codec import SalesLimits
from wire.cuts import CUTS_MIN, Cuts
from wire.documents import DOCUMENT_LIMIT_MAX_BYTES
from wire.link import Acknowledged, Connected, Disconnected, Received
from wire.messages import VERSIONS, CentralPresence, Message, ReceiptClosed, TillPresence, said
from wire.program import is_disk_failure
from wire.topics import Address

from . import commands as do
from . import journal, settings
from .batch import BackedUp, Heard, Mark, OpenTask, Parcel
from .collector import Collector
from .commands import Command
from .config import CentralConfig
from .counters import Counters, Traffic
from .database import REFUSED, UnsafeDatabaseError, first_cause
from .day_notes import DayNotes
from .lock import InUseError
from .models import MODELS
from .post import Post
from .rates import Hourly, Rates
from .roll import CALL_EVERY_S, Roll
from .settings import Wanted
from .store import Store
from .till_state import Task

log = logging.getLogger("tillstream.central")

Event = Connected | Disconnected | Received | Acknowledged
TillRow = tuple[str, Mark | None, bool | None, int, bool]


class Carrier(Protocol):
    """What the subscriber needs of a link."""

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> int | None:
        """Publish by QoS 1; return the packet id, or None if nothing was sent."""

    def acknowledge(self, received: Received) -> None:
        """Send PUBACK."""

    def reconnect(self, reason: str) -> None:
        """End the present connection and make a new one: whoever has something to say says it again."""


class Subscriber:
    """Carries out central's part of the protocol. Used by one thread only."""

    def __init__(
        self, config: CentralConfig, store: Store, link: Carrier, rng: Random, clock_ms: Callable[[], int], now: float
    ) -> None:
        self.config, self.store, self._link, self._rng, self._clock_ms = config, store, link, rng, clock_ms
        self._share, self._cuts = config.share, Cuts()
        self._limits = SalesLimits(
            documents=config.limit_documents,
            inflated_bytes=config.limit_bytes + DOCUMENT_LIMIT_MAX_BYTES + codec.HEADER_LIMIT_BYTES,
        )
        self._rates: Rates[Received] = Rates(config.till_messages_per_s, config.till_messages_burst)
        self._new_streams = Hourly(config.till_streams_per_hour)
        self._inflated_bytes = 0
        self._lives = 0
        self._wishes_at = now
        self._rows_at = now + config.sweep_s
        self._roll, self._roll_at = Roll(store.database, self._share, store.starts, clock_ms()), now
        self._days_at = now + config.days_every_s if self._share.number == 1 else inf  # One looks for all.
        self._presences: dict[str, tuple[object, ...]] = {}
        self._post, self._wanted = Post(), dict[str, Wanted]()
        self._heard: set[str] = set()
        self._change: int | None = None
        self.counters, self.traffic = Counters(), Traffic()
        self.refused = 0
        self.database_error = ""
        """Why the database cannot be read now; empty while it can."""
        self._begin_at: float | None = None
        self._retry_s = 0.0
        self.collector = self._begin(now)

    def _begin(self, now: float) -> Collector:
        """Make the core anew from what the database holds: at the start, and after the database said no."""
        self._lives += 1
        prefix = f"{self._share.number}.{self.store.starts}.{self._lives}"
        core = Collector(self.store.central_id, self._share.number, prefix, self.config.collector_limits(), self._rng)
        core.counters = self.counters  # One life after the other: what was counted stays counted.
        core.on_started(*self._own_rows(), self._open_tasks(), now)
        core.speech.backed_up = self._own_backed_up()
        self._days = DayNotes(self.store.database)  # A server that crashed may give out again what it had looked at.
        return core

    def _own_rows(self) -> tuple[list[TillRow], list[tuple[str, Heard]]]:
        """Return the tills of this worker's share as the rows have them, and their open heads."""
        holds = self._share.holds
        heads = self.store.heard_heads(self._clock_ms(), holds)
        return [row for row in self.store.tills() if holds(row[0])], heads

    def _open_tasks(self) -> list[OpenTask]:
        """Return what is open of this worker's tills, whichever worker made it."""
        return [task for task in self.store.open_tasks() if self._share.holds(task.till)]

    def _own_backed_up(self) -> BackedUp:
        found = self.store.backed_up()
        if found.through is None:
            return found
        return replace(found, through={key: n for key, n in found.through.items() if self._share.holds(key[0])})

    # -- What happens ----------------------------------------------------------------------------------------------

    def handle_all(self, events: Sequence[Event], now: float) -> None:
        """Take everything that waited, commit it in one transaction, then acknowledge it and answer.

        If the database refuses, nothing is acknowledged and the connection is made anew: the tills say it again.
        """
        try:
            if self._is_ready(now):
                self._handle_all(events, now)
        except REFUSED as problem:
            self._begin_again(problem, now)

    def _is_ready(self, now: float) -> bool:
        """Say whether the core stands; make it anew if the database refused to be read, and it is time to try."""
        if self._begin_at is not None and now >= self._begin_at:
            self._open_again(now)
            if self._begin_at is None:
                self._link.reconnect("the database can be read again")
        return self._begin_at is None

    def _handle_all(self, events: Sequence[Event], now: float) -> None:
        parcels: list[Parcel] = []
        commands: list[Command] = []
        self._inflated_bytes = 0
        received = [event for event in events if isinstance(event, Received)]
        for event in events:
            match event:
                case Received():
                    commands += self._take(event, parcels, now)
                    if self._inflated_bytes >= self.config.batch_inflated_bytes:
                        commands += self._ingest(parcels, now)
                case Connected():
                    self.traffic.begin()
                    self._cuts.begin(now)
                    self.collector.on_link_up()
                    self._post.on_link_up(now)
                    self._take_up_rows(now)
                    self._publish(topics.CENTRAL_PRESENCE.of(worker=self._share.number), self.presence(online=True))
                case Disconnected(reason=reason, is_refused=is_refused, is_asked=is_asked):
                    self.traffic.end(reason, is_refused=is_refused, is_asked=is_asked)
                    self.collector.on_link_down()
                    log.info("disconnected", extra={"also": {"reason": reason}})
                    self._note_cut(now, is_asked=is_asked)
        commands += self._open_streams(commands, now)
        commands += self._ingest(parcels, now)
        for event in received:
            self._link.acknowledge(event)
        self._run(commands, now)

    def _note_cut(self, now: float, *, is_asked: bool) -> None:
        """Say what it looks like when connections end again and again soon after they begin: no broker says why."""
        self._cuts.end(now, is_asked=is_asked)
        if self._cuts.count >= CUTS_MIN and not is_asked:
            name = f"central-{self._share.number}"
            why = f"is another process running as worker {self._share.number}? each throws the other out as {name}"
            log.error("identity_shared", extra={"also": {"cuts": self._cuts.count, "likely": why}})

    def _take(self, received: Received, parcels: list[Parcel], now: float) -> list[Command]:
        address = topics.parse(received.topic)
        if address:
            self.traffic.messages["received", address.topic.name] += 1
        if address is None or address.till is None or not self._share.holds(address.till):
            return []
        if not self._rates.takes(received.topic, now):
            return self._put_off(address, received, now)
        return self._take_one(address, address.till, received, parcels, now)

    def _put_off(self, address: Address, received: Received, now: float) -> list[Command]:
        """Hold the newest doorbell or presence back until the till's rate allows it; let an unasked upload go."""
        if address.topic is not topics.SALES and 0 < len(received.payload) <= codec.SMALL_LIMIT_BYTES:
            self._rates.hold(received.topic, received)
        if self._rates.is_news(received.topic, now):
            also = {"topic": received.topic, "over": self._rates.over}
            log.warning("too_many", extra={"till": address.till, "also": also})
        return []

    def _take_one(
        self, address: Address, till: str, received: Received, parcels: list[Parcel], now: float
    ) -> list[Command]:
        try:
            match address.topic:
                case topics.SALES:
                    upload = codec.unpack_sales(received.payload, self._limits)
                    parcels.append(Parcel(till, upload))
                    self._inflated_bytes += sum(map(len, upload.bodies))
                case topics.RECEIPT_CLOSED if received.payload:
                    bell = codec.decode(ReceiptClosed, received.payload)
                    rang_at, is_live = min(now, received.at), not received.retained
                    return self.collector.on_receipt_closed(till, bell, now, is_live=is_live, rang_at=rang_at)
                case topics.TILL_PRESENCE if received.payload:
                    presence = codec.decode(TillPresence, received.payload)
                    if self.collector.on_presence(till, presence, now):
                        self._show(till, presence, now, is_live=not received.retained)
        except codec.WireError as problem:
            self.refused += 1
            log.warning("refused", extra={"till": till, "also": {"topic": received.topic, "error": str(problem)}})
        return []

    def _open_streams(self, commands: Iterable[Command], now: float) -> list[Command]:
        asked = [command.stream for command in commands if isinstance(command, do.OpenStream)]
        keys = dict.fromkeys((one.till, one.stream) for one in asked)
        new = [key for key in keys if not self.store.knows(*key)]
        refused = {key for key in new if not self._new_streams.takes(key[0], now)}
        streams = [one for one in asked if (one.till, one.stream) not in refused]
        if not streams:
            return []
        heard = self.collector.heard({stream.till for stream in streams})
        try:
            opened = self.store.open_streams(streams, heard, self._clock_ms())
        except REFUSED:
            for till, stream in new:
                if (till, stream) not in refused:
                    self._new_streams.give(till)  # Else a disk that was full for a moment shuts it out for an hour.
            raise
        answers: list[Command] = []
        for one in streams:
            mark, is_new = opened[one.till, one.stream]
            settled = heard.get(one.till, ())
            answers += self.collector.on_stream_opened(
                one.till, mark, now, is_new=is_new, head=one.head, settled=settled
            )
        return answers

    def _take_put_off(self, now: float) -> list[Command]:
        """Take up what was put off and may be heard now: the newest of each."""
        if now < min(self._rates.next_deadline(), self._new_streams.next_deadline()):
            return []
        commands: list[Command] = []
        for received in self._rates.due(now):
            if (address := topics.parse(received.topic)) and address.till:
                commands += self._take_one(address, address.till, received, [], now)
        for till in self._new_streams.due(now):
            state = self.collector.tills.get(till)
            if state and state.bell:
                commands += self.collector.on_receipt_closed(till, state.bell, now, is_live=state.is_bell_live)
        return commands + self._open_streams(commands, now)

    def _ingest(self, parcels: list[Parcel], now: float) -> list[Command]:
        if not parcels:
            return []
        heard = self.collector.heard({parcel.till for parcel in parcels})
        outcomes = self.store.ingest(parcels, heard, self._clock_ms())
        parcels.clear()
        self._inflated_bytes = 0
        for outcome in outcomes:
            journal.tell_outcome(outcome)
            if outcome.kind == "advanced" and outcome.documents:
                self._give_back(outcome.till)
        return [command for outcome in outcomes for command in self.collector.on_outcome(outcome, now)]

    def _give_back(self, till: str) -> None:
        """Count an upload out again that brought something or was wanted: who drains a backlog is never slowed."""
        self._rates.give(topics.SALES.of(till=till, worker=self._share.number))

    # -- What time brings ------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Do what has come due."""
        try:
            if not self._is_ready(now):
                return
            if now >= self._wishes_at:
                self._wishes_at = now + self.config.look_every_s
                for wish in self.store.wishes(holds=self._share.holds):
                    self.collector.on_task(wish, now)
                self._write_presences()
                self._read_changes(now)
            if now >= self._rows_at:
                self._take_up_rows(now)
            if now >= self._roll_at:
                self._call_roll(now)
            if now >= self._days_at:
                self._days_at = now + self.config.days_every_s
                self._note_days()
            self._run(self._take_put_off(now) + self.collector.on_tick(now), now)
            self._send_settings(now)
        except REFUSED as problem:
            self._begin_again(problem, now)

    def next_deadline(self) -> float:
        """Return when ``tick`` is next needed."""
        if self._begin_at is not None:
            return self._begin_at
        put_off_until = min(self._rates.next_deadline(), self._new_streams.next_deadline())
        own = min(self._wishes_at, self._rows_at, self._roll_at, self._days_at)
        return min(own, self.collector.next_deadline(), put_off_until)

    def _begin_again(self, problem: Exception, now: float) -> None:
        """Forget what was concluded from messages that were not committed; nothing of it was acknowledged.

        Until the database can be read again, what comes is dropped: the connection is then made anew, and all of it
        is said again. Where the disk itself failed, nothing more is asked of this database: the program ends.
        """
        _tell_refusal(problem)
        self._link.reconnect(f"the database refused: {first_cause(problem)}")
        self._open_again(now)

    def _open_again(self, now: float) -> None:
        """Make connection and core anew; what a connection that broke in COMMIT has committed, the rows say."""
        try:
            self.store.reopen()
            self.collector, self._begin_at = self._begin(now), None
        except (*REFUSED, InUseError, UnsafeDatabaseError) as problem:
            self._put_off_beginning(problem, now)
            return
        if self._retry_s:
            log.info("database_back", extra={"also": {"database": self.config.database}})
        self._retry_s, self.database_error = 0.0, ""

    def _put_off_beginning(self, problem: Exception, now: float) -> None:
        """Wait longer each time: a server that comes up is not to be met by all its workers at once."""
        self.database_error = first_cause(problem)
        least, most = self.config.database_retry_min_s, self.config.database_retry_max_s
        self._retry_s = min(most, max(least, 2 * self._retry_s))
        wait_s = self._retry_s * self._rng.uniform(0.7, 1.0)
        self._begin_at = now + wait_s
        also = {"database": self.config.database, "error": self.database_error, "again_in_s": round(wait_s, 2)}
        log.warning("database_away", extra={"also": also})

    def _take_up_rows(self, now: float) -> None:
        """Look at the rows again: another process may have moved them, heard of other heads, or left tasks behind.

        It has this worker's number, or it answered for these tills while there were more workers, or fewer.
        """
        self._rows_at = now + self.config.sweep_s
        self.collector.on_rows(*self._own_rows(), now)
        self._take_up_tasks(now)

    def _call_roll(self, now: float) -> None:
        """Tell the others that this worker runs, and people if the workers do not agree."""
        self._roll_at = now + CALL_EVERY_S
        for wrong in self._roll.call(self._clock_ms()):
            log.warning("workers_disagree", extra={"also": {"worker": str(self._share), "error": wrong}})

    def _take_up_tasks(self, now: float) -> None:
        for task in self._open_tasks():
            self.collector.on_task(task, now)

    # -- Commands --------------------------------------------------------------------------------------------------

    def _run(self, commands: Iterable[Command], now: float) -> None:
        for command in commands:
            match command:
                case do.Ask(till=till, message=message):
                    if message.reason == "repeat":
                        self._give_back(till)
                    if self._publish(topics.UPLOAD_REQUEST.of(till=till), message) is None:
                        self.collector.on_link_down()
                    else:
                        journal.tell_request(till, message)
                case do.Confirm(till=till, message=message):
                    self._publish(topics.SALES_STORED.of(till=till), message)
                case do.Note():
                    self._note(command, now)

    def _publish(self, topic: str, message: Message) -> int | None:
        address = topics.parse(topic)
        retain = address is not None and address.topic.retained
        return self._send(topic, codec.encode(message), address, retain=retain)

    def _send(self, topic: str, payload: bytes, address: Address | None, *, retain: bool) -> int | None:
        mid = self._link.publish(topic, payload, retain=retain)
        if address and mid is not None:
            self.traffic.messages["sent", address.topic.name] += 1
        return mid

    def _note(self, note: do.Note, now: float) -> None:
        at_ms = self._clock_ms()
        tasks = [self._task_row(task, at_ms, now) for task in note.tasks]
        self.store.settle(note.doubted, at_ms)  # First: its heads are among those that are passed.
        self.store.note(
            at_ms, heads=note.heads, passed=note.passed, lost=note.lost, verified=note.verified, tasks=tasks
        )

    def _task_row(self, task: Task, at_ms: int, now: float) -> tuple[object, ...]:
        created_at_ms = at_ms - int((now - task.created_at) * 1000)
        finished_at_ms = None if task.is_open else at_ms
        span = (task.span.stream, task.span.after, task.span.through) if task.span else (None, None, None)
        return (
            task.task_id, task.till, self._share.number, task.state, task.reason, task.attempts, created_at_ms,
            finished_at_ms, task.note, *span,
        )  # fmt: skip

    # -- What tills show, and what they are to run -----------------------------------------------------------------

    def _show(self, till: str, presence: TillPresence, now: float, *, is_live: bool) -> None:
        """Keep what a till shows. One that the broker kept was made earlier, and says nothing of the till's clock."""
        at_ms = self._clock_ms()
        skew_ms = presence.clock_ms - at_ms if is_live and presence.online else None
        if skew_ms is not None:
            clock = presence.connection, presence.clock_ms
            self.collector.on_clock(till, clock, is_right=abs(skew_ms) <= self.config.clock_skew_max_s * 1000)
        shown_at_ms = at_ms if is_live else min(at_ms, presence.clock_ms)
        shown = msgspec.json.encode(presence).decode()
        self._presences[till] = (
            presence.store_id, presence.online, presence.connection, shown_at_ms, shown, skew_ms, till,
        )  # fmt: skip
        self._post.on_presence(till, presence.settings_revision, presence.settings_refused, now, online=presence.online)
        if till not in self._heard:
            self._heard.add(till)
            self._change = None  # It may be new, and what is set for the whole fleet is meant for it too.

    def _write_presences(self) -> None:
        self.store.note(self._clock_ms(), presences=self._presences.values())
        self._presences.clear()

    def _read_changes(self, now: float) -> None:
        """Take up what people changed, backups included: approvals at once, settings on their way to the tills."""
        change = self.store.last_change()
        if change in (self._change, 0):  # 0: nobody has ever changed anything.
            self._change = change
            return
        self._change = change
        self.collector.on_approvals(self.store.unapproved())
        self._take_up_backup()
        with self.store.database.bind_ctx(MODELS):
            wanted = settings.wanted()
        self._wanted = {till: one for till, one in wanted.items() if self._share.holds(till)}
        self._post.on_wanted({till: one.revision for till, one in self._wanted.items()}, now)

    def _take_up_backup(self) -> None:
        """Let tills forget what a new backup holds, and show when it was verified."""
        before, self.collector.speech.backed_up = self.collector.speech.backed_up, self._own_backed_up()
        if self.traffic.is_linked and before.verified_at_ms != self.collector.speech.backed_up.verified_at_ms:
            self._publish(topics.CENTRAL_PRESENCE.of(worker=self._share.number), self.presence(online=True))

    def _note_days(self) -> None:
        for one in self._days.note_days(self._clock_ms(), self.config.days_at_once):
            also = {"store": one.store_id, "day": one.business_day, "before": one.before, "state": one.state}
            log.info(one.event, extra={"also": also})

    def _send_settings(self, now: float) -> None:
        for till in self._post.due(now) if self.traffic.is_linked else ():
            payload = self._wanted[till].payload if till in self._wanted else b""
            topic = topics.SETTINGS.of(till=till)
            self._send(topic, payload, topics.parse(topic), retain=True)

    def presence(self, *, online: bool) -> CentralPresence:
        """Return what central says of itself to all tills."""
        return said(
            CentralPresence,
            online=online,
            protocol=VERSIONS,
            central_id=self.store.central_id,
            incarnation=self.store.incarnation,
            verified_backup_at_ms=self.collector.speech.backed_up.verified_at_ms,
        )

    def stop(self) -> None:
        """Say goodbye and write what has been heard, if the database takes it; the link may be stopped after it."""
        self._publish(topics.CENTRAL_PRESENCE.of(worker=self._share.number), self.presence(online=False))
        if self._begin_at is not None:
            return
        try:
            self._write_presences()
            self._roll.leave()
        except REFUSED as problem:
            _tell_refusal(problem)


def _tell_refusal(problem: Exception) -> None:
    """Say that the database refused; raise what it refused for if that is the disk: nothing more is asked of it."""
    if is_disk_failure(problem):
        raise problem
    log.error("database_refused", extra={"also": {"error": first_cause(problem)}})
