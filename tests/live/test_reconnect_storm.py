"""A whole fleet that comes back at the same moment: all of it drains, and nobody hammers the broker."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing

import pytest
from brokers import FLEET_KEY, MOSQUITTO
from factories import a_sale
from nursery import Nursery
from yard import Yard

from fleet.loop import Fleet, FleetSettings
from wire.tokens import token_of

SEED = 20261201
NAMES = tuple(f"storm-{number}" for number in range(500))
WITHIN_S = 60
WAITS = {"reconnect_min_s": 0.05, "reconnect_max_s": 1.0}
DOUBLINGS, SHORTEST_S = 6, 0.7
"""From the least wait to the most, and the most with the jitter that shortens it most."""
TRIES_WHILE_AWAY, TRIES_WHEN_BACK = 14, 3


def documents_at(running):
    with closing(sqlite3.connect(f"file:{running.database}?mode=ro", uri=True, timeout=20)) as central:
        return [name for (name,) in central.execute("SELECT document_id FROM document")]


def tries(fleet):
    """Return how many connections each till has begun."""
    return [till._generation for till in fleet.tills.values()]


def are_up(fleet, count):
    return lambda: sum(till.is_up for till in fleet.tills.values()) == count


@pytest.mark.skipif(not MOSQUITTO, reason="Mosquitto is not installed")
@pytest.mark.fault("F36")
def test_five_hundred_tills_that_come_back_at_once_are_drained_by_few_connections(tmp_path):
    """The broker goes and comes back while all of them owe a document: the longer it is away, the less they try."""
    with Nursery() as nursery, Yard(tmp_path / "site", nursery, 0, SEED, strangers=NAMES) as running:
        settings = FleetSettings(broker_urls=(f"mqtt://127.0.0.1:{running.site.port}",), seed=SEED, **WAITS)
        fleet = Fleet(settings, lambda till: token_of(FLEET_KEY, till))
        try:
            storm(running, fleet)
        finally:
            fleet.stop()


def storm(running, fleet):
    for name in NAMES:
        fleet.add_till(name)
    assert fleet.run(are_up(fleet, len(NAMES)), WITHIN_S)
    first, began_at = tries(fleet), time.monotonic()
    running.broker.kill()
    assert fleet.run(are_up(fleet, 0), WITHIN_S)
    for name in NAMES:
        fleet.close_document(name, a_sale(f"{name}/1", till_id=name))

    def all_tried():
        return all(now - before >= TRIES_WHILE_AWAY for now, before in zip(tries(fleet), first, strict=True))

    assert fleet.run(all_tried, WITHIN_S)
    while_away = sum(tries(fleet)) - sum(first)
    assert while_away <= len(NAMES) * (DOUBLINGS + (time.monotonic() - began_at) / SHORTEST_S)
    running.broker.start()

    assert fleet.run(lambda: fleet.unsent == 0 and are_up(fleet, len(NAMES))(), WITHIN_S), running.logs()

    assert sum(tries(fleet)) - sum(first) - while_away <= len(NAMES) * TRIES_WHEN_BACK
    stored = documents_at(running)
    assert len(stored) == len(set(stored)) == len(NAMES)
