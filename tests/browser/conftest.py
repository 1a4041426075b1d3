"""What tests in a browser share: one Chromium and one console for a module, and pages that are watched."""

from __future__ import annotations

import harness
import pytest
import retail_chain as chain


@pytest.fixture(scope="module")
def chromium():
    """Return a browser that can reach this machine only."""
    with harness.chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def shops(tmp_path_factory):
    """Return a small chain of shops in a database: something of everything."""
    return chain.furnish(str(tmp_path_factory.mktemp("central") / "central.db"))


@pytest.fixture(scope="module")
def console(chromium, shops, tmp_path_factory):
    """Return the console over the shops' database, as a process, with a user for each role."""
    with harness.running(shops.url, tmp_path_factory.mktemp("console")) as running:
        yield running


@pytest.fixture
def visitor(chromium, console):
    """Return who opens pages; whatever a page does unasked fails the test at its end."""
    made = harness.Visitor(chromium, console.base, harness.Watch(console.base))
    yield made
    made.leave()
    assert made.watch.faults == []
