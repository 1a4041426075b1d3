"""Workers and wire versions that change under load: each document is stored once, whoever answered for its till."""

from __future__ import annotations

import pytest
from faults import Faults
from test_losses import LosingWorld
from world import World

SEEDS = 20
MILD = {"loss": 0.1, "duplicate": 0.2, "late": 0.1, "till_crashes": 2, "central_crashes": 2, "is_quick": True}


def runs(**faults):
    """Run seeds with these faults in mild storms; return the worlds as they ended."""
    return [World(seed, Faults(**{**MILD, **faults}), documents=12).run(storm_s=40) for seed in range(SEEDS)]


def happened(worlds, name):
    return sum(world.counts.get(name, 0) for world in worlds)


def is_whole(worlds):
    """Say whether everything that was closed is stored, and nothing is called missing."""
    return all((world.found["stored"], world.found["gaps"]) == (len(world.ledger.closed), 0) for world in worlds)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_as_many_workers_as_one_likes_store_each_document_once(workers):
    """The same as one worker, with crashes of both ends."""
    assert is_whole(runs(workers=workers))


def test_the_number_of_workers_changes_three_times_under_load():
    """New ones start and old ones end in any order, for a while at once."""
    worlds = runs(workers=2, worker_changes=3)

    assert is_whole(worlds)
    assert happened(worlds, "change of workers") == 3 * SEEDS


def test_two_processes_with_one_number_among_several():
    """They throw each other out; the rows decide, and nobody else notices."""
    worlds = runs(workers=4, second_processes=3)

    assert is_whole(worlds)
    assert happened(worlds, "taken over") > SEEDS


def test_a_rollout_in_any_order_and_back_loses_nothing():
    """Each end begins with one wire version or the other, and is upgraded or put back under load."""
    worlds = runs(rollouts=8)

    assert is_whole(worlds)
    assert happened(worlds, "rollout") == 8 * SEEDS


def test_workers_change_while_versions_are_rolled_out():
    """Both at once: what an operator would rather not do."""
    assert is_whole(runs(workers=3, worker_changes=2, rollouts=6))


class Asked(LosingWorld):
    """Documents vanish and a person asks for all again, while the workers change: a task outlives who made it.

    What a doorbell promised may be looked for while its rows are away: that is shown as a gap, and stays shown when
    they are there again.
    """

    may_miss = True

    def _plan(self, storm_s):
        super()._plan(storm_s)
        for at in (0.9, 1.4, 2.1):
            self.after(at * storm_s, self.nemesis.worker_changes)
            for till in self.tills:
                self.after(at * storm_s + self.rng.uniform(0, 15), self._wish, f"change-{at}-{till.till}", till.till)


FEW = Faults(loss=0.05, duplicate=0.1, till_crashes=1, central_crashes=1, workers=2, is_quick=True)


def test_what_a_person_asked_for_is_done_whichever_worker_took_it_up():
    """No wish is left behind by a worker that went; `test_workers` holds what a worker does that finds one."""
    for seed in range(10):
        Asked(seed, FEW).run()
