"""Receipts and other documents: searching them by what has an index, and one of them as a person reads it.

No search reads all documents. What narrows nothing that has an index is answered newest first, and only so far back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Path, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from central.cli_base import NUMBER_MAX
from central.days import rows
from central.store_clock import ClockError, a_day
from wire.documents import Document

from .guard import pool_of, requires
from .lists import ONE_MORE, ROWS_PER_PAGE, Column, Empty, Filter, Form, Listed, Shape, Wanted, file
from .render import page
from .words import say

router = APIRouter(include_in_schema=False)

Row = dict[str, Any]
KIND_NAMES = {
    "sale": say("sale"), "return": say("return"), "exchange": say("exchange"), "post_void": say("post void"),
    "cancelled": say("cancelled"), "correction": say("correction"), "paid_in": say("paid in"),
    "paid_out": say("paid out"), "loan": say("loan"), "pickup": say("pickup"), "deposit": say("deposit"),
    "shift_open": say("shift open"), "shift_close": say("shift close"), "x_report": say("X report"),
    "no_sale": say("no sale"),
}  # fmt: skip
TENDER_NAMES = {
    "cash": say("cash"), "card": say("card"), "qr": say("QR code"), "gift_card": say("gift card"),
    "voucher": say("voucher"), "loyalty_points": say("loyalty points"), "prepayment": say("prepayment"),
    "credit": say("credit"), "foreign_cash": say("foreign cash"), "other": say("other"),
}  # fmt: skip
_NAMES: Row = {"kinds": KIND_NAMES, "tenders": TENDER_NAMES}
NUMBER_DIGITS = 15
PAGES_MOST = 200
"""So many pages back a search is followed; whoever wants more takes an export."""
SHAPE = Shape(
    "/receipts",
    say("Receipts"),
    (
        Column("id", say("No."), "count"),
        Column("till_id", say("Till")),
        Column("store_id", say("Store")),
        Column("business_day", say("Business day")),
        Column("kind", say("Type")),
        Column("receipt_number", say("Receipt"), "count"),
        Column("total_minor", say("Sum"), "money"),
        Column("closed_at_ms", say("Closed"), "time"),
        Column("received_at_ms", say("Stored"), "time"),
        Column("currency", say("Currency"), is_hidden=True),
        Column("shift_number", say("Shift"), is_hidden=True),
        Column("document_id", say("Document"), is_hidden=True),
        Column("sequence", say("Number in the stream"), is_hidden=True),
    ),
    (
        Filter("number", say("Receipt number"), kind="number"),
        Filter("till", say("Till")),
        Filter("store", say("Store")),
        Filter("day", say("Business day"), kind="date"),
        Filter("kind", say("Type"), tuple(KIND_NAMES.items())),
        Filter("sum", say("Sum")),
        Filter("document", say("Document's id")),
    ),
)
EMPTY = Empty(say("No document is stored yet."), say("See why none comes from a till"), "/tills")
NEEDS_MORE = Empty(
    say("A type or a sum alone would have to read all documents."),
    say("Name a till, a store or a receipt number, too."),
)
STORE_DAYS = 14
"""A store without a day is searched so many of its newest days back."""
_COLUMNS = (
    "d.id, d.till_id, d.store_id, d.business_day, d.transaction_type, d.receipt_number, d.total_minor, d.closed_at_ms,"
    " d.received_at_ms, d.currency, d.shift_number, d.document_id, d.sequence"
)
_NEWEST_STREAM = "d.stream = (SELECT w.stream FROM watermark w WHERE w.till_id = ? ORDER BY w.id DESC LIMIT 1)"
_STORES_DAYS = "SELECT business_day FROM day WHERE store_id = ? ORDER BY business_day DESC LIMIT ?"


# -- Searching ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Way:
    """How documents are found: which index leads to them, and the order in which it gives them."""

    source: str = "document d"
    clause: str = ""
    values: tuple[object, ...] = ()
    order: str = "d.id DESC"


def way_of(asked: Mapping[str, str]) -> Way | None:
    """Return the way to what was asked, None if no index leads there."""
    if asked["document"] and not asked["till"]:
        return Way("till t JOIN document d ON d.till_id = t.till_id")  # By each till's own index of its ids.
    if asked["till"]:
        is_narrow = asked["day"] or asked["document"] or asked["number"]
        way = Way(order="d.stream, d.sequence DESC")
        return way if is_narrow else Way(clause=_NEWEST_STREAM, values=(asked["till"],), order="d.sequence DESC")
    if asked["store"]:
        own_order = "d.business_day DESC, d.till_id, d.sequence DESC"
        return Way(order=own_order) if asked["day"] else _newest_days_of(asked["store"], own_order)
    if asked["number"]:
        return Way(order="d.business_day DESC")
    if asked["kind"] or asked["sum"]:
        return None
    return Way(order="d.store_id") if asked["day"] else Way()


def _newest_days_of(store_id: str, order: str) -> Way:
    """Name the days one by one: given a list of them the database looks each up in its index, and nothing else."""
    days = [day for (day,) in rows(_STORES_DAYS, store_id, STORE_DAYS)] or ["no day"]
    return Way(clause=f"d.business_day IN ({', '.join('?' * len(days))})", values=tuple(days), order=order)


def search(wanted: Wanted, most: int, skip: int) -> list[Row] | None:
    """Return what fits, in the order of the index that finds it; None if what was asked has none."""
    way = way_of(wanted.chosen)
    if way is None:
        return None
    clauses, values = _clauses(wanted.chosen)
    clauses, values = ([way.clause, *clauses], [*way.values, *values]) if way.clause else (clauses, values)
    where = f" WHERE {' AND '.join(clauses)}" if clauses else ""
    statement = f"SELECT {_COLUMNS} FROM {way.source}{where} ORDER BY {way.order} LIMIT ? OFFSET ?"
    names = [column.key for column in SHAPE.columns]
    return [dict(zip(names, row, strict=True)) for row in rows(statement, *values, most, skip)]


def _clauses(asked: Mapping[str, str]) -> tuple[list[str], list[object]]:
    """Return the conditions, and their values; what cannot be read as a number, a sum or a day fits nothing."""
    pairs: tuple[tuple[str, Callable[[str], object], str], ...] = (
        ("d.document_id = ?", str, "document"),
        ("d.till_id = ?", str, "till"),
        ("d.store_id = ?", str, "store"),
        ("d.business_day = ?", _day, "day"),
        ("d.transaction_type = ?", str, "kind"),
        ("d.receipt_number = ?", _whole, "number"),
        ("d.total_minor = ?", _minor, "sum"),
    )
    given = [(clause, read(asked[name])) for clause, read, name in pairs if asked[name]]
    return [clause for clause, _ in given], [value for _, value in given]


def _day(text: str) -> str:
    try:
        return a_day(text)
    except ClockError:
        return "no day"


def _whole(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= NUMBER_DIGITS else -1


def _minor(text: str) -> int:
    """Return a sum that was typed, such as 1 234.50 or 1234,5, in minor units; -1 for what is none."""
    plain = text.replace(",", ".").replace(" ", "").replace("\u202f", "").replace("\xa0", "")
    try:
        value = Decimal(plain) * 100
    except InvalidOperation:
        return -1
    return int(value) if value.is_finite() and 0 <= value < 10**NUMBER_DIGITS and value == int(value) else -1


# -- The list ----------------------------------------------------------------------------------------------------------


@router.get("/receipts", dependencies=[requires("documents.see")])
def show(request: Request) -> Response:
    """Show what was searched for, or the newest documents."""
    wanted = Wanted.of(SHAPE, request)
    skip = (min(wanted.page, PAGES_MOST) - 1) * ROWS_PER_PAGE
    with pool_of(request).reading():
        found = search(wanted, ROWS_PER_PAGE + 1, skip)
    listed = Listed(wanted, (found or [])[:ROWS_PER_PAGE], None, len(found or ()) > ROWS_PER_PAGE)
    return page(request, "receipts.html", listed=listed, empty=EMPTY, needs_more=found is None and NEEDS_MORE, **_NAMES)


@router.get("/receipts.{form}", dependencies=[requires("documents.see")])
def as_file(request: Request, form: Form) -> Response:
    """Return what was searched for as a file, without the documents' bytes."""
    wanted = Wanted.of(SHAPE, request)
    with pool_of(request).reading():
        found = search(wanted, ONE_MORE, 0)
    return file(SHAPE, found or [], form)


# -- One of them -------------------------------------------------------------------------------------------------------

_ONE = (
    "SELECT d.id, d.till_id, d.stream, d.sequence, d.document_id, d.transaction_type, d.store_id, d.business_day,"
    " d.shift_number, d.receipt_number, d.closed_at_ms, d.currency, d.total_minor, d.is_training, d.received_at_ms,"
    " d.body, d.body_digest IS NOT NULL FROM document d WHERE d.id = ?"
)
_ONE_NAMES = (
    "id", "till_id", "stream", "sequence", "document_id", "kind", "store_id", "business_day", "shift_number",
    "receipt_number", "closed_at_ms", "currency", "total_minor", "is_training", "received_at_ms", "body",
    "is_forgotten",
)  # fmt: skip
_AGAIN = "SELECT stream, sequence FROM held_before WHERE till_id = ? AND in_stream = ? AND in_sequence = ? LIMIT 20"
_CONSUMERS = (
    "SELECT c.name, c.acknowledged >= ? FROM consumer c, central n WHERE c.incarnation = n.incarnation ORDER BY c.name"
)


@router.get("/receipts/{number}", dependencies=[requires("documents.see")])
def show_one(request: Request, number: Annotated[int, Path(ge=1, le=NUMBER_MAX)]) -> Response:
    """Show a document as a person reads it, its exact bytes, and its way here."""
    with pool_of(request).reading():
        found = rows(_ONE, number)
        if not found:
            raise HTTPException(404, f"no document has number {number}")
        one = dict(zip(_ONE_NAMES, found[0], strict=True))
        again = rows(_AGAIN, one["till_id"], one["stream"], one["sequence"])
        consumers = rows(_CONSUMERS, number)
    body = bytes(one.pop("body"))
    told: Row = {"one": one, "document": _read(body), "again": again, "consumers": consumers}
    told["exact"] = None if one["is_forgotten"] else body.decode("utf-8", "backslashreplace")
    return page(request, "receipt.html", polls=False, **told, **_NAMES)


def _read(body: bytes) -> Document | None:
    """Return the document that the bytes are; None where they were forgotten."""
    try:
        return msgspec.json.decode(body, type=Document)
    except msgspec.MsgspecError:
        return None
