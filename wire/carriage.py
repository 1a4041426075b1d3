"""What is carried by file where no link reaches: a sealed file that holds the very bytes MQTT would have carried.

Layout: a header, one line of JSON padded with spaces to ``HEADER_BYTES``; then frames, each with its length before it
(four bytes, big-endian); then the seal, HMAC-SHA256 over everything before it, keyed with the till's token. From the
till: the doorbell, then uploads in their order. Back: one ``sales_stored``.

Only the header is looked at before the seal fits: it says whose token is needed. What is read after that is checked
block by block against what was sealed, because a stick may read differently the second time.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Any, BinaryIO, ClassVar, Generic, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct, structs

from .codec import SalesLimits
from .messages import Count, Digest, EpochMs, Sequence, StreamId
from .topics import TILL_ID_PATTERN

HEADER_BYTES = 1024
SEAL_BYTES = 32
LENGTH_BYTES = 4
VERSION = 1
"""Of the file. What it holds is of the oldest wire version: whoever reads it is not known."""
BLOCK_BYTES = 2**20

CARRIAGE_LIMIT_BYTES = 2**30
"""A file is never larger: what is left goes into the next one."""

FRAME_DOCUMENTS, FRAME_BYTES = 200, 512 * 1024
"""How much of the outbox one frame takes; one document always fits."""

FRAME_LIMITS = SalesLimits(documents=FRAME_DOCUMENTS)
FRAME_LIMIT_BYTES = FRAME_LIMITS.inflated_bytes + 64 * 1024
"""What does not deflate grows a little."""

REPLY_LIMIT_BYTES = 128 * 1024

_UNSTEADY = "the file reads differently the second time: copy it to a disk first"


class CarriageError(ValueError):
    """A file that is refused; the text says why and what to do."""


class Header(Struct, frozen=True, kw_only=True):
    """What every file says first. ``nonce`` is random; a reply has that of the file it answers."""

    v: Literal[1] = 1
    kind: str
    till: Annotated[str, Meta(pattern=rf"^{TILL_ID_PATTERN}$(?!\n)")]
    nonce: Annotated[str, Meta(pattern=r"^[0-9a-f]{32}$(?!\n)")]
    frames: Count = 0
    size_bytes: Count = 0


class CarriageHeader(Header, frozen=True, kw_only=True):
    """A till's documents in ``(after, through]``; the digests are those at ``after`` and at ``through``."""

    KIND: ClassVar[str] = "tillstream.carriage"
    TITLE: ClassVar[str] = "a file that a till exported"

    kind: Literal["tillstream.carriage"] = "tillstream.carriage"
    stream: StreamId
    after: Sequence
    before: Digest
    through: Sequence
    digest: Digest
    made_at_ms: EpochMs


class ReplyHeader(Header, frozen=True, kw_only=True):
    """Central's answer to one file."""

    KIND: ClassVar[str] = "tillstream.carriage_reply"
    TITLE: ClassVar[str] = "a reply that central wrote"

    kind: Literal["tillstream.carriage_reply"] = "tillstream.carriage_reply"


SomeHeader = TypeVar("SomeHeader", CarriageHeader, ReplyHeader)


class Packing:
    """A file in the making: frames are added, then it is sealed. ``file`` is empty, open for writing and reading."""

    def __init__(self, file: BinaryIO, token: str) -> None:
        """Begin a file that the till's ``token`` will seal; raises CarriageError if there is none."""
        _need(token)
        self._file, self._token, self.frames = file, token, 0
        self.size_bytes = HEADER_BYTES + SEAL_BYTES
        """What the file will have once it is sealed."""
        file.write(b" " * HEADER_BYTES)

    def add(self, frame: bytes) -> None:
        """Add one frame."""
        self._file.write(len(frame).to_bytes(LENGTH_BYTES, "big") + frame)
        self.frames += 1
        self.size_bytes += LENGTH_BYTES + len(frame)

    def fits(self, frame: bytes, limit_bytes: int) -> bool:
        """Say whether the file stays within a limit with one more frame."""
        return self.size_bytes + LENGTH_BYTES + len(frame) <= limit_bytes

    def seal(self, header: SomeHeader) -> SomeHeader:
        """Write the header, which knows only now what it heads, and the seal; return the header as written."""
        header = structs.replace(header, frames=self.frames, size_bytes=self.size_bytes)
        self._file.seek(0)
        self._file.write(msgspec.json.encode(header).ljust(HEADER_BYTES - 1) + b"\n")
        self._file.seek(0)
        seal = hmac.new(self._token.encode(), digestmod="sha256")
        for block in _blocks(self._file, self.size_bytes - SEAL_BYTES):
            seal.update(block)
        self._file.seek(0, os.SEEK_END)
        self._file.write(seal.digest())
        return header


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """Give a file that appears under its name only when all of it is on the disk; after an error nothing is left.

    Only its owner may read it, and nobody's link is followed: the folder may be everybody's.
    """
    part = path.with_name(path.name + ".part")
    try:
        part.unlink(missing_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(part, flags, 0o600), "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@dataclass(frozen=True, slots=True)
class Sealed(Generic[SomeHeader]):
    """A file whose seal fits; ``frames`` may be read once."""

    header: SomeHeader
    frames: Iterator[bytes]


def unseal(
    file: BinaryIO, header_type: type[SomeHeader], token_of: Callable[[str], str], limit_bytes: int
) -> Sealed[SomeHeader]:
    """Check a file's seal with the token of the till that its header names, and return what is in it.

    Raises CarriageError: no such file, another version, cut short, changed, or sealed with another token.
    """
    size_bytes = file.seek(0, os.SEEK_END)
    if size_bytes > limit_bytes:
        raise CarriageError(f"{size_bytes} bytes; at most {limit_bytes} are read")
    if size_bytes < HEADER_BYTES + SEAL_BYTES:
        raise CarriageError(f"not {header_type.TITLE}: {size_bytes} bytes are less than its header and its seal")
    file.seek(0)
    first = file.read(HEADER_BYTES)
    header = _header(first, header_type)
    if size_bytes != header.size_bytes:
        how = "cut short" if size_bytes < header.size_bytes else "longer than it was made"
        raise CarriageError(f"{how}: {size_bytes} of {header.size_bytes} bytes; copy the file again")
    digests = _check_seal(file, header, first, token_of(header.till))
    return Sealed(header, _frames(_again(file, digests, size_bytes - SEAL_BYTES), header.frames))


class _Named(Struct):
    v: Any = None
    kind: Any = None


def _header(line: bytes, header_type: type[SomeHeader]) -> SomeHeader:
    """Return the header; which file it is and of which version is told apart from what is wrong in it."""
    try:
        named = msgspec.json.decode(line, type=_Named)
        if named.kind == header_type.KIND and named.v != VERSION:
            raise CarriageError(f"version {str(named.v)[:20]}; this program reads {VERSION}: upgrade it")
        return msgspec.json.decode(line, type=header_type)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as problem:
        raise CarriageError(f"not {header_type.TITLE}: {problem}") from problem


def _check_seal(file: BinaryIO, header: Header, first: bytes, token: str) -> list[bytes]:
    """Return the digest of each block that the seal covers; raises CarriageError if the seal does not fit."""
    _need(token)
    seal = hmac.new(token.encode(), digestmod="sha256")
    digests: list[bytes] = []
    file.seek(0)
    for block in _blocks(file, header.size_bytes - SEAL_BYTES):
        seal.update(block)
        if not digests and not block.startswith(first):
            raise CarriageError(_UNSTEADY)
        digests.append(_digest(block))
    if not hmac.compare_digest(seal.digest(), file.read(SEAL_BYTES)):
        raise CarriageError(
            f"the seal does not fit: the file was changed on its way, or till {header.till} has another token"
        )
    return digests


def _again(file: BinaryIO, digests: list[bytes], size_bytes: int) -> Iterator[bytes]:
    """Yield the sealed blocks once more, each only if it still is what it was."""
    file.seek(0)
    for block, digest in zip(_blocks(file, size_bytes), digests, strict=True):
        if _digest(block) != digest:
            raise CarriageError(_UNSTEADY)
        yield block


def _blocks(file: BinaryIO, size_bytes: int) -> Iterator[bytes]:
    while size_bytes:
        block = file.read(min(BLOCK_BYTES, size_bytes))
        if not block:
            raise CarriageError("the file became shorter while it was read")
        size_bytes -= len(block)
        yield block


def _frames(blocks: Iterator[bytes], count: int) -> Iterator[bytes]:
    held = bytearray()

    def take(length: int) -> bytes:
        while len(held) < length:
            block = next(blocks, None)
            if block is None:
                raise CarriageError("a frame is longer than the file")
            held.extend(block)
        taken = bytes(held[:length])
        del held[:length]
        return taken

    take(HEADER_BYTES)
    for _ in range(count):
        length = int.from_bytes(take(LENGTH_BYTES), "big")
        if length > FRAME_LIMIT_BYTES:
            raise CarriageError(f"a frame of {length} bytes; at most {FRAME_LIMIT_BYTES} are read")
        yield take(length)
    if held or next(blocks, None):
        raise CarriageError(f"something follows the {count} frames that the header names")


def _digest(block: bytes) -> bytes:
    return blake2b(block, digest_size=16).digest()


def _need(token: str) -> None:
    if not token:
        raise CarriageError("no token to seal with: set token or token_file, as for the broker")
