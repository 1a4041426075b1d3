"""The grocery journey as documents: tried on a hand-made table, and on the whole package where it is installed."""

from datetime import datetime, timedelta

import msgspec
import pytest

from fleet import journey
from fleet.baskets import encode
from fleet.journey import Journey, JourneyMissingError, Product, Row, document_id_of, till_of, till_totals, unit_price
from wire.documents import Document

NOON = datetime(2017, 3, 1, 12, 0, 0)  # noqa: DTZ001 - as naive as the table's own.
LATER, NEXT_DAY = NOON + timedelta(minutes=1), NOON + timedelta(days=1)
BREAD, FUEL = Product("GROCERY", "BREAD 20 OZ"), Product("FUEL", "GASOLINE-REG UNLEADED")

TABLE = [
    Row(7, 101, 1, 2, 3.98, 0.50, 0.0, 0.0, NOON),
    Row(7, 101, 2, 0, 0.0, 0.0, 0.0, 0.0, NOON),
    Row(9, 102, 2, 9231, 21.97, 0.0, 0.0, 0.0, NOON),
    Row(7, 104, 1, 1, 0.29, 0.0, 0.55, 0.45, LATER),
    Row(7, 103, 1, 1, 1.99, 0.0, 0.0, 0.0, LATER),
    Row(7, 105, 1, 3, 0.0, 0.0, 0.0, 0.0, NEXT_DAY),
]


def made(tills_per_store=1):
    return Journey(TABLE, tills_per_store, {1: BREAD, 2: FUEL})


def decoded(documents):
    return [msgspec.json.decode(encode(document), type=Document) for document in documents]


def test_a_basket_is_a_receipt_and_a_row_a_line():
    """Every basket becomes one valid sale of its store's till, every row one of its lines in the table's order."""
    first = decoded(made().documents("store-7"))[0]
    assert (first.transaction_type, first.till_id, first.store_id) == ("sale", "store-7", "7")
    assert (first.currency, first.business_day, first.closed_at) == ("USD", "2017-03-01", "2017-03-01T12:00:00Z")
    assert [(line.item_id, line.name, line.quantity, line.extended_minor) for line in first.lines] == [
        ("1", "BREAD 20 OZ", "2", 398), ("2", "GASOLINE-REG UNLEADED", "0", 0),
    ]  # fmt: skip
    assert first.document_id == document_id_of(101)


def test_a_till_closes_by_time_and_then_by_basket():
    """Order is (timestamp, basket id), also where the table has it otherwise; numbers begin anew each day."""
    closed = decoded(made().documents("store-7"))
    assert [one.document_id for one in closed] == [document_id_of(basket) for basket in (101, 103, 104, 105)]
    assert [one.receipt_number for one in closed] == [1, 2, 3, 1]


def test_money_is_the_tables_own():
    """Lines, tenders and totals say the sum of the rows in cents; discounts come off the shelf price."""
    for till_id in made().tills():
        for one in decoded(made().documents(till_id)):
            lines_minor = sum(line.extended_minor for line in one.lines)
            assert lines_minor == one.totals.total_minor == sum(tender.amount_minor for tender in one.tenders)
            assert one.totals.gross_minor - one.totals.discount_minor == lines_minor


def test_discounts_are_kept_apart():
    """All three columns stay, by name; a maker's coupon takes nothing off the line, as the maker pays it back."""
    coupon = decoded(made().documents("store-7"))[2]
    assert {discount.promotion_id: discount.amount_minor for discount in coupon.discounts} == {
        "coupon": 55,
        "coupon_match": 45,
    }
    assert (coupon.lines[0].discount_minor, coupon.lines[0].unit_price) == (45, "0.74")


def test_totals_come_from_the_rows():
    """The figures to prove against are added up without making any document, and the documents meet them."""
    assert till_totals(TABLE) == {"store-7": (4, 626), "store-9": (1, 2197)}
    for tills_per_store in (1, 2, 5):
        told = {}
        for till_id in made(tills_per_store).tills():
            money = [one.totals.total_minor for one in decoded(made(tills_per_store).documents(till_id))]
            told[till_id] = (len(money), sum(money))
            assert made(tills_per_store).baskets(till_id) == len(money)
        assert told == till_totals(TABLE, tills_per_store)


def test_several_tills_share_a_store():
    """A basket's till is the same in every run, and each basket belongs to exactly one."""
    assert till_of(7, 101) == "store-7"
    assert till_of(7, 101, 3) == till_of(7, 101, 3)
    assert {till_of(7, basket, 3) for basket in range(100)} == {"store-7-1", "store-7-2", "store-7-3"}


@pytest.mark.parametrize(
    ("gross_minor", "quantity", "price"),
    [(398, 2, "1.99"), (100, 1, "1.00"), (100, 3, "0.333333"), (2197, 9231, "0.00238"), (5, 0, "0"), (250, 1, "2.50")],
)
def test_unit_price_is_decimal_text(gross_minor, quantity, price):
    """A price has two to six decimals; nothing bought has none."""
    assert unit_price(gross_minor, quantity) == price


def test_rows_of_a_basket_stand_together():
    """A table that tears a basket apart is refused: it would become two receipts with one id."""
    with pytest.raises(ValueError, match="basket 101"):
        Journey([*TABLE, TABLE[0]])


@pytest.mark.parametrize("missing", ["package", "reader"])
def test_what_is_missing_says_what_to_do(monkeypatch, missing):
    """Without the package or without its reader, the error names make baskets."""
    name = "PACKAGE" if missing == "package" else "READER"
    monkeypatch.setattr(journey, name, "tillstream-no-such-package")
    if missing == "reader":
        monkeypatch.setattr(journey, "_table", lambda table: table)
    assert not journey.is_installed()
    with pytest.raises(JourneyMissingError, match="make baskets"):
        list(journey.read_rows())


def test_a_package_without_its_table_is_missing_too(monkeypatch):
    """An installation that lacks the file says the same."""
    monkeypatch.setattr(journey, "PACKAGE", "pytest")
    monkeypatch.setattr(journey, "TRANSACTIONS", "nowhere/transactions.parquet")
    with pytest.raises(JourneyMissingError, match=r"transactions\.parquet.*make baskets"):
        list(journey.read_rows())


@pytest.mark.skipif(not journey.is_installed(), reason="needs make baskets")
def test_the_whole_journey_adds_up_to_the_cent():
    """155,848 baskets of 457 tills: documents and money meet the table's till by till, and a sample is valid."""
    expected = till_totals(journey.read_rows())
    assert (len(expected), sum(count for count, _ in expected.values())) == (457, 155_848)
    assert sum(money for _, money in expected.values()) == journey.expected_total_minor() == 459_603_958
    whole, told = journey.load(), {}
    for till_id in whole.tills():
        closed = list(whole.documents(till_id))
        told[till_id] = (len(closed), sum(document["totals"]["total_minor"] for document in closed))
        decoded(closed[::40])
    assert told == expected
