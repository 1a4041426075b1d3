"""The reader of a folder that a POS leaves files in: every encoding, every crash, and garbage that is numbered too."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
from pathlib import Path

import pytest
from factories import TILL, a_document, a_receipt, a_sale, as_json
from intake_pos import ABOUT, Clock, Taker, added_up, example

from central.judge import Accepted, judge
from edge.intake.mapping import read_mapping
from edge.intake.taking import FILE_FAILED, UNREADABLE, IntakeError, NotDurableError
from edge.intake.watched import DAY_S, TIDY_EVERY_S, FolderReader

HEAD = "row;shift;number;type;day;date;time;cashier;name;sum;cash;card;code;quantity;price;vat"
SALE = [
    "doc;7;1;S;01.03.2026;01.03.2026;10:00:05;3;Иванова А. С.;150,50;100,00;50,50;;;;",
    'line;7;1;;;;;;"Молоко ""Добрино""; 3,2%";90,50;;;100034;1,000;90,50;16,32',
    "line;7;1;;;;;;Хлеб;60,00;;;100035;2,000;30,00;10,82",
]
RETURN = [
    "doc;7;2;R;01.03.2026;01.03.2026;10:05:00;3;Иванова А. С.;-30,00;-30,00;0,00;;;;",
    "line;7;2;;;;;;Хлеб;-30,00;;;100035;-1,000;30,00;-5,41",
]
CASH = ["doc;7;3;O;01.03.2026;01.03.2026;10:06:00;3;Иванова А. С.;500,00;;;;;;"]


def as_csv(*rows, encoding="cp866"):
    return ("\r\n".join([HEAD, *rows]) + "\r\n").encode(encoding)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.fixture
def taker(tmp_path):
    return Taker(tmp_path / "till")


def csv_mapping(folder, **replaced):
    """Return the documentation's CSV example; only the folder is replaced, and what is named."""
    return example("csv-folder", folder.parent, where=("/srv/pos/out", str(folder)), **replaced)


def json_mapping(folder, more=""):
    path = folder.parent / "json.toml"
    path.write_text(f'kind = "folder"\nname = "drop"\nfolder = "{folder}"\nformat = "json"\n{more}\n', "utf-8")
    return path


def a_reader(path, **clocks):
    return FolderReader(read_mapping(path), ABOUT, **{"clock": Clock(), **clocks})


def leave(folder, name, given, flag=".flag"):
    (folder / name).write_bytes(given)
    if flag:
        (folder / f"{name}{flag}").touch()


def names_in(folder):
    return sorted(path.name for path in folder.iterdir() if path.is_file())


# -- CSV ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "cp1251", "cp866"])
def test_rows_become_documents_in_every_encoding(folder, taker, encoding):
    """Heads, lines and payments in columns; returns below zero; sums that central accepts."""
    path = csv_mapping(folder, encoding=('encoding = "cp866"', f'encoding = "{encoding}"'))
    leave(folder, "sales.csv", as_csv(*SALE, *RETURN, *CASH, encoding=encoding))

    assert a_reader(path).read(taker) == 3
    sale, back, out = taker.documents()
    assert len({document["document_id"] for document in (sale, back, out)}) == 3
    assert 'Молоко "Добрино"; 3,2%' == sale["lines"][0]["name"]
    assert {"sale": (1, 15050), "return": (1, 3000), "paid_out": (1, 50000)} == added_up(taker.bodies())
    assert [("cash", 10000), ("card", 5050)] == [(one["tender_type"], one["amount_minor"]) for one in sale["tenders"]]
    assert [("cash", 3000)] == [(one["tender_type"], one["amount_minor"]) for one in back["tenders"]]
    assert ("2026-03-01T10:00:05+03:00", "2026-03-01") == (sale["closed_at"], sale["business_day"])
    assert (50000, "tenders" in out) == (out["cash"]["amount_minor"], False)


def test_rows_of_one_document_may_stand_anywhere_in_the_file(folder, taker):
    """They belong together by their key."""
    path = csv_mapping(folder)
    leave(folder, "sales.csv", as_csv(SALE[2], RETURN[0], SALE[0], RETURN[1], SALE[1]))
    a_reader(path).read(taker)

    assert {"sale": (1, 15050), "return": (1, 3000)} == added_up(taker.bodies())


def test_a_document_that_comes_in_two_files_is_one(folder, taker):
    """A POS may export the same receipts again and again: the key names them, whatever the file's name."""
    path = csv_mapping(folder)
    for name in ("a.csv", "b.csv"):
        leave(folder, name, as_csv(*RETURN, *CASH))
    a_reader(path).read(taker)

    assert len(taker.bodies()) == 2


def test_the_same_key_with_other_rows_is_taken_and_becomes_a_conflict(folder, taker):
    """A key that is used twice is never lost in silence: both are numbered under one id, and central shows it."""
    path = csv_mapping(folder)
    leave(folder, "a.csv", as_csv(*CASH))
    leave(folder, "b.csv", as_csv(CASH[0].replace("500,00", "700,00")))
    a_reader(path).read(taker)

    first, second = taker.documents()
    assert first["document_id"] == second["document_id"]
    assert (50000, 70000) == (first["cash"]["amount_minor"], second["cash"]["amount_minor"])


def test_a_value_that_does_not_convert_is_kept_and_told(folder, taker):
    """Central quarantines it by its field; the count is kept here."""
    path = csv_mapping(folder)
    leave(folder, "sales.csv", as_csv(*RETURN, CASH[0].replace("500,00", "5.000,00")))
    reader = a_reader(path)
    reader.read(taker)
    verdict = judge(TILL, taker.bodies()[1])

    assert ("bad_schema", "$.cash.amount_minor" in verdict.reason) == (verdict.code, True)
    assert reader.problems == {"cash.amount_minor": 1}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (b"\xff\xfe\x00 garbage \x00\x01", "no column 'shift'"),
        (as_csv(*CASH) + b"doc;7;4;S\r\n", "line 3 has 4 cells, not 16"),
        (as_csv(*CASH).replace(b";sum;", b";summ;"), "no column 'sum'"),
        (as_csv(*CASH).replace(b"doc;7;3", b"doc;;3"), "row 1 has no shift, number"),
        (as_csv(SALE[2]), "document 7 1 has no row where"),
        (as_csv(), "a heading and no row"),
        (as_csv(*CASH) + b'"never closed', "unexpected end of data"),
    ],
)
def test_a_file_that_is_not_as_the_mapping_has_it_is_numbered_as_it_is(folder, taker, given, told):
    """Its bytes go to central, wrapped; the file goes to failed with a text that says why; the others are taken."""
    path = csv_mapping(folder)
    leave(folder, "bad.csv", given)
    os.utime(folder / "bad.csv", (1, 1))
    leave(folder, "good.csv", as_csv(*CASH))
    reader = a_reader(path)
    reader.read(taker)
    raw, good = taker.bodies()

    assert given.strip() == base64.b64decode(json.loads(raw)["raw"])
    assert isinstance(judge(TILL, good), Accepted)
    assert ["bad.csv", "bad.csv.error.txt"] == names_in(folder / "failed")
    assert told in (folder / "failed" / "bad.csv.error.txt").read_text("utf-8")
    assert reader.findings() == {FILE_FAILED: f"{folder / 'failed'}: look at the .error.txt beside each file"}


def test_a_file_in_another_encoding_than_declared_is_told_so(folder, taker):
    """The text names the encoding, the byte and what to look at."""
    path = csv_mapping(folder, encoding=('encoding = "cp866"', 'encoding = "utf-8"'))
    leave(folder, "bad.csv", as_csv(*CASH, encoding="cp1251"))
    a_reader(path).read(taker)

    assert "no utf-8 text: invalid" in (folder / "failed" / "bad.csv.error.txt").read_text("utf-8")
    assert "is `encoding` right?" in (folder / "failed" / "bad.csv.error.txt").read_text("utf-8")


def test_a_mended_file_can_be_put_back(folder, taker):
    """As the text beside it says: what could be taken then is taken now."""
    path = csv_mapping(folder)
    leave(folder, "sales.csv", as_csv("doc;7;3"))
    reader = a_reader(path)
    reader.read(taker)
    leave(folder, "sales.csv", as_csv(*CASH))
    reader.read(taker)

    assert isinstance(judge(TILL, taker.bodies()[1]), Accepted)
    assert ["sales.csv"] == names_in(folder / "done")


# -- JSON --------------------------------------------------------------------------------------------------------------


def test_json_comes_as_one_object_an_array_or_one_a_line(folder, taker):
    """Each document keeps its bytes."""
    path = json_mapping(folder)
    one, two, three = (a_sale(f"d{number}") for number in (1, 2, 3))
    array = b"[ " + two + b" ,\n" + three + b"]"
    pretty = json.dumps(a_receipt("d4"), indent=1).encode()
    lines = b"\xef\xbb\xbf" + a_sale("d5") + b"\r\n\r\n" + a_sale("d6")
    for name, given in zip("abcd", (one, array, pretty, lines), strict=True):
        leave(folder, f"{name}.json", given, flag="")

    assert a_reader(path).read(taker) == 6
    bodies = dict(zip([document["document_id"] for document in taker.documents()], taker.bodies(), strict=True))
    assert (one, two, three) == (bodies["d1"], bodies["d2"], bodies["d3"])
    assert added_up(taker.bodies()) == {"sale": (6, 6 * 12_300)}
    assert names_in(folder / "done") == ["a.json", "b.json", "c.json", "d.json"]


def test_a_line_that_is_no_json_is_numbered_and_told(folder, taker):
    """The good lines are documents, the bad one is wrapped, and the file goes to failed with the line's number."""
    path = json_mapping(folder)
    leave(folder, "a.json", a_sale("d1") + b"\n{torn\n" + a_sale("d2"), flag="")
    a_reader(path).read(taker)

    assert ["d1", "d2"] == [document["document_id"] for document in taker.documents() if "raw" not in document]
    assert "1 of 3 are no JSON objects: line 2" in (folder / "failed" / "a.json.error.txt").read_text("utf-8")


def test_json_in_another_encoding_is_read(folder, taker):
    """An old program writes JSON in cp1251 too."""
    path = json_mapping(folder, 'encoding = "cp1251"')
    leave(folder, "a.json", as_json(a_document(note="Чек")).decode().encode("cp1251"), flag="")
    a_reader(path).read(taker)

    assert taker.documents()[0]["note"] == "Чек"


def test_documents_without_an_id_are_named_by_file_and_place(folder, taker):
    """Two that are alike are two; the same file taken again after a crash is the same."""
    path = json_mapping(folder)
    fields = a_document()
    del fields["document_id"]
    same = as_json(fields)
    leave(folder, "a.json", b"[" + same + b"," + same + b"]", flag="")
    a_reader(path).read(taker)
    (folder / "done" / "a.json").rename(folder / "taking" / "a.json")
    a_reader(path).read(taker)

    assert len(taker.bodies()) == 2


@pytest.mark.parametrize("given", [b"", b" \r\n", b"\xef\xbb\xbf\n"])
def test_an_empty_file_is_set_aside(folder, taker, given):
    """Nothing was closed in it, and a person should know."""
    leave(folder, "a.json", given, flag="")

    assert a_reader(json_mapping(folder)).read(taker) == 0
    assert "empty" in (folder / "failed" / "a.json.error.txt").read_text("utf-8")


@pytest.mark.parametrize("given", [b"null", b"17 18", b"[1,", b"\x00", b"\xff", b"[[]]", b'"x"', b"{" * 5000])
def test_whatever_stands_in_a_file_is_numbered(folder, taker, given):
    """Nothing escapes the numbering, and nothing stops the reader."""
    leave(folder, "a.json", given, flag="")
    leave(folder, "b.json", a_sale("good"), flag="")
    a_reader(json_mapping(folder)).read(taker)

    assert len(taker.bodies()) >= 2
    assert names_in(folder) == []


def test_a_file_over_the_limit_is_numbered_by_its_digest(folder, taker):
    """It is never read whole; central shows it as too large, and the file stays in failed."""
    path = json_mapping(folder, "file_limit_bytes = 1024")
    leave(folder, "a.json", b"x" * 1025, flag="")
    a_reader(path).read(taker)

    assert (judge(TILL, taker.bodies()[0]).code, names_in(folder / "failed")[0]) == ("too_large", "a.json")


# -- Files on their way ------------------------------------------------------------------------------------------------


def test_a_file_is_done_only_when_all_its_documents_are_durable(folder, taker):
    """The outbox is full in the middle: the file is still being taken; later the rest comes, and nothing twice."""
    path = json_mapping(folder)
    leave(folder, "a.json", b"\n".join(a_sale(f"d{number}") for number in range(5)), flag="")
    reader = a_reader(path)
    taker.refuses_after = 3
    with pytest.raises(NotDurableError):
        reader.read(taker)
    assert (["a.json"], []) == (names_in(folder / "taking"), names_in(folder / "done"))
    taker.refuses_after = None

    assert a_reader(path).read(taker) == 5
    assert (5, ["a.json"]) == (len(taker.bodies()), names_in(folder / "done"))


STEPS = 9
"""Claim, two syncs, the flag, two commits, the move, two syncs."""


@pytest.mark.parametrize("dies_at", range(STEPS + 1))
def test_a_crash_at_any_step_neither_loses_nor_doubles(folder, taker, monkeypatch, dies_at):
    """The process dies at each rename, sync, flag removal and commit in turn; the next one finishes the work."""
    path = csv_mapping(folder)
    leave(folder, "a.csv", as_csv(*RETURN, *CASH))
    steps = [dies_at]

    def step():
        if not steps[0]:
            raise KilledError
        steps[0] -= 1

    def take(given, make_id):
        step()
        taker(given, make_id)

    with monkeypatch.context() as patched:
        for name in ("rename", "replace", "unlink"):
            real = getattr(os, name)
            patched.setattr(os, name, lambda *given, real=real, **more: (step(), real(*given, **more))[1])
        patched.setattr("edge.intake.watched.sync_folder", lambda _: step())
        with pytest.raises(KilledError) if dies_at < STEPS else contextlib.nullcontext():
            a_reader(path).read(take)
    leave(folder, "b.csv", as_csv(CASH[0].replace("7;3", "7;4")))
    a_reader(path).read(taker)

    assert {"return": (1, 3000), "paid_out": (2, 100_000)} == added_up(taker.bodies())
    assert (["a.csv", "b.csv"], []) == (names_in(folder / "done"), names_in(folder))


class KilledError(Exception):
    """Stands for the process's death."""


def test_without_its_flag_a_file_is_not_whole(folder, taker):
    """With commit = flag the data file alone may still be written; the flag is gone when the file was taken."""
    path = csv_mapping(folder)
    leave(folder, "a.csv", as_csv(*CASH), flag="")
    reader = a_reader(path)
    assert reader.read(taker) == 0
    (folder / "a.csv.flag").touch()

    assert reader.read(taker) == 1
    assert [] == names_in(folder)


def test_a_new_file_of_a_name_that_is_being_taken_keeps_its_flag(folder, taker):
    """The POS writes the next file of the same name while the first waits for room in the outbox."""
    path = csv_mapping(folder)
    leave(folder, "a.csv", as_csv(*CASH))
    taker.refuses_after = 0
    reader = a_reader(path)
    with pytest.raises(NotDurableError):
        reader.read(taker)
    leave(folder, "a.csv", as_csv(*RETURN))
    taker.refuses_after = None

    assert reader.read(taker) == 2
    assert len(names_in(folder / "done")) == 2


def test_what_is_unfinished_hidden_or_does_not_match_is_left_alone(folder, taker):
    """With commit = rename a file is whole when it has its name."""
    path = json_mapping(folder, 'pattern = "*.json"')
    for name in ("a.json.part", "b.json.tmp", ".c.json", "d.txt"):
        leave(folder, name, a_sale(), flag="")
    (folder / "e.json").mkdir()

    assert a_reader(path).read(taker) == 0
    assert len(names_in(folder)) == 4


def test_the_oldest_file_comes_first(folder, taker):
    """In the order in which they were written."""
    for age, name in ((1, "b"), (9, "c"), (5, "a")):
        leave(folder, f"{name}.json", a_sale(name), flag="")
        os.utime(folder / f"{name}.json", (1000 - age, 1000 - age))
    a_reader(json_mapping(folder)).read(taker)

    assert ["c", "a", "b"] == [document["document_id"] for document in taker.documents()]


def test_one_file_that_may_not_be_read_holds_up_no_other(folder, taker, monkeypatch):
    """The finding names it; the others are taken, and not any later; when it may be read it is."""
    path = json_mapping(folder)
    leave(folder, "a.json", a_sale("a"), flag="")
    leave(folder, "b.json", a_sale("b"), flag="")
    os.utime(folder / "a.json", (1, 1))
    reader = a_reader(path)
    with monkeypatch.context() as patched:
        real = Path.read_bytes
        patched.setattr(Path, "read_bytes", lambda path: _refuse(path) if path.name == "a.json" else real(path))
        reader.read(taker)
        assert re.search(r"json\.toml: folder: .*a\.json: Permission denied", reader.findings()[UNREADABLE])
    assert ["b"] == [document["document_id"] for document in taker.documents()]

    reader.read(taker)
    assert (len(taker.bodies()), reader.findings()) == (2, {})


def test_a_file_that_is_held_up_is_not_replaced_by_a_new_one_of_its_name(folder, taker, monkeypatch):
    """A POS that uses one name for every receipt must not lose the first by closing the second."""
    path = json_mapping(folder)
    reader = a_reader(path)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", _refuse)
        for name in "abc":
            leave(folder, "receipt.json", a_sale(name), flag="")
            os.utime(folder / "receipt.json", (1, 1))
            reader.read(taker)
    reader.read(taker)

    assert ["a", "b", "c"] == sorted(document["document_id"] for document in taker.documents())
    assert len(names_in(folder / "done")) == 3


def test_a_file_whose_name_is_no_text_is_taken_too(folder, taker):
    """Names are bytes: one that is no UTF-8 is taken, or fails, like any other, and holds up none behind it."""
    for name, given in ((b"\xff.json", a_sale("a")), (b"\xfe.json", b"rubbish"), (b"z.json", a_sale("z"))):
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(given)
    reader = a_reader(json_mapping(folder))

    assert reader.read(taker) == 3
    assert [b"\xfe.json", b"\xfe.json.error.txt"] == [os.fsencode(name) for name in names_in(folder / "failed")]


def test_a_file_that_cannot_be_put_away_holds_up_no_other(folder, taker):
    """What it holds is durable and known again; its name has no room for the reason beside it, and that is told."""
    leave(folder, f"{'n' * 250}.json", b"rubbish", flag="")
    os.utime(folder / f"{'n' * 250}.json", (1, 1))
    leave(folder, "b.json", a_sale("b"), flag="")
    reader = a_reader(json_mapping(folder))
    for _ in range(2):
        reader.read(taker)

    assert len(taker.bodies()) == 2
    assert "File name too long" in reader.findings()[UNREADABLE]


def _refuse(path):
    raise PermissionError(13, os.strerror(13), str(path))


def test_a_folder_that_is_not_there_is_named(folder, taker):
    """And read when it is back."""
    path = json_mapping(folder)
    folder.rmdir()
    with pytest.raises(IntakeError, match=r"json\.toml: folder: .*/out.*: No such file or directory"):
        a_reader(path).read(taker)
    folder.mkdir()
    leave(folder, "a.json", a_sale(), flag="")

    assert a_reader(path).read(taker) == 1


def test_what_was_done_long_ago_is_removed(folder, taker):
    """After ``done_keep_days``; what failed stays far longer, for a person has to look at it."""
    path = json_mapping(folder, "done_keep_days = 7\nfailed_keep_days = 30")
    clock, wall = Clock(), Clock()
    leave(folder, "a.json", a_sale(), flag="")
    leave(folder, "bad.json", b"no", flag="")
    wall.now = (folder / "a.json").stat().st_ctime
    reader = a_reader(path, clock=clock, wall_clock=wall)
    reader.read(taker)
    for days, left in ((6.9, ["a.json"]), (7.1, [])):
        wall.now = (folder / "failed" / "bad.json").stat().st_ctime + days * DAY_S
        clock.now += TIDY_EVERY_S
        reader.read(taker)
        assert left == names_in(folder / "done")
    assert len(names_in(folder / "failed")) == 2
    wall.now += 30 * DAY_S
    clock.now += TIDY_EVERY_S
    reader.read(taker)
    assert [] == names_in(folder / "failed")


def test_a_test_of_the_mapping_moves_no_file(folder):
    """What waits is shown, also before the reader ever made its folders."""
    path = csv_mapping(folder)
    leave(folder, "a.csv", as_csv(*RETURN, *CASH))
    ((name, contents),) = a_reader(path).waiting(5)

    assert ("a.csv", 2) == (name, len(contents.documents))
    assert ["a.csv", "a.csv.flag"] == names_in(folder)
