"""Whole runs at rates so tight that honest tills feel them: slower, and as complete as ever."""

from __future__ import annotations

import pytest
from world import World

from central.config import CentralConfig

SEEDS_PER_TEST = 25
LEAST = {"till_messages_per_s": 0.05, "till_messages_burst": 2, "till_streams_per_hour": 1}
"""A message in twenty seconds, and a single stream: two hundred times less than what tills have."""


@pytest.mark.fault("F43", "F09")
@pytest.mark.parametrize("block", range(2))
def test_what_is_put_off_or_let_go_is_stored_in_the_end(block, caplog):
    """Under every fault, most doorbells are put off and many uploads let go: each document is stored once."""
    for seed in range(block * SEEDS_PER_TEST, (block + 1) * SEEDS_PER_TEST):
        world = World(seed)
        world.central.config = CentralConfig(days_every_s=7 * 86_400, **LEAST)
        world.run()

    assert [record.message for record in caplog.records].count("too_many") > SEEDS_PER_TEST
