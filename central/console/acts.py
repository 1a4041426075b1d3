"""What the forms of the pages share: the fields each of them has, refusals that a person can read, and what is told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

from fastapi import Form, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from central.accounts import AccountError
from central.audit import NOTE_MAX
from central.consumer import CursorError
from central.consumers import ConsumerError
from central.decisions import DecisionError
from central.requests import RequestError
from central.rollouts import RolloutError
from central.settings import SettingsError
from central.store_clock import ClockError

from .outcome import back
from .render import language_of
from .words import speaker

PICKED_MAX = 500
"""So many rows may be ticked; a page shows fewer."""

Note = Annotated[str, Form(max_length=NOTE_MAX)]
Back = Annotated[str, Form()]
"""The way back; one that is none, or too long, leads to the list (``outcome.is_inside``)."""

REFUSED = (
    AccountError, ClockError, ConsumerError, CursorError, DecisionError, LookupError, RequestError, RolloutError,
    SettingsError,
)  # fmt: skip
"""What a person asks for that cannot be: each says in its text what is wrong and what would be right."""


@contextmanager
def deciding() -> Iterator[None]:
    """Answer 422 with the text of what is refused; nothing was changed then."""
    try:
        yield
    except REFUSED as problem:
        raise HTTPException(422, str(problem)) from problem


def done(request: Request, where: str, text: str, *, otherwise: str, **values: object) -> Response:
    """Go back to a page, which tells what came of it, in the reader's language."""
    told = speaker(language_of(request))(text)
    return back(where, told.format(**values), otherwise=otherwise)


def numbers(given: list[str]) -> list[int]:
    """Return the numbers of ticked rows; raises HTTPException where one is none."""
    if not all(one.isascii() and one.isdigit() and len(one) <= 18 for one in given) or len(given) > PICKED_MAX:
        raise HTTPException(422, f"number: up to {PICKED_MAX} numbers of rows are right")
    return [int(one) for one in given]
