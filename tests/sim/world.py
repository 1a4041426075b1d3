"""One shop chain under one virtual clock and one random generator: the real cores and shells over real SQLite.

Only the network, the clocks and the POS are simulated. A run is a storm, then calm; in the calm everything must drain
within a bound, and the ledger of what was closed must agree with central's rows.
"""

from __future__ import annotations

import heapq
import json
from dataclasses import replace
from hashlib import blake2b
from itertools import count
from random import Random

from faults import Faults, swarm
from nemesis import Nemesis
from network import CrashError, SimBroker
from nodes import CentralNode, Memory, TillNode, empty_database
from oracle import DatabaseWatch, InvariantError, Ledger, judge_end

from central.share import Share

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
EPOCH_MS = 1_772_000_000_000
SERVICE_S = 0.01
"""How long central's loop takes to come round: what arrives meanwhile is committed together."""
DRAIN_MOST_S = 20_000.0
"""Five and a half virtual hours: a till that used up its new streams waits for an hour, and then again."""
NOT_FAULTS = {"backup"}
NUMBERS = (1, 5, 3, 7)
"""Of the tills: their ids spread over two workers as well as over three and four."""


class World:
    """A run: ``World(seed).run()`` raises InvariantError, naming the seed, if any promise was broken."""

    replay = "replay"

    def __init__(self, seed, faults=None, tills=4, documents=8, limit_documents=200, new_streams_per_hour=3):
        self.seed, self.rng = seed, Random(seed)
        self.faults = self.faults_drawn = faults or Faults()
        self.limit_documents, self.new_streams_per_hour = limit_documents, new_streams_per_hour
        self.now, self._events, self._order = 0.0, [], count()
        self.trace = blake2b(digest_size=16)
        self.counts = {}
        self.steps = 0
        self.documents = documents
        self.is_calm = False
        self.slow_until = 0.0
        self.storm_s = 20.0
        self.drains_within_s = DRAIN_MOST_S
        self.broker = SimBroker(self)
        self.ledger = Ledger()
        self.memories = []
        memory = self._memory()
        empty_database().backup(memory.keeper)
        self.database = DatabaseWatch(self.ledger, memory.keeper)
        self.workers = self.new_workers(memory, self.faults.workers)
        self.retired = []
        self.guests = []
        self.nemesis = Nemesis(self)
        self.machines = self.tills = [
            TillNode(self, f"till-{number}", "", self._memory()) for number in NUMBERS[:tills]
        ]

    @classmethod
    def swarm(cls, seed, **forced):
        """Return a run with a mixture of faults, tills, documents and limits of its own; some faults may be forced."""
        rng = Random(seed * 2_654_435_761 % 2**32)
        sizes = {"tills": rng.randint(1, 4), "documents": rng.choice((4, 8, 12, 24))}
        limits = {"limit_documents": rng.choice((1, 3, 200)), "new_streams_per_hour": rng.choice((3, 60))}
        world = cls(seed, replace(swarm(rng), **forced).possible(), **sizes, **limits)
        world.replay = f"replay_swarm --forced '{json.dumps(forced)}'" if forced else "replay_swarm"
        return world

    # -- Central's workers -----------------------------------------------------------------------------------------

    @property
    def central(self):
        """The first of central's present workers; its memory is that of all."""
        return self.workers[0]

    @property
    def centrals(self):
        """All processes on central's database that were given a share of it, those that are on their way out too."""
        return [*self.workers, *self.retired]

    def new_workers(self, memory, workers):
        return [CentralNode(self, memory, self.database, Share(k, workers)) for k in range(1, workers + 1)]

    def crash_central(self):
        """End all processes on central's database; those that count come back."""
        self.end_guests()
        for one in self.centrals:
            one.crash()

    # -- Time and chance -------------------------------------------------------------------------------------------

    def after(self, delay_s, act, *args):
        heapq.heappush(self._events, (self.now + delay_s, next(self._order), act, args))

    def delay(self):
        faults = self.faults
        if faults.late and self.rng.random() < faults.late:
            self.count("late")
            return self.rng.uniform(faults.delay_most_s, faults.late_most_s)
        return self.rng.uniform(faults.delay_least_s, faults.delay_most_s)

    def service_s(self):
        return self.rng.uniform(1, 10) if self.now < self.slow_until else self.rng.uniform(0, SERVICE_S)

    def chance(self, fault):
        probability = getattr(self.faults, fault)
        if probability and self.rng.random() < probability:
            self.count(fault)
            return True
        return False

    def count(self, what):
        self.counts[what] = self.counts.get(what, 0) + 1

    def maybe_crash(self, who):
        """End a process between any two of its steps."""
        if self.faults.crash_at_step and self.rng.random() < self.faults.crash_at_step:
            raise CrashError(who)

    def clock_ms(self):
        return EPOCH_MS + int(self.now * 1000)

    def make_stream(self):
        return "".join(self.rng.choices(ALPHABET, k=22))

    @property
    def fault_count(self):
        """How many faults were injected."""
        return sum(number for name, number in self.counts.items() if name not in NOT_FAULTS)

    # -- The run ---------------------------------------------------------------------------------------------------

    def run(self, storm_s=20.0):
        self.storm_s = storm_s
        self._plan(storm_s)
        self.after(storm_s, self._calm_down)
        try:
            self._go_on(storm_s + self.drains_within_s)
            self._check_end()
        except Exception as problem:
            command = f"pytest tests/sim -k {self.replay} --seed {self.seed}"
            raise InvariantError(
                f"seed {self.seed}, step {self.steps}, {self.now:.2f} s: {problem}; {command}"
            ) from problem
        finally:
            self._close()
        return self

    def _go_on(self, most_s):
        events, update = self._events, self.trace.update
        while events and self.now < most_s:
            self.now, _, act, args = heapq.heappop(events)
            self.steps += 1
            update(b"%.6f %s" % (self.now, act.__qualname__.encode()))
            act(*args)
            if self.is_calm and self.steps % 16 == 0 and self._is_drained():
                break

    def _plan(self, storm_s):
        for worker in self.workers:
            worker.start()
        for till in self.tills:
            till.start()
            self.plan_sales(till)
        self.nemesis.plan(storm_s)

    def plan_sales(self, till):
        """Spread what a POS closes over the rest of the storm."""
        for _ in range(self.documents):
            self.after(self.rng.uniform(0, max(0.0, self.storm_s - self.now)), till.pos_closes)

    def _calm_down(self):
        self.faults, self.is_calm = self.faults.calm(), True
        self.slow_until = self.now

    def _is_drained(self):
        leaving = any(node.is_running for node in (*self.guests, *self.retired))
        return not leaving and all(till.is_drained(self.database) for till in self.machines)

    def _close(self):
        for node in (*self.centrals, *self.guests, *self.machines):
            node.close()
        for memory in (*self.memories, *(node.memory for node in (*self.guests, *self.machines))):
            memory.close()

    # -- What nemesis asks for -------------------------------------------------------------------------------------

    def _memory(self):
        self.memories.append(Memory())
        return self.memories[-1]

    def replace_memory(self, till):
        """Give a machine an empty disk."""
        till.memory, till.watch.lineage = self._memory(), type(till.watch.lineage)()

    def empty_central(self):
        """Give central an empty database."""
        memory = self._memory()
        for one in self.centrals:
            one.memory = memory
        empty_database().backup(memory.keeper)
        self.database._run = memory.keeper.execute
        self.database.reset()

    def end_guests(self):
        """End the other central processes: their database goes away."""
        for guest in self.guests:
            guest.end()

    @property
    def backed_up(self):
        """What the newest backup holds, None where none is made."""
        if not self.faults_drawn.backs_up:
            return None
        return self.nemesis.backup[3] if self.nemesis.backup else set()

    # -- Invariants ------------------------------------------------------------------------------------------------

    def _check_end(self):
        for till in self.machines:
            if not till.is_drained(self.database):
                state = till.outbox.head() if till.is_running else "down"
                raise InvariantError(f"{till.till} is not drained: {state}, {self.database.marks}")
        gaps = self.central.memory.keeper.execute("SELECT till_id, stream, first, last FROM gap").fetchall()
        watches = [till.watch for till in self.machines]
        self.found = judge_end(self.ledger, self.database, gaps, watches, may_miss=self.may_miss)

    @property
    def may_miss(self):
        """Whether a gap may be left: where something goes back, or tills forget sooner than messages arrive."""
        return self.faults_drawn.destroys or not self.faults_drawn.retains
