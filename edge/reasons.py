"""Why this till is late, from what it knows itself: facts in, the one reason that explains most out. Pure.

The list of reasons and their order are ``wire.reasons``, the same as at central.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from wire import versions
from wire.cuts import CUTS_MIN
from wire.messages import VERSIONS
from wire.reasons import TILL_TROUBLES, Code, Reason, foremost

DISK_FREE_MIN_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the till knows of itself now."""

    is_connected: bool
    unsent: int
    refused: str = ""
    """Why the broker does not let the till in, or the till does not believe the broker; empty if it is not so."""
    cuts: int = 0
    """How many connections of late ended soon after they had begun."""
    is_central_online: bool = True
    central_protocol: tuple[int, ...] = VERSIONS
    """Which wire versions the till's own central speaks."""
    rung_unconfirmed: int = 0
    """Doorbells since the last request that nobody came for."""
    disk_free_bytes: int | None = None
    is_outbox_full: bool = False
    intake_troubles: tuple[str, ...] = ()
    """The sources that documents do not come in from, by name."""
    forks_refused: int = 0
    """How often central's history was another one and no new stream was started: too many were."""
    is_outbox_damaged: bool = False
    """It was, and what is left of it lies beside the one that was made of it."""
    certificate: str = ""
    """Why the till's certificate is not renewed, with the days left; empty if it is, or need not be."""
    settings_error: str = ""
    automation_error: str = ""


@dataclass(slots=True)
class Lasting:
    """Remembers since when each thing has been so, while the agent runs; times are epoch milliseconds."""

    since_ms: dict[Code, int] = field(default_factory=dict)

    def update(self, facts: Facts, now_ms: int) -> Mapping[Code, int]:
        """Return what holds now and since when; what no longer holds is forgotten."""
        self.since_ms = {reason.code: self.since_ms.get(reason.code, now_ms) for reason in _all(facts)}
        return self.since_ms


def reason_of(facts: Facts, since_ms: Mapping[Code, int]) -> Reason:
    """Return the one reason that explains why the till is as it is."""
    found = foremost(_all(facts))
    return Reason(found.code, since_ms.get(found.code), found.detail)


def troubles_of(since_ms: Mapping[Code, int]) -> dict[str, int]:
    """Return what the till tells central in its presence, by code: what only it can know."""
    return {code: since_ms[code] for code in TILL_TROUBLES if code in since_ms}


def _all(facts: Facts) -> Iterator[Reason]:
    if facts.refused:
        yield Reason("login_refused", None, facts.refused)
    if not facts.is_connected:
        yield Reason("link_down" if facts.unsent else "offline")
    yield from _troubles(facts)
    if facts.unsent:
        yield _upload(facts)


def _troubles(facts: Facts) -> Iterator[Reason]:
    if versions.common(facts.central_protocol) is None:
        yield Reason("version_unknown", None, versions.differ(VERSIONS, facts.central_protocol))
    if facts.cuts >= CUTS_MIN:
        yield Reason("identity_shared", None, str(facts.cuts))
    free = facts.disk_free_bytes
    if free is not None and free < DISK_FREE_MIN_BYTES:
        yield Reason("disk_full", None, str(free))
    if facts.is_outbox_full:
        yield Reason("outbox_full")
    if facts.intake_troubles:
        yield Reason("intake_failing", None, ", ".join(facts.intake_troubles))
    if facts.forks_refused:
        yield Reason("history_forked")
    if facts.is_outbox_damaged:
        yield Reason("outbox_damaged")
    yield from _not_in_force(facts)


def _not_in_force(facts: Facts) -> Iterator[Reason]:
    if facts.certificate:
        yield Reason("certificate_not_renewed", None, facts.certificate)
    if facts.settings_error:
        yield Reason("settings_refused", None, facts.settings_error)
    if facts.automation_error:
        yield Reason("automation_refused", None, facts.automation_error)


def _upload(facts: Facts) -> Reason:
    if facts.is_connected and not facts.is_central_online:
        return Reason("central_away")
    if facts.rung_unconfirmed:
        return Reason("unanswered", None, str(facts.rung_unconfirmed))
    return Reason("uploading", None, str(facts.unsent))
