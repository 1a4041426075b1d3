"""Rollouts at central: one at a time, none in a freeze, a gate that reads the database, and what tills are to run."""

from __future__ import annotations

import json
import threading

import pytest
from click.testing import CliRunner
from factories import NOW_MS, a_parcel, a_store, a_stream, some_sales

from central import rollouts
from central.batch import NewStream
from central.cli import central
from central.hours import Hours
from central.store_clock import ClockError
from wire.codec import encode
from wire.messages import TillPresence, said

MINUTE = 60_000
TILLS = ("a-1", "a-2", "b-1")


@pytest.fixture
def database(central_url):
    """Return a database in which three tills run 1.0 and all that they rang for is there."""
    store = a_store(central_url)
    for number, till in enumerate(TILLS, 1):
        store.open_streams([NewStream(till, a_stream(number), ())], {}, NOW_MS)
        store.ingest([a_parcel(some_sales(2, till_id=till), till, stream=a_stream(number))], {}, NOW_MS)
    shows(store, dict.fromkeys(TILLS, "1.0"))
    store.close()
    return central_url


def shows(store, versions, *, started_ms=NOW_MS, at_ms=NOW_MS, **fields):
    """Let tills show which version they run since when, and prove that all they rang for is there."""
    rows = []
    for till, version in versions.items():
        also = {"agent_version": version, "started_at_ms": started_ms, "clock_ms": at_ms, **fields}
        presence = said(TillPresence, online=True, connection=1, boot_id="b", store_id=till[0], **also)
        rows.append((till[0], True, 1, at_ms, encode(presence).decode(), 0, till))
    store.note(at_ms, presences=rows, verified=[(till, a_stream(TILLS.index(till) + 1)) for till in versions])


@pytest.fixture
def run(database, monkeypatch):
    """Return what runs a command at a time that can be set."""
    clock = {"ms": NOW_MS}
    monkeypatch.setattr("central.rollout_cli.wall_clock_ms", lambda: clock["ms"])

    def run_it(*arguments, at_ms=None, given=None):
        clock["ms"] = at_ms or clock["ms"]
        return CliRunner().invoke(central, ["--database", database, "rollout", *map(str, arguments)], input=given)

    return run_it


def began(run, *arguments, at_ms=None):
    told = run("begin", *arguments, at_ms=at_ms)
    assert told.exit_code == 0, told.output
    return int(told.output)


def ended(run, number, outcome, **tills):
    tills = {till.replace("_", "-"): {"state": state} for till, state in tills.items()}
    told = run("end", number, "-", given=json.dumps({"outcome": outcome, "tills": tills}))
    assert told.exit_code == 0, told.output


def releases(run, *arguments):
    return {row["till_id"]: row for row in json.loads(run("tills", "--json", *arguments).output)}


# -- One at a time -----------------------------------------------------------------------------------------------------


def test_a_second_rollout_is_refused_until_the_first_one_has_ended(run):
    """It is told who does the first one since when, and what to do if nobody does it any more."""
    number = began(run, "2.0", "--wire", "1,2")

    told = run("begin", "2.1", "--wire", "1,2")
    assert told.exit_code == 1
    assert f"rollout {number} of 2.0 is under way since" in told.output
    assert f"tillstream central rollout abandon {number}" in told.output

    ended(run, number, "all", a_1="upgraded")
    began(run, "2.1", "--wire", "1,2")


def test_of_many_that_begin_at_once_one_does(database):
    """Whoever is second sees the first one's row, on either database."""
    begin = ["--database", database, "rollout", "begin", "2.0", "--wire", "1"]
    codes = []
    threads = [
        threading.Thread(target=lambda: codes.append(begin_it(begin)), name=f"begin-{number}") for number in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert sorted(codes) == [False, False, False, True]


def begin_it(arguments):
    import subprocess
    import sys

    command = [sys.executable, "-c", "from central.cli import central; central()", *arguments]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_one_that_was_abandoned_goes_no_further(run):
    """Its gate is closed for good, and its report is not taken: its place may be another one's by now."""
    number = began(run, "2.0", "--wire", "1")
    assert run("abandon", number, "--note", "the machine burnt").exit_code == 0
    began(run, "2.1", "--wire", "1")

    told = run("gate", number, "-", given="a-1")
    assert (told.exit_code, "(abandoned): nothing goes on" in told.output) == (1, True)
    told = run("end", number, "-", given='{"outcome": "all"}')
    assert (told.exit_code, "(abandoned)" in told.output) == (1, True)
    assert run("abandon", 99).exit_code == 1


def test_a_release_that_central_cannot_talk_to_is_refused(run):
    """Central first, then its tills."""
    told = run("begin", "9.0", "--wire", "8,9")

    assert (told.exit_code, "9.0 speaks wire version 8, 9, central 1, 2: upgrade central first" in told.output) == (
        1,
        True,
    )
    assert run("begin", "../9", "--wire", "1").exit_code == 2
    assert run("begin", "9", "--wire", "one").exit_code == 2


# -- When none may be --------------------------------------------------------------------------------------------------


def test_in_a_freeze_nothing_begins_or_goes_on_but_a_rollback(run):
    """One that is under way stops before its next wave; a thaw lets it go on."""
    number = began(run, "2.0", "--wire", "1")
    freeze = ["freeze", "--from", "2026-03-01T00:00+00:00", "--until", "2026-03-10T00:00+00:00", "--note", "sale"]
    assert run(*freeze).output == "freeze 1\n"

    told = run("gate", number, "-", given="a-1")
    assert (told.exit_code, "frozen until 2026-03-10 00:00 UTC (sale)" in told.output) == (1, True)
    ended(run, number, "stopped")
    assert run("begin", "2.0", "--wire", "1").exit_code == 1
    ended(run, began(run, "previous", "--kind", "rollback"), "all")
    assert [row["note"] for row in json.loads(run("freezes", "--json").output)] == ["sale"]

    assert "lifted" in run("thaw", 1).output
    assert "nothing changed" in run("thaw", 1).output
    assert run("thaw", 2).exit_code == 1
    began(run, "2.0", "--wire", "1")


def test_a_freeze_ends_after_it_begins(run):
    """Its two moments are checked, and so is how they are written."""
    assert run("freeze", "--from", "2026-03-10", "--until", "2026-03-01").exit_code == 1
    assert run("freeze", "--from", "soon", "--until", "2026-03-01").exit_code == 2


@pytest.mark.parametrize(
    ("hours", "at", "inside"),
    [
        ("22:00-06:00 Europe/Moscow", "2026-03-01T19:00+00:00", True),
        ("22:00-06:00 Europe/Moscow", "2026-03-01T18:59+00:00", False),
        ("22:00-06:00 Europe/Moscow", "2026-03-01T03:00+00:00", False),
        ("22:00-06:00 Europe/Moscow", "2026-03-01T02:59+00:00", True),
        ("01:00-05:00", "2026-03-01T04:59+00:00", True),
        ("01:00-05:00", "2026-03-01T05:00+00:00", False),
    ],
)
def test_waves_go_within_the_hours_only(hours, at, inside):
    """From the first minute until before the last one, in the zone that is named, over midnight too."""
    from datetime import datetime

    at_ms = round(datetime.fromisoformat(at).timestamp() * 1000)
    assert Hours.parse(hours).include(at_ms) is inside


@pytest.mark.parametrize("text", ["22-06", "25:00-06:00", "22:00-06:00 Moscow", "22:00-22:00"])
def test_hours_that_cannot_be_are_refused(text):
    """The text says how they are written, or which part is wrong."""
    with pytest.raises(ClockError):
        Hours.parse(text)


def test_a_rollout_keeps_its_hours(run):
    """A wave that would begin after them does not."""
    number = began(run, "2.0", "--wire", "1", "--hours", "00:00-23:00")
    told = run("gate", number, "-", given="", at_ms=NOW_MS - NOW_MS % (24 * 60 * MINUTE) + 23 * 60 * MINUTE)

    assert (told.exit_code, "outside the hours 00:00-23:00" in told.output) == (1, True)


# -- The gate ----------------------------------------------------------------------------------------------------------


def test_the_gate_opens_for_tills_that_central_sees_well_under_the_release(run, database):
    """By the presence, the watermark and what was refused since the rollout began: exit code 0, else 3 with reasons."""
    number = began(run, "2.0", "--wire", "1")
    told = run("gate", number, "-", given="a-1 a-2")
    assert told.exit_code == 3
    assert json.loads(told.output)["failing"] == dict.fromkeys(("a-1", "a-2"), "it shows version 1.0")

    store = a_store(database)
    shows(store, {"a-1": "2.0", "a-2": "2.0"}, started_ms=NOW_MS + MINUTE, at_ms=NOW_MS + 2 * MINUTE)
    store.close()
    told = run("gate", number, "-", "--soak-s", 60, given="a-1\na-2", at_ms=NOW_MS + 3 * MINUTE)
    assert (told.exit_code, json.loads(told.output)) == (0, {"open": True, "well": 2, "failing": {}})

    told = run("gate", number, "-", "--tolerate-percent", 34, given="a-1 a-2 b-1")
    assert (told.exit_code, json.loads(told.output)["well"]) == (0, 2)


def test_a_document_that_is_refused_since_then_closes_the_gate_at_once(run, database):
    """An older one in quarantine does not: it is not this release's doing."""
    number = began(run, "2.0", "--wire", "1", at_ms=NOW_MS + MINUTE)
    store = a_store(database)
    for till, at_ms in (("a-1", NOW_MS + MINUTE), ("a-2", NOW_MS)):
        stream = a_stream(TILLS.index(till) + 1)
        row = (till, stream, 3, "x", "bad_schema", "no", at_ms, b"1", b"{}", "")
        names = "till_id, stream, sequence, document_id, code, reason, received_at_ms, body_digest, body, note"
        store.database.run(f"INSERT INTO quarantine ({names}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    shows(store, {"a-1": "2.0", "a-2": "2.0"}, started_ms=NOW_MS + MINUTE, at_ms=NOW_MS + 2 * MINUTE)
    store.close()

    told = run("gate", number, "-", "--wait-s", 600, given="a-1 a-2", at_ms=NOW_MS + 3 * MINUTE)
    assert told.exit_code == 3
    assert json.loads(told.output)["failing"] == {"a-1": "1 of its documents were refused since the rollout began"}


def test_a_tills_wrong_clock_does_not_shorten_the_soak(run, database):
    """Since when it runs is worked out by how far its clock is off."""
    number = began(run, "2.0", "--wire", "1")
    store = a_store(database)
    hour = 60 * MINUTE
    shows(store, {"a-1": "2.0"}, started_ms=NOW_MS + MINUTE - hour, at_ms=NOW_MS + 2 * MINUTE)
    store.database.run("UPDATE till SET clock_skew_ms = ? WHERE till_id = 'a-1'", (-hour,))
    store.close()

    told = run("gate", number, "-", "--soak-s", 600, given="a-1", at_ms=NOW_MS + 3 * MINUTE)
    assert json.loads(told.output)["failing"] == {"a-1": "it runs for 120 of 600 s"}


# -- What tills are to run ---------------------------------------------------------------------------------------------


def test_the_release_that_went_through_is_wanted_of_all_and_who_missed_it_is_listed(run):
    """A till that went back by itself is not tried again by a catch-up; one that was not reached is."""
    ended(
        run,
        began(run, "2.0", "--wire", "1"),
        "some",
        a_1="upgraded",
        a_2="unreached",
        b_1="rolled_back",
        c_1="unreached",
    )

    rows = releases(run)
    assert {row["wanted"] for row in rows.values()} == {"2.0"}
    assert rows["a-2"]["runs"] == "1.0"
    assert set(releases(run, "--missed")) == {"a-1", "a-2", "c-1"}  # a-1 has not shown itself since.
    assert releases(run, "--missed", "--wanted", "1.0") == {}
    (newest,) = json.loads(run("--json").output)
    assert (newest["outcome"], newest["tills"]) == ("some", {"rolled_back": 1, "unreached": 2, "upgraded": 1})


def test_a_rollout_that_was_stopped_changes_what_its_own_upgraded_tills_are_to_run_only(run):
    """The others stay wanted as they were: nobody may catch up with a release that was stopped."""
    ended(run, began(run, "1.0", "--wire", "1"), "all", a_1="same", a_2="same", b_1="same")
    ended(run, began(run, "2.0", "--wire", "1"), "stopped", a_1="upgraded", a_2="rolled_back", b_1="not_tried")

    assert {till: row["wanted"] for till, row in releases(run).items()} == {"a-1": "2.0", "a-2": "1.0", "b-1": "1.0"}
    told = run("begin", "2.0", "--kind", "catchup", "--wire", "1")
    assert (told.exit_code, "2.0 went through no rollout yet" in told.output) == (1, True)


def test_a_rollback_leads_to_what_was_wanted_before(run):
    """Also where a till was not reached by it: it is caught up with the older release."""
    ended(run, began(run, "1.0", "--wire", "1"), "all", a_1="same", a_2="same")
    ended(run, began(run, "2.0", "--wire", "1"), "all", a_1="upgraded", a_2="upgraded")
    number = began(run, "previous", "--kind", "rollback")
    tills = {"a-1": {"state": "upgraded", "version": "1.0"}, "a-2": {"state": "unreached"}}
    assert run("end", number, "-", given=json.dumps({"outcome": "some", "tills": tills})).exit_code == 0

    assert {row["wanted"] for row in releases(run).values() if row["wanted"]} == {"1.0"}


@pytest.mark.parametrize("given", ["", "[]", '{"outcome": "well"}', '{"outcome": "all", "tills": {"a": {"state": 1}}}'])
def test_a_report_that_cannot_be_read_is_refused_and_the_rollout_stays_open(run, given):
    """The field is named; whoever wrote it may tell it again."""
    number = began(run, "2.0", "--wire", "1")

    assert run("end", number, "-", given=given).exit_code == 1
    assert run("begin", "2.1", "--wire", "1").exit_code == 1


def test_a_report_of_many_tills_is_taken_and_told(run):
    """As many as a chain has."""
    number = began(run, "2.0", "--wire", "1")
    tills = {f"t-{one}": {"state": "unreached", "why": "x" * 600} for one in range(5_000)}
    told = run("end", number, "-", given=json.dumps({"outcome": "some", "tills": tills}))

    assert "some, 5000 tills" in told.output
    assert len(releases(run, "--missed", "--wanted", "2.0")) == 5_000


def test_everything_that_was_decided_is_in_the_audit(run, database):
    """Who began, ended, froze and why."""
    ended(run, began(run, "2.0", "--wire", "1", "--note", "first"), "all")
    run("freeze", "--from", "2026-03-01", "--until", "2026-03-02", "--note", "sale")
    told = CliRunner().invoke(central, ["--database", database, "audit", "--json"])

    actions = [row["action"] for row in json.loads(told.output)]
    assert actions[:3] == ["freeze", "rollout ended", "rollout began"]
    assert rollouts.DONE == ("all", "some")
