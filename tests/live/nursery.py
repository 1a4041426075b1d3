"""Owns the forking of programs: one process has imported everything, so that a restart costs 10 ms and not 400.

What is forked is a whole program in a process of its own, with its own configuration, and SIGKILL ends it as it ends
any other. Only the 0.4 s that Python needs to import are saved, so that thousands of kills are affordable.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Self

ROOT = Path(__file__).resolve().parents[2]
IMPORTED = ("tillstream", "edge.cli", "edge.service", "central.cli", "broker.cli", "broker.server")
PR_SET_PDEATHSIG = 1


class Nursery:
    """Starts programs by forking, and is the one who waits for them. May be used by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._living: set[int] = set()

    def __enter__(self) -> Self:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("TILLSTREAM_")}
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)])
        self._process = subprocess.Popen(
            [sys.executable, __file__], cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        return self

    def __exit__(self, *_: object) -> None:
        for process_id in list(self._living):
            self.signal(process_id, signal.SIGKILL)
            self.wait(process_id)
        self._process.stdin.close()  # Its end: whatever it forked ends with it.
        self._process.wait()
        self._process.stdout.close()

    def start(self, command: list[str], log: Path, environment: dict[str, str] | None = None) -> int:
        """Fork a program: a module's name and the arguments of its ``main``; returns its process id."""
        process_id = self._ask({"start": command, "log": str(log), "environment": environment or {}})
        self._living.add(process_id)
        return process_id

    def signal(self, process_id: int, number: int) -> None:
        """Send a signal. The id cannot be another's: whoever is not waited for keeps it."""
        assert process_id in self._living
        os.kill(process_id, number)

    def wait(self, process_id: int) -> int:
        """Wait for the end of a program; returns as ``Popen.returncode`` does."""
        status = self._ask({"wait": process_id})
        self._living.discard(process_id)
        return os.waitstatus_to_exitcode(status)

    def has_ended(self, process_id: int) -> bool:
        """Say whether a program ended by itself; it must still be waited for."""
        return Path(f"/proc/{process_id}/stat").read_text("ascii").rpartition(")")[2].split()[0] == "Z"

    def _ask(self, question: dict) -> int:
        with self._lock:
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            self._process.stdin.flush()
            return int(self._process.stdout.readline())


class Offspring:
    """What was forked, with the part of ``subprocess.Popen`` that is needed."""

    def __init__(self, nursery: Nursery, command: list[str], log: Path, environment: dict[str, str]) -> None:
        self._nursery, self._status = nursery, None
        self.pid = nursery.start(command, log, environment)

    def send_signal(self, number: int) -> None:
        if self._status is None:
            self._nursery.signal(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def poll(self) -> int | None:
        if self._status is None and self._nursery.has_ended(self.pid):
            self._status = self._nursery.wait(self.pid)
        return self._status

    def wait(self, timeout_s: float = float("inf")) -> int:
        until = time.monotonic() + timeout_s
        while self.poll() is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired("a forked program", timeout_s)
            time.sleep(0.005)
        return self._status


class Forked:
    """One program that is started, killed and started again; its log goes to a file."""

    def __init__(self, nursery: Nursery, command: list[str], log_path: Path) -> None:
        self._nursery, self.command, self.log_path = nursery, command, log_path
        self._process_id: int | None = None

    @property
    def process_id(self) -> int | None:
        return self._process_id

    def start(self) -> None:
        self._process_id = self._nursery.start(self.command, self.log_path)

    def signal(self, number: int) -> None:
        self._nursery.signal(self._process_id, number)

    def kill(self) -> int:
        """End it by SIGKILL; returns how it ended, which may have been before."""
        self.signal(signal.SIGKILL)
        return self._wait()

    def stop(self) -> int | None:
        """Ask it to end and wait for that; None if it does not run."""
        if self._process_id is None:
            return None
        self.signal(signal.SIGTERM)
        return self._wait()

    def has_ended(self) -> bool:
        """Say whether it ended by itself."""
        return self._process_id is not None and self._nursery.has_ended(self._process_id)

    def reap(self) -> int:
        """Return how it ended by itself."""
        assert self.has_ended(), self.log()
        return self._wait()

    def log(self) -> str:
        return self.log_path.read_text("utf-8", "replace") if self.log_path.exists() else ""

    def _wait(self) -> int:
        ended, self._process_id = self._nursery.wait(self._process_id), None
        return ended


class Executed(Forked):
    """The same for a program that is not Python: forked, then replaced by what it is to run."""

    def __init__(self, nursery: Nursery, command: list[str], log_path: Path) -> None:
        super().__init__(nursery, ["nursery", *command], log_path)


def main(arguments: list[str]) -> None:
    """Become another program."""
    os.execvp(arguments[0], arguments)


def _serve() -> None:
    for name in IMPORTED:
        importlib.import_module(name)
    for line in sys.stdin.buffer:
        asked = json.loads(line)
        answer = os.waitpid(asked["wait"], 0)[1] if "wait" in asked else _fork(asked)
        os.write(1, b"%d\n" % answer)


def _fork(asked: dict) -> int:
    parent = os.getpid()
    child = os.fork()
    if child:
        return child
    ended = 1
    with contextlib.suppress(BaseException):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == parent:
            os.environ.update(asked["environment"])
            ended = _become(asked["start"], asked["log"])
    os._exit(ended)


def _become(command: list[str], log: str) -> int:
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor, end in ((nothing, 0), (file, 1), (file, 2)):
        os.dup2(descriptor, end)
    os.closerange(3, 64)
    try:
        importlib.import_module(command[0]).main(command[1:])
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 -- as the interpreter itself ends a program
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


if __name__ == "__main__":
    _serve()
