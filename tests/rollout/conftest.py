"""What tests on booted machines share: whether there can be any. A file's tests go on from each other's machines."""

from __future__ import annotations

import os
from pathlib import Path

import machines
import pytest

HERE = Path(__file__).parent
LACK = machines.why_not()
"""Asked once; every test that boots a machine carries the mark ``machines`` and is skipped by name with this reason."""


ORDER = (
    "test_waves",
    "test_from_nothing",
    "test_till_release",
    "test_identity",
    "test_rollout_of_a_chain",
    "test_apart",
)
"""Each takes two to eight minutes. Workers take a file each and then another, in this order: the longest of the first
go with the shortest of the second."""


def pytest_xdist_auto_num_workers():
    """One more than there are cores: what waits for a boot, a soak or a lost link leaves its core to another."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items):
    """Skip what cannot run here, and begin with what takes longest."""
    order = {name: number for number, name in enumerate(ORDER)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))
    for item in items:
        if LACK and HERE in item.path.parents and item.get_closest_marker("machines"):
            item.add_marker(pytest.mark.skip(reason=LACK))


@pytest.fixture(scope="session", autouse=True)
def swept():
    """Take away what a run that was killed left."""
    if LACK is None:
        machines.sweep()
