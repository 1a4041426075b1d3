"""The spool folder: where documents wait that were closed while the agent was down.

A file appears under its final name by a rename, so what is visible is whole. It is removed only after its document is
durable in the outbox; a crash in between makes it be taken up again, and known again.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .prepare import id_from

UNFINISHED = (".part", ".tmp")


@dataclass(frozen=True, slots=True)
class Spooled:
    """One document that waits in the spool."""

    path: Path
    given: bytes

    def make_id(self) -> str:
        """Name a document that has no id of its own by its file: taken up twice, it is the same document."""
        return id_from(self.path.name.encode(), self.given)


def waiting(folder: Path, most: int, limit_bytes: int, passed_by: Collection[str] = ()) -> Iterator[Spooled]:
    """Yield what waits in the folder, oldest first, at most ``most`` files.

    A file over the limit stays where it is, and so do those that are to be passed by for now, by name.
    """
    found = _oldest_first(folder)
    fitting = [path for path, size in found if size <= limit_bytes and path.name not in passed_by]
    for path in fitting[:most]:
        with suppress(FileNotFoundError):  # Somebody tidied up by hand; the rest is taken all the same.
            yield Spooled(path, path.read_bytes())


def put(folder: Path, name: str, given: bytes) -> None:
    """Leave a document for the agent: written, synced, renamed, and the folder synced; then it is safe."""
    part, final = folder / f"{name}.json.part", folder / f"{name}.json"
    with part.open("wb") as file:
        file.write(given)
        file.flush()
        os.fsync(file.fileno())
    part.rename(final)
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Make renames and removals in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _oldest_first(folder: Path) -> list[tuple[Path, int]]:
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if (
                entry.name.startswith(".")
                or entry.name.endswith(UNFINISHED)
                or not entry.is_file(follow_symlinks=False)
            ):
                continue
            facts = entry.stat(follow_symlinks=False)
            found.append((facts.st_mtime_ns, entry.name, facts.st_size))
    return [(folder / name, size) for _, name, size in sorted(found)]
