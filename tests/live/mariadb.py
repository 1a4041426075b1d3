"""A private MariaDB server for tests: a process of its own over a folder of its own, on a port from the system."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pymysql
from brokers import _process, wait_until

from fleet.processes import free_port

MARIADBD = shutil.which("mariadbd") or shutil.which("/usr/sbin/mariadbd")
INSTALL = shutil.which("mariadb-install-db") or shutil.which("/usr/bin/mariadb-install-db")
SERVER = [
    "--skip-log-bin",
    "--skip-name-resolve",
    "--innodb-buffer-pool-size=16M",
    "--innodb-log-file-size=8M",
    "--innodb-flush-log-at-trx-commit=0",
    "--performance-schema=off",
    "--bind-address=127.0.0.1",
]
PASSWORD = "pass-of-the-reader"
START_S = 90
"""The first start after an installation reads everything from a cold disk, beside whatever else runs."""


@dataclass
class RunningMariadb:
    """A server that answers; `login` is what PyMySQL needs to be its administrator."""

    port: int
    socket: Path
    process: subprocess.Popen[bytes]

    @property
    def login(self) -> dict:
        return {"unix_socket": str(self.socket), "user": "root", "password": ""}

    def run(self, *statements: str) -> None:
        with contextlib.closing(pymysql.connect(**self.login, autocommit=True)) as connection:
            for statement in statements:
                connection.cursor().execute(statement)

    def new_database(self, name: str) -> None:
        """Make an empty database, and a user of the same name who may only read it."""
        self.run(
            f"CREATE DATABASE {name} CHARACTER SET utf8mb4",
            f"CREATE USER {name}@'%' IDENTIFIED BY '{PASSWORD}'",
            f"GRANT SELECT ON {name}.* TO {name}@'%'",
        )


def install(folder: Path) -> None:
    """Make an empty data folder."""
    command = [INSTALL, "--no-defaults", f"--datadir={folder / 'data'}", "--auth-root-authentication-method=normal"]
    command += ["--skip-test-db", f"--user={_user()}", *SERVER[2:4]]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@contextlib.contextmanager
def running(folder: Path, port: int | None = None) -> Iterator[RunningMariadb]:
    """Run a server over a folder that was installed."""
    port, socket, log = port or free_port(), folder / "s", folder / "log"
    already = log.stat().st_size if log.exists() else 0
    command = [MARIADBD, "--no-defaults", f"--datadir={folder / 'data'}", f"--socket={socket}", f"--port={port}"]
    command += [f"--pid-file={folder / 'pid'}", f"--user={_user()}", *SERVER]
    with _process(command, folder) as process:

        def has_begun() -> bool:
            return process.poll() is not None or b"ready for connections" in log.read_bytes()[already:]

        assert wait_until(has_begun, START_S), log.read_text("utf-8")
        assert process.poll() is None, log.read_text("utf-8")
        yield RunningMariadb(port, socket, process)


def _user() -> str:
    """Return who the server is to run as: it refuses to be root unless it is told."""
    return "root" if os.geteuid() == 0 else os.environ.get("USER", "nobody")
