"""Owns the one process that runs a whole fleet for the demo: ``python -m fleet.replay SPEC.json``.

It closes documents of the journey or of seeded registers on in-process tills, keeps the POS's ledgers, writes how it
stands into a file, and stays connected until SIGTERM.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random
from typing import Literal

import msgspec

from wire.automation import FACTORY
from wire.program import on_stop_signal
from wire.tokens import token_of

from . import journey
from .baskets import Document, Register, encode
from .catalogue import make_catalogue
from .figures import percentile
from .ledger import Ledger, enter
from .loop import PER_RECEIPT, Fleet, FleetSettings

BURST = 100
"""A replayed till closes so many documents, rings, and closes the next when fewer than that are unsent."""
UNSENT_MAX = 20_000
SLICE_S = 0.02
STATUS_EVERY_S = 0.3


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """What the fleet is to do."""

    baskets: Literal["generated", "journey"]
    port: int
    fleet_key_file: str
    books: str
    status: str
    tills: int
    receipts: int
    """For each till; 0 takes all that the journey has."""
    rate: float
    seed: int


class Status(msgspec.Struct, kw_only=True):
    """How the fleet stands."""

    tills: int = 0
    wanted: int = 0
    connected: int = 0
    closed: int = 0
    stored: int = 0
    is_closed: bool = False
    link_bytes: int = 0
    reconnects: int = 0
    lag_p50_s: float | None = None
    lag_p99_s: float | None = None


class Replay:
    """A fleet, its POSes' books, and what is still to be closed."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        fleet_key = Path(spec.fleet_key_file).read_bytes()
        is_replay = spec.baskets == "journey"
        settings = FleetSettings(
            broker_urls=(f"mqtt://127.0.0.1:{spec.port}",),
            automation=FACTORY if is_replay else PER_RECEIPT,  # A replay rings once for each burst.
            reconnect_max_s=5,
            seed=spec.seed,
            connects_per_s=200,
        )
        self.fleet = Fleet(settings, lambda till_id: token_of(fleet_key, till_id))
        self._documents, self.wanted = _journey(spec) if is_replay else _registers(spec)
        self._ledgers = {}
        for till_id in self._documents:
            self.fleet.add_till(till_id)
            self._ledgers[till_id] = Ledger(Path(spec.books), till_id, fsync=False)
        self._turns = deque(self._documents)
        self._is_stopping = False
        self._status_at = self._started_at = time.monotonic()

    def stop(self) -> None:
        """End after this turn; safe in a signal handler."""
        self._is_stopping = True

    def run(self) -> None:
        """Close everything, then stay connected until told to stop."""
        close_some = self._close_bursts if self._spec.baskets == "journey" else self._close_due
        while not self._is_stopping:
            is_busy = close_some()
            self.fleet.turn(0.0 if is_busy else SLICE_S)
            if time.monotonic() >= self._status_at:
                self._status_at = time.monotonic() + STATUS_EVERY_S
                self._write_status()
        self.fleet.stop()

    def _close_bursts(self) -> bool:
        """Close as fast as central takes it: burst after burst, on the tills that have little unsent."""
        end = time.monotonic() + SLICE_S
        for _ in range(len(self._turns)):
            if self.fleet.unsent >= UNSENT_MAX:
                return False
            till_id = self._turns.popleft()
            burst = list(islice(self._documents[till_id], BURST)) if self._has_little_unsent(till_id) else None
            for document in burst or ():
                self._close(till_id, document)
            if burst:
                self.fleet.ring(till_id)
            if burst is None or burst:
                self._turns.append(till_id)
            if time.monotonic() >= end:
                return True
        return False

    def _has_little_unsent(self, till_id: str) -> bool:
        till = self.fleet.tills[till_id]
        return till.is_up and len(till.unsent) < BURST

    def _close_due(self) -> bool:
        """Close what has come due by the rate, till after till."""
        due = int((time.monotonic() - self._started_at) * self._spec.rate) - self.fleet.closed
        for _ in range(min(due, len(self._turns), 100)):
            till_id = self._turns.popleft()
            document = next(self._documents[till_id], None)
            if document:
                self._close(till_id, document)
                self._turns.append(till_id)
        return due > 100

    def _close(self, till_id: str, document: Document) -> None:
        body = encode(document)
        self._ledgers[till_id].append(enter(document, body))
        self.fleet.close_document(till_id, body)

    def _write_status(self) -> None:
        counted = self.fleet.stats()
        lags_s = tuple(self.fleet.lags_s)
        status = Status(
            tills=len(self._documents),
            wanted=self.wanted,
            connected=counted.connected,
            closed=counted.closed,
            stored=counted.stored,
            is_closed=counted.closed >= self.wanted,
            link_bytes=counted.sent_bytes + counted.received_bytes,
            reconnects=counted.reconnects,
            lag_p50_s=percentile(lags_s, 0.5),
            lag_p99_s=percentile(lags_s, 0.99),
        )
        draft = Path(f"{self._spec.status}.draft")
        draft.write_bytes(msgspec.json.encode(status))
        draft.replace(self._spec.status)


def _journey(spec: Spec) -> tuple[dict[str, Iterator[Document]], int]:
    loaded = journey.load()
    till_ids = loaded.tills()[: spec.tills or None]
    most = spec.receipts or sys.maxsize
    documents: dict[str, Iterator[Document]]
    documents = {till_id: islice(loaded.documents(till_id), spec.receipts or None) for till_id in till_ids}
    return documents, sum(min(most, loaded.baskets(till_id)) for till_id in till_ids)


def _registers(spec: Spec) -> tuple[dict[str, Iterator[Document]], int]:
    products = make_catalogue(Random(spec.seed))
    documents: dict[str, Iterator[Document]] = {}
    for number in range(1, spec.tills + 1):
        till_id = f"till-{number}"
        register = Register(till_id, Random(f"{spec.seed} {till_id}"), products, "demo")
        documents[till_id] = islice(_closed_now(register), spec.receipts)
    return documents, spec.tills * spec.receipts


def _closed_now(register: Register) -> Iterator[Document]:
    while True:
        yield register.close_next(time.time_ns() // 1_000_000)


def main() -> None:
    """Run the fleet that the file named on the command line describes."""
    replay = Replay(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Spec))
    on_stop_signal(replay.stop)
    replay.run()


if __name__ == "__main__":
    main()
