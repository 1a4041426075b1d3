"""Both ends under faults, with the real backup and restore, and pruning at once: what a till forgets is in a backup."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from faults import Faults
from nemesis import Nemesis
from world import World

from central import backup, restore, verify
from central.models import MODELS

STORM = Faults(
    loss=0.1, duplicate=0.1, delay_most_s=1.0, late_most_s=5.0, till_crashes=6, central_crashes=2, crash_at_step=0.002,
    central_restores=3, retains=False, backs_up=True, is_quick=True,
)  # fmt: skip


def silent(*_):
    """Hear of progress and say nothing."""


class RealBackups(Nemesis):
    """Backs up and restores as the commands do, on files."""

    def __init__(self, world, folder):
        super().__init__(world)
        self.folder, self.copies, self.path, self.found = folder, 0, None, None

    def _note_backup(self):
        """Copy, verify, note; a process that is down notes nothing."""
        self.copies += 1
        path = self.folder / f"{self.copies}.db"
        path.write_bytes(self.world.central.memory.keeper.serialize())
        self.path, self.found = path, verify.verify(path, silent)
        store = self.world.central.store
        with store.database.bind_ctx(MODELS), store.database.atomic("IMMEDIATE"):
            backup._note(path, 1, self.world.clock_ms(), self.world.clock_ms(), self.found, "")

    def back_up(self):
        if self.world.central.is_running:
            super().back_up()

    def central_restores(self):
        """Kill central, lose its database, and put the newest backup in its place."""
        part = self.folder / "part.db"
        part.write_bytes(self.path.read_bytes())
        keeper = self.world.central.memory.keeper
        incarnation = keeper.execute("SELECT incarnation FROM central").fetchone()[0] + 1
        planned = restore.Restored(self.found, incarnation, incarnation * 1000, None, 0)
        restore._prepare(part, self.path, planned, "", self.world.clock_ms())
        with closing(sqlite3.connect(part)) as prepared:
            self._put_central_back(prepared, self.backup[1], raises=False)


@pytest.mark.fault("F28", "F06")
@pytest.mark.parametrize("block", range(2))
def test_whatever_fails_a_till_forgets_only_what_is_in_a_backup(block, tmp_path):
    """Loss, repeats, crashes of both ends, and three restores: all is stored once in the end, and there is no gap."""
    pruned = 0
    for seed in range(block * 10, block * 10 + 10):
        world = World(seed, STORM, tills=3, documents=12)
        world.nemesis = RealBackups(world, tmp_path)
        world.run(storm_s=60)
        assert (world.found["stored"], world.found["gaps"]) == (len(world.ledger.closed), 0)
        pruned += sum(len(till.watch.lineage.forgotten) for till in world.machines)
    assert pruned > 20  # Or nothing was put to the test.
