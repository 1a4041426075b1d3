"""Owns the in-process fleet: thousands of real tills on one selector loop, in one thread.

A process for each till costs 33 MB and half a second; a till here costs what its agent and outbox cost.
"""

from __future__ import annotations

import heapq
import resource
import selectors
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

from edge.automation import TillAutomation
from edge.config import EdgeConfig
from edge.events import RingAsked
from edge.outbox import MEMORY
from wire.automation import FACTORY, Automation, with_per_receipt_upload
from wire.broker_url import DEFAULT
from wire.link import Connection, Event

from .till import NEVER, Closed, FleetTill, link_bytes

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
WEEK_S = 604_800.0
TICKED_AT_ONCE = 10
LAGS_KEPT = 20_000
PER_RECEIPT, _ = with_per_receipt_upload(FACTORY)

OnStored = Callable[[FleetTill, Closed, float], object]
"""Told for each document when its till learns that it is stored: till, document, monotonic time in seconds."""


@dataclass(frozen=True, slots=True)
class FleetSettings:
    """Where the fleet connects and how its tills behave."""

    broker_urls: tuple[str, ...] = DEFAULT
    tls_ca_file: str = ""
    """The certificate authority of the brokers' certificates."""
    outbox_dir: Path | None = None
    """Where each till keeps its outbox file; None keeps them in memory, so a killed process loses its documents."""
    automation: Automation = PER_RECEIPT
    """What each till has before central says anything; FACTORY leaves ringing to whoever calls ``ring``."""
    connects_per_s: float = 500.0
    """How fast the first connections are made: a fleet that is switched on all at once would be one long queue."""
    keepalive_s: int = 30
    presence_every_s: float = 60.0
    ring_again_s: float = 60.0
    reconnect_min_s: float = 1.0
    reconnect_max_s: float = 120.0
    seed: int = 1


@dataclass(slots=True)
class FleetStats:
    """What the fleet counts."""

    closed: int = 0
    stored: int = 0
    """Documents that a till closed, sent, and has learnt to be stored."""
    uploads: int = 0
    connected: int = 0
    reconnects: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0


class Fleet:
    """Many tills, one loop. Call ``turn`` again and again, or ``run``; nothing happens in between."""

    def __init__(
        self, settings: FleetSettings, token_of: Callable[[str], str], on_stored: OnStored | None = None
    ) -> None:
        self.settings, self._token_of, self._on_stored = settings, token_of, on_stored
        self.tills: dict[str, FleetTill] = {}
        self.lags_s: deque[float] = deque(maxlen=LAGS_KEPT)
        self._stats = FleetStats()
        self._selector = selectors.DefaultSelector()
        self._events: deque[tuple[FleetTill, Event]] = deque()
        self._writers: set[Connection] = set()
        self._stuck: set[Connection] = set()
        self._due: list[tuple[float, int, FleetTill]] = []
        self._order = count()
        self._started_at = time.monotonic()
        self._tidied: Iterator[FleetTill] = iter(())
        self._tidy_at = self._started_at
        self._rng = Random(settings.seed)
        _allow_open_files()

    # -- Tills and their documents ---------------------------------------------------------------------------------

    def add_till(self, till_id: str, store_id: str = "") -> FleetTill:
        """Put a till into service; it connects when its turn comes."""
        settings, now = self.settings, time.monotonic()
        config = EdgeConfig(
            till_id=till_id,
            store_id=store_id,
            broker_urls=settings.broker_urls,
            tls_ca_file=settings.tls_ca_file,
            token=self._token_of(till_id),
            keepalive_s=settings.keepalive_s,
            presence_every_s=settings.presence_every_s,
            ring_again_s=settings.ring_again_s,
            reconnect_min_s=settings.reconnect_min_s,
            reconnect_max_s=settings.reconnect_max_s,
            state_dir=str(settings.outbox_dir / till_id if settings.outbox_dir else "/nonexistent"),
            spool_dir="/nonexistent",
            spool_every_s=WEEK_S,  # Nobody leaves documents in a spool here; looking costs.
        )
        outbox: Path | str = MEMORY
        if settings.outbox_dir:
            Path(config.state_dir).mkdir(exist_ok=True)
            outbox = settings.outbox_dir / f"{till_id}.outbox.db"
        kept = TillAutomation(Path(config.state_dir) if settings.outbox_dir else None, settings.automation)
        place = max(self._started_at + len(self.tills) / settings.connects_per_s, now)
        till = self.tills[till_id] = FleetTill(config, outbox, kept, self, Random(self._rng.random()), place)
        self._wake_at(till, place)
        return till

    def close_document(self, till_id: str, body: bytes) -> int:
        """Close a document on a till; returns its number, and the document is in the outbox."""
        till, now = self.tills[till_id], time.monotonic()
        taken = till.close_document(body, now)
        self._stats.closed += taken.appended.is_new
        self._reschedule(till)
        return taken.appended.sequence

    def ring(self, till_id: str, *, urgent: bool = False) -> None:
        """Ring on a till, as its after-close event does; needed where its automation does not ring."""
        till = self.tills[till_id]
        till.agent.handle(RingAsked(urgent=urgent), time.monotonic())
        self._reschedule(till)

    @property
    def closed(self) -> int:
        """How many documents were closed."""
        return self._stats.closed

    @property
    def unsent(self) -> int:
        """How many documents were closed and are not known to be stored."""
        return self._stats.closed - self._stats.stored

    def stats(self) -> FleetStats:
        """Return the counts, those of open sockets included."""
        told = FleetStats(closed=self._stats.closed, stored=self._stats.stored, reconnects=self._stats.reconnects)
        told.sent_bytes, told.received_bytes = self._stats.sent_bytes, self._stats.received_bytes
        for till in self.tills.values():
            told.uploads += till.uploads
            told.connected += till.is_up
            sent, received = link_bytes(till.connection.sock if till.connection else None)
            told.sent_bytes += sent
            told.received_bytes += received
        return told

    # -- The loop --------------------------------------------------------------------------------------------------

    def run(self, until: Callable[[], bool], most_s: float = NEVER) -> bool:
        """Turn until a condition holds, at most so long; tell whether it does."""
        end = time.monotonic() + most_s
        while not until():
            if time.monotonic() >= end:
                return False
            self.turn(0.1)
        return True

    def turn(self, most_s: float) -> None:
        """Do what there is to do; wait for it at most ``most_s``."""
        self._write_all()
        now = time.monotonic()
        wait_s = min(most_s, self._tidy_at - now, self._due[0][0] - now if self._due else most_s)
        for key, ready in self._selector.select(max(0.0, wait_s)):
            if ready & READ:
                key.data.read()
            if ready & WRITE:
                self._writers.add(key.data)
        now = time.monotonic()
        self._handle_all(now)
        self._tick_some(now)
        self._tidy_some(now)
        self._write_all()

    def stop(self, most_s: float = 5.0) -> None:
        """Say goodbye for all tills, and close their outboxes."""
        for till in self.tills.values():
            till.stop()
        self.run(lambda: not self._selector.get_map(), most_s)
        for till in self.tills.values():
            till.outbox.close()
        self._selector.close()

    def _handle_all(self, now: float) -> None:
        while self._events:
            till, event = self._events.popleft()
            till.handle(event, now)
            self._reschedule(till)

    def _tick_some(self, now: float) -> None:
        """Tick tills that are due, a few at a time: those that connected together must not hold up one that sells."""
        for _ in range(TICKED_AT_ONCE):
            if not self._due or self._due[0][0] > now:
                break
            at, _, till = heapq.heappop(self._due)
            if at != till.due_at:
                continue  # It was put off, or did its work already: an earlier place in the heap still stands.
            till.due_at = NEVER
            till.tick(now)
            self._reschedule(till)

    def _tidy_some(self, now: float) -> None:
        """Go through the tills ten times in each keepalive, a few at a time: no second is dearer than another."""
        if now < self._tidy_at:
            return
        every_s = max(1.0, self.settings.keepalive_s / 10)
        share_s = 0.1
        self._tidy_at = now + share_s
        for _ in range(int(len(self.tills) * share_s / every_s) + 1):
            till = next(self._tidied, None)
            if till is None:
                self._tidied = iter(tuple(self.tills.values()))
                return
            if till.connection:
                till.connection.tidy()

    def _reschedule(self, till: FleetTill) -> None:
        self._wake_at(till, till.next_deadline())

    def _wake_at(self, till: FleetTill, at: float) -> None:
        """See to it that the till is ticked at that time; a later time leaves its place, and is looked at then."""
        if at < till.due_at:
            till.due_at = at
            heapq.heappush(self._due, (at, next(self._order), till))

    def _write_all(self) -> None:
        while self._writers:
            connection = self._writers.pop()
            is_stuck = connection.write()
            if is_stuck != (connection in self._stuck) and connection.sock is not None:
                self._selector.modify(connection.sock, READ | WRITE if is_stuck else READ, connection)
                (self._stuck.add if is_stuck else self._stuck.discard)(connection)

    # -- What tills and their connections tell ---------------------------------------------------------------------

    def happened(self, till: FleetTill, event: Event) -> None:
        """Take an event of a till's connection."""
        self._events.append((till, event))

    def learnt_stored(self, till: FleetTill, closed: Closed) -> None:
        """Count a document whose till has learnt that it is stored."""
        now = time.monotonic()
        self._stats.stored += 1
        self.lags_s.append(now - closed.closed_at)
        if self._on_stored:
            self._on_stored(till, closed, now)

    def opened(self, connection: Connection, sock: Any) -> None:
        """Watch a connection's socket."""
        self._selector.register(sock, READ, connection)
        self._stats.reconnects += connection.generation > 1

    def wants_write(self, connection: Connection) -> None:
        """Write to a connection at the end of this turn, or of the next."""
        self._writers.add(connection)

    def closing(self, connection: Connection, sock: Any) -> None:
        """Forget a connection's socket."""
        sent, received = link_bytes(sock)
        self._stats.sent_bytes += sent
        self._stats.received_bytes += received
        self._writers.discard(connection)
        self._stuck.discard(connection)
        self._selector.unregister(sock)


def _allow_open_files() -> None:
    """Let this process open as many files as it may: a connection is one, an outbox file four."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
