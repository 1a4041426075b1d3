"""The wizard, down to the till: real processes of broker, central, console and agent, and a person in a browser."""

from __future__ import annotations

import harness
import pytest
from brokers import wait_until
from playwright.sync_api import expect
from station import Station

from edge.automation import TillAutomation
from wire.automation import FACTORY

WITHIN_S = 60


@pytest.fixture
def station(tmp_path):
    """Return a shop whose till keeps what it closes: per-receipt upload is not switched on."""
    made = Station(tmp_path, "embedded", 1)
    (till,) = made.tills
    TillAutomation(till.folder / "state").change(lambda _: FACTORY)
    till.pos._after_close = None  # A POS that only hands over: whether it rings is the till's automation.
    with made:
        # An agent that connects and finds something unsent rings, whatever its automation is.
        assert wait_until(lambda: till.status()["connected"], WITHIN_S), till.agent.log()
        yield made


def test_the_wizard_reaches_the_till_and_its_next_receipt_comes_by_itself(station, chromium, tmp_path):
    """Before: what is closed stays. Then five clicks in a browser: the till says it runs the revision, and sells up."""
    (till,) = station.tills
    till.close_documents(2)
    with harness.running(str(station.database), tmp_path) as console:
        visitor = harness.Visitor(chromium, console.base, harness.Watch(console.base))
        page = visitor.as_("administrator", language="ru")
        page.goto("/automation/tills")
        expect(page.locator("table.list tbody tr")).to_contain_text("исполняет заданное")
        assert 2 == till.status()["unsent"]

        page.goto("/automation/wizard")
        page.get_by_label("одна касса").check()
        page.locator("#ask input[name=name]").fill(till.till_id)
        page.get_by_role("button", name="Показать, что изменится").click()
        page.locator("#put input[name=note]").fill("пилот")
        page.get_by_role("button", name="Задать").click()
        row = page.locator("table.list tbody tr", has_text=till.till_id)
        expect(row.locator("td.count").nth(1)).to_have_text("1", timeout=WITHIN_S * 1000)  # By itself: the page polls.
        expect(row).to_contain_text("исполняет заданное")

        till.close_documents(1)
        assert wait_until(lambda: station.stored() == station.closed(), WITHIN_S)
        visitor.leave()
        assert [] == visitor.watch.faults
