"""Owns a yard to break things in: broker, central and tills as forked programs, and a POS thread for each till.

Delays are short, so that a program is back at work a tenth of a second after it was killed. The POS's own books stand
in a folder that no program of ours writes to; `balance` holds them against central's database.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Self
from urllib.parse import urlsplit

from brokers import FLEET_KEY, TILLS, mosquitto_server, wait_until
from nursery import Executed, Forked, Nursery

from edge.automation import TillAutomation
from edge.intake.http_socket import UnixConnection
from fleet.baskets import Register
from fleet.catalogue import make_catalogue
from fleet.ledger import SUFFIX, Ledger, fingerprint, read
from fleet.pos import FirstThat, Journal, NotTakenError, Pos, Socket, SpoolFolder, identity_of, ring
from fleet.processes import Site
from wire.automation import with_per_receipt_upload

OURS = ("tillstream",)
START_MS = 1_772_000_000_000
UNSENT_MOST = 60
"""Kills are worth more than a long queue."""
POS_TIMEOUT_S = 0.5
AGENT = {
    "reconnect_min_s": 0.02,
    "reconnect_max_s": 0.1,
    "ring_again_s": 0.3,
    "ring_again_max_s": 1,
    "spool_every_s": 0.1,
    "spool_retry_s": 0.3,
}
CENTRAL = {
    "quiet_s": 0.01,
    "max_wait_s": 0.1,
    "timeout_s": 0.5,
    "retry_min_s": 0.05,
    "retry_max_s": 0.3,
    "attempts_max": 1000,
    "sweep_s": 2,
    "reconnect_min_s": 0.02,
    "reconnect_max_s": 0.1,
}


class Till:
    """One till: its agent, and its POS, which closes documents from a thread of its own while it is open."""

    def __init__(self, yard: Yard, till_id: str, command: list[str], log: Path, seed: str) -> None:
        self.till_id, self._yard = till_id, yard
        self.state_dir = yard.agents_on / till_id
        self.run_dir = yard.site.run_dir(till_id)
        self.agent = Forked(yard.nursery, command, log)
        TillAutomation(self.state_dir).change(lambda automation: with_per_receipt_upload(automation)[0])
        books = (Ledger(yard.books, till_id, fsync=False), Journal(yard.books, till_id, fsync=False))
        self.taken = 0
        self.promised: dict[str, str] = {}
        """What this POS was told is kept, by socket or by spool: id and fingerprint."""
        self._socket = Socket(self.run_dir / "edge.sock", POS_TIMEOUT_S)
        self._either = FirstThat(self._hand_over, SpoolFolder(self.state_dir / "spool"))
        self.pos = Pos(*books, self._hand_over_somehow, lambda: ring(self.run_dir / "ring"))
        self._register = Register(till_id, Random(f"{seed} {till_id}"), make_catalogue(Random(7)))
        self._now_ms = START_MS
        self.closed = self.examined = 0
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()

    def _hand_over(self, body: bytes, /) -> None:
        self._socket(body)
        self.taken += 1

    def _hand_over_somehow(self, body: bytes, /) -> None:
        self._either(body)
        if self._yard.is_dark:
            raise NotTakenError("the POS loses its power with the till, and hears nothing any more")
        self.promised[identity_of(body)] = fingerprint(body)

    def close_document(self) -> None:
        self._now_ms += 60_000
        document = self._register.close_next(self._now_ms)
        self.pos.close(document)
        self.closed += 1

    def close_documents(self, count: int) -> None:
        for _ in range(count):
            self.close_document()

    def open(self) -> None:
        """Let the POS close documents, one after the other, until `close_up`."""
        self._stopping.clear()
        self._thread = threading.Thread(target=self._sell, daemon=True)
        self._thread.start()

    def close_up(self) -> None:
        self._stopping.set()
        if self._thread:
            self._thread.join()

    def status(self) -> dict:
        """Ask the agent; raises OSError or HTTPException while it is down."""
        connection = UnixConnection(self.run_dir / "edge.sock", 5)
        with contextlib.closing(connection):
            connection.request("GET", "/status")
            return json.loads(connection.getresponse().read())

    def is_connected(self) -> bool:
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.status()["connected"]
        return False

    def _sell(self) -> None:
        while not self._stopping.is_set():
            if self.closed - self._yard.stored.get(self.till_id, 0) < self._yard.unsent_most:
                self.close_document()
            else:
                self.pos.repeat()
                self._stopping.wait(0.005)


class Yard:
    """Everything that runs. ``agent`` and ``central`` name the program, for variants that are wrong on purpose."""

    def __init__(
        self,
        folder: Path,
        nursery: Nursery,
        tills: int,
        seed: int,
        *,
        broker: str = "mosquitto",
        agent: tuple[str, ...] = OURS,
        central: tuple[str, ...] = OURS,
        agent_settings: dict | None = None,
        central_settings: dict | None = None,
        unsent_most: float = UNSENT_MOST,
        agents_on: Path | None = None,
        central_on: Path | None = None,
        mosquitto: tuple[str, ...] = (),
        inside: dict[str, tuple[str, ...]] | None = None,
        strangers: Sequence[str] = (),
        broker_at: str = "mqtt://127.0.0.1",
    ) -> None:
        """Let a POS wait with its next customer while its till owes ``unsent_most``.

        ``agents_on`` and ``central_on`` are folders, of other disks, for what they keep; ``mosquitto`` are further
        lines of its configuration. ``inside`` says within what ``agent``, ``central`` and ``broker`` are to run.
        ``strangers`` are further tills that Mosquitto is to know, ``broker_at`` is how it is reached, but for its port.
        """
        inside = inside or {}
        self.unsent_most, self.is_dark = unsent_most, False
        self.nursery, self.site, self.seed = nursery, Site(folder, keep=True), seed
        self.site.fleet_key = FLEET_KEY
        (self.site.folder / "fleet.key").write_bytes(FLEET_KEY)
        self._strangers = strangers
        self._broker_url = f"{broker_at}:{self.site.port}"
        self.books, self.stored = self.site.books, Counter[str]()
        self.broker = self._broker(broker, mosquitto)
        self.broker.command = [*inside.get("broker", ()), *self.broker.command]
        self.agents_on = agents_on or self.site.folder / "tills"
        self.database = central_on / "central.db" if central_on else self.site.database
        kept = {"database": str(self.database), "broker_urls": [self._broker_url]}
        child = self.site.central(**CENTRAL | kept | (central_settings or {}))
        program = [*inside.get("central", ()), *central]
        self.central = Forked(nursery, [*program, *child.command[1:]], child.log_path)
        agent = (*inside.get("agent", ()), *agent)
        self.tills = [self._till(till_id, agent, agent_settings or {}) for till_id in TILLS[:tills]]
        self._reader: sqlite3.Connection | None = None

    def _till(self, till_id: str, program: tuple[str, ...], settings: dict) -> Till:
        state = self.agents_on / till_id
        kept = {"state_dir": str(state), "spool_dir": str(state / "spool"), "broker_urls": [self._broker_url]}
        child = self.site.agent(till_id, self.site.port, **AGENT | kept | settings)
        (state / "spool").mkdir(parents=True, exist_ok=True)
        return Till(self, till_id, [*program, *child.command[1:]], child.log_path, str(self.seed))

    def _broker(self, kind: str, lines: tuple[str, ...]) -> Forked:
        if kind == "embedded":
            child = self.site.broker()
            return Forked(self.nursery, child.command, child.log_path)
        host = urlsplit(self._broker_url).hostname
        tills = [*TILLS, *self._strangers]
        server = mosquitto_server(self.site.folder / "mosquitto", self.site.port, *lines, host=host, tills=tills)
        return Executed(self.nursery, server.command, self.site.logs / "broker.log")

    @property
    def programs(self) -> list[Forked]:
        return [self.broker, self.central, *(till.agent for till in self.tills)]

    def __enter__(self) -> Self:
        try:
            for program in self.programs:
                program.start()
            assert wait_until(lambda: self.database.exists() and self._look()), self.central.log()
            for till in self.tills:
                assert wait_until(till.is_connected), till.agent.log()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for till in self.tills:
            till.close_up()
        for program in self.programs:
            with contextlib.suppress(AssertionError):
                if program.process_id is not None:
                    program.signal(signal.SIGCONT)
                    program.kill()
        if self._reader:
            self._reader.close()
        self.site.close()

    # -- What central has ------------------------------------------------------------------------------------------

    def look(self) -> int:
        """Look how far the tills' watermarks are; returns how many documents that is, of all tills."""
        assert self._look(), self.central.log()
        return self.stored.total()

    def _look(self) -> bool:
        try:
            if self._reader is None:
                uri = f"file:{self.database}?mode=ro"
                self._reader = sqlite3.connect(uri, uri=True, timeout=20, check_same_thread=False)
            rows = self._reader.execute("SELECT till_id, sum(through) FROM watermark GROUP BY till_id").fetchall()
        except sqlite3.OperationalError as problem:
            if "no such table" in str(problem) or "unable to open" in str(problem):
                return False
            raise
        self.stored = Counter(dict(rows))
        return True

    def forget_reader(self) -> None:
        """Close the connection that looks: the database is about to be taken away."""
        if self._reader:
            self._reader.close()
        self._reader = None

    def closed(self) -> int:
        return sum(till.closed for till in self.tills)

    def unsent(self, till: Till | None = None) -> int:
        """Return how many documents were closed and are not committed now, of one till or of all."""
        closed = till.closed if till else self.closed()  # Counted first: what is closed meanwhile is left out.
        self.look()
        return closed - (self.stored[till.till_id] if till else self.stored.total())

    def settle(self, within_s: float = 60) -> dict[str, int]:
        """Close the shop, wait until central has everything, and return the balance."""
        for till in self.tills:
            till.close_up()
        for till in self.tills:
            assert wait_until(till.pos.repeat), f"{till.till_id}: {till.pos.unconfirmed} documents are not taken"
        wait_until(self.is_settled, within_s)
        return self.balance()

    def is_settled(self) -> bool:
        """Say whether central has as many documents as were closed."""
        return self.unsent() <= 0

    def balance(self) -> dict[str, int]:
        return balance(self.books, self.database)

    def logs(self) -> str:
        return "\n".join(program.log()[-1500:] for program in self.programs)


def balance(books: Path, database: Path) -> dict[str, int]:
    """Count what the POS's books have and central has not (lost), and what central has once too often (doubled).

    A document is its till, its id and its bytes: one that came with other bytes is both lost and doubled.
    """
    closed: Counter[tuple[str, str, str]] = Counter()
    for path in sorted(books.glob(f"*{SUFFIX}")):
        till = path.name.removesuffix(SUFFIX)
        closed.update((till, entry.document_id, entry.blake2b) for entry in read(path))
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=20)) as connection:
        rows = connection.execute("SELECT till_id, document_id, body FROM document")
        stored = Counter((till, document_id, fingerprint(body)) for till, document_id, body in rows)
        quarantined, gaps = connection.execute(
            "SELECT (SELECT count(*) FROM quarantine), (SELECT count(*) FROM gap)"
        ).fetchone()
    return {
        "documents": closed.total(),
        "lost": (closed - stored).total(),
        "doubled": (stored - closed).total(),
        "quarantined": quarantined,
        "gaps": gaps,
    }


def is_in_order(figures: dict[str, int]) -> bool:
    """Say whether a balance shows documents, and nothing that is wrong with them."""
    return figures["documents"] > 0 and not any(figures[name] for name in ("lost", "doubled", "quarantined", "gaps"))


@contextlib.contextmanager
def yard(folder: Path, tills: int, seed: int, **settings) -> Iterator[Yard]:
    """Yield a yard whose programs run."""
    with Nursery() as nursery, Yard(folder, nursery, tills, seed, **settings) as running:
        yield running
