"""Disks that fail: an fsync or a write goes wrong, or the program dies at it; nobody is told what is not so."""

from __future__ import annotations

import signal

import pytest
from sync_faults import EXAMINE, at_every_call, end_at_call, meet_faults
from traced import can_trace, faults
from yard import is_in_order, yard

SEED = 20261128
EFFECTS = [
    ("fdatasync", "signal=SIGKILL", 1),
    ("fdatasync", "error=EIO", 1),
    ("pwrite64", "signal=SIGKILL", 4),
    ("pwrite64", "error=ENOSPC", 4),
]
"""A life has ten times as many writes as syncs: of those the gate takes one in four."""
ENDS = [("fdatasync:error=EIO", 1), ("pwrite64:error=EIO", 1), ("fdatasync:signal=SIGKILL", -signal.SIGKILL)]
pytestmark = pytest.mark.skipif(not can_trace(), reason="strace, which injects the faults, cannot be used here")


@pytest.mark.fault("F01", "F06", "F10", "F26")
@pytest.mark.parametrize(("call", "effect", "step"), EFFECTS)
@pytest.mark.parametrize("life", EXAMINE)
def test_an_end_at_any_sync_or_write_breaks_no_promise(life, call, effect, step, tmp_path):
    """Creation, migration, append, commit, prune and renumbering end at each call in turn: what was told is there."""
    figures = at_every_call(tmp_path, life, call, effect, step)

    assert figures["lives that met the fault"] >= 5, figures


@pytest.mark.fault("F02", "F03", "F26")
@pytest.mark.parametrize(("fault", "code"), ENDS)
def test_an_agent_whose_disk_fails_ends_and_the_next_one_has_everything(fault, code, tmp_path):
    """At an fsync or a write that fails the agent stops, says so, promises no POS anything, and comes back."""
    with yard(tmp_path / "site", 1, SEED, broker="embedded") as running:
        agent = running.tills[0].agent
        codes = {end_at_call(running, agent, fault, number) for number in range(1, 6)}

        assert {code} == codes
        assert (code != 1) or agent.log().count('"disk_failed"') == 5
        assert is_in_order(running.settle()), running.logs()


@pytest.mark.fault("F10", "F26")
@pytest.mark.parametrize(("fault", "code"), ENDS)
def test_a_central_whose_disk_fails_ends_and_the_next_one_has_everything(fault, code, tmp_path):
    """At an fsync or a write that fails central stops, says so, confirms nothing, and comes back."""
    with yard(tmp_path / "site", 2, SEED, broker="embedded") as running:
        codes = {end_at_call(running, running.central, fault, number) for number in range(1, 6)}

        assert {code} == codes
        assert (code != 1) or running.central.log().count('"disk_failed"') == 5
        assert is_in_order(running.settle()), running.logs()


@pytest.mark.fault("F24", "F25")
@pytest.mark.parametrize(("victim", "event"), [("agent", "outbox_full"), ("central", "database_refused")])
def test_writes_that_find_no_room_are_told_and_healed(victim, event, tmp_path):
    """ENOSPC at a dozen writes: the log says so, the program goes on, and nothing is lost or promised falsely."""
    with yard(tmp_path / "site", 2, SEED, broker="embedded") as running:
        program = running.tills[0].agent if victim == "agent" else running.central
        assert 12 == meet_faults(running, program, "pwrite64:error=ENOSPC", 12)

        assert f'"{event}"' in program.log()
        assert is_in_order(running.settle()), running.logs()
        assert not program.has_ended()


@pytest.mark.parametrize("victim", ["agent", "central"])
def test_a_slow_disk_makes_slow_and_does_no_more(victim, tmp_path):
    """Each fsync takes 50 ms longer: documents are taken, stored and believed all the same."""
    with yard(tmp_path / "site", 2, SEED, broker="embedded") as running:
        program = running.tills[0].agent if victim == "agent" else running.central
        with faults(program, tmp_path / "trace", "fdatasync:delay_enter=50000"):
            for till in running.tills:
                till.close_documents(15)
            assert is_in_order(running.settle()), running.logs()
