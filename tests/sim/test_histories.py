"""Histories that disagree, one kind at a time: each document is stored once, or a gap shows it.

Each test forces one fault into storms that are otherwise mild, and says what must have come of it.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from faults import DESTRUCTIVE, Faults
from world import World

SEEDS = 20
MILD = {"loss": 0.1, "duplicate": 0.2, "late": 0.1, "till_crashes": 2, "central_crashes": 1, "is_quick": True}


def runs(**faults):
    """Run seeds with these faults in mild storms; return the worlds as they ended."""
    return [World(seed, Faults(**{**MILD, **faults}), documents=12).run(storm_s=30) for seed in range(SEEDS)]


def total(worlds, name):
    return sum(world.found[name] for world in worlds)


def closed(worlds):
    return sum(len(world.ledger.closed) for world in worlds)


def happened(worlds, name):
    return sum(world.counts.get(name, 0) for world in worlds)


@pytest.mark.fault("F20")
def test_a_restored_disk_image_that_uses_numbers_again_hides_nothing():
    """What was rung for and went with the disk is a gap; all that the till still holds is stored once."""
    worlds = runs(images=3)

    assert happened(worlds, "image restored") > 2 * SEEDS
    assert total(worlds, "shown as gaps") > 0
    assert total(worlds, "stored") > 0.8 * closed(worlds)


@pytest.mark.fault("F20")
def test_a_restored_pos_that_uses_its_ids_again_loses_neither_document():
    """The same id with other bytes goes to quarantine as a conflict: both are there."""
    worlds = runs(images=3, reuses_ids=True)

    assert total(worlds, "stored") > 0.8 * closed(worlds)
    assert sum("conflict" in world.database.codes for world in worlds) > 0


@pytest.mark.fault("F16", "F19")
def test_a_cloned_machine_and_its_twin_both_deliver_everything():
    """Two machines with one name throw each other out, part at the first request, and nothing at all is lost."""
    worlds = runs(clones=1)

    assert happened(worlds, "taken over") > SEEDS
    assert total(worlds, "stored") == closed(worlds)


@pytest.mark.fault("F21")
def test_a_new_disk_starts_a_new_stream_and_what_was_rung_for_is_a_gap():
    """A re-imaged till knows nothing of its old stream: what central had heard of and does not hold is shown."""
    worlds = runs(new_disks=2)

    assert total(worlds, "shown as gaps") > 0
    assert total(worlds, "stored") > 0.6 * closed(worlds)


@pytest.mark.fault("F27")
def test_an_edited_outbox_owns_up_to_what_was_changed():
    """A row that somebody changed or deleted is a gap if central does not hold it; everything else is stored."""
    worlds = runs(edits=2)

    destroyed = total(worlds, "destroyed before anyone heard")
    assert destroyed <= happened(worlds, "outbox edited")
    assert total(worlds, "stored") > 0.9 * closed(worlds)
    assert total(worlds, "shown as gaps") > 0


@pytest.mark.fault("F28", "F32")
@pytest.mark.parametrize("fault", ["central_restores", "central_tails_lost"])
def test_a_central_that_went_back_refills_itself_from_the_tills(fault):
    """From a backup, or to a standby that was a little behind: the tills still hold it all, and no gap is left."""
    worlds = runs(**{fault: 2})

    assert total(worlds, "stored") == closed(worlds)
    assert total(worlds, "gaps") == 0


@pytest.mark.fault("F29")
def test_what_tills_forgot_and_central_lost_is_a_gap():
    """Restored further back than the tills retain, without backups that they wait for: shown, and the rest flows."""
    worlds = runs(central_restores=3, retains=False, late_most_s=5.0)

    assert total(worlds, "stored") + total(worlds, "shown as gaps") == closed(worlds)


@pytest.mark.fault("F28")
def test_where_backups_are_made_nothing_is_forgotten_that_none_holds():
    """The same with backups: the newest one and the tills together hold everything."""
    worlds = runs(central_restores=3, retains=False, late_most_s=5.0, backs_up=True)

    assert (total(worlds, "stored"), total(worlds, "gaps")) == (closed(worlds), 0)


@pytest.mark.fault("F31")
def test_an_emptied_central_gets_what_tills_retain_and_shows_the_rest():
    """Another central by name: it is served, and believed by nobody."""
    worlds = runs(central_emptied=1)

    assert total(worlds, "stored") == closed(worlds)
    believed = [till.watch.believed[1] == world.database.central_id for world in worlds for till in world.machines]
    assert believed.count(False) > SEEDS  # They gave it everything, and still believe the one they knew.


@pytest.mark.fault("F30")
def test_two_processes_on_one_database_do_no_harm():
    """With one number they throw each other out; the row decides, and each hears what the other has written."""
    worlds = runs(second_processes=2)

    assert (total(worlds, "stored"), total(worlds, "gaps")) == (closed(worlds), 0)


@pytest.mark.fault("F31")
def test_a_stale_central_that_was_revived_takes_nothing_away():
    """It has the same name and an older state: what it was given comes to the present one all the same."""
    worlds = runs(stale_centrals=2)

    assert total(worlds, "stored") == closed(worlds)


@pytest.mark.fault("F33")
def test_a_commit_that_nobody_heard_of_is_neither_lost_nor_doubled():
    """The database committed and the connection broke: nothing is acknowledged, and the row says what is there."""
    worlds = runs(commit_unheard=0.3)

    assert happened(worlds, "commit_unheard") > SEEDS // 2
    assert (total(worlds, "stored"), total(worlds, "gaps")) == (closed(worlds), 0)


@pytest.mark.fault("F24", "F25")
def test_full_disks_on_both_sides_lose_nothing():
    """SQLite itself says that there is no page left, for a while, at tills and at central."""
    worlds = runs(till_disks_full=4, central_disks_full=2)

    assert (total(worlds, "stored"), total(worlds, "gaps")) == (closed(worlds), 0)


@pytest.mark.fault("F07", "F09")
def test_a_broker_that_forgets_and_lies_loses_nothing():
    """Wiped, back with an old state, restarted; half of what it loses it has acknowledged."""
    worlds = runs(loss=0.3, broker_wipes=2, broker_rollbacks=2, broker_restarts=2)

    assert (total(worlds, "stored"), total(worlds, "gaps")) == (closed(worlds), 0)


@pytest.mark.fault("F34", "F35")
def test_links_that_flap_and_hang_lose_nothing():
    """Cut every two seconds, silent without an end, no way through for a minute."""
    worlds = runs(flappings=3, half_opens=4, partitions=2, cut=0.05)

    assert (total(worlds, "stored"), total(worlds, "gaps")) == (closed(worlds), 0)


def test_every_fault_that_may_cost_something_has_a_test_of_its_own():
    """Whoever adds a fault that goes back, or goes away, says here what must come of it."""
    source = Path(__file__).read_text("utf-8")
    assert [] == [name for name in DESTRUCTIVE if f"{name}=" not in source and f'"{name}"' not in source]
