"""The rows that one transaction is about to write: uploads checked against their watermarks. Pure: no IO.

Rule 1: an upload counts only if it begins exactly at the watermark and its documents make the digest it claims.
Rule 2: what can no longer come is never passed over in silence: it becomes a gap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from itertools import accumulate
from typing import Any, Literal

from wire import chain
from wire.codec import Upload
from wire.messages import History, Quarantined, Reason

from .judge import Accepted, Refused

Judge = Callable[[str, bytes], Accepted | Refused]
Key = tuple[str, str]
"""A till and one of its streams."""
DigestAt = Callable[[str, str, int], bytes | None]


def unknown_digest(_till: str, _stream: str, _number: int) -> bytes | None:
    """Say that nothing is known: where no till can have forgotten anything."""
    return None


@dataclass(frozen=True, slots=True)
class Mark:
    """A stream's watermark: everything up to ``through`` is committed, and the digest there."""

    stream: str
    through: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class BackedUp:
    """How far each stream is in a verified backup; None where no backup was ever made, and then nothing is said of it.

    A stream that the newest backup did not know is backed up to 0: a till must not take silence for leave to forget.
    """

    through: dict[Key, int] | None = None
    verified_at_ms: int | None = None

    def of(self, till: str, stream: str) -> int | None:
        """Return up to which document of this stream tills may forget, None for up to the watermark."""
        return None if self.through is None else self.through.get((till, stream), 0)


@dataclass(frozen=True, slots=True)
class Heard:
    """The head of a doorbell that is ahead of the watermark; ``written`` says that the database knows of it.

    Up to ``after`` the till takes its documents for stored, and its digest there is ``agreed``: where central's is the
    same, all behind it is what the head promises. A till's belief alone proves nothing: central may have gone back
    since, and hold another history there by now.
    ``heard_at`` is when the core heard it last, in its own seconds. One that is ``below`` the watermark may be of
    another history than the one held: no upload will ever reach it.
    """

    stream: str
    boot_id: str
    newest: int
    digest: bytes
    written: bool = False
    after: int = 0
    agreed: bytes | None = None
    heard_at: float = field(default=0.0, compare=False)
    below: bool = field(default=False, compare=False)


Gap = tuple[str, str, int, int, str]
"""Till, stream, first and last number, and why."""
Lost = tuple[str, Heard, str]
"""A till, a head that nothing will ever reach, and why: it becomes a gap."""


def gap_of(lost: Lost, digest_at: DigestAt) -> Gap | None:
    """Return the gap that a head leaves behind the number up to which its very history is held; None if all is."""
    till, head, reason = lost
    if digest_at(till, head.stream, head.newest) == head.digest:
        return None
    is_ours = head.agreed is not None and digest_at(till, head.stream, head.after) == head.agreed
    return till, head.stream, (head.after if is_ours else 0) + 1, head.newest, reason


@dataclass(frozen=True, slots=True)
class Parcel:
    """An upload and the till it came from (by its topic, never by what it says)."""

    till: str
    upload: Upload


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one parcel, and the row's watermark after it.

    ``advanced``: committed, or empty and agreed. ``repeated``: what was asked for once more is stored where it was
    missing; the watermark stays. ``not_next``: it does not begin at the watermark. ``bad_digest``: its documents are
    not what its digest says. ``bad_repeat``: the same of what was asked for once more, or it goes beyond the watermark.
    ``unknown_stream``: no such stream is known. Only the first two store anything.
    """

    till: str
    kind: Literal["advanced", "repeated", "not_next", "bad_digest", "bad_repeat", "unknown_stream"]
    mark: Mark
    after: int
    task: str
    documents: int = 0
    quarantined: tuple[Quarantined, ...] = ()


@dataclass(frozen=True, slots=True)
class Span:
    """A range ``(after, through]`` of a stream."""

    stream: str
    after: int
    through: int


@dataclass(frozen=True, slots=True)
class OpenTask:
    """A task as the database has it; ``span`` is what it asks for once more, None if it asks for what is new."""

    task_id: str
    till: str
    reason: Reason
    attempts: int = 0
    span: Span | None = None


@dataclass(frozen=True, slots=True)
class NewStream:
    """A stream that a doorbell named and the database may not know, with the histories it took over.

    ``head`` is what the doorbell promises: it stands from the moment on in which older promises go over to it.
    """

    till: str
    stream: str
    previous: tuple[History, ...]
    head: Heard | None = None


@dataclass(slots=True)
class Batch:
    """Collects rows; ``received_at_ms`` is the time they are labelled with, in epoch milliseconds."""

    received_at_ms: int
    documents: list[tuple[Any, ...]] = field(default_factory=list)
    quarantine: list[tuple[Any, ...]] = field(default_factory=list)
    marks: dict[Key, Mark] = field(default_factory=dict)
    gaps: list[Gap] = field(default_factory=list)
    lost: list[Lost] = field(default_factory=list)
    passed: list[tuple[str, str, str, int]] = field(default_factory=list)
    heads: list[tuple[str, Heard]] = field(default_factory=list)
    held: list[tuple[str, str, int, str, int, bytes | None]] = field(default_factory=list)
    """Numbers whose documents are here already, under the numbers of the streams named last: they are no holes. With
    the chain's digest after it where the bytes were forgotten there."""
    inserted: int = 0
    """How many of the documents were not there before; known once they are written."""
    chains: dict[Key, list[bytes]] = field(default_factory=dict)
    """The digests after the newest numbers of a stream, up to its mark."""

    def take(self, parcel: Parcel, mark: Mark | None, heads: Sequence[Heard], judge: Judge) -> Outcome:
        """Check one upload against its watermark, put its rows into the batch, and say what became of it."""
        header, bodies = parcel.upload.header, parcel.upload.bodies
        if mark is None:
            nothing = Mark(header.stream, 0, chain.first(header.stream))
            return Outcome(parcel.till, "unknown_stream", nothing, header.after, header.task)
        if header.before is not None:
            return self._take_again(parcel, mark, header.before, judge)
        if header.after != mark.through:
            return Outcome(parcel.till, "not_next", mark, header.after, header.task)
        digests = list(accumulate(bodies, chain.follow, initial=mark.digest))
        if digests[-1] != header.digest:
            return Outcome(parcel.till, "bad_digest", mark, header.after, header.task)
        quarantined = self._judge_all(parcel, judge)
        self._pass_heads(parcel, digests, heads)
        moved = Mark(header.stream, header.through, header.digest)
        if bodies:
            key = parcel.till, header.stream
            self.marks[key] = moved
            self.chains.setdefault(key, []).extend(digests[1:])
        return Outcome(parcel.till, "advanced", moved, header.after, header.task, len(bodies), quarantined)

    def _take_again(self, parcel: Parcel, mark: Mark, before: bytes, judge: Judge) -> Outcome:
        """Take documents that were asked for once more: only below the watermark, which they do not move."""
        header, bodies = parcel.upload.header, parcel.upload.bodies
        if header.through > mark.through or chain.follow_all(before, bodies) != header.digest:
            return Outcome(parcel.till, "bad_repeat", mark, header.after, header.task)
        quarantined = self._judge_all(parcel, judge)
        return Outcome(parcel.till, "repeated", mark, header.after, header.task, len(bodies), quarantined)

    def quarantine_one(self, till: str, stream: str, sequence: int, refused: Refused, body: bytes) -> Quarantined:
        """Put one document aside with the reason and its exact bytes; its number counts all the same."""
        body_digest = body_digest_of(body)
        self.quarantine.append(
            (
                till,
                stream,
                sequence,
                refused.document_id,
                refused.code,
                refused.reason,
                self.received_at_ms,
                body_digest,
                body,
            )
        )
        return Quarantined(sequence, refused.code)

    def digest_after(self, till: str, stream: str, sequence: int) -> bytes | None:
        """Return the chain's digest after a number that this batch brings; None after one that was asked for again."""
        digests = self.chains.get((till, stream))
        if not digests:
            return None
        place = sequence - 1 - (self.marks[till, stream].through - len(digests))
        return digests[place] if place >= 0 else None

    def document_row(self, till: str, stream: str, sequence: int, body: bytes, seen: Accepted) -> tuple[Any, ...]:
        """Return a document's row, in the order of the insert's columns."""
        return (
            till, stream, sequence, self.received_at_ms, body, seen.document_id, seen.transaction_type, seen.store_id,
            seen.business_day, seen.shift_number, seen.receipt_number, seen.closed_at_ms, seen.currency,
            seen.total_minor, seen.is_training,
        )  # fmt: skip

    def take_over(self, new: NewStream, heads: Sequence[Heard], digest_at: DigestAt = unknown_digest) -> None:
        """Note what a till's earlier streams can no longer send, now that a new one goes on in their place.

        ``digest_at`` works out what the documents make that central holds of a stream, None if they make nothing.
        """
        ended = {history.stream: history for history in new.previous}
        for history in ended.values():
            if history.pruned:
                self._miss_pruned(new, history, digest_at)
        for head in heads:
            if head.stream != new.stream:
                self._end_head(new, head, ended.get(head.stream))
        if new.head and new.head.newest and new.previous:
            self.heads.append((new.till, replace(new.head, after=0, agreed=None)))

    def _miss_pruned(self, new: NewStream, history: History, digest_at: DigestAt) -> None:
        """Note what a till had forgotten, or lost, that central does not provably hold.

        Numbers up to the watermark may be another history's: of a clone, or of the till before its disk went back.
        """
        agreed, digest = history.agreed, history.agreed_digest
        is_ours = digest is not None and digest_at(new.till, history.stream, agreed) == digest
        reason = f"pruned on the till before stream {new.stream} took over"
        if not is_ours:
            reason += ", and what is held under these numbers may be another history"
        first = (agreed if is_ours else 0) + 1
        if first <= history.pruned:
            self.gaps.append((new.till, history.stream, first, history.pruned, reason))

    def _end_head(self, new: NewStream, head: Heard, ended: History | None) -> None:
        """Let a head go that is exactly where its stream ended; any other one is a promise nobody can keep."""
        is_taken_over = ended is not None and (ended.newest, ended.digest) == (head.newest, head.digest)
        if not is_taken_over:
            reason = f"rung for by boot {head.boot_id}, and stream {new.stream} did not take it over"
            self.lost.append((new.till, head, reason))
        self.passed.append((new.till, head.stream, head.boot_id, head.newest))

    def _judge_all(self, parcel: Parcel, judge: Judge) -> tuple[Quarantined, ...]:
        till, stream = parcel.till, parcel.upload.header.stream
        quarantined = []
        for sequence, body in enumerate(parcel.upload.bodies, parcel.upload.header.after + 1):
            verdict = judge(till, body)
            if isinstance(verdict, Refused):
                quarantined.append(self.quarantine_one(till, stream, sequence, verdict, body))
            else:
                self.documents.append(self.document_row(till, stream, sequence, body, verdict))
        return tuple(quarantined)

    def _pass_heads(self, parcel: Parcel, digests: list[bytes], heads: Sequence[Heard]) -> None:
        """Drop the heads that this upload reaches; one reached with another digest was replaced, which is a gap."""
        header = parcel.upload.header
        for head in heads:
            if head.stream != header.stream or not header.after < head.newest <= header.through:
                continue
            if digests[head.newest - header.after] != head.digest:
                reason = f"rung for up to {head.newest} by boot {head.boot_id}, then replaced"
                self.lost.append((parcel.till, head, reason))
            if head.written:
                self.passed.append((parcel.till, header.stream, head.boot_id, head.newest))


def is_same(body: bytes, there: bytes, forgotten: bytes | None) -> bool:
    """Say whether a document's bytes are those that are there, or whose digest is, since they were forgotten."""
    return bytes(there) == body if forgotten is None else bytes(forgotten) == body_digest_of(body)


def body_digest_of(body: bytes) -> bytes:
    """Return what stands for a document's bytes where they themselves do not."""
    return blake2b(body, digest_size=16).digest()


def with_conflicts(outcomes: list[Outcome], conflicts: list[tuple[str, str, Quarantined]]) -> list[Outcome]:
    """Add to each outcome the conflicts that only the insert brought to light (till, stream, document)."""
    if not conflicts:
        return outcomes
    return [replace(outcome, quarantined=outcome.quarantined + _own(outcome, conflicts)) for outcome in outcomes]


def _own(outcome: Outcome, conflicts: list[tuple[str, str, Quarantined]]) -> tuple[Quarantined, ...]:
    numbers = range(outcome.after + 1, outcome.after + outcome.documents + 1)
    key = outcome.till, outcome.mark.stream
    return tuple(one for till, stream, one in conflicts if (till, stream) == key and one.sequence in numbers)
