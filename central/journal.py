"""The log lines that a receipt is followed by: one a request and one an upload, in the keys that the till uses, too.

A line speaks of the documents ``(after, through]`` of a till's stream. docs/metrics.md tells how they are searched.
"""

from __future__ import annotations

import logging
from collections import Counter

from wire.messages import UploadRequest

from .batch import Outcome

log = logging.getLogger("tillstream.central")


def tell_request(till: str, message: UploadRequest) -> None:
    """Say that a till was asked for all that follows ``after``, or for a range once more."""
    about = {"till": till, "stream": message.stream, "after": message.after}
    span = {} if message.through is None else {"through": message.through}
    log.info("asked", extra={**about, **span, "also": {"task": message.task, "reason": message.reason}})


def tell_outcome(outcome: Outcome) -> None:
    """Say what became of an upload, and what of it went into quarantine."""
    is_new = outcome.kind == "advanced"
    through = outcome.mark.through if is_new or not outcome.documents else outcome.after + outcome.documents
    span = {"after": outcome.after, "through": through, "count": outcome.documents}
    log.info(outcome.kind, extra={**_about(outcome), **span, "also": {"task": outcome.task}})
    if outcome.quarantined:
        _tell_quarantined(outcome)


def _tell_quarantined(outcome: Outcome) -> None:
    numbers = [one.sequence for one in outcome.quarantined]
    codes = Counter(one.code for one in outcome.quarantined)
    span = {"after": min(numbers) - 1, "through": max(numbers), "count": len(numbers)}
    log.warning("quarantined", extra={**_about(outcome), **span, "also": {"task": outcome.task, "codes": dict(codes)}})


def _about(outcome: Outcome) -> dict[str, str]:
    return {"till": outcome.till, "stream": outcome.mark.stream}
