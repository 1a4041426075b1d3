"""What central remembers of a till between its messages, and the task it has with it. Pure.

All of it can be learnt again: the rows in the database and the till's next doorbell say it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from wire import versions
from wire.messages import FIRST, Reason, ReceiptClosed, said

from .batch import Heard, Mark, Span

State = Literal["waiting", "queued", "requested", "resting", "done", "failed", "expired"]
ENDED = frozenset({"done", "failed", "expired"})


@dataclass(slots=True)
class Task:
    """One upload that central wants from one till."""

    task_id: str
    till: str
    reason: Reason
    created_at: float
    state: State = "waiting"
    attempts: int = 0
    is_urgent: bool = False
    is_written: bool = False
    first_asked_at: float | None = None
    """When it was first asked for, if no earlier life of central can have: every answer to it was given after that."""
    asked_at: float = 0.0
    """When it was asked for last."""
    asked_stream: str | None = None
    asked_newest: int = 0
    """What the till was known to hold when it was asked: less than that in the answer means it did not fit."""
    span: Span | None = None
    """What is to be sent once more; it shrinks from below with each answer."""
    note: str = ""

    @property
    def is_open(self) -> bool:
        """Say whether something is still wanted."""
        return self.state not in ENDED


@dataclass(slots=True)
class TillState:
    """What central remembers of a till between its messages; all of it can be learnt again."""

    mark: Mark | None = None
    bell: ReceiptClosed | None = None
    is_bell_live: bool = False
    """Whether the till itself said what the bell says, in this connection; the broker may have kept it for days."""
    task: Task | None = None
    repeats: list[Task] = field(default_factory=list)
    """What a person asked for once more; taken up only while nothing new is owed."""
    is_online: bool | None = None
    connection: int = -1
    protocol: tuple[int, ...] = ()
    """Which wire versions it speaks; empty until it has shown itself."""
    boot_id: str = ""
    """Which life of its agent showed itself last."""
    clock_shown: tuple[int, int] = (-1, 0)
    """The connection in which it last showed its clock, and what that said (epoch milliseconds)."""
    is_clock_right: bool = False
    """Whether the till's clock was about ours when it last showed itself; it forgets by that clock."""
    is_approved: bool = True
    bad_digests: int = 0
    taken_over: dict[str, int] = field(default_factory=dict)
    """Streams that the till's present one goes on from, and where each ended: a late doorbell of theirs is no news."""
    is_silent: bool = False
    """Whether it let the last request pass: until it answers one, it is asked in what slots the others leave."""
    heads: dict[tuple[str, str], tuple[Heard, float]] = field(default_factory=dict)
    checked_at: float = 0.0

    @property
    def version(self) -> int | None:
        """The wire version to use with it; None if it speaks none of ours."""
        return versions.common(self.protocol or FIRST)

    def show_clock(self, shown: tuple[int, int], *, is_right: bool) -> None:
        """Note a clock by which the till forgets; what was shown earlier and comes late tells nothing of now."""
        if shown > self.clock_shown:
            self.is_clock_right, self.clock_shown = is_right, shown
        elif shown[0] < self.clock_shown[0]:
            self.is_clock_right = False  # Late, or of a disk that went back and counts anew: nothing is known.

    @property
    def is_repeating(self) -> bool:
        """Say whether the task under way asks for what was sent before."""
        return self.task is not None and self.task.is_open and self.task.span is not None

    @property
    def backlog(self) -> int:
        """How many documents the till rang for beyond the watermark."""
        return max(0, self.bell.newest - self.mark.through) if self.bell and self.mark else 0

    @property
    def is_even(self) -> bool:
        """Say whether the last doorbell is exactly the watermark."""
        bell, mark = self.bell, self.mark
        return bell is not None and mark is not None and (bell.newest, bell.digest) == (mark.through, mark.digest)

    @property
    def is_verified(self) -> bool:
        """Say whether central provably holds everything that the till ever rang for."""
        return self.is_even and not self.heads


def even_bell(mark: Mark, before: ReceiptClosed | None) -> ReceiptClosed:
    """Return what an empty answer says: the till holds nothing beyond the watermark."""
    boot_id = before.boot_id if before else "answer"
    through = mark.through
    return said(ReceiptClosed, stream=mark.stream, newest=through, digest=mark.digest, stored=through, boot_id=boot_id)
