"""What the collector has its shell do, and the waits, rates and bounds it decides by. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from wire.messages import SalesStored, UploadRequest

from .batch import Heard, Lost, NewStream
from .till_state import Task


@dataclass(frozen=True, slots=True)
class CollectorLimits:
    """The waits, rates and bounds of asking; waits in seconds."""

    quiet_s: float = 0.5
    max_wait_s: float = 5.0
    parallel: int = 500
    parallel_backlog: int = 20
    timeout_s: float = 30.0
    retry_min_s: float = 5.0
    retry_max_s: float = 600.0
    attempts_max: int = 12
    sweep_s: float = 600.0
    task_expires_s: float = 86_400.0
    note_after_s: float = 1.0
    live_documents: int = 10
    limit_documents: int = 200
    limit_bytes: int = 512 * 1024
    bad_digests_max: int = 3
    approve_tills: bool = False
    """Whether a till that is heard of for the first time waits for a person."""
    heads_max: int = 16
    """Heads that are kept for one till: one for each stream and boot."""
    repeats_max: int = 16
    """Ranges that are asked for once more of one till; further wishes wait in the database."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Publish a request to a till."""

    till: str
    message: UploadRequest


@dataclass(frozen=True, slots=True)
class Confirm:
    """Publish to a till what is committed."""

    till: str
    message: SalesStored


@dataclass(frozen=True, slots=True)
class OpenStream:
    """Make sure that the database knows a stream, then call ``on_stream_opened``."""

    stream: NewStream


@dataclass(frozen=True, slots=True)
class Note:
    """Write what has been heard and was not settled within a second; one transaction for all tills."""

    heads: tuple[tuple[str, Heard], ...]
    passed: tuple[tuple[str, str, str, int], ...]
    lost: tuple[Lost, ...]
    doubted: tuple[tuple[str, Heard], ...]
    """Heads that lie below the watermark: whether they are of the history held there is told by the documents."""
    verified: tuple[tuple[str, str], ...]
    tasks: tuple[Task, ...]


Command = Ask | Confirm | OpenStream | Note
