"""Disks that are full: it is said, nothing false is promised, and with room everything goes on by itself."""

from __future__ import annotations

import loop_disk
import pytest
from brokers import MOSQUITTO
from full_disks import full_broker, full_central, full_till
from yard import is_in_order

SEED = 20261128
CYCLES = 3
pytestmark = pytest.mark.skipif(bool(loop_disk.why_not()), reason=loop_disk.why_not())


@pytest.mark.fault("F24")
def test_a_till_whose_disk_is_full_says_so_and_goes_on_when_there_is_room(tmp_path):
    """Outbox and spool have no room: the POS is refused and keeps its documents, and loses none when there is."""
    figures = full_till(tmp_path, CYCLES, SEED)

    assert 2 * CYCLES == figures["refusals"] == figures["reasons shown"], figures
    assert is_in_order(figures), figures


@pytest.mark.fault("F25")
def test_a_central_whose_disk_is_full_confirms_nothing_and_goes_on_when_there_is_room(tmp_path):
    """The database has no room: central says so, tills keep their documents, and all come when there is."""
    figures = full_central(tmp_path, CYCLES, SEED)

    assert CYCLES == figures["refusals"], figures
    assert is_in_order(figures), figures


@pytest.mark.fault("F08", "F09")
@pytest.mark.parametrize(
    "kind", ["embedded", pytest.param("mosquitto", marks=pytest.mark.skipif(not MOSQUITTO, reason="no Mosquitto"))]
)
def test_a_broker_whose_disk_is_full_and_that_is_killed_costs_nothing(kind, tmp_path):
    """What a broker keeps on disk is nobody's: without room, killed, its files thrown away, all arrives once."""
    figures = full_broker(tmp_path, CYCLES, SEED, kind)

    assert is_in_order(figures), figures
