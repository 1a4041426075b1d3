"""When the till rings, what it answers and what it believes stored. Pure: no clock, no IO; ``now`` is in seconds.

Rule 1: everything the till decides about the protocol is decided here; the agent only carries it out.
Rule 2: moving back is always safe, moving forward needs proof: documents count as stored only on the word of the
till's own central, and only with the digest that the outbox has at that very number.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from random import Random
from typing import Literal

from msgspec import structs

from wire.messages import VERSIONS, CentralPresence, History, ReceiptClosed, SalesStored, UploadRequest, said


@dataclass(frozen=True, slots=True)
class Head:
    """What the outbox holds: documents ``oldest..newest`` of a stream; up to ``stored`` they are at central."""

    stream: str
    oldest: int
    newest: int
    digest: bytes
    stored: int
    oldest_unsent_at_ms: int | None
    previous: tuple[History, ...] = ()
    stored_digest: bytes | None = None
    """The chain's digest at ``stored``, None at either end and where it is not held."""

    @property
    def unsent(self) -> int:
        """How many documents central is not known to have."""
        return self.newest - self.stored


@dataclass(frozen=True, slots=True)
class SypsLimits:
    """The waits and rates of the till's side, in seconds."""

    ring_again_s: float = 60.0
    ring_again_max_s: float = 900.0
    presence_every_s: float = 60.0
    prune_every_s: float = 3600.0
    answer_timeout_s: float = 60.0
    new_streams_per_hour: int = 3


@dataclass(frozen=True, slots=True)
class Ring:
    """Publish the doorbell."""

    message: ReceiptClosed


@dataclass(frozen=True, slots=True)
class SendSales:
    """Read, pack and publish what follows ``request.after``."""

    request: UploadRequest


@dataclass(frozen=True, slots=True)
class Serve:
    """Take this request up again as if it had just come: the upload before it is out of the way."""

    request: UploadRequest


@dataclass(frozen=True, slots=True)
class MarkStored:
    """Note that this central has everything up to ``through``, and up to ``backed_up`` in a verified backup."""

    through: int
    central_id: str
    backed_up: int | None


@dataclass(frozen=True, slots=True)
class StartStream:
    """Central and till hold different histories: renumber what is retained in a new stream, then ring.

    ``asked_after`` is where central's history of the old one ends, as far as it said.
    """

    reason: str
    asked_after: int


@dataclass(frozen=True, slots=True)
class ShowPresence:
    """Publish the till's presence."""


@dataclass(frozen=True, slots=True)
class Prune:
    """Forget what is stored, backed up and older than the retention time."""


def doorbell(head: Head, boot_id: str, *, urgent: bool = False) -> ReceiptClosed:
    """Return what a till says of its outbox, by the link or in a file that is carried."""
    return said(
        ReceiptClosed,
        stream=head.stream,
        oldest=head.oldest,
        newest=head.newest,
        digest=head.digest,
        stored=head.stored,
        stored_digest=head.stored_digest,
        boot_id=boot_id,
        previous=head.previous,
        oldest_unsent_at_ms=head.oldest_unsent_at_ms,
        urgent=urgent,
    )


Command = Ring | SendSales | Serve | MarkStored | StartStream | ShowPresence | Prune
Sent = Literal["ring", "sales"]


@dataclass(slots=True)
class Counters:
    """Health figures that the till counts since its start."""

    rung: int = 0
    rung_again: int = 0
    requests: int = 0
    unconfirmed: int = 0
    """Doorbells that the broker acknowledged and no request followed: the most telling health figure there is."""
    streams_started: int = 0
    streams_refused: int = 0
    foreign_central: int = 0


@dataclass(slots=True)
class Syps:
    """The till's protocol: a few facts, and a method for each thing that can happen to it."""

    head: Head
    boot_id: str
    own_central: str | None
    limits: SypsLimits
    rng: Random
    counters: Counters = field(default_factory=Counters)
    _connected: bool = False
    _centrals: dict[int, CentralPresence] = field(default_factory=dict)
    """What each worker of a central showed last in this connection."""
    _worker: int | None = None
    """Which of them answers for this till: the one that asked last."""
    _has_word: bool = False
    """Whether the own central said in this connection how far it is, and that the till's clock is right.

    What it said before a restore counts no more.
    """
    _incarnation: int | None = None
    _ring_out: bool = False
    _ring_out_until: float = 0.0
    """A broker that acknowledges nothing must not silence a till for ever."""
    _ring_wanted: bool = False
    _urgent: bool = False
    _rung_newest: int = 0
    _ring_again_at: float | None = None
    _ring_wait_s: float = 0.0
    _answer_out_until: float | None = None
    _waiting: UploadRequest | None = None
    _presence_at: float = 0.0
    _prune_at: float = 0.0
    _forks: deque[float] = field(default_factory=deque)
    unconfirmed: int = 0
    """Doorbells in a row that the broker acknowledged and no request followed."""
    forks_refused: int = 0
    """How often since the histories last agreed no new stream was started: too many were."""

    @property
    def may_prune(self) -> bool:
        """Say whether the till's own central is there and has said how far it is: forgetting waits for both."""
        return self._connected and self._has_word and self.is_central_online

    @property
    def is_central_online(self) -> bool:
        """Say whether the till's own central has shown itself; the first one is yet to be heard of."""
        return self.own_central is None or any(one.online for one in self._own_workers())

    @property
    def central_protocol(self) -> tuple[int, ...]:
        """Which wire versions the till's own central speaks; as many as the till until it has shown itself."""
        spoken = {version for one in self._own_workers() if one.online for version in one.protocol}
        return tuple(sorted(spoken)) or VERSIONS

    def _own_workers(self) -> list[CentralPresence]:
        """Return what the worker showed that answers for this till; all of them until it is known which that is."""
        own = {worker: one for worker, one in self._centrals.items() if one.central_id == self.own_central}
        mine = own.get(self._worker or 0)
        return [mine] if mine else list(own.values())

    def on_connected(self, head: Head, now: float) -> list[Command]:
        """Say everything again: the broker may have lost it, and central may be another one than yesterday's."""
        self.head, self._connected, self._has_word = head, True, False
        self._ring_out = self._ring_wanted = False
        self._ring_again_at, self._answer_out_until, self._waiting = None, None, None
        self._presence_at = now + self.limits.presence_every_s
        return [ShowPresence(), *self._ring(now)]

    def on_disconnected(self) -> list[Command]:
        """Queue nothing: after the outage only the newest doorbell counts."""
        self._connected = self._has_word = False
        self._centrals.clear()
        return []

    def on_appended(self, head: Head, now: float, *, rings: bool, urgent: bool = False) -> list[Command]:
        """Ring for a new document if the till's automation ``rings``; an urgent one, a closed shift, rings always."""
        self.head = head
        return self.on_ring_asked(now, urgent=urgent) if urgent or rings else []

    def on_ring_asked(self, now: float, *, urgent: bool = False) -> list[Command]:
        """Ring, at most one doorbell in flight: whatever is asked meanwhile becomes one more."""
        self._urgent = self._urgent or urgent
        if not self._connected:
            return []
        if self._ring_out and now < self._ring_out_until:
            self._ring_wanted = True
            return []
        return self._ring(now)

    def on_limits(self, limits: SypsLimits, now: float) -> list[Command]:
        """Wait by other limits from now on, and say so; what was put off further than they allow comes sooner."""
        self.limits = limits
        self._presence_at = min(self._presence_at, now + limits.presence_every_s)
        if self._ring_again_at is not None:
            self._ring_again_at = min(self._ring_again_at, now + limits.ring_again_max_s)
        return [ShowPresence()]

    def on_acknowledged(self, sent: Sent, now: float) -> list[Command]:
        """Go on after PUBACK: flow control and nothing more."""
        if sent == "ring":
            self._ring_out = False
            return self._ring(now) if self._ring_wanted else []
        self._answer_out_until = None
        waiting, self._waiting = self._waiting, None
        return [Serve(waiting)] if waiting else []

    def on_upload_request(self, request: UploadRequest, held: bytes | None, head: Head, now: float) -> list[Command]:
        """Answer every request; ``held`` is the outbox's digest at ``request.after``, None if it holds none there."""
        self.head = head
        self.counters.requests += 1
        self.unconfirmed = 0
        if request.reason != "repeat" and self.own_central in (None, request.central_id):
            self._ring_again_at, self._ring_wait_s, self._worker = None, 0.0, request.worker
        if request.stream != head.stream:
            return self.on_ring_asked(now)
        if request.reason == "repeat":
            return self._send_again(request, now)
        if request.reason == "new_stream" or held is None or held != request.digest:
            return self._start_stream(request, now)
        self.forks_refused = 0
        if self._must_wait(request, now):
            return []
        confirmed = self._confirm(request.after, request.central_id, request.backed_up, now, keeps=request.keep)
        return [*confirmed, SendSales(request)]

    def on_sales_stored(self, stored: SalesStored, held: bytes | None, head: Head, now: float) -> list[Command]:
        """Believe central's word if its digest is ours; if not, ring, and let central ask."""
        self.head = head
        if stored.stream != head.stream:
            return []
        if held is None or held != stored.digest:
            return self.on_ring_asked(now)
        self.unconfirmed = 0
        return self._confirm(stored.through, stored.central_id, stored.backed_up, now, keeps=stored.keep)

    def _send_again(self, request: UploadRequest, now: float) -> list[Command]:
        """Repeat a range as far as it is retained; this proves nothing to either side, so nothing counts as stored."""
        if request.through is None or request.through > self.head.newest:
            return self.on_ring_asked(now)
        again = structs.replace(request, after=max(request.after, self.head.oldest - 1))
        return [] if self._must_wait(again, now) else [SendSales(again)]

    def _must_wait(self, request: UploadRequest, now: float) -> bool:
        """Let only the newest request wait while an upload is on its way; otherwise this one's answer is."""
        if self._answer_out_until is not None and now < self._answer_out_until:
            self._waiting = request
            return True
        self._answer_out_until = now + self.limits.answer_timeout_s
        return False

    def on_hole(self, request: UploadRequest, now: float) -> list[Command]:
        """Go on in a new stream: what was asked for is gone from the outbox, and no upload is out."""
        self._answer_out_until = None
        return self._start_stream(request, now)

    def on_stream_started(self, head: Head, now: float) -> list[Command]:
        """Ring for the new stream; what was waiting belongs to the old one."""
        self.head, self._waiting = head, None
        return self._ring(now)

    def on_central_presence(self, worker: int, presence: CentralPresence) -> list[Command]:
        """Remember which workers are there; what the own central said before it went, or was restored, counts no more.

        That another worker went says nothing of the one that answers for this till.
        """
        self._centrals[worker] = presence
        if presence.central_id != self.own_central:
            return []
        if presence.online:
            self._has_word = self._has_word and self._incarnation in (None, presence.incarnation)
            self._incarnation = presence.incarnation
        elif worker == self._worker or self._worker is None:
            self._has_word = False
        return []

    def on_tick(self, now: float) -> list[Command]:
        """Do what has come due."""
        commands: list[Command] = []
        if self._connected and self._ring_again_at is not None and now >= self._ring_again_at:
            self.counters.rung_again += 1
            self.counters.unconfirmed += not self._ring_out
            self.unconfirmed += not self._ring_out
            self._ring_out, self._ring_again_at = False, None
            commands += self._ring(now)
        if self._connected and now >= self._presence_at:
            self._presence_at = now + self.limits.presence_every_s
            commands.append(ShowPresence())
        if self._waiting and self._answer_out_until is not None and now >= self._answer_out_until:
            waiting, self._waiting, self._answer_out_until = self._waiting, None, None
            commands.append(Serve(waiting))  # The upload before it was never acknowledged; it is asked for again.
        if self.may_prune and now >= self._prune_at:
            self._prune_at = now + self.limits.prune_every_s
            commands.append(Prune())
        return commands

    def next_deadline(self) -> float | None:
        """Return when ``on_tick`` has something to do; None while there is nothing to wait for."""
        if not self._connected:
            return None
        due = [self._presence_at]
        due += [self._ring_again_at] if self._ring_again_at is not None else []
        due += [self._prune_at] if self.may_prune else []
        due += [self._answer_out_until] if self._waiting and self._answer_out_until is not None else []
        return min(due)

    def _ring(self, now: float) -> list[Command]:
        if not self._connected:
            return []
        message = doorbell(self.head, self.boot_id, urgent=self._urgent)
        self.counters.rung += 1
        self._ring_out, self._ring_wanted, self._urgent, self._rung_newest = True, False, False, self.head.newest
        self._ring_out_until = now + self.limits.answer_timeout_s
        self._wait_for_request(now)
        return [Ring(message)]

    def _wait_for_request(self, now: float) -> None:
        """Arm the next ring, unless nothing is owed or it is armed: fresh receipts must not push it out for ever."""
        if self.head.stored >= self._rung_newest or self._ring_again_at is not None:
            return
        self._ring_wait_s = min(self.limits.ring_again_max_s, max(self.limits.ring_again_s, self._ring_wait_s * 2))
        self._ring_again_at = now + self._ring_wait_s * self.rng.uniform(0.7, 1.3)

    def _confirm(
        self, through: int, central_id: str, backed_up: int | None, now: float, *, keeps: bool
    ) -> list[Command]:
        if self.own_central is None:
            self.own_central = central_id
            self._hear_of(central_id)
        if central_id != self.own_central:
            self.counters.foreign_central += 1
            return []
        self._has_word = not keeps
        if through >= self._rung_newest:
            self._ring_again_at, self._ring_wait_s = None, 0.0
        else:
            self._wait_for_request(now)
        return [MarkStored(through, central_id, backed_up)]

    def _hear_of(self, central_id: str) -> None:
        """Take the first word of a central for its presence, if that is still to come."""
        if not self._own_workers():
            shown = said(CentralPresence, online=True, protocol=VERSIONS, central_id=central_id, incarnation=0)
            self._centrals[self._worker or 0] = shown

    def _start_stream(self, request: UploadRequest, now: float) -> list[Command]:
        while self._forks and now - self._forks[0] >= 3600:
            self._forks.popleft()
        if len(self._forks) >= self.limits.new_streams_per_hour:
            self.counters.streams_refused += 1
            self.forks_refused += 1
            self._wait_for_request(now)
            return []
        self._forks.append(now)
        self.counters.streams_started += 1
        asked = "central asked for it" if request.reason == "new_stream" else "its digest is not ours"
        return [StartStream(f"{asked} at {request.after}", request.after)]
