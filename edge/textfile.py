"""The till's few figures for node_exporter: lines written by hand, because a till has no library for them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

log = logging.getLogger("tillstream.edge")

PREFIX = "tillstream_agent_"


@dataclass(frozen=True, slots=True)
class Figures:
    """What is told; None is not known and has no line. Times are epoch milliseconds."""

    unsent: int
    stored: int
    """Documents that central has and that are still kept."""
    outbox_bytes: int | None
    last_ack_ms: int | None
    """When central last confirmed documents; None while it has not since the start."""
    intake_errors: Mapping[str, int] = field(default_factory=dict)


def text(figures: Figures) -> str:
    """Return the lines in Prometheus' text format."""
    kept = [('{state="unsent"}', figures.unsent), ('{state="stored"}', figures.stored)]
    ack_s = None if figures.last_ack_ms is None else figures.last_ack_ms / 1000
    errors = [(f'{{intake="{_escaped(name)}"}}', count) for name, count in sorted(figures.intake_errors.items())]
    return "".join(
        (
            _family("outbox_receipts", "gauge", "Documents in the outbox.", kept),
            _family("outbox_bytes", "gauge", "What the outbox takes on the disk.", [("", figures.outbox_bytes)]),
            _family("last_ack_timestamp_seconds", "gauge", "When central last confirmed documents.", [("", ack_s)]),
            _family("intake_errors_total", "counter", "Tries to take documents in that failed.", errors),
        )
    )


def _family(name: str, kind: str, about: str, rows: Sequence[tuple[str, int | float | None]]) -> str:
    lines = [f"{PREFIX}{name}{labels} {value}\n" for labels, value in rows if value is not None]
    return f"# HELP {PREFIX}{name} {about}\n# TYPE {PREFIX}{name} {kind}\n" + "".join(lines)


def _escaped(label: str) -> str:
    return label.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


class FiguresFile:
    """The file with the lines, whole or not at all: it is read at any moment. Times in seconds, monotonic."""

    def __init__(self, path: Path, every_s: float) -> None:
        self._path, self._every_s = path, every_s
        self.next_at = 0.0
        self._is_failing = False

    def is_due(self, now: float) -> bool:
        """Say whether it is time to write: also when nothing changed, for its age says that the agent runs."""
        return now >= self.next_at

    def write(self, figures: Figures, now: float) -> None:
        """Replace the file; one that cannot be written is told once and stops nothing."""
        self.next_at = now + self._every_s
        try:
            part = self._path.with_name(f".{self._path.name}.part")
            part.write_text(text(figures), "utf-8")
            part.chmod(0o644)
            part.replace(self._path)
            self._is_failing = False
        except OSError as problem:
            if not self._is_failing:
                log.warning("metrics_file", extra={"also": {"error": str(problem)}})
            self._is_failing = True

    def remove(self) -> None:
        """Take the file away: figures of an agent that does not run would look like those of one that does."""
        with suppress(OSError):
            self._path.unlink()


def size_bytes(path: Path) -> int | None:
    """Return what a database and its log take on the disk; None if it cannot be seen."""
    try:
        return sum(one.stat().st_size for one in (path, path.with_name(f"{path.name}-wal")) if one.exists())
    except OSError:
        return None
