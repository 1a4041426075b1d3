"""A broker and central as real processes, for the parts that measure the whole way."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
MOSQUITTO = shutil.which("mosquitto") or shutil.which("/usr/sbin/mosquitto")


@dataclass
class Station:
    """What runs, and where its database is."""

    broker_name: str
    port: int
    database: Path
    broker: subprocess.Popen
    central: subprocess.Popen

    def through(self) -> int:
        """Return how many documents are committed, by the watermarks."""
        with contextlib.closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=10)) as database:
            return database.execute("SELECT coalesce(sum(through), 0) FROM watermark").fetchone()[0]


@contextlib.contextmanager
def running(folder: Path, **central_keys: str) -> Iterator[Station]:
    """Run Mosquitto (the embedded broker where there is none) and one central on SQLite."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    database = folder / "central.db"
    keys = {
        "BROKER_URLS": f"mqtt://127.0.0.1:{port}",
        "TOKEN": "bench",
        "DATABASE": str(database),
        "LOG_LEVEL": "warning",
        **central_keys,
    }
    broker = _broker(folder, port)
    _wait(lambda: _listens(port))
    if not MOSQUITTO:
        keys["TOKEN"] = token(folder, "central-1")
    environment = {**os.environ, **{f"TILLSTREAM_{key}": value for key, value in keys.items()}}
    with (folder / "central.log").open("wb") as log:
        central = subprocess.Popen(
            [sys.executable, "-m", "tillstream", "central", "run"], cwd=ROOT, env=environment, stderr=log
        )
    _wait(database.exists)
    try:
        yield Station("Mosquitto" if MOSQUITTO else "embedded", port, database, broker, central)
    finally:
        for process in (central, broker):
            process.terminate()
            process.wait(20)


def token(folder: Path, user: str) -> str:
    """Return what a user logs in with: Mosquitto takes anybody here, on loopback."""
    if MOSQUITTO:
        return "bench"
    from wire.tokens import token_of

    return token_of((folder / "fleet.key").read_bytes(), user)


def _broker(folder: Path, port: int) -> subprocess.Popen:
    if not MOSQUITTO:
        (folder / "fleet.key").write_bytes(b"a-fleet-key-for-benchmarks-only-0123456789")
        (folder / "fleet.key").chmod(0o600)
        keys = {"LISTEN": f"127.0.0.1:{port}", "FLEET_KEY_FILE": folder / "fleet.key", "DENY_FILE": folder / "deny"}
        environment = {**os.environ, **{f"TILLSTREAM_{key}": str(value) for key, value in keys.items()}}
        command = [sys.executable, "-m", "tillstream", "broker", "run"]
        return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    lines = [
        f"listener {port} 127.0.0.1",
        "allow_anonymous true",
        "max_inflight_messages 1000",
        "max_queued_messages 50000",
        "set_tcp_nodelay true",
        *(["user root"] if os.geteuid() == 0 else []),
    ]
    (folder / "mosquitto.conf").write_text("\n".join(lines) + "\n")
    return subprocess.Popen([MOSQUITTO, "-c", str(folder / "mosquitto.conf")], stderr=subprocess.DEVNULL)


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _wait(condition: Callable[[], bool], within_s: float = 20.0) -> None:
    end = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("a program did not come up")
        time.sleep(0.02)


def cpu_s(pid: int) -> float:
    """Return the CPU time of all threads of a process, in seconds (proc(5), schedstat)."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text("ascii").split()[0]) for thread in threads) / 1e9


def peak_mib(pid: int) -> float:
    """Return the largest resident memory a process has had, in MiB."""
    text = Path(f"/proc/{pid}/status").read_text("ascii")
    return int(re.search(r"^VmHWM:\s+(\d+)", text, re.MULTILINE)[1]) / 1024
