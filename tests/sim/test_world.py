"""Whole runs under every fault at once; a failure prints its seed and the command that replays it."""

from __future__ import annotations

import pytest
from faults import Faults
from world import World

SEEDS_PER_TEST = 25
GATE_SEEDS = 200


@pytest.mark.parametrize("block", range(GATE_SEEDS // SEEDS_PER_TEST))
def test_everything_closed_is_stored_once_under_every_fault(block):
    """Four tills, a quarter of all messages lost, a fifth repeated, both sides crashing: each document stored once."""
    for seed in range(block * SEEDS_PER_TEST, (block + 1) * SEEDS_PER_TEST):
        World(seed).run()


def test_the_same_seed_gives_the_same_run():
    """A run depends on its seed and on nothing else, so that a failure can be replayed."""
    first, second = World(4711).run(), World(4711).run()

    assert first.trace.hexdigest() == second.trace.hexdigest()
    assert first.steps == second.steps


def test_other_seeds_give_other_runs():
    """The trace really looks at the run: it differs where the runs do."""
    assert World(1).run().trace.hexdigest() != World(2).run().trace.hexdigest()


def test_a_calm_network_needs_few_messages():
    """Without faults a run drains, with no crash and no cut."""
    world = World(5, Faults().calm()).run()

    assert world.counts.keys() <= {"reorder"}


def test_replay(seed):
    """Replay one run by ``--seed``; without it, any run."""
    world = World(seed).run()
    print(f"seed {seed}: {world.steps} steps, {world.now:.1f} virtual seconds, {world.counts}")


def test_replay_swarm(seed):
    """Replay one run with a mixture of faults by ``--seed``; without it, any run."""
    world = World.swarm(seed).run()
    print(f"seed {seed}: {world.steps} steps, {world.now:.1f} virtual seconds, {world.counts}, {world.found}")
