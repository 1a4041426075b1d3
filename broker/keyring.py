"""The fleet key and the deny list as files."""

from __future__ import annotations

import logging
import os
import secrets
from pathlib import Path

from broker.tokens import parse_deny_list
from wire.program import ConfigError
from wire.tokens import DENY_LIST_LIMIT_BYTES

log = logging.getLogger("tillstream.broker")


def make_fleet_key(path: Path) -> bool:
    """Make a fleet key only its owner can read, complete or not at all; return False if there is a file already."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(48) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)  # Unlike rename, never replaces a key that is there.
    except FileExistsError:
        return False
    except OSError as problem:
        raise ConfigError(f"cannot write the fleet key {path}: {problem.strerror}") from problem
    finally:
        draft.unlink(missing_ok=True)
    return True


class DenyList:
    """The deny list file, read again when it changes; no file denies nobody."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._complained = False
        self.names: frozenset[str] = frozenset()

    def load(self) -> None:
        """Read the file for the first time; one that is there and cannot be read must not let everybody in."""
        try:
            self._look()
        except (OSError, ValueError) as problem:
            raise ConfigError(f"cannot read the deny list {self._path}: {problem}") from problem

    def refresh(self) -> bool:
        """Read the file if it changed; return whether the names are other ones now.

        A file that cannot be read any more leaves the names as they were.
        """
        try:
            changed = self._look()
        except (OSError, ValueError) as problem:
            if not self._complained:
                log.error("deny_list_unreadable", extra={"also": {"path": str(self._path), "problem": str(problem)}})  # noqa: TRY400
            self._complained = True
            return False
        self._complained = False
        return changed

    def _look(self) -> bool:
        try:
            state = self._path.stat()
        except FileNotFoundError:
            return self._take("", None)
        seen = (state.st_mtime_ns, state.st_size, state.st_ino)
        if seen == self._seen:
            return False
        if state.st_size > DENY_LIST_LIMIT_BYTES:
            raise ValueError(f"longer than {DENY_LIST_LIMIT_BYTES} bytes")
        return self._take(self._path.read_text("utf-8"), seen)

    def _take(self, text: str, seen: tuple[int, int, int] | None) -> bool:
        before = self.names
        self._seen = seen
        self.names, unknown = parse_deny_list(text)
        if unknown:
            log.warning("deny_list_names_nobody", extra={"also": {"lines": unknown[:10]}})
        return self.names != before
