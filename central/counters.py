"""What central counts since its start. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """Health figures that central counts since its start."""

    doorbells: int = 0
    requests: int = 0
    unanswered: int = 0
    """Requests that the broker acknowledged and no answer followed: the most telling health figure there is."""
    uploads: int = 0
    documents: int = 0
    repeated: int = 0
    quarantined: int = 0
    not_next: int = 0
    bad_digests: int = 0
    unasked: int = 0
