"""The schema of documents, and what it leaves to be judged."""

from __future__ import annotations

from typing import get_args

import msgspec
import pytest
from factories import a_document, a_receipt, as_json, some_baskets

from wire.documents import CASH_TYPES, RECEIPT_TYPES, SHIFT_TYPES, Document, TransactionType

decode = msgspec.json.Decoder(Document).decode


def test_generated_documents_fit_the_schema():
    """Whatever a generated till closes in a day is a document."""
    kinds = {decode(body).transaction_type for body in some_baskets(300)}

    assert {"sale", "return", "shift_open", "shift_close"} <= kinds


def test_every_type_is_a_document_and_belongs_to_at_most_one_family():
    """Receipts, cash movements and shift documents do not overlap."""
    for kind in get_args(TransactionType):
        assert decode(as_json(a_document(transaction_type=kind))).transaction_type == kind
    families = [RECEIPT_TYPES, CASH_TYPES, SHIFT_TYPES]
    assert sum(map(len, families)) == len(frozenset.union(*families))
    assert frozenset.union(*families) <= set(get_args(TransactionType))


@pytest.mark.parametrize("field", ["document_id", "transaction_type", "business_day", "closed_at", "currency"])
def test_a_document_without_a_required_field_is_none(field):
    """The refusal names the field that is missing."""
    fields = a_receipt()
    del fields[field]

    with pytest.raises(msgspec.ValidationError, match=field):
        decode(as_json(fields))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("document_id", ""),
        ("document_id", "x" * 65),
        ("document_id", 7),
        ("business_day", "01.03.2026"),
        ("closed_at", "2026-03-01 10:00:00"),
        ("closed_at", "2026-03-01T10:00:00"),
        ("currency", "rub"),
        ("receipt_number", -1),
        ("receipt_number", 2**53),
        ("receipt_number", 2**70),
        ("flags", ["unheard"]),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_name(field, value):
    """The refusal names the field that is wrong."""
    with pytest.raises(msgspec.ValidationError, match=field):
        decode(as_json(a_receipt(**{field: value})))


def test_amounts_are_positive_and_only_rounding_has_a_sign():
    """Direction comes from the type of the document, never from a sign."""
    with pytest.raises(msgspec.ValidationError, match="total_minor"):
        decode(as_json(a_receipt(totals={"total_minor": -1})))

    assert decode(as_json(a_receipt(totals={"total_minor": 1, "rounding_minor": -1}))).totals.rounding_minor == -1


def test_unknown_fields_are_let_through_at_every_level():
    """What a POS adds is kept in the bytes, and never a reason to refuse."""
    fields = a_receipt(future={"deep": [2**70]})
    fields["lines"][0]["future"] = True

    assert decode(as_json(fields)).document_id == "d1"
