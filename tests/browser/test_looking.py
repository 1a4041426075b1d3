"""What somebody does who has never seen the console: find the worst till, why it is so and what to do."""

from __future__ import annotations

import re

import harness
import pytest
import retail_chain as chain
from playwright.sync_api import expect

REASONS = {"ru": "Нет связи, есть невыгруженные документы", "en": "No link, and documents are owed"}
STEPS = {"ru": "Проверьте питание, сеть и адрес брокера", "en": "Check its power, network and broker address"}
TABS = ("receipts", "days", "tasks", "connection", "health", "audit")


@pytest.mark.parametrize("language", ["ru", "en"])
def test_the_worst_till_its_reason_and_the_next_step_are_one_click_away(visitor, language):
    """The first screen names the till and the reason; a click on it says what to do."""
    page = visitor.as_("viewer", language=language)
    page.goto("/")
    worst = page.locator("section[aria-labelledby=worst] tbody tr").first
    expect(worst).to_contain_text(chain.BEHIND)
    expect(worst).to_contain_text(REASONS[language])

    worst.get_by_role("link", name=chain.BEHIND).click()
    expect(page.locator("#reason")).to_have_text(REASONS[language])
    expect(page.locator("#next-step")).to_contain_text(STEPS[language])
    expect(page).to_have_title(re.compile(re.escape(chain.BEHIND)))


@pytest.mark.parametrize("language", ["ru", "en"])
def test_a_reason_leads_to_its_tills_and_one_of_them_to_the_next_step(visitor, language):
    """The other way: from the reason to the tills that have it, and on; two clicks."""
    page = visitor.as_("viewer", language=language)
    page.goto("/")
    page.locator("section[aria-labelledby=problems]").get_by_role("link", name=REASONS[language]).click()
    expect(page.locator("table.list tbody tr")).to_have_count(1)
    page.get_by_role("link", name=chain.BEHIND).click()

    expect(page.locator("#next-step")).to_contain_text(STEPS[language])


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_on_the_parts_of_a_till_nor_where_rows_are_ticked(visitor, theme):
    """The tabs, a list with its bar of actions shown, a search that has to say more, the list of keys."""
    page = visitor.as_("operator", theme=theme)
    found = []
    for tab in TABS:
        page.goto(f"/tills/{chain.WITH_GAP}?tab={tab}")
        found += harness.violations(page)
    page.goto("/receipts?kind=sale")
    found += harness.violations(page)
    page.goto("/tills?store=042")
    page.locator("input.tick").first.check()
    expect(page.locator("#bulk")).to_be_visible()
    found += harness.violations(page)
    page.keyboard.press("Escape")
    page.locator("#main").focus()
    page.keyboard.press("?")
    expect(page.locator("#keys")).to_be_visible()
    found += harness.violations(page)

    assert [] == found


def test_a_page_asks_again_by_itself_keeps_what_is_ticked_and_can_be_stopped(visitor):
    """Ticks and the field one types into survive; while it is stopped nothing is asked."""
    page = visitor.as_("operator", language="en")
    page.goto("/tills")
    page.locator(f"input.tick[value='{chain.BEHIND}']").check()
    page.locator("#bulk input[name=note]").fill("half a note")
    with page.expect_response(lambda response: response.request.headers.get("x-poll") == "1") as answered:
        pass
    assert answered.value.status in (200, 304)
    expect(page.locator("#ticked")).to_have_text("1")
    expect(page.locator(f"input.tick[value='{chain.BEHIND}']")).to_be_checked()
    expect(page.locator("#bulk input[name=note]")).to_have_value("half a note")

    page.get_by_role("button", name="Pause").click()
    asked = []
    page.on("request", lambda request: asked.append(request.url) if "x-poll" in request.headers else None)
    page.wait_for_timeout(6_000)  # Longer than a page waits between two askings: nothing may happen in it.
    assert [] == asked


def test_a_page_says_so_when_central_does_not_answer(visitor):
    """What was shown stays, and is said to be of an earlier time."""
    page = visitor.as_("viewer", language="en")
    page.goto("/tills")
    page.route("**/tills", lambda route: route.abort())

    expect(page.locator("#as-of")).to_contain_text("Central does not answer. What you see is of", timeout=15_000)
    expect(page.locator("table.list tbody tr")).to_have_count(len(chain.TILLS))
    page.unroute("**/tills")
    visitor.watch.faults[:] = [one for one in visitor.watch.faults if "Failed to fetch" not in one]  # As it must be.
    expect(page.locator("#as-of-text")).to_have_text("As of", timeout=15_000)


def test_keys_lead_to_the_search_and_to_pages(visitor):
    """`/` and a till's name lead to the till; `g t` to the tills."""
    page = visitor.as_("viewer")
    page.goto("/days")
    page.locator("#main").focus()
    page.keyboard.press("/")
    page.keyboard.type(chain.VERIFIED)
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(f"/tills/{chain.VERIFIED}$"))
    page.locator("#main").focus()
    page.keyboard.press("g")
    page.keyboard.press("t")
    expect(page).to_have_url(re.compile("/tills$"))


def test_language_and_theme_are_chosen_and_kept(visitor):
    """Both stay after the next click."""
    page = visitor.as_("operator", language="ru")
    page.goto("/tills")
    page.locator("form.choices button[value=en]").click()
    expect(page.locator("h1")).to_have_text("Tills")
    page.get_by_role("button", name="Dark theme").click()
    page.goto("/stores")
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    expect(page.locator("h1")).to_have_text("Stores")
    page.locator("form.choices button[value=ru]").click()
    page.locator("form.choices button[name=theme][value='']").click()
    expect(page.locator("h1")).to_have_text("Магазины")
