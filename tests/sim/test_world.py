"""Whole runs under every fault at once; a failure prints its seed and the command that replays it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from faults import FLOOD, Faults
from storm import Weathered, until
from world import World

SEEDS_PER_TEST = 25
PLAIN_SEEDS = 100
STORMS, FAULTS_A_STORM = 20, 20_000
FLOODS, FAULTS_A_FLOOD = 10, 62_000
"""Together more than a million injected faults, each time the same ones."""
TWICE = 50
KEPT = [line.split(maxsplit=1) for line in (Path(__file__).parent / "seeds.txt").read_text("utf-8").splitlines()
        if line and not line.startswith("#")]  # fmt: skip


@pytest.mark.parametrize("block", range(PLAIN_SEEDS // SEEDS_PER_TEST))
def test_everything_closed_is_stored_once_under_every_fault(block):
    """Four tills, a quarter of all messages lost, a fifth repeated, both sides crashing: each document stored once."""
    for seed in range(block * SEEDS_PER_TEST, (block + 1) * SEEDS_PER_TEST):
        World(seed).run()


@pytest.mark.fault("F14", "F15")
@pytest.mark.parametrize("storm", range(STORMS))
def test_a_million_faults_lose_double_and_hide_nothing(storm):
    """Swarms of all faults: what was closed is stored once, or a gap shows it, or nobody could ever hear of it."""
    for weathered in until(Weathered(), FAULTS_A_STORM, 100_000 * (storm + 1)):
        assert weathered.failures == []
    assert weathered.faults >= FAULTS_A_STORM
    print(f"{weathered.runs} runs, {weathered.faults} faults")


@pytest.mark.fault("F13")
@pytest.mark.parametrize("flood", range(FLOODS))
def test_messages_that_come_a_hundred_times_change_nothing(flood):
    """The same mixtures while every message comes again and again, and hardly one in time."""
    for weathered in until(Weathered(), FAULTS_A_FLOOD, 10_000_000 + 1000 * flood, **FLOOD):
        assert weathered.failures == []
    assert weathered.faults >= FAULTS_A_FLOOD


LATE = replace(Faults().calm(), loss=0.05, late=0.5, late_most_s=45.0, is_quick=True)


@pytest.mark.parametrize("block", range(2))
def test_late_messages_of_a_quiet_day_leave_no_gap(block):
    """Nothing is destroyed, nothing crashes; answers and doorbells only pass each other."""
    for seed in range(block * SEEDS_PER_TEST, (block + 1) * SEEDS_PER_TEST):
        World(seed, LATE, tills=2, documents=16).run(storm_s=500)


@pytest.mark.parametrize("kept", KEPT, ids=" ".join)
def test_a_run_that_once_failed_passes(kept):
    """Seeds that broke a promise are kept; their runs change with the code, and are runs like any other then."""
    seed, *forced = kept
    World.swarm(int(seed), **(json.loads(forced[0]) if forced else {})).run()


TRACE = """
import logging, sys
sys.path[:0] = [{root!r}, {root!r} + "/tests", {root!r} + "/tests/sim"]
logging.disable(logging.CRITICAL)
from world import World
for seed in range({seeds}):
    print(World.swarm(seed).run().trace.hexdigest())
"""


def test_the_same_seed_gives_the_same_run():
    """A run depends on its seed and on nothing else, not on the order of a set: each runs in two other processes."""
    script = TRACE.format(root=str(Path(__file__).parents[2]), seeds=TWICE)
    programs = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
        )
        for hash_seed in ("1", "2")
    ]
    first, second = (program.communicate()[0].splitlines() for program in programs)

    assert len(first) == len(set(first)) == TWICE
    assert first == second


def test_a_calm_network_needs_few_messages():
    """Without faults a run drains, with no crash and no cut."""
    world = World(5, Faults().calm()).run()

    assert world.counts.keys() <= {"reorder"}


def test_replay(seed):
    """Replay one run by ``--seed``; without it, any run."""
    world = World(seed).run()
    print(f"seed {seed}: {world.steps} steps, {world.now:.1f} virtual seconds, {world.counts}")


def test_replay_swarm(seed, forced):
    """Replay one run with a mixture of faults by ``--seed``, some of them ``--forced``; without it, any run."""
    world = World.swarm(seed, **forced).run()
    print(f"seed {seed}: {world.steps} steps, {world.now:.1f} virtual seconds, {world.counts}, {world.found}")
