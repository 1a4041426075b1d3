"""Stored documents: in an order that skips none, by what people search by, and one with its exact bytes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from central import consumers
from central.accounts import Token
from central.console.guard import config_of, pool_of
from central.consumer import Cursor, Page, incarnation_of
from central.database import Postgres, Sqlite
from central.models import Document
from wire.documents import TransactionType

from . import shapes
from .bearer import covers
from .problems import RETRY_AFTER_S, ProblemError, not_found
from .shapes import FoundShape

router = APIRouter(tags=["documents"])
See = Annotated[Token, covers("documents.see")]

COLUMNS = [field for field in Document._meta.sorted_fields if field.name in FoundShape.model_fields]  # noqa: SLF001 -- peewee's documented way to a model's fields


@contextmanager
def reading_on(request: Request) -> Iterator[Sqlite | Postgres]:
    """Let a request read on in the order that skips none, which may wait for transactions that are under way.

    At most half of the threads wait like this; whoever comes beyond that is told to come again.
    """
    turns: threading.BoundedSemaphore = request.app.state.reading_on
    if not turns.acquire(timeout=config_of(request).consumer_wait_s):
        raise ProblemError(503, "busy", "too many read at once; come again", {"Retry-After": str(RETRY_AFTER_S)})
    try:
        with pool_of(request).looking() as database:
            yield database
    finally:
        turns.release()


def shown(page: Page, after: Cursor) -> dict[str, Any]:
    """Return a page as JSON has it: each document with its exact text."""
    documents = [one | {"body": one["body"] and one["body"].decode()} for one in page.documents]
    return {"documents": documents, "after": str(after), "cursor": str(page.cursor)}


@router.get("/documents", response_model=shapes.Documents)
def documents(request: Request, _token: See, after: shapes.CursorQuery = "0", limit: shapes.Limit = 200) -> Any:
    """Return what is stored behind a cursor, in an order that skips none; ``cursor`` reads on.

    A document that is still being committed is never passed by. A page is empty where nothing new is there, and shorter
    than the limit where documents are large.
    """
    with reading_on(request) as database:
        begin = Cursor.parse(after) or Cursor(incarnation_of(database), 0)
        return shown(consumers.read(database, begin, limit, config_of(request).consumer_wait_s), begin)


@router.get("/documents/search", response_model=shapes.Found)
def search(
    request: Request,
    _token: See,
    till: shapes.TillQuery = None,
    store: shapes.StoreQuery = None,
    day: shapes.DayQuery = None,
    kind: TransactionType | None = None,
    document_id: shapes.PlainQuery = None,
    limit: shapes.Limit = 50,
) -> Any:
    """Find documents of a day, by store, or one by its till and the id that its POS gave it: by what has an index.

    Whoever wants whole days takes them from ``/documents``, an export, or the folder of complete days.
    """
    if not (day or (till and document_id)):
        raise ProblemError(422, "invalid", "name day, or till and document_id: anything else would take a long look")
    asked = {
        Document.till_id: till,
        Document.store_id: store,
        Document.business_day: shapes.a_day(day),
        Document.transaction_type: kind,
        Document.document_id: document_id,
    }
    query = Document.select(*COLUMNS).limit(limit)
    for column, value in asked.items():
        query = query if value is None else query.where(column == value)
    query = query if document_id else query.order_by(Document.store_id)
    with pool_of(request).reading():
        return {"documents": list(query.dicts())}


@router.get("/documents/{number}", response_model=shapes.FoundShape)
def document(request: Request, _token: See, number: shapes.NumberPath) -> Any:
    """Return one document by central's number, without its text."""
    with pool_of(request).reading():
        rows = list(Document.select(*COLUMNS).where(Document.id == number).dicts())
    if not rows:
        raise not_found(f"document {number}")
    return rows[0]


@router.get("/documents/{number}/bytes", response_class=Response)
def document_bytes(request: Request, _token: See, number: shapes.NumberPath) -> Response:
    """Return the exact bytes that the till closed."""
    with pool_of(request).reading():
        found = Document.get_or_none(Document.id == number)
    if found is None:
        raise not_found(f"document {number}")
    if found.body_digest is not None:
        raise ProblemError(410, "forgotten", f"the bytes of document {number} were forgotten by retention")
    return Response(bytes(found.body), media_type="application/octet-stream")
