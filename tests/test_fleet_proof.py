"""The demo's proof: it holds the POS's books against central's database, and sees every single difference."""

import sqlite3
from itertools import count

import msgspec
import pytest

from central.store import Store
from fleet.ledger import Ledger, enter
from fleet.proof import expect_total, money, prove, tell, tell_where

TILLS = ("till-1", "till-2")
_DOCUMENT = (
    "INSERT INTO document (till_id, stream, sequence, document_id, transaction_type, store_id, business_day,"
    " closed_at_ms, currency, total_minor, is_training, received_at_ms, body)"
    " VALUES (?, 's', ?, ?, ?, '', '2026-03-01', 0, 'RUB', ?, 0, 0, ?)"
)
QUARANTINED = (
    "INSERT INTO quarantine (till_id, stream, sequence, document_id, code, reason, received_at_ms, body_digest, body)"
    " VALUES ('till-1', 's', 9, 'x', 'bad_json', 'no JSON', 0, x'00', x'00')"
)
GAP = (
    "INSERT INTO gap (till_id, stream, first, last, reason, found_at_ms, note)"
    " VALUES ('till-1', 's', 4, 6, 'pruned', 0, '')"
)
HEAD = (
    "INSERT INTO heard_head (till_id, stream, boot_id, newest, digest, heard_at_ms)"
    " VALUES ('till-2', 's', 'b', 9, x'00', 0)"
)


def sale(document_id, minor):
    line = {"line_number": 1, "name": "Milk", "quantity": "1", "extended_minor": minor}
    return {
        "document_id": document_id,
        "transaction_type": "sale",
        "lines": [line],
        "totals": {"total_minor": minor},
    }


def documents(till):
    """One of each kind of money, and a document without any."""
    yield sale(f"{till}-a", 1250)
    yield sale(f"{till}-b", 300)
    yield sale(f"{till}-c", 700) | {"transaction_type": "return"}
    yield {"document_id": f"{till}-d", "transaction_type": "loan", "cash": {"amount_minor": 50_000}}
    yield {"document_id": f"{till}-e", "transaction_type": "no_sale"}


@pytest.fixture
def books(tmp_path):
    folder = tmp_path / "books"
    folder.mkdir()
    for till in TILLS:
        for document in documents(till):
            Ledger(folder, till).append(enter(document, msgspec.json.encode(document)))
    return folder


@pytest.fixture
def database(tmp_path):
    """Return a database with central's own schema that holds exactly what the books say."""
    path = tmp_path / "central.db"
    Store(str(path), lambda: "central").close()
    for till in TILLS:
        change(
            path,
            "INSERT INTO till (till_id, store_id, is_approved, first_seen_ms, connection, presence)"
            f" VALUES ('{till}', '', 1, 0, 1, '{{}}')",
        )
        change(
            path,
            "INSERT INTO watermark (till_id, stream, through, digest, opened_at_ms, moved_at_ms, verified_at_ms)"
            f" VALUES ('{till}', 's', 5, x'00', 0, 10, 10)",
        )
        numbers = count(1)
        for document in documents(till):
            money_minor = (document.get("totals") or document.get("cash") or {None: None}).values()
            row = (till, next(numbers), document["document_id"], document["transaction_type"], *money_minor)
            change(path, _DOCUMENT, (*row, msgspec.json.encode(document)))
    return path


def change(path, statement, values=()):
    with sqlite3.connect(path) as connection:
        connection.execute(statement, values)
    connection.close()


def test_equal_books_are_equal(books, database):
    """The same documents and the same money, every till verified: nothing differs, and the sums are shown by type."""
    proof = prove(books, database)
    assert proof.is_equal, proof.differences
    assert (proof.tills, proof.verified, proof.documents) == (2, 2, (10, 10))
    assert proof.money_minor == (104_500, 104_500)
    assert proof.stored == {"sale": (4, 3100), "return": (2, 1400), "loan": (2, 100_000), "no_sale": (2, 0)}
    assert any(line.startswith("EQUAL") for line in tell(proof))


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("DELETE FROM document WHERE document_id = 'till-1-b'", "till-1: till-1-b was closed and is not at central"),
        ("DELETE FROM document WHERE document_id = 'till-2-e'", "till-2, no_sale: closed 1 of 0 in all, central has 0"),
        ("UPDATE document SET total_minor = 1251 WHERE document_id = 'till-1-a'", "till-1, sale: closed 2 of 1550"),
        ("UPDATE document SET body = x'7b7d' WHERE document_id = 'till-1-a'", "till-1-a at central is not what"),
        ("UPDATE document SET transaction_type = 'sale' WHERE document_id = 'till-1-c'", "till-1, return: closed 1"),
        ("UPDATE document SET document_id = 'x' WHERE document_id = 'till-1-c'", "central has x, and the POS never"),
        (
            "UPDATE document SET total_minor = 1550 - total_minor WHERE document_id IN ('till-1-a', 'till-1-b')",
            "till-1-a at central is not what",
        ),
        ("UPDATE document SET till_id = 'till-9' WHERE till_id = 'till-2'", "till-9: central has documents of it"),
        ("UPDATE watermark SET verified_at_ms = 9 WHERE till_id = 'till-2'", "till-2: central has not verified it"),
        (HEAD, "till-2: central has not verified it"),
        (QUARANTINED, "till-1: x is in quarantine: no JSON"),
        (GAP, "till-1: 4 to 6 is a gap: pruned"),
    ],
)
def test_any_difference_fails(books, database, statement, what):
    """A row removed, altered, swapped, moved, refused or unproven: the proof fails and says which."""
    change(database, statement)
    proof = prove(books, database)
    assert not proof.is_equal
    assert any(what in text for text in proof.differences), proof.differences
    assert any(line.startswith("NOT EQUAL") for line in tell(proof))


def test_a_document_that_never_left_the_till_is_missed(books, database):
    """What stands in a ledger was closed, whatever the till and central say."""
    document = sale("till-1-z", 1)
    Ledger(books, "till-1").append(enter(document, b"anything"))
    assert "till-1: till-1-z was closed and is not at central" in prove(books, database).differences


def test_a_document_closed_twice_is_seen(books, database):
    """A POS that gives an id twice has booked more than central can hold."""
    document = next(documents("till-1"))
    Ledger(books, "till-1").append(enter(document, msgspec.json.encode(document)))
    assert any("1 documents twice" in text for text in prove(books, database).differences)


def test_no_books_prove_nothing(tmp_path, database):
    """An empty folder is no proof that all is well."""
    assert not prove(tmp_path / "nowhere", database).is_equal


def test_many_differences_are_counted_and_some_shown(books, database):
    """The list stays readable; the number does not lie."""
    change(database, "UPDATE document SET body = x'7b7d'")
    for number in range(30):
        Ledger(books, "till-1").append(enter(sale(f"n{number}", 1), b""))
    lines = tell(prove(books, database))
    assert lines[-1] == "  and 21 more"
    assert len(lines) < 40


def test_the_source_of_the_baskets_is_asked_too(books, database):
    """A whole replay is held against the data set itself, to the minor unit."""
    proof = prove(books, database)
    expect_total(proof, 10, 104_500, "the data set")
    assert proof.is_equal
    expect_total(proof, 10, 104_501, "the data set")
    assert proof.differences == [
        "the data set has 10 baskets of 1,045.01, central 10 documents of 1,045.00",
    ]


def test_the_query_to_paste_runs(database):
    """The SQL that the demo prints is one that the database answers."""
    *_, shown = tell_where(database, "till-1")
    query = shown.partition('"')[2].rstrip('"')
    with sqlite3.connect(database) as connection:
        assert connection.execute(query).fetchall() == [("Milk", 31.0)]
    connection.close()


@pytest.mark.parametrize(("minor", "text"), [(0, "0.00"), (5, "0.05"), (-1234567, "-12,345.67")])
def test_money_is_written_with_its_unit(minor, text):
    """Minor units never pass through a float."""
    assert money(minor) == text
