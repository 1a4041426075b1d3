"""Judges whether a till's business day is all here: facts in, states out. Pure: no clock, no database.

Three proofs that know nothing of each other, each True, False or None (unknown, which is never taken for fine):

- verified: the till's last doorbell was exactly what central holds, and nothing it ever rang for is outstanding;
- numbered: no number of its streams is missing, nor a receipt number within a shift;
- reconciled: counts and sums that the till wrote into ``shift_close`` are those of the documents that are stored.

A state is a function of facts alone, so a day opens again by itself when a fact changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from shlex import quote
from typing import Literal

from wire.documents import Shift

from .shift_sums import Difference

State = Literal["mismatch", "partial", "open", "complete", "not expected"]
WORST_FIRST: tuple[State, ...] = ("mismatch", "partial", "open", "complete")
STATES: tuple[State, ...] = (*WORST_FIRST, "not expected")
Proof = bool | None
MissingKind = Literal["sequence", "receipt_number", "gap", "rung_for", "quarantined"]
_HOLES = frozenset({"sequence", "receipt_number", "gap"})


# -- Facts -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Missing:
    """Documents that are known of and are not stored, by their numbers, the first and the last one.

    ``sequence``: central passed these numbers and holds nothing there. ``receipt_number``: numbers within a shift.
    ``gap``: rung for, and the till cannot send them any more. ``rung_for``: the till has them, central not yet.
    ``quarantined``: here, but not accepted. Which day an unseen document belongs to nobody knows: it is missing on
    each day from that of the stored document before it to that of the one behind it.
    """

    kind: MissingKind
    first: int
    last: int
    stream: str | None = None
    shift_number: int | None = None
    code: str = ""
    reason: str = ""

    @property
    def count(self) -> int:
        """Return how many documents that is."""
        return self.last - self.first + 1


@dataclass(frozen=True, slots=True)
class Head:
    """Documents that a till rang for and central has not reached: ``(through, newest]`` of a stream."""

    stream: str
    through: int
    newest: int
    heard_at_ms: int


@dataclass(frozen=True, slots=True)
class ShiftFacts:
    """A shift that has documents on the day; ``differences`` is None where nothing could be compared."""

    number: int
    documents: int
    closes: int
    said: Shift | None
    receipt_numbers: frozenset[int]
    differences: tuple[Difference, ...] | None
    spans: tuple[tuple[str, int, int], ...]
    """The first and the last sequence of its documents in each stream."""


@dataclass(frozen=True, slots=True)
class TillFacts:
    """What is known of one till on one business day; times are epoch milliseconds."""

    till_id: str
    first_seen_ms: int
    is_approved: bool = True
    parked_at_ms: int | None = None
    parked_note: str = ""
    verified_at_ms: int | None = None
    """When the till last proved that nothing was outstanding, in any of its streams."""
    moved_at_ms: int | None = None
    """When its present stream last moved, or was opened."""
    heads: tuple[Head, ...] = ()
    documents: int = 0
    last_received_ms: int | None = None
    missing: tuple[Missing, ...] = ()
    shifts: tuple[ShiftFacts, ...] = ()
    without_shift: int = 0
    """Documents that move money and name no shift: no close can vouch for them."""
    totals_minor: tuple[tuple[str, str, int], ...] = ()
    """Currency, transaction type and sum of the receipts."""


@dataclass(frozen=True, slots=True)
class DayFacts:
    """A store's business day, when it ends, and what time it is."""

    store_id: str
    business_day: str
    ends_at_ms: int
    now_ms: int

    @property
    def is_over(self) -> bool:
        """Say whether no more document of this day is due."""
        return self.now_ms >= self.ends_at_ms


def lies_on(day: str, before: str | None, behind: str | None, opened_on: str, seen_on: str) -> bool:
    """Say whether an unseen document may be of this day, from the days of the stored ones beside it in its stream.

    Where one of them is not there: the stream began when it was ``opened_on``, or with what follows if that is older;
    and nothing behind it was closed after it was ``seen_on``.
    """
    first = before or (min(opened_on, behind) if behind else opened_on)
    last = behind or max(first, seen_on)
    return min(first, last) <= day <= max(first, last)


# -- What is found -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Proofs:
    """The three proofs, in the order in which they are looked at."""

    verified: Proof
    numbered: Proof
    reconciled: Proof


@dataclass(frozen=True, slots=True)
class ShiftFound:
    """A shift's proofs, and why one of them is unknown."""

    number: int
    documents: int
    is_closed: bool
    proofs: Proofs
    differences: tuple[Difference, ...]
    note: str


@dataclass(frozen=True, slots=True)
class TillDay:
    """What became of one till's business day: the state, the proofs, what is missing, and what to do about it."""

    till_id: str
    state: State
    proofs: Proofs
    documents: int
    totals_minor: tuple[tuple[str, str, int], ...]
    shifts: tuple[ShiftFound, ...]
    missing: tuple[Missing, ...]
    notes: tuple[str, ...]
    next_steps: tuple[str, ...]

    @property
    def missing_count(self) -> int:
        """Return how many documents are missing at least: a receipt number may be one of the missing sequences."""
        receipts = sum(one.count for one in self.missing if one.kind == "receipt_number")
        return max(receipts, sum(one.count for one in self.missing) - receipts)


@dataclass(frozen=True, slots=True)
class StoreDay:
    """A store's business day: the worst of its tills."""

    store_id: str
    business_day: str
    state: State
    ends_at_ms: int
    is_over: bool
    tills: tuple[TillDay, ...]

    @property
    def expected(self) -> tuple[TillDay, ...]:
        """Return the tills that count."""
        return tuple(till for till in self.tills if till.state != "not expected")

    @property
    def missing_count(self) -> int:
        """Return how many documents are missing at least."""
        return sum(till.missing_count for till in self.expected)

    @property
    def totals_minor(self) -> dict[str, dict[str, int]]:
        """Return the sums of all tills' receipts by currency and transaction type."""
        sums: dict[str, dict[str, int]] = {}
        for currency, kind, amount_minor in (one for till in self.tills for one in till.totals_minor):
            of_currency = sums.setdefault(currency, {})
            of_currency[kind] = of_currency.get(kind, 0) + amount_minor
        return sums


def judge_store_day(day: DayFacts, tills: Iterable[TillFacts]) -> StoreDay:
    """Judge each till, worst first; the store's state is that of the worst one that is expected."""
    judged = sorted((judge_till(day, facts) for facts in tills), key=lambda one: (STATES.index(one.state), one.till_id))
    state: State = judged[0].state if judged else "not expected"
    return StoreDay(day.store_id, day.business_day, state, day.ends_at_ms, day.is_over, tuple(judged))


def judge_till(day: DayFacts, facts: TillFacts) -> TillDay:
    """Judge one till's business day."""
    verified = _verified(day, facts)
    missing = [*facts.missing, *(one for shift in facts.shifts for one in _missing_receipts(shift))]
    if verified is False:
        missing += [
            Missing("rung_for", head.through + 1, head.newest, head.stream)
            for head in facts.heads
            if head.newest > head.through
        ]
    shifts = tuple(_judge_shift(shift, verified, missing) for shift in facts.shifts)
    proofs = Proofs(verified, _numbered(facts, missing), _reconciled(facts, shifts))
    state = _state(day, facts, proofs, shifts, missing)
    return TillDay(
        facts.till_id,
        _expected(day, facts, state, missing),
        proofs,
        facts.documents,
        facts.totals_minor,
        shifts,
        tuple(missing),
        _notes(day, facts, proofs, shifts),
        _next_steps(day, facts, state, shifts, missing),
    )


# -- Verified ----------------------------------------------------------------------------------------------------------


def _verified(day: DayFacts, facts: TillFacts) -> Proof:
    """Say whether the till's doorbell proved that all of this day is here.

    A day that is over keeps its proof: what the till rings for later concerns later documents. A till that closed
    nothing proves it only by ringing after the day's end.
    """
    at_ms = facts.verified_at_ms
    if at_ms is not None:
        heads_before = [head for head in facts.heads if head.heard_at_ms <= at_ms]
        if day.is_over and at_ms >= max(day.ends_at_ms, facts.last_received_ms or 0) and not heads_before:
            return True
        if facts.documents and not facts.heads and at_ms >= (facts.moved_at_ms or 0):
            return True
    return False if facts.heads else None


# -- Numbered ----------------------------------------------------------------------------------------------------------


def _numbered(facts: TillFacts, missing: Sequence[Missing]) -> Proof:
    if any(one.kind in _HOLES for one in missing):
        return False
    return None if facts.verified_at_ms is None and not facts.documents else True


def _missing_receipts(shift: ShiftFacts) -> list[Missing]:
    """Return the receipt numbers that are not there between those the close names, or between those that are."""
    said, there = shift.said, shift.receipt_numbers
    first = said.first_receipt_number if said and said.first_receipt_number is not None else min(there, default=None)
    last = said.last_receipt_number if said and said.last_receipt_number is not None else max(there, default=None)
    if first is None or last is None:
        return []
    stops = [first - 1, *sorted(number for number in there if first <= number <= last), last + 1]
    return [
        Missing("receipt_number", below + 1, above - 1, shift_number=shift.number)
        for below, above in pairwise(stops)
        if above > below + 1
    ]


# -- Reconciled --------------------------------------------------------------------------------------------------------


def _judge_shift(shift: ShiftFacts, verified: Proof, missing: Sequence[Missing]) -> ShiftFound:
    reconciled = not shift.differences if shift.differences is not None else None
    proofs = Proofs(verified, not any(one.kind in _HOLES and _touches(one, shift) for one in missing), reconciled)
    found = shift.differences or ()
    return ShiftFound(shift.number, shift.documents, shift.closes > 0, proofs, found, _shift_note(shift))


def _touches(missing: Missing, shift: ShiftFacts) -> bool:
    """Say whether these numbers are of the shift, or lie within or right beside its documents."""
    if missing.kind == "receipt_number":
        return missing.shift_number == shift.number
    return any(
        missing.stream == stream and missing.last >= first - 1 and missing.first <= last + 1
        for stream, first, last in shift.spans
    )


def _shift_note(shift: ShiftFacts) -> str:
    if shift.closes == 0:
        return "not closed yet"
    if shift.closes > 1:
        return f"closed {shift.closes} times: which documents belong to which close cannot be told"
    return "shift_close carries no sums" if shift.differences is None else ""


def _reconciled(facts: TillFacts, shifts: Sequence[ShiftFound]) -> Proof:
    """Say whether every shift adds up; a till without any document has nothing to add up."""
    each = [shift.proofs.reconciled for shift in shifts]
    if False in each:
        return False
    if None in each or facts.without_shift:
        return None
    return True if shifts or not facts.documents else None


# -- The state ---------------------------------------------------------------------------------------------------------


def _state(
    day: DayFacts, facts: TillFacts, proofs: Proofs, shifts: Sequence[ShiftFound], missing: Sequence[Missing]
) -> State:
    if any(one.kind != "rung_for" for one in missing) or (missing and day.is_over and facts.documents):
        return "partial"
    if proofs.reconciled is False:
        return "mismatch"
    is_closed = day.is_over and all(shift.is_closed for shift in shifts)
    is_proven = (proofs.verified, proofs.numbered, proofs.reconciled) == (True, True, True)
    return "complete" if is_closed and is_proven else "open"


def _expected(day: DayFacts, facts: TillFacts, state: State, missing: Sequence[Missing]) -> State:
    """Let a till that is not expected stand aside: parking excuses silence, and nothing that is known to be lost."""
    if facts.first_seen_ms >= day.ends_at_ms and not facts.documents and not facts.missing:
        return "not expected"
    is_silent = state == "open" or (state == "partial" and all(one.kind == "rung_for" for one in missing))
    is_parked = facts.parked_at_ms is not None and (facts.last_received_ms or 0) <= facts.parked_at_ms
    return "not expected" if is_parked and is_silent else state


# -- Words for people --------------------------------------------------------------------------------------------------


def _notes(day: DayFacts, facts: TillFacts, proofs: Proofs, shifts: Sequence[ShiftFound]) -> tuple[str, ...]:
    notes = [f"shift {shift.number}: {shift.note}" for shift in shifts if shift.note]
    if facts.parked_at_ms is not None:
        notes.append(f"parked: {facts.parked_note}")
    if facts.first_seen_ms >= day.ends_at_ms and not facts.documents:
        notes.append("first seen after the day had ended")
    if not facts.documents and proofs.verified is not True:
        notes.append("nothing was heard")
    if facts.documents and proofs.verified is None:
        notes.append("not verified: the till has not confirmed that this is all")
    if facts.documents and not shifts:
        notes.append("no document names a shift: there is nothing to reconcile with")
    elif facts.without_shift:
        notes.append(f"{facts.without_shift} documents that move money name no shift")
    if not day.is_over:
        notes.append("the day is not over")
    return tuple(notes)


def _next_steps(
    day: DayFacts, facts: TillFacts, state: State, shifts: Sequence[ShiftFound], missing: Sequence[Missing]
) -> tuple[str, ...]:
    """Return what a person can do, as commands to type where there is one; nothing where nothing is wrong."""
    if state == "complete":
        return ()
    kinds = {one.kind for one in missing}
    till = quote(facts.till_id)
    steps = []
    if not facts.is_approved:
        steps.append(f"tillstream central tills approve {till}")
    if "rung_for" in kinds:
        steps.append(f'tillstream central request {till} --note "rung for, not here"')
    if kinds & {"sequence", "receipt_number"} or any(_is_short(shift) for shift in shifts):
        where = f"--day {day.business_day} --store {quote(day.store_id)}"
        steps.append(f'tillstream central request {where} --note "documents are missing"')
    if "quarantined" in kinds:
        steps.append(f"tillstream central quarantine --till {till}")
    if "gap" in kinds:
        steps.append("tillstream central gaps")
    if any(shift.differences and not _is_short(shift) for shift in shifts):
        steps.append("compare the shift's Z-report with: " + _list_documents(day, till))
    if day.is_over:
        steps += [f"close shift {shift.number} on the till" for shift in shifts if not shift.is_closed]
    if day.is_over and not facts.documents and facts.parked_at_ms is None and not missing:
        steps.append(f'if it is not expected: tillstream central tills park {till} --note "why"')
    return tuple(steps)


def _is_short(shift: ShiftFound) -> bool:
    return any(one.difference_count < 0 or one.difference_minor < 0 for one in shift.differences)


def _list_documents(day: DayFacts, till: str) -> str:
    return f"tillstream central documents --till {till} --day {day.business_day} --most 1000"
