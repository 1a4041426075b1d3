"""Judges a document's bytes: a row for the database, or the reason why it goes to quarantine. Pure.

A document is judged once, here. What is refused keeps its number and its exact bytes; it never blocks the rest.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from typing import Any, Literal

import msgspec

from wire import card_number
from wire.documents import (
    CASH_TYPES,
    DOCUMENT_ID_MAX,
    RECEIPT_TYPES,
    SHIFT_TYPES,
    TENDER_TYPES,
    TRANSACTION_TYPES,
    Document,
    Oversize,
    Raw,
    Shift,
)

Code = Literal[
    "bad_json", "bad_schema", "totals_mismatch", "tenders_mismatch", "taxes_mismatch",
    "shift_mismatch", "card_number", "wrong_till", "too_large", "conflict", "unstorable",
]  # fmt: skip


class Accepted(msgspec.Struct, gc=False, frozen=True):
    """What people search a document by; ``total_minor`` is what was paid or moved, None where nothing was."""

    document_id: str
    transaction_type: str
    store_id: str
    business_day: str
    shift_number: int | None
    receipt_number: int | None
    closed_at_ms: int
    currency: str
    total_minor: int | None
    is_training: bool


class Refused(msgspec.Struct, gc=False, frozen=True):
    """Why a document goes to quarantine; the reason names the field and the limit."""

    document_id: str
    code: Code
    reason: str


class _Named(msgspec.Struct):
    document_id: Any = None


REASON_MAX = 300
"""How much of a reason is kept: it may quote the document, whose bytes stand beside it."""

NAME_SHOWN = 64
_Way = tuple[str | int, "_Way | None"]
"""A step on the way to a value, and the way to where it was taken: a list's index, or a name."""

_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_decode_document = msgspec.json.Decoder(Document).decode
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = (datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC) - _EPOCH) / 1000


def judge(till: str, body: bytes) -> Accepted | Refused:
    """Return what becomes of a document that this till sent."""
    try:
        document = _decode_document(body)
        body.decode()  # Fields that are not known are passed over unread, and may be no UTF-8.
    except msgspec.ValidationError as problem:
        return _refuse_shape(body, str(problem)[:REASON_MAX])
    except _UNREADABLE as problem:
        return Refused("", "bad_json", str(problem)[:REASON_MAX])
    # One byte is looked for many times as fast as two, and most documents have no backslash at all.
    if b"\\" in body and b"\\u" in body and (unclean := _unclean_text(body)):
        return Refused(_document_id(body), *unclean)
    try:
        closed_at_ms = (datetime.fromisoformat(document.closed_at) - _EPOCH) // _MILLISECOND
        date.fromisoformat(document.business_day)
    except (ValueError, OverflowError) as problem:
        return Refused(document.document_id, "bad_schema", f"closed_at or business_day: {problem}")
    if document.till_id is not None and document.till_id != till:
        return Refused(document.document_id, "wrong_till", f"till_id is {document.till_id}, it came from {till}")
    return (
        _check_decimals(document)
        or _check_type(document)
        or Accepted(
            document.document_id,
            document.transaction_type,
            document.store_id,
            document.business_day,
            document.shift_number,
            document.receipt_number,
            closed_at_ms,
            document.currency,
            _total_minor(document),
            "training" in document.flags,
        )
    )


def _total_minor(document: Document) -> int | None:
    if document.transaction_type in CASH_TYPES:
        return document.cash.amount_minor if document.cash else None
    return document.totals.total_minor if document.totals else None


# -- Numbers -----------------------------------------------------------------------------------------------------------

_DECIMALS = re.compile(r"(?:-?[0-9]{1,15}+(?:\.[0-9]{1,6}+)?+\n)*+")
"""Possessive: what matched once is not tried in other ways, which takes half the time."""


def _check_decimals(document: Document) -> Refused | None:
    """Check all decimal texts of a document in one match; a line break within one must not pass for two."""
    texts = _decimal_texts(document)
    joined = "\n".join([*texts, ""])
    if joined.count("\n") == len(texts) and _DECIMALS.fullmatch(joined):
        return None
    wrong = next(text for text in texts if "\n" in text or not _DECIMALS.fullmatch(text + "\n"))
    return Refused(document.document_id, "bad_schema", f"a quantity, price or rate is no decimal number: {wrong!r}")


def _decimal_texts(document: Document) -> list[str]:
    texts: list[str] = []
    rates: list[str | None] = [discount.rate for discount in document.discounts]
    for line in document.lines:
        texts += line.quantity, line.unit_price
        for tax in line.taxes:
            rates.append(tax.rate)  # noqa: PERF401  # A list of each line's own would cost a call.
    rates += [tax.rate for tax in document.taxes]
    return texts + [rate for rate in rates if rate is not None]


# -- What each type needs ---------------------------------------------------------------------------------------------


def _check_type(document: Document) -> Refused | None:
    kind = document.transaction_type
    if kind in RECEIPT_TYPES:
        return _check_sums(document) or _check_card_numbers(document)
    if kind in CASH_TYPES and document.cash is None:
        return Refused(document.document_id, "bad_schema", f"a {kind} needs cash.amount_minor")
    if kind in SHIFT_TYPES:
        return _check_shift(document)
    return None


def _check_card_numbers(document: Document) -> Refused | None:
    """Catch what a till should have masked: nobody may find it in a report."""
    for tender in document.tenders:
        for name in ("masked_pan", "rrn", "auth_code"):
            text = getattr(tender, name)
            if len(text) >= card_number.DIGITS_MIN and card_number.mask(text)[1]:
                where = f"tender {tender.tender_number}, {name}"
                return Refused(document.document_id, "card_number", f"a card number that is not masked: {where}")
    return None


def _check_shift(document: Document) -> Refused | None:
    """Check that a shift document can be reconciled; whether its sums are right is a matter of the day."""
    kind, shift = document.transaction_type, document.shift
    if document.shift_number is None:
        return Refused(document.document_id, "shift_mismatch", f"a {kind} needs shift_number")
    if shift is None:
        return (
            Refused(document.document_id, "shift_mismatch", "a shift_close needs shift, the sums to be checked")
            if kind == "shift_close"
            else None
        )
    wrong = _wrong_shift(shift)
    return Refused(document.document_id, "shift_mismatch", wrong) if wrong else None


def _wrong_shift(shift: Shift) -> str | None:
    first, last = shift.first_receipt_number, shift.last_receipt_number
    if first is not None and last is not None and first > last:
        return f"shift.first_receipt_number {first} is above shift.last_receipt_number {last}"
    for name in shift.by_type:
        if name not in TRANSACTION_TYPES:
            return f"shift.by_type.{name} is no transaction type"
    for name in shift.by_tender:
        kind, _, tender = name.partition(".")
        if kind not in RECEIPT_TYPES or tender not in TENDER_TYPES:
            return f"shift.by_tender.{name} is not <receipt type>.<tender type>"
    for name in shift.by_tax:
        kind, _, tax_id = name.partition(".")
        if kind not in RECEIPT_TYPES or not tax_id:
            return f"shift.by_tax.{name} is not <receipt type>.<tax id>"
    return None


# -- Sums --------------------------------------------------------------------------------------------------------------


def _check_sums(document: Document) -> Refused | None:
    totals = document.totals
    if totals is None:
        return Refused(document.document_id, "bad_schema", f"a {document.transaction_type} needs totals")
    lines = _lines_minor(document) + totals.rounding_minor
    if lines != totals.total_minor:
        return Refused(
            document.document_id,
            "totals_mismatch",
            f"totals.total_minor is {totals.total_minor}, lines and rounding make {lines}",
        )
    tendered = sum(tender.amount_minor for tender in document.tenders if not tender.voided)
    if tendered != totals.total_minor:
        return Refused(
            document.document_id,
            "tenders_mismatch",
            f"totals.total_minor is {totals.total_minor}, tenders make {tendered}",
        )
    return _check_taxes(document)


def _lines_minor(document: Document) -> int:
    """Return the sum of the unvoided lines; in an exchange what is returned counts against what is sold."""
    if document.transaction_type != "exchange":
        return sum(line.extended_minor for line in document.lines if not line.voided)
    signed = (line.extended_minor * (-1 if line.kind == "return" else 1) for line in document.lines if not line.voided)
    return abs(sum(signed))


def _check_taxes(document: Document) -> Refused | None:
    """Let each line round its own tax: receipt and lines may differ by one minor unit a line."""
    taxed = [line for line in document.lines if line.taxes and not line.voided]
    if not taxed or not document.taxes or document.transaction_type == "exchange":
        return None
    of_lines = sum(tax.amount_minor for line in taxed for tax in line.taxes)
    of_receipt = sum(tax.amount_minor for tax in document.taxes)
    if abs(of_lines - of_receipt) <= len(taxed):
        return None
    return Refused(document.document_id, "taxes_mismatch", f"taxes make {of_receipt}, the lines' taxes {of_lines}")


# -- What is no document -----------------------------------------------------------------------------------------------


def _refuse_shape(body: bytes, problem: str) -> Refused:
    """Name what the till itself put in the document's place, or the field that is wrong."""
    try:
        return _refuse_stand_in(msgspec.json.decode(body, type=Raw))
    except _UNREADABLE:
        pass
    try:
        return _refuse_stand_in(msgspec.json.decode(body, type=Oversize))
    except _UNREADABLE:
        return Refused(_document_id(body), "bad_schema", problem)


def _refuse_stand_in(stands: Raw | Oversize) -> Refused:
    if isinstance(stands, Raw):
        reason = f"no JSON object was handed over but {len(stands.raw)} other bytes"
        return Refused(stands.document_id, "bad_json", reason)
    reason = f"{stands.oversize_bytes} bytes, over document_limit_bytes; the till keeps them as {stands.blake2b}"
    return Refused(stands.document_id, "too_large", reason)


def _document_id(body: bytes) -> str:
    """Return the id if it can stand in a column, else nothing."""
    try:
        name = msgspec.json.decode(body, type=_Named).document_id
    except _UNREADABLE:
        return ""
    return name if isinstance(name, str) and len(name) <= DOCUMENT_ID_MAX and "\0" not in name else ""


def _unclean_text(body: bytes) -> tuple[Code, str] | None:
    r"""Find text that a database would choke on: NUL, and halves of a UTF-16 pair, both only possible as \u escapes."""
    try:
        value = msgspec.json.decode(body)
    except _UNREADABLE as problem:
        return "bad_json", str(problem)
    where = _find_nul(value)
    return ("bad_schema", f"a NUL character in {where}"[:REASON_MAX]) if where else None


def _find_nul(value: Any) -> str | None:
    """Return where the first NUL is; a list of what is left, not recursion: a document may be nested deeply.

    What is left holds the way to it as links: as texts, a long name before a long list would fill the memory.
    """
    left: list[tuple[Any, _Way]] = [(value, ("$", None))]
    while left:
        item, way = left.pop()
        if isinstance(item, str):
            if "\0" in item:
                return _told(way)
        elif isinstance(item, dict):
            left += [(inner, (f".{key[:NAME_SHOWN]}", way)) for key, inner in item.items()]
            left += [(key, (".<key>", way)) for key in item]
        elif isinstance(item, list):
            left += [(inner, (index, way)) for index, inner in enumerate(item)]
    return None


def _told(way: _Way | None) -> str:
    steps: list[str] = []
    while way is not None:
        step, way = way
        steps.append(step if isinstance(step, str) else f"[{step}]")
    return "".join(reversed(steps))
