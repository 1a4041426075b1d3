"""Owns the faults in a program's system calls: strace lets the N-th fail, or the program die at it.

A program that is to be hit from its very first call is forked as ``halted``: it stops itself until strace holds it.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from brokers import wait_until
from nursery import Forked

STRACE = shutil.which("strace")
HALTED = ("traced",)
WITHIN_S = 10


def can_trace() -> bool:
    if not STRACE:
        return False
    probe = [STRACE, "-qq", "-o", os.devnull, "-e", "trace=fdatasync", "true"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


def main(arguments: list[str]) -> None:
    """Stop; when let go on, be the program that is named."""
    os.kill(os.getpid(), signal.SIGSTOP)
    importlib.import_module(arguments[0]).main(arguments[1:])


@contextlib.contextmanager
def faults(program: Forked, trace: Path, *injected: str) -> Iterator[Path]:
    """Inject faults, in strace's words (``fdatasync:error=EIO:when=3``), while the program runs; yield the trace."""
    if _state(program) == "T" or "traced" in program.command[:1]:
        assert wait_until(lambda: _state(program) == "T", WITHIN_S)
    calls = ",".join(sorted({fault.partition(":")[0] for fault in injected}))
    options = [option for fault in injected for option in ("-e", f"inject={fault}")]
    command = [STRACE, "-f", "-qq", "-o", str(trace), "-e", f"trace={calls}", *options, "-p", str(program.process_id)]
    strace = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert wait_until(lambda: _is_traced(program), WITHIN_S)
        program.signal(signal.SIGCONT)
        yield trace
    finally:
        strace.terminate()
        strace.wait()


def injected_in(trace: Path) -> int:
    """Return how many faults a trace shows."""
    return trace.read_text("utf-8", "replace").count("(INJECTED)")


def _state(program: Forked) -> str:
    return Path(f"/proc/{program.process_id}/stat").read_text("ascii").rpartition(")")[2].split()[0]


def _is_traced(program: Forked) -> bool:
    tasks = list(Path(f"/proc/{program.process_id}/task").iterdir())
    return all("TracerPid:\t0\n" not in (task / "status").read_text("ascii") for task in tasks)
