"""What an agent costs a till: memory, idle CPU, fsyncs for a document, the hook, the libraries."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

from figures import Figure
from material import bodies
from quarter import a_quarter

from edge.intake.http_socket import UnixConnection

ROOT = Path(__file__).parents[1]
DOCUMENTS, IDLE_S, HOOKS = 200, 30, 200
ABSENT = ("psycopg", "psycopg2", "psycopg2cffi", "pymysql", "MySQLdb", "cryptography")
"""Drivers that peewee takes up wherever they are installed; here they are, on a till they are not."""
ON_A_TILL = f"import sys; sys.modules.update(dict.fromkeys({ABSENT})); from tillstream import main; main()"
LIBRARIES = ("paho-mqtt", "peewee", "msgspec", "click")


def measure() -> list[Figure]:
    """Measure one real agent process; no broker is needed to take documents."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        agent, started_s = _start(folder, [])
        try:
            hand_over(folder, bodies("till-1", DOCUMENTS))
            memory_mib = _status_kib(agent.pid, "VmRSS") / 1024
            hook_ms = _hook_ms(folder)
            idle = _idle_cpu(agent.pid)
        finally:
            _stop(agent)
    return [
        Figure(
            "till",
            f"agent's resident memory after {DOCUMENTS} documents, MiB",
            f"{memory_mib:.1f}",
            "",
            "≤ 40",
            memory_mib <= 40,
        ),
        Figure("till", f"agent's CPU while idle for {IDLE_S} s, %", f"{idle:.2f}", "", "≤ 0.1", idle <= 0.1),
        Figure("till", "start until documents are taken, s", f"{started_s:.2f}", "", "", None),
        Figure("till", f"hook, median of {HOOKS}, ms", f"{hook_ms:.2f}", "", "≤ 5", hook_ms <= 5),
        *_fsyncs(),
        *_weak(),
        _installed(),
    ]


def _weak() -> Iterator[Figure]:
    """Measure an agent on a quarter of a core: how fast it starts and takes documents, and what it writes."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name, a_quarter() as prefix:
        if not prefix:
            yield Figure("till", "a quarter of a core", "no control group can be made here", "", "", None)
            return
        folder = Path(name)
        agent, started_s = _start(folder, prefix)
        try:
            before, began = _written_bytes(agent.pid), time.perf_counter()
            documents = bodies("till-1", DOCUMENTS)
            hand_over(folder, documents)
            rate = DOCUMENTS / (time.perf_counter() - began)
            written = (_written_bytes(agent.pid) - before) / sum(map(len, documents))
        finally:
            _stop(agent)
    yield Figure("till", "a quarter of a core: start until documents are taken, s", f"{started_s:.2f}", "", "", None)
    yield Figure("till", "a quarter of a core: documents taken a second", f"{rate:,.0f}", "", "", None)
    yield Figure("till", "bytes written to the disk for a byte of documents", f"{written:.2f}", "", "", None)


def _written_bytes(pid: int) -> int:
    """Return what a process had written to storage (proc(5), io, write_bytes)."""
    text = Path(f"/proc/{pid}/io").read_text("ascii")
    return int(re.search(r"^write_bytes: (\d+)", text, re.MULTILINE)[1])


def _start(folder: Path, prefix: list[str]) -> tuple[subprocess.Popen, float]:
    keys = {
        "TILL_ID": "till-1", "TOKEN": "none", "BROKER_URLS": "mqtt://127.0.0.1:1",
        "STATE_DIR": folder / "state", "RUN_DIR": folder / "run", "SPOOL_DIR": folder / "spool",
    }  # fmt: skip
    environment = {**os.environ, **{f"TILLSTREAM_{key}": str(value) for key, value in keys.items()}}
    started = time.perf_counter()
    agent = subprocess.Popen(
        [*prefix, sys.executable, "-c", ON_A_TILL, "edge", "run"],
        cwd=ROOT,
        env=environment,
        stderr=subprocess.DEVNULL,
    )
    while time.perf_counter() - started < 20:
        try:
            connection = UnixConnection(folder / "run" / "edge.sock", 10)
            connection.request("GET", "/status")
            connection.getresponse().read()
            break
        except OSError:
            time.sleep(0.02)
    return agent, time.perf_counter() - started


def _stop(agent: subprocess.Popen) -> None:
    agent.send_signal(signal.SIGTERM)
    agent.wait(10)


def hand_over(folder: Path, documents: list[bytes]) -> None:
    """Hand documents over by the socket, one connection for all."""
    connection = UnixConnection(folder / "run" / "edge.sock", 10)
    for body in documents:
        connection.request("POST", "/documents", body)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 201, answer.status
    connection.close()


def _status_kib(pid: int, key: str) -> int:
    text = Path(f"/proc/{pid}/status").read_text("ascii")
    return int(re.search(rf"^{key}:\s+(\d+)", text, re.MULTILINE)[1])


def _cpu_s(pid: int) -> float:
    """Return the CPU time of all threads, in seconds (nanosecond counters, proc(5) schedstat)."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text("ascii").split()[0]) for thread in threads) / 1e9


def _idle_cpu(pid: int) -> float:
    before, started = _cpu_s(pid), time.perf_counter()
    time.sleep(IDLE_S)
    return 100 * (_cpu_s(pid) - before) / (time.perf_counter() - started)


def _hook_ms(folder: Path) -> float:
    environment = {**os.environ, "TILLSTREAM_FIFO": str(folder / "run" / "ring")}
    times = []
    for _ in range(HOOKS):
        started = time.perf_counter()
        subprocess.run(["sh", str(ROOT / "edge/scripts/unloadSales.sh")], env=environment, check=True)
        times.append((time.perf_counter() - started) * 1000)
    return sorted(times)[HOOKS // 2]


def _fsyncs() -> list[Figure]:
    """Count the agent's fsyncs from outside while it takes documents."""
    name = "fsyncs for a document"
    if not shutil.which("strace"):
        return [Figure("till", name, "not measured: no strace", "", "1", None)]
    with tempfile.TemporaryDirectory() as folder_name:
        folder, trace = Path(folder_name), Path(folder_name) / "trace"
        traced = ["strace", "-f", "-qq", "-e", "trace=fsync,fdatasync", "-o", str(trace)]
        tracer, _ = _start(folder, traced)
        hand_over(folder, bodies("till-1", 1))
        before = _syncs(trace)
        hand_over(folder, bodies("till-1", DOCUMENTS + 1)[1:])
        count = _syncs(trace) - before
        agent = Path(f"/proc/{tracer.pid}/task/{tracer.pid}/children").read_text("ascii").split()
        os.kill(int(agent[0]), signal.SIGTERM)
        tracer.wait(10)
    each = count / DOCUMENTS
    return [Figure("till", name, f"{each:.3f} ({count} for {DOCUMENTS})", "", "1 (checkpoints apart)", each <= 1.1)]


def _syncs(trace: Path) -> int:
    return len(re.findall(r"f(?:data)?sync\(", trace.read_text("ascii", "replace")))


def _installed() -> Figure:
    size = 0
    for name in LIBRARIES:
        installed = distribution(name)
        files = [Path(installed.locate_file(file)) for file in installed.files or ()]
        size += sum(file.stat().st_size for file in files if file.exists() and file.suffix != ".pyc")
    return Figure("till", "libraries that a till installs, MB", f"{size / 1e6:.1f}", "", "≤ 10", size <= 10_000_000)
