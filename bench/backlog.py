"""A backlog, outbox → broker → commit, with real processes, on each database and each broker."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from figures import Figure, middle, middle_ratio
from ingest import insert, stored_rows
from material import bodies
from selling import a_fleet
from station import Station, cpu_s, postgres, running

TILLS, EACH, ROUNDS = 20, 1000, 3
GOALS = {"SQLite": (0.3, 0.5), "PostgreSQL": (0.6, 0.8)}
"""The least part of the rate of direct inserts, and the aim (design §10)."""


@dataclass(frozen=True)
class Round:
    """Documents a second, ours and put in directly; CPU seconds per million of who took part."""

    ours: float
    direct: float
    central: float
    broker: float
    tills: float


def measure() -> Iterator[Figure]:
    """Return the rate to the commit against direct inserts of the same rows, on both databases and both brokers."""
    tills = {f"till-{number}": bodies(f"till-{number}", EACH) for number in range(1, TILLS + 1)}
    for kind in GOALS:
        for broker in ("Mosquitto", "embedded"):
            yield from _figures(kind, broker, [_round(kind, broker, tills) for _ in range(ROUNDS)])


def _figures(kind: str, broker: str, rounds: list[Round]) -> Iterator[Figure]:
    least, aim = GOALS[kind]
    ratios = [one.ours / one.direct for one in rounds]
    title = f"{kind}, {broker}"
    yield Figure(
        "backlog",
        f"{title}: outbox → stored and told, {TILLS * EACH:,} documents, tills on the same cores, documents/s",
        middle([one.ours for one in rounds]),
        f"direct executemany {middle([one.direct for one in rounds])}",
        f"≥ {least} of direct (aim {aim}): {middle_ratio(ratios)}" if broker == "Mosquitto" else middle_ratio(ratios),
        sorted(ratios)[ROUNDS // 2] >= least if broker == "Mosquitto" else None,
    )
    each = "; ".join(f"{who} {middle([getattr(one, who) for one in rounds])}" for who in ("central", "broker", "tills"))
    yield Figure("backlog", f"{title}: CPU seconds per million documents", each, "", "", None)


def _round(kind: str, broker: str, tills: dict[str, list[bytes]]) -> Round:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name, _database(kind, Path(name)) as database:
        with running(Path(name), database, broker=broker) as station:
            rate, *spent = _drain(station, tills)
        rows = stored_rows(database)
        assert len(rows) == TILLS * EACH
        with _database(kind, Path(name) / "direct") as empty:
            return Round(rate, insert(rows, empty), *spent)


def _drain(station: Station, tills: dict[str, list[bytes]]) -> tuple[float, float, float, float]:
    wanted = TILLS * EACH
    fleet = a_fleet(station, list(tills))
    for till, closed in tills.items():
        for body in closed:
            fleet.close_document(till, body)
    started, before = time.perf_counter(), _cpu_s(station)
    assert fleet.run(lambda: fleet.unsent == 0, 120), (fleet.unsent, station.through())
    rate = wanted / (time.perf_counter() - started)
    spent = [1e6 * (now - then) / wanted for now, then in zip(_cpu_s(station), before, strict=True)]
    fleet.stop()
    return rate, *spent


def _cpu_s(station: Station) -> list[float]:
    """Return what central, broker and the tills, which are in this process, have used."""
    return [cpu_s(station.central.pid), cpu_s(station.broker.pid), time.process_time()]


@contextlib.contextmanager
def _database(kind: str, folder: Path) -> Iterator[str]:
    folder.mkdir(exist_ok=True)
    if kind == "SQLite":
        yield str(folder / "central.db")
        return
    with postgres(folder) as url:
        yield url
