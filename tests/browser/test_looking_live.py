"""A chain that sells while somebody looks: a link that is cut, a document that is lost; every process real."""

from __future__ import annotations

import contextlib
import re
import time
from datetime import UTC, datetime
from random import Random

import harness
import pytest
from brokers import wait_until
from fault_proxy import FaultProxy
from playwright.sync_api import expect
from station import Station

from central.database import Place
from fleet.baskets import Register
from fleet.catalogue import make_catalogue

DAY_MS = 86_400_000
START_MS = (int(time.time() * 1000) // DAY_MS - 2) * DAY_MS + 9 * 3_600_000
DAY = datetime.fromtimestamp(START_MS / 1000, UTC).date().isoformat()
"""The day before yesterday: over everywhere."""
QUIET_S = 12
"""So long central waits before it asks for what a till rang for: somebody can see that it waits."""
WITHIN_S, WITHIN_MS = 60, 60_000
STORE, LOST = "north", 118


@pytest.fixture(scope="module")
def proxy():
    """Return what the till's link goes through."""
    with FaultProxy(1) as made:
        yield made


@pytest.fixture(scope="module")
def station(tmp_path_factory, proxy):
    """Return a store whose till has closed a shift of 140 documents and a second one that is still open."""
    made = Station(
        tmp_path_factory.mktemp("looking"),
        "embedded",
        1,
        DAYS_EVERY_S="0.2",
        QUIET_S=str(QUIET_S),
        MAX_WAIT_S=str(QUIET_S),
    )
    (till,) = made.tills
    proxy.target_port = made.port
    till.agent._environment |= {
        "TILLSTREAM_STORE_ID": STORE,
        "TILLSTREAM_BROKER_URLS": f"mqtt://127.0.0.1:{proxy.port}",
    }
    till.register = Register(till.till_id, Random(till.till_id), make_catalogue(Random(7)), STORE, 140)
    till.clock_ms = START_MS
    with made:
        _close_shift(till)
        assert wait_until(made.is_proven, WITHIN_S), (made.closed(), made.stored())
        yield made


@pytest.fixture(scope="module")
def console(chromium, station, tmp_path_factory):
    """Return the console over the station's database."""
    with harness.running(str(station.database), tmp_path_factory.mktemp("console")) as running:
        yield running


def _close(till, how_many):
    for _ in range(how_many):
        till.clock_ms += 20_000
        till.pos.close(till.register.close_next(till.clock_ms))


def _close_shift(till):
    while True:
        till.clock_ms += 20_000
        document = till.register.close_next(till.clock_ms)
        till.pos.close(document)
        if document["transaction_type"] == "shift_close":
            return


def _day(page, day=DAY):
    """Return the sign of the store's day as it is worked out at this moment."""
    page.goto(f"/days/{day}/{STORE}")
    return page.locator("#state .badge").inner_text()


def test_a_lost_document_is_named_asked_for_and_the_day_is_complete_again(station, visitor):
    """Number 118 vanishes: partial with 118; asked for by its button, complete; asked for again, nothing changes."""
    page = visitor.as_("operator", language="en")
    assert wait_until(lambda: "complete" in _day(page), WITHIN_S), _day(page)
    whole = station.stored()
    with contextlib.closing(Place(str(station.database)).look(to_write=True)) as database, database.changing():
        assert 1 == database.run(f"DELETE FROM document WHERE sequence = {LOST}").rowcount

    assert "partial" in _day(page), page.locator("main").inner_text()
    missing = page.locator("section.till-day li", has_text=f"number {LOST}: central holds nothing under it")
    expect(missing).to_have_count(1)
    missing.locator("summary").click()
    missing.locator("input[name=note]").fill("lost on purpose")
    missing.get_by_role("button", name="Request these numbers").last.click()
    expect(page.locator("#told")).to_contain_text("Asked for: 1 tasks")
    expect(page.locator("#state")).to_contain_text("complete", timeout=WITHIN_MS)  # By itself: the page polls.
    assert whole == station.stored()

    page.get_by_text("Request the whole day of the store once more").first.click()
    page.locator("form", has_text="Safe to repeat").get_by_role("button").last.click()
    expect(page.locator("#told")).to_contain_text("Asked for: 1 tasks")
    done = "SELECT count(*) FROM task WHERE reason = 'operator' AND state = 'done'"
    assert wait_until(lambda: station.query(done) == [(2,)], WITHIN_S), station.query("SELECT * FROM task")
    assert whole == station.stored()
    assert "complete" in _day(page)
    rows = station.query("SELECT who, action, note FROM audit ORDER BY id")
    assert ("operator", "request", "lost on purpose") in rows


def test_a_link_that_is_cut_is_shown_and_what_waits_behind_it_comes_down_to_nothing(station, proxy, visitor):
    """Offline, 0 known, unknown since; then 12 waiting; then 0. The day is never shown complete in between."""
    (till,) = station.tills
    till.clock_ms = int(time.time() * 1000)
    _close(till, 3)
    assert wait_until(station.is_proven, WITHIN_S)
    page, other = (visitor.as_("viewer", language="en") for _ in range(2))
    ((today,),) = station.query("SELECT max(business_day) FROM document")
    page.goto(f"/tills/{till.till_id}")
    waiting = page.locator("#waiting")
    expect(page.locator("#reason")).to_have_text("Everything is uploaded", timeout=WITHIN_MS)

    proxy.weather.is_refusing = True
    proxy.cut_all()
    _close(till, 12)
    expect(page.locator("#reason")).to_have_text("Not connected; nothing is known to be owed", timeout=WITHIN_MS)
    expect(waiting).to_have_text(re.compile(r"Waiting:\s+0\s+known when it was last seen, unknown since"))
    expect(page.locator("ol.steps li.unknown", has_text="In the outbox")).to_contain_text("unknown since")
    assert "open" in _day(other, today)

    proxy.weather.is_refusing = False
    expect(waiting.locator("strong")).to_have_text("12", timeout=WITHIN_MS)
    assert "open" in _day(other, today)
    expect(waiting).to_have_text(re.compile(r"^\s*Waiting:\s+0\s*$"), timeout=WITHIN_MS)
    expect(page.locator("#reason")).to_have_text("Everything is uploaded", timeout=WITHIN_MS)
    assert wait_until(station.is_proven, WITHIN_S)
    assert "open" in _day(other, today)
