"""What people decide about gaps and quarantine: with a note, once, and the day goes on from there."""

from __future__ import annotations

import pytest
from click.testing import CliRunner
from factories import NOW_MS, TILL, a_parcel, a_sale, a_store, a_stream

from central import days, decisions, late, quarantine, reports
from central.batch import NewStream
from central.cli import central
from central.decisions import DecisionError
from central.models import MODELS, Audit
from central.quarantine import Chosen
from wire.reasons import Reason

DAY = "2026-03-01"
BAD = b'{"document_id":"bad"}'


@pytest.fixture
def store(central_url):
    """Return a database with a gap and a document in quarantine, both of one day of store 042."""
    made = a_store(central_url)
    made.open_streams([NewStream(TILL, a_stream(), ())], {}, NOW_MS)
    made.ingest([a_parcel([a_sale("d1", store_id="042"), BAD, a_sale("d3", store_id="042")])], {}, NOW_MS)
    made.database.run(
        "INSERT INTO gap (till_id, stream, first, last, reason, found_at_ms, note) VALUES (?, ?, 2, 2, 'lost', ?, '')",
        (TILL, a_stream(), NOW_MS),
    )
    with made.database.bind_ctx(MODELS):
        yield made
    made.close()


def missing():
    (till,) = days.store_day("042", DAY, NOW_MS).tills
    return sorted(one.kind for one in till.missing)


def test_a_gap_and_a_quarantined_document_are_missing_until_a_person_says_otherwise(store):
    """Each decision takes one of them off the day, and leaves one audit row; deciding again changes nothing."""
    assert missing() == ["gap", "quarantined"]
    assert decisions.close_gap(1, "booked by hand", NOW_MS)
    assert missing() == ["quarantined"]
    assert late.late(NOW_MS)[TILL].code != "up_to_date"
    assert quarantine.discard(Chosen((1,)), "test receipt", NOW_MS)
    assert missing() == []

    assert not decisions.close_gap(1, "again", NOW_MS)
    assert not quarantine.discard(Chosen((1,)), "again", NOW_MS)
    assert [row.action for row in Audit.select()] == ["close gap", "discard"]


def test_what_came_again_and_was_accepted_is_settled_everywhere(store, tmp_path):
    """The POS mends a document under its id: lists, status, reasons and days agree that nothing is left to look at."""
    settled = a_parcel(
        [a_sale("bad", store_id="042")], before=[a_sale("d1", store_id="042"), BAD, a_sale("d3", store_id="042")]
    )
    decisions.close_gap(1, "booked by hand", NOW_MS)
    assert (len(reports.quarantine(9)), reports.status()["quarantined"]) == (1, 1)
    assert late.late(NOW_MS)[TILL].code == "quarantined"
    store.ingest([settled], {}, NOW_MS)

    assert (reports.quarantine(9), reports.status()["quarantined"], missing()) == ([], 0, [])
    assert len(reports.quarantine(9, everything=True)) == 1
    assert late.late(NOW_MS)[TILL].code != "quarantined"


def test_the_bytes_of_a_quarantined_document_can_be_looked_at(store, central_url):
    """They are what the POS handed over; a number that is not there is told."""

    def run(*arguments):
        return CliRunner().invoke(central, ["--database", central_url, *arguments])

    assert run("quarantine", "show", "1").stdout_bytes == BAD
    assert run("quarantine", "show", "9").exit_code == 1
    nothing = run("documents", "--id", "bad", "--bytes")
    assert (nothing.exit_code, "quarantine" in nothing.output) == (1, True)


@pytest.mark.parametrize(("number", "note", "said"), [(1, " ", "note"), (9, "why", "no number 9")])
def test_a_decision_needs_a_note_and_something_to_decide(store, number, note, said):
    """Nothing is closed in silence, and nothing that is not there."""
    for decide in (decisions.close_gap, lambda *given: quarantine.discard(Chosen((given[0],)), *given[1:])):
        with pytest.raises(DecisionError, match=said):
            decide(number, note, NOW_MS)
    assert Audit.select().count() == 0


def test_the_commands_say_what_they_did_and_the_lists_what_is_left(store, central_url):
    """`gaps` and `quarantine` list what is open; what was decided is shown on demand."""

    def run(*arguments):
        return CliRunner().invoke(central, ["--database", central_url, *arguments])

    assert run("gaps", "close", "1", "--note", "why").output == "gap 1 is closed\n"
    assert "closed before" in run("gaps", "close", "1", "--note", "why").output
    assert run("quarantine", "discard", "1", "--note", "why").output == "discarded 1\n"
    assert run("gaps", "--json").output == run("quarantine", "--json").output == "[]\n"
    assert '"code": "bad_schema"' in run("quarantine", "--all", "--json").output


def test_tills_tell_why_they_are_late_in_the_language_of_the_reader(store, central_url, monkeypatch):
    """The code is the same in both languages; the next step is shown for one till."""

    def run(language):
        monkeypatch.setenv("TILLSTREAM_LANGUAGE", language)
        return CliRunner().invoke(central, ["--database", central_url, "tills", "--till", TILL]).output

    russian, english = run("ru"), run("en")
    assert late.late(NOW_MS)[TILL].code in russian
    assert late.late(NOW_MS)[TILL].code in english
    assert russian != english
    assert isinstance(late.late(NOW_MS)[TILL], Reason)
