"""What a document costs, in counts that no machine changes: a timing would not hold them. One fsync: `test_outbox`."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from random import Random
from statistics import mean

import pytest
from databases import listening
from factories import NOW_MS, RecordingLink, a_parcel, a_store, a_stream, a_till, some_baskets

from central.batch import NewStream
from central.config import CentralConfig
from central.store import INSERTED_AT_ONCE
from central.subscriber import Subscriber
from wire.link import Acknowledged, Connected, Received

THE_FOUR = ["receipt_closed", "sales/1", "sales_stored", "upload_request"]
SMALL_ONES_BYTES = 620
"""What the other three weigh, topics included: they stay readable on the wire, and no longer than that."""
BEYOND_QUIET_S = 60.0


class Wire:
    """A till and central joined end to end; ``carried`` has each message's topic and payload."""

    def __init__(self, store, folder):
        self.till, self.link, self.carried = a_till(folder), RecordingLink(), []
        self.central = Subscriber(CentralConfig(), store, self.link, Random(1), lambda: NOW_MS, 0.0)
        self._taken = Counter()
        self.now = 0.0
        self.till.agent.handle(Connected(1), self.now)
        self.central.handle_all([Connected(1)], self.now)
        self.settle()

    def settle(self):
        """Carry messages both ways, and let each debounce come to its end, until nobody has anything left to say."""
        quiet = 0
        while quiet < 2:
            before = len(self.carried)
            for mid, topic, payload in self._new("till", self.till.link):
                self.central.handle_all([Received(1, mid, topic, payload, False, self.now)], self.now)
                self.till.agent.handle(Acknowledged(1, mid), self.now)
            for mid, topic, payload in self._new("central", self.link):
                if topic.startswith("till/"):
                    self.till.agent.handle(Received(1, mid, topic, payload, False, self.now), self.now)
                self.central.handle_all([Acknowledged(1, mid)], self.now)
            if len(self.carried) == before:
                quiet += 1
                self.now += BEYOND_QUIET_S / 2
                self.central.tick(self.now)

    def _new(self, end, link):
        first, self._taken[end] = self._taken[end], len(link.published)
        for mid, (topic, payload, _) in enumerate(link.published[first:], first + 1):
            self.carried.append((topic, payload))
            yield mid, topic, payload

    def sell(self, body):
        """Close one receipt and see it stored; return what was carried for it, by the topics' last part."""
        self.carried = []
        self.till.take_in(body, self.now)
        self.settle()
        assert self.till.outbox.head().unsent == 0
        said = {topic.split("/", 2)[2]: len(topic) + len(payload) for topic, payload in self.carried}
        assert len(said) == len(self.carried)
        return said


@pytest.fixture
def wire(tmp_path):
    """Return a till that is connected to central."""
    store = a_store()
    yield Wire(store, tmp_path)
    store.close()


def test_a_live_receipt_is_four_messages_and_at_most_half_its_bytes(wire):
    """Bell, request, sales, stored: nothing else is said, and the four weigh half of the receipt as plain JSON."""
    receipts = [body for body in some_baskets(120) if b'"transaction_type":"sale"' in body][:100]
    weights = []
    for body in receipts:
        said = wire.sell(body)
        assert THE_FOUR == sorted(said)
        weights.append(said)

    assert mean(sum(said.values()) for said in weights) <= 0.5 * mean(map(len, receipts))
    assert max(sum(said.values()) - said["sales/1"] for said in weights) <= SMALL_ONES_BYTES


@pytest.fixture
def store(central_url):
    """Return central's database, on each kind."""
    made = a_store(central_url)
    yield made
    made.close()


def a_batch(tills, each):
    """Return the streams of so many tills, and the uploads of a backlog of each."""
    closed = some_baskets(each)
    streams = [NewStream(f"till-{number}", a_stream(number), ()) for number in range(1, tills + 1)]
    parcels = []
    for one in streams:
        bodies = [body.replace(b'"till-1"', f'"{one.till}"'.encode()) for body in closed]
        parcels.append(a_parcel(bodies, one.till, stream=one.stream))
    return streams, parcels


@pytest.mark.parametrize(("tills", "each"), [(1, 1), (1, 200), (10, 20)])
def test_a_batch_is_one_transaction_of_four_kinds_of_statements(store, tills, each):
    """Marks are read, documents inserted, marks moved: nothing is asked or written once for each document beside it."""
    streams, parcels = a_batch(tills, each)
    store.open_streams(streams, {}, NOW_MS)
    seen = []
    with listening(store.database, lambda text: seen.append(text.split()[0])):
        assert {one.kind for one in store.ingest(parcels, {}, NOW_MS)} == {"advanced"}

    counted, documents = Counter(seen), tills * each
    is_file = store.database.kind == "sqlite"  # Which tells of each row; a server of arrays, begun anew after 100.
    rows = {
        "INSERT": documents if is_file else -(-documents // max(each, INSERTED_AT_ONCE)),
        "UPDATE": tills if is_file else 1,
    }
    assert {"BEGIN": 1, "SELECT": 1, **rows, "COMMIT": 1} == counted


@pytest.mark.parametrize("each", [50, 200])
def test_what_a_batch_allocates_is_bounded_by_its_bytes_and_let_go(store, each):
    """At most twice what the documents weigh while they are stored, and next to nothing of it afterwards."""
    streams, parcels = a_batch(5, each)
    store.open_streams(streams, {}, NOW_MS)
    weight = sum(len(body) for parcel in parcels for body in parcel.upload.bodies)
    tracemalloc.start()
    store.ingest(parcels, {}, NOW_MS)
    kept, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert most <= 2 * weight
    assert kept <= 0.2 * weight
