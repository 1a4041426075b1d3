"""Power cuts of real disks under real programs: what was acknowledged is there when the machine comes back."""

from __future__ import annotations

import subprocess
from pathlib import Path

import loop_disk
import pytest
from brokers import wait_until
from loop_disk import LoopDisk
from power_cuts import central_cuts, outbox_cuts
from yard import is_in_order

SEED = 20261128
CUTS = 40
pytestmark = pytest.mark.skipif(bool(loop_disk.why_not()), reason=loop_disk.why_not())


@pytest.mark.fault("F01", "F02", "F03")
def test_what_a_pos_was_told_is_kept_survives_forty_power_cuts_of_the_till(tmp_path):
    """Outbox and spool hold everything acknowledged, whole and chained, and central gets it once."""
    figures = outbox_cuts(tmp_path, CUTS, SEED)

    assert CUTS == figures["power cuts"]
    assert 0 == figures["acknowledged and gone"] == figures["not whole"] == figures["broken chains"], figures
    assert is_in_order(figures), figures


@pytest.mark.fault("F10", "F11", "F12")
def test_what_tills_were_told_is_stored_survives_forty_power_cuts_of_central(tmp_path):
    """No till was told more than the database holds after the cut, and each watermark has its documents."""
    figures = central_cuts(tmp_path, CUTS, SEED)

    assert CUTS == figures["power cuts"]
    assert 0 == figures["acknowledged and gone"] == figures["not whole"] == figures["watermarks without documents"]
    assert is_in_order(figures), figures


def test_an_outbox_that_does_not_wait_for_the_disk_is_seen_to_lose(tmp_path):
    """Control: with ``synchronous=normal`` the first few cuts lose what the POS was told is kept."""
    figures = outbox_cuts(tmp_path, 10, SEED, stop_at_loss=True, agent=("careless", "sync_normally"))

    assert figures["acknowledged and gone"] > 0, figures


def test_a_central_that_does_not_wait_for_the_disk_is_seen_to_lose(tmp_path):
    """Control: with ``synchronous=normal`` the first few cuts lose what tills were told is stored."""
    figures = central_cuts(tmp_path, 10, SEED, stop_at_loss=True, central=("careless", "sync_normally"))

    assert figures["acknowledged and gone"] > 0, figures


@pytest.mark.fault("F12")
def test_a_central_that_confirms_before_its_commit_is_seen_to_lose(tmp_path):
    """Control: with the commit put off until the next uploads come, a cut after the answer shows."""
    figures = central_cuts(tmp_path, 40, SEED, stop_at_loss=True, central=("careless", "confirm_before_commit"))

    assert figures["acknowledged and gone"] > 0, figures


def test_a_disk_is_read_anew_while_another_program_has_copies_of_all_mounts(tmp_path):
    """A program in a network of its own has them: what it holds must not keep the dead disk in use."""
    command = ["unshare", "--mount", "--propagation", "slave", "cat"]
    with LoopDisk(tmp_path / "machine", 16 * 2**20) as disk, subprocess.Popen(command, stdin=subprocess.PIPE) as other:
        own = Path(f"/proc/{other.pid}/ns/mnt").readlink
        assert wait_until(lambda: own() != Path("/proc/self/ns/mnt").readlink())
        disk.cut_power()
        disk.bring_back()
        (disk.folder / "written").touch()
        other.stdin.close()
