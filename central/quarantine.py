"""What people do with documents in quarantine: have them judged again, or discard them. Each leaves an audit row.

Judged again are the very bytes that came. What is accepted now takes its place among the documents under its own
number, in the transaction that takes it out of quarantine. Models must be bound in a transaction (``reports.writing``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from msgspec import structs

from . import audit
from .batch import is_same
from .database import UNSTORABLE, first_cause
from .decisions import DecisionError, NotThereError
from .judge import REASON_MAX, Accepted, Refused, judge
from .models import Document, HeldBefore, Quarantine, still_quarantined

NAMED_MOST = 20
"""So many numbers are named in an audit row."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which documents are meant; without numbers all that still wait for somebody, of this code and till if given."""

    numbers: tuple[int, ...] = ()
    code: str | None = None
    till: str | None = None

    def __str__(self) -> str:
        named = {"code": self.code, "till": self.till}
        return ", ".join(f"{name} {value}" for name, value in named.items() if value is not None)


@dataclass(frozen=True, slots=True)
class Tried:
    """What became of one document; ``known``: the very same one is stored already, under another number."""

    number: int
    till_id: str
    document_id: str
    verdict: Literal["accepted", "known", "refused"]
    code: str
    reason: str


def numbers_of(chosen: Chosen) -> list[int]:
    """Return the numbers of the documents that are meant, oldest first; raises DecisionError if one is not there."""
    query = Quarantine.select(Quarantine.id, Quarantine.code, Quarantine.till_id).order_by(Quarantine.id)
    if chosen.numbers:
        query = query.where(Quarantine.id.in_(chosen.numbers))
        if missing := sorted(set(chosen.numbers) - {row.id for row in query}):
            raise NotThereError(
                f"there is no number {missing[0]} in quarantine; see: tillstream central quarantine --all"
            )
    else:
        query = query.where(still_quarantined())
    rows = (row for row in query if chosen.code in (None, row.code) and chosen.till in (None, row.till_id))
    return [row.id for row in rows]


# -- Discarding --------------------------------------------------------------------------------------------------------


def discard(chosen: Chosen, note: str, at_ms: int) -> list[int]:
    """Say that nothing more will come of these, and why; their bytes stay. Returns those that were not before."""
    if not note.strip():
        raise DecisionError("this needs a note: how is it known, and by whom?")
    values = {"discarded_at_ms": at_ms, "note": audit.a_note(note)}
    numbers = []
    for number in numbers_of(chosen):
        mine = (Quarantine.id == number) & Quarantine.discarded_at_ms.is_null()
        numbers += [number] * Quarantine.update(values).where(mine).execute()
    if numbers:
        audit.record("discard", _named(numbers, chosen), note, at_ms)
    return numbers


def _named(numbers: Sequence[int], chosen: Chosen | None = None) -> str:
    shown = ", ".join(map(str, numbers[:NAMED_MOST]))
    more = f" and {len(numbers) - NAMED_MOST} more" if len(numbers) > NAMED_MOST else ""
    return f"{shown}{more}" + (f" ({chosen})" if chosen and str(chosen) else "")


# -- Judging again -----------------------------------------------------------------------------------------------------


def retry(numbers: Sequence[int], note: str, at_ms: int) -> list[Tried]:
    """Judge these documents again and store those that are accepted now; safe to repeat."""
    rows = Quarantine.select().where(Quarantine.id.in_(numbers)).order_by(Quarantine.id)
    tried = [_retry_one(row.id) for row in list(rows)]
    done = [one.number for one in tried if one.verdict != "refused"]
    if done:
        audit.record("retry", _named(done), note, at_ms)
    return tried


def try_out(numbers: Sequence[int], note: str, at_ms: int) -> list[Tried]:
    """Say what ``retry`` would do, and take it all back."""
    with Quarantine._meta.database.atomic() as trial:  # noqa: SLF001 -- peewee's documented way to a model's database
        tried = retry(numbers, note, at_ms)
        trial.rollback()
    return tried


def _retry_one(number: int) -> Tried:
    row = Quarantine.get_by_id(number)  # Read now: one that was accepted before it may have made it a conflict.
    body = bytes(row.body)
    verdict = judge(row.till_id, body)
    if isinstance(verdict, Refused):
        return _refuse(row, verdict)
    mine = (Document.till_id == row.till_id) & (Document.document_id == verdict.document_id)
    there = Document.get_or_none(mine)
    if there is None:
        return _accept(row, body, verdict)
    if not is_same(body, there.body, there.body_digest):
        where = f"as number {there.sequence} of stream {there.stream}"
        reason = f"document_id was used before, with other bytes, {where}"
        return Tried(number, row.till_id, verdict.document_id, "refused", "conflict", reason)
    key = {"till_id": row.till_id, "stream": row.stream, "sequence": row.sequence}
    place = {"in_stream": there.stream, "in_sequence": there.sequence}
    # Numbers that were told to look here look there from now on.
    here = (HeldBefore.in_stream == row.stream) & (HeldBefore.in_sequence == row.sequence)
    HeldBefore.update(**place).where((HeldBefore.till_id == row.till_id) & here).execute()
    if (there.stream, there.sequence) != (row.stream, row.sequence):
        HeldBefore.insert(**key, **place).on_conflict_ignore().execute()
    row.delete_instance()
    return Tried(number, row.till_id, verdict.document_id, "known", "", "")


def _accept(row: Quarantine, body: bytes, seen: Accepted) -> Tried:
    """Move a document from quarantine to its place; the database may still say no, and then it stays."""
    kept = {name: getattr(row, name) for name in ("till_id", "stream", "sequence", "received_at_ms")}
    values: dict[str, Any] = {**kept, "body": body, **structs.asdict(seen)}
    try:
        with Document._meta.database.atomic():  # noqa: SLF001 -- peewee's documented way to a model's database
            Document.insert(**values).execute()
    except UNSTORABLE as problem:
        return _refuse(row, Refused(seen.document_id, "unstorable", first_cause(problem)[:REASON_MAX]))
    row.delete_instance()
    _tell_siblings(row, seen.document_id)
    return Tried(row.id, row.till_id, seen.document_id, "accepted", "", "")


def _tell_siblings(row: Quarantine, document_id: str) -> None:
    """Make a conflict of other bytes under the same id that wait: an accepted document must not settle them unseen."""
    mine = (Quarantine.till_id == row.till_id) & (Quarantine.document_id == document_id)
    reason = (
        f"document_id was used by number {row.sequence} of stream {row.stream}, which was judged again and accepted"
    )
    Quarantine.update(code="conflict", reason=reason).where(mine & Quarantine.discarded_at_ms.is_null()).execute()


def _refuse(row: Quarantine, refused: Refused) -> Tried:
    """Leave a document where it is, with what is wrong with it by today's rules; a conflict stays one."""
    if row.code != "conflict" and (row.code, row.reason) != (refused.code, refused.reason):
        row.code, row.reason = refused.code, refused.reason
        row.save(only=["code", "reason"])
    return Tried(row.id, row.till_id, row.document_id, "refused", row.code, row.reason)
