"""What a receipt costs central as the fleet grows: it has to stay flat."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from figures import FLAT, Figure, middle
from selling import a_fleet, connect, sell
from station import cpu_s, running

FLEETS = (10, 100, 1_000, 10_000)
RECEIPTS_PER_S, PERIOD_S, ROUNDS = 10.0, 20.0, 3
"""Each measurement is as long as the time between a till's presences: those of all tills come once in it."""


def measure() -> Iterator[Figure]:
    """Return central's CPU for one receipt, the same number a second from ever more tills, less what idleness costs."""
    costs_ms, idle = {}, []
    for tills in FLEETS:
        costs_ms[tills], idle_percent = _costs_ms(tills)
        idle.append(f"{tills:,}: {idle_percent:.1f} %")
    points = tuple((tills, median(costs)) for tills, costs in costs_ms.items())
    first, last = points[0][1], points[-1][1]
    name = f"CPU of central for a receipt, {RECEIPTS_PER_S:.0f} a second, from {FLEETS[0]} to {FLEETS[-1]:,} tills, ms"
    value = " / ".join(middle(costs, ".2f") for costs in costs_ms.values())
    yield Figure("growth", name, value, "", f"≤ {FLAT} times: {last / first:.2f}", last <= FLAT * first, points)
    yield Figure(
        "growth",
        f"CPU of central while nobody sells, presences every {PERIOD_S:.0f} s, of one core",
        ", ".join(idle),
        "",
        "",
        None,
    )


def _costs_ms(tills: int) -> tuple[list[float], float]:
    """Return milliseconds of CPU for one receipt, some times, and the percentage of a core that idle tills take."""
    ids = [f"till-{number}" for number in range(1, tills + 1)]
    with tempfile.TemporaryDirectory() as name, running(Path(name)) as station:
        fleet = a_fleet(station, ids, presence_every_s=PERIOD_S)
        connect(fleet)
        before, began = cpu_s(station.central.pid), time.monotonic()
        fleet.run(lambda: False, PERIOD_S)
        idle = (cpu_s(station.central.pid) - before) / (time.monotonic() - began)
        rounds = [sell(station, fleet, ids, PERIOD_S, 60 * RECEIPTS_PER_S / tills) for _ in range(ROUNDS)]
        fleet.stop()
    return [1000 * (sold.central_cpu_s - idle * sold.busy_s) / len(sold.lags_s) for sold in rounds], 100 * idle
