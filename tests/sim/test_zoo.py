"""Each planted bug is seen by the simulator within its seeds, and the same run passes without it."""

from __future__ import annotations

import pytest
from oracle import InvariantError
from zoo import ZOO

SEEDS = 200
"""Within so many runs each bug must be seen; most are in a handful."""
ZOO_LEAST = 15


def first_seed_that_sees(bug, patch):
    bug.plant(patch)
    for seed in range(SEEDS):
        try:
            bug.run(seed)
        except InvariantError as seen:
            return seed, seen
    return None, None


@pytest.mark.parametrize("bug", ZOO, ids=lambda bug: bug.plant.__name__)
def test_a_planted_bug_is_seen(bug, monkeypatch):
    """A run breaks a promise with the bug in it, and keeps all of them without."""
    with monkeypatch.context() as patch:
        seed, seen = first_seed_that_sees(bug, patch)
    assert seed is not None, f"{bug.plant.__name__} survived {SEEDS} seeds"
    print(f"{bug.plant.__name__}: seed {seed}: {seen}")

    bug.run(seed)


def test_the_zoo_is_large_enough():
    """Whoever deletes a bug adds another one."""
    assert len({bug.plant for bug in ZOO}) >= ZOO_LEAST
