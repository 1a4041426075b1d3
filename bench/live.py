"""Live tills: from the close of a receipt to the till's knowing that it is stored, with real processes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from figures import Figure
from selling import Sold, a_fleet, connect, sell
from station import Station, running, running_chain

LIVE = ((100, 1.0, 60.0), (1_000, 1.0, 30.0), (10_000, 1.0, 30.0), (5_000, 4.0, 20.0), (10_000, 4.0, 20.0))
"""Tills, receipts a minute of each, and for how long they sell, in seconds; the last two are a rush hour."""
P50_MS, P99_MS = 50, 250


def measure() -> Iterator[Figure]:
    """Return the lags of fleets of growing size on Mosquitto and SQLite."""
    for tills, per_minute, selling_s in LIVE:
        with tempfile.TemporaryDirectory() as name, running(Path(name)) as station:
            yield from _figures("live", "", station, _ids(tills), selling_s, per_minute)


def measure_chain() -> Iterator[Figure]:
    """Return the same with what a chain has: TLS and a token for each till, PostgreSQL on a disk."""
    ids = _ids(10_000)
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name, running_chain(Path(name), ids) as station:
        yield from _figures("chain", " over TLS, PostgreSQL", station, ids, 60.0, 1.0)


def _ids(tills: int) -> list[str]:
    return [f"till-{number}" for number in range(1, tills + 1)]


def _figures(
    part: str, with_what: str, station: Station, ids: list[str], selling_s: float, per_minute: float
) -> list[Figure]:
    fleet = a_fleet(station, ids)
    connect(fleet)
    sold = sell(station, fleet, ids, selling_s, per_minute)
    fleet.stop()
    pace = "one receipt a minute" if per_minute == 1 else f"{per_minute:.0f} receipts a minute"
    title = f"{len(ids):,} tills{with_what}, {pace} each"
    p50, p95, p99, most = (sold.lag_ms(share) for share in (0.5, 0.95, 0.99, 1))
    return [
        Figure(
            part,
            f"{title}: close → stored and told, beyond quiet_s, ms p50/p95/p99/max",
            f"{p50:.0f} / {p95:.0f} / {p99:.0f} / {most:.0f}",
            "",
            f"p50 ≤ {P50_MS}, p99 ≤ {P99_MS}",
            p50 <= P50_MS and p99 <= P99_MS,
        ),
        Figure(part, f"{title}: CPU of one core; peak memory, MiB", _load(sold), "", "", None),
    ]


def _load(sold: Sold) -> str:
    central, broker = (100 * used / sold.busy_s for used in (sold.central_cpu_s, sold.broker_cpu_s))
    return (
        f"central {central:.0f} %, broker {broker:.0f} %; central {sold.central_mib:.0f}, broker {sold.broker_mib:.0f}"
    )
