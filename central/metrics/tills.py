"""The figures of each till, written line by line: tens of thousands of series in well under a second.

Timestamps rather than ages: Prometheus subtracts. What is not known has no line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from central.late import Known
from central.reasons import Facts
from wire.messages import TillPresence

Figure = tuple[str, str, Callable[[Facts], int | float | None]]


def _seconds(at_ms: int | None) -> int | None:
    return None if at_ms is None else at_ms // 1000


_FIGURES: tuple[Figure, ...] = (
    (
        "tillstream_till_up",
        "Whether the till's connection to the broker stands, as it said last.",
        lambda one: None if one.is_online is None else int(one.is_online),
    ),
    (
        "tillstream_till_parked",
        "Whether the till is not expected to report.",
        lambda one: int(one.parked_at_ms is not None),
    ),
    (
        "tillstream_till_pending_receipts",
        "Documents it rang for that have not come, as far as is known.",
        lambda one: one.behind,
    ),
    (
        "tillstream_till_oldest_pending_timestamp_seconds",
        "Since when the oldest of them is known of; no line while none is pending.",
        lambda one: _seconds(one.head_heard_at_ms) if one.behind else None,
    ),
    (
        "tillstream_till_last_heartbeat_timestamp_seconds",
        "When it last showed itself.",
        lambda one: _seconds(one.presence_at_ms),
    ),
    (
        "tillstream_till_last_receipt_timestamp_seconds",
        "When documents of it were last committed.",
        lambda one: _seconds(one.moved_at_ms),
    ),
    (
        "tillstream_till_clock_skew_seconds",
        "How far its clock was ahead of central's when it last showed itself.",
        lambda one: None if one.clock_skew_ms is None else one.clock_skew_ms / 1000,
    ),
)


def lines(tills: Iterable[Known], offsets: Iterable[tuple[str, int]]) -> bytes:
    """Return every till's figures in Prometheus' text format; ``offsets`` are those of stores, in seconds."""
    labelled = [(f'store="{escaped(one.store_id)}",till="{one.till_id}"', one) for one in tills]
    text: list[str] = []
    for name, about, figure in _FIGURES:
        text += _family(name, about, ((labels, figure(one.facts)) for labels, one in labelled))
    runs = ((f"{labels},{_runs(one.presence)}", 1) for labels, one in labelled if one.presence)
    about = "Which version its agent runs, and which revision of the settings, as labels."
    text += _family("tillstream_agent_info", about, runs)
    of_stores = ((f'store="{escaped(store)}"', offset) for store, offset in offsets)
    about = "How far a store's time of day is ahead of UTC: rules that go by opening hours add it to time()."
    text += _family("tillstream_store_utc_offset_seconds", about, of_stores)
    return "".join(text).encode()


def _runs(presence: TillPresence) -> str:
    return f'version="{escaped(presence.agent_version)}",settings_revision="{presence.settings_revision}"'


def _family(name: str, about: str, rows: Iterable[tuple[str, int | float | None]]) -> list[str]:
    head = f"# HELP {name} {about}\n# TYPE {name} gauge\n"
    return [head, *[f"{name}{{{labels}}} {value}\n" for labels, value in rows if value is not None]]


def escaped(text: str) -> str:
    """Return a label's value as the text format wants it."""
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
