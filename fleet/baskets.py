"""Owns one simulated till's day: an endless, seeded stream of the documents it closes, in order. No clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from random import Random
from typing import Any, ClassVar

import msgspec

from fleet.catalogue import Product
from fleet.heading import FISCAL_CLOSE, FISCAL_CORRECTION, FISCAL_OPEN, FISCAL_RECEIPT, INCOME, INCOME_REFUND, Heading
from fleet.receipt import (
    Block,
    Payment,
    as_return_lines,
    card_tender,
    cash_tender,
    draw_lines,
    draw_tenders,
    due_of,
    make_totals,
    sum_taxes,
    tax_included,
)
from fleet.shift import ShiftBook, net_minor

Document = dict[str, Any]

SHIFT_DOCUMENTS, SHIFT_LONGEST_MS = 250, 24 * 3_600_000
NIGHT_MS, GAP_LEAST_MS = 9 * 3_600_000, 4_000
DRAWER_LIMIT_MINOR, DRAWER_KEPT_MINOR = 4_000_000, 500_000
REMEMBERED_SALES, REMEMBERED_SHARE, TRAINING_SHARE = 4, 0.25, 0.003


def encode(document: Document) -> bytes:
    """Return the bytes a POS hands over: compact JSON in UTF-8, keys in the order they were written."""
    return msgspec.json.encode(document)


def documents(register: Register, start_ms: int, mean_gap_ms: int = 60_000) -> Iterator[Document]:
    """Yield what a till closes from ``start_ms`` on, for ever; a night passes after each shift."""
    gaps = Random(f"{register.till_id} {start_ms}")
    now_ms = start_ms
    while True:
        document = register.close_next(now_ms)
        yield document
        now_ms += GAP_LEAST_MS + int(gaps.expovariate(1 / max(1, mean_gap_ms - GAP_LEAST_MS)))
        if document["transaction_type"] == "shift_close":
            now_ms += NIGHT_MS


class Register:
    """One till between two documents. Same seed, same calls: same documents.

    ``receipt_number`` counts from 1 in each shift over every document with lines, training and cancelled ones too.
    What the sums of ``shift_close`` hold is said in ``fleet.shift``.
    """

    def __init__(
        self,
        till_id: str,
        rng: Random,
        products: tuple[Product, ...],
        store_id: str = "",
        shift_documents: int = SHIFT_DOCUMENTS,
    ) -> None:
        self.till_id = till_id
        self._rng, self._products, self._shift_documents = rng, products, shift_documents
        self._heading = Heading(till_id, store_id, rng)
        self._book: ShiftBook | None = None
        self._float_due, self._left = False, 0
        self._sold: deque[bytes] = deque(maxlen=REMEMBERED_SALES)  # Bytes, as a fleet holds thousands of registers.

    def close_next(self, now_ms: int) -> Document:
        """Close the next document at ``now_ms``; the draw decides which one it is."""
        return self._open_shift(now_ms) if self._book is None else self._within(self._book, now_ms)

    def _within(self, book: ShiftBook, now_ms: int) -> Document:
        if self._float_due:
            self._float_due = False
            document = self._cash(now_ms, "loan", self._rng.randrange(300_000, 600_000, 50_000))
        elif self._left <= 0 or now_ms - self._heading.opened_ms >= SHIFT_LONGEST_MS:
            return self._close_shift(book, now_ms)
        elif book.cash_minor > DRAWER_LIMIT_MINOR:
            taken_minor = (book.cash_minor - DRAWER_KEPT_MINOR) // 100_000 * 100_000
            document = self._cash(now_ms, self._rng.choice(("pickup", "pickup", "deposit")), taken_minor)
        else:
            document = self._draw(book, now_ms)
        self._left -= 1
        book.add(document)
        return document

    def _draw(self, book: ShiftBook, now_ms: int) -> Document:
        draw = self._rng.random()
        for share, close in self._shares:
            if draw < share:
                return close(self, book, now_ms)
            draw -= share
        return self._sale(book, now_ms)

    # Shifts and cash.

    def _open_shift(self, now_ms: int) -> Document:
        self._book, self._float_due = ShiftBook(), True
        self._left = self._rng.randint(self._shift_documents // 2, self._shift_documents * 3 // 2)
        self._heading.open_shift(now_ms)
        document = self._heading.head("shift_open", now_ms)
        document["shift"] = {"opened_at": self._heading.opened_at}
        document["fiscal"] = [self._heading.fiscal(FISCAL_OPEN)]
        self._book.add(document)
        return document

    def _close_shift(self, book: ShiftBook, now_ms: int) -> Document:
        """Count the drawer, now and then some rubles short; all cash goes to the safe, the next shift starts empty."""
        document = self._heading.head("shift_close", now_ms)
        short_minor = self._rng.choice((100, 1_000, 5_000)) if self._rng.random() < 0.1 else 0
        counted_minor = max(0, book.cash_minor - short_minor)
        document["shift"] = self._shift_block(book) | {"counted_cash_minor": counted_minor}
        document["fiscal"] = [self._heading.fiscal(FISCAL_CLOSE)]
        self._book = None
        return document

    def _x_report(self, book: ShiftBook, now_ms: int) -> Document:
        return self._heading.head("x_report", now_ms) | {"shift": self._shift_block(book)}

    def _shift_block(self, book: ShiftBook) -> Block:
        return {"opened_at": self._heading.opened_at, **book.summary()}

    def _no_sale(self, _book: ShiftBook, now_ms: int) -> Document:
        return self._heading.head("no_sale", now_ms) | {"reason_code": "change_money"}

    def _paid_in(self, _book: ShiftBook, now_ms: int) -> Document:
        return self._cash(now_ms, "paid_in", self._rng.randrange(50_000, 500_000, 10_000))

    def _paid_out(self, book: ShiftBook, now_ms: int) -> Document:
        amount_minor = self._rng.randrange(10_000, 150_000, 1_000)
        if amount_minor > book.cash_minor:
            return self._sale(book, now_ms)
        return self._cash(now_ms, "paid_out", amount_minor)

    def _cash(self, now_ms: int, kind: str, amount_minor: int) -> Document:
        counterparty = {"paid_out": "Курьер", "deposit": "Инкассация"}.get(kind, "Сейф магазина")
        cash = {"amount_minor": amount_minor, "tender_type": "cash", "counterparty": counterparty}
        return self._heading.head(kind, now_ms) | {"cash": cash}

    # Receipts.

    def _sale(self, _book: ShiftBook, now_ms: int) -> Document:
        lines, discounts = draw_lines(self._rng, self._products)
        payment = draw_tenders(self._rng, due_of(lines))
        training = self._rng.random() < TRAINING_SHARE
        document = self._heading.receipt("sale", now_ms, len(lines)) | ({"flags": ["training"]} if training else {})
        _fill(document, lines, discounts, payment)
        if training:
            return document
        document["fiscal"] = [self._heading.fiscal(FISCAL_RECEIPT, INCOME)]
        if self._rng.random() < REMEMBERED_SHARE:
            self._sold.append(encode(document))
        return document

    def _cancelled(self, _book: ShiftBook, now_ms: int) -> Document:
        """Rung up and never paid: lines and totals, no tenders, no fiscal document."""
        lines, discounts = draw_lines(self._rng, self._products)
        document = self._heading.receipt("cancelled", now_ms, len(lines)) | {"reason_code": "customer_left"}
        _fill(document, lines, discounts, ([], 0))
        return document

    def _return(self, book: ShiftBook, now_ms: int) -> Document:
        original = self._take_sold(book)
        if original is None:
            return self._sale(book, now_ms)
        lines = as_return_lines(self._some_lines(original))
        due_minor = due_of(lines)
        tender_type = _paid_by(original)["tender_type"]
        rounding_minor = -(due_minor % 100) if tender_type == "cash" and due_minor >= 100 else 0
        tender = _paid_by(original) | {"tender_number": 1, "amount_minor": due_minor + rounding_minor}
        document = self._heading.receipt("return", now_ms, len(lines))
        document |= {"original": _reference(original), "reason_code": self._rng.choice(("quality", "not_needed"))}
        _fill(document, lines, [], ([tender], rounding_minor))
        document["fiscal"] = [self._heading.fiscal(FISCAL_RECEIPT, INCOME_REFUND)]
        return document

    def _exchange(self, book: ShiftBook, now_ms: int) -> Document:
        """Goods back and others out: paid or given back is the difference, by card; taxes stand on the lines only."""
        original = self._take_sold(book)
        if original is None:
            return self._sale(book, now_ms)
        lines, discounts = draw_lines(self._rng, self._products)
        lines += as_return_lines(self._some_lines(original), len(lines) + 1)
        total_minor = abs(net_minor(lines))
        document = self._heading.receipt("exchange", now_ms, len(lines))
        document["original"] = _reference(original)
        tenders = [card_tender(self._rng, 1, total_minor)] if total_minor else []
        document |= {"lines": lines, "discounts": discounts, "tenders": tenders}
        document["totals"] = {"total_minor": total_minor}
        document["fiscal"] = [
            self._heading.fiscal(FISCAL_RECEIPT, INCOME_REFUND),
            self._heading.fiscal(FISCAL_RECEIPT, INCOME),
        ]
        return document

    def _post_void(self, book: ShiftBook, now_ms: int) -> Document:
        original = self._take_sold(book)
        if original is None:
            return self._sale(book, now_ms)
        document = self._heading.receipt("post_void", now_ms, 0)
        document |= {"original": _reference(original), "reason_code": "cashier_error"}
        for key in ("lines", "discounts", "tenders", "taxes", "totals"):
            if key in original:
                document[key] = original[key]
        document["fiscal"] = [self._heading.fiscal(FISCAL_RECEIPT, INCOME_REFUND)]
        return document

    def _correction(self, _book: ShiftBook, now_ms: int) -> Document:
        """Money taken earlier without a receipt, registered now."""
        amount_minor = self._rng.randrange(10_000, 300_000, 100)
        line = {"line_number": 1, "name": "Коррекция прихода", "quantity": "1", "extended_minor": amount_minor}
        line["taxes"] = [tax_included(22, amount_minor)]
        document = self._heading.receipt("correction", now_ms, 1)
        document |= {"original": {"business_day": self._heading.business_day}, "reason_code": "unregistered_sale"}
        _fill(document, [line], [], ([cash_tender(self._rng, 1, amount_minor)], 0))
        document["fiscal"] = [self._heading.fiscal(FISCAL_CORRECTION, INCOME)]
        return document

    _shares: ClassVar = (
        (0.020, _return),
        (0.010, _cancelled),
        (0.008, _no_sale),
        (0.004, _x_report),
        (0.003, _paid_in),
        (0.003, _paid_out),
        (0.003, _exchange),
        (0.002, _post_void),
        (0.001, _correction),
    )
    """How often each is drawn; all the rest are sales."""

    # What an earlier sale gives.

    def _take_sold(self, book: ShiftBook) -> Document | None:
        """Return a remembered sale, once; none when there is none or the drawer could not pay it back."""
        if not self._sold:
            return None
        sold: Document = msgspec.json.decode(self._sold[-1])
        if _paid_by(sold)["tender_type"] == "cash" and sold["totals"]["total_minor"] > book.cash_minor:
            return None
        self._sold.pop()
        return sold

    def _some_lines(self, sold: Document) -> list[Block]:
        """One to three of its lines: people seldom bring everything back."""
        bought = [line for line in sold["lines"] if not line.get("voided")]
        return self._rng.sample(bought, min(len(bought), self._rng.randint(1, 3)))


def _fill(document: Document, lines: list[Block], discounts: list[Block], payment: Payment) -> None:
    """Write a receipt's blocks in the order in which they are printed."""
    document["lines"] = lines
    if discounts:
        document["discounts"] = discounts
    document["tenders"], rounding_minor = payment
    document["taxes"] = taxes = sum_taxes(lines)
    document["totals"] = make_totals(lines, taxes, rounding_minor)


def _paid_by(sold: Document) -> Block:
    """Return the last tender, to which money goes back, without what changed hands then."""
    last = sold["tenders"][-1]
    return {key: value for key, value in last.items() if key not in {"tendered_minor", "change_minor"}}


def _reference(sold: Document) -> Block:
    keys = ("document_id", "till_id", "business_day", "receipt_number")
    return {key: sold[key] for key in keys} | {"fiscal_sign": sold["fiscal"][0]["fiscal_sign"]}
