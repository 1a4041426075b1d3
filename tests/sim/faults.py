"""What goes wrong in a simulated run, by name: how likely each message fault is, and how often each larger one comes.

``Faults()`` is the plain storm. ``swarm(rng)`` draws another mixture for each seed: some classes are off, so that no
class hides what another one would bring to light.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from random import Random

CALM = {"delay_least_s", "delay_most_s", "late_most_s", "retains", "backs_up", "reuses_ids", "is_quick", "workers"}


@dataclass(frozen=True)
class Faults:
    """Probabilities for each message or step, counts for each run; times in seconds."""

    loss: float = 0.25
    duplicate: float = 0.20
    late: float = 0.0
    cut: float = 0.01
    crash_at_step: float = 0.01
    commit_unheard: float = 0.0
    """Central's database commits, and the connection to it is lost before it says so."""
    delay_least_s: float = 0.01
    delay_most_s: float = 3.0
    late_most_s: float = 30.0

    till_crashes: int = 4
    central_crashes: int = 2
    broker_wipes: int = 1
    broker_rollbacks: int = 0
    broker_restarts: int = 0
    half_opens: int = 0
    flappings: int = 0
    partitions: int = 0
    slow_centrals: int = 0
    clock_jumps: int = 0
    till_disks_full: int = 0
    central_disks_full: int = 0

    images: int = 0
    clones: int = 0
    new_disks: int = 0
    edits: int = 0
    central_restores: int = 0
    central_tails_lost: int = 0
    central_emptied: int = 0
    second_processes: int = 0
    stale_centrals: int = 0

    workers: int = 1
    """How many workers central begins with."""
    worker_changes: int = 0
    """How often central goes on with another number of workers, old and new at once for a while."""
    rollouts: int = 0
    """How often an end is upgraded from wire version 1, or put back to it; with any, half of them begin with it."""

    retains: bool = True
    """Whether tills keep what is stored for the usual 35 days; otherwise for seconds, so that much is pruned."""
    backs_up: bool = False
    """Whether central makes verified backups, and is restored from the newest one only."""
    reuses_ids: bool = False
    """Whether a POS that lost its memory gives the ids it had given before to other documents."""
    is_quick: bool = False
    """Whether the waits of both ends are short, so that a run has more messages for its virtual time."""

    def calm(self) -> Faults:
        """Return the same network when it has stopped raining."""
        off = {one.name: type(one.default)(0) for one in fields(self) if one.name not in CALM}
        return replace(self, **off, delay_most_s=0.05)

    def possible(self) -> Faults:
        """Return the same without wire version 1 where that promises less than today's.

        It knows no ``keep``: where nothing is backed up, a till of it forgets by whatever clock it has. It gives no
        digest of what was forgotten: a clone's numbers may pass for its own.
        """
        is_promised = self.retains and (self.backs_up or not self.clock_jumps)
        return self if is_promised else replace(self, rollouts=0)

    @property
    def destroys(self) -> bool:
        """Say whether a disk, or central's memory, goes back or goes away: only then may anything be missing."""
        return any(getattr(self, name) for name in DESTRUCTIVE)


DESTRUCTIVE = (
    "images", "clones", "new_disks", "edits", "central_restores", "central_tails_lost", "central_emptied",
    "stale_centrals",
)  # fmt: skip
"""What may end with a gap; a run without any of these must end with every document stored and no gap at all."""

_MESSAGES = {"loss": 0.35, "duplicate": 0.6, "late": 0.3, "cut": 0.02, "crash_at_step": 0.01, "commit_unheard": 0.05}
_DENSE = {"loss": (0.0, 0.02), "duplicate": (0.96, 0.99), "late": (0.85, 0.97)}
"""In a fifth of the runs each message comes many times, and rarely in time."""
_EVENTS = {
    "till_crashes": 6, "central_crashes": 4, "broker_wipes": 2, "broker_rollbacks": 3, "broker_restarts": 3,
    "half_opens": 4, "flappings": 3, "partitions": 3, "slow_centrals": 2, "clock_jumps": 4, "till_disks_full": 2,
    "central_disks_full": 2, "images": 2, "clones": 1, "new_disks": 1, "edits": 1, "central_restores": 2,
    "central_tails_lost": 2, "central_emptied": 1, "second_processes": 2, "stale_centrals": 1,
}  # fmt: skip


FLOOD = {"loss": 0.0, "duplicate": 0.99, "late": 0.97, "late_most_s": 2.0, "is_quick": True}
"""Forced, for runs in which every message comes a hundred times: cheap faults, by the million."""


def swarm(rng: Random) -> Faults:
    """Draw a mixture: each message fault is off in a quarter of the runs, each larger one in half of them."""
    chosen: dict[str, float] = {
        name: 0.0 if rng.random() < 0.25 else rng.uniform(0, most) for name, most in _MESSAGES.items()
    }
    if rng.random() < 0.2:
        chosen |= {name: rng.uniform(*between) for name, between in _DENSE.items()}
    calm = rng.uniform(0.3, 0.8)
    chosen |= {name: 0 if rng.random() < calm else rng.randint(1, most) for name, most in _EVENTS.items()}
    drawn = Faults(
        **chosen,
        delay_most_s=rng.choice((0.05, 0.5, 3.0)),
        late_most_s=rng.choice((5.0, 60.0)),
        retains=rng.random() < 0.4,
        backs_up=rng.random() < 0.5,
        reuses_ids=rng.random() < 0.3,
        is_quick=rng.random() < 0.8,
    )
    return replace(drawn, **_grown(rng))


def _grown(rng: Random) -> dict[str, int]:
    """Draw what came later than the rest: workers in half of the runs, two wire versions in half."""
    workers = {"workers": rng.randint(1, 4), "worker_changes": rng.randint(0, 2)} if rng.random() < 0.5 else {}
    return {**workers, **({"rollouts": rng.randint(1, 6)} if rng.random() < 0.5 else {})}
