"""Owns the storm of kills: agent, central and broker end by SIGKILL, or are stopped for a while, under load.

A kill counts only if documents were unsent at that moment. Three of four wait until the victim has done some work
since its start, so that kills fall into every stage of a document's way; the fourth comes as soon as it is up.
"""

from __future__ import annotations

import contextlib
import http.client
import signal
from collections import Counter
from pathlib import Path
from random import Random

from brokers import wait_until
from nursery import Forked
from yard import Till, Yard, yard

KINDS = ("agent", "central", "broker")
WITHIN_S = 30


def kill_runs(
    folder: Path,
    kills_each: int,
    seed: int,
    *,
    kinds: tuple[str, ...] = KINDS,
    settle_s: float = 60,
    tills: int = 4,
    **settings,
) -> dict[str, int]:
    """Kill each kind so often, and stop it for a while a tenth as often; return the figures and the balance.

    ``settings`` are those of a `Yard`. Some ten kills a second on two cores.
    """
    with yard(folder, tills, seed, **settings) as running:
        storm = Storm(running, Random(seed))
        for till in running.tills:
            till.open()
        for number in range(kills_each):
            for kind in storm.rng.sample(kinds, len(kinds)):
                storm.kill(kind)
                if number % 10 == 0:
                    storm.pause(kind)
        balance = running.settle(settle_s)
        return {**storm.figures, **balance, "promised and not kept": storm.broken_promises}


class Storm:
    """Kills and pauses in one yard, and counts them."""

    def __init__(self, running: Yard, rng: Random) -> None:
        self.yard, self.rng = running, rng
        self.figures: Counter[str] = Counter()
        self.broken_promises = 0

    def kill(self, kind: str) -> None:
        program, till = self._victim(kind)
        if self.rng.random() < 0.75:
            self._wait_for_work(till)
        self._wait_for_unsent(till)
        unsent = self.yard.unsent(till)
        ended = program.kill()
        assert ended == -signal.SIGKILL, program.log()[-3000:]
        self.figures[f"kills of the {kind}"] += unsent > 0
        if kind == "central":
            self._hold_central_to_its_word()
        program.start()

    def pause(self, kind: str) -> None:
        """Stop a program for as long as it takes some POS to close five more documents, and let it go on."""
        program, till = self._victim(kind)
        self._wait_for_unsent(till)
        program.signal(signal.SIGSTOP)
        closed = self.yard.closed()
        wait_until(lambda: self.yard.closed() >= closed + 5, WITHIN_S)
        program.signal(signal.SIGCONT)
        self.figures[f"pauses of the {kind}"] += 1

    def _victim(self, kind: str) -> tuple[Forked, Till | None]:
        if kind == "agent":
            till = self.rng.choice(self.yard.tills)
            return till.agent, till
        return getattr(self.yard, kind), None

    def _wait_for_work(self, till: Till | None) -> None:
        """Wait until a till's agent took a document more, or central committed one more."""
        more = self.rng.randrange(1, 12)
        if till:
            taken = till.taken
            assert wait_until(lambda: self.yard.look() >= 0 and till.taken >= taken + more, WITHIN_S), self.yard.logs()
        else:
            stored = self.yard.look()
            assert wait_until(lambda: self.yard.look() >= stored + more, WITHIN_S), self.yard.logs()

    def _wait_for_unsent(self, till: Till | None) -> None:
        assert wait_until(lambda: self.yard.unsent(till) > 0, WITHIN_S), self.yard.logs()

    def _hold_central_to_its_word(self) -> None:
        """Compare what tills were told, once central is dead, with what it has committed: no more than that."""
        told = {}
        for till in self.yard.tills:
            with contextlib.suppress(OSError, http.client.HTTPException):
                told[till.till_id] = till.status()["stored"]
        self.yard.look()
        self.broken_promises += sum(stored > self.yard.stored[till_id] for till_id, stored in told.items())
