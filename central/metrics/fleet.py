"""The figures of the fleet, from the database. Whoever asks has bound the models and holds one view of the database.

They are told by the console only, once, however many workers there are. What is not known has no series.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import Any

import peewee as pw
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from central import consumers
from central.completeness import STATES
from central.database import Postgres, Sqlite
from central.late import Known, known
from central.models import (
    Backup,
    Day,
    Document,
    Gap,
    Quarantine,
    Release,
    Rollout,
    StoreRow,
    Task,
    Till,
    Worker,
    still_quarantined,
)
from central.reasons import reason_of
from central.store_clock import ClockError, day_after, store_clock
from wire.reasons import KINDS, Code

from . import families as of
from . import tills as per_till

DAYS_SHOWN = 14
OPEN_STATES = ("waiting", "queued", "requested", "resting")
"""A task's states while something is still wanted."""
_UNSETTLED = ("mismatch", "partial", "open")


@dataclass(frozen=True, slots=True)
class Fleet:
    """What is known of all tills at one moment, and the code of each one's reason; ``now_ms`` is epoch milliseconds."""

    now_ms: int
    tills: Sequence[Known]
    codes: Mapping[str, Code]

    @classmethod
    def read(cls, now_ms: int, denied: Collection[str] = ()) -> Fleet:
        """Read it by one statement; ``denied`` are the names on the broker's deny list."""
        tills = known(denied)
        return cls(now_ms, tills, {one.till_id: reason_of(one.facts, now_ms).code for one in tills})

    def expected(self) -> Iterator[Known]:
        """Return the tills that are not parked."""
        return (one for one in self.tills if one.facts.parked_at_ms is None)


def exposition(fleet: Fleet, *, is_per_till: bool = False) -> bytes:
    """Return the fleet's figures as Prometheus reads them, with each till's if that is wanted."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(_Collected(fleet))
    whole = generate_latest(registry)
    return whole + per_till.lines(fleet.tills, _offsets(fleet)) if is_per_till else whole


class _Collected(Collector):
    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def describe(self) -> Iterator[Metric]:
        return iter(())

    def collect(self) -> Iterator[Metric]:
        yield of.build_info("console")
        yield from _tills(self._fleet)
        yield from _lacking()
        yield from _days(self._fleet.now_ms)
        yield from _releases(self._fleet)
        yield from _consumers()
        yield from _kept()


# -- Tills -------------------------------------------------------------------------------------------------------------


def _tills(fleet: Fleet) -> Iterator[Metric]:
    counts = Counter(fleet.codes.values())
    rows = [((kind.code, kind.severity), float(counts[kind.code])) for kind in KINDS.values()]
    yield of.gauges("tills", "Tills by why they are as they are; parked ones included.", ("state", "severity"), rows)
    owing = [one.facts for one in fleet.expected() if one.facts.behind]
    pending = "Documents that tills rang for and have not come, as far as is known; parked tills left out."
    yield of.gauge("pending_receipts", pending, sum(one.behind or 0 for one in owing))
    oldest = min((one.head_heard_at_ms for one in owing if one.head_heard_at_ms), default=None)
    since = "Since when the oldest of them is known of; no series while nothing is pending."
    yield of.gauge("oldest_pending_timestamp_seconds", since, of.seconds(oldest))
    shown = max((one.facts.presence_at_ms for one in fleet.tills if one.facts.presence_at_ms), default=None)
    newest = "When any till showed itself last: stands still if central hears nobody."
    yield of.gauge("last_heartbeat_timestamp_seconds", newest, of.seconds(shown))
    received = Document.select(Document.received_at_ms).order_by(Document.id.desc()).limit(1).scalar()
    yield of.gauge("last_receipt_timestamp_seconds", "When the newest document was committed.", of.seconds(received))


def _releases(fleet: Fleet) -> Iterator[Metric]:
    runs = {one.till_id: one.presence.agent_version if one.presence else "" for one in fleet.expected()}
    query: Any = Release.select(Release.till_id, Release.wanted).where(Release.wanted != "")
    same = Counter(runs[till] == wanted for till, wanted in query.tuples() if till in runs)
    rows = [(("wanted",), float(same[True])), (("other",), float(same[False]))]
    yield of.gauges("till_releases", "Tills by whether they run the release they are to run.", ("runs",), rows)
    is_open = Rollout.select().where(Rollout.ended_at_ms.is_null()).exists()
    yield of.gauge("rollout_open", "Whether a rollout is under way.", float(is_open))


# -- Documents, days, tasks --------------------------------------------------------------------------------------------


def _lacking() -> Iterator[Metric]:
    codes = _counted(Quarantine, Quarantine.code, still_quarantined())
    about = "Documents in quarantine that wait for a person."
    yield of.gauges("quarantine_receipts", about, ("code",), [((code,), float(n)) for code, n in codes])
    query: Any = (
        Gap.select(Till.store_id, pw.fn.COUNT(Gap.id))
        .join(Till, pw.JOIN.LEFT_OUTER, on=(Till.till_id == Gap.till_id))
        .where(Gap.closed_at_ms.is_null())
        .group_by(Till.store_id)
    )
    found: Counter[str] = Counter()
    for store, count in query.tuples():
        found[store or ""] += count
    gaps = [((store,), float(count)) for store, count in sorted(found.items())]
    yield of.gauges("receipt_gaps", "Ranges that were rung for and can no longer come, not closed.", ("store",), gaps)
    open_tasks = dict(_counted(Task, Task.state, Task.finished_at_ms.is_null()))
    rows = [((state,), float(open_tasks.get(state, 0))) for state in OPEN_STATES]
    yield of.gauges("upload_tasks", "Open tasks; one that lasts under a second is never seen.", ("state",), rows)


def _counted(model: Any, column: Any, only: Any) -> list[tuple[str, int]]:
    query = model.select(column, pw.fn.COUNT(pw.SQL("*"))).where(only).group_by(column)
    return sorted(query.tuples())


def _days(now_ms: int) -> Iterator[Metric]:
    today = datetime.fromtimestamp(now_ms / 1000, UTC).date().isoformat()
    first = day_after(today, 1 - DAYS_SHOWN)
    counts = dict(_counted(Day, Day.state, (Day.business_day >= first)))
    rows = [((state,), float(counts.get(state, 0))) for state in STATES]
    yield of.gauges("days", f"Days of stores, of the last {DAYS_SHOWN}, of which anything came.", ("state",), rows)
    unsettled = Day.state.in_(_UNSETTLED) & (Day.business_day >= first) & (Day.business_day < today)
    oldest = Day.select(pw.fn.MIN(Day.business_day)).where(unsettled).scalar()
    about = "When the oldest business day before today began that is not complete in some store; 00:00 UTC of its date."
    began_s = datetime.combine(date.fromisoformat(oldest), time(), UTC).timestamp() if oldest else None
    yield of.gauge("oldest_incomplete_day_timestamp_seconds", about, began_s)


def _consumers() -> Iterator[Metric]:
    rows = consumers.listed(_database())
    lag = f"Documents that a consumer has not acknowledged, counted up to {consumers.COUNTED_MAX}."
    behind = [((one["name"],), one["behind"]) for one in rows]
    yield of.gauges("consumer_lag_receipts", lag, ("consumer",), behind)
    at = [((one["name"],), of.seconds(one["acknowledged_at_ms"])) for one in rows]
    about = "When a consumer last acknowledged documents; no series if it never has."
    yield of.gauges("consumer_last_success_timestamp_seconds", about, ("consumer",), at)


# -- The database itself -----------------------------------------------------------------------------------------------


def _database() -> Sqlite | Postgres:
    found: Sqlite | Postgres = Document._meta.database  # noqa: SLF001 -- peewee's documented way to a model's database
    return found


def _kept() -> Iterator[Metric]:
    database = _database()
    yield of.gauge("db_size_bytes", "What the database takes.", database.size_bytes())
    free = "Room on the disk of the database's file; no series for a server, whose disk is elsewhere."
    yield of.gauge("disk_free_bytes", free, database.disk_free_bytes())
    verified = Backup.select(Backup.verified_at_ms).order_by(Backup.id.desc()).limit(1).scalar()
    yield of.gauge("backup_verified_timestamp_seconds", "When the newest backup was verified.", of.seconds(verified))
    seen: Any = Worker.select(Worker.number, pw.fn.MAX(Worker.seen_at_ms)).group_by(Worker.number)
    workers = [((str(number),), of.seconds(at_ms)) for number, at_ms in sorted(seen.tuples())]
    about = "When a worker last said that it runs; it does every 30 s."
    yield of.gauges("worker_seen_timestamp_seconds", about, ("worker",), workers)


def _offsets(fleet: Fleet) -> Iterator[tuple[str, int]]:
    """Return how many seconds each store's time of day is ahead of UTC; none where this machine knows no such zone."""
    zones = {row.store_id: row.time_zone for row in StoreRow.select()}
    for store in sorted({one.store_id for one in fleet.tills if one.store_id}):
        try:
            zone = store_clock(zones[store]).zone if store in zones else UTC
        except ClockError:
            continue
        offset = datetime.fromtimestamp(fleet.now_ms / 1000, zone).utcoffset()
        yield store, round(offset.total_seconds()) if offset else 0
