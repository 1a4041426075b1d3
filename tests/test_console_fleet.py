"""The fleet that all pages share: read once, shown while it is young, read anew after a decision."""

from __future__ import annotations

import threading

import pytest
import retail_chain as chain
from brokers import wait_until
from databases import look

from central.console import fleet as fleets
from central.console.fleet import FRESH_S, STALE_S, FleetView
from central.database import Place
from central.late import known
from central.pool import Pool
from central.reports import reading
from wire.reasons import Reason


@pytest.fixture
def url(tmp_path):
    """Return a small chain of shops: something of everything."""
    made = str(tmp_path / "central.db")
    chain.furnish(made)
    return made


@pytest.fixture
def pool(url):
    """Return the shops' database, open for many threads."""
    with Pool(Place(url)) as made:
        yield made


class Clock:
    """Seconds that pass only when a test says so."""

    now_s = 100.0

    def __call__(self):
        return self.now_s


def park(url, till):
    """Park a till as somebody at the command line would."""
    look(url, f"UPDATE till SET parked_at_ms = 1 WHERE till_id = '{till}'")


def parked(fleet):
    return {till.till_id for till in fleet.tills if till.is_parked}


def test_a_young_fleet_is_shown_as_it_is(pool, url):
    """Whoever asks within the time reads nothing."""
    view = FleetView(pool, clock=Clock())
    first = view.now()
    park(url, chain.BEHIND)

    assert first is view.now()


def test_an_older_one_is_shown_once_more_and_read_anew_beside(pool, url):
    """Nobody waits for it, and the next one to ask sees what became of it."""
    clock = Clock()
    view = FleetView(pool, clock=clock)
    first = view.now()
    park(url, chain.BEHIND)
    clock.now_s += FRESH_S + 0.1

    assert first is view.now()
    assert wait_until(lambda: chain.BEHIND in parked(view._seen[1]), 10)
    assert wait_until(lambda: "fleet" not in [thread.name for thread in threading.enumerate()], 10)


def test_whoever_closes_the_database_waits_for_what_is_read_beside(pool, monkeypatch):
    """Nothing is read any more once that has been waited for."""
    clock, go_on, read = Clock(), threading.Event(), fleets.read
    view = FleetView(pool, clock=clock)
    view.settle()  # Nothing was ever read beside.
    view.now()
    monkeypatch.setattr(fleets, "read", lambda *given: go_on.wait(10) and read(*given))
    clock.now_s += FRESH_S + 0.1
    view.now()
    threading.Timer(0.05, go_on.set).start()
    view.settle()

    assert go_on.is_set()
    assert not view._beside.is_alive()


def test_one_that_is_too_old_is_not_shown(pool, url):
    """Whoever asks waits for a new one."""
    clock = Clock()
    view = FleetView(pool, clock=clock)
    view.now()
    park(url, chain.BEHIND)
    clock.now_s += STALE_S + 0.1

    assert chain.BEHIND in parked(view.now())


def test_after_a_decision_it_is_read_anew_at_once(pool, url):
    """However young it is: who decided wants to see what became of it."""
    view = FleetView(pool, clock=Clock())
    view.now()
    park(url, chain.BEHIND)
    view.changed()

    assert chain.BEHIND in parked(view.now())


def test_one_that_was_begun_before_a_decision_is_not_kept(pool, url, monkeypatch):
    """It would show the state from before to whoever comes next."""
    view, read = FleetView(pool, clock=Clock()), fleets.read

    def read_and_decide(now_ms, denied):
        found = read(now_ms, denied)
        park(url, chain.BEHIND)
        view.changed()
        return found

    monkeypatch.setattr(fleets, "read", read_and_decide)
    assert chain.BEHIND not in parked(view.now())
    monkeypatch.setattr(fleets, "read", read)
    assert chain.BEHIND in parked(view.now())


def test_the_worst_stand_first_and_the_parked_ones_ask_for_nothing(pool):
    """Who needs a person and owes documents, then who needs a person, then who waits."""
    view = FleetView(pool)
    shown = [(till.till_id, till.severity) for till in view.now().tills]

    assert [(chain.BEHIND, "act")] == shown[:1]
    assert ["act", "act", "act", "wait", "fine", "fine"] == [severity for _, severity in shown]


def test_what_is_owed_is_at_least_that_much_while_somebody_is_away(pool):
    """A till that is not connected may have closed more than it ever rang for."""
    fleet = FleetView(pool).now()

    assert (12, True) == fleets.waiting(fleet.tills)
    assert (0, False) == fleets.waiting([fleet.by_id[chain.VERIFIED]])
    assert (0, True) == fleets.waiting([fleet.by_id[chain.SILENT]])


def test_reasons_are_counted_with_what_they_hold_up(pool):
    """Each reason once, with its tills, what they owe, and the oldest time."""
    found = {reason.code: (tills, owed) for reason, tills, owed in fleets.by_reason(FleetView(pool).now().tills)}

    assert (1, 12) == found["link_down"]
    assert (1, 0) == found["parked"]
    assert found.keys() >= {"gap_open", "quarantined", "up_to_date"}


def test_one_till_is_known_as_in_the_whole_fleet(url):
    """The same statement, narrowed; of a till that nobody knows nothing."""
    with reading(url):
        every = {one.till_id: one for one in known()}
        assert [every[chain.BEHIND]] == known(till_id=chain.BEHIND)
        assert [] == known(till_id="nobody")
        assert set(chain.TILLS) == set(every)
        assert every[chain.SILENT].through is None
        assert every[chain.SILENT].facts.behind is None


def test_a_deny_list_that_cannot_be_read_shows_nobody_as_revoked(pool, tmp_path, caplog):
    """The pages go on; the log names the file."""
    broken = tmp_path / "deny"
    broken.mkdir()
    view = FleetView(pool, str(broken))

    assert Reason("revoked") not in [till.reason for till in view.now().tills]
    assert "deny_file" in caplog.text
