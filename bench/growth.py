"""What a chain costs when it has grown: a receipt of ever more tills, and the console over millions of receipts.

``make bench-growth``, or ``ARGS="--database sqlite --scale 0.1"``. The millions are only generated. A real console
process answers over a real socket; what is measured is what a browser waits for its HTML, the server's time and the
way there and back included.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "bench"), str(ROOT / "tests"), str(ROOT / "tests/live")]

import growing_fleet  # noqa: E402
import httpx  # noqa: E402
from brokers import wait_until  # noqa: E402
from figures import FLAT, Figure, middle  # noqa: E402
from material import STREAM, bodies, uploads  # noqa: E402
from run import show  # noqa: E402
from tabs import EVERY_S, TABS  # noqa: E402

from central import accounts  # noqa: E402
from central.batch import NewStream, Parcel  # noqa: E402
from central.database import Place  # noqa: E402
from central.pool import Pool  # noqa: E402
from central.service import wall_clock_ms  # noqa: E402
from central.store import Store  # noqa: E402
from wire import codec  # noqa: E402
from wire.messages import TillPresence, said  # noqa: E402

TILLS, STORE_TILLS, DAYS = 5_000, 10, 60
DOCUMENTS = {"sqlite": 1_000_000, "postgresql": 5_000_000}
SERVER = {"shared_buffers": "1GB", "max_wal_size": "8GB", "maintenance_work_mem": "512MB"}
PASSWORD, DAY_MS, MINUTE_MS = "only for the benchmark", 86_400_000, 60_000
WARM, ASKED = 5, 60
ROUNDS, ROUND_S = 5, 12.0
STEPS, STEP_S = 3, 2.0
"""Storing is measured so often, so long, at each size: short, for it makes the database larger."""
GOAL_MS, HTML_KB, ASSETS_KB, LOAD_PERCENT = 100, 60, 55, 5
BODY_BYTES = 700
SHARES = (0.04, 0.2, 1.0)
"""How much of all is there when storing a receipt is measured again."""
AT_ONCE, EACH, UPLOAD = 20, 500, 100


def main() -> int:
    """Measure growing fleets, then both databases, one after the other."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument(
        "--database", choices=DOCUMENTS, action="append", help="only what is stored there; may be repeated"
    )
    options.add_argument("--scale", type=float, default=1.0, help="so many times the receipts")
    options.add_argument("--out", type=Path, help="a folder for growth.json and the curves drawn from it")
    chosen = options.parse_args()
    stored = (one for kind in chosen.database or DOCUMENTS for one in measure(kind, chosen.scale))
    figures = stored if chosen.database else chain(growing_fleet.measure(), stored)
    return show(figures, chosen.out, "growth")


def measure(kind: str, scale: float = 1.0) -> Iterator[Figure]:
    """Yield the figures of one database."""
    each, packed = max(DAYS, round(DOCUMENTS[kind] * scale) // TILLS), uploads(_anybodys(), UPLOAD)
    part = f"growth, {kind}"
    with _database(kind) as url:
        fill_fleet(url, each)
        costs_us, filled, took_s = [_store_us(url, "empty", packed)], 0, 0.0
        for share in SHARES:
            began, upto = time.perf_counter(), round(share * each)
            fill(url, each, filled, upto)
            filled, took_s = upto, took_s + time.perf_counter() - began
            costs_us.append(_store_us(url, f"filled-{share}", packed))
        made = f"{TILLS:,} tills, {TILLS * each:,} receipts of {BODY_BYTES} B"
        yield Figure(part, f"{made}: made in s; size, GB", f"{took_s:,.0f}; {_size_gb(url):.1f}", "", "")
        yield _grown(part, costs_us)
        with _console(url) as (address, cookie, process):
            yield from _pages(part, address, cookie, url, process)
            yield from _load(part, address, cookie, url, process, packed)


@contextlib.contextmanager
def _database(kind: str) -> Iterator[str]:
    if kind == "sqlite":
        with tempfile.TemporaryDirectory() as folder:
            yield str(Path(folder) / "central.db")
        return
    from postgres import running

    with running(in_memory=False, **SERVER) as server:
        yield server.new_database()


def _size_gb(url: str) -> float:
    with closing(Place(url).look(to_write=False)) as database:
        return database.size_bytes() / 1e9


# -- What there is -----------------------------------------------------------------------------------------------------


def _tills() -> list[tuple[int, str, str]]:
    """Return number, name and store of each till."""
    return [(n, f"{n // STORE_TILLS:04}-{n % STORE_TILLS:02}", f"{n // STORE_TILLS:04}") for n in range(TILLS)]


def _days() -> list[tuple[int, str, int]]:
    """Return number, date and noon of each business day; the last one is today."""
    today = datetime.now(UTC).date()
    dates = [today - timedelta(days=DAYS - 1 - n) for n in range(DAYS)]
    noons = [datetime(one.year, one.month, one.day, 12, tzinfo=UTC).timestamp() for one in dates]
    return [(n, one.isoformat(), round(noon * 1000)) for n, (one, noon) in enumerate(zip(dates, noons, strict=True))]


def fill_fleet(url: str, each: int) -> None:
    """Make tills, streams and days, as they would be after 60 days."""
    Store(url, lambda: "bench").close()
    with closing(Place(url).open()) as database, database.atomic():
        _fill_fleet(database, each)


def fill(url: str, each: int, first: int, upto: int) -> None:
    """Make each till's receipts from one to another, of so many in all."""
    with closing(Place(url).open()) as database:
        with _without_indexes(database):
            _fill_documents(database, each, first, upto)
        database.run("ANALYZE")


def _fill_fleet(database: Any, each: int) -> None:
    """One till in 50 owes documents, one in 100 is offline, one in 200 parked; one day in 40 is not complete."""
    now_ms = wall_clock_ms()
    shown = [_till_row(n, till, store, now_ms) for n, till, store in _tills()]
    many = database.run_many
    many(
        "INSERT INTO till (till_id, store_id, is_approved, first_seen_ms, is_online, connection, presence_at_ms,"
        " presence, clock_skew_ms, parked_at_ms, parked_note) VALUES (?, ?, TRUE, 0, ?, 1, ?, ?, 120, ?, '')",
        shown,
    )
    marks = [(till, STREAM.format(n), each, bytes(16), now_ms, now_ms, now_ms) for n, till, _ in _tills()]
    columns = "till_id, stream, through, digest, opened_at_ms, moved_at_ms, verified_at_ms"
    many(f"INSERT INTO watermark ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?)", marks)
    owing = [(n, till) for n, till, _ in _tills() if n % 50 == 7]
    heads = [(till, STREAM.format(n), each + 9, bytes(16), now_ms) for n, till in owing]
    columns = "till_id, stream, boot_id, newest, digest, heard_at_ms"
    many(f"INSERT INTO heard_head ({columns}) VALUES (?, ?, 'b', ?, ?, ?)", heads)
    columns = "task_id, till_id, worker, state, reason, attempts, created_at_ms, note"
    tasks = [(f"1.1.{n}", till, now_ms) for n, till in owing]
    many(f"INSERT INTO task ({columns}) VALUES (?, ?, 1, 'queued', 'doorbell', 1, ?, '')", tasks)
    gaps = [(till, STREAM.format(n), now_ms) for n, till in owing[::5]]
    columns = "till_id, stream, first, last, reason, found_at_ms, note"
    many(f"INSERT INTO gap ({columns}) VALUES (?, ?, 3, 4, 'lost', ?, '')", gaps)
    stores = sorted({store for _, _, store in _tills()})
    days = [(store, day, _state(n, s), noon) for n, day, noon in _days() for s, store in enumerate(stores)]
    many("INSERT INTO day (store_id, business_day, state, since_ms) VALUES (?, ?, ?, ?)", days)


def _till_row(n: int, till: str, store: str, now_ms: int) -> tuple[Any, ...]:
    is_online = n % 100 != 3
    presence = said(TillPresence, online=is_online, connection=1, boot_id="b", store_id=store, agent_version="1.0.0",
                    clock_ms=now_ms, started_at_ms=now_ms, disk_free_bytes=10**10, unsent=0)  # fmt: skip
    shown_at_ms = now_ms + 60 * MINUTE_MS  # As if it went on showing itself while it is measured.
    parked_at_ms = now_ms if n % 200 == 11 else None
    return till, store, is_online, shown_at_ms, codec.encode(presence).decode(), parked_at_ms


def _state(day: int, store: int) -> str:
    if day == DAYS - 1:
        return "open"
    return ("partial", "mismatch")[store % 2] if (day * 7 + store) % 40 == 0 else "complete"


@contextlib.contextmanager
def _without_indexes(database: Any) -> Iterator[None]:
    """Make the indexes of the documents anew behind what is filled in: by each row they take most of the time."""
    if database.kind == "sqlite":
        found = "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = 'document' AND sql NOT NULL"
    else:
        plain = "tablename = 'document' AND position('UNIQUE' in indexdef) = 0"
        found = f"SELECT indexname, indexdef FROM pg_indexes WHERE {plain}"
    indexes = database.execute_sql(found).fetchall()
    for name, _ in indexes:
        database.run(f"DROP INDEX {name}")
    yield
    for _, statement in indexes:
        database.execute_sql(statement)


def _fill_documents(database: Any, each: int, first: int, upto: int) -> None:
    """Store the receipts in the order in which they would have come: of all tills in turn."""
    is_file = database.kind == "sqlite"
    template = min(bodies("bench", 400), key=lambda body: abs(len(body) - BODY_BYTES)).decode()
    document_id = json.loads(template)["document_id"]
    body = "replace(?, '@', t.till_id || '-' || ?)"
    body = f"CAST({body} AS BLOB)" if is_file else f"convert_to({body}, 'UTF8')"
    with database.atomic():
        database.run("CREATE TEMPORARY TABLE many (n INTEGER, till_id TEXT, store_id TEXT, stream TEXT)")
        rows = [(n, till, store, STREAM.format(n)) for n, till, store in _tills()]
        database.run_many("INSERT INTO many VALUES (?, ?, ?, ?)", rows)
    columns = (
        "till_id, stream, sequence, document_id, transaction_type, store_id, business_day, shift_number,"
        " receipt_number, closed_at_ms, currency, total_minor, is_training, received_at_ms, body"
    )
    # Values that stand only among what is selected have no type of their own on a server: each is given one.
    number, text = "CAST(? AS BIGINT)", "CAST(? AS TEXT)"
    body = body.replace("?", text)
    statement = (
        f"INSERT INTO document ({columns}) SELECT t.till_id, t.stream, {number}, t.till_id || '-' || {text}, 'sale',"
        f" t.store_id, {text}, {number}, {number}, {number} + t.n, 'RUB', 1000 + t.n, FALSE, {number} + t.n, {body}"
        " FROM many t ORDER BY t.n"
    )
    days, template = _days(), template.replace(document_id, "@")
    for start in range(first, upto, 50):
        with database.atomic():
            for place in range(start, min(start + 50, upto)):
                number_of_day, day, noon = days[place * DAYS // each]
                at_ms = noon + place % 600 * MINUTE_MS // 2
                sequence, name = place + 1, str(place)
                database.run(
                    statement,
                    (sequence, name, day, number_of_day, sequence, at_ms, at_ms + 500, template, name),
                )


# -- What is asked -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _console(url: str) -> Iterator[tuple[str, str, int]]:
    """Run a console; yields its address, the cookie of a viewer's session, and the process."""
    with Pool(Place(url)) as pool, pool.changing("the benchmark"):
        accounts.add("viewer", "viewer", accounts.hash_password(PASSWORD, 12), wall_clock_ms())
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TILLSTREAM_")}
    ours = {"TILLSTREAM_DATABASE": url, "TILLSTREAM_CONSOLE_LISTEN": "127.0.0.1:0", "PYTHONPATH": str(ROOT)}
    with tempfile.NamedTemporaryFile() as log:
        command = [sys.executable, "-m", "tillstream", "central", "console", "run"]
        process = subprocess.Popen(command, cwd=ROOT, env=kept | ours, stdout=log, stderr=log)
        try:
            assert wait_until(lambda: _address(log.name), 30), Path(log.name).read_text("utf-8")
            address = str(_address(log.name))
            yield address, _log_in(address), process.pid
        finally:
            process.terminate()
            process.wait(30)


def _address(log: str) -> str | None:
    found = re.search(r'"address": "(http://[^"]+)"', Path(log).read_text("utf-8"))
    return found[1].rstrip("/") if found else None


def _log_in(address: str) -> str:
    with httpx.Client(base_url=address) as client:
        shown = re.search(r'name="csrf" value="([^"]+)"', client.get("/login").text)
        form = {"name": "viewer", "password": PASSWORD, "next_path": "", "csrf": shown[1] if shown else ""}
        assert client.post("/login", data=form).status_code == 303
        return "; ".join(f"{name}={value}" for name, value in client.cookies.items())


def _pages(part: str, address: str, cookie: str, url: str, process: int) -> Iterator[Figure]:
    day, till = _days()[-2][1], "0003-04"
    main = {"Overview": "/", "Tills": "/tills", "Days": "/days"}
    more = {
        "Stores": "/stores",
        "one till": f"/tills/{till}",
        "a store's day": f"/days/{day}/0003",
        "Receipts": "/receipts",
        "Receipts by number": "/receipts?q=17",
        "Receipts of a till": f"/receipts?q={till}",
        "Tasks": "/tasks",
        "Quarantine": "/quarantine",
        "Consumers": "/consumers",
        "figures for Prometheus": "/metrics",
    }
    scanned = _scans(url)
    with httpx.Client(base_url=address, headers={"Cookie": cookie}) as client:
        for name, path in (main | more).items():
            before_s = _cpu_s(process)
            times_ms = _timed(client, path)
            cpu_ms = (_cpu_s(process) - before_s) / (WARM + ASKED) * 1000
            value = f"{_part(times_ms, 0.5):.0f} / {_part(times_ms, 0.95):.0f} / {times_ms[-1]:.0f}; {cpu_ms:.0f}"
            goal, met = (f"p95 ≤ {GOAL_MS}", _part(times_ms, 0.95) <= GOAL_MS) if name in main else ("", None)
            yield Figure(part, f"{name}, ms p50 / p95 / max; CPU a request", value, "", goal, met)
        yield _scan_figure(part, scanned, url)
        yield from _sizes(part, client)


def _timed(client: httpx.Client, path: str) -> list[float]:
    times_ms = []
    for _ in range(WARM + ASKED):
        began = time.perf_counter()
        answer = client.get(path)
        times_ms.append((time.perf_counter() - began) * 1000)
        assert answer.status_code == 200, (path, answer.status_code, answer.text[:300])
    return sorted(times_ms[WARM:])


def _cpu_s(process: int) -> float:
    """Return what CPU time a process has had: on a machine that does other things, too, that is the steadier figure."""
    fields = Path(f"/proc/{process}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _part(ordered: list[float], part: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


def _scans(url: str) -> int | None:
    """Return how often the server read all documents; None on SQLite, which does not count."""
    if not url.startswith("postgresql"):
        return None
    with closing(Place(url).look(to_write=False)) as database:
        statement = "SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'document'"
        return int(database.execute_sql(statement).fetchone()[0])


def _scan_figure(part: str, before: int | None, url: str) -> Figure:
    if before is None:
        return Figure(part, "reads of the whole table of documents", "not counted", "", "0")
    time.sleep(2)  # Its backends tell what they counted about once a second.
    scans = (_scans(url) or 0) - before
    return Figure(part, "reads of the whole table of documents", str(scans), "", "0", scans == 0)


def _sizes(part: str, client: httpx.Client) -> Iterator[Figure]:
    first = client.get("/")
    html_kb = len(first.content) / 1000
    yield Figure(part, "first page, KB of HTML", f"{html_kb:.1f}", "", f"≤ {HTML_KB}", html_kb <= HTML_KB)
    paths = sorted(set(re.findall(r'(?:href|src)="(/static/[^"]+)"', first.text)))
    sizes = {path: _packed_bytes(client, path) for path in paths}
    kb = sum(sizes.values()) / 1000
    yield Figure(part, f"its {len(paths)} files, KB packed", f"{kb:.1f}", "", f"≤ {ASSETS_KB}", kb <= ASSETS_KB)


def _packed_bytes(client: httpx.Client, path: str) -> int:
    with client.stream("GET", path, headers={"Accept-Encoding": "gzip"}) as answer:
        assert answer.status_code == 200, path
        return sum(len(some) for some in answer.iter_raw())


# -- What it costs those who store -------------------------------------------------------------------------------------


def _anybodys() -> dict[str, list[bytes]]:
    """Return what some tills closed, without their names: each time they are stored they are other tills'."""
    named = {f"till-{number}": bodies(f"till-{number}", EACH) for number in range(AT_ONCE)}
    return {till: [one.replace(b'"till_id":"%s",' % till.encode(), b"") for one in own] for till, own in named.items()}


def _store_us(url: str, name: str, packed: list[tuple[str, bytes]]) -> tuple[int, float]:
    """Return how many receipts there are, and how long storing one more takes, in microseconds."""
    with closing(Place(url).look(to_write=False)) as database:
        there = int(database.run("SELECT count(*) FROM document").fetchone()[0])
    return there, 1e6 / median(_ingest(url, f"{name}-{number}", packed, STEP_S) for number in range(STEPS))


def _grown(part: str, costs_us: list[tuple[int, float]]) -> Figure:
    """Compare what storing a receipt takes in a database that has many with what it took in an empty one."""
    dearer = costs_us[-1][1] / costs_us[0][1]
    name = f"to store a receipt, µs, with {' / '.join(f'{count:,}' for count, _ in costs_us)} stored"
    value = " / ".join(f"{cost:.0f}" for _, cost in costs_us)
    return Figure(part, name, value, "", f"≤ {FLAT} times: {dearer:.2f}", dearer <= FLAT, tuple(costs_us))


def _load(
    part: str, address: str, cookie: str, url: str, process: int, packed: list[tuple[str, bytes]]
) -> Iterator[Figure]:
    """Store for some seconds with 12 tabs open and without, in turns."""
    alone, beside, cpu_s = [], [], 0.0
    for number in range(ROUNDS):
        alone.append(_ingest(url, f"alone-{number}", packed))
        with _tabs(address, cookie):
            before_s = _cpu_s(process)
            beside.append(_ingest(url, f"beside-{number}", packed))
            cpu_s += _cpu_s(process) - before_s
    lost = [100 * (1 - one / other) for one, other in zip(beside, alone, strict=True)]
    name = f"documents/s stored while {TABS} tabs ask every {EVERY_S:.0f} s"
    goal = f"< {LOAD_PERCENT} % less: {median(lost):.1f} ({min(lost):.1f} to {max(lost):.1f})"
    yield Figure(part, name, middle(beside), f"without them {middle(alone)}", goal, median(lost) < LOAD_PERCENT)
    took = f"{100 * cpu_s / (ROUNDS * ROUND_S):.0f}"
    yield Figure(part, "CPU of the console meanwhile, % of one core", took, "", "")


def _ingest(url: str, name: str, packed: list[tuple[str, bytes]], for_s: float = ROUND_S) -> float:
    """Return how many documents a second are stored, of tills that are new each time."""
    limits = codec.SalesLimits(documents=UPLOAD, inflated_bytes=2**21)
    with closing(Store(url, lambda: "bench")) as store:
        stored, life, began = 0, 0, time.perf_counter()
        while time.perf_counter() - began < for_s:
            life += 1
            streams = [NewStream(f"{name}-{life}-{n}", STREAM.format(n), ()) for n in range(AT_ONCE)]
            store.open_streams(streams, {}, wall_clock_ms())
            for start in range(0, len(packed), AT_ONCE):
                some = zip(streams, packed[start : start + AT_ONCE], strict=True)
                parcels = [Parcel(stream.till, codec.unpack_sales(data, limits)) for stream, (_, data) in some]
                outcomes = store.ingest(parcels, {}, wall_clock_ms())
                aside = [one for outcome in outcomes for one in outcome.quarantined]
                assert not aside, aside[0]
                stored += sum(one.documents for one in outcomes)
        return stored / (time.perf_counter() - began)


@contextlib.contextmanager
def _tabs(address: str, cookie: str) -> Iterator[None]:
    """Keep tabs open, and begin once each has had its page."""
    command = [sys.executable, str(ROOT / "bench/tabs.py"), address, cookie]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        try:
            yield
        finally:
            process.communicate()  # Closes what it reads: it ends.


if __name__ == "__main__":
    sys.exit(main())
