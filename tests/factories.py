"""Small builders for tests: what a till closes, rings and sends, and the two ends over real databases in memory."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from functools import cache
from itertools import count, islice
from random import Random

from central.batch import Parcel
from central.collector import Collector
from central.commands import CollectorLimits
from central.store import Store
from edge.agent import Agent
from edge.automation import TillAutomation
from edge.config import EdgeConfig
from edge.outbox import MEMORY, Outbox, OutboxLimits
from edge.syps import Head, Syps, SypsLimits
from fleet import baskets
from fleet.catalogue import make_catalogue
from fleet.loop import PER_RECEIPT
from wire import chain
from wire.codec import Upload
from wire.messages import VERSIONS, ReceiptClosed, Sales, SalesStored, TillPresence, UploadRequest, said

TILL, CENTRAL, BOOT = "till-1", "central-of-ours", "boot-1"
NOW_MS = 1_772_600_000_000
CARD_NUMBER = "4111111111111111"
"""A test number of the card networks: it has the shape and the check digit of a real one."""


# -- Documents ---------------------------------------------------------------------------------------------------------


def a_document(document_id="d1", transaction_type="no_sale", **fields):
    """Return the fields of a document that is valid as it stands."""
    return {
        "document_id": document_id,
        "transaction_type": transaction_type,
        "till_id": TILL,
        "business_day": "2026-03-01",
        "closed_at": "2026-03-01T10:00:00+03:00",
        "currency": "RUB",
        **fields,
    }


def a_receipt(document_id="d1", transaction_type="sale", total_minor=12_300, **fields):
    """Return the fields of a receipt with one line and one tender that make its total."""
    line = {"line_number": 1, "quantity": "1", "extended_minor": total_minor}
    tender = {"tender_number": 1, "tender_type": "cash", "amount_minor": total_minor}
    sums = {"lines": [line], "tenders": [tender], "totals": {"total_minor": total_minor}}
    return a_document(document_id, transaction_type, **{**sums, **fields})


def as_json(fields):
    """Return a document's bytes as a POS would write them."""
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()


def a_sale(document_id="d1", **fields):
    """Return the bytes of a valid sale."""
    return as_json(a_receipt(document_id, **fields))


def some_sales(how_many, first=1, **fields):
    """Return so many valid sales, named ``d1``, ``d2`` and so on."""
    return [a_sale(f"d{number}", **fields) for number in range(first, first + how_many)]


@cache
def the_catalogue():
    """Return what the generated tills sell."""
    return make_catalogue(Random(7))


@cache
def some_baskets(how_many, till=TILL, seed=1):
    """Return what a generated till closes in a day, as bytes."""
    register = baskets.Register(till, Random(seed), the_catalogue(), "store-1", shift_documents=60)
    return [baskets.encode(document) for document in islice(baskets.documents(register, NOW_MS), how_many)]


# -- Messages ----------------------------------------------------------------------------------------------------------


def a_stream(number=1):
    """Return the id of the n-th stream."""
    return f"stream{number:016d}"


def stream_names():
    """Return a function that names streams one after the other."""
    numbers = count(1)
    return lambda: a_stream(next(numbers))


def digest_of(bodies, stream=None):
    """Return the chain's digest after these documents, from the stream's beginning."""
    return chain.follow_all(chain.first(stream or a_stream()), bodies)


def a_bell(newest=1, digest=None, stream=None, **fields):
    """Return a doorbell; without a digest, one that no documents have."""
    fields = {"boot_id": BOOT, **fields}
    made = digest if digest is not None else bytes([newest % 256]) * 16
    return said(ReceiptClosed, stream=stream or a_stream(), newest=newest, digest=made, **fields)


def a_greeting(connection=1, **fields):
    """Return what a till of today shows of itself."""
    fields = {"online": True, "protocol": VERSIONS, "boot_id": BOOT, **fields}
    return said(TillPresence, connection=connection, **fields)


def a_request(after=0, digest=None, stream=None, **fields):
    """Return a request of central for what follows ``after``."""
    fields = {"central_id": CENTRAL, "worker": 1, "task": "t1", **fields}
    made = chain.first(stream or a_stream()) if digest is None and after == 0 else digest
    return said(UploadRequest, stream=stream or a_stream(), after=after, digest=made, **fields)


def a_confirmation(through, digest, stream=None, **fields):
    """Return what central says is committed."""
    fields = {"central_id": CENTRAL, **fields}
    return said(SalesStored, stream=stream or a_stream(), through=through, digest=digest, **fields)


def an_upload(bodies, before=(), stream=None, digest=None, task="t1"):
    """Return the upload of ``bodies`` that follow the documents ``before`` in a stream."""
    stream, after = stream or a_stream(), len(before)
    header = said(
        Sales,
        stream=stream,
        after=after,
        through=after + len(bodies),
        digest=digest or digest_of([*before, *bodies], stream),
        task=task,
    )
    return Upload(header, tuple(bodies))


def a_parcel(bodies, till=TILL, **fields):
    """Return an upload and the till it came from."""
    return Parcel(till, an_upload(bodies, **fields))


# -- The ends ----------------------------------------------------------------------------------------------------------


def an_outbox(path=MEMORY, **limits):
    """Return an outbox, in memory unless a path is given; its streams have the names of ``a_stream``."""
    return Outbox(path, OutboxLimits(**{"ballast_bytes": 0, **limits}), stream_names())


def filled(outbox, how_many, first=1):
    """Append so many sales and return their bytes."""
    bodies = some_sales(how_many, first)
    for number, body in enumerate(bodies, first):
        outbox.append(f"d{number}", body, NOW_MS + number)
    return bodies


def a_head(newest=0, stored=0, stream=None, digest=b"\1" * 16, **fields):
    """Return what an outbox would say of itself."""
    fields = {"oldest": 1, "oldest_unsent_at_ms": None, **fields}
    return Head(stream=stream or a_stream(), newest=newest, digest=digest, stored=stored, **fields)


def a_syps(head=None, own_central=CENTRAL, **limits):
    """Return the till's protocol; its jitter is seeded."""
    return Syps(head or a_head(), BOOT, own_central, SypsLimits(**limits), Random(1))


def a_collector(**limits):
    """Return central's protocol; its jitter is seeded."""
    return Collector(CENTRAL, 1, "1.1.1", CollectorLimits(**limits), Random(1))


def a_store(path=":memory:", **options):
    """Return central's database, in memory unless a path is given."""
    return Store(str(path), lambda: CENTRAL, **options)


@dataclass
class RecordingLink:
    """A link that carries nothing and writes down what it was given."""

    published: list = field(default_factory=list)
    acknowledged: list = field(default_factory=list)
    reconnects: list = field(default_factory=list)
    is_up: bool = True
    when_acknowledging: object = None

    def publish(self, topic, payload, *, retain=False):
        if not self.is_up:
            return None
        self.published.append((topic, payload, retain))
        return len(self.published)

    def acknowledge(self, received):
        if self.when_acknowledging:
            self.when_acknowledging()
        self.acknowledged.append(received)

    def reconnect(self, reason):
        self.reconnects.append(reason)

    def payloads(self, topic):
        """Return what was published under a topic, oldest first."""
        return [payload for published, payload, _ in self.published if published == topic]


@dataclass
class Till:
    """An agent over its outbox, with a link that records, and no threads."""

    agent: Agent
    outbox: Outbox
    link: RecordingLink
    scripts: list
    """The paths of the scripts that its macros would have run."""
    made: count = field(default_factory=lambda: count(1))

    def take_in(self, given, now=0.0):
        """Hand a document over, naming those without an id ``made-1``, ``made-2`` and so on."""
        return self.agent.take_in(given, lambda: f"made-{next(self.made)}", now)


def a_till(folder, outbox=None, automation=None, **config):
    """Return a till whose folders lie under ``folder``; its outbox is in memory unless one is given.

    Per-receipt upload is on, unless it is given an automation of its own.
    """
    folders = {"state_dir": str(folder), "spool_dir": str(folder / "spool"), "run_dir": str(folder)}
    outbox, link = outbox or an_outbox(), RecordingLink()
    settings = EdgeConfig(**{"till_id": TILL, **folders, **config})
    core = Syps(outbox.head(), BOOT, outbox.central_id, SypsLimits(), Random(1))
    kept, scripts = automation or TillAutomation(None, PER_RECEIPT), []
    return Till(Agent(settings, outbox, core, link, lambda: NOW_MS, kept, scripts.append), outbox, link, scripts)


# -- Waiting -----------------------------------------------------------------------------------------------------------


def wait_until(condition, most_s=5.0):
    """Look again and again until something is so; give up after ``most_s`` and say whether it was."""
    deadline = time.monotonic() + most_s
    while not (is_so := condition()) and time.monotonic() < deadline:
        time.sleep(0.002)  # Only how often one looks; nothing is concluded from it.
    return is_so
