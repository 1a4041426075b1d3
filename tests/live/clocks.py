"""Owns wall clocks that are wrong: a program is run with a shim that shifts what it takes for the time of day."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

CC = shutil.which("gcc") or shutil.which("cc")
SHIM = Path(__file__).with_name("clock_shim.c")
DAY_MS = 86_400_000


def main(arguments: list[str]) -> None:
    """Be a program of ours under the shim: its path, the file with the shift, the program and its arguments."""
    shim, shift, *program = arguments
    environment = {**os.environ, "LD_PRELOAD": shim, "CLOCK_SHIFT": shift}
    os.execve(sys.executable, [sys.executable, "-m", *program], environment)


def build(folder: Path) -> Path:
    """Compile the shim."""
    shim = folder / "clock_shim.so"
    subprocess.run([CC, "-O1", "-shared", "-fPIC", "-o", str(shim), str(SHIM)], check=True)
    return shim


class Clock:
    """One wrong clock, that can be set while programs look at it."""

    def __init__(self, shim: Path, path: Path, shift_ms: int = 0) -> None:
        self._path = path
        self.inside = ("clocks", str(shim), str(path))
        path.write_bytes(bytes(8))
        self.set(shift_ms)

    def set(self, shift_ms: int) -> None:
        with self._path.open("r+b", buffering=0) as file:
            file.write(shift_ms.to_bytes(8, sys.byteorder, signed=True))
