"""Reads rows out of an SQLite file whose trees may be damaged: every page for itself, in its newest committed copy.

No pointer from one page to another is trusted but an overflow chain's, so a page that is torn takes nothing with it but
what stood on it. What is found may be stale; whoever reads decides. The format is https://sqlite.org/fileformat2.html,
for files of ``PAGE_BYTES`` without reserved bytes, as every outbox is.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PAGE_BYTES = 4096
HEADER_BYTES = 100
"""What stands before the tree on page 1."""
TABLE_LEAF, INDEX_LEAF, INDEX_INNER = 0x0D, 0x0A, 0x02
"""The kinds of pages that hold rows; those of an index do on all its levels."""
_LOCAL_MAX = dict.fromkeys((INDEX_LEAF, INDEX_INNER), (PAGE_BYTES - 12) * 64 // 255 - 23) | {
    TABLE_LEAF: PAGE_BYTES - 35
}
_LOCAL_MIN = (PAGE_BYTES - 12) * 32 // 255 - 23
_INTEGER_BYTES = (0, 1, 2, 3, 4, 6, 8)
_LOG_HEADER, _FRAME_HEADER = struct.Struct(">8I"), struct.Struct(">6I")
_LOG_MAGIC = 0x377F0682

ROW_MIN_BYTES = 32
"""No row of a document takes less, so a file has room for so many and no more."""

Sums = tuple[int, int]


class TornError(Exception):
    """What stands here is no row."""


@dataclass(frozen=True, slots=True)
class Cell:
    """Where a row begins."""

    page: int
    at: int
    kind: int


class Pages:
    """The pages of a file, 1 being the first; those that cannot be read are as empty ones."""

    def __init__(self, path: Path) -> None:
        """Open the file and look through its log, which nobody may write to meanwhile."""
        log = path.with_name(f"{path.name}-wal")
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._log = os.open(log, os.O_RDONLY | os.O_CLOEXEC) if log.exists() else None
        self._logged = dict(_committed(log)) if self._log is not None else {}
        self.count = max([-(-os.fstat(self._file).st_size // PAGE_BYTES), *self._logged])

    def close(self) -> None:
        """Close the file and its log."""
        os.close(self._file)
        if self._log is not None:
            os.close(self._log)

    def page(self, number: int) -> bytes:
        """Return a page, filled up with zeros where the disk says no or the file ends."""
        try:
            if self._log is not None and (at := self._logged.get(number)) is not None:
                return os.pread(self._log, PAGE_BYTES, at)
            found = os.pread(self._file, PAGE_BYTES, (number - 1) * PAGE_BYTES) if number > 0 else b""
        except OSError:  # A sector that cannot be read: what stood there is lost, and nothing else is.
            found = b""
        return found.ljust(PAGE_BYTES, b"\0")

    def cells(self) -> Iterator[Cell]:
        """Yield where rows seem to begin, on those pages that the file does not count as free."""
        free = self._free()
        for number in range(1, self.count + 1):
            page, start = self.page(number), HEADER_BYTES if number == 1 else 0
            kind = page[start]
            if kind in _LOCAL_MAX and number not in free:
                begin = start + (12 if kind == INDEX_INNER else 8)
                (count,) = struct.unpack_from(">H", page, start + 3)
                pointers = struct.unpack_from(f">{min(count, (PAGE_BYTES - begin) // 2)}H", page, begin)
                yield from (Cell(number, at, kind) for at in pointers)

    def row(self, cell: Cell) -> tuple[int, tuple[Any, ...]]:
        """Return a row's number (0 in an index) and its values; raises TornError."""
        page, at = self.page(cell.page), cell.at + (4 if cell.kind == INDEX_INNER else 0)
        try:
            size_bytes, at = _varint(page, at)
            number, at = _varint(page, at) if cell.kind == TABLE_LEAF else (0, at)
            return number, _values(self._payload(page, at, size_bytes, cell.kind))
        except (IndexError, struct.error) as problem:
            raise TornError(str(problem)) from problem

    def _payload(self, page: bytes, at: int, size_bytes: int, kind: int) -> bytes:
        """Put together what stands on the leaf and on the pages that it flows over to."""
        if not 0 < size_bytes <= self.count * PAGE_BYTES:
            raise TornError("no size")
        if size_bytes <= _LOCAL_MAX[kind]:
            return _slice(page, at, size_bytes)
        local = _LOCAL_MIN + (size_bytes - _LOCAL_MIN) % (PAGE_BYTES - 4)
        local = local if local <= _LOCAL_MAX[kind] else _LOCAL_MIN
        parts, left = [_slice(page, at, local)], size_bytes - local
        (following,) = struct.unpack_from(">I", page, at + local)
        while left > 0:
            if not 0 < following <= self.count:
                raise TornError("the overflow leads out of the file")
            page = self.page(following)
            parts.append(page[4 : 4 + left])
            left -= len(parts[-1])
            (following,) = struct.unpack_from(">I", page)
        return b"".join(parts)

    def _free(self) -> set[int]:
        """Return the pages that the file's own list counts as free; what can be read of it."""
        header, free = self.page(1), set[int]()
        if not header.startswith(b"SQLite format 3\0"):
            return free
        (trunk,) = struct.unpack_from(">I", header, 32)
        while 0 < trunk <= self.count and trunk not in free:
            free.add(trunk)
            page = self.page(trunk)
            trunk, count = struct.unpack_from(">II", page)
            free.update(struct.unpack_from(f">{min(count, PAGE_BYTES // 4 - 2)}I", page, 8))
        return free


def _slice(page: bytes, at: int, size_bytes: int) -> bytes:
    if at + size_bytes > PAGE_BYTES:
        raise TornError("over the page's end")
    return page[at : at + size_bytes]


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return a number of up to nine bytes, and where the next thing begins."""
    number = 0
    for count in range(8):
        byte = data[at + count]
        number = number << 7 | byte & 0x7F
        if byte < 0x80:
            return number, at + count + 1
    return number << 8 | data[at + 8], at + 9


def _values(payload: bytes) -> tuple[Any, ...]:
    """Take a record apart; all of it has to be there, and nothing may be left over."""
    end, at = _varint(payload, 0)
    begin, values = end, list[Any]()
    while at < end:
        kind, at = _varint(payload, at)
        value, begin = _value(payload, begin, kind)
        values.append(value)
    if at != end or begin != len(payload):
        raise TornError("no record")
    return tuple(values)


def _value(payload: bytes, begin: int, kind: int) -> tuple[Any, int]:
    if kind in (8, 9):
        return kind - 8, begin
    if kind < len(_INTEGER_BYTES):
        end = begin + _INTEGER_BYTES[kind]
        return int.from_bytes(payload[begin:end], "big", signed=True) if kind else None, end
    if kind < 12:
        raise TornError("no kind of value that an outbox has")
    end = begin + (kind - 12) // 2
    return payload[begin:end].decode("utf-8", "replace") if kind % 2 else payload[begin:end], end


def _committed(log: Path) -> Iterator[tuple[int, int]]:
    """Yield page numbers and where their committed copies stand in the log, in the order they were written.

    As SQLite does at a start: up to the first frame whose sum is wrong, and of that up to the last commit.
    """
    with log.open("rb") as file:
        header = file.read(_LOG_HEADER.size)
        if len(header) < _LOG_HEADER.size:
            return
        magic, _, page_bytes, _, *salts, _, _ = _LOG_HEADER.unpack(header)
        if magic & ~1 != _LOG_MAGIC or page_bytes != PAGE_BYTES:
            return
        order, waiting = "><"[magic & 1 == 0], list[tuple[int, int]]()
        sums = _sums(header[:24], order, (0, 0))
        if sums != _LOG_HEADER.unpack(header)[6:]:
            return
        while len(frame := file.read(_FRAME_HEADER.size + PAGE_BYTES)) == _FRAME_HEADER.size + PAGE_BYTES:
            number, committed, *frame_salts, sum_1, sum_2 = _FRAME_HEADER.unpack_from(frame)
            sums = _sums(frame[_FRAME_HEADER.size :], order, _sums(frame[:8], order, sums))
            if frame_salts != salts or sums != (sum_1, sum_2):
                return
            waiting.append((number, file.tell() - PAGE_BYTES))
            if committed:
                yield from waiting
                waiting.clear()


def _sums(data: bytes, order: str, sums: Sums) -> Sums:
    """Go on with a log's two sums over a piece of it."""
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    one, two = sums
    for first, second in zip(words[::2], words[1::2], strict=True):
        one = (one + first + two) & 0xFFFFFFFF
        two = (two + second + one) & 0xFFFFFFFF
    return one, two
