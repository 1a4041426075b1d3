"""Which tills have yet to be sent their settings. Pure; ``now`` is in seconds.

The till says in its presence which revision it runs and which it refused: that, not what was sent, decides.
"""

from __future__ import annotations

from dataclasses import dataclass, field

NOTHING = 0


@dataclass(slots=True)
class _Shown:
    revision: int
    refused: int
    is_online: bool


@dataclass(slots=True)
class Post:
    """What tills run and what they are wanted to run; ``NOTHING`` is a till that keeps to its own file."""

    again_s: float = 60.0
    most: int = 500
    """How many tills are sent to in one turn."""
    _wanted: dict[str, int] = field(default_factory=dict)
    _shown: dict[str, _Shown] = field(default_factory=dict)
    _sent: dict[str, int] = field(default_factory=dict)
    _due: dict[str, float] = field(default_factory=dict)

    def on_wanted(self, revisions: dict[str, int], now: float) -> None:
        """Take what each till is wanted to run, as a whole; a till that is not named is to run nothing of ours."""
        self._wanted = revisions
        for till in self._shown:
            self._weigh(till, now)

    def on_presence(self, till: str, revision: int, refused: int, now: float, *, online: bool) -> None:
        """Note which revision a till runs, and which it refused."""
        self._shown[till] = _Shown(revision, refused, online)
        self._weigh(till, now)

    def on_link_up(self, now: float) -> None:
        """Begin anew: what was published over another connection may be lost."""
        self._sent.clear()
        for till in self._shown:
            self._weigh(till, now)

    def due(self, now: float) -> list[str]:
        """Return whom to send to; each comes again after ``again_s`` while it is there and runs something else."""
        tills = [till for till, at in self._due.items() if at <= now][: self.most]
        for till in tills:
            self._sent[till] = self._wanted.get(till, NOTHING)
            if self._shown[till].is_online:
                self._due[till] = now + self.again_s
            else:  # Looked at again when it is back: thousands may be away, and this runs at every turn.
                del self._due[till]
        return tills

    def _weigh(self, till: str, now: float) -> None:
        shown, wanted = self._shown[till], self._wanted.get(till, NOTHING)
        if wanted == shown.revision or (wanted != NOTHING and wanted == shown.refused):
            self._due.pop(till, None)
        elif self._sent.get(till) != wanted or (shown.is_online and till not in self._due):
            self._due[till] = now
