"""What people may ask for once more, and which numbers of which stream that means."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from databases import listening
from factories import NOW_MS, TILL, a_document, a_parcel, a_sale, a_store, a_stream, as_json, some_sales

from central import requests
from central.batch import NewStream, Span
from central.cli import central
from central.models import MODELS, Audit, Task
from central.requests import RequestError, Scope, Wish

DAY_1, DAY_2 = "2026-03-01", "2026-03-02"


@pytest.fixture
def store(central_url):
    """Return a database: till-1 of store 042 closed numbers 1..6 on the first day and 7..9 on the second."""
    made = a_store(central_url)
    bodies = [a_sale(f"d{number}", store_id="042", shift_number=1, business_day=DAY_1) for number in range(1, 7)]
    bodies += [a_sale(f"d{number}", store_id="042", shift_number=2, business_day=DAY_2) for number in range(7, 10)]
    made.open_streams([NewStream(TILL, a_stream(), ()), NewStream("till-2", a_stream(2), ())], {}, NOW_MS)
    made.ingest([a_parcel(bodies)], {}, NOW_MS)
    made.database.run("UPDATE till SET store_id = '042' WHERE till_id = ?", (TILL,))
    with made.database.bind_ctx(MODELS):
        yield made
    made.close()


def plan(**scope):
    return requests.plan(Scope(**scope))


def wish(scope, at_ms, note):
    return requests.leave(scope, requests.plan(scope), at_ms, note)


def span(after, through):
    return [Wish(TILL, Span(a_stream(), after, through))]


def test_a_till_alone_is_asked_for_what_is_new(store):
    """Nothing is sent again."""
    assert plan(till=TILL) == [Wish(TILL)]


def test_a_range_is_those_numbers_of_the_present_stream(store):
    """One number or several; they must be below the watermark."""
    assert plan(till=TILL, first=3, last=3) == span(2, 3)
    assert plan(till=TILL, first=1, last=9) == span(0, 9)


@pytest.mark.parametrize(("first", "last"), [(0, 3), (4, 3), (5, 10)])
def test_a_range_that_central_never_had_is_refused_with_what_there_is(store, first, last):
    """What is above the watermark comes by itself."""
    with pytest.raises(RequestError, match=r"1\.\.9"):
        plan(till=TILL, first=first, last=last)


def test_a_day_is_its_numbers_and_the_holes_beside_them(store):
    """A number that is gone has no day; next to the day's numbers it may belong to it."""
    assert plan(store="042", day=DAY_1) == span(0, 6)
    store.database.run("DELETE FROM document WHERE sequence IN (6, 7)")
    assert plan(store="042", day=DAY_1) == span(0, 7)
    assert plan(till=TILL, day=DAY_2) == span(5, 9)


def test_the_last_numbers_of_a_day_may_be_gone_up_to_the_watermark(store):
    """What is missing at the end is asked for, too."""
    store.database.run("DELETE FROM document WHERE sequence > 7")
    assert plan(till=TILL, day=DAY_2) == span(6, 9)


def test_a_shift_is_its_numbers(store):
    """Of one till; with the day, where shift numbers come again."""
    assert plan(till=TILL, shift=2) == span(6, 9)
    assert plan(till=TILL, shift=2, day=DAY_1) == [Wish(TILL)]


def test_everything_is_all_of_the_present_stream(store):
    """Of one till or of all; a till that sent nothing yet is asked for what is new."""
    assert plan(everything=True) == [*span(0, 9), Wish("till-2")]


def test_a_day_under_an_older_stream_is_asked_for_as_a_whole(store):
    """Old numbers cannot be asked for; the present stream holds whatever the till retains."""
    store.open_streams([NewStream(TILL, a_stream(3), ())], {}, NOW_MS)
    store.ingest([a_parcel(some_sales(2, 100), stream=a_stream(3))], {}, NOW_MS)

    assert plan(till=TILL, day=DAY_1) == [Wish(TILL, Span(a_stream(3), 0, 2))]


def test_a_store_has_the_tills_that_closed_there_that_day(store):
    """Also one that has shown no presence with the store's name."""
    body = as_json(a_document("x", till_id="till-2", store_id="042", business_day=DAY_2))
    store.ingest([a_parcel([body], "till-2", stream=a_stream(2))], {}, NOW_MS)

    assert [wish.till for wish in plan(store="042", day=DAY_2)] == [TILL, "till-2"]
    assert [wish.till for wish in plan(store="042", day=DAY_1)] == [TILL]


def test_nothing_to_ask_is_told(store):
    """A misspelt till or store is an error, not an empty success."""
    with pytest.raises(RequestError, match="till nobody"):
        plan(till="nobody")


def test_a_wish_is_made_once_while_one_that_covers_it_is_open(store):
    """The second returns the first one's task; a wider one is a new wish. Each request is audited."""
    (first,) = wish(Scope(till=TILL, first=3, last=5), NOW_MS, "day is partial")
    assert wish(Scope(till=TILL, first=4, last=4), NOW_MS, "") == [first]
    assert wish(Scope(till=TILL, everything=True), NOW_MS, "") != [first]
    assert wish(Scope(till=TILL), NOW_MS, "") == wish(Scope(till=TILL), NOW_MS, "")

    assert Task.select().count() == 3
    assert [row.object for row in Audit.select().order_by(Audit.id)][:2] == [
        "till till-1, numbers 3..5",
        "till till-1, numbers 4..4",
    ]


def test_a_day_that_was_lost_as_a_whole_is_asked_for_by_its_neighbours(store):
    """None of its documents is left to say where it was: it is what lies between the days before and behind it."""
    store.database.run("DELETE FROM document WHERE business_day = ?", (DAY_1,))
    assert plan(till=TILL, day=DAY_1) == span(0, 6)
    assert plan(till=TILL, day="2026-03-03") == [Wish(TILL)]
    assert plan(day=DAY_1) == [*span(0, 6), Wish("till-2")]


def test_a_shift_number_that_comes_again_means_its_newest_shift(store):
    """Fiscal storages are exchanged, and numbering begins anew; the day names an older one."""
    bodies = [a_sale(f"n{number}", shift_number=1, business_day="2027-05-05") for number in range(3)]
    before = [a_sale(f"d{number}", store_id="042", shift_number=1, business_day=DAY_1) for number in range(1, 7)]
    before += [a_sale(f"d{number}", store_id="042", shift_number=2, business_day=DAY_2) for number in range(7, 10)]
    store.ingest([a_parcel(bodies, before=before)], {}, NOW_MS)

    assert plan(till=TILL, shift=1) == span(9, 12)
    assert plan(till=TILL, shift=1, day=DAY_1) == span(0, 6)


def test_asking_the_whole_fleet_takes_few_statements(store):
    """Ten thousand tills: planned at once, and left in a transaction that is short; asked again, nothing is added."""
    with store.database.atomic():
        store.database.run(
            "WITH RECURSIVE n(i) AS (SELECT 10 UNION ALL SELECT i + 1 FROM n WHERE i < 309)"
            " INSERT INTO till SELECT 'many-' || i, '', true, 0, true, -1, NULL, '{}', NULL, NULL, '' FROM n"
        )
        store.database.run(
            "INSERT INTO watermark (till_id, stream, through, digest, opened_at_ms)"
            " SELECT till_id, 's', 9, '', 0 FROM till"
        )
    statements = []
    with listening(store.database, statements.append):
        for scope in (Scope(everything=True), Scope(day=DAY_1)):
            wish(scope, NOW_MS, "")
            assert wish(scope, NOW_MS, "") == wish(scope, NOW_MS, "")

    assert Task.select().count() == 302
    assert len([one for one in statements if "FROM document" not in one]) < 60


def test_a_till_may_have_any_name(store):
    """What is not given does not narrow; a till called None does."""
    assert str(Scope(till="None", shift=0)) == "till None, shift 0"
    assert str(Scope(store="042", day=DAY_1, everything=True)) == f"store 042, day {DAY_1}, everything"


# -- The command -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "name a till"),
        (["--shift", "3", "--store", "042"], 2, "need a till"),
        ([TILL, "--range", "a..b"], 2, "118 or 100..118"),
        ([TILL, "--range", "3", "--everything"], 2, "give a range"),
        ([TILL, "--day", "yesterday"], 2, "2026-03-01"),
        ([TILL, "--range", "3..99"], 1, "1..9"),
        ([TILL, "--range", "3", "--note", "x" * 501], 2, "500"),
        ([TILL, "--range", "3"], 0, "1 tasks"),
    ],
)
def test_what_people_type_is_answered_with_what_to_do(store, central_url, arguments, code, said):
    """Usage errors are 2, what cannot be asked is 1, and each text says what would be right."""
    path = central_url
    done = CliRunner().invoke(central, ["--database", path, "request", *arguments])

    assert (done.exit_code, said in done.output) == (code, True), done.output


def test_the_tasks_are_told_as_json(store, central_url):
    """For scripts that wait for them."""
    path = central_url
    done = CliRunner().invoke(central, ["--database", path, "request", TILL, "--json"])

    assert len(json.loads(done.output)["task_ids"]) == 1
