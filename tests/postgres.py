"""A private PostgreSQL server for tests: a process of its own over a folder of its own, never the machine's cluster.

It runs with ``fsync=on``, as the store demands, over a folder in memory where there is room: what is tested with it is
SQL and processes that die, not power cuts.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from random import SystemRandom

import psycopg
from brokers import wait_until
from processes import programs_in

from central.database import Place
from central.migrations import migrate

MEMORY, ROOM_BYTES = Path("/dev/shm"), 2**30
USER, PASSWORD = "tillstream", "pass-of-the-tests"
START_S = 60
SERVER = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "60",
    "shared_buffers": "32MB",
    "max_wal_size": "256MB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "autovacuum": "off",
    "log_checkpoints": "off",
}
TEMPLATE = "migrated"


def binaries() -> Path:
    """Return the newest installed server's folder; Debian keeps it off the path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    anywhere = shutil.which("initdb")
    assert found or anywhere, "PostgreSQL is not installed: apt-get install postgresql"
    return found[-1].parent if found else Path(anywhere).resolve().parent


class Postgres:
    """A server that can be stopped, killed and started again over the same folder."""

    def __init__(self, folder: Path, *, copy_of: Postgres | None = None, **settings: str) -> None:
        """Make a new cluster in the folder, or a standby of another one."""
        self.folder, self.port, self.settings = folder, _quiet_port(), SERVER | settings
        self.process: subprocess.Popen | None = None
        self._names = count(1)
        self._own(folder)
        if copy_of:
            where = ["-h", str(copy_of.folder), "-p", str(copy_of.port), "-U", USER]
            self._run("pg_basebackup", "-D", str(self.data), "-R", "-X", "stream", "-c", "fast", "-N", *where)
            return
        secret = folder / "password"
        secret.write_text(PASSWORD, "utf-8")
        self._own(secret)
        words = ["--auth-local=trust", "--auth-host=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"]
        self._run("initdb", "-D", str(self.data), "-U", USER, f"--pwfile={secret}", "--wal-segsize=4", *words)

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def url(self, name: str) -> str:
        return f"postgresql://{USER}@/{name}?host={self.folder}&port={self.port}"

    def tcp_url(self, name: str, port: int | None = None) -> str:
        return f"postgresql://{USER}@127.0.0.1:{port or self.port}/{name}"

    def start(self) -> None:
        settings = [word for name, value in self.settings.items() for word in ("-c", f"{name}={value}")]
        command = [str(binaries() / "postgres"), "-D", str(self.data), "-k", str(self.folder), "-p", str(self.port)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, *settings], cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log, **self._identity()
            )
        assert wait_until(self.answers, START_S), self.log.read_text("utf-8", "replace")

    def answers(self) -> bool:
        try:
            self.run("SELECT 1")
        except psycopg.OperationalError:
            assert self.process.poll() is None, self.log.read_text("utf-8", "replace")
            return False
        return True

    def stop(self, how: int = signal.SIGINT) -> None:
        """Stop it at once, rolling back what is under way; SIGQUIT: as after a crash; SIGKILL: without a word."""
        if self.process is None:
            return
        self.process.send_signal(how)
        self.process.wait(60)
        self.process = None
        # Backends that outlive a killed postmaster end by themselves; the next server must not find them.
        assert wait_until(lambda: not programs_in(self.data), 30)

    def run(self, statement: str, database: str = "postgres") -> list[tuple]:
        with psycopg.connect(self.url(database), autocommit=True, connect_timeout=5) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def empty_database(self) -> str:
        """Return the URL of a new database with nothing in it."""
        name = f"empty_{next(self._names)}"
        self.run(f"CREATE DATABASE {name} TEMPLATE template0")
        return self.url(name)

    def new_database(self) -> str:
        """Return the URL of a new database that has today's schema and no central yet."""
        if not self.run(f"SELECT 1 FROM pg_database WHERE datname = '{TEMPLATE}'"):
            self.run(f"CREATE DATABASE {TEMPLATE} TEMPLATE template0")
            with contextlib.closing(Place(self.url(TEMPLATE)).open()) as database:
                migrate(database)
        name = f"test_{next(self._names)}"
        self.run(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
        return self.url(name)

    def drop(self, url: str) -> None:
        self.run(f"DROP DATABASE IF EXISTS {url.split('@')[1].split('?', maxsplit=1)[0].strip('/')} WITH (FORCE)")

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(binaries() / program), *arguments],
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
            **self._identity(),
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def _identity(self) -> dict:
        """Return who the server runs as: it refuses to be root."""
        if os.geteuid() != 0:
            return {}
        return {"user": "postgres", "group": "postgres", "extra_groups": []}

    def _own(self, *paths: Path) -> None:
        if os.geteuid() == 0:
            owner = pwd.getpwnam("postgres")
            for path in paths:
                os.chown(path, owner.pw_uid, owner.pw_gid)


def _quiet_port() -> int:
    """Return a free port below those that the system gives to whoever connects: it is used again after each restart."""
    while True:
        port = SystemRandom().randrange(12_000, 32_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


@contextlib.contextmanager
def running(*, copy_of: Postgres | None = None, in_memory: bool = True, **settings: str) -> Iterator[Postgres]:
    """Run a server, or a standby, until the end of the block, and leave nothing of it."""
    has_room = in_memory and MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM_BYTES
    folder = Path(tempfile.mkdtemp(prefix="tillstream-pg-", dir=MEMORY if has_room else "/tmp"))
    server = None
    try:
        server = Postgres(folder, copy_of=copy_of, **settings)
        server.start()
        yield server
    finally:
        if server:
            server.stop()
        shutil.rmtree(folder)
