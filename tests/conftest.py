"""What all tests share: the options, and the rule that the gate skips nothing it did not expect."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fault_table import CASES
from hypothesis import settings
from postgres import running

# The gate draws the same examples each time; `--hypothesis-profile=search` looks for new ones.
settings.register_profile("gate", derandomize=True, deadline=None)
settings.register_profile("search", max_examples=1000, deadline=None)
settings.load_profile("gate")

EXPECTED_SKIPS = Path(__file__).parent / "expected_skips.txt"


def pytest_addoption(parser):
    parser.addoption("--seed", type=int, default=4711, help="the simulated run that test_replay replays")
    parser.addoption("--forced", default="{}", help="faults that test_replay_swarm forces, as JSON")


def pytest_collection_modifyitems(items):
    """Let each report carry the fault cases of its test, so that it is known which were seen to hold."""
    for item in items:
        cases = [case for mark in item.iter_markers("fault") for case in mark.args]
        item.user_properties.append(("fault", cases))


def uncovered(terminalreporter):
    """Return the fault cases that no test of this run held, or that one of them broke; the rollout holds none."""
    if any("rollout" in argument for argument in terminalreporter.config.args):
        return []
    held, broken = set(), set()
    for outcome, cases in (("passed", held), ("failed", broken)):
        for report in terminalreporter.stats.get(outcome, []):
            cases.update(*(value for name, value in report.user_properties if name == "fault"))
    return sorted(set(CASES) - (held - broken))


def expected_skips():
    lines = EXPECTED_SKIPS.read_text("utf-8").splitlines()
    return {line.split()[0] for line in lines if line.strip() and not line.startswith("#")}


def pytest_terminal_summary(terminalreporter, exitstatus, config):
    """Name what was skipped; under TILLSTREAM_ALL=1 an unexpected skip fails the run."""
    if os.environ.get("TILLSTREAM_ALL") and (missing := uncovered(terminalreporter)):
        terminalreporter.section("fault cases that no test held", red=True)
        terminalreporter.line(" ".join(missing))
        terminalreporter._session.exitstatus = 1
    skipped = {report.nodeid for report in terminalreporter.stats.get("skipped", [])}
    unexpected = sorted(skipped - expected_skips())
    if unexpected and os.environ.get("TILLSTREAM_ALL"):
        terminalreporter.section("skipped, and not listed in tests/expected_skips.txt", red=True)
        for nodeid in unexpected:
            terminalreporter.line(nodeid)
        terminalreporter._session.exitstatus = 1


@pytest.fixture(scope="session")
def postgres():
    """Run one private PostgreSQL server for this process's tests."""
    with running() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request, tmp_path):
    """Return where a database may be made, in which there is nothing."""
    if request.param == "sqlite":
        yield str(tmp_path / "empty.db")
        return
    server = request.getfixturevalue("postgres")
    url = server.empty_database()
    yield url
    server.drop(url)


@pytest.fixture
def another_url(empty_url, request, tmp_path):
    """Return where a second database of the same kind may be made."""
    if not empty_url.startswith("postgresql"):
        return str(tmp_path / "another.db")
    return request.getfixturevalue("postgres").empty_database()


@pytest.fixture(params=["sqlite", "postgresql"])
def central_url(request, tmp_path):
    """Return where a central database may be made: a file, and a database of the private server."""
    if request.param == "sqlite":
        yield str(tmp_path / "central.db")
        return
    server = request.getfixturevalue("postgres")
    url = server.new_database()
    yield url
    server.drop(url)
