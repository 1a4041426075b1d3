"""The reader of a folder that a POS leaves files in.

A file is first moved aside into ``taking``, so that nobody changes it while it is read; when all its documents are
durable it goes to ``done``, or to ``failed`` with a text that says why and what to do. A crash in between leaves it in
``taking``, and it is read again: what was taken already is known again by its id.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from hashlib import blake2b
from itertools import chain, count, islice
from pathlib import Path

import msgspec

from .files import Contents, Given, read_contents
from .folder import oldest_first, sync_folder
from .mapping import FolderSource
from .mapping import Mapping as MappingFile
from .prepare import id_from
from .taking import FILE_FAILED, PASS_DOCUMENTS, UNREADABLE, IntakeError, Take

log = logging.getLogger("tillstream.edge")

TAKING, DONE, FAILED = "taking", "done", "failed"
ERROR_SUFFIX = ".error.txt"
TIDY_EVERY_S = 3600.0
TIDY_MOST = 1_000
"""So many old files go at a time."""
READ_BYTES = 2**20
DAY_S = 86_400


class FolderReader:
    """Reads one folder by one mapping."""

    def __init__(
        self,
        mapping: MappingFile,
        about: Mapping[str, str],
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        assert isinstance(mapping.source, FolderSource)  # noqa: S101 -- whoever makes readers chose by it
        self._mapping, self._source, self._about = mapping, mapping.source, about
        self.name, self.poll_s = mapping.name, self._source.poll_s
        self.problems: Counter[str] = Counter()
        self._folder = Path(self._source.folder)
        self._clock, self._wall_clock = clock, wall_clock
        self._tidy_at = clock()
        self._held_up = ""

    # -- Reading ---------------------------------------------------------------------------------------------------

    def read(self, take: Take) -> int:
        """Take over every file that is committed, oldest first; see ``Reader.read``."""
        taken, held_up = 0, ""
        try:
            self._make_folders()
            for path in self._claimed():
                try:
                    taken += self._take(path, self._contents(path), take)
                except OSError as problem:  # One file that may not be read or moved must not hold up the others.
                    held_up = str(self._told(problem))
                if taken >= PASS_DOCUMENTS:
                    return taken
            self._tidy()
        except OSError as problem:
            raise self._told(problem) from problem
        if held_up != self._held_up:
            self._held_up = held_up
            log.warning("intake_file_held_up", extra={"also": {"intake": self.name, "error": held_up}})
        return taken

    def waiting(self, most_files: int) -> Iterator[tuple[str, Contents]]:
        """Yield the name and the contents of files that wait; nothing is taken and nothing moves."""
        try:
            taking = self._folder / TAKING
            left = _paths(taking) if taking.is_dir() else []
            for path in islice([*left, *self._committed()], most_files):
                yield path.name, self._contents(path)
        except OSError as problem:
            raise self._told(problem) from problem

    def findings(self) -> dict[str, str]:
        """Tell that a file cannot be taken, and that files lie in ``failed``: a person has to look at them."""
        found = {UNREADABLE: self._held_up} if self._held_up else {}
        failed = self._folder / FAILED
        try:
            if failed.is_dir() and any(not path.name.endswith(ERROR_SUFFIX) for path in failed.iterdir()):
                found[FILE_FAILED] = f"{failed}: look at the {ERROR_SUFFIX} beside each file"
        except OSError as problem:
            raise self._told(problem) from problem
        return found

    def close(self) -> None:
        """Nothing is held open."""

    def _told(self, problem: OSError) -> IntakeError:
        where = problem.filename or self._folder
        return self._mapping.fail("folder", f"{where}: {problem.strerror}; may the agent's user read and write there?")

    def _take(self, path: Path, contents: Contents, take: Take) -> int:
        for given in contents.documents:
            take(given.body, given.make_id)
            for problem in given.problems:
                self.problems[problem.path] += 1
        if contents.complaint:
            self._fail(path, contents)
        else:
            self._move(path, self._free_name(path, DONE))
        return len(contents.documents)

    def _contents(self, path: Path) -> Contents:
        size = path.stat().st_size
        if size > self._source.file_limit_bytes:
            return self._stand_in(path, size)
        return read_contents(self._mapping, path.name, path.read_bytes(), self._about)

    def _stand_in(self, path: Path, size: int) -> Contents:
        """Return what is numbered in the place of a file that is too large to be read whole."""
        digest = blake2b(digest_size=16)
        with path.open("rb") as file:
            while some := file.read(READ_BYTES):
                digest.update(some)
        made = id_from(self.name.encode(), os.fsencode(path.name), digest.digest())
        stands = {"document_id": made, "oversize_bytes": size, "blake2b": digest.hexdigest()}
        text = f"{size} bytes, over file_limit_bytes = {self._source.file_limit_bytes}: nothing of it was read"
        return Contents([Given(msgspec.json.encode(stands), made)], text)

    # -- Files on their way ----------------------------------------------------------------------------------------

    def _make_folders(self) -> None:
        for name in (TAKING, DONE, FAILED):
            (self._folder / name).mkdir(exist_ok=True)

    def _claimed(self) -> Iterator[Path]:
        """Yield file after file that is ours alone: first those that a crash left, then what is newly committed."""
        for path in _paths(self._folder / TAKING):
            self._forget_flag(path.name)
            yield path
        for path in self._committed():
            claimed = self._free_name(path, TAKING)  # One of that name may be held up there.
            path.rename(claimed)
            sync_folder(claimed.parent)
            sync_folder(self._folder)
            self._forget_flag(path.name)
            yield claimed

    def _committed(self) -> list[Path]:
        found = _paths(self._folder, self._source.pattern)
        if self._source.commit == "rename":
            return found
        suffix = self._source.flag_suffix
        return [path for path in found if not path.name.endswith(suffix) and self._flag(path.name).exists()]

    def _flag(self, name: str) -> Path:
        return self._folder / f"{name}{self._source.flag_suffix}"

    def _forget_flag(self, name: str) -> None:
        """Remove the flag of a file that is ours now; one beside a new file of that name belongs to the new one."""
        if self._source.commit == "flag" and not (self._folder / name).exists():
            self._flag(name).unlink(missing_ok=True)

    def _fail(self, path: Path, contents: Contents) -> None:
        failed = self._free_name(path, FAILED)
        text = (
            f"{path.name}: {contents.complaint}\n\n"
            f"It was numbered as {len(contents.documents)} document(s) all the same: nothing is lost. Central shows\n"
            f"in quarantine what it cannot read. Mend the POS's export or the mapping {self._mapping.path},\n"
            f"then put the file back into {self._folder}: what was taken already is known again.\n"
        )
        failed.with_name(failed.name + ERROR_SUFFIX).write_text(text, "utf-8", "backslashreplace")
        self._move(path, failed)
        also = {"intake": self.name, "file": path.name, "error": contents.complaint}
        log.warning("intake_file_failed", extra={"also": also})

    def _free_name(self, path: Path, folder: str) -> Path:
        """Return a name that is free in a folder; a POS may use one name again and again."""
        stamped = f"{path.stem}.{path.stat().st_mtime_ns}"
        names = chain([path.name, f"{stamped}{path.suffix}"], (f"{stamped}.{n}{path.suffix}" for n in count(1)))
        return next(free for name in names if not (free := self._folder / folder / name).exists())

    def _move(self, path: Path, target: Path) -> None:
        path.replace(target)
        sync_folder(target.parent)
        sync_folder(path.parent)

    # -- Tidying ---------------------------------------------------------------------------------------------------

    def _tidy(self) -> None:
        """Remove files that were done with long ago, now and then."""
        if self._clock() < self._tidy_at:
            return
        self._tidy_at = self._clock() + TIDY_EVERY_S
        for name, days in ((DONE, self._source.done_keep_days), (FAILED, self._source.failed_keep_days)):
            before = self._wall_clock() - days * DAY_S
            # A file's mtime is the POS's; its ctime is when it was moved here.
            old = (path for path in (self._folder / name).iterdir() if path.stat().st_ctime < before)
            for path in [*islice(old, TIDY_MOST)]:
                path.unlink(missing_ok=True)


def _paths(folder: Path, pattern: str = "*") -> list[Path]:
    return [path for path, _ in oldest_first(folder, pattern)]
