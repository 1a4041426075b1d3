"""What tests on booted machines share: whether there can be any. A file's tests go on from each other's machines."""

from __future__ import annotations

from pathlib import Path

import machines
import pytest

HERE = Path(__file__).parent
LACK = machines.why_not()
"""Asked once; every test that boots a machine carries the mark ``machines`` and is skipped by name with this reason."""


def pytest_collection_modifyitems(items):
    """Skip what cannot run here."""
    for item in items:
        if LACK and HERE in item.path.parents and item.get_closest_marker("machines"):
            item.add_marker(pytest.mark.skip(reason=LACK))


@pytest.fixture(scope="session", autouse=True)
def swept():
    """Take away what a run that was killed left."""
    if LACK is None:
        machines.sweep()
