"""What a shift adds up to at central: which documents are in it, their sums, and how its close differs from them."""

from __future__ import annotations

from itertools import count

import msgspec
import pytest
from factories import a_document, a_receipt, as_json, some_baskets

from central.shift_sums import Difference, Header, ShiftSums, decode_counted, differences, shift_documents
from wire.documents import Shift

DAY_1, DAY_2, DAY_3 = "2026-03-01", "2026-03-02", "2026-03-03"
IDS = count(1)


def added_up(*documents):
    sums = ShiftSums()
    for document in documents:
        sums.add(decode_counted(as_json(document)))
    return sums


def said(**blocks):
    """Return what a close says, each key as (count, amount)."""
    pairs = {
        block: {key: {"count": one[0], "amount_minor": one[1]} for key, one in keys.items()}
        for block, keys in blocks.items()
    }
    return msgspec.convert(pairs, Shift)


def tenders(**amounts):
    return [
        {"tender_number": number, "tender_type": kind, "amount_minor": amount}
        for number, (kind, amount) in enumerate(amounts.items(), 1)
    ]


# -- Sums --------------------------------------------------------------------------------------------------------------


def test_sums_are_those_that_the_generated_tills_write_into_their_own_close():
    """Two programs that share no code add up the same: every shift of a generated till, all types of documents."""
    shifts, sums = 0, ShiftSums()
    for body in some_baskets(1_500, seed=5):
        document = decode_counted(body)
        if document.transaction_type == "shift_close":
            assert differences(document.shift, sums) == ()
            shifts, sums = shifts + 1, ShiftSums()
        else:
            sums.add(document)

    assert shifts > 10


def test_training_counts_nowhere():
    """Neither its type, nor its tenders and taxes."""
    sums = added_up(a_receipt(flags=["training"], taxes=[{"tax_id": "vat22", "amount_minor": 5}]))

    assert (sums.by_type, sums.by_tender, sums.by_tax) == ({}, {}, {})


def test_tenders_and_taxes_are_kept_for_each_type_of_receipt_and_voided_ones_left_out():
    """The keys are <type>.<tender> and <type>.<tax>; taxes are the receipt's own."""
    voided = {"tender_number": 9, "tender_type": "card", "amount_minor": 100, "voided": True}
    paid = [*tenders(cash=40, card=60), voided]
    taxes = [{"tax_id": "vat22", "amount_minor": 18}]
    sums = added_up(
        a_receipt("a", total_minor=100, tenders=paid, taxes=taxes),
        a_receipt("b", total_minor=30, tenders=tenders(cash=30)),
        a_receipt("c", "return", total_minor=30, tenders=tenders(cash=30), taxes=taxes),
    )

    assert sums.by_type == {"sale": [2, 130], "return": [1, 30]}
    assert sums.by_tender == {"sale.cash": [2, 70], "sale.card": [1, 60], "return.cash": [1, 30]}
    assert sums.by_tax == {"sale.vat22": [1, 18], "return.vat22": [1, 18]}


def test_cash_movements_count_with_their_amount_and_everything_else_with_nothing():
    """A cancelled receipt was never paid; a report moves no money."""
    sums = added_up(
        a_document("a", "pickup", cash={"amount_minor": 500}),
        a_document("b", "cancelled", totals={"total_minor": 900}),
        a_document("c", "x_report", shift={"by_type": {"sale": {"count": 9, "amount_minor": 9}}}),
    )

    assert sums.by_type == {"pickup": [1, 500], "cancelled": [1, 0], "x_report": [1, 0]}
    assert sums.by_tender == {}


# -- Differences -------------------------------------------------------------------------------------------------------


def test_equal_sums_have_no_difference():
    """Count and amount of every key agree."""
    assert differences(said(by_type={"sale": (1, 100)}), added_up(a_receipt(total_minor=100))) == ()


@pytest.mark.parametrize("close", [None, Shift(), Shift(first_receipt_number=1, last_receipt_number=5)])
def test_a_close_without_sums_proves_nothing(close):
    """Unknown, not equal: an empty close must not make a day complete."""
    assert differences(close, added_up(a_receipt())) is None


def test_a_block_that_is_not_there_is_not_compared_and_the_others_are():
    """A till that adds up its types only is held to its types only."""
    found = differences(said(by_type={"sale": (2, 100)}), added_up(a_receipt(total_minor=100)))

    assert found == (Difference("by_type", "sale", 2, 1, 100, 100),)


def test_a_receipt_or_cash_type_that_the_close_does_not_name_means_none_of_it():
    """A refund that the close knows nothing of is a difference; so is one of a tender."""
    stored = added_up(
        a_receipt("a", total_minor=100),
        a_receipt("b", "return", total_minor=30),
        a_document("c", "paid_out", cash={"amount_minor": 7}),
    )
    found = differences(said(by_type={"sale": (1, 100)}, by_tender={"sale.cash": (1, 100)}), stored)

    assert [(one.block, one.key, one.difference_count, one.difference_minor) for one in found] == [
        ("by_type", "paid_out", 1, 7),
        ("by_type", "return", 1, 30),
        ("by_tender", "return.cash", 1, 30),
    ]


def test_what_moves_no_money_is_compared_only_where_the_close_names_it():
    """Not every POS counts its reports; one that does is held to it."""
    stored = added_up(a_receipt("a", total_minor=100), a_document("b", "no_sale"), a_document("c", "cancelled"))

    assert differences(said(by_type={"sale": (1, 100)}), stored) == ()
    assert differences(said(by_type={"sale": (1, 100), "no_sale": (2, 0)}), stored) == (
        Difference("by_type", "no_sale", 2, 1, 0, 0),
    )


def test_a_difference_tells_what_is_here_less_what_was_said():
    """Below zero: it is missing here; in minor units and in documents."""
    (one,) = differences(said(by_type={"sale": (3, 301)}), added_up(a_receipt(total_minor=100)))

    assert (one.difference_count, one.difference_minor) == (-2, -201)


# -- Which documents are in a shift ------------------------------------------------------------------------------------


def a_header(kind="sale", day=DAY_1, number=1, shift=None):
    return Header(next(IDS), "till-1", "s", next(IDS), kind, day, number, None, "RUB", 1, False, 0, shift)


def days_of(day, documents):
    """Return the business days of the members and of the closes of shift 1, seen from a day."""
    found = shift_documents(1, day, documents)
    return [one.business_day for one in found.members], [one.business_day for one in found.closes]


def test_a_shift_within_a_day_is_that_days_documents_of_its_number():
    """Another number is another shift; the close is not a member."""
    documents = [a_header("shift_open"), a_header(), a_header(number=2), a_header("shift_close")]

    assert days_of(DAY_1, documents) == ([DAY_1, DAY_1], [DAY_1])


@pytest.mark.parametrize("day", [DAY_1, DAY_2, DAY_3])
def test_a_shift_over_midnight_is_the_same_from_each_of_its_days(day):
    """From its opening to its close, two days later."""
    documents = [a_header("shift_open"), a_header(), a_header(day=DAY_2), a_header("shift_close", DAY_3)]

    assert days_of(day, [*documents, a_header(day=DAY_3)]) == ([DAY_1, DAY_1, DAY_2, DAY_3], [DAY_3])


def test_a_number_that_comes_again_each_day_is_a_shift_of_its_own():
    """Yesterday's and tomorrow's shift 1 are others."""
    documents = [
        one for day in (DAY_1, DAY_2, DAY_3) for one in (a_header("shift_open", day), a_header("shift_close", day))
    ]

    assert days_of(DAY_2, documents) == ([DAY_2], [DAY_2])


def test_an_open_shift_is_not_closed_by_the_next_one_of_its_number():
    """The day after opens and closes its own: this one's close is missing."""
    tomorrow = [a_header("shift_open", DAY_2), a_header("shift_close", DAY_2)]

    assert days_of(DAY_1, [a_header("shift_open"), a_header(), *tomorrow]) == ([DAY_1, DAY_1], [])


def test_without_its_opening_a_shift_begins_on_the_day_of_its_close():
    """A POS that closes shifts and never opens them, with numbers that come again."""
    documents = [a_header(), a_header(day=DAY_2), a_header("shift_close", DAY_2)]

    assert days_of(DAY_2, documents) == ([DAY_2], [DAY_2])
    assert days_of(DAY_1, documents) == ([DAY_1], [])


@pytest.mark.parametrize("day", [DAY_1, DAY_2])
def test_without_its_opening_a_shift_begins_where_its_close_says(day):
    """``shift.opened_at`` of the close tells that yesterday belongs to it."""
    close = a_header("shift_close", DAY_2, shift=Shift(opened_at="2026-03-01T22:00:00+03:00"))

    assert days_of(day, [a_header(), a_header(day=DAY_2), close]) == ([DAY_1, DAY_2], [DAY_2])


def test_a_close_that_reaches_back_stops_at_the_close_before():
    """What was closed yesterday under the same number is not counted twice."""
    close = a_header("shift_close", DAY_2, shift=Shift(opened_at="2026-03-01T22:00:00+03:00"))
    documents = [a_header(), a_header("shift_close"), a_header(day=DAY_2), close]

    assert days_of(DAY_2, documents) == ([DAY_2], [DAY_2])


def test_a_late_document_is_a_member_whatever_its_place():
    """Membership is by number and day, not by sequence: what comes after the close counts."""
    assert days_of(DAY_1, [a_header("shift_open"), a_header("shift_close"), a_header()]) == ([DAY_1, DAY_1], [DAY_1])
