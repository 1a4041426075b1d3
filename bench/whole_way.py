"""The whole way, outbox → broker → commit, with real processes: a backlog, and live tills."""

from __future__ import annotations

import gc
import tempfile
import time
from itertools import cycle
from pathlib import Path

from figures import Figure, middle, middle_ratio
from ingest import COLUMNS, _file, _insert
from material import bodies
from station import Station, cpu_s, peak_mib, running, running_chain

from central.store import Store
from fleet.loop import Fleet, FleetSettings

BACKLOG_TILLS, BACKLOG_EACH, ROUNDS = 20, 1000, 5
LIVE = ((1_000, 60.0), (10_000, 60.0))
"""Tills, and for how long they sell, in seconds; each closes one receipt a minute."""
QUIET_S = 0.5
RETURN_TILLS, RETURN_EACH = 10_000, 20


def measure_backlog() -> list[Figure]:
    """Return the rate of a backlog from the outboxes to the commit, against direct inserts of the same rows."""
    tills = {f"till-{number}": bodies(f"till-{number}", BACKLOG_EACH) for number in range(1, BACKLOG_TILLS + 1)}
    rounds = [_backlog(tills) for _ in range(ROUNDS)]
    ours, direct, central, broker = ([one[column] for one in rounds] for column in range(4))
    ratios = [rate / limit for rate, limit in zip(ours, direct, strict=True)]
    name = f"outbox → stored and told, {BACKLOG_TILLS * BACKLOG_EACH:,} documents, tills on the same cores, documents/s"
    met = sorted(ratios)[ROUNDS // 2] >= 0.3
    limit = f"direct executemany {middle(direct)}"
    each = f"central {middle(central)}; broker {middle(broker)}"
    return [
        Figure("backlog", name, middle(ours), limit, f"≥ 0.3 of direct (aim 0.5): {middle_ratio(ratios)}", met),
        Figure("backlog", "CPU seconds per million documents", each, "", "", None),
    ]


def _backlog(tills: dict[str, list[bytes]]) -> tuple[float, float, float, float]:
    wanted = BACKLOG_TILLS * BACKLOG_EACH
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with running(folder) as station:
            fleet = _fleet(station, list(tills))
            for till, closed in tills.items():
                for body in closed:
                    fleet.close_document(till, body)
            started, cpu = time.perf_counter(), [cpu_s(station.central.pid), cpu_s(station.broker.pid)]
            assert fleet.run(lambda: fleet.unsent == 0, 120), (fleet.unsent, station.through())
            rate = wanted / (time.perf_counter() - started)
            spent = [cpu_s(station.central.pid) - cpu[0], cpu_s(station.broker.pid) - cpu[1]]
            fleet.stop()
        rows = _rows(station.database)
        assert len(rows) == wanted
        return rate, _insert(rows, _file), 1e6 * spent[0] / wanted, 1e6 * spent[1] / wanted


def measure_live() -> list[Figure]:
    """Return the time from close to the till's knowing it is stored, beyond ``quiet_s``, at one receipt a minute."""
    return [figure for tills, selling_s in LIVE for figure in _live(tills, selling_s)]


def measure_chain() -> list[Figure]:
    """Return the same with what a chain has: TLS and a token for each till, PostgreSQL on a disk."""
    tills, selling_s = LIVE[-1]
    ids = [f"till-{number}" for number in range(1, tills + 1)]
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name, running_chain(Path(name), ids) as station:
        return _sell("chain", f"{tills:,} tills over TLS, PostgreSQL", station, ids, selling_s)


def _live(tills: int, selling_s: float) -> list[Figure]:
    ids = [f"till-{number}" for number in range(1, tills + 1)]
    with tempfile.TemporaryDirectory() as name, running(Path(name)) as station:
        return _sell("live", f"{tills:,} tills", station, ids, selling_s)


def _sell(part: str, title: str, station: Station, ids: list[str], selling_s: float) -> list[Figure]:
    material = cycle(body for body in bodies("till-x", 3000) if b'"transaction_type":"sale"' in body)
    fleet = _fleet(station, ids)
    assert fleet.run(lambda: fleet.stats().connected == len(ids), 240), fleet.stats()
    fleet.run(lambda: False, 5)
    gc.collect()
    gc.freeze()  # Ten thousand tills share this process; looking through them all stops each of them at once.
    gap_s, wanted = 60.0 / len(ids), int(selling_s * len(ids) / 60)
    started, cpu = time.monotonic(), [cpu_s(station.central.pid), cpu_s(station.broker.pid)]
    closed = 0
    while closed < wanted:
        while closed < wanted and started + closed * gap_s <= time.monotonic():
            till = ids[closed % len(ids)]
            fleet.close_document(till, _renamed(next(material), till, closed))
            closed += 1
        fleet.turn(min(gap_s, 0.02))
    busy = time.monotonic() - started
    share = [cpu_s(station.central.pid) - cpu[0], cpu_s(station.broker.pid) - cpu[1]]
    assert fleet.run(lambda: fleet.unsent == 0, 60), fleet.unsent
    assert station.through() == wanted
    lags = sorted(lag - QUIET_S for lag in fleet.lags_s)
    memory, broker = peak_mib(station.central.pid), peak_mib(station.broker.pid)
    fleet.stop()
    gc.unfreeze()
    p50, p95, p99 = (lags[int(len(lags) * part)] * 1000 for part in (0.5, 0.95, 0.99))
    name = f"{title}, one receipt a minute each: close → stored and told, beyond quiet_s, ms p50/p95/p99/max"
    value = f"{p50:.0f} / {p95:.0f} / {p99:.0f} / {lags[-1] * 1000:.0f}"
    load = ", ".join(f"{who} {100 * s / busy:.0f} %" for who, s in zip(("central", "broker"), share, strict=True))
    both = f"{load}; central {memory:.0f}, broker {broker:.0f}"
    return [
        Figure(part, name, value, "", "p50 ≤ 50, p99 ≤ 250", p50 <= 50 and p99 <= 250),
        Figure(part, f"{title}: CPU of one core; peak memory, MiB", both, "", "", None),
    ]


def measure_return() -> list[Figure]:
    """Return central's and the broker's memory while a whole fleet comes back with a backlog at once."""
    material = [body for body in bodies("till-x", 3000) if b'"transaction_type":"sale"' in body]
    with tempfile.TemporaryDirectory() as name, running(Path(name)) as station:
        ids = [f"till-{number}" for number in range(1, RETURN_TILLS + 1)]
        fleet = _fleet(station, ids)
        for number, till in enumerate(ids * RETURN_EACH):
            fleet.close_document(till, _renamed(material[number % len(material)], till, number))
        started = time.perf_counter()
        assert fleet.run(lambda: fleet.unsent == 0, 200), (fleet.unsent, station.through())
        took_s = time.perf_counter() - started
        memory, broker = peak_mib(station.central.pid), peak_mib(station.broker.pid)
        fleet.stop()
    count = RETURN_TILLS * RETURN_EACH
    name = f"{RETURN_TILLS:,} tills × {RETURN_EACH} documents come back at once: central's peak memory, MiB"
    rate = f"drained at {count / took_s:,.0f} documents/s, 400 connections a second among it; broker {broker:.0f} MiB"
    return [Figure("return", name, f"{memory:.0f}", rate, "≤ 300 (design: with 100 documents each)", memory <= 300)]


def _fleet(station: Station, tills: list[str]) -> Fleet:
    settings = FleetSettings(broker_urls=(station.url,), tls_ca_file=station.ca_file, connects_per_s=400)
    fleet = Fleet(settings, station.token)
    for till in tills:
        fleet.add_till(till)
    return fleet


def _renamed(body: bytes, till: str, number: int) -> bytes:
    """Give a document another till's name and an id of its own, keeping its length about the same."""
    body = body.replace(b'"till_id":"till-x"', b'"till_id":"%s"' % till.encode(), 1)
    return body.replace(body[16:52], b"%036d" % number, 1)


def _rows(database: str) -> list[tuple]:
    store = Store(database, lambda: "bench")
    rows = store.database.execute_sql(f"SELECT {COLUMNS} FROM document").fetchall()
    store.close()
    return rows
