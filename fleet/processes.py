"""Owns the programs of a demo: their folder, keys and configurations, and each as a process that can be killed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import SystemRandom

from wire.tokens import token_of

ROOT = Path(__file__).resolve().parent.parent
PORTS = range(20_000, 30_000)
"""Below the ports that Linux gives to outgoing connections: one of those could take the broker's while it is down."""
HELD_MAX = 200
"""So many ports are kept for who asked, the newest; whoever asked earlier listens by now."""
_held: deque[socket.socket] = deque()

SOCKET_PATH_MAX = 100
STOP_S = 10.0
LOG_LINES = 15


Value = str | float | list[str]
"""What a key of a configuration may be set to."""


class ChildDiedError(Exception):
    """A program ended that should run; the text names it and shows the end of its log."""


class NotReadyError(Exception):
    """A program did not come up, or the run did not get done, in the time it has."""


@dataclass(slots=True)
class Child:
    """One program in a process group of its own; its log goes to a file, its answers to nobody."""

    name: str
    command: list[str]
    log_path: Path
    kills: int = 0
    _process: subprocess.Popen[bytes] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self) -> None:
        """Start it, or start it again."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("TILLSTREAM_")}
        with self._lock, self.log_path.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 -- our own programs, with our own arguments
                [sys.executable, "-m", *self.command],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # A person's Ctrl-C reaches the demo alone, which then ends things in order.
            )

    def kill(self) -> None:
        """End it by SIGKILL, as a power cut would: nothing is flushed, nobody is told."""
        with self._lock:
            process, self._process = self._process, None
            self.kills += 1
            if process:
                process.kill()
                process.wait()

    def stop(self) -> None:
        """Ask it to end (``wait_stopped`` waits for that)."""
        with self._lock:
            if self._process and self._process.poll() is None:
                self._process.send_signal(signal.SIGTERM)

    def wait_stopped(self, until: float) -> None:
        """Wait for its end until a monotonic time, then end it by force."""
        with self._lock:
            process, self._process = self._process, None
            if process is None:
                return
            try:
                process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def returncode(self) -> int | None:
        """Return how it ended by itself; None while it runs, or after it was killed on purpose."""
        with self._lock:
            return self._process.poll() if self._process else None

    def check(self) -> None:
        """Raise ChildDiedError if it ended by itself."""
        if (code := self.returncode()) is not None:
            raise ChildDiedError(f"{self.name} ended with {code}; the end of {self.log_path}:\n{self.log_end()}")

    def log_end(self) -> str:
        """Return the last lines of its log."""
        lines = self.log_path.read_text("utf-8", "replace").splitlines() if self.log_path.exists() else []
        return "\n".join(f"  {line[:400]}" for line in lines[-LOG_LINES:])


class Site:
    """The folder of one run, and everything in it. With ``keep`` it outlives the run."""

    def __init__(self, folder: Path | None, *, keep: bool) -> None:
        self.keeps = keep
        self.folder = folder.resolve() if folder else Path(tempfile.mkdtemp(prefix="tillstream-demo-"))
        self.folder.mkdir(parents=True, exist_ok=True)
        if any(self.folder.iterdir()):
            raise FileExistsError(f"{self.folder} is not empty: a run's proof must not find another run's documents")
        for path in (self.logs, self.books):
            path.mkdir()
        self._run = self._make_run()
        self.fleet_key = os.urandom(32).hex().encode()
        key = self.folder / "fleet.key"
        key.touch(0o600)
        key.write_bytes(self.fleet_key)
        self.port = free_port()
        self.console_port = free_port()
        self.children: list[Child] = []

    def _make_run(self) -> Path:
        """Make the folder of sockets: a Unix socket's path has little room, so a deep folder cannot hold them."""
        run = self.folder / "run"
        if len(str(run / "till-10000" / "edge.sock")) <= SOCKET_PATH_MAX:
            run.mkdir()
            return run
        return Path(tempfile.mkdtemp(prefix="tillstream-run-", dir="/tmp"))  # TMPDIR may be deep, too.

    @property
    def logs(self) -> Path:
        """Where each program's log lies."""
        return self.folder / "logs"

    @property
    def books(self) -> Path:
        """Where the POS's ledgers and journals lie."""
        return self.folder / "books"

    @property
    def database(self) -> Path:
        """Central's database."""
        return self.folder / "central.db"

    def token(self, user: str) -> str:
        """Return what a user logs in with."""
        return token_of(self.fleet_key, user)

    def run_dir(self, till_id: str) -> Path:
        """Return the folder of a till's socket and FIFO."""
        return self._run / till_id

    def broker(self) -> Child:
        """Return the embedded broker."""
        config = self._write(
            "broker",
            listen=f"127.0.0.1:{self.port}",
            fleet_key_file=str(self.folder / "fleet.key"),
            deny_file=str(self.folder / "deny"),
        )
        return self._child("broker", ["tillstream", "broker", "run", "--config", str(config)])

    def central(self, **settings: Value) -> Child:
        """Return central."""
        values: dict[str, Value] = {
            "database": str(self.database),
            "broker_urls": [f"mqtt://127.0.0.1:{self.port}"],
            "token": self.token("central-1"),
            "console_listen": f"127.0.0.1:{self.console_port}",
        }
        config = self._write("central", **values | settings)
        return self._child("central", ["tillstream", "central", "--config", str(config), "run"])

    def console(self) -> Child:
        """Return the console, over what ``central`` was told."""
        config = self.folder / "central.toml"
        return self._child("console", ["tillstream", "central", "--config", str(config), "console", "run"])

    @property
    def console_url(self) -> str:
        """Where a browser finds the console."""
        return f"http://127.0.0.1:{self.console_port}/"

    def agent(self, till_id: str, port: int, **settings: Value) -> Child:
        """Return a till's agent; ``port`` is where it finds the broker."""
        folder = self.folder / "tills" / till_id
        spool = folder / "spool"
        spool.mkdir(parents=True)
        values: dict[str, Value] = {
            "till_id": till_id,
            "broker_urls": [f"mqtt://127.0.0.1:{port}"],
            "token": self.token(till_id),
            "state_dir": str(folder),
            "run_dir": str(self.run_dir(till_id)),
            "spool_dir": str(spool),
            "ballast_bytes": 0,
        }
        config = self._write(f"tills/{till_id}/edge", **values | settings)
        return self._child(till_id, ["tillstream", "edge", "--config", str(config), "run"])

    def fleet(self, spec: Path) -> Child:
        """Return the process that runs a whole fleet (see ``fleet.replay``)."""
        return self._child("fleet", ["fleet.replay", str(spec)])

    def check(self) -> None:
        """Raise ChildDiedError if a program ended by itself."""
        for child in self.children:
            child.check()

    def close(self) -> None:
        """End all programs, tills first, and remove the folder unless it is to be kept."""
        for child in reversed(self.children):
            child.stop()
        until = time.monotonic() + STOP_S
        for child in reversed(self.children):
            child.wait_stopped(until)
        shutil.rmtree(self._run, ignore_errors=True)
        if not self.keeps:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _child(self, name: str, command: list[str]) -> Child:
        child = Child(name, command, self.logs / f"{name}.log")
        self.children.append(child)
        return child

    def _write(self, name: str, **values: Value) -> Path:
        path = self.folder / f"{name}.toml"
        path.write_text("".join(f"{key} = {_toml(value)}\n" for key, value in values.items()), "utf-8")
        path.chmod(0o600)  # It holds a token.
        return path


def _toml(value: Value) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return str(value)


def free_port() -> int:
    """Return a port that nobody has, out of those that no outgoing connection gets; no other call gets it meanwhile.

    It is held by a socket that is bound and does not listen. Linux lets a program that sets SO_REUSEADDR, as servers
    do, listen beside it; whoever looks for a free port does not set it before it binds, and goes on to the next.
    """
    for port in SystemRandom().sample(PORTS, len(PORTS)):
        held = socket.socket()
        try:
            held.bind(("127.0.0.1", port))
        except OSError:
            held.close()
            continue
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _hold(held)
        return port
    raise NotReadyError(f"no port from {PORTS.start} to {PORTS.stop} is free")


def _hold(port: socket.socket) -> None:
    _held.append(port)
    if len(_held) > HELD_MAX:
        _held.popleft().close()


def listens(port: int) -> bool:
    """Say whether somebody takes connections at a port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def wait_until(condition: Callable[[], bool], within_s: float, what: str, check: Callable[[], object]) -> None:
    """Wait for a condition; ``check`` may raise meanwhile. Raises NotReadyError that says what did not happen."""
    end = time.monotonic() + within_s
    while not condition():
        check()
        if time.monotonic() > end:
            raise NotReadyError(f"{what}: not within {within_s:.0f} s")
        time.sleep(0.05)
