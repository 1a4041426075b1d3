"""A small chain of shops in a database, written by the code that writes it in real life: something of everything.

042 Two tills that sold: one is verified, one is behind and offline; a third is parked.
007 One till with documents in quarantine, one that only showed itself, one with a gap that nobody has closed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from unittest.mock import patch

from factories import a_document, a_parcel, a_receipt, a_store, a_stream, as_json, digest_of

from central import consumers, decisions, requests, rollouts, settings
from central.batch import Heard, NewStream
from central.consumer import Cursor
from central.day_notes import DayNotes
from central.judge import Accepted, Refused, judge
from central.models import MODELS
from central.service import wall_clock_ms
from central.store_clock import day_after
from fleet.shift import ShiftBook
from wire.automation import FACTORY
from wire.codec import encode
from wire.messages import TillLimits, TillPresence, said

HOUR_MS = 3_600_000
VERIFIED, BEHIND, PARKED = "042-01", "042-02", "042-03"
QUARANTINED, SILENT, WITH_GAP = "007-01", "007-02", "007-03"
TILLS = (VERIFIED, BEHIND, PARKED, QUARANTINED, SILENT, WITH_GAP)
ACCEPTED_TODAY = ("drawer-opened-1", "drawer-opened-2")
"""The documents in quarantine that are accepted when they are judged again."""
BI_HAS = 10
"""So many documents the consumer bi has taken over."""
VERSION, NEW_VERSION = "1.0.0", "1.1.0"


@dataclass
class Shops:
    """The database, and what a test needs to know of it."""

    url: str
    now_ms: int
    today: str
    yesterday: str
    a_document: str = f"{VERIFIED}-receipt"
    documents: dict[str, list[bytes]] = field(default_factory=dict)
    """What each till sent, in order."""


def furnish(url: str, *, receipts: int = 5, now_ms: int | None = None) -> Shops:
    """Fill an empty database; ``receipts`` for each till and day."""
    now_ms = now_ms or wall_clock_ms()
    today = datetime.fromtimestamp(now_ms / 1000, UTC).date().isoformat()
    shops = Shops(url, now_ms, today, day_after(today, -1))
    store = a_store(url)
    try:
        for number, till in enumerate((VERIFIED, BEHIND, PARKED, QUARANTINED, WITH_GAP), 1):
            _sell(shops, store, till, a_stream(number), receipts)
        _show(store, shops)
        _fall_behind(store, shops)
        _quarantine(shops, store)
        _lose(shops, store)
        _upload(store, shops)
        with store.database.bind_ctx(MODELS):
            _decide(shops)
        while DayNotes(store.database).note_days(shops.now_ms, 100):
            pass
    finally:
        store.close()
    return shops


def _store_of(till: str) -> str:
    return till.partition("-")[0]


# -- What tills sold ---------------------------------------------------------------------------------------------------


def _sell(shops: Shops, store, till: str, stream: str, receipts: int) -> None:
    """Yesterday a whole shift with its sums, today one that is still open."""
    store.open_streams([NewStream(till, stream, ())], {}, shops.now_ms - 48 * HOUR_MS)
    made = [*_shift(shops, till, shops.yesterday, 1, receipts), *_shift(shops, till, shops.today, 2, receipts)[:-1]]
    shops.documents[till] = []
    _send(shops, store, till, stream, [as_json(one) for one in made])


def _shift(shops: Shops, till: str, day: str, number: int, receipts: int) -> list[dict]:
    book, made = ShiftBook(), []
    head = {
        "till_id": till, "store_id": _store_of(till), "business_day": day, "shift_number": number,
        "closed_at": f"{day}T10:00:00+03:00",
    }  # fmt: skip
    name = f"{till}-{day}"
    made.append(a_document(f"{name}-open", "shift_open", **head))
    for receipt in range(1, receipts + 1):
        made.append(a_receipt(f"{name}-{receipt}", total_minor=100 * receipt, receipt_number=receipt, **head))
        book.add(made[-1])
    made.append(a_document(f"{name}-close", "shift_close", shift=book.summary(), **head))
    return made


def _send(shops: Shops, store, till: str, stream: str, bodies: list[bytes]) -> None:
    sent = shops.documents[till]
    parcel = a_parcel(bodies, till, before=sent, stream=stream)
    assert store.ingest([parcel], {}, shops.now_ms - HOUR_MS)[0].kind == "advanced"
    sent += bodies


# -- How they are ------------------------------------------------------------------------------------------------------


def _show(store, shops: Shops) -> None:
    """All tills show themselves; the one that is behind has been offline for an hour."""
    rows = []
    for till in TILLS:
        is_online = till not in (BEHIND, PARKED)
        presence = said(
            TillPresence, online=is_online, connection=1, boot_id="boot-1", store_id=_store_of(till),
            agent_version=VERSION, started_at_ms=shops.now_ms - 24 * HOUR_MS, clock_ms=shops.now_ms,
            disk_free_bytes=8 * 2**30, unsent=0,
        )  # fmt: skip
        at_ms = shops.now_ms - (0 if is_online else HOUR_MS)
        rows.append((_store_of(till), is_online, 1, at_ms, encode(presence).decode(), 0, till))
    verified = [(till, a_stream(number)) for number, till in ((1, VERIFIED), (4, QUARANTINED))]
    store.note(shops.now_ms, presences=rows, verified=verified)


def _fall_behind(store, shops: Shops) -> None:
    """It rang for 12 documents more than central has."""
    sent = len(shops.documents[BEHIND])
    head = Heard(a_stream(2), "boot-1", sent + 12, b"\1" * 16)
    store.note(shops.now_ms - HOUR_MS, heads=[(BEHIND, head)])


def _quarantine(shops: Shops, store) -> None:
    """One is no JSON, one of another till, one adds up wrongly; the version before this one refused the rest."""
    head = {"till_id": QUARANTINED, "store_id": "007", "business_day": shops.today}
    wrong = [
        b'{"document_id":"broken","raw":"bm90IGpzb24="}',
        as_json(a_receipt("other-till", **{**head, "till_id": "999-01"})),
        as_json(a_receipt("wrong-total", **head) | {"totals": {"total_minor": 1}}),
        *(as_json(a_document(name, **head)) for name in ACCEPTED_TODAY),
    ]
    with patch("central.store.judge", _earlier):
        _send(shops, store, QUARANTINED, a_stream(4), wrong)


def _earlier(till: str, body: bytes) -> Accepted | Refused:
    """Judge as a version that knew one type less."""
    verdict = judge(till, body)
    if isinstance(verdict, Accepted) and verdict.transaction_type == "no_sale":
        return Refused(verdict.document_id, "bad_schema", "Invalid enum value 'no_sale' - at `$.transaction_type`")
    return verdict


def _lose(shops: Shops, store) -> None:
    """It rang for three documents under another history: they cannot come any more."""
    through = len(shops.documents[WITH_GAP])
    agreed = digest_of(shops.documents[WITH_GAP][:-3], a_stream(5))
    head = Heard(a_stream(5), "boot-0", through, b"\2" * 16, after=through - 3, agreed=agreed)
    store.note(
        shops.now_ms - HOUR_MS, lost=[(WITH_GAP, head, f"rung for up to {through} by boot boot-0, then replaced")]
    )


def _upload(store, shops: Shops) -> None:
    """Tasks that have ended, well and badly, and one that rests between two attempts."""
    at, ended = shops.now_ms - 2 * HOUR_MS, shops.now_ms - HOUR_MS
    whole = (None, None, None)
    store.note(
        shops.now_ms,
        tasks=[
            ("1.1.1", VERIFIED, 1, "done", "doorbell", 1, at, ended, "", *whole),
            (
                "1.1.2",
                BEHIND,
                1,
                "failed",
                "sweep",
                12,
                at,
                shops.now_ms - HOUR_MS,
                "no answer in 30 s",
                None,
                None,
                None,
            ),
            ("1.1.3", QUARANTINED, 1, "resting", "retry", 3, at, None, "", *whole),
            ("1.1.4", WITH_GAP, 1, "expired", "doorbell", 5, at, ended, "", *whole),
        ],
    )


# -- What people decided -----------------------------------------------------------------------------------------------


def _decide(shops: Shops) -> None:
    at_ms = shops.now_ms
    decisions.park(PARKED, "in repair", at_ms)
    scope = requests.Scope(till=VERIFIED, day=shops.yesterday)
    requests.leave(scope, requests.plan(scope), at_ms, "the accountant asked")
    settings.tag(VERIFIED, "pilot", at_ms, "")
    settings.put("fleet", "", settings.Body(automation=FACTORY), at_ms, "as the factory has it")
    settings.put("tag", "pilot", settings.Body(automation=FACTORY, limits=TillLimits(retention_days=40)), at_ms, "")
    consumers.create("1c-main", Cursor(1, 0), at_ms, "1C of the head office")
    consumers.create("bi", Cursor(1, BI_HAS), at_ms, "")
    number = rollouts.begin(NEW_VERSION, (1, 2), "rollout", "", "the autumn release", at_ms - 3 * HOUR_MS)
    report = {
        "outcome": "some",
        "tills": {
            VERIFIED: {"state": "upgraded", "version": NEW_VERSION},
            BEHIND: {"state": "unreached", "why": "no route to host"},
            QUARANTINED: {"state": "failed", "why": "the disk is almost full"},
        },
    }
    rollouts.end(number, rollouts.read(json.dumps(report).encode()), at_ms - HOUR_MS)
    rollouts.freeze(at_ms + 24 * HOUR_MS, at_ms + 48 * HOUR_MS, "the last days of the year", at_ms)
