"""The wire as its first version had it, frozen: what an end that was never upgraded reads, and what it can say.

A copy on purpose: the product's own structs change with the product. ``as_version_1`` stands before an end of today and
makes an old one of it: what that would refuse does not come through, what it does not know is passed over.
"""

from __future__ import annotations

import zlib
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from wire import topics
from wire.dictionary import DICTIONARY_1

StreamId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9]{22}$(?!\n)")]
ShortId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,40}$(?!\n)")]
Digest = Annotated[bytes, Meta(min_length=16, max_length=16)]
Sequence = Annotated[int, Meta(ge=0, le=2**53 - 1)]
EpochMs = Annotated[int, Meta(ge=0, le=2**53 - 1)]
Count = Annotated[int, Meta(ge=0, le=2**53 - 1)]


class Message(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What every message carried."""

    v: Literal[1]


class History(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A stream that was taken over."""

    stream: StreamId
    pruned: Sequence = 0
    newest: Sequence
    digest: Digest


class ReceiptClosed(Message, frozen=True, kw_only=True, omit_defaults=True):
    """The doorbell."""

    stream: StreamId
    oldest: Sequence = 1
    newest: Sequence
    digest: Digest
    stored: Sequence = 0
    boot_id: ShortId
    previous: Annotated[tuple[History, ...], Meta(max_length=16)] = ()
    oldest_unsent_at_ms: EpochMs | None = None
    urgent: bool = False


class UploadRequest(Message, frozen=True, kw_only=True, omit_defaults=True):
    """Asks for what follows ``after``."""

    stream: StreamId | None = None
    after: Sequence = 0
    digest: Digest | None = None
    central_id: ShortId
    backed_up: Sequence | None = None
    limit_documents: Annotated[int, Meta(ge=1, le=10_000)] = 200
    limit_bytes: Annotated[int, Meta(ge=1, le=16 * 2**20)] = 512 * 1024
    worker: Annotated[int, Meta(ge=1, le=999)]
    task: ShortId
    reason: Literal["doorbell", "sweep", "operator", "retry", "new_stream"] = "doorbell"


class Sales(Message, frozen=True, kw_only=True, omit_defaults=True):
    """The header of an upload."""

    stream: StreamId
    after: Sequence
    through: Sequence
    digest: Digest
    task: ShortId


class Quarantined(Struct, frozen=True, array_like=True):
    """A document in quarantine."""

    sequence: Sequence
    code: ShortId


class SalesStored(Message, frozen=True, kw_only=True, omit_defaults=True):
    """What is committed."""

    stream: StreamId
    through: Sequence
    digest: Digest
    central_id: ShortId
    backed_up: Sequence | None = None
    quarantined: Annotated[tuple[Quarantined, ...], Meta(max_length=10_000)] = ()


class TillPresence(Message, frozen=True, kw_only=True, omit_defaults=True):
    """What a till showed."""

    online: bool
    connection: Count
    store_id: Annotated[str, Meta(max_length=64)] = ""
    agent_version: Annotated[str, Meta(max_length=64)] = ""
    boot_id: ShortId
    started_at_ms: EpochMs = 0
    clock_ms: EpochMs = 0
    disk_free_bytes: Count | None = None
    unsent: Count = 0
    settings_revision: Count = 0
    findings: Annotated[dict[ShortId, Count], Meta(max_length=32)] = {}


class CentralPresence(Message, frozen=True, kw_only=True, omit_defaults=True):
    """What central showed."""

    online: bool
    protocol: tuple[int, ...] = (1,)
    central_id: ShortId
    incarnation: Count
    verified_backup_at_ms: EpochMs | None = None


MESSAGES = {
    topics.RECEIPT_CLOSED: ReceiptClosed,
    topics.UPLOAD_REQUEST: UploadRequest,
    topics.SALES_STORED: SalesStored,
    topics.TILL_PRESENCE: TillPresence,
    topics.CENTRAL_PRESENCE: CentralPresence,
}


def as_version_1(topic, payload):
    """Return what an end of version 1 makes of a payload, coming or going; None if it does not know or refuses it."""
    row = topics.parse(topic).topic
    if row is topics.SALES:
        return _sales(payload)
    if row not in MESSAGES or not payload:
        return None
    try:
        message = msgspec.json.decode(payload, type=MESSAGES[row])
    except msgspec.ValidationError:
        return None
    if row is topics.CENTRAL_PRESENCE:
        message = msgspec.structs.replace(message, protocol=(1,))
    return msgspec.json.encode(message)


def _sales(payload):
    header, *bodies = zlib.decompressobj(-15, zdict=DICTIONARY_1).decompress(payload[1:]).split(b"\n")
    try:
        header = msgspec.json.encode(msgspec.json.decode(header, type=Sales))
    except msgspec.ValidationError:
        return None
    deflate = zlib.compressobj(5, zlib.DEFLATED, -15, 9, zdict=DICTIONARY_1)
    return b"\x01" + deflate.compress(b"\n".join([header, *bodies])) + deflate.flush()
