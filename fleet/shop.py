"""Owns the POS side of a demo with real agents: cashiers in threads, who close documents at a given rate.

Each till's POS hands over through the agent's socket, or the spool folder while the agent is down, and rings by the
FIFO afterwards, exactly as ``unloadSales.sh`` does.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from random import Random

from .baskets import Document, Register
from .catalogue import Product, make_catalogue
from .ledger import Ledger
from .pos import FirstThat, Journal, Pos, Socket, SpoolFolder, ring
from .processes import Site

CASHIERS = 8
SHIFT_DOCUMENTS = 30
"""Short shifts, so that a short run closes some."""
AGAIN_S = 1.0


class Counter:
    """One till's POS and its register."""

    def __init__(self, site: Site, till_id: str, products: tuple[Product, ...], seed: int) -> None:
        self.till_id = till_id
        self._register = Register(till_id, Random(f"{seed} {till_id}"), products, "demo", SHIFT_DOCUMENTS)
        spool = site.folder / "tills" / till_id / "spool"
        self._fifo = site.run_dir(till_id) / "ring"
        way = FirstThat(Socket(site.run_dir(till_id) / "edge.sock"), SpoolFolder(spool))
        # What is killed is never this process: its books need no fsync, the agents' outboxes have theirs.
        books = (Ledger(site.books, till_id, fsync=False), Journal(site.books, till_id, fsync=False))
        self.pos = Pos(*books, way, self.ring)
        self.closed = 0

    def ring(self) -> bool:
        """Ring the agent, as the hook does after each document."""
        return ring(self._fifo)

    def close_next(self, on_closed: Callable[[Document], object]) -> None:
        """Close one document now; ``on_closed`` hears of it before anyone else can."""
        document = self._register.close_next(time.time_ns() // 1_000_000)
        on_closed(document)
        self.pos.close(document)
        self.closed += 1  # Counted once it stands in the ledger, so that nothing counts as unsent too early.


class Shop:
    """All tills' cashiers: an open-loop schedule, so that a slow agent shows as lag and not as fewer customers."""

    def __init__(self, site: Site, till_ids: list[str], rate: float, least: int, seed: int) -> None:
        products = make_catalogue(Random(seed))
        self.counters = {till_id: Counter(site, till_id, products, seed) for till_id in till_ids}
        self.closed_at_ms: dict[str, int] = {}
        self._rate, self._least = rate, least
        self._keep_open = threading.Event()
        self._closing = threading.Event()
        self._problems: list[Exception] = []
        self._threads: list[threading.Thread] = []

    @property
    def closed(self) -> int:
        """Return how many documents were closed so far."""
        return sum(counter.closed for counter in self.counters.values())

    def start(self, *, keep_open: bool) -> None:
        """Open the shop; with ``keep_open`` it goes on past the least number of documents until told otherwise."""
        if keep_open:
            self._keep_open.set()
        started_at = time.monotonic()
        counters = list(self.counters.values())
        for place in range(min(CASHIERS, len(counters))):
            thread = threading.Thread(target=self._work, args=(counters, place, started_at), daemon=True)
            self._threads.append(thread)
            thread.start()

    def close_up(self) -> None:
        """Go on only until each till has closed its least number of documents."""
        self._keep_open.clear()

    def stop(self) -> None:
        """Close no further document."""
        self._closing.set()
        for thread in self._threads:
            thread.join()

    def is_closed(self) -> bool:
        """Say whether no cashier works any more; raises what stopped one."""
        if self._problems:
            raise self._problems[0]
        return not any(thread.is_alive() for thread in self._threads)

    def remind(self, till_ids: list[str]) -> None:
        """Hand over what nobody took yet and ring once more, as the next customer's receipt would."""
        for till_id in till_ids:
            counter = self.counters[till_id]
            if counter.pos.repeat():
                counter.ring()

    def _work(self, counters: list[Counter], place: int, started_at: float) -> None:
        """Serve every eighth customer or so: the k-th comes to till k modulo the number of tills."""
        try:
            for round_number in range(10**9):
                if round_number >= self._least and not self._keep_open.is_set():
                    return
                for number in range(place, len(counters), CASHIERS):
                    due_at = started_at + (round_number * len(counters) + number) / self._rate
                    if self._closing.wait(max(0.0, due_at - time.monotonic())):
                        return
                    counters[number].close_next(self._note_closed)
        except Exception as problem:  # noqa: BLE001 -- whoever waits for the shop must hear of any error
            self._problems.append(problem)

    def _note_closed(self, document: Document) -> None:
        self.closed_at_ms[document["document_id"]] = time.time_ns() // 1_000_000
