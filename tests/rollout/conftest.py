"""What the tests on booted machines share: whether there can be any, and that one process runs each file."""

from __future__ import annotations

from pathlib import Path

import machines
import pytest

HERE = Path(__file__).parent
LACK = machines.why_not()
"""Asked once; every test that boots a machine carries the mark ``machines`` and is skipped by name with this reason."""


def pytest_collection_modifyitems(items):
    """Keep a file's tests in one process, which makes its fleet once, and skip what cannot run here."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
            if LACK and item.get_closest_marker("machines"):
                item.add_marker(pytest.mark.skip(reason=LACK))


@pytest.fixture(scope="session", autouse=True)
def swept():
    """Take away what a run that was killed left."""
    if LACK is None:
        machines.sweep()
