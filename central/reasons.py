"""Why a till is late, from what central knows of it: facts in, the one reason that explains most out. Pure.

Rule 1: the reason is the first in the list of ``wire.reasons`` that holds; there is no second order.
Rule 2: unknown is never shown as fine: «up to date» needs a proof.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from wire import versions
from wire.messages import FIRST, VERSIONS
from wire.reasons import TILL_TROUBLES, Code, Reason, foremost


@dataclass(frozen=True, slots=True)
class Limits:
    """When something counts as wrong."""

    agent_silent_periods: float = 3.0
    """After so many missed presences a till that counts as connected is called silent."""
    presence_every_s: float = 60.0
    clock_skew_max_s: float = 300.0
    disk_free_min_bytes: int = 64 * 2**20
    unanswered_s: float = 60.0
    """A first request that is older was not answered; central asks again after ``timeout_s`` and says so then."""
    take_up_s: float = 60.0
    """Central's worker takes up what it hears within seconds; after this it is not there."""
    sweep_s: float = 900.0
    """A head that no task asks for is asked for by the sweep within this time, given up on before or not."""

    @property
    def agent_silent_s(self) -> float:
        """After how long without a presence a till counts as silent."""
        return self.agent_silent_periods * self.presence_every_s


@dataclass(frozen=True, slots=True)
class Wanted:
    """The open task that asks a till for what is new."""

    state: str
    attempts: int
    created_at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What central knows of one till; None is unknown, times are epoch milliseconds."""

    first_seen_ms: int
    is_approved: bool = True
    is_revoked: bool = False
    parked_at_ms: int | None = None
    is_online: bool | None = None
    presence_at_ms: int | None = None
    behind: int | None = None
    """How many documents are known to be missing; None while no stream of the till is known."""
    is_verified: bool = False
    head_heard_at_ms: int | None = None
    """When the oldest head was heard that the watermark has not reached."""
    moved_at_ms: int | None = None
    """When documents last came."""
    task: Wanted | None = None
    quarantined: int = 0
    quarantined_since_ms: int | None = None
    missing: int = 0
    """How many documents the open gaps are."""
    gap_since_ms: int | None = None
    streams: int = 0
    stream_since_ms: int | None = None
    clock_skew_ms: int | None = None
    troubles: Mapping[str, int] = field(default_factory=dict)
    disk_free_bytes: int | None = None
    settings_error: str = ""
    protocol: tuple[int, ...] = FIRST
    """Which wire versions the till speaks."""


def reason_of(facts: Facts, now_ms: int, limits: Limits | None = None) -> Reason:
    """Return the one reason that explains why a till is as it is at ``now_ms``."""
    return foremost(reasons_of(facts, now_ms, limits or Limits()))


def reasons_of(facts: Facts, now_ms: int, limits: Limits) -> Iterator[Reason]:
    """Return every reason that holds, the foremost among them."""
    yield from _decided(facts)
    yield from _link(facts, now_ms, limits)
    yield from _troubles(facts, limits)
    if facts.behind:
        yield _upload(facts, now_ms, limits)
    yield from _findings(facts, limits)
    if not facts.is_verified:
        yield Reason("unproven", facts.head_heard_at_ms or facts.stream_since_ms or facts.first_seen_ms)


def _decided(facts: Facts) -> Iterator[Reason]:
    if facts.parked_at_ms is not None:
        yield Reason("parked", facts.parked_at_ms)
    if facts.is_revoked:
        yield Reason("revoked")
    if not facts.is_approved:
        yield Reason("not_approved", facts.first_seen_ms)


def _link(facts: Facts, now_ms: int, limits: Limits) -> Iterator[Reason]:
    seen_ms = facts.presence_at_ms
    if seen_ms is None:
        if not facts.streams:
            yield Reason("never_seen", facts.first_seen_ms)
        return
    if facts.is_online is False:
        yield Reason("offline" if facts.is_verified else "link_down", seen_ms)
    elif now_ms - seen_ms > limits.agent_silent_s * 1000:
        yield Reason("agent_silent", seen_ms)


def _troubles(facts: Facts, limits: Limits) -> Iterator[Reason]:
    """Take what the till says of itself, and what its figures say."""
    if versions.common(facts.protocol) is None:
        yield Reason("version_unknown", facts.presence_at_ms, versions.differ(facts.protocol, VERSIONS))
    for code, since_ms in facts.troubles.items():
        known = next((one for one in TILL_TROUBLES if one == code), None)
        yield (
            Reason(known, since_ms, _trouble_detail(known, facts)) if known else Reason("other_trouble", since_ms, code)
        )
    free = facts.disk_free_bytes
    if free is not None and free < limits.disk_free_min_bytes and "disk_full" not in facts.troubles:
        yield Reason("disk_full", None, str(free))
    if facts.settings_error and "settings_refused" not in facts.troubles:
        yield Reason("settings_refused", None, facts.settings_error)
    if facts.streams > 1 and not facts.is_verified:
        yield Reason("history_forked", facts.stream_since_ms)


def _trouble_detail(code: Code, facts: Facts) -> str:
    """Return what a trouble's text names; the till sends its code only, its figures come with its presence."""
    if code == "disk_full" and facts.disk_free_bytes is not None:
        return str(facts.disk_free_bytes)
    return facts.settings_error if code == "settings_refused" else ""


def _upload(facts: Facts, now_ms: int, limits: Limits) -> Reason:
    """Say how far the upload is that would bring what is missing."""
    task, heard_ms = facts.task, facts.head_heard_at_ms
    if task is None:
        heard_s = 0.0 if heard_ms is None else (now_ms - heard_ms) / 1000
        return Reason("central_away", heard_ms) if heard_s > limits.sweep_s else _uploading(facts)
    since_ms, news_ms = task.created_at_ms, max(task.created_at_ms, facts.moved_at_ms or 0)
    quiet_s = (now_ms - news_ms) / 1000  # A long backlog is one task; while documents come it is being answered.
    match task.state:
        case "waiting" if quiet_s > limits.take_up_s:
            return Reason("central_away", since_ms)
        case "queued" if task.attempts < 2:
            return Reason("waiting_for_admission", since_ms)
        case "queued" | "resting" if task.attempts:
            return Reason("unanswered", since_ms, str(task.attempts))
        case "requested" if task.attempts > 1 or quiet_s > limits.unanswered_s:
            return Reason("unanswered", since_ms, str(task.attempts))
    return _uploading(facts)


def _uploading(facts: Facts) -> Reason:
    return Reason("uploading", facts.head_heard_at_ms, str(facts.behind))


def _findings(facts: Facts, limits: Limits) -> Iterator[Reason]:
    if facts.missing:
        yield Reason("gap_open", facts.gap_since_ms, str(facts.missing))
    if facts.quarantined:
        yield Reason("quarantined", facts.quarantined_since_ms, str(facts.quarantined))
    skew_ms = facts.clock_skew_ms
    if skew_ms is not None and abs(skew_ms) > limits.clock_skew_max_s * 1000:
        yield Reason("clock_skew", None, f"{skew_ms / 1000:+.0f}")
