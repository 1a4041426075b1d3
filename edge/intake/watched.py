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
from fnmatch import fnmatchcase
from hashlib import blake2b
from itertools import islice
from pathlib import Path

import msgspec

from .files import Contents, Given, read_contents
from .folder import UNFINISHED, sync_folder
from .mapping import FolderSource
from .mapping import Mapping as MappingFile
from .prepare import id_from
from .taking import FILE_FAILED, PASS_DOCUMENTS, IntakeError, Take

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

    # -- Reading ---------------------------------------------------------------------------------------------------

    def read(self, take: Take) -> int:
        """Take over every file that is committed, oldest first; see ``Reader.read``."""
        taken, held_up = 0, None
        try:
            self._make_folders()
            for path in self._claimed():
                try:
                    contents = self._contents(path)
                except OSError as problem:  # One file that may not be read must not hold up the others.
                    held_up = problem
                    continue
                taken += self._take(path, contents, take)
                if taken >= PASS_DOCUMENTS:
                    return taken
            self._tidy()
        except OSError as problem:
            raise self._told(problem) from problem
        if held_up:
            raise self._told(held_up) from held_up
        return taken

    def waiting(self, most_files: int) -> Iterator[tuple[str, Contents]]:
        """Yield the name and the contents of files that wait; nothing is taken and nothing moves."""
        try:
            taking = self._folder / TAKING
            left = _oldest_first(taking, "*") if taking.is_dir() else []
            for path in islice([*left, *self._committed()], most_files):
                yield path.name, self._contents(path)
        except OSError as problem:
            raise self._told(problem) from problem

    def findings(self) -> dict[str, str]:
        """Tell that files lie in ``failed``: a person has to look at them."""
        failed = self._folder / FAILED
        if failed.is_dir() and any(not path.name.endswith(ERROR_SUFFIX) for path in failed.iterdir()):
            return {FILE_FAILED: f"{failed}: look at the {ERROR_SUFFIX} beside each file"}
        return {}

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
        made = id_from(self.name.encode(), path.name.encode(), digest.digest())
        stands = {"document_id": made, "oversize_bytes": size, "blake2b": digest.hexdigest()}
        text = f"{size} bytes, over file_limit_bytes = {self._source.file_limit_bytes}: nothing of it was read"
        return Contents([Given(msgspec.json.encode(stands), made)], text)

    # -- Files on their way ----------------------------------------------------------------------------------------

    def _make_folders(self) -> None:
        for name in (TAKING, DONE, FAILED):
            (self._folder / name).mkdir(exist_ok=True)

    def _claimed(self) -> Iterator[Path]:
        """Yield file after file that is ours alone: first those that a crash left, then what is newly committed."""
        for path in _oldest_first(self._folder / TAKING, "*"):
            self._forget_flag(path.name)
            yield path
        for path in self._committed():
            claimed = self._folder / TAKING / path.name
            path.rename(claimed)
            sync_folder(claimed.parent)
            sync_folder(self._folder)
            self._forget_flag(path.name)
            yield claimed

    def _committed(self) -> list[Path]:
        found = _oldest_first(self._folder, self._source.pattern)
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
        failed.with_name(failed.name + ERROR_SUFFIX).write_text(text, "utf-8")
        self._move(path, failed)
        also = {"intake": self.name, "file": path.name, "error": contents.complaint}
        log.warning("intake_file_failed", extra={"also": also})

    def _free_name(self, path: Path, folder: str) -> Path:
        """Return where a file ends; a POS may use one name again and again."""
        target = self._folder / folder / path.name
        return target.with_name(f"{path.stem}.{path.stat().st_mtime_ns}{path.suffix}") if target.exists() else target

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


def _oldest_first(folder: Path, pattern: str) -> list[Path]:
    """Return the plain files that are finished and match, oldest first."""
    found: list[tuple[int, str]] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or entry.name.endswith(UNFINISHED) or not fnmatchcase(entry.name, pattern):
                continue
            if entry.is_file(follow_symlinks=False):
                found.append((entry.stat(follow_symlinks=False).st_mtime_ns, entry.name))
    return [folder / name for _, name in sorted(found)]
