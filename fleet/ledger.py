"""Owns the POS's own books: one append-only file for each till, against which a run is proved complete.

A line is written before the document is handed over: what stands here was closed, whatever happened after.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec

SUFFIX = ".ledger.jsonl"
FINGERPRINT_BYTES = 16

Sums = dict[str, tuple[int, int]]
"""By transaction type: how many documents, and the sum of their money."""


class LedgerError(Exception):
    """A ledger holds a complete line that is no entry; the text names the file and the line."""


class Entry(msgspec.Struct, frozen=True):
    """One closed document: ``blake2b`` (128 bits, hexadecimal) is of the bytes handed over.

    ``amount_minor`` is ``totals.total_minor`` of a document with lines, ``cash.amount_minor`` of a cash movement and
    0 of any other; training and cancelled documents are entered like the rest.
    """

    document_id: str
    transaction_type: str
    amount_minor: int
    blake2b: str


class Ledger:
    """The books of one till. Holds no open file, so that killing the process at any moment leaves nothing half open."""

    def __init__(self, folder: Path, till_id: str, *, fsync: bool = True) -> None:
        self.path, self._fsync = folder / f"{till_id}{SUFFIX}", fsync
        cut_torn_line(self.path)

    def append(self, entry: Entry) -> None:
        """Write the entry; with ``fsync`` it is on the disk when this returns."""
        append_line(self.path, msgspec.json.encode(entry), fsync=self._fsync)

    def entries(self) -> Iterator[Entry]:
        """Yield what is written, oldest first."""
        return read(self.path)


def enter(document: dict[str, Any], body: bytes) -> Entry:
    """Return the entry of a document that is handed over as these bytes."""
    money = document.get("totals") or document.get("cash") or {}
    amount_minor = money.get("total_minor", money.get("amount_minor", 0))
    return Entry(document["document_id"], document["transaction_type"], amount_minor, fingerprint(body))


def fingerprint(body: bytes) -> str:
    """Return blake2b-128 of the bytes, in hexadecimal: no chain, each document by itself."""
    return blake2b(body, digest_size=FINGERPRINT_BYTES).hexdigest()


def read(path: Path) -> Iterator[Entry]:
    """Yield a ledger's entries, oldest first; a torn last line was never closed and is left out."""
    for number, line in enumerate(read_lines(path), 1):
        try:
            yield msgspec.json.decode(line, type=Entry)
        except msgspec.MsgspecError as problem:
            raise LedgerError(f"{path}:{number}: no ledger entry: {problem}") from problem


def add_up(entries: Iterable[Entry]) -> Sums:
    """Return documents and money by transaction type."""
    sums: Sums = {}
    for entry in entries:
        count, amount_minor = sums.get(entry.transaction_type, (0, 0))
        sums[entry.transaction_type] = (count + 1, amount_minor + entry.amount_minor)
    return sums


def add_up_folder(folder: Path) -> dict[str, Sums]:
    """Return documents and money by till, then by transaction type, of every ledger in the folder."""
    paths = sorted(folder.glob(f"*{SUFFIX}"))
    return {path.name.removesuffix(SUFFIX): add_up(read(path)) for path in paths}


def append_line(path: Path, line: bytes, *, fsync: bool) -> None:
    """Append one line in one write: a kill leaves all of it or a torn end, never a line in another."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        whole = line + b"\n"
        if os.write(file, whole) != len(whole):
            raise OSError(f"{path}: written in part; is the disk full?")
        if fsync:
            os.fsync(file)
    finally:
        os.close(file)


def read_lines(path: Path) -> Iterator[bytes]:
    """Yield the complete lines; a missing file has none, a torn last line is left out."""
    try:
        with path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    yield line[:-1]
    except FileNotFoundError:
        return


def cut_torn_line(path: Path) -> None:
    """Cut off what a kill left of a last line, so that the next one is not glued to it."""
    whole_bytes = sum(len(line) + 1 for line in read_lines(path))
    if path.exists() and path.stat().st_size > whole_bytes:
        os.truncate(path, whole_bytes)
