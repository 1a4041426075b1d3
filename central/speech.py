"""What central says to a till: its requests and its word on what is stored, each in the till's version. Pure.

Rule: what is acknowledged is built from the committed row (``TillState.mark``), and from nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from wire import versions
from wire.messages import OLDEST, Quarantined, Reason, SalesStored, UploadRequest, said

from .batch import BackedUp
from .commands import CollectorLimits
from .till_state import Task, TillState


@dataclass(slots=True)
class Speech:
    """The words of one worker; ``backed_up`` is what the newest verified backup holds."""

    central_id: str
    worker: int
    limits: CollectorLimits
    backed_up: BackedUp = field(default_factory=BackedUp)

    def request(self, state: TillState, task: Task, reason: Reason) -> UploadRequest:
        """Ask for what a task wants."""
        mark, span = state.mark, task.span
        message = said(
            UploadRequest,
            stream=mark.stream if mark else None,
            after=span.after if span else mark.through if mark else 0,
            through=span.through if span else None,
            digest=mark.digest if mark and not span else None,
            central_id=self.central_id,
            backed_up=self.backed_up.of(task.till, mark.stream) if mark and not span else None,
            limit_documents=self.limits.limit_documents,
            limit_bytes=self.limits.limit_bytes,
            worker=self.worker,
            task=task.task_id,
            reason=reason,
            keep=not state.is_clock_right,
        )
        return versions.in_version(message, state.version or OLDEST)

    def confirmation(self, till: str, state: TillState, quarantined: tuple[Quarantined, ...]) -> SalesStored:
        """Say how far the till's stream is committed."""
        mark = state.mark
        assert mark is not None, "only what a row says is confirmed"  # noqa: S101 -- callers have just set it
        message = said(
            SalesStored,
            stream=mark.stream,
            through=mark.through,
            digest=mark.digest,
            central_id=self.central_id,
            backed_up=self.backed_up.of(till, mark.stream),
            keep=not state.is_clock_right,
            quarantined=quarantined,
        )
        return versions.in_version(message, state.version or OLDEST)
