"""Which tills are late and why: the facts of all tills, read by a fixed number of statements whatever their number."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import msgspec
import peewee as pw

from wire.messages import TillPresence
from wire.reasons import Reason
from wire.tokens import read_deny_list

from .models import Gap, HeardHead, Quarantine, Task, Till, Watermark, still_quarantined
from .reasons import Facts, Limits, Wanted, reason_of

Rows = dict[str, tuple[Any, ...]]


def late(now_ms: int, denied: Collection[str] = (), limits: Limits | None = None) -> dict[str, Reason]:
    """Return each till's reason by till id; the models are bound by the caller (``reports.reading``)."""
    return {till: reason_of(facts, now_ms, limits) for till, facts in gather(denied).items()}


def read_denied(path: str) -> frozenset[str]:
    """Return the names on the broker's deny list; none where no list is configured or there.

    Raises wire.program.ConfigError if there is one and it cannot be read.
    """
    return read_deny_list(Path(path)) if path else frozenset()


def gather(denied: Collection[str] = ()) -> dict[str, Facts]:
    """Return what is known of each till; ``denied`` are the names on the deny list."""
    streams, heads, tasks = _streams(), _heads(), _tasks()
    quarantine = _by_till(
        Quarantine,
        pw.fn.COUNT(Quarantine.id),
        pw.fn.MIN(Quarantine.received_at_ms),
        only=still_quarantined(),
    )
    gaps = _by_till(
        Gap, pw.fn.SUM(Gap.last - Gap.first + 1), pw.fn.MIN(Gap.found_at_ms), only=Gap.closed_at_ms.is_null()
    )
    return {
        till.till_id: Facts(
            first_seen_ms=till.first_seen_ms,
            is_approved=bool(till.is_approved),
            is_revoked=till.till_id in denied,
            parked_at_ms=till.parked_at_ms,
            is_online=till.is_online,
            presence_at_ms=till.presence_at_ms,
            clock_skew_ms=till.clock_skew_ms,
            task=tasks.get(till.till_id),
            **_counted("quarantined", "quarantined_since_ms", quarantine.get(till.till_id)),
            **_counted("missing", "gap_since_ms", gaps.get(till.till_id)),
            **_progress(streams.get(till.till_id), heads.get(till.till_id, {})),
            **_shown(till.presence),
        )
        for till in Till.select()
    }


def _by_till(model: Any, *columns: Any, only: Any = True) -> Rows:
    query = model.select(model.till_id, *columns).where(only).group_by(model.till_id)
    return {row[0]: row[1:] for row in query.tuples()}


def _counted(count: str, since: str, row: tuple[Any, ...] | None) -> dict[str, Any]:
    return dict(zip((count, since), row, strict=True)) if row else {}


def _streams() -> dict[str, tuple[int, Watermark]]:
    """Return how many streams each till has had, and its newest."""
    found: dict[str, tuple[int, Watermark]] = {}
    for mark in Watermark.select().order_by(Watermark.id):
        found[mark.till_id] = (found[mark.till_id][0] + 1 if mark.till_id in found else 1, mark)
    return found


def _heads() -> dict[str, dict[str, tuple[int, int]]]:
    """Return for each till and stream the newest number it rang for, and when the oldest head was heard."""
    newest, oldest = pw.fn.MAX(HeardHead.newest), pw.fn.MIN(HeardHead.heard_at_ms)
    query: Any = HeardHead.select(HeardHead.till_id, HeardHead.stream, newest, oldest)
    found: dict[str, dict[str, tuple[int, int]]] = {}
    for till, stream, up_to, since_ms in query.group_by(HeardHead.till_id, HeardHead.stream).tuples():
        found.setdefault(till, {})[stream] = (up_to, since_ms)
    return found


def _tasks() -> dict[str, Wanted]:
    """Return the open task of each till that asks for what is new; ranges asked for once more wait behind it."""
    columns = (Task.till_id, Task.state, Task.attempts, Task.created_at_ms)
    query: Any = Task.select(*columns).where(Task.finished_at_ms.is_null() & Task.stream.is_null())
    return {till: Wanted(*row) for till, *row in query.order_by(Task.created_at_ms.desc()).tuples()}


def _progress(stream: tuple[int, Watermark] | None, heads: dict[str, tuple[int, int]]) -> dict[str, Any]:
    """Return how far the newest stream has come, and whether that is all the till ever rang for."""
    heard_ms = min((since_ms for _, since_ms in heads.values()), default=None)
    if stream is None:
        return {"head_heard_at_ms": heard_ms}
    count, mark = stream
    verified_ms, moved_ms = mark.verified_at_ms, mark.moved_at_ms
    return {
        "head_heard_at_ms": heard_ms,
        "streams": count,
        "stream_since_ms": mark.opened_at_ms,
        "behind": max(0, heads.get(mark.stream, (0, 0))[0] - mark.through),
        "moved_at_ms": moved_ms,
        "is_verified": not heads and verified_ms is not None and verified_ms >= (moved_ms or 0),
    }


def _shown(presence: str) -> dict[str, Any]:
    """Return what the till's last presence says; a till that has shown none says nothing."""
    try:
        shown = msgspec.json.decode(presence, type=TillPresence)
    except msgspec.MsgspecError:
        return {}
    return {
        "troubles": shown.troubles,
        "disk_free_bytes": shown.disk_free_bytes,
        "settings_error": shown.settings_error,
        "protocol": shown.protocol,
    }
