"""Three NATS nodes from the recipe: tills and central on different ones, and any of them lost and brought back."""

from __future__ import annotations

import time
from itertools import count, cycle

import pytest
from brokers import FLEET_KEY, TILLS
from factories import a_sale
from station import Station

from fleet.loop import Fleet, FleetSettings
from wire.tokens import token_of

NAMES = TILLS[:30]
SEED = 20261128
PER_S = 60
WITHIN_S = 60
WAITS = {"reconnect_min_s": 0.2, "reconnect_max_s": 2.0, "ring_again_s": 3.0}
"""Ringing again heals what a central that subscribes while a retained doorbell crosses the cluster does not get."""


class Shops:
    """A fleet whose tills close documents all the time, in turn."""

    def __init__(self, station, *nodes):
        urls = tuple(f"mqtt://127.0.0.1:{station.servers[node].port}" for node in nodes)
        self.fleet = Fleet(FleetSettings(broker_urls=urls, seed=SEED, **WAITS), lambda user: token_of(FLEET_KEY, user))
        for name in NAMES:
            self.fleet.add_till(name)
        self._turns, self._numbers, self._begun = cycle(NAMES), count(1), time.monotonic()
        self.closed = set()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.fleet.stop()

    def close_one(self, name):
        document_id = f"{name}/{next(self._numbers)}"
        self.closed.add((name, document_id))
        return self.fleet.close_document(name, a_sale(document_id, till_id=name))

    def sell_until(self, condition):
        """Go on selling until a condition holds."""
        begun, sold = time.monotonic(), 0

        def is_enough():
            nonlocal sold
            if sold < (time.monotonic() - begun) * PER_S:
                self.close_one(next(self._turns))
                sold += 1
            return condition()

        assert self.fleet.run(is_enough, WITHIN_S), f"{self.fleet.unsent} documents are unsent"

    def all_have_stored(self, marks):
        """Say whether each till knows that the document of this number is stored."""
        tills = self.fleet.tills
        return all(not tills[name].unsent or tills[name].unsent[0].sequence > mark for name, mark in marks.items())

    def recovery_s(self):
        """Return how long it takes until a document that each till closes now is stored, while all go on selling."""
        begun = time.monotonic()
        marks = {name: self.close_one(name) for name in NAMES}
        self.sell_until(lambda: self.all_have_stored(marks))
        return time.monotonic() - begun

    def settle(self):
        assert self.fleet.run(lambda: self.fleet.unsent == 0, WITHIN_S), f"{self.fleet.unsent} documents are unsent"


@pytest.fixture
def station(tmp_path):
    """Yield a station with the cluster's nodes, and central, which knows all of them."""
    running = Station(tmp_path, "nats-cluster", tills=0)
    running.central._environment |= {"TILLSTREAM_QUIET_S": "0.05", "TILLSTREAM_MAX_WAIT_S": "0.5"}
    with running:
        yield running


def assert_all_is_here_once(station, shops):
    stored = station.query("SELECT till_id, document_id FROM document")
    assert len(stored) == len(set(stored))
    assert set(stored) == shops.closed
    assert station.query("SELECT (SELECT count(*) FROM quarantine), (SELECT count(*) FROM gap)") == [(0, 0)]


def node_of_central(station):
    """Return the number of the node that central is connected to, from 0."""
    told = [server.told("/connz?mqtt_client=central-1") for server in station.servers]
    return next(number for number, connections in enumerate(told) if connections.get("num_connections"))


@pytest.mark.fault("F36")
def test_the_node_that_central_is_connected_to_may_be_lost_and_brought_back(station):
    """SIGKILL of it under load: all go to the other nodes, and nothing is lost or doubled; the times are printed."""
    with Shops(station, 0, 1, 2) as shops:
        print(f"first start {shops.recovery_s():.1f} s")
        calm_s = shops.recovery_s()
        lost = node_of_central(station)
        station.brokers[lost].kill()
        lost_s = shops.recovery_s()
        station.brokers[lost].start()
        shops.sell_until(lambda: station.servers[lost].told("/healthz").get("status") == "ok")
        print(f"calm {calm_s:.2f} s, with a node lost {lost_s:.1f} s, with it back {shops.recovery_s():.2f} s")
        shops.settle()
        print(f"{len(shops.closed)} documents of {len(NAMES)} tills")
        assert_all_is_here_once(station, shops)
        assert node_of_central(station) != lost


def test_tills_and_central_on_different_nodes_hear_each_other(station):
    """What tills say, retain and are told crosses the cluster; a central that comes later reads the doorbells."""
    station.central.stop()
    station.central._environment["TILLSTREAM_BROKER_URLS"] = f"mqtt://127.0.0.1:{station.servers[0].port}"
    with Shops(station, 1, 2) as shops:
        assert shops.fleet.run(lambda: all(till.is_up for till in shops.fleet.tills.values()), WITHIN_S)
        for name in NAMES:
            shops.close_one(name)
        station.central.start()
        shops.settle()
        print(f"live {shops.recovery_s():.2f} s")
        shops.settle()
        assert_all_is_here_once(station, shops)
