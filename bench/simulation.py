"""Simulated runs a second: four tills, a quarter of all messages lost, a fifth repeated, crashes on both sides."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path

from figures import Figure, middle

RUNS, ROUNDS = 60, 3


def measure() -> list[Figure]:
    """Return runs per second on one core, with every invariant checked."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "sim"))
    from world import World

    logging.disable(logging.CRITICAL)
    rates = []
    for round_number in range(ROUNDS):
        started = time.perf_counter()
        for seed in range(round_number * RUNS, (round_number + 1) * RUNS):
            World(seed).run()
        rates.append(RUNS / (time.perf_counter() - started))
    logging.disable(logging.NOTSET)
    met = sorted(rates)[ROUNDS // 2] >= 50
    return [Figure("simulation", "runs/s, one core", middle(rates), "", "≥ 50", met)]
