"""The processes of a simulated run: real shells over real SQLite in memory; events are their only input.

A crash keeps what was committed and nothing else.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from dataclasses import replace
from functools import cache
from itertools import count
from random import Random

from network import CrashError
from old_wire import as_version_1
from oracle import InvariantError, OutboxWatch

from central.config import CentralConfig
from central.database import Place
from central.migrations import migrate
from central.share import Share
from central.store import Store
from central.subscriber import Subscriber
from edge.agent import Agent
from edge.automation import TillAutomation
from edge.config import EdgeConfig
from edge.outbox import PAGE_BYTES, Outbox, OutboxFullError, OutboxLimits
from edge.syps import Syps, SypsLimits
from fleet.loop import PER_RECEIPT
from wire import codec, topics
from wire.link import Acknowledged, Backoff, Received
from wire.messages import SalesStored, UploadRequest

SALE = (
    b'{"document_id":"%s","transaction_type":"sale","till_id":"%s","business_day":"2026-03-01","shift_number":1,'
    b'"closed_at":"2026-03-01T10:00:00+03:00","currency":"RUB","lines":[{"line_number":1,"quantity":"1",'
    b'"extended_minor":%d}],"tenders":[{"tender_number":1,"tender_type":"cash","amount_minor":%d}],'
    b'"totals":{"total_minor":%d}}'
)
BATCH_MAX = 500
RETENTION_S = 35 * 86_400
DURABLE_AFTER_S = 3.0
ANSWER_TIMEOUT_S = SypsLimits().answer_timeout_s
SENT_MAX, QUEUED_MAX = 64, 10_000
"""Bounds that a run must keep: messages of a till without PUBACK, and events that wait at central."""
_names = count()


@cache
def empty_database():
    """Return a migrated database without a row: copying it is a tenth of migrating each run's."""
    database = Place(":memory:").open()
    migrate(database)
    return database.connection()


class Memory:
    """A database in memory, by name: it outlives the processes that use it, as a disk does."""

    def __init__(self):
        self.path = f"file:sim-{next(_names)}?mode=memory&cache=shared"
        self.keeper = sqlite3.connect(self.path, uri=True, isolation_level=None)

    def image(self):
        """Return a copy of the disk as it is now."""
        copy = sqlite3.connect(":memory:", isolation_level=None)
        self.keeper.backup(copy)
        return copy

    def put_back(self, image):
        self.keeper.execute("PRAGMA max_page_count = 1073741823")
        image.backup(self.keeper)

    def close(self):
        self.keeper.close()


class Node:
    """A process: events are its only input, its database is its only memory."""

    def __init__(self, world, client, filters, memory, *, wants_acks, reconnect_max_s):
        self.world, self.memory = world, memory
        self.link = world.broker.link(client, filters, wants_acks=wants_acks)
        self.reconnect_max_s = reconnect_max_s
        self.is_running = self.is_gone = False
        self.is_old = False
        """Whether its program speaks wire version 1 and nothing else."""
        self.clock_offset_ms = 0
        self._wake_at = None

    def clock_ms(self):
        return self.world.clock_ms() + self.clock_offset_ms

    def start(self):
        if self.is_gone or self.is_running:
            return
        self.is_running = True
        self.link.deliver, self.link.will = self.take, self.will
        self.link.life += 1
        self.link.backoff = Backoff(1.0, self.reconnect_max_s, 300.0, self.world.rng)
        try:
            self.make()
        except CrashError:
            self.crash()
            return
        self.world.broker.connect(self.link, self.link.life)
        self._wake_later()

    def guarded(self, act, *args):
        """Run a step; a crash ends the process there, and it is started again after a while."""
        try:
            result = act(*args)
            if self.is_running:
                self.look()
                self._wake_later()
        except CrashError:
            self.crash()
            return None
        return result

    def crash(self):
        if not self.is_running:
            return
        self.world.count("crash")
        self.is_running, self.link.deliver = False, None
        self.world.broker.cut(self.link, "crashed")
        self.close_database()
        self.look()
        self.world.after(self.world.rng.uniform(0.5, 5), self.start)

    def end(self):
        """Take the process away for good."""
        self.crash()
        self.is_gone = True

    def said(self, topic, payload):
        """Return what the process really says: an old program does not know today's words."""
        if not self.is_old or not payload:
            return payload
        old = as_version_1(topic, payload)
        if old is None:
            raise InvariantError(f"an old end cannot have said {payload[:99]!r}")
        return old

    def understood(self, event):
        """Return an event as the process reads it; None for a message that an old program refuses or passes over."""
        if not self.is_old or not isinstance(event, Received) or not event.payload:
            return event
        old = as_version_1(event.topic, event.payload)
        return None if old is None else replace(event, payload=old)

    def _wake_later(self):
        """Have one wake on its way, never later than the deadline; one that comes early looks again."""
        at = max(self.deadline(), self.world.now)
        if self._wake_at is None or at < self._wake_at:
            self._wake_at = at
            self.world.after(at - self.world.now, self._wake, at)

    def _wake(self, at):
        if self._wake_at == at:
            self._wake_at = None
        if self.is_running:
            self.guarded(self.turn)

    def turn(self):
        if self.deadline() <= self.world.now:
            self.tick()

    def close(self):
        if self.is_running:
            self.is_running = False
            self.close_database()


class Watched(Subscriber):
    """Central's shell, and beside it what each life of its core was told by tills."""

    def _begin(self, now):
        core, self.bells = super()._begin(now), deque()
        real = core.on_receipt_closed

        def on_receipt_closed(till, bell, now, *, is_live, rang_at=None):
            state = core.tills.get(till)
            if state is None or not (bell.newest <= state.taken_over.get(bell.stream, -1) or len(state.heads) > 8):
                self.bells.append((now, till, bell))
            return real(till, bell, now, is_live=is_live, rang_at=rang_at)

        core.on_receipt_closed = on_receipt_closed
        return core


class CentralNode(Node):
    """One central process on one database, with its share of the tills."""

    def __init__(self, world, memory, watch, share=None):
        self.share = share or Share()
        number = self.share.number
        filters = (topics.RECEIPT_CLOSED.of(), topics.TILL_PRESENCE.of(), topics.SALES.of(worker=number))
        super().__init__(world, f"central-{number}", filters, memory, wants_acks=False, reconnect_max_s=30.0)
        self.watch = watch
        quick = {"retry_max_s": 60.0, "sweep_s": 120.0, "timeout_s": 10.0, "look_every_s": 5.0}
        # Days have tests of their own and cost a fifth of a run.
        self.config = CentralConfig(
            worker=str(self.share),
            days_every_s=7 * 86_400,
            limit_documents=world.limit_documents,
            clock_skew_max_s=60.0,
            **(quick if world.faults.is_quick else {}),
        )
        self._queue = []
        self._is_due = False

    def make(self):
        world = self.world
        self._queue, self._is_due = [], False
        self.store = Store(self.memory.path, world.make_stream)
        self.store.ingest = self._ingest
        if not self.watch.central_id:
            self.watch.look()
        self.shell = Watched(self.config, self.store, self, Random(world.rng.random()), self.clock_ms, world.now)
        self._changes = -1

    def take(self, event):
        """Let events wait as they do in the inbox: what has come meanwhile is committed together."""
        if (event := self.understood(event)) is None:
            return
        self._queue.append(event)
        if len(self._queue) > QUEUED_MAX:
            raise InvariantError("central's queue has no bound")
        if not self._is_due:
            self._is_due = True
            self.world.after(self.world.service_s(), self._serve)

    def _serve(self):
        if self.is_running and self._is_due:
            self._is_due = False
            self.guarded(self._handle)

    def _handle(self):
        events, self._queue = self._queue[:BATCH_MAX], self._queue[BATCH_MAX:]
        self.shell.handle_all(events, self.world.now)
        if self._queue and not self._is_due:
            self._is_due = True
            self.world.after(self.world.service_s(), self._serve)
        self.tick()

    def _ingest(self, *given):
        """Commit as the store does; the process may end before or after it, or never hear that it was done."""
        self.world.maybe_crash(self)
        outcomes = Store.ingest(self.store, *given)
        self.world.maybe_crash(self)
        if self.world.chance("commit_unheard"):
            raise sqlite3.OperationalError("the connection was lost in COMMIT")
        return outcomes

    def publish(self, topic, payload, *, retain=False):
        self._check_promise(topic, payload)
        return self.link.publish(topic, self.said(topic, payload), retain=retain)

    def retire(self):
        """End for good, as somebody stops it: half of them have the time to say goodbye."""
        if self.is_running and self.world.rng.random() < 0.5:
            self.guarded(self.shell.stop)
        self.end()

    def _check_promise(self, topic, payload):
        """Acknowledged ≤ durable: what central tells a till is what its committed row says, or less."""
        address = topics.parse(topic)
        if address.topic is topics.SALES_STORED:
            said = codec.decode(SalesStored, payload)
            through, stream = said.through, said.stream
        elif address.topic is topics.UPLOAD_REQUEST:
            said = codec.decode(UploadRequest, payload)
            through, stream = said.after, said.stream
        else:
            return
        if stream is None:
            return
        row = self.memory.keeper.execute(
            "SELECT through, digest FROM watermark WHERE till_id = ? AND stream = ?", (address.till, stream)
        ).fetchone()
        if row is None or through > row[0] or (through == row[0] and said.digest not in (None, row[1])):
            raise InvariantError(f"central told {address.till} {through}, its row says {row}")

    def acknowledge(self, received):
        self.link.acknowledge(received)

    def reconnect(self, reason):
        self.link.reconnect(reason)

    def will(self):
        topic = topics.CENTRAL_PRESENCE.of(worker=self.share.number)
        return topic, self.said(topic, codec.encode(self.shell.presence(online=False)))

    def turn(self):
        self.tick()

    def tick(self):
        self.shell.tick(self.world.now)

    def deadline(self):
        return self.shell.next_deadline()

    def look(self):
        self._know()
        changes = self.store.database.connection().total_changes if self.is_running else None
        if changes is None or changes != self._changes:
            self._changes = changes
            self.watch.look()

    def _know(self):
        """What this process has heard for long enough is durable: the database knows of it, or has settled it."""
        bells = self.shell.bells if self.is_running else []
        while bells and bells[0][0] < self.world.now - DURABLE_AFTER_S:
            _, till, bell = bells.popleft()
            if (till, bell.stream) in self.watch.marks:
                self.watch.heard.add(bell.digest)

    def fill_disk(self):
        """Leave no page to grow by: SQLite itself says no."""
        if self.is_running:
            pages = self.store.database.run("PRAGMA page_count").fetchone()[0]
            self.store.database.run(f"PRAGMA max_page_count = {pages}")

    def free_disk(self):
        self.memory.keeper.execute("PRAGMA max_page_count = 1073741823")

    def close_database(self):
        self.store.close()


class TillNode(Node):
    """One machine with an agent and its POS; a clone has the same till id and another machine's name."""

    def __init__(self, world, till, machine, memory):
        self.till, self.machine = till, machine
        filters = (
            topics.UPLOAD_REQUEST.of(till=till),
            topics.SALES_STORED.of(till=till),
            topics.SETTINGS.of(till=till),
            topics.CENTRAL_PRESENCE.of(),
        )
        super().__init__(world, till, filters, memory, wants_acks=True, reconnect_max_s=30.0)
        self.config = EdgeConfig(
            till_id=till, spool_dir="/nonexistent", state_dir="/nonexistent", spool_every_s=86_400,
            clock_settles_s=world.faults.late_most_s + 20,
            retention_days=(RETENTION_S if world.faults.retains else 5) / 86_400,
        )  # fmt: skip
        self.automation = TillAutomation(None, PER_RECEIPT)
        self.watch = OutboxWatch(world.ledger, till)
        self.unheard = []
        self.sold = 0
        self._seen = None

    def make(self):
        world = self.world
        self.outbox = Outbox(self.memory.path, OutboxLimits(), world.make_stream)
        quick = {"ring_again_max_s": 120.0, "ring_again_s": 20.0, "presence_every_s": 10.0}
        quick = quick if world.faults.is_quick else {}
        limits = SypsLimits(
            prune_every_s=60.0 if world.faults.retains else 10.0,
            new_streams_per_hour=world.new_streams_per_hour,
            **quick,
        )
        core = Syps(
            head=self.outbox.head(),
            boot_id=world.make_stream()[:8],
            own_central=self.outbox.central_id,
            limits=limits,
            rng=Random(world.rng.random()),
        )
        self.agent = Agent(self.config, self.outbox, core, self, self.clock_ms, self.automation, world.count)
        self._upload = self._seen = None
        self.agent.start(world.now)
        self.look()
        if self.unheard:
            world.after(0.1, self._hand_over_again)

    def publish(self, topic, payload, *, retain=False):
        """Publish as the link does; a till has one upload out, until it is acknowledged or was for long enough."""
        generation = self.link.generation
        if topics.parse(topic).topic is topics.SALES and self.link.is_up:
            if self._upload and self._upload[0] == generation and self.world.now < self._upload[2]:
                raise InvariantError(f"{self.till} has two uploads out")
            self._upload = generation, self.link.next_mid + 1, self.world.now + ANSWER_TIMEOUT_S
        return self.link.publish(topic, self.said(topic, payload), retain=retain)

    def acknowledge(self, received):
        self.link.acknowledge(received)

    def pos_closes(self):
        self.sold += 1
        amount = self.world.rng.randrange(1, 100_000)
        document_id = f"{self.till}-{self.machine}{self.sold}".encode()
        is_wrong = self.world.rng.random() < 0.1
        given = SALE % (document_id, self.till.encode(), amount, amount, amount + is_wrong)
        self.world.ledger.closed.add(given)
        if is_wrong:
            self.world.ledger.wrong.add(given)
        self.hand_over(given)

    def hand_over(self, given):
        """Repeat what has no answer, as a POS does: a crash may have come before or after the commit."""
        if not (self.is_running and self.guarded(self._take_in, given)):
            self.unheard.append(given)

    def _take_in(self, given):
        try:
            self.agent.take_in(given, self.world.make_stream, self.world.now)
        except OutboxFullError:
            self.world.after(5, self._hand_over_again)
            return False
        return True

    def _hand_over_again(self):
        waiting, self.unheard = self.unheard, []
        for given in waiting:
            self.hand_over(given)

    def take(self, event):
        self.guarded(self._take, event)

    def _take(self, event):
        if isinstance(event, Acknowledged) and self._upload and (event.generation, event.mid) == self._upload[:2]:
            self._upload = self._seen = None
        if (event := self.understood(event)) is None:
            return
        self.agent.handle(event, self.world.now)
        if len(self.agent._sent) > SENT_MAX:
            raise InvariantError(f"{self.till} has {len(self.agent._sent)} messages out")
        self.turn()

    def will(self):
        topic = topics.TILL_PRESENCE.of(till=self.till)
        return topic, self.said(topic, self.agent.presence(self.link.generation, online=False))

    def tick(self):
        self.agent.tick(self.world.now)

    def deadline(self):
        return self.agent.next_deadline()

    def look(self):
        outbox = self.outbox if self.is_running else None
        seen = outbox and (outbox._stream, outbox._newest, outbox._pruned, outbox._stored, outbox.central_id)
        if outbox and seen != self._seen:
            self._seen = seen
            retention_s = self.config.retention_days * 86_400
            # Two clocks that are wrong by the same jump agree, and of two machines with one name central hears one.
            ahead_s = max(0, *(one.clock_offset_ms / 1000 for one in self.world.centrals))
            if sum(one.till == self.till for one in self.world.machines) > 1:
                ahead_s = float("inf")
            own_s = self.clock_offset_ms / 1000
            self.watch.look(self.outbox, self.world.backed_up, self.world.now, retention_s - ahead_s, own_s)

    def fill_disk(self):
        """Leave no page to grow by: SQLite itself says no."""
        if self.is_running:
            pages = self.outbox._connection.execute("PRAGMA page_count").fetchone()[0]
            self._limit(pages * PAGE_BYTES)

    def free_disk(self):
        if self.is_running:
            self._limit(OutboxLimits().outbox_limit_bytes)

    def _limit(self, size_bytes):
        self.outbox._limits = OutboxLimits(size_bytes)
        self.outbox._connection.execute(f"PRAGMA max_page_count = {size_bytes // PAGE_BYTES}")

    def close_database(self):
        self.outbox.database.close()

    def is_drained(self, database):
        """Say whether central holds exactly what this machine's outbox holds, and the machine knows it."""
        if not self.is_running or self.unheard:
            return False
        line = self.watch.lineage
        if database.open_heads:
            return False
        if database.marks.get((self.till, line.stream)) != (line.newest, line.digest):
            return False
        return self.outbox.central_id != database.central_id or self.outbox._stored == line.newest
