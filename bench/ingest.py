"""Backlog: from an upload's bytes to the commit, against direct inserts of the same rows with the same commit size."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from figures import Figure, middle, middle_ratio
from material import STREAM, bodies, uploads

from central import store as store_module
from central.batch import NewStream, Parcel
from central.store import Store
from wire import codec

TILLS, EACH, UPLOAD, TURN, ROUNDS = 20, 1000, 100, 20, 5
COLUMNS = (
    "till_id, stream, sequence, received_at_ms, body, document_id, transaction_type, store_id, business_day,"
    " shift_number, receipt_number, closed_at_ms, currency, total_minor, is_training"
)


def measure() -> list[Figure]:
    """Return the rate of ingest and its ratio to direct inserts (SQLite, WAL, synchronous=full)."""
    tills = {f"till-{number}": bodies(f"till-{number}", EACH) for number in range(TILLS)}
    packed = uploads(tills, UPLOAD)
    ours, direct = [], []
    for _ in range(ROUNDS):
        rate, rows = _ingest(packed)
        ours.append(rate)
        direct.append(_insert(rows))
    ratios = [one / other for one, other in zip(ours, direct, strict=True)]
    size = sum(len(body) for closed in tills.values() for body in closed) / (TILLS * EACH)
    name = f"upload bytes → committed, {TILLS * EACH:,} documents of {size / 1000:.1f} KB, documents/s"
    met = sorted(ratios)[len(ratios) // 2] >= 0.3
    goal = f"≥ 0.3 of direct (aim 0.5): {middle_ratio(ratios)}"
    return [Figure("ingest", name, middle(ours), f"direct executemany {middle(direct)}", goal, met)]


def _ingest(packed: list[tuple[str, bytes]]) -> tuple[float, list[tuple]]:
    with tempfile.TemporaryDirectory() as folder:
        store = Store(str(Path(folder) / "central.db"), lambda: "bench")
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
        rows = store.database.execute_sql(f"SELECT {COLUMNS} FROM document").fetchall()
        store.close()
    assert len(rows) == TILLS * EACH
    return rate, rows


def _insert(rows: list[tuple]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        store = Store(str(Path(folder) / "central.db"), lambda: "bench")
        started = time.perf_counter()
        for start in range(0, len(rows), UPLOAD * TURN):
            with store.database.writing():
                store.database.run_many(store_module._DOCUMENTS.each, rows[start : start + UPLOAD * TURN])
        rate = len(rows) / (time.perf_counter() - started)
        store.close()
    return rate
