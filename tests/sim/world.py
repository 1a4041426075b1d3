"""One shop chain under one virtual clock and one random generator: the real cores and shells over real SQLite.

Only the network, the clocks and the POS are simulated. A crash keeps what was committed and nothing else.
"""

from __future__ import annotations

import heapq
import sqlite3
from functools import cache
from hashlib import blake2b
from itertools import count
from random import Random

import peewee as pw
from network import CrashError, Faults, SimBroker

from central.config import CentralConfig
from central.migrations import migrate
from central.store import Store
from central.subscriber import Subscriber
from edge.agent import Agent
from edge.automation import TillAutomation
from edge.config import EdgeConfig
from edge.outbox import Outbox, OutboxLimits
from edge.syps import Syps, SypsLimits
from fleet.loop import PER_RECEIPT
from wire import codec, topics
from wire.messages import SalesStored, UploadRequest

SALE = (
    b'{"document_id":"%s","transaction_type":"sale","till_id":"%s","business_day":"2026-03-01","shift_number":1,'
    b'"closed_at":"2026-03-01T10:00:00+03:00","currency":"RUB","lines":[{"line_number":1,"quantity":"1",'
    b'"extended_minor":%d}],"tenders":[{"tender_number":1,"tender_type":"cash","amount_minor":%d}],'
    b'"totals":{"total_minor":%d}}'
)
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
EPOCH_MS = 1_772_000_000_000
_names = count()


class InvariantError(AssertionError):
    """Something was promised that is not so."""


class World:
    """A run: ``World(seed).run()`` raises InvariantError, naming the seed, if any promise was broken."""

    def __init__(self, seed, faults=None, tills=4, documents=8):
        self.seed, self.rng = seed, Random(seed)
        self.faults = faults or Faults()
        self.now, self._events, self._order = 0.0, [], count()
        self.trace = blake2b(digest_size=16)
        self.counts = {}
        self.steps = 0
        self.documents = documents
        self.is_calm = False
        self.broker = SimBroker(self)
        self.central = CentralNode(self)
        self.tills = [TillNode(self, f"till-{number}") for number in range(1, tills + 1)]

    # -- Time and chance -------------------------------------------------------------------------------------------

    def after(self, delay_s, act, *args):
        heapq.heappush(self._events, (self.now + delay_s, next(self._order), act, args))

    def delay(self):
        return self.rng.uniform(self.faults.delay_least_s, self.faults.delay_most_s)

    def chance(self, fault):
        hit = self.rng.random() < getattr(self.faults, fault)
        if hit:
            self.count(fault)
        return hit

    def count(self, what):
        self.counts[what] = self.counts.get(what, 0) + 1

    def maybe_crash(self, who):
        """End a process between any two of its steps."""
        if self.faults.crash_at_step and self.rng.random() < self.faults.crash_at_step:
            self.count("crash")
            raise CrashError(who)

    def clock_ms(self):
        return EPOCH_MS + int(self.now * 1000)

    def make_stream(self):
        return "".join(self.rng.choices(ALPHABET, k=22))

    # -- The run ---------------------------------------------------------------------------------------------------

    def run(self, storm_s=20.0, most_s=20_000.0):
        self._plan(storm_s)
        self.after(storm_s, self._calm_down)
        try:
            while self._events and self.now < most_s and not (self.is_calm and self._is_drained()):
                self.now, _, act, args = heapq.heappop(self._events)
                self.steps += 1
                self.trace.update(b"%.6f %s" % (self.now, act.__qualname__.encode()))
                act(*args)
            self._check_end()
        except Exception as problem:
            command = f"pytest tests/sim -k replay --seed {self.seed}"
            raise InvariantError(
                f"seed {self.seed}, step {self.steps}, {self.now:.2f} s: {problem}; {command}"
            ) from problem
        finally:
            for node in (self.central, *self.tills):
                node.close()
        return self

    def _plan(self, storm_s):
        self.central.start()
        for till in self.tills:
            till.start()
            for number in range(self.documents):
                self.after(self.rng.uniform(0, storm_s), till.pos_closes, number)
            for _ in range(self.faults.till_crashes):
                self.after(self.rng.uniform(0, storm_s), till.crash)
        for _ in range(self.faults.central_crashes):
            self.after(self.rng.uniform(0, storm_s), self.central.crash)
        for _ in range(self.faults.broker_wipes):
            self.after(self.rng.uniform(0, storm_s), self.broker.wipe)

    def _calm_down(self):
        self.faults, self.is_calm = self.faults.calm(), True

    def _is_drained(self):
        return self.steps % 16 == 0 and all(till.is_drained() for till in self.tills)

    # -- Invariants ------------------------------------------------------------------------------------------------

    def check_promise(self, topic, payload):
        """Acknowledged ≤ durable: what central tells a till is what its committed row says, or less."""
        address = topics.parse(topic)
        if address.topic is topics.SALES_STORED:
            said = codec.decode(SalesStored, payload)
            through, stream = said.through, said.stream
        elif address.topic is topics.UPLOAD_REQUEST:
            said = codec.decode(UploadRequest, payload)
            through, stream = said.after, said.stream
        else:
            return
        row = self.central.keeper.execute(
            "SELECT through FROM watermark WHERE till_id = ? AND stream = ?", (address.till, stream)
        ).fetchone()
        if stream is not None and (row is None or through > row[0]):
            raise InvariantError(f"central told {address.till} {through}, its row says {row}")

    def _check_end(self):
        for till in self.tills:
            till.check()


class Node:
    """A process: events are its only input, the database its only memory."""

    def __init__(self, world, client, filters):
        self.world = world
        self.database = f"file:sim-{next(_names)}?mode=memory&cache=shared"
        self.keeper = sqlite3.connect(self.database, uri=True, isolation_level=None)
        self.link = world.broker.link(client, filters)
        self.is_running = False
        self._wakes = 0

    def start(self):
        self.is_running = True
        self.link.deliver = self.take
        self.link.will = self.will
        self.make()
        self.world.broker.connect(self.link)
        self._wake_later()

    def take(self, event):
        self.guarded(self.handle, event)

    def guarded(self, act, *args):
        """Run a step; a crash ends the process there, and it is started again after a while."""
        try:
            result = act(*args)
            if self.is_running:
                self.tick()
                self._wake_later()
        except CrashError:
            self.crash()
            return None
        return result

    def crash(self):
        if not self.is_running:
            return
        self.is_running = False
        self.link.deliver = None
        self.world.broker.cut(self.link, "crashed")
        self.close_database()
        self.world.after(self.world.rng.uniform(0.5, 5), self.start)

    def _wake_later(self):
        self._wakes += 1
        self.world.after(max(0.0, self.deadline() - self.world.now), self._wake, self._wakes)

    def _wake(self, number):
        if self.is_running and number == self._wakes:
            self.guarded(lambda: None)

    def close(self):
        if self.is_running:
            self.is_running = False
            self.close_database()
        self.keeper.close()


@cache
def empty_database():
    """Return a migrated database without a row: copying it is a tenth of migrating each run's."""
    database = pw.SqliteDatabase(":memory:")
    database.connect()
    migrate(database)
    return database.connection()


class CentralNode(Node):
    def __init__(self, world):
        filters = (topics.RECEIPT_CLOSED.of(), topics.TILL_PRESENCE.of(), topics.SALES.of(worker=1))
        super().__init__(world, "central-1", filters)
        empty_database().backup(self.keeper)
        self.config = CentralConfig(days_every_s=7 * 86_400)  # Days have tests of their own and cost a fifth of a run.

    def make(self):
        world = self.world
        self.store = Store(self.database, world.make_stream)
        self.shell = Subscriber(self.config, self.store, self, Random(world.rng.random()), world.clock_ms, world.now)

    def publish(self, topic, payload, *, retain=False):
        self.world.check_promise(topic, payload)
        return self.link.publish(topic, payload, retain=retain)

    def acknowledge(self, received):
        self.link.acknowledge(received)

    def reconnect(self, reason):
        self.link.reconnect(reason)

    def will(self):
        topic = topics.CENTRAL_PRESENCE.of(worker=1)
        return topic, codec.encode(self.shell.presence(online=False))

    def handle(self, event):
        self.shell.handle_all([event], self.world.now)

    def tick(self):
        self.shell.tick(self.world.now)

    def deadline(self):
        return self.shell.next_deadline()

    def close_database(self):
        self.store.close()


class TillNode(Node):
    def __init__(self, world, till):
        self.till = till
        filters = (
            topics.UPLOAD_REQUEST.of(till=till),
            topics.SALES_STORED.of(till=till),
            topics.SETTINGS.of(till=till),
            topics.CENTRAL_PRESENCE.of(),
        )
        super().__init__(world, till, filters)
        self.config = EdgeConfig(till_id=till, spool_dir="/nonexistent", state_dir="/nonexistent", spool_every_s=86_400)
        self.automation = TillAutomation(None, PER_RECEIPT)
        self.recorded = {}
        self.unheard = []

    def make(self):
        world = self.world
        self.outbox = Outbox(self.database, OutboxLimits(), world.make_stream)
        core = Syps(
            head=self.outbox.head(),
            boot_id=world.make_stream()[:8],
            own_central=self.outbox.central_id,
            limits=SypsLimits(),
            rng=Random(world.rng.random()),
        )
        self.agent = Agent(self.config, self.outbox, core, self.link, world.clock_ms, self.automation, world.count)
        self.agent.start(world.now)
        for given in self.unheard:
            self.world.after(0.1, self.hand_over, given)
        self.unheard = []

    def pos_closes(self, number):
        amount = self.world.rng.randrange(1, 100_000)
        document_id = f"{self.till}-{number}".encode()
        is_wrong = self.world.rng.random() < 0.1
        given = SALE % (document_id, self.till.encode(), amount, amount, amount + is_wrong)
        self.recorded[document_id.decode()] = given
        self.hand_over(given)

    def hand_over(self, given):
        """Repeat what has no answer, as a POS does: a crash may have come before or after the commit."""
        if not self.is_running:
            self.unheard.append(given)
            return
        taken = self.guarded(self.agent.take_in, given, self.world.make_stream, self.world.now)
        if taken is None:
            self.unheard.append(given)

    def will(self):
        return topics.TILL_PRESENCE.of(till=self.till), self.agent.presence(self.link.generation, online=False)

    def handle(self, event):
        self.agent.handle(event, self.world.now)

    def tick(self):
        self.agent.tick(self.world.now)

    def deadline(self):
        return self.agent.next_deadline()

    def close_database(self):
        self.outbox.database.close()

    def is_drained(self):
        if not self.is_running or self.unheard:
            return False
        head = self.outbox.head()
        return head.newest == len(self.recorded) == self.world.documents and head.stored == head.newest

    def check(self):
        """Nothing lost, nothing doubled, in order, byte for byte; and the till knows it."""
        if not self.is_drained():
            raise InvariantError(f"{self.till} is not drained: {self.outbox.head() if self.is_running else 'down'}")
        rows = self.world.central.keeper.execute(
            "SELECT sequence, document_id, body FROM document WHERE till_id = ? UNION ALL"
            " SELECT sequence, document_id, body FROM quarantine WHERE till_id = ? ORDER BY sequence",
            (self.till, self.till),
        ).fetchall()
        if [row[0] for row in rows] != list(range(1, len(self.recorded) + 1)):
            raise InvariantError(f"{self.till}: sequences {[row[0] for row in rows]}")
        if {row[1]: row[2] for row in rows} != self.recorded:
            raise InvariantError(f"{self.till}: central holds other documents than the POS closed")
