"""Owns the simulated POS of one till: it closes documents, keeps its own books and hands each document over."""

from __future__ import annotations

import http.client
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Protocol

import msgspec

from edge.intake.http_socket import UnixConnection
from fleet.baskets import Document, encode
from fleet.ledger import Ledger, append_line, cut_torn_line, enter, fingerprint, read_lines

JOURNAL_SUFFIX = ".unconfirmed.jsonl"
TAKEN_STATUSES = frozenset({200, 201, 202})
"""Already held, new, and accepted although oversize: in each case the receiver now answers for the document."""


class NotTakenError(Exception):
    """The receiver did not take the document over; it must be handed over again."""


class HandOver(Protocol):
    """Where a POS leaves its documents: the till's agent, its spool folder, or an agent in the same process.

    Returns only when the receiver holds the bytes durably. Raises NotTakenError or OSError otherwise; then the same
    bytes come again, also when they had been taken and only the answer was lost.
    """

    def __call__(self, body: bytes, /) -> None:
        """Hand over one document's exact bytes."""


class _Identity(msgspec.Struct):
    document_id: str


def identity_of(body: bytes) -> str:
    """Return the ``document_id`` that stands in a document's bytes."""
    return msgspec.json.decode(body, type=_Identity).document_id


class Socket:
    """The agent's Unix socket; a connection for each document, as a POS's script has it."""

    def __init__(self, path: Path, timeout_s: float = 10.0) -> None:
        self._path, self._timeout_s = path, timeout_s

    def __call__(self, body: bytes, /) -> None:
        """Post the document and believe only an answer that says it is held."""
        connection = UnixConnection(self._path, self._timeout_s)
        try:
            connection.request("POST", "/documents", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
        except http.client.HTTPException as problem:
            raise NotTakenError(f"{self._path}: no answer that is HTTP: {problem!r}") from problem
        finally:
            connection.close()
        if answer.status not in TAKEN_STATUSES:
            raise NotTakenError(f"{self._path}: answered {answer.status} {answer.reason}")


class SpoolFolder:
    """The folder that the agent empties when it is back; a name that ends in ``.json`` is a whole document."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, body: bytes, /) -> None:
        """Write beside the name, fsync, rename, fsync the folder: durable, and never seen half written."""
        name = self._folder / f"{identity_of(body)}.json"
        part = name.with_name(f"{name.name}.part")
        with part.open("wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        part.rename(name)
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class FirstThat:
    """Tries one after the other: the socket, and the spool folder when the agent is down."""

    def __init__(self, *ways: HandOver) -> None:
        self._ways = ways

    def __call__(self, body: bytes, /) -> None:
        """Return at the first way that takes the document; raise what the last one said."""
        for way in self._ways[:-1]:
            with suppress(NotTakenError, OSError):
                way(body)
                return
        self._ways[-1](body)


def ring(fifo: Path) -> bool:
    """Do as ``[ -p FIFO ] && printf r 1<>FIFO`` does, without waiting; tell whether the byte was written.

    Open for reading too: so it neither waits for a reader nor dies of SIGPIPE. A full FIFO holds rings enough.
    """
    try:
        if not stat.S_ISFIFO(fifo.stat().st_mode):
            return False
        end = os.open(fifo, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return os.write(end, b"r") == 1
    except BlockingIOError:
        return False
    finally:
        os.close(end)


class Journal:
    """The bytes of documents that nobody has confirmed yet, so that they can be handed over again after a crash."""

    def __init__(self, folder: Path, till_id: str, *, fsync: bool = True) -> None:
        self._path, self._fsync = folder / f"{till_id}{JOURNAL_SUFFIX}", fsync
        cut_torn_line(self._path)

    def append(self, body: bytes) -> None:
        """Keep a document's bytes, one line each."""
        if b"\n" in body:
            raise ValueError("a document is one line")
        append_line(self._path, body, fsync=self._fsync)

    def bodies(self) -> list[bytes]:
        """Return what is kept, oldest first."""
        return list(read_lines(self._path))

    def clear(self) -> None:
        """Forget everything: it is all confirmed."""
        self._path.write_bytes(b"")


class Pos:
    """One till's POS software. Closing order: journal, ledger, hand over, after-close event, journal cleared.

    Killed before the ledger line, the document is entered and handed over at restart; killed after it, handed over at
    restart; handed over but not heard, handed over again: the receiver knows it by its ``document_id``.
    """

    def __init__(
        self,
        ledger: Ledger,
        journal: Journal,
        hand_over: HandOver,
        after_close: Callable[[], object] | None = None,
    ) -> None:
        self._ledger, self._journal, self._hand_over, self._after_close = ledger, journal, hand_over, after_close
        self._unconfirmed: list[bytes] = []
        self._recover()

    @property
    def unconfirmed(self) -> int:
        """How many documents nobody has taken yet."""
        return len(self._unconfirmed)

    def close(self, document: Document) -> bool:
        """Close a document and hand over all that is unconfirmed; tell whether nothing is left unconfirmed."""
        body = encode(document)
        self._journal.append(body)
        self._ledger.append(enter(document, body))
        self._unconfirmed.append(body)
        return self.repeat()

    def repeat(self) -> bool:
        """Hand over what is unconfirmed, oldest first; stop at the first that is not taken."""
        taken = 0
        for body in self._unconfirmed:
            try:
                self._hand_over(body)
            except (NotTakenError, OSError):
                break
            taken += 1
        del self._unconfirmed[:taken]
        if taken and self._after_close is not None:
            self._after_close()
        if taken and not self._unconfirmed:
            self._journal.clear()
        return not self._unconfirmed

    def _recover(self) -> None:
        self._unconfirmed = self._journal.bodies()
        if not self._unconfirmed:
            return
        entered = {entry.blake2b for entry in self._ledger.entries()}
        for body in self._unconfirmed:
            if fingerprint(body) not in entered:
                self._ledger.append(enter(msgspec.json.decode(body), body))


def not_yet_closed(documents: Iterable[Document], ledger: Ledger) -> Iterator[Document]:
    """Skip as many documents as the ledger holds: a seeded stream goes on after a restart where it stopped.

    Ask after the ``Pos`` is made: a document that a kill left out of the ledger is entered by then.
    """
    return islice(documents, sum(1 for _ in ledger.entries()), None)
