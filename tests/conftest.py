"""What all tests share: the options."""

from __future__ import annotations


def pytest_addoption(parser):
    parser.addoption("--seed", type=int, default=4711, help="the simulated run that test_replay replays")
