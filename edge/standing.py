"""How the till stands: the one reason, the status for people, the presence for central, the line for the cashier.

It looks at most once a second, and only after something happened; what it finds out, it tells and does not decide by.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from wire import codec
from wire.cuts import Cuts
from wire.messages import VERSIONS, TillPresence, said
from wire.program import installed_version
from wire.reasons import Reason
from wire.translation import tell

from .automation import TillAutomation
from .cashier import CashierFile
from .config import EdgeConfig
from .intake import folder
from .outbox import Outbox
from .reasons import Facts, Lasting, reason_of, troubles_of
from .renewal import CertificateSeen
from .salvage import damaged_files
from .syps import Syps
from .textfile import Figures, FiguresFile, size_bytes

LOOK_EVERY_S = 1.0


class Intake(Protocol):
    """The readers of a POS's own records, as far as the agent needs them."""

    def wake(self) -> None:
        """Read now."""

    def troubles(self) -> Mapping[str, int]:
        """Return the sources that documents do not come in from, and since when."""

    def status(self) -> list[dict[str, Any]]:
        """Return how each reader stands."""


class Standing:
    """How one till stands. Used by the agent's thread only; ``clock_ms`` gives epoch milliseconds."""

    def __init__(
        self,
        config: EdgeConfig,
        outbox: Outbox,
        core: Syps,
        automation: TillAutomation,
        clock_ms: Callable[[], int],
        intake: Intake | None = None,
        cashier: CashierFile | None = None,
    ) -> None:
        self._config, self._outbox, self._syps, self._automation = config, outbox, core, automation
        self._clock_ms, self._intake, self._cashier = clock_ms, intake, cashier
        self._starts, self._started_at_ms = outbox.count_start(), clock_ms()
        self._lasting = Lasting()
        self._told: dict[str, int] = {}
        self._look_at = 0.0
        self._is_news = True
        self.is_connected = False
        self.last_error, self.refused = "", ""
        self.cuts = Cuts()
        self.is_outbox_full = False
        self.certificate: CertificateSeen | None = None
        self.script_errors: dict[str, str] = {}
        self.intake_errors = Counter(handed_over=0, spool=0)
        self.last_ack_ms: int | None = None
        """When central last confirmed documents; None while it has not since the start."""
        path = config.metrics_path
        self._figures = FiguresFile(path, config.metrics_every_s) if path else None

    @property
    def automation_error(self) -> str:
        """What of the automation does not run, and why; empty if it all does."""
        return self._automation.local_error or next(iter(self.script_errors.values()), "")

    def on_news(self) -> None:
        """Look again soon: something happened."""
        self._is_news = True

    def on_connected(self, now: float) -> None:
        """Note that the broker let us in."""
        self.is_connected, self.last_error, self.refused = True, "", ""
        self.cuts.begin(now)

    def on_disconnected(self, why: str, now: float, *, is_refused: bool) -> None:
        """Note that the connection ended, or could not be made."""
        self.is_connected, self.last_error, self.refused = False, why, why if is_refused else ""
        self.cuts.end(now)

    def look(self, now: float) -> bool:
        """Look, if it is time to; tell whether central should be told of a trouble that came or went."""
        if self._cashier:
            self._cashier.show(self._syps.head.unsent, connected=self.is_connected, now=now)
        if self._figures and self._figures.is_due(now):
            self._figures.write(self.figures(), now)
        if not self._is_news or now < self._look_at:
            return False
        self._is_news, self._look_at = False, now + LOOK_EVERY_S
        self.cuts.forget(now)
        return self.troubles() != self._told

    def next_deadline(self) -> float | None:
        """Return when ``look`` is needed next; None while there is no news."""
        due = [self._look_at] if self._is_news else []
        due += [self._figures.next_at] if self._figures else []
        cashier_at = self._cashier.next_deadline() if self._cashier else None
        return min([*due, cashier_at] if cashier_at is not None else due, default=None)

    def stop(self) -> None:
        """Take the cashier's line and the figures away: a till whose agent does not run must not look connected."""
        if self._cashier:
            self._cashier.remove()
        if self._figures:
            self._figures.remove()

    def figures(self) -> Figures:
        """Return the figures for node_exporter."""
        head = self._syps.head
        readers = {one["name"]: one["errors"] for one in self._intake.status()} if self._intake else {}
        return Figures(
            unsent=head.unsent,
            stored=max(0, head.stored - head.oldest + 1),
            outbox_bytes=size_bytes(self._config.outbox_path),
            last_ack_ms=self.last_ack_ms,
            intake_errors={**self.intake_errors, **readers},
        )

    def troubles(self) -> dict[str, int]:
        """Return what keeps the till from working as it should: reason code, and since when in epoch milliseconds."""
        return troubles_of(self._lasting.update(self._facts(), self._clock_ms()))

    def reason(self) -> Reason:
        """Return the one reason that explains why the till is as it is."""
        facts = self._facts()
        return reason_of(facts, self._lasting.update(facts, self._clock_ms()))

    def _facts(self) -> Facts:
        return Facts(
            is_connected=self.is_connected,
            unsent=self._syps.head.unsent,
            refused=self.refused,
            cuts=self.cuts.count,
            is_central_online=self._syps.is_central_online,
            central_protocol=self._syps.central_protocol,
            rung_unconfirmed=self._syps.unconfirmed,
            disk_free_bytes=self._disk_free_bytes(),
            is_outbox_full=self.is_outbox_full,
            intake_troubles=tuple(sorted(self._intake.troubles())) if self._intake else (),
            forks_refused=self._syps.forks_refused,
            is_outbox_damaged=bool(damaged_files(self._config.outbox_path)),
            certificate=self.certificate.trouble(self._clock_ms() / 1000) if self.certificate else "",
            settings_error=self._automation.settings_error,
            automation_error=self.automation_error,
        )

    def presence(self, generation: int, *, online: bool) -> bytes:
        """Return the presence message of one connection; connections count up over restarts.

        The link's own thread asks for the offline one, its will; what it says of troubles was found out before.
        """
        masked = self._outbox.card_numbers_masked
        if online:
            self._told = self.troubles()
        message = said(
            TillPresence,
            online=online,
            protocol=VERSIONS,
            connection=self._starts * 1_000_000 + generation,
            store_id=self._config.store_id,
            agent_version=installed_version(),
            boot_id=self._syps.boot_id,
            started_at_ms=self._started_at_ms,
            clock_ms=self._clock_ms(),
            disk_free_bytes=self._disk_free_bytes(),
            unsent=self._syps.head.unsent,
            settings_revision=self._automation.revision,
            settings_refused=self._automation.settings_refused,
            settings_error=self._automation.settings_error,
            troubles=self._told,
            findings={"card_number": masked} if masked else {},
        )
        return codec.encode(message)

    def status(self, pending: int = 0) -> dict[str, Any]:
        """Return how the till stands, for people and their scripts; see ``outbox_status`` for the outbox's part."""
        return {
            "agent": "running",
            "version": installed_version(),
            "till_id": self._config.till_id,
            "connected": self.is_connected,
            "last_error": self.last_error,
            "reason": reason_told(self.reason(), self._config),
            **outbox_status(self._outbox, self._clock_ms(), pending),
            "spooled": folder.count(Path(self._config.spool_dir)),
            "automation": {**self._automation.told(), "error": self.automation_error},
            "troubles": self.troubles(),
            "certificate": self._certificate(),
            "intake": self._intake.status() if self._intake else [],
            "counters": asdict(self._syps.counters),
        }

    def _certificate(self) -> dict[str, Any]:
        """Return how the till's certificate stands; nothing where it shows none."""
        if self.certificate is None:
            return {}
        days = self.certificate.days_left(self._clock_ms() / 1000)
        return {"days_left": days, "problem": self.certificate.problem}

    def _disk_free_bytes(self) -> int | None:
        try:
            room = os.statvfs(self._config.state_dir)
        except OSError:
            return None
        return room.f_bavail * room.f_frsize


def reason_told(reason: Reason, config: EdgeConfig) -> dict[str, Any]:
    """Return a reason as it is shown: its code, since when, and both texts in the till's language."""
    title, next_step = tell(reason, config.language)
    told = {"code": reason.code, "severity": reason.kind.severity, "since_ms": reason.since_ms}
    return {**told, "detail": reason.detail, "title": title, "next_step": next_step}


def outbox_status(outbox: Outbox, clock_ms: int, pending: int = 0) -> dict[str, Any]:
    """Return what the outbox alone can tell; times in epoch milliseconds, ages in seconds."""
    head = outbox.head()
    oldest = head.oldest_unsent_at_ms
    return {
        "stream": head.stream,
        "oldest": head.oldest,
        "newest": head.newest,
        "stored": head.stored,
        "backed_up": outbox.backed_up,
        "unsent": head.unsent,
        "oldest_unsent_age_s": None if oldest is None else max(0, clock_ms - oldest) / 1000,
        "central_id": outbox.central_id,
        "card_numbers_masked": outbox.card_numbers_masked,
        **({"pending": outbox.unsent_documents(pending)} if pending else {}),
    }


def wall_clock_ms() -> int:
    """Return the time of day in epoch milliseconds: it labels, and neither orders nor identifies."""
    return time.time_ns() // 1_000_000
