"""Real brokers for tests: the embedded one, and Mosquitto and NATS from their recipes, each a process of its own."""

from __future__ import annotations

import contextlib
import getpass
import itertools
import json
import os
import shutil
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from click.testing import CliRunner
from raw_mqtt import ClosedError, RawClient

from broker.recipes.cli import recipe as broker_recipe
from fleet.processes import free_port, listens
from wire.tokens import token_of
from wire.topics import UPLOAD_REQUEST

ROOT = Path(__file__).resolve().parents[2]
FLEET_KEY = b"a-fleet-key-for-tests-only-and-long-enough"
MOSQUITTO = shutil.which("mosquitto") or shutil.which("/usr/sbin/mosquitto")
NATS = str(Path(sys.executable).with_name("nats-server"))
TILLS = tuple(f"till-{number}" for number in range(1, 201))
"""Mosquitto and NATS have to know their users beforehand."""
CENTRALS = tuple(f"central-{number}" for number in range(1, 5))
START_S = 15.0
PACKET_LIMIT_BYTES = 2 * 1024 * 1024


@dataclass
class RunningBroker:
    """A broker that listens; `client` logs a raw client in."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    folder: Path
    others: tuple[Server, ...] = ()
    """The further nodes of a cluster: clients are spread over all of them."""
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(0))

    def __post_init__(self) -> None:
        self._ports = itertools.cycle([self.port, *(server.port for server in self.others)])

    def new_till(self) -> str:
        """Return a till id that no test has used on this broker."""
        return TILLS[next(self._numbers)]

    def token(self, user: str) -> str:
        return token_of(FLEET_KEY, user)

    def raw(self, tls: ssl.SSLContext | None = None) -> RawClient:
        return RawClient(next(self._ports), tls)

    @contextlib.contextmanager
    def client(self, user: str, *, tls: ssl.SSLContext | None = None, **options) -> Iterator[RawClient]:
        """Yield a raw client that is logged in as this user."""
        with self._logged_in(user, tls, options) as client:
            yield client

    def _logged_in(self, user: str, tls: ssl.SSLContext | None, options: dict) -> RawClient:
        """Log in; raises ClosedError if the broker hangs up.

        NATS holds a client for a second, and then hangs up, if another of its name was replaced less than a second
        ago, so that two of a name do not chase each other: the test before may have ended in just that.
        """
        deadline = time.monotonic() + START_S
        while True:
            client = self.raw(tls)
            try:
                assert client.connect(user, user=user, password=self.token(user), **options) == 0
            except BaseException as problem:
                client.__exit__()
                if isinstance(problem, ClosedError) and self.name.startswith("nats") and time.monotonic() < deadline:
                    continue
                raise
            return client

    def log(self) -> str:
        return "".join(path.read_text("utf-8", "replace") for path in sorted(self.folder.rglob("log")))

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


@dataclass(frozen=True)
class Server:
    """How one server is started, and the port of its MQTT listener."""

    command: list[str]
    port: int
    monitor: str = ""
    """Where a NATS server tells by HTTP how it is."""

    def told(self, path: str) -> dict:
        """Return what a NATS server says of itself; empty while it is away or says that it is not well."""
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://{self.monitor}{path}", timeout=5) as answer:
            return json.loads(answer.read())
        return {}


def recipe(kind: str, folder: Path, port: int, *options: str, tills: Sequence[str] = TILLS) -> None:
    """Write the recipe of a broker of this kind into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_secret(folder / "fleet.key", FLEET_KEY)
    (folder / "broker.toml").write_text(f'fleet_key_file = "{folder / "fleet.key"}"\n', "utf-8")
    (folder / "tills.txt").write_text("\n".join(tills), "utf-8")
    arguments = [
        kind,
        "--out",
        str(folder),
        "--config",
        str(folder / "broker.toml"),
        "--users",
        str(folder / "tills.txt"),
    ]
    arguments += ["--listen", f"127.0.0.1:{port}", "--account", getpass.getuser(), *options]
    done = CliRunner().invoke(broker_recipe, arguments)
    assert done.exit_code == 0, done.output


def mosquitto_server(folder: Path, port: int, *lines: str, host: str = "127.0.0.1", **options) -> Server:
    """Return a real Mosquitto from its recipe; ``lines`` are added, ``host`` may be one that no recipe leaves plain."""
    assert MOSQUITTO, "Mosquitto is not installed"
    recipe("mosquitto", folder, port, *_as_options(options), tills=options.get("tills", TILLS))
    config = folder / "mosquitto.conf"
    text = config.read_text("utf-8").replace(f"listener {port} 127.0.0.1\n", f"listener {port} {host}\n")
    config.write_text(text + "".join(f"{line}\n" for line in lines), "utf-8")
    return Server([MOSQUITTO, "-c", str(config)], port)


def nats_server(folder: Path, port: int, monitor: str = "", **options) -> Server:
    """Return a real NATS server from its recipe."""
    monitor = monitor or f"127.0.0.1:{free_port()}"
    state = ["--state-dir", str(folder / "state"), "--monitor", monitor]
    recipe("nats", folder, port, *state, *_as_options(options), tills=options.get("tills", TILLS))
    return Server([NATS, "-c", str(folder / "nats.conf")], port, monitor)


def nats_cluster(folder: Path, nodes: int = 3, **options) -> list[Server]:
    """Return the nodes of a NATS cluster from its recipe."""
    routes = ",".join(f"127.0.0.1:{free_port()}" for _ in range(nodes))
    numbers = range(1, nodes + 1)
    return [
        nats_server(folder / f"node-{n}", free_port(), cluster="shops", node=n, routes=routes, **options)
        for n in numbers
    ]


def _as_options(options: dict) -> list[str]:
    named = ((f"--{name.replace('_', '-')}", str(value)) for name, value in options.items() if name != "tills")
    return list(itertools.chain.from_iterable(named))


def embedded_server(folder: Path, port: int, **settings: str | float) -> Server:
    """Return the embedded broker as it is installed; ``settings`` are keys of broker.toml."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_secret(folder / "fleet.key", FLEET_KEY)
    values = {
        "listen": f"127.0.0.1:{port}",
        "fleet_key_file": str(folder / "fleet.key"),
        "deny_file": str(folder / "deny"),
        "packet_limit_bytes": PACKET_LIMIT_BYTES,
        **settings,
    }
    lines = (f"{key} = {value!r}" for key, value in values.items())
    (folder / "broker.toml").write_text("\n".join(lines).replace("'", '"'), "utf-8")
    command = [sys.executable, "-m", "tillstream", "broker", "run"]
    return Server([*command, "--config", str(folder / "broker.toml")], port)


def servers(kind: str, folder: Path) -> list[Server]:
    """Return the servers of a kind of broker, in a folder of their own; all of them are to run."""
    if kind == "nats-cluster":
        return nats_cluster(folder)
    return [
        {"embedded": embedded_server, "mosquitto": mosquitto_server, "nats": nats_server}[kind](folder, free_port())
    ]


@contextlib.contextmanager
def embedded(folder: Path, **settings: str | float) -> Iterator[RunningBroker]:
    """Run the embedded broker; ``settings`` are keys of broker.toml."""
    server = embedded_server(folder, 0, **settings)
    port_file = folder / "port"
    port_file.unlink(missing_ok=True)
    with _process([*server.command, "--port-file", str(port_file)], folder) as process:
        wait_until(lambda: port_file.exists() or process.poll() is not None)
        assert port_file.exists(), (folder / "log").read_text("utf-8")
        yield RunningBroker("embedded", int(port_file.read_text("ascii")), process, folder)


@contextlib.contextmanager
def mosquitto(folder: Path, **options: str | float) -> Iterator[RunningBroker]:
    """Run a real Mosquitto from its recipe; ``options`` are the recipe's."""
    with _serving("mosquitto", folder, mosquitto_server(folder, free_port(), **options)) as running:
        yield running


@contextlib.contextmanager
def nats(folder: Path, **options: str | float) -> Iterator[RunningBroker]:
    """Run a real NATS server from its recipe; ``options`` are the recipe's."""
    with _serving("nats", folder, nats_server(folder, free_port(), **options)) as running:
        yield running


@contextlib.contextmanager
def nats_of_three(folder: Path, **options: str | float) -> Iterator[RunningBroker]:
    """Run a NATS cluster from its recipe."""
    nodes = nats_cluster(folder, **options)
    with contextlib.ExitStack() as running:
        processes = [
            running.enter_context(_process(node.command, folder / f"node-{number}"))
            for number, node in enumerate(nodes, 1)
        ]
        assert wait_until(lambda: all(node.told("/healthz").get("status") == "ok" for node in nodes), 60)
        cluster = RunningBroker("nats-cluster", nodes[0].port, processes[0], folder, tuple(nodes[1:]))
        assert wait_until(lambda: all(_stores(cluster) for _ in nodes), 60)
        yield cluster


def _stores(cluster: RunningBroker) -> bool:
    """Say whether the node whose turn it is acknowledges a message.

    A new cluster makes its streams at the first login. A node that does not know of them yet, when something is
    published there, never acknowledges it, and hangs up after ten seconds.
    """
    with contextlib.suppress(ClosedError, TimeoutError), cluster.client("central-2") as client:
        client.publish(UPLOAD_REQUEST.of(till=TILLS[0]))
        return True
    return False


@contextlib.contextmanager
def _serving(name: str, folder: Path, server: Server) -> Iterator[RunningBroker]:
    with _process(server.command, folder) as process:
        wait_until(lambda: process.poll() is not None or listens(server.port))
        assert process.poll() is None, (folder / "log").read_text("utf-8")
        yield RunningBroker(name, server.port, process, folder)


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
