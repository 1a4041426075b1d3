"""Owns the larger faults: what happens to machines, disks, clocks and databases, and when in a run."""

from __future__ import annotations

from nodes import CentralNode, Memory, TillNode
from oracle import DatabaseWatch


class Nemesis:
    """Plans a run's faults from its seed, and lets each happen."""

    def __init__(self, world):
        self.world = world
        self.backup = None

    def plan(self, storm_s):
        """Spread each larger fault over the storm."""
        if self.world.faults.rollouts:
            for node in (*self.world.workers, *self.world.machines):
                node.is_old = self.world.rng.random() < 0.5
        for name in PLANS:
            for _ in range(getattr(self.world.faults, name)):
                self.world.after(self.world.rng.uniform(0, storm_s), self._happen, name)
        if self.world.faults.backs_up:
            self.back_up()
            for _ in range(3):
                self.world.after(self.world.rng.uniform(0, storm_s), self.back_up)

    def _happen(self, name):
        PLANS[name](self)

    def _till(self):
        return self.world.rng.choice(self.world.machines)

    def _worker(self):
        return self.world.rng.choice(self.world.workers)

    def _link(self):
        return self.world.rng.choice(self.world.broker.clients)

    def _for_a_while(self, node, begin, end):
        self.world.count(begin.__name__)
        begin()
        self.world.after(self.world.rng.uniform(1, 20), end)

    # -- Processes, links and clocks -------------------------------------------------------------------------------

    def till_crashes(self):
        self._till().crash()

    def central_crashes(self):
        self._worker().crash()

    def broker_wipes(self):
        self.world.count("broker wiped")
        self.world.broker.wipe()

    def broker_rollbacks(self):
        self.world.count("broker rolled back")
        self.world.broker.roll_back()

    def broker_restarts(self):
        self.world.count("broker restarted")
        self.world.broker.restart()

    def half_opens(self):
        self.world.count("half open")
        self.world.broker.half_open(self._link(), self.world.rng.uniform(5, 45))

    def flappings(self):
        link = self._link()
        for number in range(self.world.rng.randint(2, 8)):
            self.world.after(number * 2.0, self.world.broker.cut, link, "flapping")

    def partitions(self):
        self.world.count("partition")
        link = self._link()
        link.no_way_until = self.world.now + self.world.rng.uniform(5, 60)
        self.world.broker.cut(link, "no way through")

    def slow_centrals(self):
        self.world.count("slow central")
        self.world.slow_until = self.world.now + self.world.rng.uniform(2, 20)

    def clock_jumps(self):
        node = self.world.rng.choice([self._worker(), *self.world.machines])
        self.world.count("clock jump")
        node.clock_offset_ms += self.world.rng.choice((7_200_000, 400 * 86_400_000, -1_800_000, -400 * 86_400_000))

    def till_disks_full(self):
        till = self._till()
        self._for_a_while(till, till.fill_disk, till.free_disk)

    def central_disks_full(self):
        worker = self._worker()
        self._for_a_while(worker, worker.fill_disk, worker.free_disk)

    def second_processes(self):
        """Start central once more on the same database, with the same number: the two throw each other out."""
        self.world.count("second process")
        worker = self._worker()
        other = CentralNode(self.world, worker.memory, self.world.database, worker.share)
        other.start()
        self.world.guests.append(other)
        self.world.after(self.world.rng.uniform(5, 60), other.end)

    def worker_changes(self):
        """Go on with another number of workers: new ones start and old ones end in any order, for a while at once."""
        world = self.world
        world.count("change of workers")
        old, there = world.workers, len(world.workers)
        workers = world.rng.choice([number for number in (1, 2, 3, 4) if number != there])
        world.workers = world.new_workers(old[0].memory, workers)
        world.retired += old
        for node in world.workers:
            node.is_old, node.clock_offset_ms = old[0].is_old, old[0].clock_offset_ms
            world.after(world.rng.uniform(0, 15), node.start)
        for node in old:
            world.after(world.rng.uniform(0, 15), node.retire)

    def rollouts(self):
        """Restart one end in the other wire version: an upgrade, or the way back."""
        node = self.world.rng.choice([*self.world.workers, *self.world.machines])
        self.world.count("rollout")
        node.crash()
        node.is_old = not node.is_old

    # -- Disks that go back, or go away ----------------------------------------------------------------------------

    def images(self):
        """Take an image of a till's disk now, and put it back later: numbers are used again."""
        till = self._till()
        image, lineage, sold = till.memory.image(), till.watch.lineage.copy(), till.sold
        self.world.after(self.world.rng.uniform(1, 20), self._put_image_back, till, image, lineage, sold)

    def _put_image_back(self, till, image, lineage, sold):
        self.world.count("image restored")
        till.crash()
        till.memory.put_back(image)
        till.watch.lineage = lineage
        self._forget(till, sold)

    def _forget(self, till, sold):
        """Forget what the POS had not been answered for: it was on that disk, and its ids may be given again."""
        self.world.ledger.closed.difference_update(till.unheard)
        self.world.ledger.unowed.update(till.unheard)
        till.unheard = []
        if self.world.faults_drawn.reuses_ids:
            till.sold = sold

    def clones(self):
        """Start a second machine from a copy of a till's disk; both sell from then on."""
        till = self._till()
        self.world.count("clone")
        memory = Memory()
        memory.put_back(till.memory.image())
        name = "" if self.world.faults_drawn.reuses_ids else f"c{len(self.world.machines)}-"
        clone = TillNode(self.world, till.till, name, memory)
        clone.watch.lineage, clone.sold = till.watch.lineage.copy(), till.sold
        self.world.machines.append(clone)
        clone.start()
        self.world.plan_sales(clone)

    def new_disks(self):
        """Give a till an empty disk: a re-imaged machine."""
        till = self._till()
        self.world.count("new disk")
        till.crash()
        self.world.replace_memory(till)
        self._forget(till, 0)

    def edits(self):
        """Let somebody edit an outbox by hand while its agent is down: a row changed, or a row deleted."""
        till = self._till()
        till.crash()
        if not till.watch.lineage.bodies:
            return
        rows = till.memory.keeper.execute("SELECT sequence, body FROM document ORDER BY sequence").fetchall()
        self.world.count("outbox edited")
        number, body = rows[-1] if self.world.rng.random() < 0.3 else self.world.rng.choice(rows)
        edited = None
        if self.world.rng.random() < 0.5:
            till.memory.keeper.execute("DELETE FROM document WHERE sequence = ?", (number,))
        else:
            edited = body.replace(b'"document_id":"', b'"document_id":"edited-', 1)
            if body in self.world.ledger.wrong:
                self.world.ledger.wrong.add(edited)
            till.memory.keeper.execute("UPDATE document SET body = ? WHERE sequence = ?", (edited, number))
        till.watch.edited(till.memory.keeper, number, edited)

    # -- Central's memory ------------------------------------------------------------------------------------------

    def back_up(self):
        """Make a verified backup of central, and let central know of it."""
        self.world.count("backup")
        central, database = self.world.central, self.world.database
        self.backup = (central.memory.image(), frozenset(database.heard), dict(database.marks), set(database.bodies))
        self._note_backup()

    def _note_backup(self):
        run, at_ms = self.world.central.memory.keeper.execute, self.world.clock_ms()
        for (till, stream), (through, _) in self.backup[2].items():
            run("UPDATE watermark SET backed_up = ? WHERE till_id = ? AND stream = ?", (through, till, stream))
        run("INSERT INTO backup (path, made_at_ms, verified_at_ms, size_bytes, documents) VALUES ('', ?, ?, 0, 0)",
            (at_ms, at_ms))  # fmt: skip
        run("INSERT INTO audit (at_ms, who, action, object, note) VALUES (?, '', 'backup', '', '')", (at_ms,))

    def central_restores(self):
        """Put an older state of central back: the newest backup where backups are made, otherwise any."""
        if self.world.faults_drawn.backs_up:
            if self.backup:
                self._put_central_back(*self.backup[:2], raises=True)
                self._note_backup()
            return
        image, heard = self.world.central.memory.image(), frozenset(self.world.database.heard)
        wait_s = self.world.rng.uniform(1, 30)
        self.world.after(wait_s, lambda: self._put_central_back(image, heard, raises=True))

    def central_tails_lost(self):
        """Lose the last commits, as a standby that was a little behind does; nobody raises the incarnation."""
        if self.world.faults_drawn.backs_up:
            return  # A standby that loses commits is no backup, and pruning relied on that there is one.
        image, heard = self.world.central.memory.image(), frozenset(self.world.database.heard)
        self.world.after(self.world.rng.uniform(0.1, 2), lambda: self._put_central_back(image, heard, raises=False))

    def _put_central_back(self, image, heard, *, raises):
        self.world.count("central restored" if raises else "central's tail lost")
        central = self.world.central
        self.world.crash_central()
        central.memory.put_back(image)
        if raises:
            central.memory.keeper.execute(
                "UPDATE central SET incarnation = incarnation + 1, starts = (incarnation + 1) * 1000"
            )
        self.world.database.reset(heard)

    def central_emptied(self):
        """Start central anew on an empty database: another central by name."""
        if self.world.faults_drawn.backs_up:
            return
        self.world.count("central emptied")
        self.world.crash_central()
        self.world.empty_central()

    def stale_centrals(self):
        """Revive an old server beside the present one: the same name, an older state, its own database."""
        memory = Memory()
        memory.put_back(self.world.central.memory.image())
        self.world.after(self.world.rng.uniform(1, 30), self._revive, memory)

    def _revive(self, memory):
        self.world.count("stale central")
        stale = CentralNode(self.world, memory, DatabaseWatch(self.world.ledger, memory.keeper))
        stale.start()
        self.world.guests.append(stale)
        self.world.after(self.world.rng.uniform(5, 60), stale.end)


PLANS = {
    name: getattr(Nemesis, name)
    for name in (
        "till_crashes", "central_crashes", "broker_wipes", "broker_rollbacks", "broker_restarts", "half_opens",
        "flappings", "partitions", "slow_centrals", "clock_jumps", "till_disks_full", "central_disks_full", "images",
        "clones", "new_disks", "edits", "central_restores", "central_tails_lost", "central_emptied",
        "second_processes", "stale_centrals", "worker_changes", "rollouts",
    )
}  # fmt: skip
