"""Which tills are late and why: what is known of all tills, read by one statement whatever their number."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from wire.messages import TillPresence
from wire.reasons import Reason
from wire.tokens import read_deny_list

from .days import rows
from .reasons import Facts, Limits, Wanted, reason_of

PRESENCES_KEPT = 16_384
"""So many presences are kept as they were read: a till shows a new one once a minute, the console looks far oftener."""

_FLEET = (
    "SELECT t.till_id, t.store_id, t.first_seen_ms, t.is_approved, t.parked_at_ms, t.parked_note, t.is_online,"
    " t.presence_at_ms, t.presence, t.clock_skew_ms, s.streams, w.stream, w.through, w.opened_at_ms, w.moved_at_ms,"
    " w.verified_at_ms, h.newest, o.heard_at_ms, k.state, k.attempts, k.created_at_ms,"
    " q.number, q.since_ms, g.number, g.since_ms"
    " FROM till t"
    " LEFT JOIN (SELECT till_id, count(*) AS streams, max(id) AS newest FROM watermark GROUP BY till_id) s"
    " ON s.till_id = t.till_id"
    " LEFT JOIN watermark w ON w.id = s.newest"
    " LEFT JOIN (SELECT till_id, stream, max(newest) AS newest FROM heard_head GROUP BY till_id, stream) h"
    " ON h.till_id = t.till_id AND h.stream = w.stream"
    " LEFT JOIN (SELECT till_id, min(heard_at_ms) AS heard_at_ms FROM heard_head GROUP BY till_id) o"
    " ON o.till_id = t.till_id"
    " LEFT JOIN (SELECT till_id, state, attempts, created_at_ms,"
    " row_number() OVER (PARTITION BY till_id ORDER BY created_at_ms, task_id) AS place FROM task"
    " WHERE finished_at_ms IS NULL AND stream IS NULL) k ON k.till_id = t.till_id AND k.place = 1"
    " LEFT JOIN (SELECT u.till_id, count(*) AS number, min(u.received_at_ms) AS since_ms FROM quarantine u"
    " WHERE u.discarded_at_ms IS NULL AND (u.code = 'conflict' OR NOT EXISTS (SELECT 1 FROM document d"
    " WHERE d.till_id = u.till_id AND d.document_id = u.document_id)) GROUP BY u.till_id) q ON q.till_id = t.till_id"
    " LEFT JOIN (SELECT till_id, CAST(sum(last - first + 1) AS BIGINT) AS number, min(found_at_ms) AS since_ms FROM gap"
    " WHERE closed_at_ms IS NULL GROUP BY till_id) g ON g.till_id = t.till_id"
    " WHERE {which} ORDER BY t.till_id"
)
"""One row for a till: its newest stream, the oldest task that asks for what is new, what waits for a person. Which
documents still wait in quarantine is what ``models.still_quarantined`` says."""


@dataclass(frozen=True, slots=True)
class Known:
    """A till as central knows it: what its reason is made of, and what people look at beside it."""

    till_id: str
    store_id: str
    facts: Facts
    parked_note: str
    stream: str | None
    through: int | None
    verified_at_ms: int | None
    presence: TillPresence | None
    """What the till last showed of itself; None while it has shown nothing that can be read."""


def late(now_ms: int, denied: Collection[str] = (), limits: Limits | None = None) -> dict[str, Reason]:
    """Return each till's reason by till id; the models are bound by the caller (``reports.reading``)."""
    return {till: reason_of(facts, now_ms, limits) for till, facts in gather(denied).items()}


def read_denied(path: str) -> frozenset[str]:
    """Return the names on the broker's deny list; none where no list is configured or there.

    Raises wire.program.ConfigError if there is one and it cannot be read.
    """
    return read_deny_list(Path(path)) if path else frozenset()


def gather(denied: Collection[str] = ()) -> dict[str, Facts]:
    """Return the facts of each till; ``denied`` are the names on the deny list."""
    return {one.till_id: one.facts for one in known(denied)}


def known(denied: Collection[str] = (), till_id: str | None = None) -> list[Known]:
    """Return what is known of each till, or of one, in the order of their names."""
    if till_id is None:
        found = rows(_FLEET.format(which="1 = 1"))
    else:
        found = rows(_FLEET.format(which="t.till_id = ?"), till_id)
    return [_known(row, denied) for row in found]


def _known(row: tuple[Any, ...], denied: Collection[str]) -> Known:
    till_id, store_id, first_seen, approved, parked, note, online, seen, shown, skew, *progress = row
    streams, stream, through, opened, moved, verified, newest, heard, *waiting = progress
    state, attempts, created, quarantined, quarantined_since, missing, gap_since = waiting
    presence = _presence(shown)
    facts = Facts(
        first_seen_ms=first_seen,
        is_approved=bool(approved),
        is_revoked=till_id in denied,
        parked_at_ms=parked,
        is_online=None if online is None else bool(online),
        presence_at_ms=seen,
        clock_skew_ms=skew,
        behind=None if stream is None else max(0, (newest or 0) - through),
        is_verified=heard is None and verified is not None and verified >= (moved or 0),
        head_heard_at_ms=heard,
        moved_at_ms=moved,
        task=None if state is None else Wanted(state, attempts, created),
        quarantined=quarantined or 0,
        quarantined_since_ms=quarantined_since,
        missing=missing or 0,
        gap_since_ms=gap_since,
        streams=streams or 0,
        stream_since_ms=opened,
        **_said(presence),
    )
    return Known(till_id, store_id, facts, note, stream, through, verified, presence)


@lru_cache(maxsize=PRESENCES_KEPT)
def _presence(shown: str) -> TillPresence | None:
    try:
        return msgspec.json.decode(shown, type=TillPresence)
    except msgspec.MsgspecError:
        return None


def _said(presence: TillPresence | None) -> dict[str, Any]:
    """Return what a till says of itself; one that has shown nothing says nothing."""
    if presence is None:
        return {}
    names = ("troubles", "disk_free_bytes", "settings_error", "protocol")
    return {name: getattr(presence, name) for name in names}
