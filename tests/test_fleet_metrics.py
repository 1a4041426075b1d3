"""The fleet's figures from the database: what is unknown has no series, and each till's only on demand."""

from __future__ import annotations

import pytest
from databases import listening
from factories import (
    NOW_MS,
    a_document,
    a_parcel,
    a_store,
    a_stream,
    as_json,
    some_sales,
)
from figures_told import names, series, value

from central import decisions, quarantine
from central.batch import Heard, NewStream
from central.metrics import fleet
from central.models import MODELS, Backup, Consumer, Day, Gap, Release, Till
from wire.codec import encode
from wire.messages import TillPresence, said
from wire.reasons import KINDS

DAY_MS = 86_400_000


@pytest.fixture
def store(central_url):
    """Return central's database, with the models bound to it."""
    made = a_store(central_url)
    with made.database.bind_ctx(MODELS):
        yield made
    made.close()


def shows(store, till, *, online=True, store_id="s-1", at_ms=NOW_MS, skew_ms=0, version="1.0"):
    """Let a till show itself."""
    presence = said(
        TillPresence,
        online=online,
        connection=1,
        boot_id="b",
        store_id=store_id,
        agent_version=version,
        started_at_ms=at_ms,
        clock_ms=at_ms,
    )
    store.note(at_ms, presences=[(store_id, online, 1, at_ms, encode(presence).decode(), skew_ms, till)])


def stores(store, till, how_many, number=1, at_ms=NOW_MS):
    """Let a till's documents be committed."""
    store.open_streams([NewStream(till, a_stream(number), ())], {}, at_ms)
    bodies = some_sales(how_many, till_id=till)
    store.ingest([a_parcel(bodies, till, stream=a_stream(number))], {}, at_ms)


def rings(store, till, newest, number=1, at_ms=NOW_MS):
    """Let it be heard that a till holds more than came."""
    store.note(at_ms, heads=[(till, Heard(a_stream(number), "b", newest, b"\1" * 16))])


def told(now_ms=NOW_MS, **options):
    return fleet.exposition(fleet.Fleet.read(now_ms), **options)


def test_an_empty_database_owes_nothing_and_knows_nothing(store):
    """Counts are 0; times that nobody knows have no series, and no till has any."""
    text = told()
    assert {value(text, "tills", state=kind.code, severity=kind.severity) for kind in KINDS.values()} == {0}
    assert (0, 0) == (value(text, "pending_receipts"), value(text, "days", state="partial"))
    for name in ("oldest_pending", "last_heartbeat", "last_receipt", "backup_verified", "oldest_incomplete_day"):
        assert value(text, f"{name}_timestamp_seconds") is None
    assert value(text, "db_size_bytes") > 0


def test_tills_are_counted_by_their_one_reason(store):
    """The same reasons that pages and commands show; parked tills are counted as parked, whatever they owe."""
    for number, till in enumerate(("a", "b", "c"), 1):
        shows(store, till)
        stores(store, till, 2, number)
    rings(store, "b", 7, 2)
    rings(store, "c", 9, 3)
    with store.database.atomic():
        decisions.park("c", "sold", NOW_MS)
    text = told(NOW_MS + 1000)

    assert value(text, "tills", state="parked", severity="fine") == 1
    assert value(text, "tills", state="uploading", severity="wait") == 1
    assert sum(number for (name, _), number in series(text).items() if name == "tillstream_tills") == 3
    assert (5, NOW_MS / 1000) == (value(text, "pending_receipts"), value(text, "oldest_pending_timestamp_seconds"))


def test_quarantine_gaps_and_tasks_are_counted_by_what_explains_them(store):
    """By code, by store and by state, as what waits for a person; what was discarded or closed is gone."""
    shows(store, "a", store_id='odd "store"\\1')
    store.open_streams([NewStream("a", a_stream(), ())], {}, NOW_MS)
    bodies = [as_json(a_document(f"d{n}", "nonsense")) for n in range(3)]
    store.ingest([a_parcel(bodies, "a")], {}, NOW_MS)
    for first in (5, 9):
        Gap.create(till_id="a", stream=a_stream(), first=first, last=first + 1, reason="lost", found_at_ms=NOW_MS)
    store.note(NOW_MS, tasks=[("t1", "a", 1, "queued", "doorbell", 0, NOW_MS, None, "", None, None, None)])
    with store.database.atomic():
        quarantine.discard(quarantine.Chosen(numbers=(1,)), "a test", NOW_MS)
        decisions.close_gap(1, "known to be gone", NOW_MS)
    text = told()

    ((code,),) = store.database.run("SELECT DISTINCT code FROM quarantine").fetchall()
    assert value(text, "quarantine_receipts", code=code) == 2
    assert value(text, "receipt_gaps", store='odd "store"\\1') == 1
    assert (1, 0) == (value(text, "upload_tasks", state="queued"), value(text, "upload_tasks", state="resting"))


def test_days_are_counted_and_the_oldest_incomplete_one_is_dated(store):
    """Of the last 14 days; today may be open without anybody being called."""
    today_ms = NOW_MS // DAY_MS * DAY_MS
    days = {0: "open", 1: "complete", 2: "mismatch", 3: "partial", 20: "partial"}
    for back, state in days.items():
        Day.create(store_id="s", business_day=_day(today_ms - back * DAY_MS), state=state, since_ms=NOW_MS)
    text = told()

    assert {state: value(text, "days", state=state) for state in ("open", "complete", "mismatch", "partial")} == {
        "open": 1,
        "complete": 1,
        "mismatch": 1,
        "partial": 1,
    }
    assert value(text, "oldest_incomplete_day_timestamp_seconds") == (today_ms - 3 * DAY_MS) / 1000


def _day(at_ms):
    return fleet.datetime.fromtimestamp(at_ms / 1000, fleet.UTC).date().isoformat()


def test_tills_on_another_release_than_wanted_are_counted(store):
    """Only tills that are to run something; a parked one is nobody's task."""
    for till, runs in (("a", "1.0"), ("b", "0.9"), ("c", "0.9"), ("d", "0.9")):
        shows(store, till, version=runs)
        if till != "d":
            Release.create(till_id=till, wanted="1.0", before="", state="", why="", rollout=1, told_at_ms=NOW_MS)
    with store.database.atomic():
        decisions.park("c", "sold", NOW_MS)
    text = told()
    assert (1, 1) == (value(text, "till_releases", runs="wanted"), value(text, "till_releases", runs="other"))
    assert value(text, "rollout_open") == 0


def test_what_consumers_have_not_taken_is_counted(store):
    """One that never took anything has a lag and no time; one of an earlier incarnation has to begin anew: no lag."""
    shows(store, "a")
    stores(store, "a", 5)
    fields = {"made_at_ms": NOW_MS, "note": ""}
    Consumer.create(name="erp", incarnation=1, acknowledged=3, acknowledged_at_ms=NOW_MS - 1000, **fields)
    Consumer.create(name="new", incarnation=1, acknowledged=0, **fields)
    Consumer.create(name="old", incarnation=0, acknowledged=2, acknowledged_at_ms=NOW_MS - 9000, **fields)
    text = told()
    assert [value(text, "consumer_lag_receipts", consumer=name) for name in ("erp", "new", "old")] == [2, 5, None]
    at = [value(text, "consumer_last_success_timestamp_seconds", consumer=name) for name in ("erp", "new", "old")]
    assert at == [NOW_MS / 1000 - 1, None, NOW_MS / 1000 - 9]


def test_times_are_told_and_not_ages(store):
    """Prometheus subtracts; a figure that is read late is not wrong by that."""
    shows(store, "a", at_ms=NOW_MS - 5000)
    stores(store, "a", 1, at_ms=NOW_MS - 3000)
    Backup.create(path="b", made_at_ms=NOW_MS, verified_at_ms=NOW_MS - 7000, size_bytes=1, documents=1)
    text = told()
    assert value(text, "last_heartbeat_timestamp_seconds") == (NOW_MS - 5000) / 1000
    assert value(text, "last_receipt_timestamp_seconds") == (NOW_MS - 3000) / 1000
    assert value(text, "backup_verified_timestamp_seconds") == (NOW_MS - 7000) / 1000


# -- Till by till ------------------------------------------------------------------------------------------------------


def test_each_till_has_series_only_where_that_is_wanted(store):
    """Five thousand tills are 40,000 series: nobody gets them unasked."""
    shows(store, "a")
    assert not [name for name in names(told()) if name.startswith("tillstream_till_up")]
    assert value(told(is_per_till=True), "till_up", store="s-1", till="a") == 1


def test_a_till_tells_what_is_known_and_nothing_else(store):
    """A till that never showed itself has no heartbeat, no clock and no version, and is neither up nor down."""
    shows(store, "a", skew_ms=-2500, store_id='s "1"\\')
    stores(store, "a", 2, at_ms=NOW_MS - 1000)
    rings(store, "a", 7, at_ms=NOW_MS - 500)
    Till.create(till_id="b", first_seen_ms=NOW_MS)
    shows(store, "c", online=False)
    with store.database.atomic():
        decisions.park("c", "sold", NOW_MS)
    text = told(is_per_till=True)

    labels = {"store": 's "1"\\', "till": "a"}
    assert value(text, "till_pending_receipts", **labels) == 5
    assert value(text, "till_oldest_pending_timestamp_seconds", **labels) == (NOW_MS - 500) // 1000
    assert value(text, "till_last_receipt_timestamp_seconds", **labels) == (NOW_MS - 1000) // 1000
    assert value(text, "till_clock_skew_seconds", **labels) == -2.5
    assert value(text, "agent_info", **labels, version="1.0", settings_revision="0") == 1
    of_b = {name for name, its in series(text) if ("till", "b") in its}
    assert of_b == {"tillstream_till_parked"}
    assert (0, 1) == (value(text, "till_up", store="s-1", till="c"), value(text, "till_parked", store="s-1", till="c"))
    assert value(text, "till_oldest_pending_timestamp_seconds", store="s-1", till="c") is None


def test_a_store_tells_how_far_its_time_of_day_is_ahead(store):
    """Rules that go by opening hours add it to the time; a store without a time zone of its own is at UTC."""
    shows(store, "a", store_id="moscow")
    shows(store, "b", store_id="nowhere")
    with store.database.atomic():
        decisions.set_store_clock("moscow", "Europe/Moscow", None, NOW_MS)
    text = told(is_per_till=True)
    assert value(text, "store_utc_offset_seconds", store="moscow") == 3 * 3600
    assert value(text, "store_utc_offset_seconds", store="nowhere") == 0


def test_ten_thousand_tills_are_under_ten_megabytes(store):
    """All series of each, with ids and versions as long as chains have them; the number of statements is fixed."""
    presence = said(
        TillPresence, online=True, connection=1, boot_id="b" * 16, agent_version="12.34.56", store_id="0042"
    )
    shown = encode(presence).decode()
    many = [f"{number // 10:04}-{number % 10:02}" for number in range(10_000)]
    store.note(NOW_MS, presences=[(till[:4], True, 1, NOW_MS, shown, -123, till) for till in many])
    mark = (
        "INSERT INTO watermark (till_id, stream, through, digest, opened_at_ms, moved_at_ms) VALUES (?, ?, 5, ?, ?, ?)"
    )
    rows = [(till, f"{number:022}", b"\1" * 16, NOW_MS, NOW_MS) for number, till in enumerate(many)]
    with store.database.atomic():
        store.database.run_many(mark, rows)
    store.note(NOW_MS, heads=[(row[0], Heard(row[1], "b", 9, b"\1" * 16)) for row in rows])
    seen = []
    with listening(store.database, seen.append):
        text = told(is_per_till=True)

    assert len(text) < 10 * 2**20
    assert text.count(b"tillstream_till_up{") == text.count(b"tillstream_agent_info{") == 10_000
    assert text.count(b"\n") > 80_000
    assert len(seen) <= 20
