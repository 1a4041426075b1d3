"""May the next wave of a rollout go? What central sees of the tills that have switched, judged. Pure: no clock, no IO.

The till's own health check has passed by then. What only central can see is asked here: that the new release is
connected and stays so, that documents still come, and that they are not refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from wire.reasons import Reason

State = Literal["well", "waiting", "ill"]
"""«waiting» may still become well; what is «ill» does not by itself."""

FRESH_S = 60.0
"""A till that sells is hardly ever even: it counts as emptying its outbox if documents came within this time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the tills of a wave are to show."""

    version: str
    since_ms: int
    """When the rollout began: older trouble is not its doing."""
    soak_s: float = 0.0
    """So long the release must have run without a restart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What central knows of one till; times are epoch milliseconds of central's clock."""

    version: str
    is_online: bool | None
    running_since_ms: int
    """When its process started."""
    verified_at_ms: int = 0
    """When all that it rang for was last found here."""
    moved_at_ms: int = 0
    """When documents last came."""
    is_verified: bool = False
    quarantined: int = 0
    """Documents of it that were refused since the rollout began."""
    missing: int = 0
    """Documents that were found lost since then."""
    reasons: tuple[Reason, ...] = ()


@dataclass(frozen=True, slots=True)
class Judgement:
    """How one till stands, and why it is not well."""

    state: State
    why: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the next wave may go; ``is_hopeless`` where waiting would not help."""

    is_open: bool
    is_hopeless: bool
    tills: Mapping[str, Judgement]

    def failing(self) -> dict[str, str]:
        """Return who is not well, and why."""
        return {till: one.why for till, one in self.tills.items() if one.state != "well"}


def verdict(wave: Iterable[str], seen: Mapping[str, Seen], asked: Asked, now_ms: int, tolerate: float) -> Verdict:
    """Judge a wave; ``tolerate`` is how many percent of it may be other than well."""
    tills = {till: judge(seen.get(till), asked, now_ms) for till in wave}
    states = [one.state for one in tills.values()]
    bearable = len(tills) * tolerate / 100
    return Verdict(len(tills) - states.count("well") <= bearable, states.count("ill") > bearable, tills)


def judge(seen: Seen | None, asked: Asked, now_ms: int) -> Judgement:
    """Say how one till stands."""
    if seen is None:
        return Judgement("waiting", "it has never connected")
    if ill := _illness(seen):
        return Judgement("ill", ill)
    if why := _lacks(seen, asked, now_ms):
        return Judgement("waiting", why)
    return Judgement("well")


def _illness(seen: Seen) -> str:
    if seen.quarantined:
        return f"{seen.quarantined} of its documents were refused since the rollout began"
    if seen.missing:
        return f"{seen.missing} of its documents were found lost since the rollout began"
    strange = next((one for one in seen.reasons if one.code == "version_unknown"), None)
    return f"it has no wire version in common with central: {strange.detail}" if strange else ""


def _lacks(seen: Seen, asked: Asked, now_ms: int) -> str:
    """Return what is still missing for it to be well."""
    if seen.version != asked.version:
        return f"it shows version {seen.version or 'unknown'}"
    if seen.is_online is not True:
        return "it is not connected"
    if new := [one.code for one in seen.reasons if _is_new(one, asked)]:
        return f"it has a new trouble: {', '.join(new)}"
    if max(seen.verified_at_ms, seen.moved_at_ms) < seen.running_since_ms:
        return "nothing has come from it since it runs"
    if not seen.is_verified and now_ms - seen.moved_at_ms > FRESH_S * 1000:
        return "its outbox does not go down"
    soaked_s = (now_ms - max(seen.running_since_ms, asked.since_ms)) / 1000
    return f"it runs for {soaked_s:.0f} of {asked.soak_s:.0f} s" if soaked_s < asked.soak_s else ""


def _is_new(reason: Reason, asked: Asked) -> bool:
    is_of_now = reason.since_ms is not None and reason.since_ms >= asked.since_ms
    return is_of_now and reason.kind.severity == "act"
