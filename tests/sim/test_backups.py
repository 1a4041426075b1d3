"""Both ends under faults, with backups, restores and pruning at once: what a till forgets is in a backup."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from network import Faults
from world import InvariantError, TillNode, World

from central import backup, restore, verify
from central.models import MODELS
from edge.config import EdgeConfig
from edge.syps import SypsLimits

STORM = Faults(loss=0.1, duplicate=0.1, delay_most_s=1.0, till_crashes=2, central_crashes=2, crash_at_step=0.002)

RESTORES = 3


def silent(*_):
    """Hear of progress and say nothing."""


class ForgetfulTill(TillNode):
    """A till that forgets at once whatever it may."""

    def make(self):
        super().make()
        self.agent.config = EdgeConfig(
            till_id=self.till, spool_dir="/nonexistent", state_dir="/nonexistent", retention_days=1e-9
        )
        self.agent.syps.limits = SypsLimits(prune_every_s=0.5)

    def tick(self):
        super().tick()
        head = self.outbox.head()
        pruned = head.oldest - 1
        if pruned > self.world.in_newest_backup(self.till, head.stream):
            raise InvariantError(f"{self.till} forgot up to {pruned} of {head.stream}: that is in no backup")
        self.world.counts["pruned"] = max(self.world.counts.get("pruned", 0), pruned)


class BackedUpWorld(World):
    """A run in which central is backed up before the first till is heard, and restored from its newest backup."""

    def __init__(self, seed, folder):
        super().__init__(seed, STORM, tills=3, documents=20)
        self.folder, self.newest, self.copies = folder, None, 0
        self.tills = [ForgetfulTill(self, f"till-{number}") for number in range(4, 7)]

    def _plan(self, storm_s):
        super()._plan(storm_s)
        self.back_up()
        for _ in range(8):
            self.after(self.rng.uniform(0, storm_s), self.back_up)
        for _ in range(RESTORES):
            self.after(self.rng.uniform(0, storm_s), self.restore)

    def in_newest_backup(self, till, stream):
        return next((one.through for one in self.newest.streams if (one.till_id, one.stream) == (till, stream)), 0)

    def back_up(self):
        """Back up as the command does: copy, verify, note; a process that is down notes nothing."""
        if not self.central.is_running:
            return
        self.copies += 1
        path = self.folder / f"{self.copies}.db"
        path.write_bytes(self.central.keeper.serialize())
        found = verify.verify(path, silent)
        self.newest, self.newest_path = found, path
        with self.central.store.database.bind_ctx(MODELS), self.central.store.database.atomic("IMMEDIATE"):
            backup._note(path, 1, self.clock_ms(), self.clock_ms(), found, "")
        self.count("backup")

    def restore(self):
        """Kill central, lose its database, and put the newest backup in its place."""
        self.central.crash()
        part = self.folder / "part.db"
        part.write_bytes(self.newest_path.read_bytes())
        incarnation = self.central.keeper.execute("SELECT incarnation FROM central").fetchone()[0] + 1
        planned = restore.Restored(self.newest, incarnation, incarnation * 1000, None, 0)
        restore._prepare(part, self.newest_path, planned, "", self.clock_ms())
        with closing(sqlite3.connect(part)) as prepared:
            prepared.backup(self.central.keeper)
        self.count("restore")

    def _check_end(self):
        super()._check_end()
        gaps = self.central.keeper.execute("SELECT * FROM gap").fetchall()
        if gaps:
            raise InvariantError(f"the tills cannot send again: {gaps}")


@pytest.mark.fault("F28", "F06")
@pytest.mark.parametrize("block", range(4))
def test_whatever_fails_a_till_forgets_only_what_is_in_a_backup(block, tmp_path):
    """Loss, repeats, crashes of both ends, and three restores: all is stored once in the end, and there is no gap."""
    runs = [BackedUpWorld(seed, tmp_path).run(storm_s=60) for seed in range(block * 10, block * 10 + 10)]

    assert [run.counts["restore"] for run in runs] == [RESTORES] * 10
    assert sum(run.counts.get("pruned", 0) for run in runs) > 50  # Or nothing was put to the test.
