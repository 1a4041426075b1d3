"""The bytes of old documents are forgotten; who they are, what they prove and what they add up to stays for ever."""

from __future__ import annotations

import json
from contextlib import closing

import pytest
from click.testing import CliRunner
from databases import look
from factories import NOW_MS, TILL, a_parcel, a_sale, a_store, a_stream, digest_of, some_sales
from test_days import DAY, NOON_MS, STORE, Till

from central import backup, days, reports
from central.batch import NewStream
from central.cli import central
from central.models import MODELS, Document
from central.retention import forget
from wire.messages import History, Quarantined

DAY_MS = 86_400_000
OLD_MS, NEW_MS = NOW_MS - 400 * DAY_MS, NOW_MS - DAY_MS
BEFORE_MS = NOW_MS - 365 * DAY_MS
BAD = b'{"document_id":"bad"}'
OLD, NEW = [*some_sales(5), BAD, *some_sales(2, first=6)], some_sales(3, first=8)


def silent(*_):
    """Hear of something and say nothing."""


@pytest.fixture
def store(central_url):
    """Return a database with eight old numbers of a stream, one in quarantine, and three new ones."""
    with closing(a_store(central_url)) as made:
        made.open_streams([NewStream(TILL, a_stream(), ())], {}, OLD_MS)
        made.ingest([a_parcel(OLD)], {}, OLD_MS)
        made.ingest([a_parcel(NEW, before=OLD)], {}, NEW_MS)
        with made.database.bind_ctx(MODELS):
            yield made


def forgotten(store, batch=3, **options):
    return forget(store.database, BEFORE_MS, batch, silent, silent, **options)


def bodies(store):
    return dict(store.database.run("SELECT document_id, body FROM document").fetchall())


def verified(store, tmp_path):
    """Return what a backup that is read back says of the streams."""
    url = store.database.place.url
    made = backup.make(url, tmp_path, 9, "", lambda: NOW_MS + len(list(tmp_path.iterdir())), silent)
    return made.verified


def test_old_bytes_go_and_everything_that_is_proven_stays(store, tmp_path):
    """Only what is older, batch by batch; rows, numbers and totals stay, and the chain is still whole to the end."""
    rows = "SELECT document_id, sequence, total_minor, closed_at_ms, store_id FROM document ORDER BY id"
    before = store.database.run(rows).fetchall()
    done = forgotten(store)

    assert (done.documents, done.held_back) == (7, 0)
    assert done.kept_bytes < done.size_bytes
    kept = bodies(store)
    assert all(kept[f"d{number}"] == NEW[number - 8] for number in (8, 9, 10))
    assert all(b'"lines"' not in kept[f"d{number}"] for number in range(1, 8))
    assert before == store.database.run(rows).fetchall()
    assert verified(store, tmp_path).problems == []
    assert forgotten(store).documents == 0, "a second time there is nothing to do"


def test_a_dry_run_says_the_same_and_changes_nothing(store):
    """Counted by the same steps."""
    before = bodies(store)
    told = forgotten(store, dry_run=True)

    assert before == bodies(store)
    assert told == forgotten(store)


def test_a_document_that_comes_again_is_known_and_another_one_under_its_id_is_a_conflict(store):
    """Identity holds over all time: by the digest of the bytes that are gone."""
    forgotten(store)
    store.open_streams([NewStream(TILL, a_stream(2), ())], {}, NOW_MS)
    again = [OLD[0], a_sale("d2", total_minor=1), OLD[2]]
    outcome = store.ingest([a_parcel(again, stream=a_stream(2))], {}, NOW_MS)[0]

    assert (outcome.kind, outcome.quarantined) == ("advanced", (Quarantined(2, "conflict"),))
    assert len(bodies(store)) == 10


def test_what_a_stream_lost_behind_the_forgotten_is_still_found(store, tmp_path):
    """A hole, and a document that was changed, are no less visible than before."""
    forgotten(store)
    look(store.database.place.url, "DELETE FROM document WHERE document_id = 'd9'")
    assert [one.problem for one in verified(store, tmp_path).problems] == ["number 10 is missing of 11"]


def test_a_changed_document_behind_the_forgotten_is_still_found(store, tmp_path):
    """The chain goes on from the digest that stands where the bytes were."""
    forgotten(store)
    Document.update(body=a_sale("d9", total_minor=5)).where(Document.document_id == "d9").execute()
    assert [one.problem for one in verified(store, tmp_path).problems] == ["its documents do not make its digest"]


def test_a_hole_holds_back_what_lies_behind_it(store):
    """The chain cannot be worked out over it; asked for once more it may still come, and then it goes on."""
    store.database.run("DELETE FROM document WHERE document_id = 'd3'")
    done = forgotten(store)

    assert (done.documents, done.held_back) == (2, 1)
    assert b'"lines"' in bodies(store)["d4"]


def test_a_till_that_forgot_documents_and_was_made_anew_gets_no_false_gap(store):
    """What it names of its old stream is compared with the digest that was kept, wherever in the stream that is."""
    forgotten(store)
    for number, stream in ((4, 2), (8, 3), (10, 4)):
        agreed = digest_of([*OLD, *NEW][:number])
        history = History(
            stream=a_stream(), pruned=number, newest=11, digest=b"9" * 16, agreed=number, agreed_digest=agreed
        )
        store.open_streams([NewStream(TILL, a_stream(stream), (history,))], {}, NOW_MS)
    assert store.database.run("SELECT count(*) FROM gap").fetchone() == (0,)

    history = History(stream=a_stream(), pruned=4, newest=11, digest=b"9" * 16, agreed=4, agreed_digest=b"x" * 16)
    store.open_streams([NewStream(TILL, a_stream(5), (history,))], {}, NOW_MS)
    assert store.database.run("SELECT first, last FROM gap").fetchall() == [(1, 4)]


def test_a_till_that_renumbers_what_was_forgotten_leaves_a_whole_chain(store, tmp_path):
    """It retained documents longer than central kept their bytes, and goes on in one stream after another."""
    forgotten(store)
    two, three, held = a_stream(2), a_stream(3), [*OLD, *NEW]
    history = History(stream=a_stream(), newest=len(held), digest=digest_of(held))
    store.open_streams([NewStream(TILL, two, (history,))], {}, NOW_MS)
    for parcel in (a_parcel(held[:4], stream=two), a_parcel(held[4:], stream=two, before=held[:4])):
        assert store.ingest([parcel], {}, NOW_MS)[0].kind == "advanced"
    for number in range(1, len(held)):
        assert store._digest_at(TILL, two, number) == digest_of(held[:number], two), number
    agreed = digest_of(held[:9], two)
    history = History(
        stream=two, pruned=9, newest=len(held), digest=digest_of(held, two), agreed=9, agreed_digest=agreed
    )
    store.open_streams([NewStream(TILL, three, (history,))], {}, NOW_MS)

    assert store.database.run("SELECT count(*) FROM gap").fetchone() == (0,)
    assert verified(store, tmp_path).problems == []
    assert forgotten(store, batch=2).documents == 0


def test_retention_leaves_out_no_document_before_one_that_was_forgotten_elsewhere(store):
    """A clone's stream may begin with a new document and go on with an old one: both are forgotten in their time."""
    forgotten(store)
    other = a_stream(2)
    store.open_streams([NewStream(TILL, other, ())], {}, OLD_MS)
    store.ingest([a_parcel([a_sale("x1"), OLD[0]], stream=other)], {}, OLD_MS)

    assert forgotten(store).documents == 1
    assert b'"lines"' not in bodies(store)["x1"]


def test_what_is_forgotten_is_not_read_to_follow_what_is_not(store):
    """The chain is worked out from the newest digest that was kept, not from the stream's beginning."""
    forgotten(store)
    store.database.run("DELETE FROM document WHERE sequence < 5")
    assert store._digest_at(TILL, a_stream(), 10) == digest_of([*OLD, *NEW][:10])
    assert store._digest_at(TILL, a_stream(), 4) is None


def test_a_renumbered_stream_is_proven_by_bytes_that_are_gone_where_they_stood(store, tmp_path):
    """The newer stream first: its first numbers are documents of the older one."""
    stream = a_stream(2)
    store.open_streams([NewStream(TILL, stream, ())], {}, OLD_MS)
    renumbered = [*OLD[3:], a_sale("new-1")]
    store.ingest([a_parcel(renumbered, stream=stream)], {}, OLD_MS)
    store.ingest([a_parcel([a_sale("new-2")], stream=stream, before=renumbered)], {}, NEW_MS)

    assert forgotten(store).documents == 8
    assert verified(store, tmp_path).problems == []
    assert store._digest_at(TILL, stream, 6) == digest_of(renumbered, stream)
    Document.update(body=a_sale("new-2", total_minor=5)).where(Document.document_id == "new-2").execute()
    problems = [one.problem for one in verified(store, tmp_path).problems]
    assert problems == ["its documents do not make its digest"], "behind forgotten numbers, too, the chain is followed"


def test_a_day_is_as_complete_as_it_was(central_url):
    """Its numbers and its sums, to the kopeck; and it is not reopened."""
    with closing(a_store(central_url)) as store, store.database.bind_ctx(MODELS):
        Till(store).shift().verify()
        before = days.store_day(STORE, DAY, NOON_MS + 2 * DAY_MS)
        assert before.state == "complete"
        assert forget(store.database, NOON_MS + 9 * DAY_MS, 4, silent, silent).documents > 3
        assert days.store_day(STORE, DAY, NOON_MS + 2 * DAY_MS) == before


def test_the_views_show_what_is_kept_and_break_on_nothing(store):
    """No lines, all tenders."""
    forgotten(store)
    lines, tenders = (
        store.database.run(f"SELECT count(*) FROM document_{view}").fetchone() for view in ("line", "tender")
    )
    assert (lines, tenders) == ((3,), (10,))


def test_the_command_says_what_it_did_and_leaves_an_audit_row(store, central_url, monkeypatch):
    """A dry run first; the bytes of a forgotten document cannot be had any more."""
    monkeypatch.setattr("central.retention_cli.wall_clock_ms", lambda: NOW_MS)

    def run(*arguments):
        return CliRunner().invoke(central, ["--database", central_url, *arguments])

    assert (run("retention").exit_code, "--older-than" in run("retention").output) == (2, True)
    for arguments, documents in ((["--dry-run"], 7), ([], 7), ([], 0)):
        done = run("retention", "--older-than", "365", "--json", *arguments)
        assert (done.exit_code, json.loads(done.stdout)["documents"]) == (0, documents), done.output
    assert "bytes of 0 documents" in run("retention", "--older-than", "365").stdout
    lines = run("documents", "--after", "0").stdout.splitlines()[:-1]
    assert [json.loads(line)["body"] is None for line in lines] == [True] * 7 + [False] * 3
    with reports.reading(central_url):
        assert reports.document_bytes("d1") == []
        assert len(reports.document_bytes("d9")) == 1
    assert look(central_url, "SELECT action FROM audit") == [("retention",)]


MALFORMED = {
    "sqlite": "CREATE TRIGGER full BEFORE UPDATE ON document WHEN new.document_id = 'd5' BEGIN SELECT json('{{'); END",
    "postgresql": "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
    " RAISE disk_full USING MESSAGE = 'no room'; END $$; CREATE TRIGGER full_disk BEFORE UPDATE ON document"
    " FOR EACH ROW WHEN (new.document_id = 'd5') EXECUTE FUNCTION full_disk()",
}
"""What makes the database refuse in the middle."""


def test_what_a_retention_that_was_refused_had_forgotten_is_told_and_in_the_audit(store, central_url, monkeypatch):
    """Bytes that are gone are never called unchanged; who did it stands there from the first batch on."""
    monkeypatch.setattr("central.retention_cli.wall_clock_ms", lambda: NOW_MS)
    store.database.run(MALFORMED[store.database.kind])
    environment = {"TILLSTREAM_RETENTION_BATCH_ROWS": "3"}
    asked = ["--database", central_url, "retention", "--older-than", "365", "--note", "over"]
    done = CliRunner().invoke(central, asked, env=environment)

    assert (done.exit_code, "the bytes of 3 documents are gone" in done.stderr) == (1, True), done.output
    assert "nothing was changed" not in done.stderr
    audit = "SELECT action, object, note FROM audit ORDER BY id"
    assert look(central_url, audit) == [("retention", "3 documents older than 365 days", "over")]
    assert sum(b'"lines"' not in body for name, body in bodies(store).items() if name != "bad") == 3
