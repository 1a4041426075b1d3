"""The generated documents of a till: each is valid, its sums hold, and a shift's closing sums are those of its own."""

from base64 import b64decode
from collections import Counter, defaultdict
from itertools import islice, pairwise
from random import Random
from statistics import median
from typing import get_args

import msgspec
import pytest

from central.judge import Accepted, judge
from fleet.baskets import Register, documents, encode
from fleet.catalogue import gtin_13, make_catalogue
from fleet.heading import time_text
from wire.documents import CASH_TYPES, RECEIPT_TYPES, Document, TransactionType

START_MS = 1_772_600_000_000
PRODUCTS = make_catalogue(Random(7))
DECODER = msgspec.json.Decoder(Document)
MANY = 2_500


def stream(seed, till_id="till-1", **options):
    register = Register(till_id, Random(f"{seed} {till_id}"), PRODUCTS, "store-1", **options)
    return documents(register, START_MS)


def bodies(seed, count=MANY, **options):
    return [encode(document) for document in islice(stream(seed, **options), count)]


@pytest.fixture(scope="module", params=[1, 2, 3])
def closed(request):
    return [DECODER.decode(body) for body in bodies(request.param, shift_documents=120)]


def unvoided(items):
    return [item for item in items if not item.voided]


def shifts_of(closed):
    """Each complete shift as (its documents, its closing document)."""
    current = []
    for document in closed:
        if document.transaction_type == "shift_close":
            yield current, document
            current = []
        else:
            current.append(document)


def test_same_seed_gives_the_same_bytes():
    """One seed replays a till's whole life, byte for byte; another seed or another till gives another one."""
    assert bodies(11, 400) == bodies(11, 400)
    assert bodies(11, 400) != bodies(12, 400)
    assert bodies(11, 400) != bodies(11, 400, till_id="till-2")


def test_every_document_is_new(closed):
    """No two documents share an id, and time never runs backwards."""
    assert len({document.document_id for document in closed}) == len(closed)
    assert all(one.closed_at < two.closed_at for one, two in pairwise(closed))
    assert all(document.opened_at <= document.closed_at for document in closed if document.opened_at)


def test_central_accepts_every_one():
    """Nothing that a well-behaved till closes ends in quarantine."""
    assert all(isinstance(judge("till-1", body), Accepted) for body in bodies(61, 3_000))


def test_receipt_sums_hold(closed):
    """Lines plus rounding make the total, and so do the tenders; gross less discounts are the lines."""
    for document in closed:
        if document.transaction_type not in RECEIPT_TYPES - {"exchange"}:
            continue
        lines_minor = sum(line.extended_minor for line in unvoided(document.lines))
        totals = document.totals
        assert lines_minor + totals.rounding_minor == totals.total_minor
        assert sum(tender.amount_minor for tender in unvoided(document.tenders)) == totals.total_minor
        assert totals.gross_minor - totals.discount_minor == lines_minor
        assert sum(discount.amount_minor for discount in document.discounts) in {0, totals.discount_minor}
        assert -100 < totals.rounding_minor <= 0


def test_an_exchange_is_paid_by_its_difference(closed):
    """The total of an exchange is what its sale lines and return lines differ by."""
    for document in (one for one in closed if one.transaction_type == "exchange"):
        by_kind = Counter()
        for line in unvoided(document.lines):
            by_kind[line.kind] += line.extended_minor
        assert abs(by_kind["sale"] - by_kind["return"]) == document.totals.total_minor
        assert sum(tender.amount_minor for tender in document.tenders) == document.totals.total_minor
        assert [line.line_number for line in document.lines] == list(range(1, len(document.lines) + 1))


def test_receipt_taxes_are_the_lines_taxes(closed):
    """A receipt's taxes are those of its unvoided lines, and with what they are taken from they make the lines."""
    for document in (one for one in closed if one.taxes):
        by_tax = Counter()
        for line in unvoided(document.lines):
            for tax in line.taxes:
                by_tax[tax.tax_id] += tax.amount_minor
        assert by_tax == {tax.tax_id: tax.amount_minor for tax in document.taxes}
        assert document.totals.tax_minor == sum(by_tax.values())
        taxed_minor = sum(tax.taxable_minor + tax.amount_minor for tax in document.taxes)
        assert taxed_minor == sum(line.extended_minor for line in unvoided(document.lines))


def test_cash_is_given_change_for(closed):
    """What a customer gives in notes, less the change, is what was applied."""
    cash = [tender for document in closed for tender in document.tenders if tender.tendered_minor is not None]
    assert cash
    assert all(tender.tendered_minor - tender.change_minor == tender.amount_minor for tender in cash)


def test_no_card_number_is_written(closed):
    """Every card's number is masked, in sales, returns and post-voids alike."""
    pans = [tender.masked_pan for document in closed for tender in document.tenders if tender.masked_pan]
    assert pans
    assert all(len(pan) == 16 and pan[6:12] == "******" for pan in pans)


def test_shift_close_adds_up_its_own_shift(closed):
    """Counts and sums by type, tender and tax are those of the shift's documents without training ones."""
    complete = list(shifts_of(closed))
    assert len(complete) > 10
    for inside, closing in complete:
        counted = [document for document in inside if "training" not in document.flags]
        by_type, by_tender, by_tax = (defaultdict(lambda: [0, 0]) for _ in range(3))
        for document in counted:
            kind = document.transaction_type
            add(by_type[kind], money_of(document))
            if kind in RECEIPT_TYPES:
                for tender in unvoided(document.tenders):
                    add(by_tender[f"{kind}.{tender.tender_type}"], tender.amount_minor)
                for tax in document.taxes:
                    add(by_tax[f"{kind}.{tax.tax_id}"], tax.amount_minor)
        said = closing.shift
        assert plain(said.by_type) == by_type
        assert plain(said.by_tender) == by_tender
        assert plain(said.by_tax) == by_tax


def add(one, amount_minor):
    one[0] += 1
    one[1] += amount_minor


def plain(sums):
    return {key: [one.count, one.amount_minor] for key, one in sums.items()}


def money_of(document):
    if document.transaction_type in RECEIPT_TYPES:
        return document.totals.total_minor
    return document.cash.amount_minor if document.transaction_type in CASH_TYPES else 0


def test_shift_close_knows_the_drawer(closed):
    """Expected cash is float and cash taken less cash given and carried off; it never falls below nothing."""
    for inside, closing in shifts_of(closed):
        drawer_minor = 0
        for document in inside:
            drawer_minor += 0 if "training" in document.flags else drawer_change(document)
            assert drawer_minor >= 0
        assert closing.shift.expected_cash_minor == drawer_minor
        assert closing.shift.counted_cash_minor <= drawer_minor
        assert closing.shift.opening_float_minor == inside[1].cash.amount_minor


def drawer_change(document):
    kind = document.transaction_type
    if document.cash is not None:
        return document.cash.amount_minor * (1 if kind in {"loan", "paid_in"} else -1)
    paid = [tender.amount_minor for tender in unvoided(document.tenders) if tender.tender_type == "cash"]
    return sum(paid) * (-1 if kind in {"return", "post_void"} else 1)


def test_receipt_numbers_have_no_gap(closed):
    """In each shift, every document with lines is numbered from 1, and the closing says the span."""
    for inside, closing in shifts_of(closed):
        numbers = [document.receipt_number for document in inside if document.lines]
        assert numbers == list(range(1, len(numbers) + 1))
        assert (closing.shift.first_receipt_number, closing.shift.last_receipt_number) == (1, numbers[-1])
        assert all(document.receipt_number is None for document in inside if not document.lines)


def test_a_shift_begins_with_its_float_and_keeps_its_day(closed):
    """A shift opens, takes its float, and stays in one business day and one shift number."""
    for inside, closing in shifts_of(closed):
        assert [document.transaction_type for document in inside[:2]] == ["shift_open", "loan"]
        assert {(document.business_day, document.shift_number) for document in inside} == {
            (closing.business_day, closing.shift_number)
        }


def test_what_goes_back_was_sold_before(closed):
    """Returns, exchanges and post-voids name an earlier sale, each sale at most once, and give back its lines."""
    sold, referred = {}, Counter()
    for document in closed:
        if document.transaction_type == "sale":
            sold[document.document_id] = document
        elif document.transaction_type in {"return", "exchange", "post_void"}:
            original = sold[document.original.document_id]
            referred[original.document_id] += 1
            assert document.original.receipt_number == original.receipt_number
            assert "training" not in original.flags
            back = [line for line in document.lines if line.kind == "return"]
            assert {line.item_id for line in back} <= {line.item_id for line in unvoided(original.lines)}
    assert max(referred.values()) == 1


def test_a_post_void_repeats_what_it_voids(closed):
    """Lines, tenders and totals of a post-void are the voided sale's own."""
    by_id = {document.document_id: document for document in closed}
    for document in (one for one in closed if one.transaction_type == "post_void"):
        original = by_id[document.original.document_id]
        assert (document.lines, document.tenders) == (original.lines, original.tenders)
        assert document.totals == original.totals


def test_fiscal_block_stands_on_what_was_registered(closed):
    """Receipts, shift open and close carry consecutive fiscal documents; training and cancelled ones none."""
    numbers = [int(block.fiscal_document_number) for document in closed for block in document.fiscal]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    for document in closed:
        registered = document.transaction_type in RECEIPT_TYPES | {"shift_open", "shift_close"}
        assert bool(document.fiscal) == (registered and "training" not in document.flags)
        assert all(block.scheme == "ru.ffd" for block in document.fiscal)


def test_the_mix_is_believable():
    """Sales prevail, some 2 % are returned and 1 % cancelled, and every type turns up."""
    closed = [DECODER.decode(body) for body in bodies(21, 8_000)]
    types = Counter(document.transaction_type for document in closed)
    assert types["sale"] > 0.85 * len(closed)
    assert 0.012 < types["return"] / len(closed) < 0.028
    assert 0.005 < types["cancelled"] / len(closed) < 0.015
    assert set(types) == set(get_args(TransactionType))
    assert any("training" in document.flags for document in closed)
    assert any(line.voided for document in closed for line in document.lines)


def test_sales_have_the_size_of_real_ones():
    """Baskets have some 6 lines, half of them at most 5, and a middling sale is some 2.4 KB."""
    sales = [body for body in bodies(31, 4_000) if b'"transaction_type":"sale"' in body]
    lines = sorted(len(DECODER.decode(body).lines) for body in sales)
    assert 5 <= sum(lines) / len(lines) <= 7.5
    assert median(lines) in {4, 5}
    assert 11 <= lines[len(lines) * 9 // 10] <= 17
    assert 1_500 <= median(map(len, sales)) <= 2_700


def test_keys_stand_in_the_order_of_the_schema():
    """A POS writes its fields in one order always: the order of the schema; and compactly, in plain UTF-8."""
    order = {field.encode_name: place for place, field in enumerate(msgspec.structs.fields(Document))}
    for body in bodies(41, 600):
        places = [order[key] for key in msgspec.json.decode(body)]
        assert places == sorted(places)
        assert b"\n" not in body
        assert b"\\u0" not in body


def test_products_are_invented():
    """Each number has its check digit and a prefix that is never given to a real product; all differ."""
    assert len(PRODUCTS) == 2_000
    assert len({product.gtin for product in PRODUCTS}) == len({product.item_id for product in PRODUCTS}) == 2_000
    assert all(product.gtin == gtin_13(product.gtin[:12]) for product in PRODUCTS)
    assert {product.gtin[:2] for product in PRODUCTS} == {"20", "21"}
    assert {product.vat for product in PRODUCTS} == {10, 22}
    assert gtin_13("400638133393") == "4006381333931"
    assert any(product.name.isascii() for product in PRODUCTS)


def test_marks_are_base64_of_what_was_scanned():
    """A marking code holds its GTIN, its serial and a group separator, which is why it is base64."""
    closed = [DECODER.decode(body) for body in bodies(51, 500)]
    marks = [(line, mark) for document in closed for line in document.lines for mark in line.marks]
    assert marks
    for line, mark in marks:
        assert b64decode(mark.code).startswith(f"010{line.gtin}21{mark.serial}\x1d93".encode())
        assert line.quantity == "1"


def test_time_is_the_callers():
    """A register has no clock: a document is closed at the time it is told, to the millisecond."""
    register = Register("till-1", Random(1), PRODUCTS)
    assert register.close_next(START_MS + 7)["closed_at"] == "2026-03-04T07:53:20.007+03:00"
    assert time_text(0) == "1970-01-01T03:00:00.000+03:00"


def test_a_shift_lasts_a_day_at_most():
    """A till that is left alone closes its shift at the first document after 24 hours."""
    register = Register("till-1", Random(1), PRODUCTS)
    types = [register.close_next(START_MS)["transaction_type"] for _ in range(2)]
    types.append(register.close_next(START_MS + 24 * 3_600_000)["transaction_type"])
    assert types == ["shift_open", "loan", "shift_close"]
