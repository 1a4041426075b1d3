"""A broker, central and its database as real processes, for the parts that measure the whole way."""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import peewee as pw

from central.database import Place
from fleet.processes import free_port, listens
from wire.tokens import token_of

ROOT = Path(__file__).parents[1]
FLEET_KEY = b"a-fleet-key-for-benchmarks-only-0123456789"
MOSQUITTO = shutil.which("mosquitto") or shutil.which("/usr/sbin/mosquitto")


@dataclass
class Station:
    """What runs, and where its database is."""

    broker_name: str
    url: str
    database: str
    broker: subprocess.Popen
    central: subprocess.Popen
    token: Callable[[str], str]
    """What a user logs in with."""
    ca_file: str = ""

    def through(self) -> int:
        """Return how many documents are committed, by the watermarks."""
        with contextlib.closing(Place(self.database).look(to_write=False)) as database:
            return int(database.run("SELECT coalesce(sum(through), 0) FROM watermark").fetchone()[0])


@contextlib.contextmanager
def running(
    folder: Path, database: str = "", broker: str = "Mosquitto" if MOSQUITTO else "embedded", **central_keys: str
) -> Iterator[Station]:
    """Run a broker, Mosquitto where there is one, and one central, on SQLite unless told otherwise."""
    port, database = free_port(), database or str(folder / "central.db")
    url, token = f"mqtt://127.0.0.1:{port}", partial(token_of, FLEET_KEY)
    with _ended(BROKERS[broker](folder, port)) as process:
        _wait(lambda: listens(port))
        keys = {"BROKER_URLS": url, "TOKEN": token("central-1"), "DATABASE": database}
        with _central(folder, **keys, **central_keys) as central:
            station = Station(broker, url, database, process, central, token)
            _wait(lambda: _has_central(station))
            yield station


@contextlib.contextmanager
def running_chain(folder: Path, tills: Sequence[str], **central_keys: str) -> Iterator[Station]:
    """Run what a chain has: Mosquitto by its recipe with TLS and tokens, PostgreSQL on a disk, and one central."""
    with postgres(folder) as database, running_tls(folder, tills, database, **central_keys) as station:
        yield station


@contextlib.contextmanager
def running_tls(
    folder: Path, tills: Sequence[str], database: str, host: str = "", inside: Sequence[str] = (), **central_keys: str
) -> Iterator[Station]:
    """Run Mosquitto by its recipe with TLS and tokens, and central; ``inside`` goes before a command."""
    port = free_port()
    ca_file = _recipe(folder / "broker", port, tills, host)
    url, key = f"mqtts://{host or 'localhost'}:{port}", (folder / "fleet.key").read_bytes()
    command = [*inside, MOSQUITTO, "-c", str(folder / "broker/mosquitto.conf")]
    with _ended(subprocess.Popen(command, stderr=subprocess.DEVNULL)) as broker:
        keys = {"BROKER_URLS": url, "TOKEN": token_of(key, "central-1"), "DATABASE": database, **central_keys}
        with _central(folder, inside, **keys, TLS_CA_FILE=ca_file) as central:
            station = Station("Mosquitto", url, database, broker, central, partial(token_of, key), ca_file)
            _wait(lambda: _has_central(station))
            yield station


@contextlib.contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """Run a PostgreSQL of our own on a disk, as a server would have it; yields the URL of an empty database."""
    from postgres import Postgres

    server = Postgres(_own_folder(folder / "postgres"), autovacuum="on", shared_buffers="256MB", max_wal_size="1GB")
    server.start()
    try:
        yield server.empty_database()
    finally:
        server.stop()


def _has_central(station: Station) -> bool:
    with contextlib.suppress(pw.DatabaseError):
        station.through()
        return True
    return False


def _own_folder(folder: Path) -> Path:
    """Make a folder that PostgreSQL's own account reaches."""
    folder.mkdir()
    for each in (folder, folder.parent):
        each.chmod(0o755)
    return folder


def _recipe(folder: Path, port: int, tills: Sequence[str], host: str) -> str:
    """Write Mosquitto's configuration and a certificate for it; returns the authority's file."""
    folder.mkdir()
    key = folder.parent / "fleet.key"
    key.write_bytes(FLEET_KEY)
    key.chmod(0o600)
    users, config = folder.parent / "tills.txt", folder.parent / "broker.toml"
    users.write_text("\n".join(tills), "utf-8")
    config.write_text(f'fleet_key_file = "{key}"\n', "utf-8")
    command = [sys.executable, "-m", "tillstream", "broker", "recipe", "mosquitto", "--out", str(folder)]
    command += [
        "--listen",
        f"{host or '127.0.0.1'}:{port}",
        "--security",
        "tls",
        "--users",
        str(users),
        "--config",
        str(config),
    ]
    subprocess.run([*command, "--account", getpass.getuser()], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    made += ["-subj", "/CN=localhost", "-addext", f"subjectAltName=DNS:localhost{f',IP:{host}' if host else ''}"]
    made += ["-keyout", str(folder / "server.key"), "-out", str(folder / "server.crt")]
    subprocess.run(made, check=True, stderr=subprocess.DEVNULL)
    return str(folder / "server.crt")


@contextlib.contextmanager
def _central(folder: Path, inside: Sequence[str] = (), **keys: str) -> Iterator[subprocess.Popen]:
    environment = {
        **os.environ,
        **{f"TILLSTREAM_{key}": value for key, value in {"LOG_LEVEL": "warning", **keys}.items()},
    }
    command = [*inside, sys.executable, "-m", "tillstream", "central", "run"]
    with (folder / "central.log").open("wb") as log:
        central = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=log)
    with _ended(central):
        yield central


@contextlib.contextmanager
def _ended(process: subprocess.Popen) -> Iterator[subprocess.Popen]:
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)


def _embedded(folder: Path, port: int) -> subprocess.Popen:
    (folder / "fleet.key").write_bytes(FLEET_KEY)
    (folder / "fleet.key").chmod(0o600)
    keys = {"LISTEN": f"127.0.0.1:{port}", "FLEET_KEY_FILE": folder / "fleet.key", "DENY_FILE": folder / "deny"}
    environment = {**os.environ, **{f"TILLSTREAM_{key}": str(value) for key, value in keys.items()}}
    command = [sys.executable, "-m", "tillstream", "broker", "run"]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)


def _mosquitto(folder: Path, port: int) -> subprocess.Popen:
    """Mosquitto takes anybody here, on loopback; `running_chain` has the rules of the recipe."""
    lines = [
        f"listener {port} 127.0.0.1",
        "allow_anonymous true",
        "max_inflight_messages 1000",
        "max_queued_messages 50000",
        "set_tcp_nodelay true",
        "sys_interval 1",
        *(["user root"] if os.geteuid() == 0 else []),
    ]
    (folder / "mosquitto.conf").write_text("\n".join(lines) + "\n")
    return subprocess.Popen([MOSQUITTO, "-c", str(folder / "mosquitto.conf")], stderr=subprocess.DEVNULL)


BROKERS = {"embedded": _embedded, "Mosquitto": _mosquitto}


def _wait(condition: Callable[[], bool], within_s: float = 60.0) -> None:
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
