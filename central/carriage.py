"""Takes in what a till's documents were carried in by file, by the rules of the link: the watermark decides.

What lies below the watermark is offered once more: what central has is known again, what it had lost is filled in. What
begins at the watermark moves it, in the same transaction as the documents. So a file may come twice, late, or while a
worker runs, and after a crash it is simply taken in again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import peewee as pw
from msgspec import structs

from wire import carriage, chain, codec
from wire.carriage import CarriageError, CarriageHeader, Packing, ReplyHeader, Sealed
from wire.codec import Upload
from wire.messages import Quarantined, ReceiptClosed, SalesStored, said

from . import audit
from .batch import Heard, Mark, NewStream, Parcel
from .heads import head_of
from .models import MODELS, Document, Quarantine, Watermark
from .store import Store

QUARANTINED_MAX = 1000
"""How many documents in quarantine a reply names; central lists them all."""


@dataclass(slots=True)
class Imported:
    """What became of a file."""

    header: CarriageHeader
    reply: SalesStored
    stored: int
    known: int
    """Documents that central had already."""
    quarantined: int
    is_older_stream: bool
    """The till had been heard in another stream after it wrote the file."""


@dataclass(slots=True)
class _Taking:
    """One file on its way into the database."""

    store: Store
    till: str
    stream: str
    mark: Mark
    heard: dict[str, tuple[Heard, ...]]
    at_ms: int
    counts: dict[str, int] = field(default_factory=lambda: {"stored": 0, "quarantined": 0, "documents": 0})


def take_in(
    store: Store, file: BinaryIO, token_of: Callable[[str], str], denied: Collection[str], at_ms: int, note: str = ""
) -> Imported:
    """Check a file's seal, store what is in it, and return what happened with what the till is to be told.

    Raises CarriageError: the file is refused, or cannot follow what central has; the text says what to do.
    """
    sealed = carriage.unseal(file, CarriageHeader, token_of, carriage.CARRIAGE_LIMIT_BYTES)
    header = sealed.header
    if header.till in denied:
        raise CarriageError(f"till {header.till} is on the deny list: nothing is taken from it")
    bell = _doorbell(sealed)
    heard = {header.till: tuple(head for till, head in store.heard_heads(at_ms) if till == header.till)}
    with store.database.bind_ctx(MODELS):
        is_older = _is_older(header, bell)
        mark = _open_aside(store, header, at_ms) if is_older else _open(store, header, bell, heard, at_ms)
        _check(store, header, mark)
        taking = _Taking(store, header.till, header.stream, mark, heard, at_ms)
        with store.database.changing():
            told = f"documents {header.after + 1}..{header.through} of stream {header.stream}"
            audit.record("import", f"till {header.till}", f"{told}: {note}" if note else told, at_ms)
        _take_all(taking, header, sealed.frames)
        _note_verified(taking, bell, header.made_at_ms)
        counts = taking.counts
        return Imported(
            header=header,
            reply=_reply(taking, header),
            stored=counts["stored"],
            known=counts["documents"] - counts["stored"] - counts["quarantined"],
            quarantined=counts["quarantined"],
            is_older_stream=is_older,
        )


def write_reply(file: BinaryIO, done: Imported, token: str) -> None:
    """Write into an empty file what the till is told; the same again if nothing has changed since."""
    packing = Packing(file, token)
    packing.add(codec.encode(done.reply))
    packing.seal(ReplyHeader(till=done.header.till, nonce=done.header.nonce))


# -- Before anything is stored -----------------------------------------------------------------------------------------


def _doorbell(sealed: Sealed[CarriageHeader]) -> ReceiptClosed:
    try:
        bell = codec.decode(ReceiptClosed, next(sealed.frames, b""))
    except codec.WireError as problem:
        raise CarriageError(f"the doorbell in the file cannot be read: {problem}") from problem
    if bell.stream != sealed.header.stream:
        raise CarriageError(f"the file names stream {sealed.header.stream}, and the doorbell in it {bell.stream}")
    return bell


def _is_older(header: CarriageHeader, bell: ReceiptClosed) -> bool:
    """Say whether the till went on in another stream after it wrote this file.

    Nothing but the time can tell: the stream is unknown here, and does not name the newest that is known.
    """
    marks = list(Watermark.select().where(Watermark.till_id == header.till).order_by(Watermark.id))
    if not marks or header.stream in {mark.stream for mark in marks}:
        return False
    newest = marks[-1]
    if newest.stream in {history.stream for history in bell.previous}:
        return False
    heard_ms = max(newest.opened_at_ms, newest.moved_at_ms or 0, newest.verified_at_ms or 0)
    return bool(heard_ms > header.made_at_ms)


def _open(
    store: Store, header: CarriageHeader, bell: ReceiptClosed, heard: dict[str, tuple[Heard, ...]], at_ms: int
) -> Mark:
    """Make the stream known as its doorbell would; returns its watermark."""
    opened = store.open_streams([NewStream(header.till, header.stream, bell.previous, head_of(bell))], heard, at_ms)
    return opened[header.till, header.stream][0]


def _open_aside(store: Store, header: CarriageHeader, at_ms: int) -> Mark:
    """Make an older stream known without a word about the newer ones: the newest row is the till's present stream."""
    digest = chain.first(header.stream)
    with store.database.writing():
        first = Watermark.select(pw.fn.MIN(Watermark.id)).scalar()
        Watermark.create(id=first - 1, till_id=header.till, stream=header.stream, digest=digest, opened_at_ms=at_ms)
    return Mark(header.stream, 0, digest)


def _check(store: Store, header: CarriageHeader, mark: Mark) -> None:
    if header.till in store.unapproved():
        approve = f"tillstream central tills approve {header.till}"
        raise CarriageError(f"nobody has approved till {header.till} yet: {approve}")
    if header.after > mark.through:
        raise CarriageError(
            f"the file begins after document {header.after}, central has {mark.through} of stream {header.stream}:"
            f" nothing is stored. On the till: tillstream edge export --after {mark.through} --to FILE"
        )


# -- Documents ---------------------------------------------------------------------------------------------------------


def _take_all(taking: _Taking, header: CarriageHeader, frames: Iterator[bytes]) -> None:
    reached, digest = header.after, header.before
    _compare(taking, reached, digest)
    for frame in frames:
        upload = _unpacked(frame)
        if (upload.header.stream, upload.header.after) != (header.stream, reached):
            raise CarriageError(f"the file does not go on after document {reached}; export again")
        _take(taking, upload, digest)
        reached, digest = upload.header.through, upload.header.digest
    if (reached, digest) != (header.through, header.digest):
        raise CarriageError(f"the file ends at document {reached}, its header names {header.through}; export again")


def _unpacked(frame: bytes) -> Upload:
    try:
        return codec.unpack_sales(frame, carriage.FRAME_LIMITS)
    except codec.WireError as problem:
        raise CarriageError(f"an upload in the file cannot be read: {problem}") from problem


def _take(taking: _Taking, upload: Upload, before: bytes) -> None:
    """Take one upload: below the watermark once more, above it as new; it is cut where it lies across."""
    header, edge = upload.header, taking.mark.through
    if header.after < edge < header.through:
        lower, upper = _cut(upload, before, edge)
        _take(taking, lower, before)
        _take(taking, upper, lower.header.digest)
        return
    _compare(taking, header.through, header.digest)
    is_new = header.after >= edge
    sent = upload if is_new else Upload(structs.replace(header, before=before), upload.bodies)
    counted = _count(header.after, header.through, taking)
    (outcome,) = taking.store.ingest([Parcel(taking.till, sent)], taking.heard, taking.at_ms)
    taking.mark = outcome.mark
    if outcome.kind == "not_next" and outcome.mark.through >= header.after:
        _take(taking, upload, before)  # A worker was quicker; what it took is known again now.
    elif outcome.kind in ("advanced", "repeated"):
        _note_counts(taking, counted, _count(header.after, header.through, taking), len(upload.bodies))
    else:
        raise CarriageError(f"documents {header.after + 1}..{header.through} cannot be taken ({outcome.kind})")


def _cut(upload: Upload, before: bytes, at: int) -> tuple[Upload, Upload]:
    header, bodies = upload.header, upload.bodies
    lower = bodies[: at - header.after]
    ends = structs.replace(header, through=at, digest=chain.follow_all(before, lower))
    return Upload(ends, lower), Upload(structs.replace(header, after=at), bodies[at - header.after :])


def _compare(taking: _Taking, number: int, digest: bytes) -> None:
    """Raise CarriageError where the file and central hold different documents up to the same number."""
    if number == taking.mark.through and digest != taking.mark.digest:
        raise CarriageError(
            f"up to document {number} of stream {taking.stream} the till's documents are not those that central has"
            " (a restored disk image, a clone?): nothing beyond is stored. With its link back for a minute the till"
            " starts a new stream by itself, and sends or exports all it retains in that one"
        )


def _count(after: int, through: int, taking: _Taking) -> tuple[int, int]:
    def rows(model: Any) -> int:
        at = model.sequence.between(after + 1, through)
        return int(model.select().where((model.till_id == taking.till) & (model.stream == taking.stream) & at).count())

    return rows(Document), rows(Quarantine)


def _note_counts(taking: _Taking, before: tuple[int, int], after: tuple[int, int], documents: int) -> None:
    taking.counts["stored"] += after[0] - before[0]
    taking.counts["quarantined"] += after[1] - before[1]
    taking.counts["documents"] += documents


# -- Afterwards --------------------------------------------------------------------------------------------------------


def _note_verified(taking: _Taking, bell: ReceiptClosed, made_at_ms: int) -> None:
    """Note the proof as a doorbell brings it: the till's head is the watermark, and no head of the till is open.

    It is as old as the file: what the till closed while that was on its way, nobody knows.
    """
    with taking.store.database.writing():
        row = Watermark.get((Watermark.till_id == taking.till) & (Watermark.stream == taking.stream))
        if (bell.newest, bell.digest) != (row.through, bytes(row.digest)):
            return
        if any(till == taking.till for till, _ in taking.store.heard_heads(taking.at_ms)):
            return
        moved_at_ms, before_ms = row.moved_at_ms or 0, row.verified_at_ms or 0
        shown_at_ms = max(before_ms, min(made_at_ms, taking.at_ms))
        if shown_at_ms > before_ms or moved_at_ms > before_ms:
            values = {"verified_at_ms": shown_at_ms, "moved_at_ms": min(moved_at_ms, shown_at_ms) or None}
            Watermark.update(values).where(Watermark.id == row.id).execute()


def _reply(taking: _Taking, header: CarriageHeader) -> SalesStored:
    """Say what is committed, and which of the file's documents are in quarantine, from the rows."""
    at = Quarantine.sequence.between(header.after + 1, header.through)
    mine = (Quarantine.till_id == taking.till) & (Quarantine.stream == taking.stream) & at
    query = Quarantine.select(Quarantine.sequence, Quarantine.code).where(mine).order_by(Quarantine.sequence)
    rows: Any = query.limit(QUARANTINED_MAX).tuples()
    return said(
        SalesStored,
        stream=taking.stream,
        through=taking.mark.through,
        digest=taking.mark.digest,
        central_id=taking.store.central_id,
        backed_up=taking.store.backed_up().of(taking.till, taking.stream),
        quarantined=tuple(Quarantined(sequence, code) for sequence, code in rows),
    )
