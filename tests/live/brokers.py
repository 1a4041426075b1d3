"""Real brokers for tests: the embedded one and Mosquitto, each a process of its own on a port from the system."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from raw_mqtt import RawClient

from broker.access import mosquitto_acl
from wire.tokens import token_of

ROOT = Path(__file__).resolve().parents[2]
FLEET_KEY = b"a-fleet-key-for-tests-only-and-long-enough"
MOSQUITTO = shutil.which("mosquitto") or shutil.which("/usr/sbin/mosquitto")
TILLS = tuple(f"till-{number}" for number in range(1, 201))
"""Mosquitto has to know its users beforehand."""
CENTRALS = ("central-1", "central-2")
START_S = 15.0
PACKET_LIMIT_BYTES = 2 * 1024 * 1024


@dataclass
class RunningBroker:
    """A broker that listens; `client` logs a raw client in."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    folder: Path
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(0))

    def new_till(self) -> str:
        """Return a till id that no test has used on this broker."""
        return TILLS[next(self._numbers)]

    def token(self, user: str) -> str:
        return token_of(FLEET_KEY, user)

    def raw(self, tls: ssl.SSLContext | None = None) -> RawClient:
        return RawClient(self.port, tls)

    @contextlib.contextmanager
    def client(self, user: str, *, tls: ssl.SSLContext | None = None, **options) -> Iterator[RawClient]:
        """Yield a raw client that is logged in as this user."""
        with self.raw(tls) as client:
            assert client.connect(user, user=user, password=self.token(user), **options) == 0
            yield client

    def log(self) -> str:
        return (self.folder / "log").read_text("utf-8", "replace")

    def rss_bytes(self) -> int:
        pages = Path(f"/proc/{self.process.pid}/statm").read_text("ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


def wait_until(condition: Callable[[], bool], within_s: float = START_S) -> bool:
    """Say whether a condition becomes true in time."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


@contextlib.contextmanager
def embedded(folder: Path, **settings: str | float) -> Iterator[RunningBroker]:
    """Run the embedded broker as it is installed; ``settings`` are keys of broker.toml."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_secret(folder / "fleet.key", FLEET_KEY)
    values = {
        "listen": "127.0.0.1:0",
        "fleet_key_file": str(folder / "fleet.key"),
        "deny_file": str(folder / "deny"),
        "packet_limit_bytes": PACKET_LIMIT_BYTES,
        **settings,
    }
    lines = (f"{key} = {value!r}" for key, value in values.items())
    (folder / "broker.toml").write_text("\n".join(lines).replace("'", '"'), "utf-8")
    port_file = folder / "port"
    port_file.unlink(missing_ok=True)
    command = [sys.executable, "-c", "from broker.cli import broker; broker()", "run"]
    command += ["--config", str(folder / "broker.toml"), "--port-file", str(port_file)]
    with _process(command, folder) as process:
        wait_until(lambda: port_file.exists() or process.poll() is not None)
        assert port_file.exists(), (folder / "log").read_text("utf-8")
        yield RunningBroker("embedded", int(port_file.read_text("ascii")), process, folder)


@contextlib.contextmanager
def mosquitto(folder: Path, **settings: str | float) -> Iterator[RunningBroker]:
    """Run a real Mosquitto under the same rules; ``settings`` are further keys of mosquitto.conf."""
    assert MOSQUITTO, "Mosquitto is not installed"
    folder.mkdir(parents=True, exist_ok=True)
    _write_secret(folder / "passwords", "".join(map(_password_line, TILLS + CENTRALS)).encode())
    _write_secret(folder / "acl", mosquitto_acl(len(CENTRALS)).encode())
    port = free_port()
    lines = [
        f"listener {port} 127.0.0.1",
        "allow_anonymous false",
        f"password_file {folder / 'passwords'}",
        f"acl_file {folder / 'acl'}",
        "use_username_as_clientid true",
        "max_queued_messages 20000",
        "max_inflight_messages 1000",
        f"max_packet_size {PACKET_LIMIT_BYTES}",
        "persistence false",
        "set_tcp_nodelay true",
        *(["user root"] if os.geteuid() == 0 else []),
        *(f"{key} {value}" for key, value in settings.items()),
    ]
    (folder / "mosquitto.conf").write_text("\n".join(lines) + "\n", "utf-8")
    with _process([MOSQUITTO, "-c", str(folder / "mosquitto.conf")], folder) as process:
        wait_until(lambda: process.poll() is not None or _listens(port))
        assert process.poll() is None, (folder / "log").read_text("utf-8")
        yield RunningBroker("mosquitto", port, process, folder)


def free_port() -> int:
    """Return a port that is free now, for a program that cannot be told to take any."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _process(command: list[str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TILLSTREAM_")}
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _write_secret(path: Path, content: bytes) -> None:
    path.touch(0o600)
    path.write_bytes(content)


def _password_line(user: str) -> str:
    """Return a line of Mosquitto's password file: PBKDF2-SHA512, as mosquitto_passwd writes it."""
    salt = hashlib.sha256(user.encode()).digest()[:12]
    digest = hashlib.pbkdf2_hmac("sha512", token_of(FLEET_KEY, user).encode(), salt, 101)
    salt_text, digest_text = (base64.b64encode(raw).decode() for raw in (salt, digest))
    return f"{user}:$7$101${salt_text}${digest_text}\n"
