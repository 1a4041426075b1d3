"""People at work in a browser: quarantine, parking, the wizard; and what a viewer or a stranger cannot do."""

from __future__ import annotations

import re

import pytest
import retail_chain as chain
from databases import look
from playwright.sync_api import expect

TELLS = {
    "ru": {"again": "Проверить снова", "accepted": "Принято: 1", "park": "Законсервировать"},
    "en": {"again": "Judge again", "accepted": "Accepted: 1", "park": "Park"},
}


def told(page):
    return page.locator("#told")


def rows(page, *texts):
    found = page.locator("table.list tbody tr")
    for text in texts:
        found = found.filter(has_text=text)
    return found


def act(page, label, note=""):
    """Open a form that does one thing, say why, and do it."""
    place = page.locator("details.act", has=page.locator("summary", has_text=label)).first
    place.locator("summary").click()
    place.locator("input[name=note]").fill(note)
    place.locator("form button").click()


def decisions_of(shops):
    return look(shops.url, "SELECT count(*) FROM audit")[0][0]


# -- Work --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("language", "document"), [*zip(TELLS, chain.ACCEPTED_TODAY, strict=True)])
def test_a_refused_document_is_found_understood_and_judged_again(visitor, language, document):
    """From the group to the document with its field marked; judged again it takes its place, in the person's name."""
    page = visitor.as_("operator", language=language)
    page.goto("/quarantine")
    page.get_by_role("rowheader").get_by_role("link", name="bad_schema").click()
    rows(page, document).locator("td.link a").first.click()
    expect(page.locator("#wrong")).to_have_text("$.transaction_type")
    expect(page.locator("mark")).to_contain_text("no_sale")

    act(page, TELLS[language]["again"], f"after the upgrade of {document}")

    expect(told(page)).to_contain_text(TELLS[language]["accepted"])
    expect(rows(page, document)).to_have_count(0)
    page.goto("/audit?action=retry")
    expect(rows(page, f"after the upgrade of {document}")).to_contain_text("operator")


def test_a_till_is_parked_and_unparked_with_a_note(visitor, shops):
    """Ticked, with a reason: the till is not expected to report, then it is again; both stand in the audit."""
    page = visitor.as_("operator", language="en")
    for button, action in (("Park", "park"), ("Unpark", "unpark")):
        page.goto("/tills")
        rows(page, chain.SILENT).locator("input.tick").check()
        page.locator("#bulk input[name=note]").fill(f"{action} it")
        page.locator("#bulk").get_by_role("button", name=button, exact=True).click()
        expect(told(page)).to_contain_text("1 of 1")
        page.goto(f"/audit?action={action}&object={chain.SILENT}")
        expect(rows(page, f"{action} it")).to_contain_text("operator")


def test_failed_uploads_are_asked_for_again_by_ticking_them(visitor):
    """From the failed tasks to a new wish in one click, with a note."""
    page = visitor.as_("operator", language="ru")
    page.goto("/tasks?state=failed")
    rows(page, chain.BEHIND).locator("input.tick").check()
    page.locator("#bulk input[name=note]").fill("связь есть")
    page.locator("#bulk").get_by_role("button", name="Запросить снова").click()

    expect(told(page)).to_contain_text("Запрошено снова: 1")
    page.goto("/tasks?state=waiting")
    expect(rows(page, chain.BEHIND)).to_contain_text("связь есть")


def test_the_wizard_shows_what_changes_before_it_changes_it(visitor):
    """Six steps, the difference line by line, for how many tills; set, each till shows the revision it is to run."""
    page = visitor.as_("administrator", language="ru")
    page.goto("/automation")
    page.get_by_role("button", name="Включить почечковую выгрузку").click()
    page.get_by_label("весь парк").check()
    page.get_by_role("button", name="Показать, что изменится").click()
    expect(page.locator("#steps li")).to_have_count(6)
    expect(page.locator("#diff ins", has_text="document_closed")).to_have_count(1)
    page.locator("#put input[name=note]").fill("пилот окончен")
    page.get_by_role("button", name="Задать").click()

    expect(told(page)).to_contain_text("Задано как редакция 3")
    expect(rows(page, chain.BEHIND).locator("td.count").first).to_have_text("3")
    page.goto("/automation?tab=events")
    expect(rows(page, "Действия после закрытия документа")).to_contain_text("Почечковая выгрузка")
    page.goto("/automation/wizard?scope=fleet&name=")
    expect(page.locator("#preview ~ p", has_text="Ничего не изменится")).to_have_count(1)


@pytest.mark.parametrize(("language", "cursor"), [("ru", "1-6"), ("en", "1-3")])
def test_a_consumer_is_rewound_after_being_asked_twice(visitor, language, cursor):
    """First what would be read again, then the name typed: only then it reads again, in the person's name."""
    page = visitor.as_("operator", language=language)
    page.goto("/consumers")
    rows(page, "bi").get_by_role("link", name="bi").click()
    before = page.locator("#behind").inner_text()
    page.locator("#ask input[name=cursor]").fill(cursor)
    page.locator("#ask button").click()
    expect(page.locator("#again")).to_contain_text(cursor)
    form = page.locator("form[action='/consumers/bi/rewind']")
    form.locator("[name=note]").fill(f"back to {cursor}")
    form.locator("[name=confirm]").fill("bi")
    form.locator("button").click()

    expect(told(page)).to_contain_text(cursor)
    expect(rows(page, "bi")).to_contain_text(cursor)
    assert before not in rows(page, "bi").inner_text()
    page.goto("/audit?action=rewind+consumer")
    expect(rows(page, f"back to {cursor}")).to_contain_text("operator")


def test_an_administrator_adds_a_user_who_can_log_in(visitor):
    """The new one logs in with the password that was given, and may do what the role says."""
    page = visitor.as_("administrator", language="en")
    page.goto("/users")
    form = page.locator("form[action='/users/add']")
    form.locator("[name=name]").fill("olga")
    form.locator("[name=password]").fill("a rather long password")
    form.locator("button").click()
    expect(told(page)).to_contain_text("olga may log in")

    olga = visitor.as_("olga", password="a rather long password")
    olga.goto("/tasks")
    expect(olga.locator("h1")).to_have_text("Задачи")
    expect(olga.locator("#bulk")).to_have_count(0)


# -- What may not be ---------------------------------------------------------------------------------------------------

PAGES = (
    "/tills",
    "/tasks",
    "/quarantine",
    "/quarantine/1",
    "/automation",
    "/automation/tills",
    "/rollouts",
    "/settings",
    "/consumers",
    "/consumers/bi",
)


def test_a_viewer_sees_no_action_and_one_that_is_forged_is_refused(visitor, shops):
    """No page has a form for him but for what is his own; sent all the same, with his own secret, nothing happens."""
    page = visitor.as_("viewer", language="en")
    his_own = {"/choices", "/logout", "/password"}
    for path in PAGES:
        page.goto(path)
        theirs = page.locator("form[method=post]").evaluate_all(
            "forms => forms.map(form => form.getAttribute('action'))"
        )
        assert {"/choices", "/logout"} <= set(theirs) <= his_own, path
    secret = page.locator("input[name=csrf]").first.input_value()
    before = decisions_of(shops)

    forged = {
        "/quarantine/discard": {"number": "1", "note": "gone"},
        "/automation/put": {"scope": "fleet", "was": "1", "text": "", "note": "gone"},
        "/tasks/again": {"task": "1.1.2"},
    }
    answers = {path: page.request.post(path, form={"csrf": secret, **form}).status for path, form in forged.items()}
    assert dict.fromkeys(forged, 403) == answers
    assert before == decisions_of(shops)


def test_a_form_without_its_secret_is_refused(visitor, shops):
    """Another site can have a browser send a form, but not with what only our pages know."""
    page = visitor.as_("operator", language="en")
    page.goto("/quarantine/1")
    page.locator("input[name=csrf]").evaluate_all("all => all.forEach(one => one.remove())")
    before = decisions_of(shops)

    act(page, "Discard", "gone")

    expect(page.get_by_role("alert")).to_contain_text("not sent by a page of this session")
    assert before == decisions_of(shops)


def test_a_session_that_is_over_leads_to_the_login_and_back(visitor, shops):
    """Whoever was away too long logs in and stands where he wanted to go."""
    page = visitor.as_("operator", language="en")
    page.goto("/tasks?state=failed")
    look(shops.url, "UPDATE console_session SET seen_at_ms = 1 WHERE account = 'operator'")
    page.reload()

    page.wait_for_url(re.compile("/login"))
    page.locator("input[autocomplete=username]").fill("operator")
    page.locator("input[autocomplete=current-password]").fill("correct horse battery")
    page.locator("input[autocomplete=current-password]").press("Enter")
    page.wait_for_url("**/tasks?state=failed")
    expect(rows(page, chain.BEHIND)).to_have_count(1)


def test_a_page_that_is_left_open_shows_nothing_more_once_its_session_is_over(visitor, shops):
    """What polls by itself is led to the login: no figures stay on a screen that nobody is logged in to."""
    page = visitor.as_("viewer", language="en")
    page.goto("/tasks")
    look(shops.url, "DELETE FROM console_session WHERE account = 'viewer'")

    page.wait_for_url(re.compile("/login"))
    expect(page.locator("table.list")).to_have_count(0)
