"""Runs the scripts that root has placed for macros: one at a time, bounded in time, in output and in number.

Nothing that came over a network reaches a script but the choice of which: no arguments, no input, a fixed environment.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import stat
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

log = logging.getLogger("tillstream.edge")

READ_BYTES = 65_536
LOOK_S = 0.005
AGAIN_S = 1.0
"""A script starts at most this often: one that makes its own event happen goes round slowly, for all to see."""
REAP_S = 1.0
"""How long a killed script may take to end; one that hangs in the kernel is left to it."""

Outcome = Literal["done", "failed", "timed_out", "refused"]


class ScriptRefusedError(Exception):
    """A script that may not be run; the text says why."""


@dataclass(frozen=True, slots=True)
class ScriptLimits:
    """What a script may cost."""

    timeout_s: float = 10.0
    output_bytes: int = 4096
    waiting_max: int = 16


@dataclass(frozen=True, slots=True)
class ScriptEnded:
    """What became of a script."""

    path: str
    outcome: Outcome
    error: str = ""
    """What a person has to mend; empty if it is done."""


def permitted(path: str, scripts_dirs: Iterable[str]) -> Path:
    """Return the real path of a script that only root can have placed; raises ScriptRefusedError.

    Only root can change any part of the path that is returned, so it is still the same script when it is started.
    """
    try:
        real = Path(path).resolve(strict=True)
        folders = {Path(folder).resolve() for folder in scripts_dirs}
        facts = real.lstat()
        if real.parent not in folders:
            raise ScriptRefusedError(f"{real} does not lie directly in one of scripts_dirs = {', '.join(scripts_dirs)}")
        if not stat.S_ISREG(facts.st_mode):
            raise ScriptRefusedError(f"{real} is no regular file")
        _refuse_open(real, facts)
        _refuse_open(real.parent, real.parent.lstat())
        for folder in real.parent.parents:
            _refuse_open(folder, folder.lstat(), is_sticky_fine=True)
        if not facts.st_mode & 0o111:
            raise ScriptRefusedError(f"{real} is not executable; chmod 0755")
    except (OSError, RuntimeError) as problem:  # pathlib says RuntimeError where links go in circles.
        reason = problem.strerror if isinstance(problem, OSError) else problem
        raise ScriptRefusedError(f"{path}: {reason}") from problem
    return real


def _refuse_open(place: Path, facts: os.stat_result, *, is_sticky_fine: bool = False) -> None:
    """Refuse what others than root own or could change; in a sticky folder nobody can replace what is root's."""
    if facts.st_uid != 0:
        raise ScriptRefusedError(f"{place} belongs to user {facts.st_uid}, not to root")
    is_sticky = is_sticky_fine and facts.st_mode & stat.S_ISVTX
    if facts.st_mode & 0o022 and not is_sticky:
        mode = stat.S_IMODE(facts.st_mode)
        raise ScriptRefusedError(f"{place} is writable for others than root (mode {mode:04o}); chmod go-w")


class ScriptsRunner:
    """A thread that runs scripts one after another; ``ask`` and ``stop`` belong to one other thread."""

    def __init__(
        self,
        till_id: str,
        scripts_dirs: tuple[str, ...],
        limits: ScriptLimits,
        fifo_path: Path,
        report: Callable[[ScriptEnded], object],
    ) -> None:
        """``report`` is told, from the runner's thread, what became of each script."""
        self._till_id, self._scripts_dirs, self._limits, self._report = till_id, scripts_dirs, limits, report
        self._environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
        self._environment["TILLSTREAM_FIFO"] = str(fifo_path)
        self._news = threading.Condition()
        self._waiting: deque[str] = deque()
        self._started_at: dict[str, float] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._is_ending = self._is_cut = False
        self._thread: threading.Thread | None = None

    def ask(self, path: str) -> bool:
        """Let a script run when its turn comes; one that waits already is not queued twice. False: no room."""
        with self._news:
            if path in self._waiting:
                return True
            if self._is_ending or len(self._waiting) >= self._limits.waiting_max:
                also = {"path": path, "waiting": len(self._waiting)}
                log.warning("script_not_queued", extra={"till": self._till_id, "also": also})
                return False
            self._waiting.append(path)
            self._news.notify()
        if self._thread is None:  # Most tills run no script, and need no thread.
            self._thread = threading.Thread(target=self._work, name="scripts", daemon=True)
            self._thread.start()
        return True

    def stop(self, within_s: float) -> None:
        """Let what waits run, but end it all after ``within_s``."""
        with self._news:
            self._is_ending = True
            self._news.notify()
        if self._thread is None:
            return
        self._thread.join(within_s)
        with self._news:
            self._is_cut = True
            if self._process:
                _kill_group(self._process)
        self._thread.join(2 * REAP_S)

    def _work(self) -> None:
        while (path := self._next()) is not None:
            self._report(self._run(path))

    def _next(self) -> str | None:
        with self._news:
            while not self._is_ending and (wait_s := self._wait_s()) != 0:
                self._news.wait(wait_s)
            if not self._waiting or self._is_cut:
                return None
            path, now = self._waiting.popleft(), time.monotonic()
            self._started_at = {one: at for one, at in self._started_at.items() if now - at < AGAIN_S} | {path: now}
            return path

    def _wait_s(self) -> float | None:
        """Return how long the first in the queue has to wait yet; None if there is none."""
        if not self._waiting:
            return None
        return max(0.0, self._started_at.get(self._waiting[0], float("-inf")) + AGAIN_S - time.monotonic())

    def _run(self, path: str) -> ScriptEnded:
        started = time.monotonic()
        try:
            process = self._start(permitted(path, self._scripts_dirs))
        except (ScriptRefusedError, OSError) as problem:
            outcome: Outcome = "refused" if isinstance(problem, ScriptRefusedError) else "failed"
            also = {"path": path, "error": str(problem)}
            log.error("script_%s", outcome, extra={"till": self._till_id, "also": also})  # noqa: TRY400
            return ScriptEnded(path, outcome, str(problem))
        output, is_over = _watch(process, started + self._limits.timeout_s, self._limits.output_bytes)
        with self._news:
            self._process = None  # Before it is reaped: from then on its number may be another's.
        exit_code = _end(process)
        facts = {
            "path": path,
            "exit_code": exit_code,
            "duration_ms": round((time.monotonic() - started) * 1000),
            "output": output.decode("utf-8", "replace"),
        }
        ended = self._judge(path, exit_code, is_over=is_over)
        level = logging.WARNING if ended.error else logging.INFO
        log.log(level, "script_%s", ended.outcome, extra={"till": self._till_id, "also": facts})
        return ended

    def _judge(self, path: str, exit_code: int | None, *, is_over: bool) -> ScriptEnded:
        if not is_over:
            limit = f"script_timeout_s = {self._limits.timeout_s:g}"
            return ScriptEnded(path, "timed_out", f"{path}: killed after {limit}, with all it had started")
        if exit_code:
            return ScriptEnded(path, "failed", f"{path}: exit code {exit_code}")
        return ScriptEnded(path, "done")

    def _start(self, real: Path) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(  # noqa: S603 -- the path was checked, and there is nothing else
            [str(real)],
            cwd="/",
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            start_new_session=True,  # A group of its own, which can be killed as a whole.
        )
        with self._news:
            self._process = process
            if self._is_cut:
                _kill_group(process)
        return process


def _watch(process: subprocess.Popen[bytes], deadline: float, limit_bytes: int) -> tuple[bytes, bool]:
    """Read until the script and all that it started have closed their output, and it has ended.

    Returns the first ``limit_bytes`` of it (the rest is read and dropped), and whether it ended in time.
    """
    kept = bytearray()
    source = process.stdout.fileno() if process.stdout else -1
    readable = select.poll()
    readable.register(source, select.POLLIN)
    while (left_s := deadline - time.monotonic()) > 0:
        if not readable.poll(left_s * 1000):
            break
        some = os.read(source, READ_BYTES)
        if not some:
            return bytes(kept), _has_ended(process, deadline)
        kept += some[: limit_bytes - len(kept)]
    return bytes(kept), False


def _has_ended(process: subprocess.Popen[bytes], deadline: float) -> bool:
    """Wait for the end without reaping: until then nobody else can get the number of its group."""
    how = os.WEXITED | os.WNOWAIT | os.WNOHANG
    while os.waitid(os.P_PID, process.pid, how) is None:
        if time.monotonic() >= deadline:
            return False
        time.sleep(LOOK_S)
    return True


def _end(process: subprocess.Popen[bytes]) -> int | None:
    """Kill what is left of the script and reap it; returns its exit code, if it has one."""
    _kill_group(process)
    if process.stdout:
        process.stdout.close()
    with suppress(subprocess.TimeoutExpired):
        return process.wait(REAP_S)
    return None


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
