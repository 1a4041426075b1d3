"""The commands of days: what they print, what they exit with, what they leave in the audit."""

from __future__ import annotations

import json
import shlex

import pytest
from click.testing import CliRunner
from databases import look
from factories import NOW_MS, a_document, a_parcel, a_receipt, a_store, a_stream, as_json

from central import days_cli
from central.batch import NewStream
from central.cli import central
from central.completeness import DayFacts, Head, Missing, ShiftFacts, TillFacts, judge_till
from central.shift_sums import Difference
from fleet.shift import ShiftBook

DAY, STORE = "2026-03-01", "042"


def a_day(till, store_id=STORE, day=DAY):
    """Return the bytes of a till's whole day: one shift with three receipts."""
    head = {"till_id": till, "store_id": store_id, "business_day": day, "shift_number": 1}
    made = [a_document(f"{day}-0", "shift_open", **head)]
    made += [a_receipt(f"{day}-{number}", total_minor=100, receipt_number=number, **head) for number in (1, 2, 3)]
    book = ShiftBook()
    for one in made:
        book.add(one)
    return [as_json(one) for one in (*made, a_document(f"{day}-9", "shift_close", shift=book.summary(), **head))]


@pytest.fixture
def database(central_url):
    """Return a database: two tills of store 042, one of 043; number 3 of till-2 is lost."""
    path = central_url
    store = a_store(path)
    for number, store_id in ((1, STORE), (2, STORE), (3, "043")):
        till, stream = f"till-{number}", a_stream(number)
        store.open_streams([NewStream(till, stream, ())], {}, NOW_MS)
        store.ingest([a_parcel(a_day(till, store_id), till, stream=stream)], {}, NOW_MS)
        store.note(NOW_MS, verified=[(till, stream)])
    store.database.run("DELETE FROM document WHERE till_id = 'till-2' AND sequence = 3")
    store.close()
    return str(path)


def run(command, *arguments, database=""):
    return CliRunner().invoke(command, list(arguments), obj=(None, {"TILLSTREAM_DATABASE": database}))


def rows(command, *arguments, database=""):
    told = run(command, *arguments, "--json", database=database)
    assert told.exit_code == 0, told.output
    return json.loads(told.output)


# -- Days --------------------------------------------------------------------------------------------------------------


def test_days_has_one_row_for_each_store_and_day(database):
    """State, tills, documents, sums by currency and type, and how many are missing at least."""
    found = {row["store_id"]: row for row in rows(days_cli.days, database=database)}

    assert {name: row["state"] for name, row in found.items()} == {STORE: "partial", "043": "complete"}
    row = found[STORE]
    assert (row["tills_complete"], row["tills"], row["documents"], row["missing"]) == (1, 2, 9, 1)
    assert (row["totals_minor"], row["reopened_at_ms"]) == ({"RUB": {"sale": 500}}, None)


def test_days_are_a_table_for_people(database):
    """One line a day; the sums as they are kept, in minor units."""
    told = run(days_cli.days, database=database)

    assert told.exit_code == 0
    head, first, second = (line.split() for line in told.output.splitlines())
    assert head[:4] == ["BUSINESS_DAY", "STORE_ID", "STATE", "TILLS"]
    assert first == [DAY, STORE, "partial", "1/2", "9", "1", "RUB", "sale", "500", "-"]
    assert second[:4] == [DAY, "043", "complete", "1/1"]


def test_days_can_be_narrowed(database):
    """By store, state and range; a day on which nothing came is shown too."""
    assert [row["store_id"] for row in rows(days_cli.days, "--state", "partial", database=database)] == [STORE]
    assert [row["state"] for row in rows(days_cli.days, "--store", "043", database=database)] == ["complete"]
    asked = ("--from", "2026-02-28", "--to", DAY, "--store", STORE)
    found = [(row["business_day"], row["state"]) for row in rows(days_cli.days, *asked, database=database)]
    assert found[0] == (DAY, "partial")
    assert [day for day, _ in found] == [DAY, "2026-02-28"]


def test_days_exits_with_three_only_when_asked_to_and_a_day_needs_a_person(database):
    """For a monitor: 0 where all that is over is complete."""
    assert run(days_cli.days, database=database).exit_code == 0
    assert run(days_cli.days, "--exit-code", database=database).exit_code == 3
    assert run(days_cli.days, "--exit-code", "--store", "043", database=database).exit_code == 0


def test_a_day_that_is_not_over_needs_no_person(central_url):
    """It is open because it is still being sold; seven days are shown unless a range is given."""
    store = a_store(central_url)
    store.open_streams([NewStream("till-1", a_stream(), ())], {}, NOW_MS)
    days = [f"2999-01-0{number}" for number in range(1, 10)]
    store.ingest([a_parcel([body for day in days for body in a_day("till-1", STORE, day)])], {}, NOW_MS)
    store.close()
    path = central_url

    assert [row["business_day"] for row in rows(days_cli.days, database=path)] == days[:1:-1]
    assert {row["state"] for row in rows(days_cli.days, database=path)} == {"open"}
    assert run(days_cli.days, "--exit-code", database=path).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (("--from", "yesterday"), 2, "YYYY-MM-DD"),
        (("--from", "2026-03-02", "--to", "2026-03-01"), 1, "a range goes forward"),
        (("--from", "2020-01-01", "--to", "2026-03-01"), 1, "at most 92 days"),
        (("--state", "fine"), 2, "not expected"),
    ],
)
def test_a_bad_range_is_refused_with_what_would_be_right(database, arguments, code, named):
    """Usage errors exit with 2, what the database cannot answer with 1."""
    told = run(days_cli.days, *arguments, database=database)

    assert told.exit_code == code
    assert named in told.output


def test_an_empty_database_has_no_days(tmp_path, central_url):
    """An empty list, exit code 0; with no database, the sentence that says what to start."""
    a_store(central_url).close()

    assert rows(days_cli.days, database=central_url) == []
    told = run(days_cli.days, database=str(tmp_path / "none.db"))
    assert (told.exit_code, "tillstream central run" in told.output) == (1, True)


# -- Explain -----------------------------------------------------------------------------------------------------------


def test_explain_shows_what_is_missing_and_what_to_do(database):
    """Each till with its proofs, its shifts with theirs, the numbers, the difference, and a command to type."""
    told = run(days_cli.explain, DAY, STORE, database=database).output

    for words in (
        "store 042: partial",
        "till till-2: partial, 4 documents  (verified: yes, numbered: NO, reconciled: NO)",
        "shift 1: closed, 4 documents  (verified: yes, numbered: NO, reconciled: NO)",
        "by_tender sale.cash: shift_close says 3 × 300, stored are 2 × 200, difference -1 × -100 minor units",
        f"missing: number 3 of stream {a_stream(2)}: central holds nothing under it",
        "missing: receipt number 2 of shift 1",
        'next: tillstream central request --day 2026-03-01 --store 042 --note "documents are missing"',
        "till till-1: complete, 5 documents  (verified: yes, numbered: yes, reconciled: yes)",
    ):
        assert words in told


def test_explain_as_json_has_every_proof_and_number(database):
    """The same for a program; --till narrows it."""
    found = rows(days_cli.explain, DAY, STORE, "--till", "till-2", database=database)

    (till,) = found["tills"]
    assert till["proofs"] == {"verified": True, "numbered": False, "reconciled": False}
    assert [(one["kind"], one["first"], one["last"], one["count"]) for one in till["missing"]] == [
        ("sequence", 3, 3, 1),
        ("receipt_number", 2, 2, 1),
    ]
    (shift,) = till["shifts"]
    assert {(one["key"], one["difference_count"], one["difference_minor"]) for one in shift["differences"]} == {
        ("sale", -1, -100),
        ("sale.cash", -1, -100),
    }


def test_explaining_what_nobody_knows_is_an_error(database):
    """It names the till and the store."""
    told = run(days_cli.explain, DAY, "999", database=database)
    assert (told.exit_code, "any till in store '999'" in told.output) == (1, True)

    told = run(days_cli.explain, DAY, STORE, "--till", "nobody", database=database)
    assert (told.exit_code, "till nobody" in told.output) == (1, True)


def test_long_lists_are_cut_for_people_and_whole_for_programs(database):
    """Twenty lines of a kind, then how many more there are."""
    lines = [str(number) for number in range(25)]

    assert days_cli._first(lines)[20:] == ["    … and 5 more; see --json"]
    assert days_cli._first(lines[:20]) == lines[:20]


def test_every_command_that_is_recommended_can_be_typed():
    """Each next step is parsed by the very command it names."""
    facts = TillFacts(
        "till 1",
        0,
        is_approved=False,
        heads=(Head("s", 5, 9, 1),),
        documents=5,
        missing=(Missing("sequence", 1, 1, "s"), Missing("gap", 2, 2, "s"), Missing("quarantined", 3, 3, "s")),
        shifts=(ShiftFacts(7, 5, 1, None, frozenset(), (Difference("by_type", "sale", 1, 2, 1, 2),), ()),),
    )
    day = DayFacts("store 42", DAY, 0, 1)
    silent = TillFacts("till 2", -1)
    steps = [*judge_till(day, facts).next_steps, *judge_till(day, silent).next_steps]
    tills = {"park": days_cli.park, "unpark": days_cli.unpark, "approve": days_cli.approve}
    parsed = set()
    for step in steps:
        _, _, line = step.partition("tillstream central ")
        name, *arguments = shlex.split(line)
        command = tills[arguments.pop(0)] if name == "tills" else central.commands[name]
        command.make_context(name, arguments).close()
        parsed.add(command.name)

    assert parsed == {"approve", "request", "quarantine", "gaps", "documents", "park"}


# -- What people decide ------------------------------------------------------------------------------------------------


def audit(database):
    return [(row["action"], row["object"], row["note"]) for row in rows(days_cli.audit, database=database)][::-1]


def test_parking_twice_is_done_once_and_each_decision_has_one_audit_row(database):
    """The second time says so and exits with 0."""
    said = [
        run(command, "till-2", "--note", note, database=database)
        for command, note in (
            (days_cli.park, " in repair "),
            (days_cli.park, "again"),
            (days_cli.unpark, "back"),
            (days_cli.unpark, "again"),
        )
    ]

    assert [told.exit_code for told in said] == [0, 0, 0, 0]
    assert ["nothing changed" in told.output for told in said] == [False, True, False, True]
    assert audit(database) == [("park", "till till-2", "in repair"), ("unpark", "till till-2", "back")]


@pytest.mark.fault("F45")
def test_a_parked_till_lets_the_day_close_but_hides_nothing_that_is_lost(database):
    """Till-2 fell silent before it closed its shift: parked, the day is complete. With a number lost it is not."""
    run(days_cli.park, "till-2", "--note", "in repair", database=database)
    (row,) = rows(days_cli.days, "--store", STORE, database=database)
    assert (row["state"], row["missing"]) == ("partial", 1)

    look(database, "UPDATE watermark SET through = 2 WHERE till_id = 'till-2'")
    look(database, "DELETE FROM document WHERE till_id = 'till-2' AND sequence > 2")
    (row,) = rows(days_cli.days, "--store", STORE, database=database)
    assert (row["state"], row["tills"], row["tills_not_expected"]) == ("complete", 1, 1)
    told = run(days_cli.explain, DAY, STORE, database=database).output
    assert "till till-2: not expected" in told
    assert "note: parked: in repair" in told


@pytest.mark.parametrize("note", [(), ("--note", "  ")], ids=["none", "blank"])
def test_parking_needs_a_reason(database, note):
    """A usage error; nothing is written."""
    told = run(days_cli.park, "till-2", *note, database=database)

    assert (told.exit_code, "--note" in told.output) == (2, True)
    assert audit(database) == []


@pytest.mark.parametrize("command", [days_cli.park, days_cli.unpark, days_cli.approve])
def test_a_till_that_never_connected_cannot_be_decided_about(database, command):
    """It is named; nothing is written."""
    told = run(command, "nobody", "--note", "x", database=database)

    assert (told.exit_code, "no till named nobody" in told.output) == (1, True)
    assert audit(database) == []


def test_approving_a_till_is_audited_once(central_url):
    """Central asks it from then on."""
    path = central_url
    store = a_store(path, approve_tills=True)
    store.open_streams([NewStream("till-1", a_stream(), ())], {}, NOW_MS)
    first, second = (run(days_cli.approve, "till-1", database=path) for _ in range(2))

    assert (first.output, second.exit_code) == ("till-1 is approved\n", 0)
    assert audit(path) == [("approve", "till till-1", "")]
    assert store.unapproved() == set()
    store.close()


def test_a_stores_clock_is_set_part_by_part_and_listed(database):
    """What is not named stays; the same again changes nothing."""
    zone, cut_off = ("--time-zone", "Europe/Moscow"), ("--day-cut-off", "05:00")
    said = [
        run(days_cli.stores, "set", STORE, *arguments, database=database)
        for arguments in (zone, cut_off, (*zone, *cut_off))
    ]

    assert [told.exit_code for told in said] == [0, 0, 0]
    assert "nothing changed" in said[2].output
    kept = {"store_id": STORE, "time_zone": "Europe/Moscow", "day_cut_off": "05:00"}
    told = run(days_cli.stores, "list", "--json", database=database)
    assert json.loads(told.output) == [kept]
    assert [
        ("set_store_clock", "store 042: Europe/Moscow, day ends at 00:00", ""),
        ("set_store_clock", "store 042: Europe/Moscow, day ends at 05:00", ""),
    ] == audit(database)


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (("--time-zone", "Mars/Olympus"), 1, "time_zone must be a name of the IANA database"),
        (("--day-cut-off", "25:00"), 1, "day_cut_off must be HH:MM"),
        ((), 2, "--time-zone or --day-cut-off"),
        (("--day-cut-off", "05:00", "--note", "x" * 501), 2, "500"),
    ],
)
def test_a_clock_that_cannot_be_is_not_set(database, arguments, code, named):
    """The text names the field and what would be right; nothing is written."""
    told = run(days_cli.stores, "set", STORE, *arguments, database=database)

    assert (told.exit_code, named in told.output) == (code, True)
    assert audit(database) == []
    assert run(days_cli.stores, "list", "--json", database=database).output == "[]\n"


def test_the_audit_names_who_called_sudo(database, monkeypatch):
    """The person, not root; newest first, and no more than asked for."""
    monkeypatch.setenv("SUDO_USER", "ivanova")
    for number in range(3):
        run(days_cli.stores, "set", str(number), "--day-cut-off", "05:00", database=database)

    found = rows(days_cli.audit, "--most", "2", database=database)
    assert [row["object"].split(":")[0] for row in found] == ["store 2", "store 1"]
    assert {row["who"] for row in found} == {"ivanova"}


@pytest.mark.parametrize("command", [days_cli.days, days_cli.explain, days_cli.park, days_cli.unpark, days_cli.approve,
                                     days_cli.stores, days_cli.set_store, days_cli.audit])  # fmt: skip
def test_each_command_teaches_by_an_example_and_needs_no_configuration(command):
    """--help works before anything is configured."""
    told = CliRunner().invoke(command, ["--help"])

    assert told.exit_code == 0
    assert "tillstream central" in told.output
