"""Backlog: from an upload's bytes to the commit, against direct inserts of the same rows with the same commit size."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from figures import Figure, middle, middle_ratio
from material import STREAM, bodies, uploads

from central import store as store_module
from central.batch import NewStream, Parcel
from central.database import Place as Database
from central.store import Store
from wire import codec

Place = Callable[[], AbstractContextManager[str]]
TILLS, EACH, UPLOAD, TURN, ROUNDS = 20, 1000, 100, 20, 5
COLUMNS = (
    "till_id, stream, sequence, received_at_ms, body, document_id, transaction_type, store_id, business_day,"
    " shift_number, receipt_number, closed_at_ms, currency, total_minor, is_training"
)


def measure() -> list[Figure]:
    """Return the rate of ingest and its ratio to direct inserts, on both databases, each commit durable."""
    from postgres import running

    tills = {f"till-{number}": bodies(f"till-{number}", EACH) for number in range(TILLS)}
    packed = uploads(tills, UPLOAD)
    size = sum(len(body) for closed in tills.values() for body in closed) / (TILLS * EACH)
    name = f"upload bytes → committed, {TILLS * EACH:,} documents of {size / 1000:.1f} KB, documents/s"
    figures = [_measure(packed, name, _file, least=0.3, aim=0.5)]
    with running(in_memory=False, max_wal_size="1GB") as server:
        figures.append(_measure(packed, f"{name}, PostgreSQL", partial(_database, server), least=0.6, aim=0.8))
    return figures


def _measure(packed: list[tuple[str, bytes]], name: str, place: Place, least: float, aim: float) -> Figure:
    ours, direct = [], []
    for _ in range(ROUNDS):
        rate, rows = _ingest(packed, place)
        ours.append(rate)
        with place() as where:
            direct.append(insert(rows, where))
    ratios = [one / other for one, other in zip(ours, direct, strict=True)]
    met = sorted(ratios)[len(ratios) // 2] >= least
    goal = f"≥ {least} of direct (aim {aim}): {middle_ratio(ratios)}"
    return Figure("ingest", name, middle(ours), f"direct executemany {middle(direct)}", goal, met)


@contextmanager
def _file() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        yield str(Path(folder) / "central.db")


@contextmanager
def _database(server: Any) -> Iterator[str]:
    url = server.new_database()
    yield url
    server.drop(url)


def _ingest(packed: list[tuple[str, bytes]], place: Place) -> tuple[float, list[tuple]]:
    with place() as where:
        store = Store(where, lambda: "bench")
        streams = [NewStream(f"till-{number}", STREAM.format(number), ()) for number in range(TILLS)]
        store.open_streams(streams, {}, 0)
        limits = codec.SalesLimits(documents=UPLOAD, inflated_bytes=2**21)
        started = time.perf_counter()
        for start in range(0, len(packed), TURN):
            turn = packed[start : start + TURN]
            outcomes = store.ingest(
                [Parcel(till, codec.unpack_sales(payload, limits)) for till, payload in turn], {}, 0
            )
            assert all(outcome.kind == "advanced" for outcome in outcomes)
        rate = TILLS * EACH / (time.perf_counter() - started)
        store.close()
        rows = stored_rows(where)
    assert len(rows) == TILLS * EACH
    return rate, rows


def stored_rows(where: str) -> list[tuple]:
    """Return all documents as the rows that they are."""
    with contextlib.closing(Database(where).look(to_write=False)) as database:
        return database.run(f"SELECT {COLUMNS} FROM document").fetchall()


def insert(rows: list[tuple], where: str) -> float:
    """Put rows straight into an empty database, as many in a commit as central takes; returns rows a second."""
    store = Store(where, lambda: "bench")
    started = time.perf_counter()
    for start in range(0, len(rows), UPLOAD * TURN):
        with store.database.writing():
            store.database.run_many(store_module._DOCUMENTS.each, rows[start : start + UPLOAD * TURN])
    rate = len(rows) / (time.perf_counter() - started)
    store.close()
    return rate
