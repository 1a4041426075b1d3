"""What runs on this machine, by proc(5): for tests that look for programs which they started or which those started."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path


def command_lines() -> Iterator[tuple[int, bytes]]:
    """Yield the id and the command line, a NUL after each word, of each process that does not end meanwhile."""
    for process in Path("/proc").glob("[0-9]*"):  # Not */cmdline: glob itself would stumble over one that ends.
        with contextlib.suppress(OSError):
            yield int(process.name), (process / "cmdline").read_bytes()


def programs_in(folder: Path) -> list[int]:
    """Return the ids of the processes whose command line names the folder."""
    return [process for process, line in command_lines() if str(folder).encode() in line]
