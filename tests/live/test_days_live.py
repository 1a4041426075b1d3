"""Days that prove themselves, with real processes: a document that was lost, a till that is away, a wrong Z-report."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess
import time
from datetime import UTC, datetime
from random import Random

import pytest
from brokers import ROOT, wait_until
from station import Station, tillstream

from fleet.baskets import Register
from fleet.catalogue import make_catalogue

START_MS = (int(time.time()) // 86_400 - 2) * 86_400_000 + 9 * 3_600_000
DAY = datetime.fromtimestamp(START_MS / 1000, UTC).date().isoformat()
"""The day before yesterday: over everywhere, and not so old that nobody looks at it any more."""

WITHIN_S = 30
STORES = {"till-1": "north", "till-2": "east", "till-3": "east", "till-4": "west"}


@pytest.fixture(scope="module")
def station(tmp_path_factory):
    """Return a chain of three stores in which every till has closed its shift, but till-3 of store east."""
    made = Station(tmp_path_factory.mktemp("days"), "embedded", len(STORES))
    made.central._environment["TILLSTREAM_DAYS_EVERY_S"] = "0.2"
    catalogue = make_catalogue(Random(7))
    for till in made.tills:
        till.agent._environment["TILLSTREAM_STORE_ID"] = STORES[till.till_id]
        till.register = Register(till.till_id, Random(till.till_id), catalogue, STORES[till.till_id], 140)
        till.clock_ms = START_MS
    with made:
        close(made.tills[0])
        close(made.tills[1])
        close(made.tills[2], 30)
        close(made.tills[3], wrong_minor=1)
        assert wait_until(made.is_proven, WITHIN_S), (made.closed(), made.stored())
        assert wait_until(lambda: all(row["verified"] for row in tills(made)), WITHIN_S), tills(made)
        yield made


def close(till, most=10_000, wrong_minor=0):
    """Close documents up to the end of a shift, or so many; ``wrong_minor`` is added to one tender of the Z-report."""
    for _ in range(most):
        till.clock_ms += 20_000
        document = till.register.close_next(till.clock_ms)
        if document["transaction_type"] == "shift_close" and wrong_minor:
            document["shift"]["by_tender"]["sale.card"]["amount_minor"] += wrong_minor
        till.pos.close(document)
        if document["transaction_type"] == "shift_close":
            return


def central(station, *arguments):
    command = tillstream("central", "--database", str(station.database), *arguments)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) if "--json" in arguments else done.stdout


def tills(station):
    return central(station, "tills", "--json")


def explained(station, store):
    return central(station, "explain", DAY, store, "--json")


def state(station, store):
    """Return a store's state as it is worked out now, and as the worker has noted it."""
    noted = station.query(f"SELECT state FROM day WHERE store_id = '{store}' AND business_day = '{DAY}'")
    return explained(station, store)["state"], noted[0][0] if noted else None


def is_noted(station, store, expected):
    return wait_until(lambda: state(station, store) == (expected, expected), WITHIN_S)


def change(station, statement):
    with contextlib.closing(sqlite3.connect(station.database, timeout=10)) as database, database:
        database.execute(statement)


def held(station):
    return station.query("SELECT till_id, stream, sequence, document_id, body FROM document ORDER BY 1, 2, 3")


def asked(station, *scope):
    """Ask once more and wait until it is done."""
    (task,) = central(station, "request", *scope, "--note", "day is partial", "--json")["task_ids"]
    query = f"SELECT state FROM task WHERE task_id = '{task}' AND finished_at_ms IS NOT NULL"
    assert wait_until(lambda: station.query(query), WITHIN_S), station.central.log()[-2000:]
    return station.query(query)[0][0]


def test_a_document_that_is_lost_is_the_one_that_is_missing_and_asking_once_more_mends_it(station):
    """Number 118 vanishes from central's database: partial with exactly 118; asked for, complete; again, no change."""
    assert is_noted(station, "north", "complete"), explained(station, "north")
    whole = held(station)
    change(station, "DELETE FROM document WHERE till_id = 'till-1' AND sequence = 118")

    found = explained(station, "north")
    (till,) = found["tills"]
    assert found["state"] == "partial"
    assert [(one["kind"], one["first"], one["last"]) for one in till["missing"] if one["kind"] == "sequence"] == [
        ("sequence", 118, 118)
    ]

    assert asked(station, "--store", "north", "--day", DAY) == "done"
    assert explained(station, "north")["state"] == "complete"
    assert held(station) == whole
    for scope in (("--store", "north", "--day", DAY), ("till-1", "--range", "118"), ("till-1", "--everything")):
        assert asked(station, *scope) == "done"
        assert held(station) == whole
    assert len(central(station, "audit", "--json")) >= 4


def test_a_parked_till_lets_a_day_close_and_a_late_receipt_reopens_it(station):
    """Till-3 never closed its shift. Parked, the store's day is complete; a receipt that comes after all opens it."""
    assert is_noted(station, "east", "open"), explained(station, "east")
    central(station, "tills", "park", "till-3", "--note", "power supply burnt out")
    assert is_noted(station, "east", "complete"), explained(station, "east")

    close(station.tills[2], 1)
    assert wait_until(station.is_proven, WITHIN_S)
    assert is_noted(station, "east", "open"), explained(station, "east")
    assert "day_reopened" in station.central.log()
    (row,) = central(station, "days", "--store", "east", "--json")
    assert row["reopened_at_ms"] is not None


def test_a_z_report_with_one_tender_off_by_one_shows_exactly_that(station):
    """All documents are there and the sums differ: mismatch, with the tender and the difference of one kopeck."""
    assert is_noted(station, "west", "mismatch"), explained(station, "west")
    (till,) = explained(station, "west")["tills"]
    differences = [one for shift in till["shifts"] for one in shift["differences"]]

    assert [
        (one["block"], one["key"], one["difference_count"], abs(one["difference_minor"])) for one in differences
    ] == [("by_tender", "sale.card", 0, 1)]
    assert "sale.card" in central(station, "explain", DAY, "west")
