"""Owns one till of an in-process fleet: the real agent, outbox and protocol over a connection that a loop drives."""

from __future__ import annotations

import logging
import socket
import struct
from collections import deque
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, NamedTuple, Protocol

from edge.agent import Agent
from edge.automation import TillAutomation
from edge.config import EdgeConfig
from edge.events import TakenIn
from edge.outbox import Outbox, OutboxLimits
from edge.service import link_settings, make_core, make_document_id, random_name
from edge.standing import wall_clock_ms
from wire.link import Connected, Connection, Disconnected, Driver, Event, Received, backoff

log = logging.getLogger("tillstream.fleet")

NEVER = float("inf")
TCP_INFO_BYTES, TCP_INFO_ACKED_AT = 136, 120
"""Where Linux's ``struct tcp_info`` has ``tcpi_bytes_acked`` and, after it, ``tcpi_bytes_received``."""


class Closed(NamedTuple):
    """A document that was closed and is not known to be stored: its number, and when it was closed (monotonic, s)."""

    sequence: int
    closed_at: float


class Loop(Driver, Protocol):
    """What a till needs of the loop that drives it."""

    def happened(self, till: FleetTill, event: Event) -> None:
        """Take an event; it is handled after the sockets were read."""

    def learnt_stored(self, till: FleetTill, closed: Closed) -> None:
        """Count a document that the till has just learnt to be stored."""


class _Outbox(Outbox):
    """The real outbox, which tells when documents are known to be stored."""

    on_stored: Callable[[int], None] | None = None

    def mark_stored(self, through: int, central_id: str, backed_up: int | None) -> None:
        super().mark_stored(through, central_id, backed_up)
        if self.on_stored:
            self.on_stored(through)


class FleetTill:
    """One till: an ``Agent`` whose carrier is this object, one connection at a time, and when it is next due."""

    def __init__(
        self,
        config: EdgeConfig,
        outbox: Path | str,
        kept: TillAutomation,
        loop: Loop,
        rng: Random,
        first_connect_at: float,
    ) -> None:
        self.config, self._loop = config, loop
        self._link = link_settings(config, rng)
        limits = OutboxLimits(config.outbox_limit_bytes, ballast_bytes=0)
        self.outbox = _Outbox(outbox, limits, random_name)
        self.outbox.on_stored = self._on_stored
        core = make_core(config, self.outbox)
        self.agent = Agent(config, self.outbox, core, self, wall_clock_ms, kept, _run_no_script)
        self.agent.start(first_connect_at)
        self.connection: Connection | None = None
        self.is_up = False
        self.connect_at = first_connect_at
        self.due_at = NEVER
        self.uploads = 0
        self.unsent: deque[Closed] = deque()
        self._generation, self._opened_at = 0, 0.0
        self._backoff = backoff(self._link, rng)

    # -- The agent's carrier ---------------------------------------------------------------------------------------

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> int | None:
        """Publish over the present connection; None means nothing was sent and nothing is kept for later."""
        self.uploads += "/sales/" in topic
        connection = self.connection
        return connection.publish(topic, payload, retain=retain) if connection and connection.is_up else None

    def acknowledge(self, received: Received) -> None:
        """Send PUBACK for a message of the present connection."""
        if self.connection:
            self.connection.acknowledge(received)

    # -- What the loop calls ---------------------------------------------------------------------------------------

    def close_document(self, body: bytes, now: float) -> TakenIn:
        """Take one closed document into the outbox; it is durable (as far as the outbox is) on return."""
        taken = self.agent.take_in(body, make_document_id, now)
        if taken.appended.is_new:
            self.unsent.append(Closed(taken.appended.sequence, now))
        return taken

    def handle(self, event: Event, now: float) -> None:
        """Let the agent have an event, and make a new connection later if this one ended."""
        if isinstance(event, Connected | Disconnected) and event.generation != self._generation:
            return
        if isinstance(event, Connected):
            self.is_up = True
        if isinstance(event, Disconnected):
            self._on_disconnected(now)
        self.agent.handle(event, now)

    def tick(self, now: float) -> None:
        """Connect if it is time to, and do what the agent has due."""
        if self.connection is None and now >= self.connect_at:
            self._connect(now)
        self.agent.tick(now)

    def next_deadline(self) -> float:
        """Return when ``tick`` is next needed."""
        return min(self.agent.next_deadline(), NEVER if self.connection else self.connect_at)

    def stop(self) -> None:
        """Say goodbye; the loop sends it."""
        self.connect_at = NEVER
        self.agent.stop()
        if self.connection:
            self.connection.close()

    # -- Connections -----------------------------------------------------------------------------------------------

    def _connect(self, now: float) -> None:
        self._generation += 1
        will = self.agent.presence(self._generation, online=False)
        self.connection = Connection(self._link, self._generation, will, self._deliver, self._loop)
        self._opened_at = now
        try:
            self.connection.open()
        except (OSError, ValueError) as problem:
            self.connection.end(f"cannot reach {self.connection.broker}: {problem}")

    def _deliver(self, event: Event, _weight_bytes: int) -> bool:
        self._loop.happened(self, event)
        return True

    def _on_disconnected(self, now: float) -> None:
        if self.connection:
            self.connection.close()
        lived_s = now - self._opened_at if self.is_up else 0.0
        self.connection, self.is_up = None, False
        if self.connect_at != NEVER:
            self.connect_at = now + self._backoff.after(lived_s)

    def _on_stored(self, through: int) -> None:
        while self.unsent and self.unsent[0].sequence <= through:
            self._loop.learnt_stored(self, self.unsent.popleft())


def _run_no_script(path: str) -> None:
    """Run nothing: thousands of tills in one process have one machine's scripts between them."""
    log.warning("script_not_run", extra={"also": {"path": path}})


def link_bytes(sock: Any) -> tuple[int, int]:
    """Return what a TCP socket has sent (and the peer acknowledged) and received; (0, 0) where that is not told."""
    try:
        facts = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES)
    except (OSError, AttributeError):
        return 0, 0
    if len(facts) < TCP_INFO_BYTES:
        return 0, 0
    acked, received = struct.unpack_from("=QQ", facts, TCP_INFO_ACKED_AT)
    return acked, received
