"""Counts connections that ended soon after they began: what two programs with one identity do to each other. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

SETTLED_S, CUTS_MIN, CUTS_WITHIN_S = 300.0, 4, 1200.0
"""So many connections cut within so long, none of which lived for ``SETTLED_S``: two programs that share an identity
make at least five, once both wait for minutes each time."""


@dataclass(slots=True)
class Cuts:
    """Counts connections that ended soon after they had begun; times are seconds of a monotonic clock.

    Two programs with one identity throw each other out by every connection they make, and nobody tells them why.
    """

    _begun_at: float | None = None
    _at: list[float] = field(default_factory=list)

    @property
    def count(self) -> int:
        """How many there were in the last ``CUTS_WITHIN_S``."""
        return len(self._at)

    def begin(self, now: float) -> None:
        """Note that a connection is up."""
        self._begun_at = now

    def end(self, now: float, *, is_asked: bool = False) -> None:
        """Note that there is none any more; one that could not be made, or was asked to end, was not cut."""
        if self._begun_at is not None and now - self._begun_at < SETTLED_S and not is_asked:
            self._at.append(now)
        self._begun_at = None
        self.forget(now)

    def forget(self, now: float) -> None:
        """Let go of what was long ago."""
        self._at = [at for at in self._at if now - at < CUTS_WITHIN_S]
