"""``tillstream edge intake test``: shows what would be taken, says what central would refuse, and touches nothing."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from factories import CARD_NUMBER, a_receipt, a_sale, as_json
from intake_pos import a_day, a_pos, a_reader, example, sqlite_example

from edge.intake_cli import intake


def run(*arguments, folder, config=None):
    environment = {"TILLSTREAM_TILL_ID": "till-1", "TILLSTREAM_STATE_DIR": str(folder / "state")}
    return CliRunner().invoke(intake, ["test", *map(str, arguments)], obj=config, env=environment)


@pytest.fixture
def pos(tmp_path):
    pos = a_pos(tmp_path)
    yield pos
    pos.disconnect()


def everything_in(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_mapping_shows_what_waits_and_changes_nothing(tmp_path, pos):
    """Documents as JSON, their number, and that central has nothing against their shape."""
    for document in a_day(12):
        pos.close(document)
    path = sqlite_example(tmp_path)
    before = everything_in(tmp_path)
    told = run(path, "--most", 2, folder=tmp_path)

    assert told.exit_code == 0
    assert "waiting  12 documents; 12 checked" in told.output
    assert told.output.count('"transaction_type"') == 2
    assert '"till_id": "till-1"' in told.output
    assert before == everything_in(tmp_path)


def test_what_was_taken_does_not_wait(tmp_path, pos):
    """The position in the till's state folder counts."""
    for document in a_day(12):
        pos.close(document)
    path = sqlite_example(tmp_path)
    reader = a_reader(tmp_path)
    reader._positions = tmp_path / "state" / "intake"
    reader.read(lambda *_: None)

    assert json.loads(run(path, "--json", folder=tmp_path).output)["waiting"] == 0


def test_what_central_would_refuse_is_told_by_field_and_is_a_finding(tmp_path, pos):
    """Exit code 3: how often, which field and why; and what did not convert."""
    sales = [document for document in a_day(60) if document["transaction_type"] in ("shift_open", "sale")]
    for document in sales[:9]:
        pos.close(document)
    pos.execute("UPDATE receipt SET total = '1.005' WHERE id IN (4, 5)")
    told = run(sqlite_example(tmp_path), "--json", folder=tmp_path)
    shown = json.loads(told.output)

    assert told.exit_code == 3
    assert {"Expected `int`, got `str` - at `$.totals.total_minor`": 2} == shown["refused"]
    assert {"totals.total_minor: 1.005 has more than 2 decimals (minor_units)": 2} == shown["kept_as_is"]
    text = run(sqlite_example(tmp_path), folder=tmp_path)
    assert "refused  2 × Expected `int`, got `str` - at `$.totals.total_minor`" in text.output


def test_a_mapping_that_cannot_be_used_is_an_error(tmp_path):
    """Exit code 1, and the one text that the agent would log."""
    told = run(sqlite_example(tmp_path), folder=tmp_path)

    assert told.exit_code == 1
    assert "database: no such file" in told.output


def test_a_mapping_can_be_tried_before_the_till_has_a_configuration(tmp_path, pos):
    """Then it is counted from start_after; a configuration that was named must be right."""
    pos.close(a_day(1)[0])
    path = sqlite_example(tmp_path)
    told = CliRunner().invoke(intake, ["test", str(path), "--json"], env={"TILLSTREAM_TILL_ID": None})
    assert (told.exit_code, json.loads(told.output)["waiting"]) == (0, 1)

    named = run(path, folder=tmp_path, config=tmp_path / "none.toml")
    assert (named.exit_code, "no configuration file" in named.output) == (1, True)


def test_a_file_of_documents_is_shown_as_the_outbox_would_hold_it(tmp_path):
    """Ids, sizes, urgency, masked card numbers; a document without an id gets one."""
    paid = [{"tender_number": 1, "tender_type": "card", "amount_minor": 12_300, "masked_pan": CARD_NUMBER}]
    (tmp_path / "a.json").write_bytes(a_sale("d1") + b"\n" + as_json(a_receipt("d2", tenders=paid)))
    told = run(tmp_path / "a.json", "--json", folder=tmp_path)
    shown = json.loads(told.output)

    assert (3, 1) == (told.exit_code, shown["card_numbers_masked"])
    assert CARD_NUMBER not in told.output
    assert ["d1", "d2"] == [document["document_id"] for document in shown["documents"]]
    (tmp_path / "b.json").write_bytes(a_sale("d1"))
    assert run(tmp_path / "b.json", folder=tmp_path).exit_code == 0


@pytest.mark.parametrize("given", [b"no json", b"", b'{"document_id":"x"}'])
def test_a_file_that_central_would_refuse_is_a_finding(tmp_path, given):
    """The reason is shown."""
    (tmp_path / "a.json").write_bytes(given)
    told = run(tmp_path / "a.json", folder=tmp_path)

    assert told.exit_code == 3
    assert "problem" in told.output or "refused" in told.output


def test_a_csv_file_is_read_by_its_folders_mapping(tmp_path):
    """Without one it says nothing, and by a database's it cannot be read."""
    head = "row;shift;number;type;day;date;time;cashier;name;sum;cash;card;code;quantity;price;vat"
    row = "doc;7;3;O;01.03.2026;01.03.2026;10:06:00;3;Иванова;500,00;;;;;;"
    (tmp_path / "a.csv").write_bytes(f"{head}\n{row}\n".encode("cp866"))
    mapping = example("csv-folder", tmp_path, where=("/srv/pos/out", str(tmp_path)))

    told = run(tmp_path / "a.csv", "--mapping", mapping, folder=tmp_path)
    assert (told.exit_code, '"amount_minor": 50000' in told.output) == (0, True)
    assert "a CSV file says nothing without a mapping" in run(tmp_path / "a.csv", folder=tmp_path).output
    by_sql = run(tmp_path / "a.csv", "--mapping", sqlite_example(tmp_path), folder=tmp_path)
    assert (by_sql.exit_code, 'kind = "folder"' in by_sql.output) == (1, True)


def test_a_folders_mapping_shows_the_files_that_wait(tmp_path):
    """Problems name the file; nothing is moved."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "bad.csv").write_bytes(b"x")
    (tmp_path / "out" / "bad.csv.flag").touch()
    mapping = example("csv-folder", tmp_path, where=("/srv/pos/out", str(tmp_path / "out")))
    told = run(mapping, folder=tmp_path)

    assert told.exit_code == 3
    assert "problem  bad.csv: no csv as the mapping has it: no column 'shift'" in told.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["bad.csv", "bad.csv.flag"]
