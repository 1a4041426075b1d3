"""A shop on this machine: real processes of broker, central and tills on ports from the system, each killable."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Self

import peewee as pw
from brokers import FLEET_KEY, ROOT, TILLS, servers, wait_until
from nursery import Nursery, Offspring

from central.database import Place
from edge.automation import TillAutomation
from edge.intake.http_socket import UnixConnection
from fleet import ledger
from fleet.baskets import Register
from fleet.catalogue import make_catalogue
from fleet.pos import FirstThat, Journal, Pos, Socket, SpoolFolder, ring
from wire.automation import with_per_receipt_upload
from wire.tokens import token_of

START_MS = 1_772_000_000_000
START_S = 60.0
"""Twenty agents start at once, on a machine that has other things to do."""


class Program:
    """One process, that can be killed and started again; its output goes to a file."""

    def __init__(
        self, log: Path, command: list[str], environment: dict[str, str], nursery: Nursery | None = None
    ) -> None:
        self._log, self._command, self._nursery = log, command, nursery
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TILLSTREAM_")}
        self._environment = {**kept, **environment}
        self.process = None
        self.kills = 0

    def start(self) -> None:
        """Start it: what is ours is forked if there is a nursery, which saves the time that imports take."""
        if self._nursery and self._command[:3] == tillstream():
            command = ["tillstream", *self._command[3:]]
            self.process = Offspring(self._nursery, command, self._log, self._environment)
            return
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, cwd=ROOT, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.kills += 1

    def ask_to_stop(self) -> None:
        if self.process is not None:
            self.process.terminate()

    def stop(self) -> int:
        if self.process is None:
            return 0
        self.process.terminate()
        try:
            return self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def log(self) -> str:
        return self._log.read_text("utf-8", "replace")


def tillstream(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tillstream", *arguments]


class Till:
    """A till: its agent's process, and the POS beside it with books of its own."""

    def __init__(self, station: Station, till_id: str, catalogue) -> None:
        self.till_id, self.folder = till_id, station.folder / till_id
        self.environment = station.environment(
            till_id,
            TILL_ID=till_id,
            STATE_DIR=str(self.folder / "state"),
            RUN_DIR=str(self.folder / "run"),
            SPOOL_DIR=str(self.folder / "spool"),
            RECONNECT_MIN_S="0.2",
            RECONNECT_MAX_S="1",
            RING_AGAIN_S="2",
        )
        (self.folder / "spool").mkdir(parents=True)
        TillAutomation(self.folder / "state").change(lambda automation: with_per_receipt_upload(automation)[0])
        self.agent = Program(
            station.folder / f"{till_id}.log",
            [*station.inside, *tillstream("edge", "run")],
            self.environment,
            station.nursery,
        )
        self.socket = self.folder / "run" / "edge.sock"
        hand_over = FirstThat(Socket(self.socket), SpoolFolder(self.folder / "spool"))
        books = station.folder / "books"
        self.pos = Pos(
            ledger.Ledger(books, till_id, fsync=False),
            Journal(books, till_id, fsync=False),
            hand_over,
            after_close=lambda: ring(self.folder / "run" / "ring"),
        )
        self._register = Register(till_id, Random(till_id), catalogue)
        self._now_ms = START_MS

    def start(self) -> None:
        self.agent.start()
        assert wait_until(self.is_open, START_S), self.agent.log()

    def is_open(self) -> bool:
        """Say whether the agent answers: a killed agent leaves its socket's file behind."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            return bool(self.status())
        return False

    def is_confirmed(self) -> bool:
        """Say whether the agent knows that all it holds is stored: that is later than central has it."""
        return self.status()["unsent"] == 0

    def status(self) -> dict:
        """Ask the agent; raises OSError or HTTPException while it is down."""
        with contextlib.closing(UnixConnection(self.socket, 5)) as connection:
            connection.request("GET", "/status")
            return json.loads(connection.getresponse().read())

    def close_documents(self, count: int) -> None:
        for _ in range(count):
            self._now_ms += 60_000
            self.pos.close(self._register.close_next(self._now_ms))


class Station:
    """Broker, central and tills, ``inside`` of another host if need be.

    The proof compares the POS's books with central's database.
    """

    def __init__(
        self, folder: Path, kind: str, tills: int, database: str = "", inside: tuple[str, ...] = (), **central: str
    ) -> None:
        """Put it up in a folder; without a database's URL, on SQLite. Further keys are central's."""
        self.folder, self.kind, self.inside, self.nursery = folder, kind, inside, Nursery()
        self.servers = servers(kind, folder / "broker")
        self.database = database or folder / "central.db"
        (folder / "books").mkdir()
        catalogue = make_catalogue(Random(7))
        self.brokers = list(self._brokers())
        self.broker = self.brokers[0]
        self.central = Program(
            folder / "central.log",
            [*inside, *tillstream("central", "run")],
            self.environment(
                "central-1", RECONNECT_MIN_S="0.2", RECONNECT_MAX_S="1", TIMEOUT_S="3", RETRY_MIN_S="1", **central
            ),
            self.nursery,
        )
        self.tills = [Till(self, till_id, catalogue) for till_id in TILLS[:tills]]

    @property
    def port(self) -> int:
        """Return the port of the broker, of the first node of a cluster."""
        return self.servers[0].port

    @property
    def broker_urls(self) -> str:
        return ",".join(f"mqtt://127.0.0.1:{server.port}" for server in self.servers)

    def environment(self, user: str, **keys: str) -> dict[str, str]:
        keys |= {
            "BROKER_URLS": self.broker_urls,
            "TOKEN": token_of(FLEET_KEY, user),
            "DATABASE": str(self.database),
        }
        return {f"TILLSTREAM_{key}": value for key, value in keys.items()}

    def _brokers(self) -> Iterator[Program]:
        """Yield the servers of this kind of broker: one, or the nodes of a cluster."""
        for number, server in enumerate(self.servers, 1):
            yield Program(self.folder / f"broker-{number}.log", [*self.inside, *server.command], {}, self.nursery)

    def _has_brokers(self) -> bool:
        """Say whether the nodes of a cluster have found each other; a broker alone is waited for by its clients."""
        return all(server.told("/healthz").get("status") == "ok" for server in self.servers if self.servers[1:])

    def __enter__(self) -> Self:
        self.nursery.__enter__()
        try:
            for program in self.brokers:
                program.start()
            assert wait_until(self._has_brokers, START_S), [program.log() for program in self.brokers]
            for program in (self.central, *(till.agent for till in self.tills)):
                program.start()
            assert wait_until(lambda: self.query("SELECT count(*) FROM document"), START_S), self.central.log()
            for till in self.tills:
                assert wait_until(till.is_open, START_S), till.agent.log()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        agents = [till.agent for till in self.tills]
        for agent in agents:
            agent.ask_to_stop()
        for program in (*agents, self.central, *self.brokers):
            program.stop()
        self.nursery.__exit__()

    def query(self, statement: str) -> list[tuple]:
        place = Place(str(self.database))
        if place.is_file and not place.path.exists():
            return []
        with contextlib.closing(place.look(to_write=False)) as database:
            try:
                return database.run(statement).fetchall()
            except (pw.OperationalError, pw.ProgrammingError) as problem:
                if "no such table" in str(problem) or "does not exist" in str(problem):
                    return []
                raise

    def stored(self) -> dict[str, dict[str, tuple[int, int]]]:
        """Return count and money by till and type, as central's database has them."""
        rows = self.query(
            "SELECT till_id, transaction_type, count(*), CAST(coalesce(sum(total_minor), 0) AS BIGINT)"
            " FROM document GROUP BY 1, 2"
        )
        found: dict[str, dict[str, tuple[int, int]]] = {}
        for till, kind, count, total_minor in rows:
            found.setdefault(till, {})[kind] = (count, total_minor)
        return found

    def closed(self) -> dict[str, dict[str, tuple[int, int]]]:
        """Return the same as the POS's own books have it."""
        return ledger.add_up_folder(self.folder / "books")

    def unsent(self) -> int:
        """Return how many documents were closed and are not committed, at this moment."""
        closed = sum(count for till in self.closed().values() for count, _ in till.values())
        return closed - sum(count for till in self.stored().values() for count, _ in till.values())

    def is_proven(self) -> bool:
        return self.closed() == self.stored()
