"""What can happen to a till's agent: everything that other threads put into its inbox."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from wire.link import Acknowledged, Connected, Disconnected, Received

from .carriage import ExportAsked, ReplyHanded
from .outbox import Appended
from .renewal import CertificateSeen
from .scripts_runner import ScriptEnded


@dataclass(frozen=True, slots=True)
class TakenIn:
    """What became of a document that was handed over."""

    document_id: str
    appended: Appended
    is_oversize: bool


@dataclass(frozen=True, slots=True)
class Handed:
    """A document handed over; ``answer`` gets what became of it, or the error."""

    given: bytes
    make_id: Callable[[], str]
    answer: Future[TakenIn] = field(default_factory=Future)


@dataclass(frozen=True, slots=True)
class RingAsked:
    """Somebody rang: the hook's FIFO, a person, the socket; ``wakes`` if the POS's own records are to be read, too."""

    urgent: bool = False
    wakes: bool = True


@dataclass(frozen=True, slots=True)
class StatusAsked:
    """Somebody wants to know how the till stands; with ``pending`` also which documents central lacks."""

    pending: int = 0
    answer: Future[dict[str, Any]] = field(default_factory=Future)


@dataclass(frozen=True, slots=True)
class MacroAsked:
    """Somebody starts a macro by hand; ``answer`` gets what it does, or AutomationError if there is none."""

    code: int
    answer: Future[dict[str, Any]] = field(default_factory=Future)


@dataclass(frozen=True, slots=True)
class ReloadAsked:
    """The till's automation was edited; ``answer`` gets what is in force now."""

    answer: Future[dict[str, Any]] = field(default_factory=Future)


Asked = StatusAsked | MacroAsked | ReloadAsked | ExportAsked | ReplyHanded
Event = Connected | Disconnected | Received | Acknowledged | Handed | RingAsked | ScriptEnded | CertificateSeen | Asked
