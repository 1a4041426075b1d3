"""What the intake's tests share: a POS with its own SQLite database, mappings, and a taker over a real outbox."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from random import Random

import msgspec
from factories import NOW_MS, TILL, a_till, the_catalogue

from central.judge import Accepted, judge
from edge.intake.mapping import read_mapping
from edge.intake.sql import SqlReader
from edge.intake.taking import NotDurableError
from fleet import baskets
from fleet.ledger import Ledger
from fleet.pos_database import PosDatabase, sqlite
from wire.documents import Document

EXAMPLES = Path(__file__).parent.parent / "docs" / "intake"
ABOUT = {"till_id": TILL, "store_id": "store-1"}


class Clock:
    """A monotonic clock that a test moves."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Taker:
    """The agent's side: a real outbox behind it, which can be full, or die just after a commit."""

    def __init__(self, folder):
        self.till = a_till(folder)
        self.refuses_after = None
        self.given = []

    def __call__(self, given, make_id):
        if self.refuses_after is not None and len(self.given) >= self.refuses_after:
            raise NotDurableError("no room")
        taken = self.till.agent.take_in(given, make_id, 0.0)
        if taken.appended.is_new:
            self.given.append(given)

    def bodies(self):
        """Return what the outbox holds."""
        return self.till.outbox.read_after(0, 100_000, 2**40)

    def documents(self):
        return [msgspec.json.decode(body) for body in self.bodies()]


def a_day(how_many, seed=1):
    """Return what a generated till closes; small shifts, so that all types come soon."""
    register = baskets.Register(TILL, Random(seed), the_catalogue(), "store-1", shift_documents=60)
    return list(islice(baskets.documents(register, NOW_MS), how_many))


def a_pos(folder, engine=None):
    """Return a POS with an empty database of its own."""
    pos = PosDatabase(engine or sqlite(folder / "pos.db"), Ledger(folder, TILL, fsync=False))
    pos.make_tables()
    return pos


def example(name, folder, **replaced):
    """Write an example of the documentation with nothing changed but what is named, and return its path."""
    text = (EXAMPLES / f"{name}.toml").read_text("utf-8")
    for given, instead in replaced.values():
        assert given in text, given
        text = text.replace(given, instead)
    path = folder / f"{name}.toml"
    path.write_text(text, "utf-8")
    return path


def sqlite_example(folder):
    """Return the SQLite example, with only the database's path replaced."""
    return example("sqlite-pos", folder, path=("/var/lib/pos/pos.db", str(folder / "pos.db")))


def a_reader(folder, clock=None, mapping=None):
    """Return a reader of the SQLite example as after a start of the agent: over what is on the disk."""
    return SqlReader(read_mapping(mapping or sqlite_example(folder)), folder / "intake", ABOUT, clock or Clock())


def added_up(bodies):
    """Return count and money by type of what central would store; fails on what it would refuse."""
    sums = {}
    for body in bodies:
        verdict = judge(TILL, body)
        assert isinstance(verdict, Accepted), verdict
        count, amount_minor = sums.get(verdict.transaction_type, (0, 0))
        sums[verdict.transaction_type] = (count + 1, amount_minor + (verdict.total_minor or 0))
    return sums


def as_meant(body):
    """Return a document as the schema reads it, with numbers and times in one spelling: 1.50 is 1.5."""

    def number(text):
        return text and f"{float(text):g}"

    def moment(text):
        return text and text.replace(".000+", "+")

    document = msgspec.json.decode(body, type=Document)
    replace = msgspec.structs.replace
    lines = tuple(
        replace(line, quantity=number(line.quantity), unit_price=number(line.unit_price)) for line in document.lines
    )
    shift = document.shift and replace(document.shift, opened_at=moment(document.shift.opened_at))
    times = {"opened_at": moment(document.opened_at), "closed_at": moment(document.closed_at)}
    return replace(document, lines=lines, shift=shift, **times)
