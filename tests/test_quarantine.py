"""What people do with documents in quarantine: see the field that is wrong, have them judged again, discard them."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from databases import refuse
from factories import NOW_MS, TILL, a_document, a_parcel, a_receipt, a_sale, a_store, a_stream, as_json

from central import days, quarantine
from central import judge as judging
from central.batch import NewStream
from central.cli import central
from central.judge import Refused, judge
from central.marked import LINES_MOST, marked_lines, wrong_fields
from central.models import MODELS, Audit, Document, HeldBefore, Quarantine
from central.quarantine import Chosen
from central.verify import follow
from wire import chain

DAY = "2026-03-01"


def refuse_today(monkeypatch):
    """Let an earlier version judge, which knew one type less; what it refused is accepted after the upgrade."""

    def stricter(till, body):
        verdict = judge(till, body)
        if not isinstance(verdict, Refused) and verdict.transaction_type == "no_sale":
            return Refused(verdict.document_id, "bad_schema", "Invalid enum value 'no_sale' - at `$.transaction_type`")
        return verdict

    for place in ("central.store.judge", "central.quarantine.judge"):
        monkeypatch.setattr(place, stricter)


UPGRADED = [as_json(a_document(f"u{number}", store_id="042")) for number in range(3)]
BAD = b'{"document_id":"bad"}'
BODIES = [a_sale("d1", store_id="042"), UPGRADED[0], BAD, UPGRADED[1], a_sale("d5", store_id="042"), UPGRADED[2]]


@pytest.fixture
def path(central_url):
    """Return where central's database stands."""
    return central_url


@pytest.fixture
def store(path, monkeypatch):
    """Return a database in which three documents wait that today's version accepts, and one that it does not."""
    with monkeypatch.context() as earlier:
        refuse_today(earlier)
        made = a_store(path)
        made.open_streams([NewStream(TILL, a_stream(), ())], {}, NOW_MS)
        made.ingest([a_parcel(BODIES)], {}, NOW_MS)
    with made.database.bind_ctx(MODELS):
        yield made
    made.close()


def run(path, *arguments):
    return CliRunner().invoke(central, ["--database", str(path), "quarantine", *map(str, arguments)])


def waiting(path):
    return [row["id"] for row in json.loads(run(path, "--json").stdout)]


# -- Judging again -----------------------------------------------------------------------------------------------------


@pytest.mark.fault("F40", "F22")
def test_what_an_upgrade_accepts_takes_its_place_under_its_own_number(store, path):
    """The very bytes, the same till, stream and number; the chain and the day's numbers stay whole; one is left."""
    done = run(path, "retry", "--note", "upgraded")

    assert (done.exit_code, done.stdout.splitlines()[-1]) == (
        3, "3 accepted, 0 stored already, 1 still refused",
    )  # fmt: skip
    rows = {row.sequence: bytes(row.body) for row in Document.select()}
    assert rows == {number: body for number, body in enumerate(BODIES, 1) if body != BAD}
    assert {row.received_at_ms for row in Document.select()} == {NOW_MS}
    (left,) = Quarantine.select()
    every = sorted([*rows.items(), (left.sequence, bytes(left.body))])
    assert follow(a_stream(), 6, chain.follow_all(chain.first(a_stream()), BODIES), every) == ""
    (till,) = days.store_day("042", DAY, NOW_MS).tills
    assert (till.documents, [one.kind for one in till.missing]) == (5, ["quarantined"])
    assert [(row.action, row.object, row.note) for row in Audit.select()] == [("retry", "1, 3, 4", "upgraded")]


def test_trying_again_twice_is_once_and_a_dry_run_is_nothing(store, path):
    """A dry run tells the same counts and leaves everything, the audit included, as it was."""
    dry = json.loads(run(path, "retry", "--dry-run", "--json").stdout)
    assert (Document.select().count(), Quarantine.select().count(), Audit.select().count()) == (2, 4, 0)
    real = json.loads(run(path, "retry", "--json").stdout)
    again = json.loads(run(path, "retry", "--json").stdout)

    assert [dry.pop("retried"), real.pop("retried")] == [False, True]
    assert dry == real
    assert (again["accepted"], again["refused"], Document.select().count(), Audit.select().count()) == (0, 1, 5, 1)


def test_only_what_is_named_is_judged_again(store, path):
    """By number, by code, by till; a number that is not there is told, and nothing is done."""
    assert run(path, "retry", "--till", "another").exit_code == run(path, "retry", "--code", "bad_json").exit_code == 0
    assert run(path, "retry", "1", "99").exit_code == 1
    assert Document.select().count() == 2
    assert run(path, "retry", "1").exit_code == 0
    assert waiting(path) == [4, 3, 2]
    assert run(path, "retry", "--code", "bad_schema", "--till", TILL).exit_code == 3
    assert waiting(path) == [2]


def test_a_reason_becomes_that_of_todays_rules(store, path):
    """What is still refused shows what is wrong with it now; the bytes and the number stay."""
    Quarantine.update(reason="in the words of an earlier version").where(Quarantine.id == 2).execute()
    run(path, "retry")

    assert Quarantine.get_by_id(2).reason == judge(TILL, BAD).reason
    assert bytes(Quarantine.get_by_id(2).body) == BAD


def test_a_conflict_stays_one(store, path, monkeypatch):
    """Its id was used before with other bytes: whatever it is judged, an accepted document does not settle it."""
    store.ingest([a_parcel([a_sale("d1", total_minor=9)], before=BODIES)], {}, NOW_MS)
    done = json.loads(run(path, "retry", "--code", "conflict", "--json").stdout)

    assert [(one["verdict"], one["code"]) for one in done["documents"]] == [("refused", "conflict")]
    monkeypatch.setattr("central.quarantine.judge", lambda till, body: Refused("d1", "bad_schema", "stricter now"))
    run(path, "retry")
    assert Quarantine.select().where(Quarantine.code == "conflict").count() == 1
    assert waiting(path)[0] == 5


def test_two_that_wait_under_one_id_do_not_settle_each_other_unseen(store, path, monkeypatch):
    """The first one is accepted; the other bytes under its id become a conflict, and go on waiting for a person."""
    twin = as_json(a_document("u0", store_id="042", receipt_number=7))
    with monkeypatch.context() as earlier:
        refuse_today(earlier)
        store.ingest([a_parcel([twin], before=BODIES)], {}, NOW_MS)
    run(path, "retry")

    assert bytes(Document.get(Document.document_id == "u0").body) == UPGRADED[0]
    assert [(row.id, row.code) for row in Quarantine.select()] == [(2, "bad_schema"), (5, "conflict")]
    assert waiting(path) == [5, 2]


def test_the_very_same_document_that_came_again_is_held_and_no_hole(store, path):
    """It stands under another number since: the one it waited under is noted, as for any that is sent twice."""
    store.open_streams([NewStream(TILL, a_stream(2), ())], {}, NOW_MS)
    store.ingest([a_parcel([UPGRADED[0]], stream=a_stream(2))], {}, NOW_MS)
    told = json.loads(run(path, "retry", "1", "--json").stdout)

    assert (told["known"], told["accepted"]) == (1, 0)
    assert [(row.stream, row.sequence) for row in HeldBefore.select()] == [(a_stream(), 2)]
    assert Document.select().where(Document.document_id == "u0").count() == 1


def test_what_the_database_still_refuses_stays_where_it_is(store, path, monkeypatch):
    """The judge has no objection and the database has: unstorable, told, and the others are stored."""
    refuse(store.database, "document", "INSERT", "new.document_id = 'u1'")
    done = run(path, "retry")

    assert (done.exit_code, "3: unstorable: refused by a rule" in done.stdout) == (3, True)
    assert {row.document_id for row in Document.select()} == {"d1", "d5", "u0", "u2"}


# -- Discarding --------------------------------------------------------------------------------------------------------


def test_discarded_is_in_bulk_with_a_note_once_and_keeps_the_bytes(store, path):
    """By numbers, by code or till; what was discarded before is told; each command leaves one audit row."""
    assert run(path, "discard", "--note", "x").exit_code == 2
    assert run(path, "discard", "1").exit_code == run(path, "discard", "9", "--note", "x").exit_code == 1
    assert waiting(path) == [4, 3, 2, 1]
    assert json.loads(run(path, "discard", "1", "2", "--note", "tests", "--json").stdout) == {"discarded": [1, 2]}
    assert run(path, "discard", "2", "3", "--note", "tests").stdout == "discarded 1, 1 were before; nothing changed\n"
    assert run(path, "discard", "--code", "bad_schema", "--till", TILL, "--note", "x").stdout == "discarded 1\n"

    assert waiting(path) == []
    assert [bytes(row.body) for row in Quarantine.select().order_by(Quarantine.sequence)] == [
        BODIES[number] for number in (1, 2, 3, 5)
    ]
    rows = [(row.action, row.object) for row in Audit.select()]
    assert rows == [("discard", "1, 2"), ("discard", "3"), ("discard", f"4 (code bad_schema, till {TILL})")]
    (till,) = days.store_day("042", DAY, NOW_MS).tills
    assert till.missing == ()


def test_what_was_discarded_is_judged_again_only_by_its_number(store, path):
    """A person may take it back by naming it; a sweep over all does not."""
    quarantine.discard(Chosen((1, 2, 3)), "by mistake", NOW_MS)
    run(path, "retry")
    assert Document.select().count() == 3
    run(path, "retry", "1")
    assert Document.select().count() == 4


# -- Looking -----------------------------------------------------------------------------------------------------------


def test_piped_a_document_is_its_bytes_and_for_people_its_fields(store, path):
    """Exactly the bytes, not one more; the view names the code, the reason, what it is about and the wrong field."""
    assert run(path, "show", "1").stdout_bytes == run(path, "show", "1", "--bytes").stdout_bytes == UPGRADED[0]
    text = run(path, "show", "1", "--text").stdout
    told = json.loads(run(path, "show", "1", "--json").stdout)

    assert all(word in text for word in ("bad_schema", TILL, "u0", "2026-03-01", "$.transaction_type"))
    (marked,) = [line for line in text.splitlines() if line.startswith(">>>")]
    assert '"transaction_type": "no_sale"' in marked
    assert (told["wrong"], told["document"]["document_id"], told["sequence"]) == (["$.transaction_type"], "u0", 2)
    assert run(path, "show", "99").exit_code == 1


@pytest.mark.parametrize("body", [b"\xff\xfe not JSON \x1b[2J", b"[1]", b"[" * 5000])
def test_bytes_that_are_no_document_are_shown_without_commanding_the_terminal(store, path, body):
    """A till wraps them; what came otherwise is shown as a literal, cut short."""
    Quarantine.update(body=body).where(Quarantine.id == 1).execute()
    done = run(path, "show", "1", "--text")

    assert (done.exit_code, "\x1b" in done.stdout, len(done.stdout) < 1500) == (0, False, True)
    assert run(path, "show", "1").stdout_bytes == body


def lines_of(number, **wrong):
    lines = [{"line_number": n, "quantity": "1", "extended_minor": 100} for n in (1, 2, 3)]
    lines[number] |= wrong
    return lines


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        (a_receipt(closed_at=None), ["$.closed_at"]),
        ({"document_id": "d1"}, ["$.transaction_type"]),
        (a_receipt(total_minor=300, lines=lines_of(1, extended_minor="x")), ["$.lines[1].extended_minor"]),
        (a_receipt(total_minor=300, lines=lines_of(2, taxes=[{"tax_id": "v", "amount_minor": 1.5}])),
         ["$.lines[2].taxes[0].amount_minor"]),
        (a_receipt(total_minor=300, lines=lines_of(1, quantity="1,5")), ["$.lines[1].quantity"]),
        (a_receipt(totals={"total_minor": 1}), ["$.totals.total_minor", "$.lines"]),
        (a_receipt(tenders=[]), ["$.totals.total_minor", "$.tenders"]),
        (a_receipt(till_id="another"), ["$.till_id"]),
        (a_receipt(totals=None), ["$.totals"]),
        (a_document(business_day="2026-02-31"), ["$.closed_at", "$.business_day"]),
        (a_document(transaction_type="paid_in"), ["$.cash.amount_minor"]),
        (a_document(transaction_type="x_report"), ["$.shift_number"]),
    ],
)  # fmt: skip
def test_the_field_that_is_wrong_is_marked(fields, wrong):
    """In a list it is the element that is wrong; a field that is not there is marked where it should be."""
    body = as_json(fields)
    refused = judge(TILL, body)
    assert isinstance(refused, Refused)
    found = wrong_fields(fields, refused.code, refused.reason)

    assert wrong == [path for path in found if path in wrong or "[" in path], refused.reason
    assert any(line.startswith(">>>") for line in marked_lines(fields, found))


def test_a_missing_field_is_marked_on_what_lacks_it():
    """The nearest field that is there says what is missing below it."""
    (marked,) = [line for line in marked_lines({"cash": {}}, ["$.cash.amount_minor"]) if line.startswith(">>>")]

    assert '"cash": {}' in marked
    assert "amount_minor is missing" in marked


def test_a_long_document_is_shown_around_its_marks():
    """A thousand lines of goods do not hide the one that is wrong."""
    document = {"lines": [{"name": f"n{number}"} for number in range(1000)]}
    lines = marked_lines(document, ["$.lines[500].name"])

    assert len(lines) < LINES_MOST
    assert any(line.startswith(">>>") and '"n500"' in line for line in lines)
    assert lines.count("      …") == 2


def test_every_code_of_the_judge_can_be_chosen(path, store):
    """What the judge says can be listed, judged again and discarded by its code."""
    for code in judging.Code.__args__:
        assert run(path, "--code", code, "--json").exit_code == 0
