"""The simulator's option: which seed to replay."""

from __future__ import annotations

import pytest


@pytest.fixture
def seed(request):
    return request.config.getoption("--seed")
