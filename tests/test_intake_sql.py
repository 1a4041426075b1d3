"""The reader of a POS's own SQLite database: complete, once, whatever dies in between, and it changes nothing."""

from __future__ import annotations

import contextlib
from typing import get_args

import pytest
from click.testing import CliRunner
from factories import CARD_NUMBER, NOW_MS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from intake_pos import ABOUT, Clock, Taker, a_day, a_pos, a_reader, added_up, as_meant, sqlite_example

from central.judge import Refused, judge
from edge.intake import database, position
from edge.intake.mapping import read_mapping
from edge.intake.settle import Position
from edge.intake.sql import SqlReader
from edge.intake.taking import NUMBERS_WENT_BACK, IntakeError, NotDurableError
from edge.intake_cli import intake
from fleet.baskets import encode
from wire.documents import TransactionType


class KilledError(Exception):
    """Stands for the process's death."""


@pytest.fixture
def pos(tmp_path):
    pos = a_pos(tmp_path)
    yield pos
    pos.disconnect()


@pytest.fixture
def taker(tmp_path):
    return Taker(tmp_path / "till")


def close_all(pos, documents):
    return [pos.close(document) for document in documents]


def test_every_type_comes_out_as_it_was_rung_up(tmp_path, pos, taker):
    """All documents and blocks, through the tables and the mapping, equal what the register closed."""
    closed = a_day(460, seed=27)
    close_all(pos, closed)
    reader = a_reader(tmp_path)
    reader.read(taker)

    assert set(get_args(TransactionType)) == {document["transaction_type"] for document in closed}
    assert [as_meant(encode(document)) for document in closed] == [as_meant(body) for body in taker.bodies()]
    assert not reader.problems


def test_what_central_stores_adds_up_to_the_poss_own_books(tmp_path, pos, taker):
    """Counts and money by type, judged as central does, equal what the POS entered when it closed."""
    close_all(pos, a_day(150, seed=3))
    a_reader(tmp_path).read(taker)

    assert pos.sums() == added_up(taker.bodies())


def test_only_what_is_new_is_read_and_nothing_twice(tmp_path, pos, taker):
    """Each pass takes what was closed since the last one."""
    reader, closed = a_reader(tmp_path), a_day(30)
    close_all(pos, closed[:20])
    assert [20, 0] == [reader.read(taker), reader.read(taker)]
    close_all(pos, closed[20:])

    assert [10, 0] == [reader.read(taker), reader.read(taker)]
    assert len(taker.bodies()) == 30


def test_a_receipt_opened_early_and_closed_late_is_not_skipped(tmp_path, pos, taker):
    """A parked receipt's key is lower than those of receipts closed meanwhile."""
    clock, closed = Clock(), a_day(12)
    reader = a_reader(tmp_path, clock)
    close_all(pos, closed[:4])
    parked = pos.open(closed[4])
    close_all(pos, closed[5:])
    assert reader.read(taker) == 11
    clock.now += 3000
    assert reader.read(taker) == 0
    pos.finish(parked)

    assert reader.read(taker) == 1
    assert pos.sums() == added_up(taker.bodies())
    clock.now += 3000
    reader.read(taker)
    assert position.load(tmp_path / "intake", "sqlite-pos", 0) == Position(12)


def test_a_receipt_that_stays_open_longer_than_the_wait_is_passed_over(tmp_path, pos, taker):
    """The wait is what the mapping says; the integrator chooses it by how long a receipt may stay open."""
    clock, closed = Clock(), a_day(6)
    reader = a_reader(tmp_path, clock)
    close_all(pos, closed[:2])
    pos.open(closed[2])
    close_all(pos, closed[3:])
    reader.read(taker)
    clock.now += 3600
    reader.read(taker)

    assert position.load(tmp_path / "intake", "sqlite-pos", 0) == Position(6)


def test_what_commits_while_a_pass_runs_is_not_passed_over_by_it(tmp_path, pos, taker):
    """The wait for a missing key is over by the end of a pass that began before: what came meanwhile it did not see."""
    clock, closed = Clock(), a_day(6)
    reader = a_reader(tmp_path, clock)
    close_all(pos, closed[:2])
    parked = pos.open(closed[2])
    close_all(pos, closed[3:5])
    reader.read(taker)
    clock.now += 3500
    pos.close(closed[5])

    def take(given, make_id):
        taker(given, make_id)
        clock.now += 200
        pos.finish(parked)

    assert [1, 1] == [reader.read(take), reader.read(taker)]
    assert pos.sums() == added_up(taker.bodies())


@pytest.mark.parametrize("killed_after", [0, 1, 7, 19])
def test_a_crash_before_the_position_is_saved_doubles_nothing(tmp_path, pos, taker, monkeypatch, killed_after):
    """Killed after some commits into the outbox, before the position's file: all is known again, the rest comes."""
    close_all(pos, a_day(20))

    def take_until_killed(given, make_id):
        if len(taker.given) == killed_after:
            raise KilledError
        taker(given, make_id)

    with pytest.raises(KilledError):
        a_reader(tmp_path).read(take_until_killed)
    assert not (tmp_path / "intake").exists()

    assert a_reader(tmp_path).read(taker) == 20
    assert pos.sums() == added_up(taker.bodies())


def test_a_disk_that_is_full_is_not_the_poss_fault(tmp_path, pos, taker):
    """Where the position cannot be written the till takes nothing more; the POS's database is as readable as ever."""
    close_all(pos, a_day(3))
    reader = a_reader(tmp_path)
    (tmp_path / "intake").touch()
    with pytest.raises(NotDurableError, match=r"how far sqlite-pos was read: .*File exists"):
        reader.read(taker)
    (tmp_path / "intake").unlink()
    reader.read(taker)

    assert len(taker.bodies()) == 3


def test_a_crash_while_the_position_is_saved_doubles_nothing(tmp_path, pos, taker, monkeypatch):
    """All of a page is durable, and then the process dies: a new reader over the old position reads it again."""
    closed = a_day(24)
    close_all(pos, closed[:10])
    a_reader(tmp_path).read(taker)
    close_all(pos, closed[10:])
    with monkeypatch.context() as patched:
        patched.setattr(position, "save", lambda *_: (_ for _ in ()).throw(KilledError))
        with pytest.raises(KilledError):
            a_reader(tmp_path).read(taker)
    assert position.load(tmp_path / "intake", "sqlite-pos", 0) == Position(10)

    assert a_reader(tmp_path).read(taker) == 14
    assert pos.sums() == added_up(taker.bodies())


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_however_often_it_is_killed_all_comes_once(tmp_path_factory, kills):
    """Kills after any number of documents, one after the other, with receipts closed in between."""
    folder = tmp_path_factory.mktemp("kills")
    pos, taker, closed = a_pos(folder), Taker(folder / "till"), a_day(40)
    given = iter(closed)
    for after in kills:
        close_all(pos, [next(given) for _ in range(4)])
        left = [after]

        def take(body, make_id, left=left):
            if not left[0]:
                raise KilledError
            left[0] -= 1
            taker(body, make_id)

        with contextlib.suppress(KilledError):
            a_reader(folder).read(take)
    a_reader(folder).read(taker)
    pos.disconnect()

    assert pos.sums() == added_up(taker.bodies())


def test_a_full_outbox_stops_the_reader_and_skips_nothing(tmp_path, pos, taker):
    """What was durable before is remembered; the rest is taken when there is room."""
    close_all(pos, a_day(20))
    reader = a_reader(tmp_path)
    taker.refuses_after = 7
    with pytest.raises(NotDurableError):
        reader.read(taker)
    assert position.load(tmp_path / "intake", "sqlite-pos", 0).taken == tuple(range(1, 8))
    taker.refuses_after = None

    assert reader.read(taker) == 13
    assert pos.sums() == added_up(taker.bodies())


def test_a_document_without_an_id_column_has_an_id_of_its_key(tmp_path, pos, taker):
    """Read twice it is the same document, and the mapping's name tells it from another source's."""
    path = sqlite_example(tmp_path)
    path.write_text(path.read_text("utf-8").replace('document_id = "uuid"\n', ""), "utf-8")
    close_all(pos, a_day(5))
    for _ in range(2):
        a_reader(tmp_path, mapping=path).read(taker)
        (tmp_path / "intake" / "sqlite-pos.json").unlink()

    ids = [document["document_id"] for document in taker.documents()]
    assert (5, 5) == (len(ids), len(set(ids)))
    other = path.with_name("other.toml")
    other.write_text(path.read_text("utf-8").replace('"sqlite-pos"', '"other"'), "utf-8")
    a_reader(tmp_path, mapping=other).read(taker)
    assert len(taker.bodies()) == 10


def test_an_id_column_that_is_empty_is_told_and_an_id_made(tmp_path, pos, taker):
    """The till never refuses; the finding names the field."""
    close_all(pos, a_day(1))
    pos.execute("UPDATE receipt SET uuid = ''")
    reader = a_reader(tmp_path)
    reader.read(taker)

    assert dict(reader.problems) == {"document_id": 1}
    assert len(taker.documents()[0]["document_id"]) == 36


@pytest.mark.parametrize(
    ("statement", "field"),
    [
        ("UPDATE receipt SET total = '12.345' WHERE id = 3", "$.totals.total_minor"),
        ("UPDATE receipt SET kind = 77 WHERE id = 3", "$.transaction_type"),
        ("UPDATE receipt_line SET quantity = 'two' WHERE receipt_id = 3 AND position = 1", "quantity"),
        ("UPDATE receipt SET closed = 'yesterday' WHERE id = 3", "$.closed_at"),
        ("UPDATE receipt SET training = 'perhaps' WHERE id = 3", "$.flags"),
    ],
)
def test_a_value_that_cannot_be_converted_goes_to_central_which_names_the_field(tmp_path, pos, taker, statement, field):
    """The document is taken, counted as a problem, and quarantined by its field; the rest is stored."""
    closed = [document for document in a_day(200) if document["transaction_type"] in ("shift_open", "sale")]
    close_all(pos, closed[:5])
    pos.execute(statement)
    reader = a_reader(tmp_path)
    reader.read(taker)
    verdicts = [judge("till-1", body) for body in taker.bodies()]

    assert [2] == [place for place, verdict in enumerate(verdicts) if isinstance(verdict, Refused)]
    assert field in verdicts[2].reason
    assert sum(reader.problems.values()) == 1


def test_a_card_number_in_the_wrong_column_is_in_no_log(tmp_path, pos, taker, caplog):
    """A tender's value that does not convert is masked in the document, and its problem does not quote it."""
    for document in a_day(12):
        pos.close(document)
    pos.execute(f"UPDATE payment SET amount = '{CARD_NUMBER}x', card = '{CARD_NUMBER}'")
    reader = a_reader(tmp_path)
    waiting = reader.waiting(100, 100)
    reader.read(taker)

    assert reader.problems["tenders.amount_minor"]
    assert CARD_NUMBER not in str([built.problems for built in waiting.documents])
    assert CARD_NUMBER not in caplog.text + str([record.__dict__ for record in caplog.records])
    assert CARD_NUMBER.encode() not in b"".join(taker.bodies())


def test_a_text_that_is_no_utf8_does_not_hold_up_the_rest(tmp_path, pos, taker):
    """A name with broken bytes keeps them visible."""
    closed = [document for document in a_day(200) if document["transaction_type"] in ("shift_open", "sale")]
    close_all(pos, closed[:3])
    pos.execute("UPDATE receipt_line SET name = CAST(x'cff0e8e2e5f2' AS TEXT) WHERE receipt_id = 2")
    reader = a_reader(tmp_path)

    assert reader.read(taker) == 3
    assert taker.documents()[1]["lines"][0]["name"] == "\\xcf\\xf0\\xe8\\xe2\\xe5\\xf2"
    assert reader.problems["lines.name"] == len(taker.documents()[1]["lines"])


def test_the_poss_file_is_not_changed(tmp_path, pos, taker):
    """Not a byte; and the connection itself could not."""
    close_all(pos, a_day(10))
    before = (tmp_path / "pos.db").read_bytes()
    a_reader(tmp_path).read(taker)
    assert before == (tmp_path / "pos.db").read_bytes()

    session = database.connect(read_mapping(sqlite_example(tmp_path)).source)
    for statement in ("DELETE FROM receipt", "CREATE TABLE ours (id)"):
        with pytest.raises(database.DatabaseError, match="readonly"):
            session.ask(statement, {}, 1)
    session.close()


def test_the_pos_can_write_while_the_outbox_does(tmp_path, pos, taker):
    """No lock is held on the POS's database while documents are made durable."""
    closed = a_day(6)
    close_all(pos, closed[:3])
    late = iter(closed[3:])

    def take(given, make_id):
        taker(given, make_id)
        if (document := next(late, None)) is not None:
            pos.close(document)

    reader = a_reader(tmp_path)
    assert reader.read(take) + reader.read(take) == 6


def test_a_document_and_its_lines_are_of_one_moment(tmp_path, pos, taker, monkeypatch):
    """Lines changed by the POS between the two queries are not seen: both read one snapshot."""
    closed = [document for document in a_day(200) if document["transaction_type"] in ("shift_open", "sale")]
    pos.execute("PRAGMA journal_mode = wal")
    close_all(pos, closed[:2])
    ask = database.SqliteSession.ask

    def ask_and_change(session, query, parameters, most):
        if "receipt_line" in query and parameters["key"] > 0:
            pos.execute("UPDATE receipt_line SET amount = 0")
        return ask(session, query, parameters, most)

    monkeypatch.setattr(database.SqliteSession, "ask", ask_and_change)
    a_reader(tmp_path).read(taker)

    assert pos.sums() == added_up(taker.bodies())


# -- What goes wrong ---------------------------------------------------------------------------------------------------


def error_of(folder, text_of=lambda text: text):
    path = sqlite_example(folder)
    path.write_text(text_of(path.read_text("utf-8")), "utf-8")
    with pytest.raises(IntakeError) as raised:
        a_reader(folder, mapping=path).read(lambda *_: None)
    assert str(path) in str(raised.value)
    return str(raised.value)


def test_a_database_that_is_not_there_is_named_and_read_when_it_is_back(tmp_path, taker):
    """The reader goes on trying; nothing but the error is different."""
    reader = a_reader(tmp_path)
    with pytest.raises(IntakeError, match=r"sqlite-pos\.toml: database: no such file: .*pos\.db"):
        reader.read(taker)
    pos = a_pos(tmp_path)
    close_all(pos, a_day(3))
    assert reader.read(taker) == 3

    (tmp_path / "pos.db").rename(tmp_path / "away")
    with pytest.raises(IntakeError):
        reader.read(taker)
    (tmp_path / "away").rename(tmp_path / "pos.db")
    pos.disconnect()
    assert reader.read(taker) == 0


def test_a_missing_column_or_table_is_named_with_the_query(tmp_path, pos):
    """Whether the database or the mapping's fields lack it, the text says where, and what is nearest."""
    close_all(pos, a_day(1))

    told = error_of(tmp_path, lambda text: text.replace('closed_at = "closed"', 'closed_at = "closd"'))
    assert "documents.fields: closed_at: no column `closd` in the query; it gives id, uuid, kind" in told
    assert told.endswith("did you mean `closed`?")
    assert "documents.query: " in error_of(tmp_path, lambda text: text.replace("receipt.id >", "receipt.nr >"))
    assert "no such table: paiment" in error_of(tmp_path, lambda text: text.replace("FROM payment", "FROM paiment"))


def test_a_mapped_column_that_comes_twice_is_an_error(tmp_path, pos):
    """Which of two columns of one name is meant, nobody can know."""
    close_all(pos, a_day(1))

    told = error_of(tmp_path, lambda text: text.replace("SELECT receipt.*,", "SELECT receipt.*, receipt.total,"))
    assert "two columns `total`" in told


def test_a_query_that_does_not_go_by_its_key_is_an_error(tmp_path, pos):
    """Rows out of order, doubled by a join or with a key that is no number would be skipped in silence."""
    close_all(pos, a_day(4))

    assert "ORDER BY id" in error_of(
        tmp_path, lambda text: text.replace("ORDER BY receipt.id LIMIT", "ORDER BY receipt.id DESC LIMIT")
    )
    assert "after 1" in error_of(
        tmp_path, lambda text: text.replace("FROM receipt JOIN", "FROM (SELECT 1 UNION SELECT 2) JOIN receipt JOIN")
    )
    told = error_of(tmp_path, lambda text: text.replace('key = "id" ', 'key = "uuid" '))
    assert "documents.key: `uuid` must be a whole number" in told


def in_its_place(folder, documents):
    """Put a new POS's database, which counts from 1, in the place of the old one; return the new POS."""
    fresh = folder / f"fresh-{len(list(folder.glob('fresh-*')))}"
    fresh.mkdir()
    pos = a_pos(fresh)
    close_all(pos, documents)
    pos.disconnect()
    (fresh / "pos.db").replace(folder / "pos.db")


def told_by(reader):
    return reader.findings().get(NUMBERS_WENT_BACK, "")


@pytest.fixture(params=["mapped", "made of the key"])
def mapping(request, tmp_path):
    """Return the example with the POS's ids, and without: then the next database's rows have the same ids."""
    path = sqlite_example(tmp_path)
    if request.param != "mapped":
        path.write_text(path.read_text("utf-8").replace('document_id = "uuid"\n', ""), "utf-8")
    return path


@pytest.mark.parametrize("restarts", [False, True])
def test_a_new_database_that_counts_past_the_old_one_is_told_for_ever(tmp_path, pos, taker, mapping, restarts):
    """Before and after the new keys pass the old position; what is above is read, and restarts clear nothing."""
    clock_ms = iter(range(NOW_MS, NOW_MS + 100_000, 1000)).__next__

    def again(reader=None):
        is_new = reader is None or restarts
        return SqlReader(read_mapping(mapping), tmp_path / "intake", ABOUT, Clock(), clock_ms) if is_new else reader

    close_all(pos, a_day(8))
    reader = again()
    reader.read(taker)
    closed = a_day(16, seed=2)
    in_its_place(tmp_path, closed[:5])
    reader = again(reader)
    assert (0, True) == (reader.read(taker), "8 was read and is gone" in told_by(reader))
    since = reader.went_back_at_ms()
    in_its_place(tmp_path, closed)

    reader = again(reader)
    assert [8, 0] == [reader.read(taker), reader.read(taker)]
    assert "8 was read and is gone" in told_by(again(reader))
    assert again(reader).went_back_at_ms() == since == NOW_MS


def test_a_new_database_that_was_never_seen_below_the_old_position_is_told(tmp_path, pos, taker, mapping):
    """The agent was stopped meanwhile, and the first look finds more rows than there were."""
    close_all(pos, a_day(8))
    a_reader(tmp_path, mapping=mapping).read(taker)
    in_its_place(tmp_path, a_day(12, seed=2))
    reader = a_reader(tmp_path, mapping=mapping)

    assert (4, True) == (reader.read(taker), "or is another document" in told_by(reader))


def test_a_new_name_reads_the_new_database_from_its_first_row(tmp_path, pos, taker):
    """That is what the finding advises; what was read before under the old name is known by its id."""
    close_all(pos, a_day(8))
    a_reader(tmp_path).read(taker)
    in_its_place(tmp_path, a_day(12, seed=2))
    a_reader(tmp_path).read(taker)
    path = sqlite_example(tmp_path)
    path.write_text(path.read_text("utf-8").replace('"sqlite-pos"', '"second"'), "utf-8")
    reader = a_reader(tmp_path, mapping=path)
    reader.read(taker)

    assert (20, {}) == (len(taker.bodies()), reader.findings())


def test_a_row_that_the_pos_updates_is_no_other_document(tmp_path, pos, taker, mapping):
    """With an id of its own any column may change; without, what is mapped may not: it is the document."""
    close_all(pos, a_day(8))
    reader = a_reader(tmp_path, mapping=mapping)
    reader.read(taker)
    pos.execute("ALTER TABLE receipt ADD printed INTEGER")
    pos.execute("UPDATE receipt SET printed = 1")
    reader.read(taker)
    assert told_by(reader) == ""
    pos.execute("UPDATE receipt SET number = 977")
    reader.read(taker)

    assert bool(told_by(reader)) == ('document_id = "uuid"' not in mapping.read_text("utf-8"))


def test_a_mapping_that_says_more_is_no_other_database(tmp_path, pos, taker, mapping):
    """The anchor knows the columns that were mapped when it was made."""
    close_all(pos, a_day(8))
    a_reader(tmp_path, mapping=mapping).read(taker)
    mapping.write_text(mapping.read_text("utf-8").replace("[documents.fields]", '[documents.fields]\nx_id = "id"'))
    reader = a_reader(tmp_path, mapping=mapping)
    reader.read(taker)

    assert told_by(reader) == ""


def test_a_pos_that_tidies_up_is_no_finding(tmp_path, pos, taker, mapping):
    """Old rows go, in the end all of them, and the numbers go on."""
    closed = a_day(14)
    close_all(pos, closed[:8])
    reader = a_reader(tmp_path, mapping=mapping)
    told = []
    for statement in ("id < 8", "id < 9", "id < 10"):
        reader.read(taker)
        pos.execute(f"DELETE FROM receipt WHERE {statement}")
        reader.read(taker)
        told.append(told_by(reader))
        close_all(pos, [closed[8 + len(told)]])
    reader.read(taker)

    assert (["", "", ""], "", 11) == (told, told_by(reader), len(taker.bodies()))


def test_a_document_that_commits_late_is_not_the_newest(tmp_path, pos, taker):
    """Its row may go without a finding, as any old one."""
    closed = a_day(5)
    parked = pos.open(closed[0])
    close_all(pos, closed[1:])
    reader = a_reader(tmp_path)
    reader.read(taker)
    pos.finish(parked)
    reader.read(taker)
    pos.execute("DELETE FROM receipt WHERE id = 1")
    reader.read(taker)

    assert told_by(reader) == ""
    assert position.load_footing(tmp_path / "intake", "sqlite-pos").anchor.key == 5


@pytest.mark.parametrize("is_late", [False, True])
def test_a_position_without_an_anchor_gets_one(tmp_path, pos, taker, is_late):
    """A position of an older version is read; a table that has gone back by then is told, as it was."""
    close_all(pos, a_day(8))
    (tmp_path / "intake").mkdir()
    (tmp_path / "intake" / "sqlite-pos.json").write_bytes(b'{"v":1,"through":6,"taken":[8]}')
    if is_late:
        in_its_place(tmp_path, a_day(5))
    reader = a_reader(tmp_path)
    reader.read(taker)
    assert is_late == ("8 was read and is gone" in told_by(reader))
    in_its_place(tmp_path, a_day(12, seed=2))
    reader = a_reader(tmp_path)
    reader.read(taker)

    assert "8 was read and is gone" in told_by(reader)


def test_a_crash_before_the_finding_is_saved_hides_nothing(tmp_path, pos, taker, monkeypatch):
    """What was read of the new database moves no anchor on the disk before the finding stands there too."""
    close_all(pos, a_day(8))
    a_reader(tmp_path).read(taker)
    in_its_place(tmp_path, a_day(12, seed=2))
    with monkeypatch.context() as patched:
        patched.setattr(position, "save", lambda *_: (_ for _ in ()).throw(KilledError))
        with pytest.raises(KilledError):
            a_reader(tmp_path).read(taker)
    reader = a_reader(tmp_path)
    reader.read(taker)

    assert told_by(reader)


def test_a_database_replaced_between_two_pages_is_told(tmp_path, pos, taker):
    """Each page is read in one moment with the look at the newest row."""
    path = sqlite_example(tmp_path)
    path.write_text("limit_documents = 4\n" + path.read_text("utf-8"), "utf-8")
    close_all(pos, a_day(12))
    reader = a_reader(tmp_path, mapping=path)

    def take(given, make_id):
        taker(given, make_id)
        if len(taker.given) == 4:
            pos.execute("UPDATE receipt SET uuid = 'new-' || uuid")

    reader.read(take)

    assert "4 was read and is gone, or is another document" in told_by(reader)


def test_a_test_of_a_mapping_writes_no_finding(tmp_path, pos, taker):
    """It moves nothing, also when the numbers went back."""
    close_all(pos, a_day(8))
    a_reader(tmp_path).read(taker)
    before = (tmp_path / "intake" / "sqlite-pos.json").read_bytes()
    in_its_place(tmp_path, a_day(5, seed=2))
    position.ask_to_settle(tmp_path / "intake", "sqlite-pos")
    a_reader(tmp_path).waiting(10, 10)

    assert (tmp_path / "intake" / "sqlite-pos.json").read_bytes() == before
    assert position.is_asked_to_settle(tmp_path / "intake", "sqlite-pos")


# -- The operator's word -----------------------------------------------------------------------------------------------


def numbers_of(documents):
    return {document.get("receipt_number") for document in documents}


def settle(folder, name="sqlite-pos"):
    (folder / "intake").mkdir(exist_ok=True)
    environment = {"TILLSTREAM_TILL_ID": "till-1", "TILLSTREAM_STATE_DIR": str(folder)}
    return CliRunner().invoke(intake, ["settle", name], env=environment)


@pytest.mark.parametrize("reuses", [False, True])
@pytest.mark.parametrize("restarts", [False, True])
def test_a_newest_row_that_was_deleted_is_told_until_it_is_settled(tmp_path, pos, taker, mapping, restarts, reuses):
    """The running reader, or the next one, reads all anew; numbers that were used again are read."""
    closed = a_day(12)
    close_all(pos, closed[:8])
    reader = a_reader(tmp_path, mapping=mapping)
    reader.read(taker)
    if reuses:
        in_its_place(tmp_path, closed[:6])
    else:
        pos.execute("DELETE FROM receipt WHERE id > 6")
    reader.read(taker)
    assert "edge intake settle sqlite-pos" in told_by(reader)
    if reuses:
        in_its_place(tmp_path, closed[:6] + closed[8:])
    else:
        close_all(pos, closed[8:])
    told = settle(tmp_path)
    assert (0, True) == (told.exit_code, "at the next pass" in told.output)
    reader = a_reader(tmp_path, mapping=mapping) if restarts else reader

    reader.read(taker)
    assert reader.findings() == {}
    assert numbers_of(taker.documents()) == numbers_of(closed)
    assert not position.is_asked_to_settle(tmp_path / "intake", "sqlite-pos")
    assert (0, {}) == (reader.read(taker), a_reader(tmp_path, mapping=mapping).findings())


def test_after_it_was_settled_the_next_new_database_is_told(tmp_path, pos, taker, mapping):
    """Settling makes a new anchor at once, and does not wait for the next document."""
    close_all(pos, a_day(8))
    reader = a_reader(tmp_path, mapping=mapping)
    reader.read(taker)
    pos.execute("DELETE FROM receipt WHERE id = 8")
    reader.read(taker)
    settle(tmp_path)
    reader.read(taker)
    assert told_by(reader) == ""
    assert position.load_footing(tmp_path / "intake", "sqlite-pos").anchor.key == 7
    in_its_place(tmp_path, a_day(12, seed=2))
    reader.read(taker)

    assert "7 was read and is gone, or is another document" in told_by(reader)


def test_what_came_while_the_finding_waited_is_read_when_it_is_settled(tmp_path, pos, taker, mapping):
    """The POS's database was made anew meanwhile: all of it is handed over, whatever the operator took it for."""
    close_all(pos, a_day(8))
    reader = a_reader(tmp_path, mapping=mapping)
    reader.read(taker)
    pos.execute("DELETE FROM receipt WHERE id = 8")
    reader.read(taker)
    in_its_place(tmp_path, a_day(12, seed=2))
    settle(tmp_path)
    reader.read(taker)

    assert (told_by(reader), len(taker.given)) == ("", 8 + 12)


def test_a_word_that_cannot_be_taken_away_stops_the_reader(tmp_path, pos, taker, monkeypatch):
    """It would be followed for ever, and each finding be settled before anybody saw it."""
    close_all(pos, a_day(3))
    reader = a_reader(tmp_path)
    reader.read(taker)
    position.ask_to_settle(tmp_path / "intake", "sqlite-pos")
    with monkeypatch.context() as patched:
        patched.setattr(position, "forget_to_settle", lambda *_: (_ for _ in ()).throw(PermissionError(13, "no")))
        with pytest.raises(NotDurableError, match="that sqlite-pos was settled: "):
            reader.read(taker)
    reader.read(taker)

    assert not position.is_asked_to_settle(tmp_path / "intake", "sqlite-pos")


def test_to_settle_what_is_not_there_is_an_error_that_names_what_is(tmp_path, pos, taker):
    """A word under a wrong name would wait for ever, and must not leave the folder."""
    assert "there is none" in settle(tmp_path).output
    close_all(pos, a_day(1))
    a_reader(tmp_path).read(taker)
    for name in ("sqlite-po", "../intake/sqlite-pos"):
        told = settle(tmp_path, name)
        assert (1, True) == (told.exit_code, "there are: sqlite-pos" in told.output)
    told = settle(tmp_path)
    assert (1, True) == (told.exit_code, "nothing to settle" in told.output)
    assert [path.name for path in (tmp_path / "intake").iterdir()] == ["sqlite-pos.json"]


def test_a_long_history_comes_page_by_page(tmp_path, pos, taker, monkeypatch):
    """A pass is bounded, and the position moves with each page."""
    monkeypatch.setattr("edge.intake.sql.PASS_DOCUMENTS", 10)
    path = sqlite_example(tmp_path)
    path.write_text("limit_documents = 4\n" + path.read_text("utf-8"), "utf-8")
    close_all(pos, a_day(25))
    reader = a_reader(tmp_path, mapping=path)

    assert [12, 12, 1, 0] == [reader.read(taker) for _ in range(4)]
    assert position.load(tmp_path / "intake", "sqlite-pos", 0) == Position(25)


def test_a_gap_below_a_long_history_does_not_stop_it(tmp_path, pos, taker, monkeypatch):
    """Keys above the gap are remembered while the wait lasts, and each pass gets on."""
    monkeypatch.setattr("edge.intake.sql.PASS_DOCUMENTS", 5)
    path = sqlite_example(tmp_path)
    path.write_text("limit_documents = 2\n" + path.read_text("utf-8"), "utf-8")
    closed = a_day(21)
    parked = pos.open(closed[0])
    close_all(pos, closed[1:])
    reader = a_reader(tmp_path, mapping=path)
    while reader.read(taker):
        pass
    pos.finish(parked)

    assert reader.read(taker) == 1
    assert pos.sums() == added_up(taker.bodies())


def test_a_test_of_a_mapping_takes_nothing(tmp_path, pos, taker):
    """What waits is shown; no position is written, and the reader still takes it all."""
    close_all(pos, a_day(9))
    waiting = a_reader(tmp_path).waiting(4, 100)

    assert (9, 4, True) == (waiting.count, len(waiting.documents), waiting.is_all)
    assert not (tmp_path / "intake").exists()
    assert a_reader(tmp_path).read(taker) == 9


def test_old_documents_can_be_left_out(tmp_path, pos, taker):
    """``start_after`` is where the first pass begins."""
    path = sqlite_example(tmp_path)
    path.write_text(path.read_text("utf-8").replace("start_after = 0", "start_after = 6"), "utf-8")
    close_all(pos, a_day(9))

    assert a_reader(tmp_path, mapping=path).read(taker) == 3


def test_a_query_may_ask_for_this_till_only(tmp_path, pos, taker):
    """One database may serve several tills: :till_id and :store_id are theirs."""
    path = sqlite_example(tmp_path)
    text = path.read_text("utf-8").replace("receipt.id > :after", "receipt.id > :after AND :till_id = 'till-1'")
    path.write_text(text, "utf-8")
    close_all(pos, a_day(2))

    assert a_reader(tmp_path, mapping=path).read(taker) == 2


def test_a_query_that_never_ends_is_given_up(tmp_path, pos, monkeypatch):
    """A query without an index must not hold the reader for ever."""
    monkeypatch.setattr(database, "QUERY_TIMEOUT_S", 0.02)
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*), :after, :limit FROM n"
    told = error_of(tmp_path, lambda text: _with_query(text, endless))

    assert "took longer than" in told


def _with_query(text, query):
    before, _, rest = text.partition('query = """')
    return f"{before}query = '''{query}'''{rest.partition(chr(34) * 3)[2]}"


def test_what_one_connection_holds_is_let_go(tmp_path, pos, taker):
    """The file may be replaced between two passes: nothing of the old one stays open."""
    close_all(pos, a_day(3))
    reader = a_reader(tmp_path)
    reader.read(taker)
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    other = a_pos(fresh)
    close_all(other, a_day(5))
    other.disconnect()
    (fresh / "pos.db").replace(tmp_path / "pos.db")

    assert reader.read(taker) == 2


def test_the_books_are_the_poss_own(pos):
    """They are entered from what was rung up, also of a document that is closed late, and agree with the tables."""
    closed = a_day(30)
    close_all(pos, closed[:20])
    key = pos.open(closed[20])
    assert sum(count for count, _ in pos.sums().values()) == 20
    pos.finish(key)

    assert sum(count for count, _ in pos.sums().values()) == 21
    with pytest.raises(ValueError, match="one writer at a time"):
        pos.close_late(closed[21])
