"""What somebody would set up instead, beside ours: rate, CPU, and what is lost or doubled when a part is killed once.

The same receipts of the same tills go each way into SQLite that is as durable as ours. The other ways are in
``other_ways/``, as short as such programs are; Mosquitto runs as Debian sets it up, rsyslog with RELP and a disk queue
at the till, as its manual shows it.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from figures import Figure, middle
from material import bodies
from other_ways.table import Table
from station import FLEET_KEY, MOSQUITTO, ROOT, cpu_s

from central.database import Place
from fleet.loop import Fleet, FleetSettings
from fleet.processes import free_port, listens
from wire.tokens import token_of

TILLS, EACH, ROUNDS = 4, 1000, 3
KILLED_AFTER = 400
"""So many have arrived when a part is killed: few enough that each way gets so far."""
AWAY_S, SETTLED_S, MOST_S = 1.0, 15.0, 180.0
"""How long what was killed stays away; after how long without a change a run is over; how long it may take."""
RSYSLOGD = shutil.which("rsyslogd") or shutil.which("/usr/sbin/rsyslogd")
HERE = Path(__file__).parent


@dataclass
class Program:
    """One process that can be killed and started again; what it used is added up."""

    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    used_s: float = 0.0
    process: subprocess.Popen | None = None
    is_daemon: bool = False
    """Whether it goes on when it has nothing to do."""

    @property
    def has_ended(self) -> bool:
        """Whether it has done all that it will ever do."""
        return self.is_daemon or self.process.poll() is not None

    def start(self) -> None:
        """Start it, in a session of its own: what it starts is counted with it."""
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{HERE}", **self.environment}
        self.process = subprocess.Popen(
            self.command, env=environment, cwd=ROOT, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    def spent_s(self) -> float:
        """Return the CPU seconds that this program and what it started used so far."""
        return self.used_s + sum(map(_cpu_s, _session(self.process.pid)))

    def end(self, *, by_kill: bool = False) -> None:
        """End it, or kill it as the kernel does when memory is short."""
        self.used_s = self.spent_s()
        (self.process.kill if by_kill else self.process.terminate)()
        self.process.wait(30)


def _session(leader: int) -> list[int]:
    """Return the processes of a session (proc(5), stat, field 6)."""
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int((each / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()[3]) == leader:
                found.append(int(each.name))
    return found


def _cpu_s(pid: int) -> float:
    with contextlib.suppress(OSError):
        return cpu_s(pid)
    return 0.0


@dataclass
class Way:
    """What runs at the server by the names under which it can be killed, what runs at each till, and what arrived."""

    server: dict[str, Program]
    tills: list[Program]
    counted: Callable[[], tuple[int, int]]
    turn: Callable[[], None] = lambda: time.sleep(0.02)
    """What this process does meanwhile: our tills are in it."""
    has_unsent: Callable[[], bool] = lambda: False
    """Whether a till in this process goes on trying."""


def measure() -> list[Figure]:
    """Return each way's rate and CPU, and what it loses or doubles; the last line of each way is the kill."""
    figures = []
    for name, make in WAYS.items():
        if make is None:
            figures.append(Figure("alternatives", name, "not installed here", "", "", None))
            continue
        figures += _measure(name, make)
    return figures


def _measure(name: str, make: Callable[[Path], contextlib.AbstractContextManager[Way]]) -> Iterator[Figure]:
    rounds, wanted = [_run(make) for _ in range(ROUNDS)], TILLS * EACH
    came = [next(iter(counted.values()))[1] for _, _, counted in rounds]
    rates = [receipts / took_s for receipts, (took_s, _, _) in zip(came, rounds, strict=True)]
    cpu = [1e6 * spent / receipts for receipts, (_, spent, _) in zip(came, rounds, strict=True)]
    lost = f"; {middle([wanted - receipts for receipts in came])} lost, nothing killed" if min(came) < wanted else ""
    yield Figure("alternatives", f"{name}: receipts/s from {TILLS} tills; CPU seconds of the server per million",
                 f"{middle(rates)}; {middle(cpu)}{lost}", "", "", None)  # fmt: skip
    for part in rounds[0][2]:
        yield _killed(name, part, *_run(make, part)[2][part])


def _killed(name: str, part: str, rows: int, receipts: int) -> Figure:
    wanted, is_ours = TILLS * EACH, name == "tillstream"
    lost, doubled = wanted - receipts, rows - receipts
    title = f"{name}: {part} killed once: lost / doubled, of {wanted:,}"
    goal, is_met = ("0 / 0", (lost, doubled) == (0, 0)) if is_ours else ("", None)
    return Figure("alternatives", title, f"{lost:,} / {doubled:,}", "", goal, is_met)


def _run(
    make: Callable[[Path], contextlib.AbstractContextManager[Way]], killed: str = ""
) -> tuple[float, float, dict[str, tuple[int, int]]]:
    """Return how long all took, the server's CPU seconds, and (rows, receipts) in the end by what can be killed."""
    with tempfile.TemporaryDirectory() as name, make(Path(name)) as way:
        began = time.monotonic()
        for till in way.tills:
            till.start()
        if killed:
            _until(way, lambda: way.counted()[1] >= KILLED_AFTER)
            way.server[killed].end(by_kill=True)
            _until(way, lambda: False, AWAY_S)
            way.server[killed].start()
        took_s = _settle(way) - began
        spent = sum(program.spent_s() for program in way.server.values())
        return took_s, spent, dict.fromkeys(way.server, way.counted())


def _settle(way: Way) -> float:
    """Wait until all arrived or nothing more does; return when the last one came."""
    seen, since, end = way.counted(), time.monotonic(), time.monotonic() + MOST_S
    while time.monotonic() < end:
        way.turn()
        if (now := way.counted()) != seen:
            seen, since = now, time.monotonic()
        if all(till.has_ended for till in way.tills) and not way.has_unsent():
            is_all_here = seen[1] >= TILLS * EACH
            if is_all_here or time.monotonic() - since > SETTLED_S:
                break
    return since


def _until(way: Way, condition: Callable[[], bool], most_s: float = MOST_S) -> None:
    end = time.monotonic() + most_s
    while not condition() and time.monotonic() < end:
        way.turn()


# -- The ways ----------------------------------------------------------------------------------------------------------


def _files(folder: Path) -> list[Path]:
    """Write what each till closed, a receipt a line."""
    paths = []
    for number in range(1, TILLS + 1):
        path = folder / f"till-{number}.receipts"
        path.write_bytes(b"".join(body + b"\n" for body in bodies(f"till-{number}", EACH)))
        paths.append(path)
    return paths


def _python(*arguments: object) -> list[str]:
    return [sys.executable, "-m", *map(str, arguments)]


@contextlib.contextmanager
def _all(server: dict[str, Program], tills: list[Program]) -> Iterator[None]:
    try:
        for program in server.values():
            program.start()
        yield
    finally:
        for program in (*tills, *reversed(server.values())):
            if program.process:
                program.end()


def _mosquitto(folder: Path, port: int, *lines: str) -> Program:
    """Run Mosquitto as Debian sets it up: what it keeps it writes every half hour and when it is stopped."""
    config = folder / "mosquitto.conf"
    root = ["user root"] if os.geteuid() == 0 else []
    kept = ["persistence true", f"persistence_location {folder}/"]
    config.write_text("\n".join([f"listener {port} 127.0.0.1", "allow_anonymous true", *kept, *root, *lines]) + "\n")
    return Program([MOSQUITTO, "-c", str(config)])


@contextlib.contextmanager
def ours(folder: Path) -> Iterator[Way]:
    """Let a fleet with outboxes in memory send by Mosquitto to a central on SQLite."""
    port, database = free_port(), folder / "central.db"
    keys = {"BROKER_URLS": f"mqtt://127.0.0.1:{port}", "TOKEN": token_of(FLEET_KEY, "central-1"),
            "DATABASE": str(database), "RECONNECT_MAX_S": "2", "LOG_LEVEL": "warning"}  # fmt: skip
    central = Program(
        _python("tillstream", "central", "run"), {f"TILLSTREAM_{key}": value for key, value in keys.items()}
    )
    server = {"broker": _mosquitto(folder, port, "max_inflight_messages 1000"), "server": central}
    with _all(server, []):
        _until(Way({}, [], lambda: (0, 0)), database.exists, 20)
        settings = FleetSettings(broker_urls=(keys["BROKER_URLS"],), reconnect_max_s=2.0, ring_again_s=5.0)
        fleet = Fleet(settings, lambda till: token_of(FLEET_KEY, till))
        for number in range(1, TILLS + 1):
            fleet.add_till(f"till-{number}")
            for body in bodies(f"till-{number}", EACH):
                fleet.close_document(f"till-{number}", body)
        yield Way(server, [], lambda: _stored(database), lambda: fleet.turn(0.02), lambda: fleet.unsent > 0)
        fleet.stop()


def _stored(database: Path) -> tuple[int, int]:
    with contextlib.closing(Place(str(database)).look(to_write=False)) as opened:
        statement = "SELECT count(*), count(DISTINCT till_id || '/' || document_id) FROM document"
        return tuple(opened.run(statement).fetchone())


@contextlib.contextmanager
def each_by_mqtt(folder: Path) -> Iterator[Way]:
    """Publish each receipt by QoS 1, insert each: two paho scripts."""
    port, database = free_port(), folder / "receipts.db"
    table = Table(str(database))
    tills = [Program(_python("other_ways.publish_each", port, path)) for path in _files(folder)]
    server = {
        "broker": _mosquitto(folder, port),
        "server": Program(_python("other_ways.insert_each", port, database)),
    }
    with _all(server, tills):
        _until(Way({}, [], table.counted), lambda: listens(port), 20)
        time.sleep(1.0)  # Both sides of such a script simply expect the broker and the subscription to be there.
        yield Way(server, tills, table.counted)


@contextlib.contextmanager
def each_by_post(folder: Path) -> Iterator[Way]:
    """POST each receipt to an endpoint that inserts it."""
    port, database = free_port(), folder / "receipts.db"
    table = Table(str(database))
    tills = [Program(_python("other_ways.post_each", port, path)) for path in _files(folder)]
    server = {"server": Program(_python("other_ways.take_posts", port, database))}
    with _all(server, tills):
        _until(Way({}, [], table.counted), lambda: listens(port), 20)
        yield Way(server, tills, table.counted)


@contextlib.contextmanager
def each_by_rsyslog(folder: Path) -> Iterator[Way]:
    """Follow the file of each till with rsyslog, over RELP from a disk queue, into a program that inserts each line."""
    port, database = free_port(), folder / "receipts.db"
    table = Table(str(database))
    taker = folder / "take"
    command = shlex.join([sys.executable, "-m", "other_ways.take_lines", str(database)])
    taker.write_text(f"#!/bin/sh\nexec env PYTHONPATH={shlex.quote(str(HERE))} {command}\n")
    taker.chmod(0o755)
    tills = [_rsyslog(folder / path.stem, _till_rules(path, port)) for path in _files(folder)]
    server = {"server": _rsyslog(folder / "server", _server_rules(taker, port))}
    with _all(server, tills):
        yield Way(server, tills, table.counted)


def _rsyslog(folder: Path, rules: str) -> Program:
    folder.mkdir()
    head = f'global(workDirectory="{folder}" maxMessageSize="64k")\n'
    (folder / "rsyslog.conf").write_text(head + rules)
    return Program([RSYSLOGD, "-n", "-f", str(folder / "rsyslog.conf"), "-i", str(folder / "pid")], is_daemon=True)


def _till_rules(receipts: Path, port: int) -> str:
    return f"""module(load="imfile")
module(load="omrelp")
input(type="imfile" File="{receipts}" Tag="receipt")
action(type="omrelp" target="127.0.0.1" port="{port}" queue.type="LinkedList" queue.filename="unsent"
  queue.saveOnShutdown="on" action.resumeRetryCount="-1" action.resumeInterval="1")
"""


def _server_rules(taker: Path, port: int) -> str:
    return f"""module(load="imrelp")
module(load="omprog")
template(name="body" type="string" string="%msg:2:$%\\n")
input(type="imrelp" port="{port}")
action(type="omprog" binary="{taker}" template="body" confirmMessages="on")
"""


WAYS: dict[str, Callable[[Path], contextlib.AbstractContextManager[Way]] | None] = {
    "tillstream": ours,
    "paho scripts, a publish and an insert for each receipt": each_by_mqtt,
    "HTTPS-like POST of each receipt, FastAPI": each_by_post,
    "rsyslog, RELP, disk queue": each_by_rsyslog if RSYSLOGD else None,
}
