"""Owns the two kinds of till side a demo can have: a real agent process for each till, or one in-process fleet."""

from __future__ import annotations

import time
from pathlib import Path
from random import Random
from typing import Protocol

import msgspec

from .chaos import Chaos
from .figures import Figures, Stored
from .meter import Meter
from .processes import Child, Site, wait_until
from .replay import Spec, Status
from .shop import AGAIN_S, Shop

STARTED_TOGETHER = 4
"""An agent's start costs half a second of CPU: more at once only wait for each other."""
START_S = 60.0
CHAOS_S = 180.0


class Crew(Protocol):
    """The tills of a run and their POSes."""

    title: str

    def start(self, broker: Child, central: Child) -> None:
        """Bring the tills up and let them close documents."""

    def fill(self, figures: Figures) -> None:
        """Say how the tills' side stands."""

    def is_closed(self) -> bool:
        """Say whether every document that is to be closed was closed."""

    def remind(self, stored: Stored) -> None:
        """Do what shops do while documents are on their way: go on ringing."""

    def findings(self) -> list[str]:
        """Return what the run failed to do."""

    def rest(self) -> None:
        """Close no document and kill nothing any more; safe to repeat."""

    def stop(self) -> None:
        """End what is in this process."""


class AgentCrew:
    """A process for each till, cashiers in this process, and a relay between them and the broker that counts bytes."""

    def __init__(self, site: Site, tills: int, receipts: int, rate: float, seed: int, *, chaos: bool) -> None:
        self._site, self._seed, self._is_chaotic = site, seed, chaos
        self._wanted = tills * receipts
        self.title = f"{tills} real agent processes, documents through socket and spool, rung by FIFO"
        self._meter = Meter(site.port)
        till_ids = [f"till-{number}" for number in range(1, tills + 1)]
        self._shop = Shop(site, till_ids, rate, receipts, seed)
        self._agents: dict[str, Child] = {}
        self.chaos: Chaos | None = None
        self._reminded_at = 0.0
        self._killers_view = Stored(site.database)

    def start(self, broker: Child, central: Child) -> None:
        """Start the agents a few at a time, then open the shop."""
        self._meter.start()
        for till_id in self._shop.counters:
            self._agents[till_id] = self._site.agent(
                till_id,
                self._meter.port,
                ring_again_s=5,
                reconnect_min_s=0.2,
                reconnect_max_s=2,
            )
        names = list(self._agents)
        for first in range(0, len(names), STARTED_TOGETHER):
            self._start_some(names[first : first + STARTED_TOGETHER])
        self._shop.start(keep_open=self._is_chaotic)
        if self._is_chaotic:
            rng = Random(f"{self._seed} chaos")
            self.chaos = Chaos(self._agents, central, broker, self._unsent, rng, CHAOS_S)
            self.chaos.start()

    def fill(self, figures: Figures) -> None:
        """Say how the shop stands; the lag is measured where a document is committed."""
        figures.closed, figures.wanted = self._shop.closed, max(self._wanted, self._shop.closed)
        figures.link_bytes = self._meter.total_bytes
        figures.kills = self.chaos.counts() if self.chaos else {}

    @property
    def closed_at_ms(self) -> dict[str, int]:
        """When each document was closed, by ``document_id``."""
        return self._shop.closed_at_ms

    def is_closed(self) -> bool:
        """Say whether the shop is closed, which it may be once the chaos is over."""
        if self.chaos and self.chaos.is_over:
            self._shop.close_up()
        return self._shop.is_closed()

    def remind(self, stored: Stored) -> None:
        """Ring again on tills that have documents unsent: the next receipt, which does not come, would."""
        if time.monotonic() < self._reminded_at:
            return
        self._reminded_at = time.monotonic() + AGAIN_S
        counters = self._shop.counters
        self._shop.remind([till for till in counters if counters[till].closed > stored.by_till.get(till, 0)])

    def findings(self) -> list[str]:
        """Return the kinds that were not killed often enough while it mattered."""
        return self.chaos.shortfalls() if self.chaos else []

    def rest(self) -> None:
        """End chaos and shop."""
        if self.chaos:
            self.chaos.stop()
        self._shop.stop()

    def stop(self) -> None:
        """End the relay, which cuts the tills off."""
        self._meter.stop()

    def _start_some(self, names: list[str]) -> None:
        for name in names:
            self._agents[name].start()
        sockets = [self._site.run_dir(name) / "edge.sock" for name in names]
        wait_until(
            lambda: all(path.exists() for path in sockets), START_S, "the agents did not start", self._site.check
        )

    def _unsent(self, till_id: str | None) -> int:
        """Count for the chaos, in its thread: closed by the POS, and not in central's database at this instant."""
        counters, stored = self._shop.counters, self._killers_view
        closed = counters[till_id].closed if till_id else self._shop.closed
        stored.look()
        return max(0, closed - (stored.by_till.get(till_id, 0) if till_id else stored.total))


class FleetCrew:
    """One process for all tills."""

    def __init__(self, site: Site, spec: Spec) -> None:
        self._status_path = Path(spec.status)
        self._status = Status()
        path = site.folder / "fleet.json"
        path.write_bytes(msgspec.json.encode(spec))
        self._site, self._child = site, site.fleet(path)
        tills = f"{spec.tills} tills" if spec.tills else "all tills"
        self.title = f"{tills} in one process (outboxes in memory), {spec.baskets} baskets"

    def start(self, broker: Child, central: Child) -> None:
        """Start it; loading the journey takes it some seconds."""
        del broker, central
        self._child.start()
        wait_until(self._status_path.exists, 2 * START_S, "the fleet did not start", self._site.check)

    def fill(self, figures: Figures) -> None:
        """Say how the fleet stands; the lag is measured where the till learns that a document is stored."""
        self._status = status = msgspec.json.decode(self._status_path.read_bytes(), type=Status)
        figures.tills, figures.connected = status.tills, status.connected
        figures.closed, figures.wanted = status.closed, status.wanted
        figures.link_bytes = status.link_bytes
        figures.lag_p50_s, figures.lag_p99_s = status.lag_p50_s, status.lag_p99_s

    def is_closed(self) -> bool:
        """Say whether everything was closed."""
        return self._status.is_closed

    def remind(self, stored: Stored) -> None:
        """Do nothing: these tills ring by themselves."""

    def findings(self) -> list[str]:
        """Return nothing: what could fail ends the run."""
        return []

    def rest(self) -> None:
        """Do nothing: it rests when everything is closed."""

    def stop(self) -> None:
        """Do nothing: the process ends with the site."""
