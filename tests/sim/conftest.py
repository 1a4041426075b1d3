"""The simulator's options: which seed to replay, and with which faults forced."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def seed(request):
    return request.config.getoption("--seed")


@pytest.fixture
def forced(request):
    return json.loads(request.config.getoption("--forced"))
