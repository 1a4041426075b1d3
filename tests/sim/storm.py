"""Runs simulated chains one after the other, and adds up what was injected and what became of it."""

from __future__ import annotations

import gc
from collections import Counter
from dataclasses import dataclass, field

from oracle import InvariantError
from world import World

COLLECT_EVERY = 50
"""Runs after which memory is tidied: in between it costs a tenth of the time."""


@dataclass
class Weathered:
    """What many runs came to."""

    runs: int = 0
    faults: int = 0
    counts: Counter = field(default_factory=Counter)
    found: Counter = field(default_factory=Counter)
    steps: int = 0
    virtual_s: float = 0.0
    failures: list[str] = field(default_factory=list)

    def run(self, seed, forced):
        """Run one seed and add it up; a failure is kept with the command that replays it."""
        world = World.swarm(seed, **forced)
        try:
            world.run()
            self.found.update(world.found)
        except InvariantError as problem:
            self.failures.append(str(problem))
        self.runs += 1
        self.faults += world.fault_count
        self.counts.update(world.counts)
        self.steps += world.steps
        self.virtual_s += world.now

    def told(self):
        """Return the figures as plain data."""
        return {
            "runs": self.runs,
            "faults": self.faults,
            "steps": self.steps,
            "virtual days": round(self.virtual_s / 86_400, 2),
            "documents": dict(self.found),
            "faults by name": dict(self.counts.most_common()),
            "failures": self.failures,
        }


def until(weathered, faults, first_seed, step=1, **forced):
    """Run seeds in order until so many faults were injected; yields after each, so that progress can be told."""
    gc.collect()
    gc.disable()
    try:
        seed = first_seed
        while weathered.faults < faults:
            weathered.run(seed, forced)
            seed += step
            if weathered.runs % COLLECT_EVERY == 0:
                gc.collect()
            yield weathered
    finally:
        gc.enable()
