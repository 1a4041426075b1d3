"""Quarantine: what central could not accept, by code; one document with what is wrong marked; and what to do."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, get_args

import peewee as pw
from fastapi import APIRouter, Form, Path, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from central import quarantine as waiting
from central import reports
from central.accounts import User
from central.cli_base import NUMBER_MAX
from central.judge import Code, Refused, judge
from central.marked import marked_lines, wrong_fields
from central.models import Quarantine, still_quarantined
from central.pool import Pool
from central.quarantine import Chosen, Tried
from central.service import wall_clock_ms

from . import lists
from .acts import PICKED_MAX, Back, Note, deciding, done, numbers
from .guard import pool_of, requires
from .lists import ONE_MORE, ROWS_PER_PAGE, Column, Empty, Filter, Listed, Row, Shape, Wanted
from .render import page
from .words import say

router = APIRouter(include_in_schema=False)

RETRIED_AT_ONCE = 100
"""So many documents are judged in one transaction: a worker commits between two of them."""
RETRIED_MOST = 2_000
"""So many documents are judged again by one click; more wait for the next, or for the command."""
_GONE = "there is no number {} in quarantine: it was accepted meanwhile, or never was there"
Number = Annotated[int, Path(ge=1, le=NUMBER_MAX)]
CODES: tuple[str, ...] = get_args(Code)
TITLES = {
    "bad_json": say("no document that can be read"),
    "bad_schema": say("a field is missing or wrong"),
    "totals_mismatch": say("the total is not the sum of the lines"),
    "tenders_mismatch": say("the payments do not make the total"),
    "taxes_mismatch": say("the taxes do not add up"),
    "shift_mismatch": say("the sums of the shift do not add up"),
    "card_number": say("a card number stands open in it"),
    "wrong_till": say("it names another till"),
    "too_large": say("it is too large"),
    "conflict": say("its id was used before, with other content"),
    "unstorable": say("the database cannot hold it"),
}
MARK = ">>>"
"""What ``central.marked`` puts before a line that is wrong."""
SHAPE = Shape(
    "/quarantine",
    say("Quarantine"),
    (
        Column("id", say("Number"), "link"),
        Column("till_id", say("Till"), "link"),
        Column("sequence", say("Sequence"), "count"),
        Column("document_id", say("Document")),
        Column("code", say("Code"), "badge"),
        Column("reason", say("Reason")),
        Column("received_at_ms", say("Received"), "time"),
        Column("discarded_at_ms", say("Discarded"), "time", is_hidden=True),
        Column("note", say("Note"), is_hidden=True),
    ),
    (
        Filter("code", say("Code"), tuple((code, TITLES[code]) for code in CODES)),
        Filter("till", say("Till")),
        Filter("which", say("Which"), (("all", say("also what is settled")),)),
    ),
)
EMPTY = Empty(
    say("No document is in quarantine."),
    say("Whatever comes that cannot be accepted is shown here with its exact bytes and the reason."),
)


# -- Looking -----------------------------------------------------------------------------------------------------------


def groups() -> list[Row]:
    """Return what waits for a person, by code: how many documents of how many tills, since when; most first."""
    count = pw.fn.COUNT(Quarantine.id)
    columns = {
        "code": Quarantine.code,
        "documents": count,
        "tills": pw.fn.COUNT(Quarantine.till_id.distinct()),
        "since_ms": pw.fn.MIN(Quarantine.received_at_ms),
    }
    query: Any = Quarantine.select(*(column.alias(name) for name, column in columns.items()))
    query = query.where(still_quarantined()).group_by(Quarantine.code).order_by(count.desc(), Quarantine.code)
    return list(query.dicts())


def part_of(wanted: Wanted) -> Listed:
    """Return a page of documents in quarantine, the newest first, without their bytes."""
    start = (wanted.page - 1) * ROWS_PER_PAGE
    rows = _rows(wanted, start + ROWS_PER_PAGE + 1)[start:]
    return Listed(wanted, rows[:ROWS_PER_PAGE], has_more=len(rows) > ROWS_PER_PAGE)


def everything(wanted: Wanted, most: int) -> list[Row]:
    """Return the documents that are chosen, for a file."""
    return _rows(wanted, most)


def _rows(wanted: Wanted, most: int) -> list[Row]:
    chosen = wanted.chosen
    rows = reports.quarantine(most, chosen["till"] or None, chosen["code"] or None, everything=bool(chosen["which"]))
    return [row | {"severity": "fine" if row["discarded_at_ms"] else "act"} for row in rows]


def one(number: int) -> dict[str, Any] | None:
    """Return a document in quarantine as a person reads it, and what today's rules say of it; None without such a one.

    ``lines``: (is wrong, text). ``refused``: None where it would be accepted now.
    """
    row = reports.quarantined(number)
    if row is None:
        return None
    document = _read(row["body"])
    wrong = wrong_fields(document, row["code"], row["reason"]) if isinstance(document, dict) else []
    lines = marked_lines(document, wrong) if isinstance(document, dict) else []
    verdict = judge(row["till_id"], row["body"])
    return row | {
        "size_bytes": len(row["body"]),
        "wrong": wrong,
        "lines": [(line.startswith(MARK), line.replace(MARK, " " * len(MARK), 1)) for line in lines],
        "raw": "" if lines else repr(row["body"][:200])[1:],
        "refused": verdict if isinstance(verdict, Refused) else None,
    }


def _read(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


# -- Doing -------------------------------------------------------------------------------------------------------------


def _meant(number: list[str], code: str) -> Chosen:
    """Return which documents a form means: those that are ticked, or all that wait with a code."""
    if not number and code not in CODES:
        raise HTTPException(422, f"number, code: tick some rows, or name one of {', '.join(CODES)}")
    return Chosen(tuple(numbers(number)), None if number else code)


def retry(pool: Pool, chosen: Chosen, who: str, note: str, at_ms: int) -> list[Tried]:
    """Judge documents again, some in each transaction; raises DecisionError. Safe to repeat."""
    with pool.reading():
        found = waiting.numbers_of(chosen)[:RETRIED_MOST]
    tried: list[Tried] = []
    for some in _some(found):
        with pool.changing(who):
            tried += waiting.retry(some, note, at_ms)
    return tried


def _some(numbers: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(numbers), RETRIED_AT_ONCE):
        yield numbers[start : start + RETRIED_AT_ONCE]


# -- The pages ---------------------------------------------------------------------------------------------------------

Reader = Annotated[User, requires("quarantine.see")]
Picked = Annotated[list[str] | None, Form(max_length=PICKED_MAX)]
Code_ = Annotated[str, Form(max_length=40)]


@router.get("/quarantine")
def show(request: Request, _user: Reader) -> Response:
    """Show what waits for a person, by code and one by one."""
    wanted = Wanted.of(SHAPE, request)
    with pool_of(request).reading():
        listed, by_code = part_of(wanted), groups()
    return page(request, "quarantine.html", listed=listed, empty=EMPTY, groups=by_code, titles=TITLES)


@router.get("/quarantine.{form}")
def as_file(request: Request, _user: Reader, form: lists.Form) -> Response:
    """Return the documents that are chosen, without their bytes."""
    with pool_of(request).reading():
        return lists.file(SHAPE, everything(Wanted.of(SHAPE, request), ONE_MORE), form)


@router.get("/quarantine/{number}")
def show_one(request: Request, _user: Annotated[User, requires("documents.see")], number: Number) -> Response:
    """Show one document with what is wrong marked."""
    with pool_of(request).reading():
        row = one(number)
    if row is None:
        raise HTTPException(404, _GONE.format(number))
    return page(request, "quarantine_one.html", row=row, titles=TITLES)


@router.get("/quarantine/{number}/bytes")
def download(request: Request, _user: Annotated[User, requires("quarantine.bytes")], number: Number) -> Response:
    """Return exactly the bytes that came."""
    with pool_of(request).reading():
        row = reports.quarantined(number)
    if row is None:
        raise HTTPException(404, _GONE.format(number))
    attached = {"Content-Disposition": f'attachment; filename="quarantine-{number}.bin"'}
    return Response(row["body"], media_type="application/octet-stream", headers=attached)


@router.post("/quarantine/retry")
def judge_again(
    request: Request, user: Annotated[User, requires("quarantine.retry")], number: Picked = None, code: Code_ = "",
    note: Note = "", back: Back = "",
) -> Response:  # fmt: skip
    """Judge documents by today's rules; what is accepted takes its place among the others."""
    with deciding():
        tried = retry(pool_of(request), _meant(number or [], code), user.name, note, wall_clock_ms())
    told = say("Accepted: {accepted}, stored already: {known}, still refused: {refused}.")
    counts = Counter(one.verdict for one in tried)
    values = {name: counts[name] for name in ("accepted", "known", "refused")}
    where = back if counts["refused"] or not back.startswith("/quarantine/") else ""  # That page is no more.
    return done(request, where, told, otherwise="/quarantine", **values)


@router.post("/quarantine/discard")
def discard(
    request: Request, user: Annotated[User, requires("quarantine.discard")], number: Picked = None, code: Code_ = "",
    note: Note = "", back: Back = "",
) -> Response:  # fmt: skip
    """Say that nothing more will come of documents, and why; their bytes stay."""
    with deciding(), pool_of(request).changing(user.name):
        discarded = waiting.discard(_meant(number or [], code), note, wall_clock_ms())
    return done(
        request, back, say("Discarded: {count}. Their bytes stay."), otherwise="/quarantine", count=len(discarded)
    )
