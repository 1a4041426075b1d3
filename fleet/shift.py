"""Owns a shift's sums as the till keeps them: what ``shift_close`` and ``x_report`` say and central checks.

The rule, for every document of a shift from its ``shift_open`` up to, and without, its ``shift_close``:

- A document with the flag ``training`` counts nowhere.
- ``by_type`` counts every other one. Its amount is the sum of ``totals.total_minor`` of receipts and of
  ``cash.amount_minor`` of cash movements; a ``cancelled`` one, a report and a ``no_sale`` count with amount 0.
- ``by_tender`` and ``by_tax`` are kept for each type of receipt by itself, as a Z-report prints income and refunds
  (FFD 1129, 1130): the key is ``<transaction_type>.<tender_type>`` or ``<transaction_type>.<tax_id>``. So amounts stay
  positive and nobody needs a sign. Voided tenders are left out; taxes are the receipt's own, not its lines'.
- ``expected_cash_minor`` starts at 0 with each shift: loans, cash paid in and cash taken on receipts, less pickups,
  deposits, cash paid out and cash given back. An ``exchange`` gives back when its return lines outweigh its sale lines.
- ``first_receipt_number`` and ``last_receipt_number`` span every document that carries a number, training and
  cancelled ones too, so that a gap in the numbers is a missing document.
"""

from __future__ import annotations

from typing import Any

from wire.documents import CASH_TYPES, RECEIPT_TYPES

Sums = dict[str, dict[str, int]]
CASH_IN_TYPES = frozenset({"paid_in", "loan"})


class ShiftBook:
    """Adds up one shift; its drawer starts empty."""

    def __init__(self) -> None:
        self.by_type: Sums = {}
        self.by_tender: Sums = {}
        self.by_tax: Sums = {}
        self.opening_float_minor = 0
        self.cash_minor = 0
        self.first_receipt_number: int | None = None
        self.last_receipt_number: int | None = None

    def add(self, document: dict[str, Any]) -> None:
        """Count a closed document by the rule above."""
        self._span(document.get("receipt_number"))
        if "training" in document.get("flags", ()):
            return
        kind = document["transaction_type"]
        if kind in RECEIPT_TYPES:
            self._add_receipt(kind, document)
        elif kind in CASH_TYPES:
            self._add_cash(kind, document["cash"]["amount_minor"])
        else:
            _count(self.by_type, kind, 0)

    def summary(self) -> dict[str, Any]:
        """Return the sums as a ``shift`` block holds them; a copy, for the shift goes on."""
        numbers = {"first_receipt_number": self.first_receipt_number, "last_receipt_number": self.last_receipt_number}
        return {
            **{name: number for name, number in numbers.items() if number is not None},
            "by_type": {key: dict(one) for key, one in self.by_type.items()},
            "by_tender": {key: dict(one) for key, one in self.by_tender.items()},
            "by_tax": {key: dict(one) for key, one in self.by_tax.items()},
            "opening_float_minor": self.opening_float_minor,
            "expected_cash_minor": self.cash_minor,
        }

    def _span(self, receipt_number: int | None) -> None:
        if receipt_number is not None:
            self.first_receipt_number = self.first_receipt_number or receipt_number
            self.last_receipt_number = receipt_number

    def _add_receipt(self, kind: str, document: dict[str, Any]) -> None:
        _count(self.by_type, kind, document["totals"]["total_minor"])
        sign = -1 if gives_back(document) else 1
        for tender in document["tenders"]:
            if tender.get("voided"):
                continue
            _count(self.by_tender, f"{kind}.{tender['tender_type']}", tender["amount_minor"])
            if tender["tender_type"] == "cash":
                self.cash_minor += sign * tender["amount_minor"]
        for tax in document.get("taxes", ()):
            _count(self.by_tax, f"{kind}.{tax['tax_id']}", tax["amount_minor"])

    def _add_cash(self, kind: str, amount_minor: int) -> None:
        _count(self.by_type, kind, amount_minor)
        self.cash_minor += amount_minor if kind in CASH_IN_TYPES else -amount_minor
        if kind == "loan":
            self.opening_float_minor += amount_minor


def gives_back(document: dict[str, Any]) -> bool:
    """Tell whether the customer was paid by this receipt rather than paying."""
    kind = document["transaction_type"]
    if kind != "exchange":
        return kind in {"return", "post_void"}
    return net_minor(document["lines"]) < 0


def net_minor(lines: list[dict[str, Any]]) -> int:
    """Return the unvoided sale lines less the unvoided return lines."""
    unvoided = (line for line in lines if not line.get("voided"))
    return sum(-line["extended_minor"] if line.get("kind") == "return" else line["extended_minor"] for line in unvoided)


def _count(sums: Sums, key: str, amount_minor: int) -> None:
    one = sums.get(key)
    if one is None:
        one = sums[key] = {"count": 0, "amount_minor": 0}
    one["count"] += 1
    one["amount_minor"] += amount_minor
