"""What a till gives into a file and takes from one: its unsent documents, and central's word that it has them.

The file goes the way that a dead link does not; the rules are those of the link. The same two functions serve the
running agent, which is asked over its socket, and a command that opens the outbox itself while no agent runs.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Any, BinaryIO

from msgspec import Struct

from wire import carriage, codec
from wire.carriage import CarriageError, CarriageHeader, Packing, ReplyHeader
from wire.messages import Sales, SalesStored, said

from .outbox import Outbox
from .syps import Head, doorbell

TASK = "carried"
"""What stands in an upload for the task it answers: nobody asked."""


class Chunk(Struct, frozen=True, kw_only=True):
    """A part of the outbox, as it is asked for: the doorbell, and one packed upload of ``(after, through]``."""

    stream: str
    bell: bytes
    sales: bytes
    after: int
    before: bytes
    through: int
    digest: bytes
    newest: int


@dataclass(frozen=True, slots=True)
class ExportAsked:
    """Somebody carries documents by file and wants the next chunk; ``answer`` gets it, or CarriageError."""

    after: int | None
    through: int | None
    answer: Future[dict[str, Any]] = field(default_factory=Future)


@dataclass(frozen=True, slots=True)
class ReplyHanded:
    """Somebody brought central's reply back, sealed; ``answer`` gets what is believed now, or CarriageError."""

    sealed: bytes
    answer: Future[dict[str, Any]] = field(default_factory=Future)


def asked_for(method: str, path: str, query: Mapping[str, list[str]], body: bytes) -> ExportAsked | ReplyHanded | None:
    """Return what an HTTP request asks the agent for; None if it is about something else.

    Raises CarriageError that names the parameter.
    """
    match method, path:
        case "GET", "/export":
            return ExportAsked(number(query, "after"), number(query, "through"))
        case "POST", "/stored":
            return ReplyHanded(body)
    return None


def number(query: Mapping[str, list[str]], name: str) -> int | None:
    """Return a number that a request gives, None if it gives none; raises CarriageError that names it."""
    text = query.get(name, [""])[0]
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise CarriageError(f"{name} is {text[:20]!r}; it must be a whole number")
    return int(text)


# -- Away --------------------------------------------------------------------------------------------------------------


def export_chunk(outbox: Outbox, boot_id: str, after: int | None, through: int | None) -> Chunk:
    """Return the next documents after ``after`` (None: after what central has), none beyond ``through``.

    Raises CarriageError if the outbox does not hold what follows ``after``.
    """
    head = outbox.head()
    begin = head.stored if after is None else after
    end = head.newest if through is None else min(through, head.newest)
    before = outbox.digest_at(begin)
    if before is None:
        raise CarriageError(
            f"the till holds documents {head.oldest}..{head.newest} of stream {head.stream}: --after may be"
            f" {head.oldest - 1}..{head.newest}, not {begin}"
        )
    most = min(carriage.FRAME_DOCUMENTS, max(0, end - begin))
    bodies = outbox.read_after(begin, most, carriage.FRAME_BYTES)
    reached = begin + len(bodies)
    digest = outbox.digest_at(reached) or before
    header = said(Sales, stream=head.stream, after=begin, through=reached, digest=digest, task=TASK)
    return Chunk(
        stream=head.stream,
        bell=codec.encode(doorbell(head, boot_id)),
        sales=codec.pack_sales(header, bodies),
        after=begin,
        before=before,
        through=reached,
        digest=digest,
        newest=head.newest,
    )


AskChunk = Callable[[int | None, int | None], Chunk]
"""Takes after and through; asks the agent, or the outbox itself."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written: the header, and the newest document there was when it began."""

    header: CarriageHeader
    newest: int

    @property
    def left(self) -> int:
        """How many documents found no room in the file."""
        return self.newest - self.header.through


def export(
    file: BinaryIO,
    ask: AskChunk,
    till: str,
    token: str,
    after: int | None,
    made_at_ms: int,
    *,
    limit_bytes: int = carriage.CARRIAGE_LIMIT_BYTES,
    progress: Callable[[int, int], None] = lambda _written, _all: None,
) -> Exported:
    """Write all that follows ``after`` into an empty file and seal it; documents closed meanwhile wait for the next.

    What would pass the limit is left out, and ``left`` says how much that is.
    """
    first = chunk = ask(after, None)
    packing = Packing(file, token)
    packing.add(first.bell)
    reached, digest = first.after, first.before
    while chunk.through > chunk.after and packing.fits(chunk.sales, limit_bytes):
        packing.add(chunk.sales)
        reached, digest = chunk.through, chunk.digest
        progress(reached - first.after, first.newest - first.after)
        if reached >= first.newest:
            break
        chunk = ask(reached, first.newest)
        if chunk.stream != first.stream:
            raise CarriageError("the till went on in a new stream meanwhile; export again")
    header = CarriageHeader(
        till=till,
        nonce=token_hex(16),
        stream=first.stream,
        after=first.after,
        before=first.before,
        through=reached,
        digest=digest,
        made_at_ms=made_at_ms,
    )
    return Exported(packing.seal(header), first.newest)


# -- And back ----------------------------------------------------------------------------------------------------------


def open_reply(sealed: bytes, till: str, token: str) -> SalesStored:
    """Return what central says it has stored; raises CarriageError if it is not central's word to this till."""

    def token_of(named: str) -> str:
        if named != till:
            raise CarriageError(f"the reply is to till {named}, this is {till}")
        return token

    opened = carriage.unseal(io.BytesIO(sealed), ReplyHeader, token_of, carriage.REPLY_LIMIT_BYTES)
    try:
        (frame,) = opened.frames
        return codec.decode(SalesStored, frame)
    except ValueError as problem:
        raise CarriageError(f"the reply cannot be read: {problem}") from problem


def check_reply(stored: SalesStored, head: Head, held: bytes | None, own_central: str | None) -> None:
    """Raise CarriageError, with the reason, for what ``Syps.on_sales_stored`` would not believe.

    ``held`` is the outbox's digest at ``stored.through``.
    """
    if stored.stream != head.stream:
        raise CarriageError(
            f"the reply is about stream {stored.stream}, the till goes on in {head.stream}: export again, that one"
            " holds all that is retained"
        )
    if own_central not in (None, stored.central_id):
        raise CarriageError(f"it is the word of central {stored.central_id}; this till believes {own_central} only")
    if held is None:
        raise CarriageError(
            f"central has documents up to {stored.through}, this till holds {head.oldest}..{head.newest}: there is"
            " nothing to compare; it is settled when the link is back"
        )
    if held != stored.digest:
        raise CarriageError(
            f"central's documents up to {stored.through} are not this till's (a restored disk image?): nothing is"
            " believed; the till starts a new stream when the link is back"
        )


def believable(outbox: Outbox, own_central: str | None, sealed: bytes, till: str, token: str) -> SalesStored:
    """Return what a sealed reply says, if the till may believe it; raises CarriageError with the reason if not."""
    stored = open_reply(sealed, till, token)
    check_reply(stored, outbox.head(), outbox.digest_at(stored.through), own_central)
    return stored


def believe(outbox: Outbox, own_central: str | None, sealed: bytes, till: str, token: str) -> SalesStored:
    """Take a reply into an outbox that no agent has open, which keeps it when it is closed.

    Raises CarriageError, having believed nothing.
    """
    stored = believable(outbox, own_central, sealed, till, token)
    outbox.mark_stored(stored.through, stored.central_id, stored.backed_up)
    return stored


def tell(stored: SalesStored, head: Head) -> dict[str, Any]:
    """Return what is believed now, for people and their scripts."""
    return {
        "stream": stored.stream,
        "stored": stored.through,
        "central_id": stored.central_id,
        "unsent": head.newest - stored.through,
        "quarantined": len(stored.quarantined),
    }
