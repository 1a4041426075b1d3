"""Rollouts as central knows them: the one that is open, when none may be, and which release each till is to run.

Whoever rolls out is elsewhere (``ansible/``). Central is asked because it sees what a till cannot see of itself, and
because there is one of it: so it is where two rollouts meet. Models are bound by the caller (``reports``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, cast

import msgspec
import peewee as pw

from wire.messages import VERSIONS, TillPresence
from wire.versions import common, listed

from . import audit, reports
from .days import rows
from .fleet_gate import Asked, Seen, Verdict, verdict
from .hours import Hours
from .late import gather
from .models import Freeze, Gap, Quarantine, Release, Rollout
from .reasons import Limits, reasons_of

Kind = Literal["rollout", "catchup", "rollback"]
Outcome = Literal["all", "some", "stopped", "nothing"]
TillOutcome = Literal["upgraded", "same", "rolled_back", "failed", "unreached", "not_tried", "returned"]

DONE: tuple[Outcome, ...] = ("all", "some")
"""How a rollout ends that went through: its release is proven and is what tills are to run."""
NEEDS_A_PERSON: tuple[TillOutcome, ...] = ("rolled_back", "failed")
"""A till that refused a release is not caught up with it again."""


class RolloutError(Exception):
    """Nothing may be rolled out now, or not so; the text says why and what to do. Nothing was changed."""


class TillReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of one till."""

    state: TillOutcome
    version: str = ""
    """What it runs at the end, where that is known."""
    why: str = ""


class Report(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What whoever rolled out tells at the end."""

    outcome: Outcome
    tills: dict[str, TillReport] = {}
    stopped_by: str = ""


def read(given: bytes) -> Report:
    """Return a report as it was given, as JSON; raises RolloutError that names the field."""
    try:
        return msgspec.json.decode(given, type=Report)
    except msgspec.DecodeError as problem:
        raise RolloutError(f"the report cannot be read: {problem}") from problem


# -- The one that is open ----------------------------------------------------------------------------------------------


def begin(version: str, wire_versions: Collection[int], kind: Kind, hours: str, note: str, at_ms: int) -> int:
    """Open a rollout and return its number; raises RolloutError if another one is open, or none may be now.

    A rollback is refused by nothing but another rollout: it is how one gets out of trouble.
    """
    if other := Rollout.get_or_none(Rollout.ended_at_ms.is_null()):
        raise RolloutError(
            f"rollout {other.id} of {other.version} is under way since {_time(other.started_at_ms)}, by {other.who};"
            f" wait for its end, or if nobody does it any more: tillstream central rollout abandon {other.id}"
        )
    if kind != "rollback":
        _refuse_unknown_wire(version, wire_versions)
        refuse_now(Hours.parse(hours), at_ms)
    if kind == "catchup" and not _is_proven(version):
        raise RolloutError(f"{version} went through no rollout yet: roll it out first, with canaries")
    row = {"version": version, "kind": kind, "who": audit.who(), "in_hours": hours, "note": note}
    number = int(Rollout.create(started_at_ms=at_ms, **row).id)
    audit.record(f"{kind} began", f"{number}: {version}", note, at_ms)
    return number


def _refuse_unknown_wire(version: str, wire_versions: Collection[int]) -> None:
    if common(wire_versions) is None:
        raise RolloutError(
            f"{version} speaks wire version {listed(wire_versions) or 'none'}, central {listed(VERSIONS)}:"
            " upgrade central first"
        )


def _is_proven(version: str) -> bool:
    went_through = (Rollout.version == version) & Rollout.outcome.in_(DONE) & (Rollout.kind == "rollout")
    return bool(Rollout.select().where(went_through).exists())


def refuse_now(hours: Hours | None, at_ms: int) -> None:
    """Raise RolloutError in a freeze and outside the hours that were named."""
    frozen = (Freeze.from_ms <= at_ms) & (at_ms < Freeze.until_ms) & Freeze.lifted_at_ms.is_null()
    for one in Freeze.select().where(frozen).order_by(Freeze.until_ms.desc()).limit(1):
        raise RolloutError(
            f"frozen until {_time(one.until_ms)} ({one.note}); to end that: tillstream central rollout thaw {one.id}"
        )
    if hours and not hours.include(at_ms):
        raise RolloutError(f"outside the hours {hours}: run it again within them")


def of_number(number: int) -> Rollout:
    """Return a rollout that is still open; raises RolloutError. A wave that goes on after that would be nobody's."""
    found: Rollout | None = Rollout.get_or_none(Rollout.id == number)
    if found is None:
        raise RolloutError(f"there is no rollout {number}; see: tillstream central rollout")
    if found.ended_at_ms is not None:
        raise RolloutError(f"rollout {number} ended at {_time(found.ended_at_ms)} ({found.outcome}): nothing goes on")
    return found


def abandon(number: int, note: str, at_ms: int) -> None:
    """End a rollout that nobody does any more; raises RolloutError."""
    rollout = of_number(number)
    _end(number, at_ms, "abandoned", "")
    audit.record("rollout abandoned", f"{number}: {rollout.version}", note, at_ms)


def end(number: int, report: Report, at_ms: int) -> None:
    """Take a rollout's report, note which release its tills are to run from now on, and close it. RolloutError."""
    rollout = of_number(number)
    there = {row.till_id: row for row in Release.select()}
    is_done, also = report.outcome in DONE, {"rollout": number, "told_at_ms": at_ms}
    told = sorted(report.tills.items())
    rows = [also | _release(rollout, till, one, there.get(till), is_done) for till, one in told]
    keep = [Release.wanted, Release.before, Release.state, Release.why, Release.rollout, Release.told_at_ms]
    for some in pw.chunked(rows, 500):
        Release.insert_many(some).on_conflict(conflict_target=[Release.till_id], preserve=keep).execute()
    _end(number, at_ms, report.outcome, msgspec.json.encode(report).decode())
    what = f"{number}: {rollout.version}: {report.outcome}"
    audit.record(f"{rollout.kind} ended", what, report.stopped_by[: audit.NOTE_MAX], at_ms)


def _end(number: int, at_ms: int, outcome: str, report: str) -> None:
    Rollout.update(ended_at_ms=at_ms, outcome=outcome, report=report).where(Rollout.id == number).execute()


def _release(rollout: Rollout, till: str, told: TillReport, there: Release | None, is_done: bool) -> dict[str, Any]:
    was = (there.wanted, there.before) if there else ("", "")
    wanted = _wanted(rollout, told, was, is_done)
    before = was[1] if wanted == was[0] else was[0]
    return {"till_id": till, "wanted": wanted, "before": before, "state": told.state, "why": told.why[: audit.NOTE_MAX]}


def _wanted(rollout: Rollout, told: TillReport, was: tuple[str, str], is_done: bool) -> str:
    """Return what a till is to run: what it was brought to, and where all went well what the others were, too."""
    if told.state in ("upgraded", "same", "returned"):
        return told.version or rollout.version
    if not is_done:
        return was[0]
    return was[1] if rollout.kind == "rollback" else rollout.version


# -- The gate ----------------------------------------------------------------------------------------------------------


def ask(number: int, wave: Collection[str], soak_s: float, tolerate: float, at_ms: int) -> Verdict:
    """Judge a wave by what central sees of it at ``at_ms``.

    Raises RolloutError if the rollout is open no more, or no further wave may go at this hour.
    """
    rollout = of_number(number)
    refuse_now(Hours.parse(rollout.in_hours), at_ms)
    asked = Asked(version=rollout.version, since_ms=rollout.started_at_ms, soak_s=soak_s)
    return verdict(wave, _seen(wave, rollout.started_at_ms, at_ms), asked, at_ms, tolerate)


def _seen(wave: Iterable[str], since_ms: int, now_ms: int) -> dict[str, Seen]:
    wanted, limits = set(wave), Limits()
    quarantined = _since(Quarantine, Quarantine.received_at_ms, pw.fn.COUNT(Quarantine.id), since_ms)
    missing = _since(Gap, Gap.found_at_ms, pw.fn.SUM(Gap.last - Gap.first + 1), since_ms)
    facts = gather()
    rows = [row for row in reports.tills() if row["till_id"] in wanted]
    return {
        row["till_id"]: Seen(
            **_shown(row["presence"], facts[row["till_id"]].clock_skew_ms),
            is_online=row["online"],
            verified_at_ms=row["verified_at_ms"] or 0,
            moved_at_ms=row["moved_at_ms"] or 0,
            is_verified=row["verified"],
            quarantined=quarantined.get(row["till_id"], 0),
            missing=missing.get(row["till_id"], 0),
            reasons=tuple(reasons_of(facts[row["till_id"]], now_ms, limits)),
        )
        for row in rows
    }


def _since(model: Any, at_ms: Any, count: Any, since_ms: int) -> dict[str, int]:
    query = model.select(model.till_id, count).where(at_ms >= since_ms).group_by(model.till_id)
    return {till: int(found) for till, found in query.tuples()}


def _shown(presence: str, skew_ms: int | None) -> dict[str, Any]:
    """Return which version runs, and since when by central's clock."""
    try:
        shown = msgspec.json.decode(presence, type=TillPresence)
    except msgspec.MsgspecError:
        return {"version": "", "running_since_ms": 0}
    return {"version": shown.agent_version, "running_since_ms": shown.started_at_ms - (skew_ms or 0)}


# -- What people look at -----------------------------------------------------------------------------------------------


def rollouts(most: int) -> list[dict[str, Any]]:
    """Return the newest rollouts; of their tills how many ended how."""
    rows: list[dict[str, Any]] = list(cast(Any, Rollout.select().order_by(Rollout.id.desc()).limit(most).dicts()))
    for row in rows:
        report = msgspec.json.decode(row.pop("report"), type=Report) if row["report"] else Report(outcome="nothing")
        states = [told.state for told in report.tills.values()]
        row |= {"outcome": row["outcome"] or "under way", "stopped_by": report.stopped_by}
        row["tills"] = {state: states.count(state) for state in sorted(set(states))}
    return rows


class _Shown(msgspec.Struct):
    """What a till showed of what it runs."""

    agent_version: str
    settings_revision: int = 0


_read_shown = msgspec.json.Decoder(_Shown).decode


def releases(wanted: str | None = None, *, missed: bool = False) -> list[dict[str, Any]]:
    """Return, till by till, which release is wanted and which one runs; ``missed``: those a catch-up is to reach.

    By two statements, and without peewee's rows: a page asks for it every few seconds, of ten thousand tills.
    """
    there = {till: release for till, *release in rows(_RELEASES)}
    shown = {till: row for till, *row in rows(_TILLS)}
    found = [_standing(till, shown.get(till), there.get(till, _NEVER)) for till in sorted({*there, *shown})]
    found = [row for row in found if wanted is None or row["wanted"] == wanted]
    return [row for row in found if is_missed(row)] if missed else found


_RELEASES = "SELECT till_id, wanted, state, why, told_at_ms FROM till_release"
_TILLS = "SELECT till_id, store_id, is_online, presence FROM till"
_NEVER = ("", "", "", None)


def _standing(till_id: str, till: Sequence[Any] | None, release: Sequence[Any]) -> dict[str, Any]:
    store_id, is_online, presence = till or ("", None, "")
    shown = _presence(presence)
    wanted, state, why, told_at_ms = release
    return {
        "till_id": till_id,
        "store_id": store_id,
        "online": None if is_online is None else bool(is_online),
        "wanted": wanted,
        "runs": shown.agent_version if shown else "",
        "settings_run": shown.settings_revision if shown else None,
        "state": state,
        "why": why,
        "told_at_ms": told_at_ms,
    }


def _presence(presence: str) -> _Shown | None:
    """Return what a till showed; None where it has not shown anything yet."""
    try:
        return _read_shown(presence)
    except msgspec.MsgspecError:
        return None


def is_missed(row: dict[str, Any]) -> bool:
    """Say whether a till is to run another release than it shows, and nothing speaks against trying again."""
    return bool(row["wanted"]) and row["wanted"] != row["runs"] and row["state"] not in NEEDS_A_PERSON


# -- Freezes -----------------------------------------------------------------------------------------------------------


def freeze(from_ms: int, until_ms: int, note: str, at_ms: int) -> int:
    """Let nothing be rolled out from then until then; returns the number, of the very same one if it is there.

    Raises RolloutError.
    """
    if until_ms <= from_ms:
        raise RolloutError("a freeze ends after it begins")
    same = (Freeze.from_ms == from_ms) & (Freeze.until_ms == until_ms) & Freeze.lifted_at_ms.is_null()
    if there := Freeze.select(Freeze.id).where(same).first():
        return int(there.id)
    number = int(Freeze.create(from_ms=from_ms, until_ms=until_ms, note=note).id)
    audit.record("freeze", f"{number}: {_time(from_ms)} to {_time(until_ms)}", note, at_ms)
    return number


def thaw(number: int, note: str, at_ms: int) -> bool:
    """Lift a freeze; False if it was lifted before. Raises RolloutError."""
    found = Freeze.get_or_none(Freeze.id == number)
    if found is None:
        raise RolloutError(f"there is no freeze {number}; see: tillstream central rollout freezes")
    if found.lifted_at_ms is not None:
        return False
    Freeze.update(lifted_at_ms=at_ms).where(Freeze.id == number).execute()
    audit.record("thaw", str(number), note, at_ms)
    return True


def freezes(at_ms: int) -> list[dict[str, Any]]:
    """Return the freezes that are not over, the next one first."""
    ahead = Freeze.lifted_at_ms.is_null() & (Freeze.until_ms > at_ms)
    return list(cast(Any, Freeze.select().where(ahead).order_by(Freeze.from_ms).dicts()))


def _time(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
