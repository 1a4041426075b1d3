"""Owns the parts of one receipt: lines, discounts, taxes, tenders and the sums that hold them together."""

from __future__ import annotations

from base64 import b64encode
from random import Random
from typing import Any

from fleet.catalogue import Product, pick

Block = dict[str, Any]
Payment = tuple[list[Block], int]
"""Tenders, and the rounding that lets them meet the lines."""

LINES_MEDIAN_LOG, LINES_SPREAD, LINES_MAX = 1.54, 0.86, 80
VOIDED_LINE_SHARE, LINE_DISCOUNT_SHARE, BASKET_DISCOUNT_SHARE = 0.012, 0.1, 0.2
MARK_ALPHABET = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789"
MARK_SERIAL_LENGTH, MARK_CHECK_LENGTH = 13, 4
BANKNOTES_MINOR = (100, 5_000, 10_000, 50_000, 100_000, 500_000)
GRAMS_LEAST, GRAMS_MOST = 60, 5_000


def draw_lines(rng: Random, products: tuple[Product, ...]) -> tuple[list[Block], list[Block]]:
    """Return a basket's lines and its discounts; at least one line is not voided."""
    count = min(LINES_MAX, max(1, int(rng.lognormvariate(LINES_MEDIAN_LOG, LINES_SPREAD))))
    basket_percent = rng.choice((3, 5, 7)) if rng.random() < BASKET_DISCOUNT_SHARE else 0
    lines: list[Block] = []
    discounts: list[Block] = []
    shares_minor = 0
    for number in range(1, count + 1):
        voided = number > 1 and rng.random() < VOIDED_LINE_SHARE
        percent = rng.choice((10, 15, 20, 30)) if not voided and rng.random() < LINE_DISCOUNT_SHARE else 0
        percents = (percent, 0 if voided else basket_percent)
        line, line_discount_minor, share_minor = _line(rng, number, pick(rng, products), percents)
        if voided:
            line["voided"] = True
        lines.append(line)
        shares_minor += share_minor
        if line_discount_minor:
            discounts.append(_line_discount(number, percent, line_discount_minor))
    if shares_minor:
        discounts.append(_basket_discount(basket_percent, shares_minor))
    return lines, discounts


def _line(rng: Random, number: int, product: Product, percents: tuple[int, int]) -> tuple[Block, int, int]:
    """Return a line, its own discount and its share of the basket's; each of them rounded down."""
    quantity, gross_minor = _weighed(rng, product) if product.weighed else _pieces(rng, product)
    line_discount_minor = gross_minor * percents[0] // 100
    share_minor = (gross_minor - line_discount_minor) * percents[1] // 100
    extended_minor = gross_minor - line_discount_minor - share_minor
    line: Block = {
        "line_number": number,
        "item_id": product.item_id,
        "gtin": product.gtin,
        "entry_method": "weighed" if product.weighed else "scanned",
        "name": product.name,
        "department": product.department,
        "quantity": quantity,
        "unit_code": "KGM" if product.weighed else "PCE",
        "unit_price": product.unit_price,
    }
    if line_discount_minor or share_minor:
        line["discount_minor"] = line_discount_minor + share_minor
    line["extended_minor"] = extended_minor
    line["taxes"] = [tax_included(product.vat, extended_minor)]
    if product.marked:
        line["marks"] = [_mark(rng, product.gtin)]
    return line, line_discount_minor, share_minor


def _weighed(rng: Random, product: Product) -> tuple[str, int]:
    grams = min(GRAMS_MOST, max(GRAMS_LEAST, int(rng.lognormvariate(6.4, 0.6))))
    return f"{grams // 1000}.{grams % 1000:03d}", (product.price_minor * grams + 500) // 1000


def _pieces(rng: Random, product: Product) -> tuple[str, int]:
    """Sell some pieces; a marked product goes one by one, as each piece has its own code."""
    pieces = 1 if product.marked or rng.random() < 0.82 else rng.choice((2, 2, 2, 3, 3, 4, 6))
    return str(pieces), product.price_minor * pieces


def tax_included(rate: int, extended_minor: int) -> Block:
    """Return the tax block of an amount that includes the tax, rounded half up."""
    divisor = 100 + rate
    amount_minor = (2 * extended_minor * rate + divisor) // (2 * divisor)
    return {"tax_id": f"vat{rate}", "rate": str(rate), "amount_minor": amount_minor}


def _mark(rng: Random, gtin: str) -> Block:
    """GS1 application identifiers 01, 21 and 93, with the group separator that makes base64 necessary."""
    serial = "".join(rng.choices(MARK_ALPHABET, k=MARK_SERIAL_LENGTH))
    check = "".join(rng.choices(MARK_ALPHABET, k=MARK_CHECK_LENGTH))
    code = b64encode(f"010{gtin}21{serial}\x1d93{check}".encode()).decode()
    return {"code": code, "gtin": gtin, "serial": serial}


def _line_discount(number: int, percent: int, amount_minor: int) -> Block:
    return {
        "scope": "line",
        "line_number": number,
        "kind": "percent",
        "rate": str(percent),
        "amount_minor": amount_minor,
        "promotion_id": f"shelf-{percent}",
    }


def _basket_discount(percent: int, amount_minor: int) -> Block:
    return {
        "scope": "basket",
        "kind": "percent",
        "rate": str(percent),
        "amount_minor": amount_minor,
        "promotion_id": "loyalty",
    }


def draw_tenders(rng: Random, due_minor: int) -> Payment:
    """Return how a sale is paid and the rounding: all-cash receipts are rounded down to whole rubles."""
    draw = rng.random()
    if draw < 0.27 and due_minor >= 100:
        rounding_minor = -(due_minor % 100)
        return [cash_tender(rng, 1, due_minor + rounding_minor)], rounding_minor
    if draw < 0.85:
        return _card_tenders(rng, due_minor), 0
    if draw < 0.95:
        return [{"tender_number": 1, "tender_type": "qr", "amount_minor": due_minor, "rrn": _digits(rng, 12)}], 0
    return _split_tenders(rng, due_minor), 0


def cash_tender(rng: Random, number: int, amount_minor: int) -> Block:
    """Return a cash payment made with banknotes, and its change."""
    note_minor = rng.choice(BANKNOTES_MINOR)
    tendered_minor = -(-amount_minor // note_minor) * note_minor
    return {
        "tender_number": number,
        "tender_type": "cash",
        "amount_minor": amount_minor,
        "tendered_minor": tendered_minor,
        "change_minor": tendered_minor - amount_minor,
    }


def card_tender(rng: Random, number: int, amount_minor: int) -> Block:
    """Return a card payment; the card's number is masked, as it must be."""
    return {
        "tender_number": number,
        "tender_type": "card",
        "amount_minor": amount_minor,
        "masked_pan": f"22{_digits(rng, 4)}******{_digits(rng, 4)}",
        "rrn": _digits(rng, 12),
        "auth_code": _digits(rng, 6),
    }


def _card_tenders(rng: Random, due_minor: int) -> list[Block]:
    """Now and then the first card is declined: its tender stays, voided."""
    if rng.random() >= 0.01:
        return [card_tender(rng, 1, due_minor)]
    declined = {"tender_number": 1, "tender_type": "card", "amount_minor": due_minor, "voided": True}
    return [declined, card_tender(rng, 2, due_minor)]


def _split_tenders(rng: Random, due_minor: int) -> list[Block]:
    """Part by other means, the rest by card."""
    part_minor = int(due_minor * rng.uniform(0.1, 0.7)) // 100 * 100
    if not part_minor:
        return _card_tenders(rng, due_minor)
    tender_type = rng.choice(("cash", "cash", "gift_card", "loyalty_points"))
    part: Block = {"tender_number": 1, "tender_type": tender_type, "amount_minor": part_minor}
    first = cash_tender(rng, 1, part_minor) if tender_type == "cash" else part
    return [first, card_tender(rng, 2, due_minor - part_minor)]


def _digits(rng: Random, length: int) -> str:
    return f"{rng.randrange(10**length):0{length}d}"


def sum_taxes(lines: list[Block]) -> list[Block]:
    """Return the receipt's taxes: its unvoided lines' taxes, added up by tax; ``taxable_minor`` is without the tax."""
    sums: dict[str, Block] = {}
    for line in lines:
        if line.get("voided"):
            continue
        for tax in line["taxes"]:
            one = sums.get(tax["tax_id"])
            if one is None:
                rated = {"tax_id": tax["tax_id"], "rate": tax["rate"]}
                one = sums[tax["tax_id"]] = {**rated, "taxable_minor": 0, "amount_minor": 0}
            one["taxable_minor"] += line["extended_minor"] - tax["amount_minor"]
            one["amount_minor"] += tax["amount_minor"]
    return [sums[tax_id] for tax_id in sorted(sums)]


def due_of(lines: list[Block]) -> int:
    """Return the sum of the unvoided lines."""
    return sum(line["extended_minor"] for line in lines if not line.get("voided"))


def make_totals(lines: list[Block], taxes: list[Block], rounding_minor: int) -> Block:
    """Return the receipt's sums; gross is before discounts."""
    discount_minor = sum(line.get("discount_minor", 0) for line in lines if not line.get("voided"))
    return {
        "gross_minor": due_of(lines) + discount_minor,
        "discount_minor": discount_minor,
        "tax_minor": sum(tax["amount_minor"] for tax in taxes),
        "rounding_minor": rounding_minor,
        "total_minor": due_of(lines) + rounding_minor,
    }


def as_return_lines(lines: list[Block], first_number: int = 1) -> list[Block]:
    """Return these lines as lines given back, numbered anew; the marks stay, the buyer brings the goods themselves."""
    returned = []
    for number, line in enumerate(lines, first_number):
        rest = {key: value for key, value in line.items() if key != "line_number"}
        returned.append({"line_number": number, "kind": "return", **rest})
    return returned
