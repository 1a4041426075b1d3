"""Bytes ⇄ messages: versions and limits. Every limit is checked before the memory it guards is spent.

The first byte of a payload tells its format: ``{`` is plain JSON, 0x01 is the sales format: a JSON header line, then
the documents, one a line, byte for byte, as one raw deflate stream with preset dictionary 1 (RFC 1951).
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import msgspec

from .dictionary import DICTIONARY_1
from .documents import DOCUMENT_LIMIT_MAX_BYTES
from .messages import VERSIONS, Message, Presence, Sales

FORMAT_1 = b"\x01"
HEADER_LIMIT_BYTES = 4096
SMALL_LIMIT_BYTES = 64 * 1024
"""Every message but sales: the largest is a doorbell with sixteen histories, about 2 KiB."""

LEVEL = 5
"""Measured on generated backlogs: 1.07 of zlib -9 at 29 µs a document; 6 gives 1.04 at 40 µs, 4 gives 1.17 at 23."""

TEXT_MAX = 300
"""How much of a refusal is told: it may quote what was received, and is logged for each message that is refused."""

_RAW_DEFLATE = -15

WireCode = Literal["bad_json", "bad_message", "unknown_version", "unknown_format", "too_large", "bad_count"]
AnyMessage = TypeVar("AnyMessage", bound=Message)


class WireError(ValueError):
    """A payload that is refused: ``code`` is stable, the text names the field or the limit."""

    def __init__(self, code: WireCode, text: str) -> None:
        super().__init__(f"{code}: {text[:TEXT_MAX]}")
        self.code = code


@dataclass(frozen=True, slots=True)
class SalesLimits:
    """What one upload may hold once inflated."""

    documents: int = 200
    inflated_bytes: int = 512 * 1024 + DOCUMENT_LIMIT_MAX_BYTES + HEADER_LIMIT_BYTES


@dataclass(frozen=True, slots=True)
class Upload:
    """One upload as received: its header and the exact bytes of its documents."""

    header: Sales
    bodies: tuple[bytes, ...]


class _Versioned(msgspec.Struct):
    v: Any = None


def encode(message: Message) -> bytes:
    """Return a small message as plain JSON that a person can read on the wire."""
    return msgspec.json.encode(message)


def decode(message_type: type[AnyMessage], payload: bytes) -> AnyMessage:
    """Return the message, or raise WireError that names the field, the limit or the version."""
    if len(payload) > SMALL_LIMIT_BYTES:
        raise WireError("too_large", f"{len(payload)} bytes, at most {SMALL_LIMIT_BYTES} are read")
    return _decode_json(message_type, payload)


def pack_sales(header: Sales, bodies: Sequence[bytes]) -> bytes:
    """Return the payload of one upload; the bodies must be free of line breaks, as the outbox keeps them."""
    deflate = zlib.compressobj(LEVEL, zlib.DEFLATED, _RAW_DEFLATE, 9, zdict=DICTIONARY_1)
    lines = b"\n".join((msgspec.json.encode(header), *bodies))
    return FORMAT_1 + deflate.compress(lines) + deflate.flush()


def unpack_sales(payload: bytes, limits: SalesLimits) -> Upload:
    """Return the upload, or raise WireError; never inflates more than ``limits.inflated_bytes``."""
    header_line, *bodies = _inflate(payload, limits.inflated_bytes).split(b"\n", limits.documents + 1)
    if len(header_line) > HEADER_LIMIT_BYTES:
        raise WireError("too_large", f"a header of {len(header_line)} bytes, at most {HEADER_LIMIT_BYTES} are read")
    header = _decode_json(Sales, header_line)
    if len(bodies) > limits.documents:
        raise WireError("too_large", f"more than {limits.documents} documents in one upload")
    if header.through - header.after != len(bodies):
        raise WireError("bad_count", f"{len(bodies)} documents between {header.after} and {header.through}")
    return Upload(header, tuple(bodies))


def _inflate(payload: bytes, limit_bytes: int) -> bytes:
    if payload[:1] == b"{":
        lines = payload
    elif payload[:1] == FORMAT_1:
        lines = _inflate_format_1(payload, limit_bytes)
    else:
        raise WireError(
            "unknown_format", f"first byte 0x{payload[:1].hex() or '(none)'}; this version reads {{ and 0x01"
        )
    if len(lines) > limit_bytes:
        raise WireError("too_large", f"more than {limit_bytes} bytes inflated")
    return lines


def _inflate_format_1(payload: bytes, limit_bytes: int) -> bytes:
    inflate = zlib.decompressobj(_RAW_DEFLATE, zdict=DICTIONARY_1)
    try:
        lines = inflate.decompress(memoryview(payload)[1:], limit_bytes + 1)
    except zlib.error as problem:
        raise WireError("unknown_format", f"not deflated with dictionary 1: {problem}") from problem
    if len(lines) <= limit_bytes and not inflate.eof:
        raise WireError("unknown_format", "the deflated stream is cut short")
    if inflate.unused_data:
        raise WireError("unknown_format", f"{len(inflate.unused_data)} bytes after the end of the deflated stream")
    return lines


def _decode_json(message_type: type[AnyMessage], payload: bytes) -> AnyMessage:
    try:
        return msgspec.json.decode(payload, type=message_type)
    except msgspec.ValidationError as problem:
        if not issubclass(message_type, Presence):
            _refuse_other_version(payload)
        raise WireError("bad_message", str(problem)) from problem
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise WireError("bad_json", str(problem)) from problem


def _refuse_other_version(payload: bytes) -> None:
    try:
        version = msgspec.json.decode(payload, type=_Versioned).v
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return
    if version not in VERSIONS:
        ours = ", ".join(map(str, VERSIONS))
        raise WireError("unknown_version", f"version {str(version)[:20]}; this program speaks {ours}")
