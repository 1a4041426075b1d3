"""Live tills: from the close of a receipt to the till's knowing that it is stored, with real processes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

from figures import Figure, middle
from selling import Sellers, Sold
from station import Station, running, running_chain

LIVE = ((100, ((1.0, 12.0),)), (1_000, ((1.0, 10.0),)), (10_000, ((1.0, 10.0), (4.0, 10.0))))
"""Tills; receipts a minute of each, and for how long they sell each time, in seconds. Four a minute is a rush hour."""
ROUNDS, PROCESSES = 3, 2
"""The tills are in two processes, so that no core is a limit of theirs alone."""
P50_MS, P99_MS = 50, 250


def measure() -> Iterator[Figure]:
    """Return the lags of fleets of growing size on Mosquitto and SQLite."""
    for tills, paces in LIVE:
        with tempfile.TemporaryDirectory() as name, running(Path(name)) as station:
            yield from _figures("live", "", station, _ids(tills), paces)


def measure_chain() -> Iterator[Figure]:
    """Return the same with what a chain has: TLS and a token for each till, PostgreSQL on a disk."""
    ids = _ids(10_000)
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name, running_chain(Path(name), ids) as station:
        yield from _figures("chain", " over TLS, PostgreSQL", station, ids, ((1.0, 15.0),))


def _ids(tills: int) -> list[str]:
    return [f"till-{number}" for number in range(1, tills + 1)]


def _figures(
    part: str, with_what: str, station: Station, ids: list[str], paces: Sequence[tuple[float, float]]
) -> Iterator[Figure]:
    sellers = Sellers(station, ids, PROCESSES)
    for per_minute, selling_s in paces:
        rounds = [sellers.sell(selling_s, per_minute) for _ in range(ROUNDS)]
        pace = "one receipt a minute" if per_minute == 1 else f"{per_minute:.0f} receipts a minute"
        title = f"{len(ids):,} tills{with_what}, {pace} each"
        p50, p95, p99, most = ([sold.lag_ms(share) for sold in rounds] for share in (0.5, 0.95, 0.99, 1))
        name = f"{title}: close → stored and told, beyond quiet_s, ms p50/p95/p99/max"
        value = " / ".join(map(middle, (p50, p95, p99, most)))
        is_met = median(p50) <= P50_MS and median(p99) <= P99_MS
        yield Figure(part, name, value, "", f"p50 ≤ {P50_MS}, p99 ≤ {P99_MS}", is_met)
        yield Figure(part, f"{title}: CPU of one core, %; peak memory, MiB", _load(rounds), "", "", None)
    sellers.stop()


def _load(rounds: list[Sold]) -> str:
    central, broker = (
        middle([100 * used / sold.busy_s for sold, used in zip(rounds, useds, strict=True)])
        for useds in ([sold.central_cpu_s for sold in rounds], [sold.broker_cpu_s for sold in rounds])
    )
    last = rounds[-1]
    return f"central {central}, broker {broker}; central {last.central_mib:.0f}, broker {last.broker_mib:.0f}"
