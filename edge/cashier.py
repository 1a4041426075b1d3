"""The one line for the cashier: a small file that any POS screen can show, and that needs no one to read it."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path

from wire.translation import Language, translate

log = logging.getLogger("tillstream.edge")

EVERY_S = 1.0
"""The file changes at most this often, in seconds: a busy till would otherwise rewrite it for every receipt."""

LINES = {
    (True, True): "Not uploaded: {unsent}, connected",
    (True, False): "Not uploaded: {unsent}, no connection",
    (False, True): "Everything uploaded, connected",
    (False, False): "Everything uploaded, no connection",
}
"""By whether something is unsent, and whether there is a connection. A figure after a colon needs no plural forms."""


def line(unsent: int, *, connected: bool, language: Language) -> str:
    """Return what the cashier reads."""
    return translate(LINES[unsent > 0, connected], language).format(unsent=unsent)


class CashierFile:
    """The file with the line. It lies in memory (/run), so it is written whole and never synced."""

    def __init__(self, path: Path, language: Language) -> None:
        self._path, self._language = path, language
        self._shown: str | None = None
        self._wanted: str | None = None
        self._next_at = 0.0
        self._is_failing = False

    def show(self, unsent: int, *, connected: bool, now: float) -> None:
        """Have the file say how the till stands; ``now`` is a monotonic clock in seconds.

        Call it as often as there is news: it writes only when the line is another one, and at most once a second.
        A file that cannot be written stops nothing.
        """
        self._wanted = line(unsent, connected=connected, language=self._language)
        if self._wanted == self._shown or now < self._next_at:
            return
        self._next_at = now + EVERY_S
        try:
            self._write(self._wanted)
            self._shown, self._is_failing = self._wanted, False
        except OSError as problem:
            if not self._is_failing:
                log.warning("cashier_file", extra={"also": {"error": str(problem)}})
            self._is_failing = True

    def next_deadline(self) -> float | None:
        """Return when ``show`` is to be called again; None while the file says what it should."""
        return None if self._wanted == self._shown else self._next_at

    def remove(self) -> None:
        """Take the file away: a till whose agent does not run must not look connected."""
        with suppress(OSError):
            self._path.unlink()
        self._shown = self._wanted = None

    def _write(self, text: str) -> None:
        part = self._path.with_name(f".{self._path.name}.part")
        part.write_text(text + "\n", "utf-8")
        part.chmod(0o644)
        part.replace(self._path)
