"""The FIFO that ``unloadSales.sh`` writes to: ``r`` rings, ``u`` rings urgently."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

READ_BYTES = 4096


def listen(path: Path, on_ring: Callable[[bool], object], group_id: int | None) -> None:
    """Make the FIFO if need be and call ``on_ring(urgent)`` from a thread for whatever is written to it."""
    if path.exists() and not stat.S_ISFIFO(path.stat().st_mode):
        path.unlink()
    if not path.exists():
        os.mkfifo(path, 0o660)
    path.chmod(0o660)
    if group_id is not None:
        os.chown(path, -1, group_id)
    # Opened for writing too: without a writer of its own a FIFO would read end-of-file for ever.
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    threading.Thread(target=_read, args=(descriptor, on_ring), name="fifo", daemon=True).start()


def _read(descriptor: int, on_ring: Callable[[bool], object]) -> None:
    while written := os.read(descriptor, READ_BYTES):
        on_ring(b"u" in written)
