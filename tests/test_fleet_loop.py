"""Many tills on one loop: real agents against a real broker and a real central, each a process."""

import sqlite3
import time
from contextlib import closing, contextmanager

import msgspec
import pytest

from fleet.loop import TICKED_AT_ONCE, Fleet, FleetSettings
from fleet.processes import Site, listens, wait_until
from fleet.till import FleetTill
from wire.automation import FACTORY


def sale(document_id):
    return msgspec.json.encode(
        {
            "document_id": document_id,
            "transaction_type": "sale",
            "business_day": "2026-03-01",
            "closed_at": "2026-03-01T10:00:00+03:00",
            "currency": "RUB",
            "lines": [{"line_number": 1, "quantity": "1", "extended_minor": 100}],
            "tenders": [{"tender_number": 1, "tender_type": "cash", "amount_minor": 100}],
            "totals": {"total_minor": 100},
        }
    )


def has_tables(database):
    """Say whether central has made its tables, and not just the file."""
    if not database.exists():
        return False
    with closing(sqlite3.connect(database)) as connection:
        return bool(connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'document'").fetchone())


@contextmanager
def running(folder):
    """Yield a site whose broker and central run."""
    site = Site(folder, keep=True)
    try:
        site.broker().start()
        site.central(quiet_s=0.05, timeout_s=2, retry_min_s=0.2, reconnect_min_s=0.1, reconnect_max_s=0.5).start()
        wait_until(lambda: listens(site.port) and has_tables(site.database), 20, "not up", site.check)
        yield site
    finally:
        site.close()


@contextmanager
def fleet_of(site, tills, on_stored=None, **settings):
    """Yield a fleet whose tills are all connected."""
    values = {
        "broker_urls": (f"mqtt://127.0.0.1:{site.port}",),
        "reconnect_min_s": 0.1,
        "reconnect_max_s": 0.5,
        **settings,
    }
    fleet = Fleet(FleetSettings(**values), site.token, on_stored)
    for number in range(tills):
        fleet.add_till(f"till-{number}")
    try:
        yield fleet
    finally:
        fleet.stop()


def all_up(fleet):
    return all(till.is_up for till in fleet.tills.values())


def stored_at(site):
    with sqlite3.connect(site.database) as connection:
        rows = connection.execute("SELECT till_id, document_id FROM document ORDER BY id").fetchall()
    connection.close()
    return rows


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with running(tmp_path_factory.mktemp("loop") / "site") as site:
        yield site


def test_every_document_is_stored_and_its_till_learns_it(site):
    """What is closed on any of the tills is at central, and each close → stored is told and measured."""
    told = []
    with fleet_of(
        site, 5, lambda till, closed, now: told.append((till.config.till_id, now - closed.closed_at))
    ) as fleet:
        assert fleet.run(lambda: all_up(fleet), 20)
        for number in range(20):
            sequence = fleet.close_document(f"till-{number % 5}", sale(f"all-{number}"))
            assert sequence == number // 5 + 1
        assert fleet.run(lambda: fleet.unsent == 0, 20)
        stats = fleet.stats()
        assert (stats.closed, stats.stored, stats.connected, stats.reconnects) == (20, 20, 5, 0)
        assert stats.uploads >= 5
        assert stats.sent_bytes > 1000
        assert stats.received_bytes > 1000
    assert {("till-0", "all-0"), ("till-4", "all-19")} <= set(stored_at(site))
    assert sorted({till for till, _ in told}) == [f"till-{number}" for number in range(5)]
    assert len(told) == len(fleet.lags_s) == 20
    assert all(0 < lag_s < 20 for _, lag_s in told)


def test_the_same_document_twice_is_closed_once(site):
    """A POS that repeats itself gets the number that the document has."""
    with fleet_of(site, 1) as fleet:
        first = fleet.close_document("till-0", sale("twice"))
        assert fleet.close_document("till-0", sale("twice")) == first
        assert fleet.stats().closed == 1
        assert fleet.run(lambda: fleet.unsent == 0, 20)


def test_without_ringing_nothing_is_sent_until_somebody_rings(site):
    """Where no event is bound, as on a new till, a document waits until somebody rings."""
    with fleet_of(site, 1, automation=FACTORY) as fleet:
        assert fleet.run(lambda: all_up(fleet), 20)
        rung = fleet.tills["till-0"].agent.syps.counters.rung
        fleet.close_document("till-0", sale("unrung"))
        assert fleet.tills["till-0"].agent.syps.counters.rung == rung
        fleet.ring("till-0", urgent=True)
        assert fleet.run(lambda: fleet.unsent == 0, 20)


def test_an_idle_till_stays_connected(site):
    """Nobody drives paho's keepalive but the loop: past the broker's patience the till must still be there."""
    with fleet_of(site, 2, keepalive_s=5) as fleet:
        assert fleet.run(lambda: all_up(fleet), 20)
        patience_s = 5 * 1.5
        assert not fleet.run(lambda: fleet.stats().reconnects > 0 or not all_up(fleet), patience_s + 1)


def test_a_broker_that_dies_and_comes_back_costs_nothing(tmp_path):
    """Tills go on closing while the broker is down, come back by themselves, and everything is stored."""
    with running(tmp_path / "site") as site, fleet_of(site, 3) as fleet:
        broker = site.children[0]
        assert fleet.run(lambda: all_up(fleet), 20)
        broker.kill()
        assert fleet.run(lambda: not any(till.is_up for till in fleet.tills.values()), 10)
        for number in range(9):
            fleet.close_document(f"till-{number % 3}", sale(f"down-{number}"))
        broker.start()
        assert fleet.run(lambda: fleet.unsent == 0, 30)
        assert fleet.stats().reconnects >= 3
        assert len(stored_at(site)) == 9


def test_outboxes_in_files_outlive_the_fleet(tmp_path):
    """Documents closed without a broker are in the files; the next fleet over them sends each of them once."""
    boxes = tmp_path / "boxes"
    boxes.mkdir()
    with running(tmp_path / "site") as site:
        with fleet_of(site, 2, outbox_dir=boxes, broker_urls=("mqtt://127.0.0.1:1",)) as fleet:
            for number in range(6):
                fleet.close_document(f"till-{number % 2}", sale(f"file-{number}"))
            fleet.turn(0)
            assert fleet.unsent == 6
        with fleet_of(site, 2, outbox_dir=boxes) as fleet:
            assert fleet.run(lambda: len(stored_at(site)) == 6, 20)


def test_a_loop_with_nothing_to_do_waits(site):
    """Unreachable brokers and idle tills must not keep the processor busy."""
    with fleet_of(site, 20, broker_urls=("mqtt://127.0.0.1:1",), reconnect_min_s=60, reconnect_max_s=60) as fleet:
        fleet.run(lambda: not fleet._due or fleet._due[0][0] > time.monotonic() + 1, 10)
        before_s = time.process_time()
        assert not fleet.run(lambda: False, 1)
        assert time.process_time() - before_s < 0.3


def test_tills_that_are_due_together_take_turns_with_what_comes(site, monkeypatch):
    """After a reconnect thousands show their presence at once: no turn of the loop is for them alone."""
    ticks = []
    real = FleetTill.tick
    monkeypatch.setattr(FleetTill, "tick", lambda till, now: (ticks.append(till.config.till_id), real(till, now)))
    with fleet_of(site, 35, broker_urls=("mqtt://127.0.0.1:1",), connects_per_s=1e6) as fleet:
        at_each_turn = []
        while len(set(ticks)) < 35:
            before = len(ticks)
            fleet.turn(0)
            at_each_turn.append(len(ticks) - before)

    assert max(at_each_turn) == TICKED_AT_ONCE
