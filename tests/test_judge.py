"""What becomes of a document's bytes: a row, or a code with a reason that names the field."""

from __future__ import annotations

from base64 import b64encode

import msgspec
import pytest
from factories import (
    CARD_NUMBER,
    NOW_MS,
    TILL,
    a_document,
    a_parcel,
    a_receipt,
    a_store,
    a_stream,
    as_json,
    some_baskets,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from central.batch import NewStream
from central.judge import Accepted, Refused, judge
from edge.intake.prepare import prepare
from wire.documents import CASH_TYPES, RECEIPT_TYPES, SHIFT_TYPES, TRANSACTION_TYPES

CASH = {"cash": {"amount_minor": 5_000}}


def verdict(fields, till=TILL):
    return judge(till, as_json(fields))


def code_of(fields):
    refused = verdict(fields)
    assert isinstance(refused, Refused)
    return refused.code


def test_a_sale_becomes_what_people_search_by():
    """The header's fields, the moment in UTC, and the total that was paid."""
    fields = a_receipt(store_id="s1", shift_number=4, receipt_number=17, flags=["training"])

    assert verdict(fields) == Accepted(
        "d1", "sale", "s1", "2026-03-01", 4, 17, 1_772_348_400_000, "RUB", 12_300, is_training=True
    )


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_generated_documents_are_all_accepted(seed):
    """Whatever a generated till closes adds up."""
    assert all(isinstance(judge(TILL, body), Accepted) for body in some_baskets(200, seed=seed))


@pytest.mark.parametrize(
    ("closed_at", "expected"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2026-03-01T10:00:00.123456+03:00", 1_772_348_400_123),
        ("2026-03-01T07:00:00Z", 1_772_348_400_000),
        ("2026-02-28T21:00:00-10:00", 1_772_348_400_000),
    ],
)
def test_a_time_with_any_offset_is_the_same_moment(closed_at, expected):
    """Central stores epoch milliseconds UTC, cut off and not rounded."""
    assert expected == verdict(a_document(closed_at=closed_at)).closed_at_ms


@pytest.mark.parametrize(
    "wrong",
    [
        {"closed_at": "2026-13-01T00:00:00Z"},
        {"closed_at": "2026-02-30T00:00:00Z"},
        {"closed_at": "2026-03-01T25:00:00Z"},
        {"closed_at": "0000-01-01T00:00:00Z"},
        {"closed_at": "2026-03-01T00:00:00+99:00"},
        {"closed_at": "2026-03-01T10:00:00Z\n"},
        {"business_day": "2026-02-30"},
        {"business_day": "0000-00-00"},
        {"business_day": "2026-03-01\n"},
        {"currency": "RUB\n"},
    ],
)
def test_a_day_or_time_that_does_not_exist_is_a_bad_schema(wrong):
    """A shape that is right and a value that is not is told by its field, and nothing worse."""
    assert code_of(a_document(**wrong)) == "bad_schema"


@pytest.mark.parametrize(
    "number", ["1.2.3", "1,5", "", "-", "1.", ".5", "1e3", " 1", "+1", "1\n", "1\n2", "٣", "1" * 16, "0.1234567", "x"]
)
def test_a_quantity_that_is_no_decimal_number_is_a_bad_schema(number):
    """Quantities, prices and rates are decimal texts, each judged on its own."""
    fields = a_receipt()
    fields["lines"].append({"line_number": 2, "quantity": number, "extended_minor": 0})

    assert code_of(fields) == "bad_schema"


@pytest.mark.parametrize("where", ["price", "line", "receipt", "discount"])
def test_a_price_or_rate_is_a_decimal_number_wherever_it_stands(where):
    """The price of a line, the rate of its tax, of the receipt's and of a discount: one that is none is found."""
    for number, code in (("20", None), ("1,5", "bad_schema")):
        fields, rated = a_receipt(), {"tax_id": "1", "rate": number, "amount_minor": 0}
        match where:
            case "price":
                fields["lines"][0]["unit_price"] = number
            case "line":
                fields["lines"][0]["taxes"] = [rated]
            case "receipt":
                fields["taxes"] = [rated]
            case "discount":
                fields["discounts"] = [{"rate": number, "amount_minor": 0}]
        assert getattr(verdict(fields), "code", None) == code


@pytest.mark.parametrize("number", ["0", "-1", "0.5", "123456789012345.123456", "-0.000001", "007"])
def test_a_decimal_number_is_one(number):
    """Up to fifteen digits before the point and six after it, with a sign."""
    fields = a_receipt()
    fields["lines"][0] |= {"quantity": number, "unit_price": number}

    assert isinstance(verdict(fields), Accepted)


def test_a_document_that_names_another_till_is_not_stored_under_this_one():
    """Who a till is comes from the topic; a document need not name one."""
    assert code_of(a_receipt(till_id="till-2")) == "wrong_till"
    assert isinstance(verdict(a_receipt(till_id=None)), Accepted)


# -- Sums --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(RECEIPT_TYPES))
def test_a_receipt_needs_totals_and_they_must_agree(kind):
    """Lines and tenders each make the total, whatever kind of receipt it is."""
    assert isinstance(verdict(a_receipt(transaction_type=kind)), Accepted)
    assert code_of(a_receipt(transaction_type=kind, totals=None)) == "bad_schema"
    assert code_of(a_receipt(transaction_type=kind, totals={"total_minor": 12_299})) == "totals_mismatch"
    half = [{"tender_number": 1, "tender_type": "cash", "amount_minor": 12_299}]
    assert code_of(a_receipt(transaction_type=kind, tenders=half)) == "tenders_mismatch"


def test_a_cancelled_receipt_has_lines_and_was_never_paid():
    """Its sums are nobody's business."""
    assert isinstance(verdict(a_receipt(transaction_type="cancelled", tenders=[])), Accepted)


def test_what_was_voided_does_not_count():
    """Voided lines and tenders stand in the document and in no sum."""
    fields = a_receipt()
    fields["lines"].append({"line_number": 2, "quantity": "1", "extended_minor": 999, "voided": True})
    fields["tenders"].append({"tender_number": 2, "tender_type": "card", "amount_minor": 999, "voided": True})

    assert isinstance(verdict(fields), Accepted)


def test_rounding_counts_with_its_sign():
    """A total rounded down by 30 is 30 less than its lines."""
    fields = a_receipt(totals={"total_minor": 12_270, "rounding_minor": -30})
    fields["tenders"][0]["amount_minor"] = 12_270

    assert isinstance(verdict(fields), Accepted)


@pytest.mark.parametrize(("sold", "returned", "paid"), [(500, 200, 300), (200, 500, 300), (500, 500, 0)])
def test_in_an_exchange_what_is_returned_counts_against_what_is_sold(sold, returned, paid):
    """The difference is paid, in whichever direction."""
    lines = [
        {"line_number": 1, "quantity": "1", "extended_minor": sold},
        {"line_number": 2, "kind": "return", "quantity": "1", "extended_minor": returned},
    ]
    tenders = [{"tender_number": 1, "tender_type": "cash", "amount_minor": paid}]
    fields = a_receipt(transaction_type="exchange", lines=lines, tenders=tenders, totals={"total_minor": paid})

    assert isinstance(verdict(fields), Accepted)


@pytest.mark.parametrize(("of_receipt", "expected"), [(200, None), (202, None), (198, None), (203, "taxes_mismatch")])
def test_taxes_may_differ_by_one_minor_unit_a_line(of_receipt, expected):
    """Each line rounds its own tax; two lines may be off by two, and no more."""
    tax = {"tax_id": "vat20", "amount_minor": 100}
    lines = [{"line_number": n, "quantity": "1", "extended_minor": 6_150, "taxes": [tax]} for n in (1, 2)]
    fields = a_receipt(lines=lines, taxes=[{"tax_id": "vat20", "amount_minor": of_receipt}])

    assert expected == getattr(verdict(fields), "code", None)


@pytest.mark.parametrize("kind", sorted(CASH_TYPES))
def test_the_total_of_a_cash_movement_is_what_was_moved(kind):
    """A cash movement has no totals; one that says no amount moved nothing that anybody could count."""
    assert verdict(a_document(transaction_type=kind, cash={"amount_minor": 5_000})).total_minor == 5_000
    assert code_of(a_document(transaction_type=kind)) == "bad_schema"


@pytest.mark.parametrize("kind", sorted(TRANSACTION_TYPES))
def test_every_type_has_a_document_that_is_accepted(kind):
    """The least that each type needs is enough, and what nobody knows about survives byte for byte."""
    needs = {kind: {"shift_number": 7} for kind in SHIFT_TYPES} | dict.fromkeys(CASH_TYPES, CASH)
    needs["shift_close"] = {"shift_number": 7, "shift": {}}
    fields = (a_receipt if kind in RECEIPT_TYPES else a_document)(
        transaction_type=kind, x_loyalty={"points": "12.50"}, **needs.get(kind, {})
    )

    assert isinstance(verdict(fields), Accepted)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"shift_number": None, "shift": {}}, "shift_number"),
        ({}, "needs shift"),
        ({"shift": {"first_receipt_number": 9, "last_receipt_number": 3}}, "first_receipt_number 9"),
        ({"shift": {"by_type": {"sell": {}}}}, "by_type.sell"),
        ({"shift": {"by_tender": {"cash": {}}}}, "by_tender.cash"),
        ({"shift": {"by_tender": {"sale.gold": {}}}}, "by_tender.sale.gold"),
        ({"shift": {"by_tax": {"vat20": {}}}}, "by_tax.vat20"),
    ],
)
def test_a_shift_that_cannot_be_reconciled_is_told_why(fields, named):
    """What is missing or names no type is said; the document keeps its number in quarantine."""
    refused = verdict(a_document(transaction_type="shift_close", **{"shift_number": 7, **fields}))

    assert refused.code == "shift_mismatch"
    assert named in refused.reason


@pytest.mark.parametrize("field", ["masked_pan", "rrn", "auth_code"])
def test_a_card_number_that_no_till_masked_is_caught(field):
    """Only in tenders, only with the check digit of a card number; a masked one and a long reference are fine."""
    for value, expected in [(CARD_NUMBER, "card_number"), ("411111******1111", None), ("4111111111111112", None)]:
        tender = {"tender_number": 1, "tender_type": "card", "amount_minor": 12_300, field: value}
        assert getattr(verdict(a_receipt(tenders=[tender])), "code", None) == expected


def test_a_marking_code_and_a_fiscal_block_keep_their_bytes(tmp_path):
    """The code's separators, the fiscal identifiers as text: what central stores is what the POS wrote."""
    mark = {"code": b64encode(b"010460043993125621JgXJ5.T\x1d8005112000\x1d93MFU1").decode(), "gtin": "04600439931256"}
    line = {"line_number": 1, "quantity": "1", "extended_minor": 12_300, "marks": [mark]}
    fiscal = {"scheme": "ru.ffd", "fiscal_drive_number": "9999078900001341", "fiscal_sign": "0007435287"}
    body = as_json(a_receipt(lines=[line], fiscal=[{**fiscal, "x_tag_1290": 4}]))
    store = a_store(tmp_path / "central.db")
    store.open_streams([NewStream(TILL, a_stream(), ())], {}, NOW_MS)
    store.ingest([a_parcel([body])], {}, NOW_MS)

    assert store.database.execute_sql("SELECT body FROM document").fetchall() == [(body,)]
    store.close()


# -- What is no document -----------------------------------------------------------------------------------------------


def test_what_the_till_put_in_its_place_is_told_by_its_own_code():
    """A wrapped one is ``bad_json``, a stub ``too_large``, each under its id."""
    wrapped = prepare(b"no json", 1000, lambda: "made").body
    stub = prepare(as_json(a_receipt("large", note="x" * 1000)), 1000, lambda: "made").body

    assert [("made", "bad_json"), ("large", "too_large")] == [
        (one.document_id, one.code) for one in (judge(TILL, wrapped), judge(TILL, stub))
    ]


@pytest.mark.parametrize(("named", "expected"), [("d1", "d1"), ("x" * 65, ""), (7, ""), ("a\0b", ""), (None, "")])
def test_a_refused_document_is_named_where_its_id_can_stand_in_a_column(named, expected):
    """An id that is none is left empty; the bytes still tell documents apart."""
    assert expected == verdict(a_document(named, "teleport")).document_id


@pytest.mark.parametrize("where", ["$.note", "$.from_pos[0].deep", "$.from_pos[0].<key>"])
def test_a_nul_anywhere_is_found_and_named(where):
    """A database would choke on it, in fields that are known and in those that are not."""
    inside = {"$.note": {"note": "\0"}, "$.from_pos[0].deep": {"from_pos": [{"deep": "\0"}]}}
    refused = verdict(a_document(**inside.get(where, {"from_pos": [{"\0": 1}]})))

    assert ("bad_schema", f"a NUL character in {where}") == (refused.code, refused.reason)


@pytest.mark.parametrize("escape", [b"\\u0041", b"\\u0000", b"\\ud83d\\ude00"])
@pytest.mark.parametrize("depth", [1, 100, 300, 480, 500, 600, 900, 980, 1000, 5000])
def test_deep_nesting_is_judged_and_nothing_worse(depth, escape):
    """However deep a document is nested, and whatever it holds there, one verdict comes out of it."""
    deep = as_json(a_document())[:-1] + b',"x":' + b"[" * depth + b'"' + escape + b'"' + b"]" * depth + b"}"

    assert isinstance(judge(TILL, deep), Accepted | Refused)


@pytest.mark.parametrize("body", [b'{"\x80":1}', b'{"document_id":"d1","\xff":1}', b'{"oversize_bytes":1,"\x80":2}'])
def test_a_name_that_is_no_text_is_judged_and_nothing_worse(body):
    """The name of a field may be no UTF-8: telling which field is wrong must not fail over it."""
    assert isinstance(judge(TILL, body), Refused)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.binary(max_size=200))
def test_any_bytes_are_judged_and_nothing_worse(body):
    """No bytes stop central: a verdict comes out of everything."""
    assert isinstance(judge(TILL, body), Refused)
    assert isinstance(judge(TILL, as_json(a_document())[:-1] + b"," + body), Accepted | Refused)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(st.data())
def test_a_damaged_document_is_judged_and_nothing_worse(data):
    """One changed byte of a real receipt leads to a verdict."""
    body = bytearray(data.draw(st.sampled_from(some_baskets(10))))
    body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))

    assert isinstance(judge(TILL, bytes(body)), Accepted | Refused)


def test_what_is_accepted_can_stand_in_a_column():
    """Every text that is searched by is bounded and without NUL."""
    accepted = verdict(a_receipt(store_id="s" * 64))

    texts = [text for text in msgspec.structs.astuple(accepted) if isinstance(text, str)]
    assert all(len(text) <= 64 and "\0" not in text for text in texts)
