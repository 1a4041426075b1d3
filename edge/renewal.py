"""Watches this till's certificate from a thread of its own, renews it before it expires, and tells how it stands."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from wire.tls import Certificate, TlsError, look_at, when

from .config import EdgeConfig
from .enrolment import EnrolmentError, renew

log = logging.getLogger("tillstream.edge")

LOOK_EVERY_S = 3600.0
"""Another program may have replaced the file, or the clock may have been set."""
DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class CertificateSeen:
    """How the certificate stands: when it ends, in epoch seconds, and what keeps it from being renewed."""

    not_after_s: float | None
    problem: str = ""

    def days_left(self, now_s: float) -> float | None:
        """Return how many days are left; below 0 once it has expired, None if nobody can tell."""
        return None if self.not_after_s is None else round((self.not_after_s - now_s) / DAY_S, 2)

    def trouble(self, now_s: float) -> str:
        """Return what a person should know; empty while all is well."""
        days = self.days_left(now_s)
        return f"{'?' if days is None else f'{days:g}'}: {self.problem}" if self.problem else ""


class Renewal:
    """Renews the certificate of one till when it is due."""

    def __init__(
        self,
        config: EdgeConfig,
        tell: Callable[[CertificateSeen], object],
        on_renewed: Callable[[], object],
        rng: Random,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._config, self._tell, self._on_renewed, self._rng, self._clock = config, tell, on_renewed, rng, clock
        self._thread = threading.Thread(target=self._watch, name="renewal", daemon=True)

    def start(self) -> None:
        """Start watching, if this till shows a certificate at all; a renewal that a stop cuts leaves whole files."""
        if self._config.tls_cert_file:
            self._thread.start()

    def _watch(self) -> None:
        while True:
            try:
                seen, wait_s = self._look()
            except Exception as problem:
                log.exception("renewal_failed")
                seen, wait_s = CertificateSeen(None, str(problem)), self._again_s()
            self._tell(seen)
            time.sleep(wait_s)

    def _look(self) -> tuple[CertificateSeen, float]:
        """Look at the file, renew it if it is due; returns how it stands and when to look again, in seconds."""
        try:
            certificate = look_at(Path(self._config.tls_cert_file))
        except TlsError as problem:
            return CertificateSeen(None, f"{problem}; tillstream edge enrol"), self._again_s()
        now_s = self._clock()
        if not certificate.is_due(now_s, self._config.renew_left):
            return CertificateSeen(certificate.not_after_s), self._until_due_s(certificate, now_s)
        return self._renew(certificate, now_s)

    def _renew(self, certificate: Certificate, now_s: float) -> tuple[CertificateSeen, float]:
        if certificate.left_s(now_s) < 0:
            problem = f"expired at {when(certificate.not_after_s)}: tillstream edge enrol with a new token"
        elif not self._config.enrol_url:
            problem = "due, and enrol_url is not set: somebody else has to renew it"
        else:
            try:
                fresh = renew(self._config)
            except EnrolmentError as refused:
                problem = str(refused)
            else:
                log.info("certificate_renewed", extra=self._about(until=when(fresh.not_after_s)))
                self._on_renewed()
                return CertificateSeen(fresh.not_after_s), self._until_due_s(fresh, now_s)
        seen = CertificateSeen(certificate.not_after_s, problem)
        log.warning("certificate_not_renewed", extra=self._about(error=problem, days_left=seen.days_left(now_s)))
        return seen, self._again_s()

    def _until_due_s(self, certificate: Certificate, now_s: float) -> float:
        """Return when to look next: a fleet that was enrolled in one night is not renewed in one second."""
        life_s = certificate.not_after_s - certificate.not_before_s
        last_s = self._config.renew_left * life_s
        due_s = max(0.0, certificate.left_s(now_s) - last_s)
        return min(LOOK_EVERY_S, due_s) + self._rng.uniform(0.0, min(LOOK_EVERY_S, last_s / 4))

    def _again_s(self) -> float:
        return self._config.renew_again_s * self._rng.uniform(0.67, 1.33)

    def _about(self, **also: object) -> dict[str, object]:
        return {"till": self._config.till_id, "also": also}
