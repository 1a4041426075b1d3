"""Turns what the POS handed over into what the outbox holds: always one JSON object on one line. Pure.

A closed document is never refused. A valid object keeps its bytes: only line breaks outside strings become spaces, a
missing ``document_id`` is put in front, and card numbers in tenders are masked. Anything else is wrapped in base64,
and what is over the limit is replaced by a numbered stub: central judges, nothing escapes the numbering.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any
from uuid import UUID

import msgspec

from wire.card_number import DIGITS_MIN, mask
from wire.documents import DOCUMENT_ID_MAX, DOCUMENT_LIMIT_MAX_BYTES

TENDER_DEPTH_MAX = 32
"""Deeper than any tender: such a document is wrapped like one that cannot be read, and judged at central."""

_NO_CARD_NUMBER = 10 ** (DIGITS_MIN - 1)
_SHORT_BYTES = 1024
_NOTHING = msgspec.Raw(b"")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_LINE_BREAKS = bytes.maketrans(b"\r\n", b"  ")
_BAD_JSON = (msgspec.MsgspecError, ValueError, RecursionError)


class NotADocumentError(ValueError):
    """What was handed over holds nothing that could have been closed."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A document as the outbox will hold it."""

    document_id: str
    """The idempotency key: the same key with the same bytes is the same document."""
    body: bytes
    card_numbers: int = 0
    transaction_type: str = ""
    """As the POS has it; empty where it cannot be read."""
    aside: bytes | None = None
    """The bytes of an oversize document, to be kept aside under the document's number."""

    @property
    def is_urgent(self) -> bool:
        """Say whether a shift was closed: whoever reconciles is waiting."""
        return self.transaction_type == "shift_close"


def prepare(given: bytes, limit_bytes: int, make_id: Callable[[], str]) -> Prepared:
    """Return the document as the outbox will hold it; ``make_id`` names one that has no ``document_id`` of its own.

    Raises NotADocumentError for what is empty.
    """
    given = given.removeprefix(_BYTE_ORDER_MARK).strip()
    if not given:
        raise NotADocumentError('the body is empty: a document is a JSON object such as {"document_id": "…", …}')
    if len(given) > max(limit_bytes, DOCUMENT_LIMIT_MAX_BYTES):
        return _stub(_skim(given, make_id), given)
    prepared = _prepare_object(given, make_id) or _wrap(given, make_id())
    return prepared if len(prepared.body) <= limit_bytes else _stub(prepared, given)


def id_from(*parts: bytes) -> str:
    """Return a UUID that the same parts always give: what is taken up again after a crash keeps its identity."""
    return str(UUID(bytes=blake2b(b"\0".join(parts), digest_size=16).digest(), version=4))


def _prepare_object(given: bytes, make_id: Callable[[], str]) -> Prepared | None:
    try:
        fields = msgspec.json.decode(given)
        json.loads(given, object_pairs_hook=_refuse_duplicates)
        return _prepare_fields(given, fields, make_id) if isinstance(fields, dict) else None
    except _BAD_JSON:
        return None


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> None:
    """Refuse a name that comes twice in an object (RFC 7493, 2.3): readers differ in which of the two counts."""
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError("a name comes twice in an object")


def _prepare_fields(given: bytes, fields: dict[str, Any], make_id: Callable[[], str]) -> Prepared:
    body = given.translate(_LINE_BREAKS)
    if "document_id" not in fields:
        made = make_id()
        comma = b"," if fields else b""
        body = b'{"document_id":"' + made.encode() + b'"' + comma + body[1:].lstrip()
        fields = {"document_id": made, **fields}
    else:
        made = _key(fields["document_id"], body)
    kind = fields.get("transaction_type")
    return _mask_tenders(Prepared(made, body, transaction_type=kind if isinstance(kind, str) else ""), fields)


def _key(document_id: Any, body: bytes) -> str:
    """Return the id if it can be one; central will quarantine the others, which are known again by their bytes."""
    if isinstance(document_id, str) and 0 < len(document_id) <= DOCUMENT_ID_MAX and "\0" not in document_id:
        return document_id
    return id_from(body)


def _wrap(given: bytes, made: str) -> Prepared:
    return Prepared(made, b'{"document_id":"' + made.encode() + b'","raw":"' + b64encode(given) + b'"}')


def _stub(prepared: Prepared, given: bytes) -> Prepared:
    aside = prepared.body if prepared.card_numbers else given
    stub = {
        "document_id": prepared.document_id,
        "oversize_bytes": len(aside),
        "blake2b": blake2b(aside, digest_size=16).hexdigest(),
    }
    return replace(prepared, body=msgspec.json.encode(stub), aside=aside)


# -- What no till may hold whole -------------------------------------------------------------------------------------


class _Skimmed(msgspec.Struct):
    document_id: msgspec.Raw = _NOTHING
    transaction_type: msgspec.Raw = _NOTHING
    tenders: msgspec.Raw = _NOTHING


def _skim(given: bytes, make_id: Callable[[], str]) -> Prepared:
    """Read of a document only what its stub needs: as objects, 32 MB of it would take a gigabyte and many seconds."""
    try:
        found = msgspec.json.decode(given, type=_Skimmed)
        document_id, kind = _short(found.document_id), _short(found.transaction_type)
        body, card_numbers = _mask_raw(given, bytes(found.tenders))
    except _BAD_JSON:
        return Prepared(make_id(), given)
    made = make_id() if found.document_id is _NOTHING else _key(document_id, given)
    return Prepared(made, body, card_numbers, kind if isinstance(kind, str) else "")


def _short(raw: msgspec.Raw) -> Any:
    """Return a value that may be an id or a type; nothing longer is either."""
    return msgspec.json.decode(raw) if 0 < len(bytes(raw)) <= _SHORT_BYTES else None


def _mask_raw(given: bytes, tenders: bytes) -> tuple[bytes, int]:
    """Mask the tenders where they stand, as values while they are few, else as the text that they are."""
    if len(tenders) > DOCUMENT_LIMIT_MAX_BYTES:
        text, found = mask(tenders.decode())
    else:
        values, found = _mask(msgspec.json.decode(tenders or b"null"))
        text = json.dumps(values, ensure_ascii=False, separators=(",", ":"))
    return (given.replace(tenders, text.encode()), found) if found else (given, 0)


# -- Card numbers ------------------------------------------------------------------------------------------------------


def _mask_tenders(prepared: Prepared, fields: dict[str, Any]) -> Prepared:
    """Mask card numbers in the tenders only: marking codes and other fields pass the check digit by chance.

    A document that holds one is written anew, so a number may come out spelt otherwise (1.10 as 1.1).
    """
    masked, found = _mask(fields.get("tenders"))
    if not found:
        return prepared
    body = json.dumps({**fields, "tenders": masked}, ensure_ascii=False, separators=(",", ":")).encode()
    return replace(prepared, body=body, card_numbers=found)


def _mask(value: Any, depth: int = 0) -> tuple[Any, int]:
    if depth > TENDER_DEPTH_MAX:
        raise RecursionError(f"tenders are nested deeper than {TENDER_DEPTH_MAX}")
    if isinstance(value, dict):
        pairs = {key: _mask(inner, depth + 1) for key, inner in value.items()}
        return {key: inner for key, (inner, _) in pairs.items()}, sum(found for _, found in pairs.values())
    if isinstance(value, list):
        items = [_mask(inner, depth + 1) for inner in value]
        return [inner for inner, _ in items], sum(found for _, found in items)
    if isinstance(value, bool) or not isinstance(value, str | int):
        return value, 0
    if isinstance(value, int) and abs(value) < _NO_CARD_NUMBER:
        return value, 0
    masked, found = mask(str(value))
    return (masked, found) if found else (value, 0)
