"""The spool folder: where documents wait that were closed while the agent was down.

A file appears under its final name by a rename, so what is visible is whole. It is removed only after its document is
durable in the outbox; a crash in between makes it be taken up again, and known again.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from .prepare import id_from

UNFINISHED = (".part", ".tmp")


@dataclass(frozen=True, slots=True)
class Spooled:
    """One document that waits in the spool."""

    path: Path

    def read(self) -> bytes:
        """Return its bytes; raises OSError if it went away, or may not be read."""
        return self.path.read_bytes()

    def make_id(self) -> str:
        """Name a document that has no id of its own by its file: taken up twice, it is the same document."""
        return id_from(os.fsencode(self.path.name), self.read())


def waiting(folder: Path, most: int, limit_bytes: int, passed_by: Collection[str] = ()) -> list[Spooled]:
    """Return what waits in the folder, oldest first, at most ``most`` files.

    A file over the limit stays where it is, and so do those that are to be passed by for now, by name.
    """
    found = oldest_first(folder)
    return [Spooled(path) for path, size in found if size <= limit_bytes and path.name not in passed_by][:most]


def count(folder: Path) -> int:
    """Return how many documents wait in the folder, for people to know of; 0 if there is no such folder."""
    return len(oldest_first(folder)) if folder.is_dir() else 0


def put(folder: Path, name: str, given: bytes) -> None:
    """Leave a document for the agent; when this returns it is safe."""
    write_whole(folder / f"{name}.json", given)


def write_whole(path: Path, content: bytes) -> None:
    """Replace a file durably: written beside, synced, renamed, and the folder synced.

    Readable for all that may enter the folder, whatever the umask: who writes it is often not who reads it.
    """
    part = path.with_name(f"{path.name}.part")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, 0o644)
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    part.rename(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames and removals in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def oldest_first(folder: Path, pattern: str = "*") -> list[tuple[Path, int]]:
    """Return the plain files that are finished and match, oldest first, each with its size."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or entry.name.endswith(UNFINISHED) or not fnmatchcase(entry.name, pattern):
                continue
            with suppress(FileNotFoundError):  # It went away, or has its final name by now.
                if entry.is_file(follow_symlinks=False):
                    facts = entry.stat(follow_symlinks=False)
                    found.append((facts.st_mtime_ns, entry.name, facts.st_size))
    return [(folder / name, size) for _, name, size in sorted(found)]
