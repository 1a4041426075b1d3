"""Owns what a shift adds up to at central: which documents are in it, their sums, and how they differ from its close.

Pure: documents in, sums out. The rule, for every document of a shift but its ``shift_close``:

- A document with the flag ``training`` counts nowhere.
- ``by_type`` counts every other one. Its amount is the sum of ``totals.total_minor`` of receipts and of
  ``cash.amount_minor`` of cash movements; everything else counts with amount 0.
- ``by_tender`` and ``by_tax`` have the keys ``<transaction_type>.<tender_type>`` and ``<transaction_type>.<tax_id>``,
  of receipts only. Voided tenders are left out; taxes are the receipt's own, not its lines'.

A shift is a till's documents with one shift number on the business days from its ``shift_open`` to its
``shift_close``: a number that comes again, next day or next year, is another shift.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec import structs

from wire.documents import CASH_TYPES, RECEIPT_TYPES, Cash, CountedSum, Shift, Tax, Tender, Totals

Sums = dict[str, list[int]]
"""By key: how many, and how much in minor units."""

BLOCKS = ("by_type", "by_tender", "by_tax")
MONEY_TYPES = RECEIPT_TYPES | CASH_TYPES


class Counted(msgspec.Struct, gc=False, frozen=True):
    """What of a document counts; its lines are passed over unread."""

    transaction_type: str
    flags: tuple[str, ...] = ()
    tenders: tuple[Tender, ...] = ()
    taxes: tuple[Tax, ...] = ()
    totals: Totals | None = None
    cash: Cash | None = None
    shift: Shift | None = None


decode_counted: Callable[[bytes], Counted] = msgspec.json.Decoder(Counted).decode


def essence(body: bytes) -> bytes:
    """Return a document that adds up to the same and has nothing else: no lines, no names, no numbers of cards."""
    counted = decode_counted(body)
    tenders = tuple(structs.replace(one, masked_pan="", rrn="", auth_code="") for one in counted.tenders)
    return msgspec.json.encode(_without_defaults(structs.replace(counted, tenders=tenders)))


def _without_defaults(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        pairs = ((one.name, getattr(value, one.name), one.default) for one in structs.fields(value))
        return {name: _without_defaults(inner) for name, inner, default in pairs if inner != default}
    if isinstance(value, dict):
        return {name: _without_defaults(inner) for name, inner in value.items()}
    return [_without_defaults(inner) for inner in value] if isinstance(value, tuple) else value


@dataclass(frozen=True, slots=True)
class Header:
    """A stored document without its bytes; ``shift`` is what a ``shift_close`` says, None for any other."""

    id: int
    till_id: str
    stream: str
    sequence: int
    kind: str
    business_day: str
    shift_number: int | None
    receipt_number: int | None
    currency: str
    total_minor: int | None
    is_training: bool
    received_at_ms: int
    shift: Shift | None = None


# -- Which documents are in a shift ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ShiftDocuments:
    """A shift as it touches one business day: its closing documents (one, if all is well) and all the others."""

    number: int
    closes: tuple[Header, ...]
    members: tuple[Header, ...]


def shift_documents(number: int, day: str, documents: Sequence[Header]) -> ShiftDocuments:
    """Return the shift of this number that has documents on ``day``, out of a till's documents of the days around."""
    own = [one for one in documents if one.shift_number == number]
    closed_on = _closed_on(day, own)
    first, last = _opened_on(day, closed_on, own), closed_on or day
    if first > day:  # The close ahead belongs to a shift that began later under the same number.
        closed_on, first, last = None, day, day
    within = [one for one in own if first <= one.business_day <= last]
    closes = tuple(one for one in within if one.kind == "shift_close")
    return ShiftDocuments(number, closes, tuple(one for one in within if one.kind != "shift_close"))


def _closed_on(day: str, own: Sequence[Header]) -> str | None:
    """Return the business day of the close: this day's, or the next one that no other opening comes before."""
    opens, closes = _days_of("shift_open", own), _days_of("shift_close", own)
    if day in closes:
        return day
    ahead = min((one for one in opens | closes if one > day), default=None)
    return ahead if ahead in closes - opens else None


def _opened_on(day: str, closed_on: str | None, own: Sequence[Header]) -> str:
    """Return the business day of the opening; without its document, what the close says of it, or the close's own."""
    opens, closes = _days_of("shift_open", own), _days_of("shift_close", own)
    if day in opens:
        return day
    back = max((one for one in opens | closes if one < day), default=None)
    if back is not None and back in opens - closes:
        return back
    if closed_on is None:
        return day
    closes_then = [one.shift for one in own if one.shift and one.business_day == closed_on]
    said = [shift.opened_at[:10] for shift in closes_then if shift.opened_at]
    return min([closed_on, *(date for date in said if back is None or date > back)])


def _days_of(kind: str, own: Iterable[Header]) -> set[str]:
    return {one.business_day for one in own if one.kind == kind}


# -- What they add up to -----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class ShiftSums:
    """Adds up one shift by the rule above."""

    by_type: Sums = field(default_factory=dict)
    by_tender: Sums = field(default_factory=dict)
    by_tax: Sums = field(default_factory=dict)

    def add(self, document: Counted) -> None:
        """Count one document; the closing one is not to be given."""
        if "training" in document.flags:
            return
        kind = document.transaction_type
        _count(self.by_type, kind, _amount_minor(document))
        if kind not in RECEIPT_TYPES:
            return
        for tender in document.tenders:
            if not tender.voided:
                _count(self.by_tender, f"{kind}.{tender.tender_type}", tender.amount_minor)
        for tax in document.taxes:
            _count(self.by_tax, f"{kind}.{tax.tax_id}", tax.amount_minor)


def _amount_minor(document: Counted) -> int:
    if document.transaction_type in RECEIPT_TYPES:
        return document.totals.total_minor if document.totals else 0
    if document.transaction_type in CASH_TYPES:
        return document.cash.amount_minor if document.cash else 0
    return 0


def _count(sums: Sums, key: str, amount_minor: int) -> None:
    one = sums.setdefault(key, [0, 0])
    one[0] += 1
    one[1] += amount_minor


# -- How they differ from what the close says --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Difference:
    """One key on which the shift's close and the stored documents do not agree; what is stored less what was said."""

    block: str
    key: str
    said_count: int
    stored_count: int
    said_minor: int
    stored_minor: int

    @property
    def difference_count(self) -> int:
        """Below zero: so many documents fewer are here than the close counted."""
        return self.stored_count - self.said_count

    @property
    def difference_minor(self) -> int:
        """Below zero: so much less is here than the close added up."""
        return self.stored_minor - self.said_minor


def differences(said: Shift | None, stored: ShiftSums) -> tuple[Difference, ...] | None:
    """Compare the blocks that the close carries, key by key; None if it carries none: that proves nothing.

    What moves money and is not named counts as 0. Types that move none are compared only where the close names them:
    not every POS counts its reports and its opened drawers.
    """
    if said is None or not any(getattr(said, block) for block in BLOCKS):
        return None
    found: list[Difference] = []
    for block in BLOCKS:
        named: Mapping[str, CountedSum] = getattr(said, block)
        if named:
            found += _compare(block, named, getattr(stored, block))
    return tuple(found)


def _compare(block: str, named: Mapping[str, CountedSum], stored: Sums) -> list[Difference]:
    keys = set(named) | {key for key in stored if key.partition(".")[0] in MONEY_TYPES}
    found = []
    for key in sorted(keys):
        said = named.get(key) or CountedSum()
        count, amount_minor = stored.get(key, (0, 0))
        if (said.count, said.amount_minor) != (count, amount_minor):
            found.append(Difference(block, key, said.count, count, said.amount_minor, amount_minor))
    return found
