"""Owns a simulated POS that keeps its documents in a database of its own: its tables, its codes, its books.

Nothing here knows the document schema's names for the tables' columns: what they mean is said in the mappings under
docs/intake only. The books are entered from what was rung up, so that a proof shares no code with a mapping.
"""

from __future__ import annotations

import sqlite3
from base64 import b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fleet.baskets import Document, encode
from fleet.ledger import Ledger, Sums, add_up, enter

KINDS: Mapping[str, int] = MappingProxyType(
    {
        "sale": 1, "return": 2, "exchange": 3, "post_void": 4, "cancelled": 5, "correction": 6,
        "paid_in": 10, "paid_out": 11, "loan": 12, "pickup": 13, "deposit": 14,
        "shift_open": 20, "shift_close": 21, "x_report": 22, "no_sale": 30,
    }
)  # fmt: skip
PAYMENTS: Mapping[str, int] = MappingProxyType({"cash": 0, "card": 1, "qr": 2, "gift_card": 3, "loyalty_points": 4})

_TABLES = """
CREATE TABLE shift (number INTEGER PRIMARY KEY, business_date DATE NOT NULL, cashier VARCHAR(20), name VARCHAR(100));
CREATE TABLE receipt (
  id {key}, uuid CHAR(36) NOT NULL, kind INTEGER NOT NULL, status VARCHAR(10) NOT NULL, shift_number INTEGER NOT NULL,
  number INTEGER, opened {moment}, closed {moment}, gross DECIMAL(12,2), discount DECIMAL(12,2), vat DECIMAL(12,2),
  rounding DECIMAL(12,2), total DECIMAL(12,2), reason VARCHAR(40), training INTEGER NOT NULL, partner VARCHAR(100),
  of_uuid CHAR(36), of_till VARCHAR(64), of_date DATE, of_number INTEGER, of_sign VARCHAR(20));
CREATE TABLE receipt_line (
  receipt_id BIGINT NOT NULL, position INTEGER NOT NULL, is_return INTEGER NOT NULL, is_void INTEGER NOT NULL,
  sku VARCHAR(20), barcode VARCHAR(20), entry VARCHAR(20), name VARCHAR(200), department VARCHAR(10),
  quantity DECIMAL(12,3) NOT NULL, unit VARCHAR(10), price DECIMAL(12,2), discount DECIMAL(12,2),
  amount DECIMAL(12,2) NOT NULL, vat_code VARCHAR(10), vat_rate DECIMAL(5,2), vat DECIMAL(12,2),
  mark {bytes}, mark_gtin VARCHAR(20), mark_serial VARCHAR(30), PRIMARY KEY (receipt_id, position));
CREATE TABLE receipt_discount (
  receipt_id BIGINT NOT NULL, position INTEGER NOT NULL, line INTEGER, percent DECIMAL(5,2),
  amount DECIMAL(12,2) NOT NULL, promotion VARCHAR(40), PRIMARY KEY (receipt_id, position));
CREATE TABLE payment (
  receipt_id BIGINT NOT NULL, position INTEGER NOT NULL, kind INTEGER NOT NULL, amount DECIMAL(12,2) NOT NULL,
  given DECIMAL(12,2), change_given DECIMAL(12,2), is_void INTEGER NOT NULL, card VARCHAR(30), rrn VARCHAR(20),
  auth VARCHAR(20), PRIMARY KEY (receipt_id, position));
CREATE TABLE receipt_vat (
  receipt_id BIGINT NOT NULL, code VARCHAR(10) NOT NULL, rate DECIMAL(5,2), base DECIMAL(12,2),
  amount DECIMAL(12,2) NOT NULL, PRIMARY KEY (receipt_id, code));
CREATE TABLE fiscal_slip (
  receipt_id BIGINT NOT NULL, position INTEGER NOT NULL, format VARCHAR(10), code INTEGER, drive VARCHAR(20),
  number VARCHAR(20), sign VARCHAR(20), registration VARCHAR(20), serial VARCHAR(20), inn VARCHAR(12),
  taxation INTEGER, operation INTEGER, PRIMARY KEY (receipt_id, position));
CREATE TABLE report (
  receipt_id BIGINT PRIMARY KEY, opened {moment}, first_number INTEGER, last_number INTEGER, float_sum DECIMAL(12,2),
  expected DECIMAL(12,2), counted DECIMAL(12,2));
CREATE TABLE report_sum (
  receipt_id BIGINT NOT NULL, section CHAR(1) NOT NULL, kind INTEGER NOT NULL, code VARCHAR(10) NOT NULL,
  documents INTEGER NOT NULL, amount DECIMAL(12,2) NOT NULL, PRIMARY KEY (receipt_id, section, kind, code))
"""


@dataclass(frozen=True, slots=True)
class Engine:
    """A kind of database: how to connect, and how it writes what differs."""

    connect: Callable[[], Any]
    """Returns a connection in which a transaction is open until commit."""
    mark: str
    types: Mapping[str, str]
    writes_together: bool
    """Whether a second transaction may write before the first has committed."""


def sqlite(path: Path) -> Engine:
    """Return SQLite: one writer at a time."""
    types = {"key": "INTEGER PRIMARY KEY AUTOINCREMENT", "moment": "TEXT", "bytes": "BLOB"}
    return Engine(lambda: sqlite3.connect(path, timeout=10), "?", types, writes_together=False)


def mariadb(**login: Any) -> Engine:
    """Return MariaDB, where keys are handed out before the transactions commit; ``login`` is PyMySQL's."""
    import pymysql  # type: ignore[import-untyped]

    types = {"key": "BIGINT AUTO_INCREMENT PRIMARY KEY", "moment": "DATETIME(3)", "bytes": "VARBINARY(255)"}
    return Engine(lambda: pymysql.connect(charset="utf8mb4", **login), "%s", types, writes_together=True)


class Late:
    """A document that has its key and is not committed yet: nobody else sees it."""

    def __init__(self, connection: Any, key: int, on_committed: Callable[[], None]) -> None:
        self.key = key
        self._connection, self._on_committed = connection, on_committed

    def commit(self) -> None:
        """Commit it now."""
        self._connection.commit()
        self._connection.close()
        self._on_committed()

    def roll_back(self) -> None:
        """Give it up: its key is never used."""
        self._connection.rollback()
        self._connection.close()


class PosDatabase:
    """One till's POS software with its database and its books."""

    def __init__(self, engine: Engine, books: Ledger) -> None:
        self._engine, self._books = engine, books
        self._connection = engine.connect()
        self._half: dict[int, Document] = {}

    def make_tables(self) -> None:
        """Make the tables of a new database."""
        for statement in _TABLES.format(**self._engine.types).split(";"):
            self._connection.cursor().execute(statement)
        self._connection.commit()

    def close(self, document: Document) -> int:
        """Close a document and return its key; committed when this returns."""
        key = self._write(self._connection, document, "closed")
        self._connection.commit()
        self._enter(document)
        return key

    def open(self, document: Document) -> int:
        """Begin a document: its row is there, committed, and is not closed yet; return its key."""
        key = self._write(self._connection, document, "open")
        self._connection.commit()
        self._half[key] = document
        return key

    def finish(self, key: int) -> None:
        """Close a document that was begun."""
        self._run(self._connection, f"UPDATE receipt SET status = 'closed' WHERE id = {self._engine.mark}", (key,))
        self._connection.commit()
        self._enter(self._half.pop(key))

    def close_late(self, document: Document) -> Late:
        """Write a document in a transaction of its own that is not committed yet."""
        if not self._engine.writes_together:
            raise ValueError("this database has one writer at a time; use open() and finish()")
        connection = self._engine.connect()
        return Late(connection, self._write(connection, document, "closed"), lambda: self._enter(document))

    def sums(self) -> Sums:
        """Return documents and money by type, as the books have them."""
        return add_up(self._books.entries())

    def execute(self, statement: str) -> None:
        """Do anything to the database, as an administrator would."""
        self._connection.cursor().execute(statement)
        self._connection.commit()

    def disconnect(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _enter(self, document: Document) -> None:
        self._books.append(enter(document, encode(document)))

    # -- Rows ------------------------------------------------------------------------------------------------------

    def _write(self, connection: Any, document: Document, status: str) -> int:
        self._write_shift(connection, document)
        key = self._insert(connection, "receipt", _head(document) | {"status": status})
        for table, rows in _parts(document).items():
            for row in rows:
                self._insert(connection, table, {"receipt_id": key, **row})
        return key

    def _write_shift(self, connection: Any, document: Document) -> None:
        if document["transaction_type"] != "shift_open":
            return
        operator = document["operator"]
        row = {"number": document["shift_number"], "business_date": document["business_day"]}
        self._insert(connection, "shift", row | {"cashier": operator["operator_id"], "name": operator["name"]})

    def _insert(self, connection: Any, table: str, row: Mapping[str, Any]) -> int:
        marks = ", ".join([self._engine.mark] * len(row))
        cursor = self._run(connection, f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", tuple(row.values()))
        return int(cursor.lastrowid or 0)

    def _run(self, connection: Any, statement: str, values: tuple[Any, ...]) -> Any:
        cursor = connection.cursor()
        cursor.execute(statement, values)
        return cursor


def _head(document: Document) -> dict[str, Any]:
    totals, cash = document.get("totals", {}), document.get("cash", {})
    original = document.get("original", {})
    return {
        "uuid": document["document_id"],
        "kind": KINDS[document["transaction_type"]],
        "shift_number": document["shift_number"],
        "number": document.get("receipt_number"),
        "opened": _local(document.get("opened_at")),
        "closed": _local(document["closed_at"]),
        "gross": _money(totals.get("gross_minor")),
        "discount": _money(totals.get("discount_minor")),
        "vat": _money(totals.get("tax_minor")),
        "rounding": _money(totals.get("rounding_minor")),
        "total": _money(totals.get("total_minor", cash.get("amount_minor"))),
        "reason": document.get("reason_code"),
        "training": int("training" in document.get("flags", ())),
        "partner": cash.get("counterparty"),
        "of_uuid": original.get("document_id"),
        "of_till": original.get("till_id"),
        "of_date": original.get("business_day"),
        "of_number": original.get("receipt_number"),
        "of_sign": original.get("fiscal_sign"),
    }


def _parts(document: Document) -> dict[str, list[dict[str, Any]]]:
    shift = document.get("shift")
    return {
        "receipt_line": [_line(line) for line in document.get("lines", ())],
        "receipt_discount": [_discount(one, place) for place, one in enumerate(document.get("discounts", ()), 1)],
        "payment": [_payment(tender) for tender in document.get("tenders", ())],
        "receipt_vat": [_vat(tax) for tax in document.get("taxes", ())],
        "fiscal_slip": [_slip(block, place) for place, block in enumerate(document.get("fiscal", ()), 1)],
        "report": [_report(shift)] if shift else [],
        "report_sum": _report_sums(shift) if shift else [],
    }


def _line(line: dict[str, Any]) -> dict[str, Any]:
    (tax,) = line["taxes"]
    mark = line.get("marks", [{}])[0]
    return {
        "position": line["line_number"],
        "is_return": int(line.get("kind") == "return"),
        "is_void": int(line.get("voided", False)),
        "sku": line.get("item_id"),
        "barcode": line.get("gtin"),
        "entry": line.get("entry_method"),
        "name": line.get("name"),
        "department": line.get("department"),
        "quantity": line["quantity"],
        "unit": line.get("unit_code"),
        "price": line.get("unit_price"),
        "discount": _money(line.get("discount_minor")),
        "amount": _money(line["extended_minor"]),
        "vat_code": tax["tax_id"],
        "vat_rate": tax["rate"],
        "vat": _money(tax["amount_minor"]),
        "mark": b64decode(mark["code"]) if mark else None,
        "mark_gtin": mark.get("gtin"),
        "mark_serial": mark.get("serial"),
    }


def _discount(discount: dict[str, Any], place: int) -> dict[str, Any]:
    return {
        "position": place,
        "line": discount.get("line_number"),
        "percent": discount["rate"],
        "amount": _money(discount["amount_minor"]),
        "promotion": discount["promotion_id"],
    }


def _payment(tender: dict[str, Any]) -> dict[str, Any]:
    return {
        "position": tender["tender_number"],
        "kind": PAYMENTS[tender["tender_type"]],
        "amount": _money(tender["amount_minor"]),
        "given": _money(tender.get("tendered_minor")),
        "change_given": _money(tender.get("change_minor")),
        "is_void": int(tender.get("voided", False)),
        "card": tender.get("masked_pan"),
        "rrn": tender.get("rrn"),
        "auth": tender.get("auth_code"),
    }


def _vat(tax: dict[str, Any]) -> dict[str, Any]:
    sums = {"base": _money(tax["taxable_minor"]), "amount": _money(tax["amount_minor"])}
    return {"code": tax["tax_id"], "rate": tax["rate"], **sums}


def _slip(block: dict[str, Any], place: int) -> dict[str, Any]:
    return {
        "position": place,
        "format": block["ffd_version"],
        "code": block["document_code"],
        "drive": block["fiscal_drive_number"],
        "number": block["fiscal_document_number"],
        "sign": block["fiscal_sign"],
        "registration": block["register_reg_number"],
        "serial": block["register_serial"],
        "inn": block["inn"],
        "taxation": block["taxation_system"],
        "operation": block.get("operation_type"),
    }


def _report(shift: dict[str, Any]) -> dict[str, Any]:
    return {
        "opened": _local(shift["opened_at"]),
        "first_number": shift.get("first_receipt_number"),
        "last_number": shift.get("last_receipt_number"),
        "float_sum": _money(shift.get("opening_float_minor")),
        "expected": _money(shift.get("expected_cash_minor")),
        "counted": _money(shift.get("counted_cash_minor")),
    }


def _report_sums(shift: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for section, name in (("T", "by_type"), ("P", "by_tender"), ("V", "by_tax")):
        for key, one in shift.get(name, {}).items():
            kind, _, code = key.partition(".")
            code = str(PAYMENTS[code]) if section == "P" else code
            sums = {"documents": one["count"], "amount": _money(one["amount_minor"])}
            rows.append({"section": section, "kind": KINDS[kind], "code": code, **sums})
    return rows


def _money(minor: int | None) -> str | None:
    """Return rubles and kopecks, as the tables have them."""
    return None if minor is None else str(Decimal(minor).scaleb(-2))


def _local(moment: str | None) -> str | None:
    """Return the till's clock without an offset: few POS programs keep one."""
    return None if moment is None else moment[:23].replace("T", " ")
