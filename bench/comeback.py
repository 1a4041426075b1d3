"""A fleet comes back with a backlog at once while other tills go on selling."""

from __future__ import annotations

import gc
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

from figures import Figure
from selling import a_fleet, connect, id_of, lags_beyond_quiet, renamed, sales
from station import Station, peak_mib, running

from edge.standing import wall_clock_ms
from fleet.loop import Fleet
from fleet.till import Closed, FleetTill

BACK, EACH, SELLING, PER_MINUTE = 10_000, 100, 500, 4.0
"""Tills that come back, with so many documents each; tills that sell, at a rush hour's pace."""
MOST_S = 900.0
CENTRAL_MIB, BROKER_MIB, P99_S = 300, 200, 5.0


class Back:
    """The tills that come back; when each of them knew all of its backlog to be stored."""

    def __init__(self, station: Station) -> None:
        self.ids = [f"back-{number}" for number in range(1, BACK + 1)]
        self.ended_s: list[float] = []
        self.left = BACK * EACH
        self._stored, self._began = Counter[str](), 0.0
        self.fleet = a_fleet(station, self.ids, self._on_stored)

    def fill(self, meanwhile: Callable[[], None]) -> None:
        """Put the backlog into the outboxes, as if the tills had closed it before; nobody turns their loop yet."""
        material, at_ms = sales(), wall_clock_ms()
        for number, name in enumerate(self.ids * EACH):
            till = self.fleet.tills[name]
            body = renamed(next(material), name, number)
            appended = till.outbox.append(id_of(number), body, at_ms)
            till.unsent.append(Closed(appended.sequence, 0.0))
            if number % 100 == 0:
                meanwhile()
        self._began = time.monotonic()

    def _on_stored(self, till: FleetTill, _closed: Closed, now: float) -> None:
        name = till.config.till_id
        self._stored[name] += 1
        self.left -= 1
        if self._stored[name] == EACH:
            self.ended_s.append(now - self._began)


class Shops:
    """The tills that go on selling, each in its turn, at an even pace from a moment on."""

    def __init__(self, station: Station) -> None:
        self.ids = [f"shop-{number}" for number in range(1, SELLING + 1)]
        self.fleet: Fleet = a_fleet(station, self.ids)
        self._material, self._gap_s = sales(), 60.0 / (SELLING * PER_MINUTE)
        self._next_at, self._number = 0.0, 0

    def open(self) -> None:
        """Begin to sell; what was sold before does not count."""
        connect(self.fleet)
        self._next_at = time.monotonic()

    def turn(self, most_s: float = 0.002) -> None:
        """Close what is due, and let the loop turn."""
        while self._next_at <= time.monotonic():
            till = self.ids[self._number % SELLING]
            self.fleet.close_document(till, renamed(next(self._material), till, self._number))
            self._number, self._next_at = self._number + 1, self._next_at + self._gap_s
        self.fleet.turn(most_s)


def measure() -> Iterator[Figure]:
    """Return how fast the backlog drains, the memory that takes, how fair it is, and what those that sell feel."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name, running(Path(name)) as station:
        shops, back = Shops(station), Back(station)
        shops.open()
        back.fill(shops.turn)
        shops.fleet.lags_s.clear()
        gc.collect()
        gc.freeze()
        took_s = _drain(shops, back)
        gc.unfreeze()
        assert shops.fleet.run(lambda: shops.fleet.unsent == 0, 60), shops.fleet.unsent
        yield from _figures(shops, back, took_s, station)
        for fleet in (shops.fleet, back.fleet):
            fleet.stop()


def _drain(shops: Shops, back: Back) -> float:
    began = time.monotonic()
    while back.left:
        shops.turn()
        back.fleet.turn(0.002)
        assert time.monotonic() < began + MOST_S, f"{back.left} documents are not stored"
    return time.monotonic() - began


def _figures(shops: Shops, back: Back, took_s: float, station: Station) -> Iterator[Figure]:
    title = f"{BACK:,} tills × {EACH} documents come back, {SELLING} sell {PER_MINUTE:.0f} a minute"
    rate = BACK * EACH / took_s
    yield Figure("return", f"{title}: drained, documents/s", f"{rate:,.0f}", f"in {took_s:.0f} s", "", None)
    central, broker = peak_mib(station.central.pid), peak_mib(station.broker.pid)
    goal, met = f"≤ {CENTRAL_MIB}, ≤ {BROKER_MIB}", central <= CENTRAL_MIB and broker <= BROKER_MIB
    yield Figure(
        "return", f"{title}: peak memory of central, broker, MiB", f"{central:.0f}, {broker:.0f}", "", goal, met
    )
    lags_s = lags_beyond_quiet(shops.fleet)
    p99 = lags_s[int(len(lags_s) * 0.99)]
    lag = f"{lags_s[len(lags_s) // 2]:.2f} / {p99:.2f} / {lags_s[-1]:.2f}"
    yield Figure("return", f"{title}: those that sell, s p50/p99/max", lag, "", f"p99 ≤ {P99_S:.0f}", p99 <= P99_S)
    last, middle = max(back.ended_s), median(back.ended_s)
    fair = f"last till after {last:.0f} s, median {middle:.0f} s: {last / middle:.1f} times"
    yield Figure("return", f"{title}: fairness", fair, "", "", None)
