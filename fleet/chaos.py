"""Owns the killing: agents, central and the broker end by SIGKILL while documents are unsent, and come back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from .processes import Child

KINDS = ("agent", "central", "broker")
KILLS_EACH = 3
PAUSE_S = (0.3, 1.2)
DOWN_S = (0.1, 0.8)
WAIT_FOR_UNSENT_S = 15.0
LOOK_EVERY_S = 0.02

Unsent = Callable[[str | None], int]
"""How many documents are closed and not at central at this instant: of one till, or of all."""


@dataclass(frozen=True, slots=True)
class Kill:
    """One kill: what, when (seconds since the start), and how many documents were unsent right before it."""

    kind: str
    name: str
    at_s: float
    unsent: int


class Chaos:
    """Kills and restarts in a thread of its own until each kind was hit often enough with documents unsent.

    An agent counts only if documents of its very till were unsent. Who is next, how long it stays down and how long
    the pause is come from the seed; when exactly a kill falls depends on the machine.
    """

    def __init__(
        self, agents: dict[str, Child], central: Child, broker: Child, unsent: Unsent, rng: Random, most_s: float
    ) -> None:
        self._agents, self._unsent, self._rng, self._most_s = agents, unsent, rng, most_s
        self._one_of_a_kind = {"central": central, "broker": broker}
        self.kills: list[Kill] = []
        self.problem: Exception | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="chaos", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End it; whatever is down is started again first."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def is_over(self) -> bool:
        """Say whether it has ended, with success or without; raises what stopped it."""
        if self.problem:
            raise self.problem
        return not self._thread.is_alive()

    def counts(self) -> dict[str, int]:
        """Return how often each kind was killed while documents were unsent."""
        return {kind: sum(kill.kind == kind for kill in self.kills) for kind in KINDS}

    def shortfalls(self) -> list[str]:
        """Return a sentence for each kind that was not hit often enough."""
        return [
            f"{kind}: killed {number} times while documents were unsent, {KILLS_EACH} are needed"
            for kind, number in self.counts().items()
            if number < KILLS_EACH
        ]

    def _run(self) -> None:
        started_at = time.monotonic()
        try:
            for kind in self._plan():
                over = time.monotonic() - started_at > self._most_s
                if over or not self.shortfalls() or self._stopping.wait(self._rng.uniform(*PAUSE_S)):
                    return
                self._kill_one(kind, started_at)
        except Exception as problem:  # noqa: BLE001 -- the demo's main thread must hear of any error
            self.problem = problem

    def _plan(self) -> Iterator[str]:
        """Yield kinds for ever, in rounds: in each round every kind once, agents twice, in a seeded order."""
        while True:
            yield from self._rng.sample((*KINDS, "agent"), len(KINDS) + 1)

    def _kill_one(self, kind: str, started_at: float) -> None:
        wanted = self._rng.choice(sorted(self._agents))
        down_s = self._rng.uniform(*DOWN_S)
        found = self._wait_for_unsent(kind, wanted)
        if found is None:
            return
        child, till_id = found
        unsent = self._unsent(till_id)  # Counted right before: what the wait saw may be stored by now.
        if not unsent:
            return
        child.kill()
        self.kills.append(Kill(kind, child.name, time.monotonic() - started_at, unsent))
        self._stopping.wait(down_s)
        child.start()

    def _wait_for_unsent(self, kind: str, wanted: str) -> tuple[Child, str | None] | None:
        """Return whom to kill once it hurts: the wanted till's agent, or the first after it that has documents."""
        names = sorted(self._agents)
        names = names[names.index(wanted) :] + names[: names.index(wanted)]
        end = time.monotonic() + WAIT_FOR_UNSENT_S
        while time.monotonic() < end:
            if kind != "agent" and self._unsent(None):
                return self._one_of_a_kind[kind], None
            till_id = next((name for name in names if self._unsent(name)), None) if kind == "agent" else None
            if till_id:
                return self._agents[till_id], till_id
            if self._stopping.wait(LOOK_EVERY_S):
                return None
        return None
