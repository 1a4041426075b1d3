"""Real programs whose wall clocks are wrong or jump: time labels, and neither orders nor loses anything."""

from __future__ import annotations

import clocks
import pytest
from brokers import wait_until
from clocks import DAY_MS, Clock
from yard import is_in_order, yard

SEED = 20261128
WITHIN_S = 30
RETENTION_DAYS = 1
pytestmark = pytest.mark.skipif(not clocks.CC, reason="there is no C compiler for the clock's shim")


def skews_days(running):
    return {
        round(skew_ms / DAY_MS)
        for (skew_ms,) in running._reader.execute("SELECT clock_skew_ms FROM till WHERE clock_skew_ms IS NOT NULL")
    }


@pytest.mark.fault("F17", "F18")
def test_tills_whose_clocks_are_wrong_and_jump_lose_nothing_and_are_shown(tmp_path):
    """Started 400 days back, then ahead, pruning all the time: it is shown, and nothing forgotten until it is right."""
    clock = Clock(clocks.build(tmp_path), tmp_path / "tills-clock", -400 * DAY_MS)
    settings = {"prune_every_s": 0.2, "presence_every_s": 0.2, "clock_settles_s": 1, "retention_days": RETENTION_DAYS}
    with yard(
        tmp_path / "site", 2, SEED, broker="embedded", inside={"agent": clock.inside}, agent_settings=settings
    ) as running:
        for shift_days in (-400, 1, 365, -30, 0):
            assert not any('"pruned"' in till.agent.log() for till in running.tills)
            clock.set(shift_days * DAY_MS)
            for till in running.tills:
                till.close_documents(10)
            assert wait_until(running.is_settled, WITHIN_S), running.logs()
            assert wait_until(lambda: skews_days(running) == {shift_days}, WITHIN_S), skews_days(running)  # noqa: B023
        for till in running.tills:
            till.agent.kill()  # A clock that went back is believed from the next connection on.
            till.agent.start()
            till.close_documents(1)

        assert wait_until(lambda: all('"pruned"' in till.agent.log() for till in running.tills), WITHIN_S)
        assert is_in_order(running.settle()), running.logs()


@pytest.mark.fault("F17", "F18")
def test_a_central_whose_clock_jumps_loses_nothing(tmp_path):
    """Central starts a day ahead and is set back a month, then to 1970, while tills upload: all arrives once."""
    clock = Clock(clocks.build(tmp_path), tmp_path / "centrals-clock", DAY_MS)
    with yard(tmp_path / "site", 2, SEED, broker="embedded", inside={"central": clock.inside}) as running:
        for shift_days in (1, -30, -56 * 365):
            clock.set(shift_days * DAY_MS)
            for till in running.tills:
                till.close_documents(15)
            assert wait_until(running.is_settled, WITHIN_S), running.logs()

        assert is_in_order(running.settle()), running.logs()
