"""Why a till is late: one reason, the same list at both ends, from facts and from central's database."""

from __future__ import annotations

from dataclasses import replace

import pytest
from databases import listening
from factories import NOW_MS, TILL, a_parcel, a_store, a_stream, some_sales

from central import late
from central.batch import Heard, NewStream
from central.models import MODELS
from central.reasons import Facts, Limits, Wanted, reason_of
from edge import reasons as edge_reasons
from wire.codec import encode
from wire.cuts import Cuts
from wire.messages import TillPresence, said
from wire.reasons import KINDS, TILL_TROUBLES, Reason

S = 1000
EVERYTHING = Facts(
    first_seen_ms=NOW_MS - 1000 * S, is_online=True, presence_at_ms=NOW_MS - S, behind=0, is_verified=True, streams=1
)
"""A till that is online, and all it ever rang for is at central."""
BEHIND = replace(EVERYTHING, behind=5, is_verified=False, head_heard_at_ms=NOW_MS - 2 * S)


def wanted(state, attempts=1, age_s=10):
    return Wanted(state, attempts, NOW_MS - age_s * S)


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (EVERYTHING, Reason("up_to_date")),
        (replace(BEHIND, parked_at_ms=7, is_revoked=True), Reason("parked", 7)),
        (replace(BEHIND, is_revoked=True, is_approved=False), Reason("revoked")),
        (replace(BEHIND, is_approved=False, is_online=False), Reason("not_approved", EVERYTHING.first_seen_ms)),
        (Facts(first_seen_ms=9), Reason("never_seen", 9)),
        (replace(BEHIND, is_online=False), Reason("link_down", NOW_MS - S)),
        (replace(EVERYTHING, is_online=False, is_verified=False), Reason("link_down", NOW_MS - S)),
        (replace(EVERYTHING, is_online=False), Reason("offline", NOW_MS - S)),
        (replace(BEHIND, presence_at_ms=NOW_MS - 181 * S), Reason("agent_silent", NOW_MS - 181 * S)),
        (replace(EVERYTHING, presence_at_ms=NOW_MS - 179 * S), Reason("up_to_date")),
        (replace(BEHIND, disk_free_bytes=2**20), Reason("disk_full", None, "1048576")),
        (replace(BEHIND, troubles={"disk_full": 5}, disk_free_bytes=3), Reason("disk_full", 5, "3")),
        (replace(BEHIND, troubles={"outbox_full": 5, "intake_failing": 1}), Reason("outbox_full", 5)),
        (replace(BEHIND, is_online=False, troubles={"identity_shared": 4}), Reason("identity_shared", 4)),
        (
            replace(BEHIND, presence_at_ms=NOW_MS, protocol=(3, 4)),
            Reason("version_unknown", NOW_MS, "till 3, 4; central 1, 2"),
        ),
        (replace(EVERYTHING, troubles={"intake_failing": 1}), Reason("intake_failing", 1)),
        (replace(BEHIND, streams=2, stream_since_ms=4), Reason("history_forked", 4)),
        (replace(EVERYTHING, streams=2, stream_since_ms=4), Reason("up_to_date")),
        (replace(BEHIND, task=wanted("queued", 0)), Reason("waiting_for_admission", NOW_MS - 10 * S)),
        (replace(BEHIND, task=wanted("requested")), Reason("uploading", NOW_MS - 2 * S, "5")),
        (replace(BEHIND, task=wanted("requested", 1, 61)), Reason("unanswered", NOW_MS - 61 * S, "1")),
        (replace(BEHIND, task=wanted("requested", 3)), Reason("unanswered", NOW_MS - 10 * S, "3")),
        (replace(BEHIND, task=wanted("resting", 2)), Reason("unanswered", NOW_MS - 10 * S, "2")),
        (replace(BEHIND, task=wanted("resting", 0)), Reason("uploading", NOW_MS - 2 * S, "5")),
        (replace(BEHIND, task=wanted("waiting", 0, 5)), Reason("uploading", NOW_MS - 2 * S, "5")),
        (replace(BEHIND, task=wanted("waiting", 0, 61)), Reason("central_away", NOW_MS - 61 * S)),
        (BEHIND, Reason("uploading", NOW_MS - 2 * S, "5")),
        (replace(BEHIND, head_heard_at_ms=NOW_MS - 901 * S), Reason("central_away", NOW_MS - 901 * S)),
        (replace(EVERYTHING, missing=4, gap_since_ms=3, quarantined=2), Reason("gap_open", 3, "4")),
        (replace(EVERYTHING, troubles={"outbox_damaged": 6}, quarantined=2), Reason("outbox_damaged", 6)),
        (replace(EVERYTHING, troubles={"certificate_not_renewed": 6}), Reason("certificate_not_renewed", 6)),
        (replace(EVERYTHING, quarantined=2, quarantined_since_ms=8), Reason("quarantined", 8, "2")),
        (replace(EVERYTHING, settings_error="7: no url"), Reason("settings_refused", None, "7: no url")),
        (replace(EVERYTHING, troubles={"automation_refused": 6}), Reason("automation_refused", 6)),
        (replace(EVERYTHING, clock_skew_ms=-301 * S), Reason("clock_skew", None, "-301")),
        (replace(EVERYTHING, clock_skew_ms=300 * S), Reason("up_to_date")),
        (replace(EVERYTHING, troubles={"printer_on_fire": 2}), Reason("other_trouble", 2, "printer_on_fire")),
        (replace(EVERYTHING, is_verified=False, stream_since_ms=1), Reason("unproven", 1)),
    ],
)
def test_central_explains_a_till_by_the_first_reason_that_holds(facts, reason):
    """Each reason with the time it began (None where nobody saw that) and the figure that its text names."""
    assert reason_of(facts, NOW_MS) == reason


def test_a_long_backlog_is_an_upload_and_not_a_till_that_does_not_answer():
    """A task may be an hour old: while documents come, it is being answered."""
    asked = replace(BEHIND, task=wanted("requested", 1, 3600))

    assert reason_of(replace(asked, moved_at_ms=NOW_MS - 3 * S), NOW_MS).code == "uploading"
    assert reason_of(replace(asked, moved_at_ms=NOW_MS - 61 * S), NOW_MS).code == "unanswered"


def test_the_limits_of_the_fleet_count():
    """A fleet that shows itself every ten minutes is not silent after three."""
    slow = replace(EVERYTHING, presence_at_ms=NOW_MS - 600 * S)

    assert reason_of(slow, NOW_MS).code == "agent_silent"
    assert reason_of(slow, NOW_MS, Limits(presence_every_s=600)).code == "up_to_date"


# -- From the database -------------------------------------------------------------------------------------------------


@pytest.fixture
def store(central_url):
    """Return an empty central database in memory."""
    made = a_store(central_url)
    yield made
    made.close()


def opened(store, *tills, stream=None):
    store.open_streams([NewStream(till, stream or a_stream(), ()) for till in tills], {}, NOW_MS)


def shown(store, till, *, online=True, at_ms=NOW_MS, **fields):
    """Have a till show itself."""
    presence = encode(said(TillPresence, online=online, connection=1, boot_id="b", **fields)).decode()
    statement = "UPDATE till SET is_online = ?, presence_at_ms = ?, presence = ? WHERE till_id = ?"
    store.database.run(statement, (online, at_ms, presence, till))


def facts_of(store, denied=()):
    with store.database.bind_ctx(MODELS):
        return late.gather(denied)


def reasons_of(store, now_ms=NOW_MS, denied=()):
    with store.database.bind_ctx(MODELS):
        return late.late(now_ms, denied)


def head(newest, stream=None, boot="boot-1"):
    return Heard(stream or a_stream(), boot, newest, b"\1" * 16)


def test_the_database_tells_what_each_till_owes_and_since_when(store):
    """Heads, watermarks, presences and tasks of several tills become each till's own reason."""
    opened(store, "even", "away", "asked", "gone")
    bodies = some_sales(3, till_id=None)
    store.ingest([a_parcel(bodies[:1], till=till) for till in ("even", "asked")], {}, NOW_MS - 9 * S)
    store.note(
        NOW_MS - 5 * S,
        heads=[("asked", head(3)), ("gone", head(2)), ("asked", head(2, boot="older"))],
        verified=[("even", a_stream())],
        tasks=[("t1", "asked", 1, "queued", "doorbell", 0, NOW_MS - 4 * S, None, "", None, None, None)],
    )
    for till in ("even", "asked", "away"):
        shown(store, till)
    shown(store, "gone", online=False, at_ms=NOW_MS - 7 * S)

    assert reasons_of(store) == {
        "even": Reason("up_to_date"),
        "away": Reason("unproven", NOW_MS),
        "asked": Reason("waiting_for_admission", NOW_MS - 4 * S),
        "gone": Reason("link_down", NOW_MS - 7 * S),
    }
    assert facts_of(store)["asked"].behind == 2
    assert reasons_of(store, denied=["even"])["even"].code == "revoked"


def test_a_head_of_another_stream_leaves_a_till_unproven(store):
    """The newest stream is even; what was rung for in an older one has not come."""
    opened(store, TILL, stream=a_stream(1))
    opened(store, TILL, stream=a_stream(2))
    store.note(NOW_MS, heads=[(TILL, head(5, a_stream(1)))], verified=[(TILL, a_stream(2))])
    shown(store, TILL)
    facts = facts_of(store)[TILL]

    assert (facts.behind, facts.is_verified, facts.streams) == (0, False, 2)


def test_what_the_till_says_of_itself_reaches_its_reason(store):
    """Troubles, free room and refused settings travel in the presence; one that cannot be read says nothing."""
    opened(store, "a", "b", "c")
    store.note(NOW_MS, verified=[(till, a_stream()) for till in "abc"])
    shown(store, "a", troubles={"intake_failing": 11}, disk_free_bytes=2**30)
    shown(store, "b", settings_error="revision 4: unknown command")
    shown(store, "c")
    store.database.run("""UPDATE till SET presence = '{"v":1,"online":7}' WHERE till_id = 'c'""")

    assert reasons_of(store) == {
        "a": Reason("intake_failing", 11),
        "b": Reason("settings_refused", None, "revision 4: unknown command"),
        "c": Reason("up_to_date"),
    }


def test_quarantine_gaps_parking_and_clocks_are_counted_for_each_till(store):
    """Closed gaps no longer count; a range asked for once more is not what a till is late with."""
    opened(store, "bad", "holes", "parked")
    store.ingest([a_parcel([b'{"document_id":"x"}', b'{"document_id":"y"}'], till="bad")], {}, NOW_MS - S)
    run = store.database.run
    columns = "till_id, stream, first, last, found_at_ms, closed_at_ms, reason, note"
    gap = f"INSERT INTO gap ({columns}) VALUES ('holes', 's', ?, ?, ?, ?, 'rung for', '')"
    for row in ((3, 5, 70, None), (9, 9, 60, None), (20, 90, 1, 2)):
        run(gap, row)
    run("UPDATE till SET parked_at_ms = 44 WHERE till_id = 'parked'")
    run("UPDATE till SET clock_skew_ms = 900000 WHERE till_id = 'bad'")
    again = ("op.1", "holes", 1, "waiting", "operator", 0, NOW_MS - 900 * S, None, "", "s", 0, 5)
    store.note(NOW_MS, tasks=[again])
    facts = facts_of(store)

    assert (facts["bad"].quarantined, facts["bad"].quarantined_since_ms) == (2, NOW_MS - S)
    assert (facts["holes"].missing, facts["holes"].gap_since_ms, facts["holes"].task) == (4, 60, None)
    assert facts["bad"].clock_skew_ms == 900_000
    assert reasons_of(store)["parked"] == Reason("parked", 44)


def test_the_number_of_statements_does_not_grow_with_the_fleet(store):
    """One statement for one till, and one for fifty."""
    counted = []
    for tills in (1, 50):
        opened(store, *(f"till-{number}" for number in range(tills)))
        store.note(NOW_MS, heads=[(f"till-{number}", head(2)) for number in range(tills)])
        seen = []
        with listening(store.database, seen.append):
            assert len(facts_of(store)) == tills
        counted.append(len(seen))

    assert counted == [1, 1]


# -- On the till -------------------------------------------------------------------------------------------------------

WELL = edge_reasons.Facts(is_connected=True, unsent=0)


@pytest.mark.parametrize(
    ("facts", "code", "detail"),
    [
        (WELL, "up_to_date", ""),
        (replace(WELL, unsent=3), "uploading", "3"),
        (replace(WELL, is_connected=False), "offline", ""),
        (replace(WELL, is_connected=False, unsent=3, refused="no"), "login_refused", "no"),
        (replace(WELL, is_connected=False, unsent=3, cuts=4), "identity_shared", "4"),
        (replace(WELL, cuts=3), "up_to_date", ""),
        (replace(WELL, unsent=3, central_protocol=(3,)), "version_unknown", "till 1, 2; central 3"),
        (replace(WELL, is_connected=False, unsent=3, is_outbox_full=True), "link_down", ""),
        (replace(WELL, unsent=3, is_central_online=False, rung_unconfirmed=2), "central_away", ""),
        (replace(WELL, is_central_online=False), "up_to_date", ""),
        (replace(WELL, unsent=3, rung_unconfirmed=2), "unanswered", "2"),
        (replace(WELL, disk_free_bytes=2**20, is_outbox_full=True), "disk_full", "1048576"),
        (replace(WELL, is_outbox_full=True, unsent=9), "outbox_full", ""),
        (replace(WELL, intake_troubles=("pos.db", "folder")), "intake_failing", "pos.db, folder"),
        (replace(WELL, forks_refused=1), "history_forked", ""),
        (replace(WELL, is_outbox_damaged=True), "outbox_damaged", ""),
        (replace(WELL, certificate="9.5: no"), "certificate_not_renewed", "9.5: no"),
        (replace(WELL, settings_error="9: x"), "settings_refused", "9: x"),
        (replace(WELL, automation_error="unloadSales.sh: exit 3"), "automation_refused", "unloadSales.sh: exit 3"),
    ],
)
def test_the_till_explains_itself_by_the_same_list(facts, code, detail):
    """The same codes in the same order as at central."""
    since = edge_reasons.Lasting().update(facts, NOW_MS)
    expected_since = None if code == "up_to_date" else NOW_MS

    assert edge_reasons.reason_of(facts, since) == Reason(code, expected_since, detail)


@pytest.mark.fault("F16")
def test_connections_that_end_soon_are_counted_for_a_while():
    """Four in twenty minutes are a sign; one that lived long, was never made, or asked to end, counts not at all."""
    cuts = Cuts()
    for at in (0, 100, 200, 300):
        cuts.begin(at)
        cuts.end(at + 50)
        cuts.end(at + 60)  # The next one cannot be made.
    assert cuts.count == 4

    cuts.begin(400)
    cuts.end(700)
    cuts.begin(701)
    cuts.end(702, is_asked=True)
    cuts.end(703)
    assert cuts.count == 4
    cuts.forget(1249)
    assert cuts.count == 4
    cuts.forget(1251)
    assert cuts.count == 3


def test_since_is_when_it_began_and_begins_anew_after_it_ended():
    """A trouble keeps its first time while it lasts, also behind a greater one; a later one is another one."""
    lasting = edge_reasons.Lasting()
    full, down = replace(WELL, is_outbox_full=True), replace(WELL, is_outbox_full=True, is_connected=False, unsent=1)
    lasting.update(full, 10)
    since = lasting.update(down, 20)

    assert edge_reasons.reason_of(down, since) == Reason("link_down", 20)
    assert edge_reasons.reason_of(full, lasting.update(full, 30)) == Reason("outbox_full", 10)
    lasting.update(WELL, 40)
    assert edge_reasons.reason_of(full, lasting.update(full, 50)) == Reason("outbox_full", 50)


def test_the_till_tells_central_only_what_central_cannot_see():
    """Its troubles fit the presence message, and central reads them back as the same reasons."""
    facts = replace(
        WELL, unsent=3, is_connected=False, cuts=9, disk_free_bytes=1, is_outbox_full=True, intake_troubles=("x",),
        forks_refused=1, is_outbox_damaged=True, certificate="2: c", settings_error="e", automation_error="a",
    )  # fmt: skip
    troubles = edge_reasons.troubles_of(edge_reasons.Lasting().update(facts, NOW_MS))

    assert tuple(troubles) == TILL_TROUBLES
    presence = said(TillPresence, online=True, connection=1, boot_id="b", troubles=troubles)
    for code, since_ms in presence.troubles.items():
        reason = reason_of(replace(EVERYTHING, troubles={code: since_ms}), NOW_MS)
        assert (reason.code, reason.since_ms) == (code, NOW_MS)


def test_every_reason_is_used_by_one_end_at_least():
    """No code that nothing ever says."""
    (at_central,) = test_central_explains_a_till_by_the_first_reason_that_holds.pytestmark
    (at_the_till,) = test_the_till_explains_itself_by_the_same_list.pytestmark

    codes = {reason.code for _, reason in at_central.args[1]} | {code for _, code, _ in at_the_till.args[1]}

    assert codes == set(KINDS)
