"""The pages on which people do things: tasks, quarantine, automation, rollouts, settings, users, audit."""

from __future__ import annotations

import contextlib
import re
from html import unescape

import pytest
import retail_chain as chain
import web
from databases import look
from factories import a_store

from central import reports, settings

PAGES = (
    "/tasks", "/quarantine", "/automation", "/automation/tills", "/automation/wizard", "/automation/edit",
    "/rollouts", "/settings", "/audit", "/users", "/consumers",
)  # fmt: skip
LISTS = (
    "/tasks",
    "/quarantine",
    "/automation/tills",
    "/rollouts",
    "/settings",
    "/audit",
    "/users",
    "/tokens",
    "/consumers",
)
STATEMENTS_MOST = 3
"""So many statements a list may take, beside the one that knows who asks."""


@pytest.fixture
def shops(central_url):
    return chain.furnish(central_url)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def looked_at(request, tmp_path_factory):
    """Return an application and an administrator's browser for tests that only look."""
    server = request.getfixturevalue("postgres") if request.param == "postgresql" else None
    url = server.new_database() if server else str(tmp_path_factory.mktemp("acts") / "central.db")
    shops = chain.furnish(url)
    with web.a_console(url) as made, web.a_browser(made, "administrator") as browser:
        yield made, browser, shops
    if server:
        server.drop(url)


@pytest.fixture
def app(shops):
    with web.a_console(shops.url) as made:
        yield made


@pytest.fixture
def browser(app):
    with web.a_browser(app, "administrator") as made:
        yield made


def send(browser, path, **form):
    return browser.post(path, data={"csrf": browser.csrf, **form})


def audited(shops):
    return [row[0] for row in look(shops.url, "SELECT action FROM audit ORDER BY id")]


# -- All of them -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PAGES)
def test_a_page_answers_in_both_languages_and_304_where_nothing_changed(looked_at, path):
    """A page comes in Russian and in English; asked again with what one has, nothing is sent."""
    _, browser, _ = looked_at
    russian = browser.get(path, headers={"Accept-Language": "ru"})
    english = browser.get(path, headers={"Accept-Language": "en"})
    again = browser.get(path, headers={"Accept-Language": "en", "If-None-Match": english.headers["ETag"]})

    assert ([200, 200], 304, b"") == ([russian.status_code, english.status_code], again.status_code, again.content)
    assert 'lang="ru"' in russian.text
    assert 'lang="en"' in english.text
    assert russian.text.count("</table>") == english.text.count("</table>")


@pytest.mark.parametrize("path", LISTS)
def test_a_list_is_the_same_as_a_file(looked_at, path):
    """Each list comes as CSV and as JSON, with as many rows and the same machine names."""
    _, browser, _ = looked_at
    rows = browser.get(f"{path}.json").json()
    lines = browser.get(f"{path}.csv").text.splitlines()

    assert len(rows) == len(lines) - 1
    assert not rows or set(rows[0]) == set(lines[0].split(","))


@pytest.mark.parametrize("path", LISTS)
def test_a_list_takes_three_statements_at_most(looked_at, path, monkeypatch):
    """However many rows there are: no list asks the database row by row."""
    app, browser, _ = looked_at
    database, heard = app.state.pool._database, []
    run = database.execute_sql
    monkeypatch.setattr(database, "execute_sql", lambda sql, *rest: heard.append(sql) or run(sql, *rest))

    assert 200 == browser.get(f"{path}.json").status_code

    own = [one for one in heard if "console_session" not in one and "migration" not in one and "SELECT" in one]
    assert len(own) <= STATEMENTS_MOST, own


@pytest.mark.parametrize("path", ["/tasks", "/quarantine", "/audit", "/rollouts", "/automation/tills"])
def test_an_odd_address_shows_the_list_as_it_is_at_first(looked_at, path):
    """What a list does not know is passed over; nothing of it is an error."""
    _, browser, _ = looked_at
    assert (
        200
        == browser.get(
            f"{path}?page=-1&sort=secret&state=odd&which=odd&code=odd&till=%C3%A9%25&page=9999999"
        ).status_code
    )


def test_the_character_nul_is_refused_wherever_it_stands(browser, shops):
    """No database keeps it: in an address and in a form it is named, and nothing happens."""
    before = audited(shops)
    told = [browser.get("/tasks?till=%00"), browser.get("/consumers/%00"), browser.get("/tills?store=%00")]
    told.append(send(browser, "/tasks/again", task="1.1.2", note="a\0b"))

    assert ([422] * 4, before) == ([one.status_code for one in told], audited(shops))
    assert "note" in told[-1].text


def test_pages_without_anything_say_what_to_do_next(central_url):
    """In an empty database each page says what that means, and shows no zero for what nobody knows."""
    a_store(central_url).close()
    with web.a_console(central_url) as app, web.a_browser(app, "administrator") as browser:
        english = {"Accept-Language": "en"}
        texts = {path: browser.get(path, headers=english).text for path in PAGES}

    assert "Tasks that are done within a second leave no row" in texts["/tasks"]
    assert "No document is in quarantine" in texts["/quarantine"]
    assert "Nothing is set centrally" in texts["/automation"]
    assert "No till is known yet" in texts["/rollouts"]
    assert "No till is known yet" in texts["/automation/tills"]
    assert "There is no verified backup" in texts["/settings"]


# -- Tasks -------------------------------------------------------------------------------------------------------------


def test_a_failed_task_is_asked_for_again_with_a_note(browser, shops):
    """A wish stands among the tasks, in the name of who asked; asked twice it is made once."""
    for _ in range(2):
        told = send(browser, "/tasks/again", task="1.1.2", note="the link is back", back="/tasks?state=failed")
        assert (303, "/tasks?state=failed") == (told.status_code, told.headers["location"])

    mine = [row for row in browser.get("/tasks.json?state=waiting").json() if row["till_id"] == chain.BEHIND]
    assert [("operator", "the link is back")] == [(row["reason"], row["note"]) for row in mine]
    rows = look(shops.url, "SELECT who, object, note FROM audit WHERE action = 'request' ORDER BY id")
    assert ("administrator", f"till {chain.BEHIND}", "the link is back") == tuple(rows[-1])


def test_a_range_is_asked_for_again_as_a_range(browser, shops):
    """What is left of a range is named by its numbers; a range of a stream that is gone becomes everything."""
    (whole,) = [row for row in browser.get("/tasks.json").json() if row["scope"]]
    look(shops.url, f"UPDATE task SET finished_at_ms = 1, state = 'failed' WHERE task_id = '{whole['task_id']}'")
    send(browser, "/tasks/again", task=whole["task_id"])
    assert [whole["scope"]] == [row["scope"] for row in browser.get("/tasks.json?state=waiting").json()]

    look(shops.url, f"UPDATE task SET stream = 'another' WHERE task_id = '{whole['task_id']}'")
    send(browser, "/tasks/again", task=whole["task_id"])
    scopes = {row["scope"] for row in browser.get("/tasks.json?state=waiting").json()}
    assert {whole["scope"], f"1..{len(shops.documents[chain.VERIFIED])}"} == scopes


def test_a_wish_that_nobody_has_taken_up_is_cancelled(browser, shops):
    """It is not asked for any more, and stands there with the reason; one that a worker has goes on."""
    (wish,) = [row for row in browser.get("/tasks.json?state=waiting").json() if row["reason"] == "operator"]
    send(browser, "/tasks/cancel", task=[wish["task_id"], "1.1.3"], note="asked by mistake")

    states = {row["task_id"]: (row["state"], row["note"]) for row in browser.get("/tasks.json").json()}
    assert (("cancelled", "asked by mistake"), "resting") == (states[wish["task_id"]], states["1.1.3"][0])
    with contextlib.closing(a_store(shops.url)) as store:
        assert [] == store.wishes()
    assert "cancel" == audited(shops)[-1]


def test_a_task_that_is_not_there_is_named(browser, shops):
    """Nothing is asked for then, and nothing stands in the audit."""
    before = audited(shops)
    told = send(browser, "/tasks/again", task=["1.1.2", "9.9.9"])

    assert (422, before) == (told.status_code, audited(shops))
    assert "9.9.9" in told.text


# -- Quarantine --------------------------------------------------------------------------------------------------------


def numbers(browser, query=""):
    return {row["document_id"]: row["id"] for row in browser.get(f"/quarantine.json{query}").json()}


def test_a_document_is_shown_with_its_field_marked_and_given_as_it_came(browser, shops):
    """The page names the wrong field and marks its line; the bytes are exactly those that came."""
    number = numbers(browser)["wrong-total"]
    shown, given = browser.get(f"/quarantine/{number}"), browser.get(f"/quarantine/{number}/bytes")

    assert "$.totals.total_minor" in shown.text
    assert "<mark>" in shown.text
    assert "&lt;--" in shown.text
    assert given.content in shops.documents[chain.QUARANTINED]
    assert "attachment" in given.headers["Content-Disposition"]
    assert ("application/octet-stream", "nosniff") == (
        given.headers["Content-Type"], given.headers["X-Content-Type-Options"],
    )  # fmt: skip


def test_what_todays_rules_accept_leaves_quarantine_and_the_rest_stays(browser, shops):
    """All that wait with a code are judged; the page of one that is gone is not gone back to."""
    number = numbers(browser)[chain.ACCEPTED_TODAY[0]]
    told = send(browser, "/quarantine/retry", number=number, note="0.2", back=f"/quarantine/{number}")
    assert "/quarantine" == told.headers["location"]
    for code in ("bad_schema", "totals_mismatch"):
        send(browser, "/quarantine/retry", code=code, back="/quarantine")

    assert {"broken", "other-till", "wrong-total"} == set(numbers(browser))
    assert 2 == audited(shops).count("retry")
    assert [(2,)] == look(shops.url, f"SELECT count(*) FROM document WHERE document_id IN {chain.ACCEPTED_TODAY}")


def test_a_discard_needs_a_note_and_keeps_the_bytes(browser, shops):
    """Without a note nothing happens; with one the document waits for nobody and can still be read."""
    number = numbers(browser)["broken"]
    assert 422 == send(browser, "/quarantine/discard", number=number, note=" ").status_code
    assert 303 == send(browser, "/quarantine/discard", number=number, note="the POS's log").status_code

    assert "broken" not in numbers(browser)
    assert "broken" in numbers(browser, "?which=all")
    assert 200 == browser.get(f"/quarantine/{number}/bytes").status_code


@pytest.mark.parametrize("form", [{}, {"code": "odd"}, {"number": "x"}, {"number": "9" * 19}, {"number": "99999"}])
def test_what_names_no_document_is_refused(browser, shops, form):
    """Neither nothing at all nor a number that is none means everything."""
    before = audited(shops)

    assert {422} == {send(browser, f"/quarantine/{act}", note="n", **form).status_code for act in ("retry", "discard")}
    assert before == audited(shops)


# -- Automation --------------------------------------------------------------------------------------------------------


def preview(browser, **asked):
    return browser.get("/automation/wizard", params={"scope": "fleet", **asked}, headers={"Accept-Language": "ru"})


def hidden(text, name):
    return unescape(re.search(rf'name="{name}" value="([^"]*)"', text.partition('id="put"')[2])[1])


def test_the_wizard_shows_what_changes_and_sets_exactly_that(browser, shops):
    """The preview sets nothing; what it showed is then what each till without nearer settings is to run."""
    shown = preview(browser)
    with reports.reading(shops.url):
        before = settings.get("fleet", "")
    assert "+" in shown.text
    assert "Назначить событию «Действия после закрытия документа» макрос 3" in shown.text

    form = {name: hidden(shown.text, name) for name in ("scope", "name", "was", "text")}
    assert 303 == send(browser, "/automation/put", note="pilot is over", **form).status_code

    with reports.reading(shops.url):
        revision, body = settings.get("fleet", "")
        stand = {row["till_id"]: row["wanted"] for row in settings.standing()}
    assert body.automation.events == {"document_closed": 3}
    assert (revision > before[0], stand[chain.BEHIND], stand[chain.VERIFIED]) == (True, revision, before[0] + 1)
    assert "settings" == audited(shops)[-1]


def test_what_changed_since_the_preview_is_not_written_over(browser, shops):
    """Somebody else set something meanwhile: the second one is told, and nothing is lost."""
    shown = preview(browser)
    form = {name: hidden(shown.text, name) for name in ("scope", "name", "was", "text")}
    with reports.writing(shops.url):
        settings.put("fleet", "", None, 1, "")
    told = send(browser, "/automation/put", note="n", **form)

    assert 422 == told.status_code
    with reports.reading(shops.url):
        assert settings.get("fleet", "") is None


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"url": "ftp://x"}, "ftp://x"),
        ({"scope": "till"}, "name"),
        ({"scope": "planet", "name": "x"}, "scope"),
        ({"scope": "tag", "name": "x" * 65}, "64"),
    ],
)
def test_a_wizard_that_cannot_be_followed_says_why(browser, asked, named):
    """The field stands in the text."""
    told = preview(browser, **asked)

    assert 422 == told.status_code
    assert named in told.text


def test_settings_are_written_as_text_and_taken_back_by_an_empty_one(browser, shops):
    """A text is checked before anything is set; an empty one withdraws what is set there."""
    bad = send(browser, "/automation/preview", scope="fleet", text='{"limits": {"retention_days": -1}}')
    assert 422 == bad.status_code
    assert "retention_days" in bad.text
    assert "&#34;limits&#34;" in bad.text

    shown = send(browser, "/automation/preview", scope="fleet", text="").text
    form = {name: hidden(shown, name) for name in ("scope", "name", "was", "text")}
    assert 303 == send(browser, "/automation/put", note="back to the file", **form).status_code
    with reports.reading(shops.url):
        assert settings.get("fleet", "") is None


def test_tags_are_put_on_tills_and_taken_off_together(browser, shops):
    """Those that have it already are not changed; what can be no tag is refused, and so is a till nobody knows."""
    tills = [chain.VERIFIED, chain.BEHIND]
    told = send(browser, "/automation/tag", till=tills, tag="pilot", note="second week")
    assert 303 == told.status_code
    rows = browser.get("/automation/tills.json?tag=pilot").json()
    assert [(chain.VERIFIED, 2), (chain.BEHIND, 2)] == [(row["till_id"], row["wanted"]) for row in rows]
    assert 303 == send(browser, "/automation/untag", till=tills, tag="pilot").status_code
    assert ["tag", "untag", "untag"] == audited(shops)[-3:]
    for form in ({"till": tills, "tag": "two words"}, {"till": [*tills, "nobody"], "tag": "x"}):
        assert 422 == send(browser, "/automation/tag", **form).status_code
    assert "untag" == audited(shops)[-1]


# -- Rollouts ----------------------------------------------------------------------------------------------------------


def test_the_tills_that_a_catch_up_is_to_reach_are_a_limit_file(browser):
    """One till a line, as Ansible reads it; those that failed are another choice."""
    assert f"{chain.VERIFIED}\n{chain.BEHIND}\n" == browser.get("/rollouts/limit.txt").text
    assert f"{chain.QUARANTINED}\n" == browser.get("/rollouts/limit.txt?which=failed").text


def test_release_and_settings_stand_beside_what_the_till_shows(browser):
    """Unknown stays unknown: a till that never said what it runs is not said to run 0."""
    rows = {row["till_id"]: row for row in browser.get("/rollouts.json").json()}
    row = rows[chain.BEHIND]

    assert (chain.NEW_VERSION, chain.VERSION, "unreached") == (row["wanted"], row["runs"], row["state"])
    assert (1, 0) == (row["settings_wanted"], row["settings_run"])
    assert {chain.VERIFIED, chain.BEHIND, chain.QUARANTINED} == {
        row["till_id"] for row in browser.get("/rollouts.json?which=drift").json()
    }


def test_a_freeze_is_set_and_lifted(browser, shops):
    """Times that are none, or that end before they begin, are refused with the field."""
    bad = send(browser, "/rollouts/freeze", until="2026-12-20T22:00", note="n", **{"from": "soon"})
    assert (422, True) == (bad.status_code, "from" in bad.text)
    good = {"from": "2030-12-20T22:00", "until": "2031-01-03T06:00", "note": "Christmas"}
    assert 303 == send(browser, "/rollouts/freeze", **good).status_code
    assert 303 == send(browser, "/rollouts/freezes/1/thaw", note="earlier").status_code

    assert ["freeze", "thaw"] == audited(shops)[-2:]
    assert "Christmas" in browser.get("/rollouts").text


# -- Consumers ---------------------------------------------------------------------------------------------------------


def test_a_consumer_is_rewound_after_it_was_said_what_that_means_and_its_name_was_typed(browser, shops):
    """The preview counts what is read again; without the name typed nothing happens."""
    asked = browser.get("/consumers/bi", params={"ask": "true", "cursor": "1-4"})
    assert f"<strong>{chain.BI_HAS - 4}</strong>" in asked.text
    form = {"to": "1-4", "note": "the import was lost"}
    assert 422 == send(browser, "/consumers/bi/rewind", **form, confirm="1c-main").status_code
    assert 303 == send(browser, "/consumers/bi/rewind", **form, confirm="bi").status_code

    rows = {row["name"]: row for row in browser.get("/consumers.json").json()}
    stored = look(shops.url, "SELECT count(*) FROM document")[0][0]
    assert ("1-4", stored - 4, stored) == (rows["bi"]["cursor"], rows["bi"]["behind"], rows["1c-main"]["behind"])
    assert "rewind consumer" == audited(shops)[-1]


def test_a_consumer_goes_back_to_the_first_document_of_a_day(browser, shops):
    """Named by its day: nothing of that day is left out."""
    ((first,),) = look(shops.url, f"SELECT min(id) FROM document WHERE business_day = '{shops.yesterday}'")
    asked = browser.get("/consumers/bi", params={"ask": "true", "day": shops.yesterday})

    assert f'name="to" value="1-{first - 1}"' in asked.text


@pytest.mark.parametrize("place", [{"cursor": "1-99"}, {"cursor": "2-1"}, {"cursor": "x"}, {"day": "1999-01-01"}])
def test_a_place_that_cannot_be_gone_back_to_is_refused(browser, place):
    """Ahead of where it stands, of another incarnation, no cursor at all, a day without documents: with the reason."""
    asked = browser.get("/consumers/bi", params={"ask": "true", **place})

    assert (422, True) == (asked.status_code, 'role="alert"' in asked.text)


def test_how_far_behind_a_consumer_is_is_unknown_once_the_database_was_put_back(browser, shops):
    """Numbers were given out anew: what it has is no figure, and no zero."""
    look(shops.url, "UPDATE central SET incarnation = 2")
    (row,) = [row for row in browser.get("/consumers.json").json() if row["name"] == "bi"]
    shown = browser.get("/consumers/bi", headers={"Accept-Language": "en"}).text

    assert (None, True) == (row["behind"], row["must_rewind"])
    assert "unknown: the database was put back" in shown
    again = browser.get("/consumers/bi", params={"ask": "true"})
    assert "<strong>?</strong>" in again.text


def test_a_consumer_is_named_and_removed(browser, shops):
    """One that begins now is behind nothing; a name that cannot be one is refused."""
    assert 422 == send(browser, "/consumers", name="a b").status_code
    assert 303 == send(browser, "/consumers", name="erp", begin="now", note="new").status_code
    (row,) = [row for row in browser.get("/consumers.json").json() if row["name"] == "erp"]
    assert (0, "new") == (row["behind"], row["note"])
    assert 422 == send(browser, "/consumers/erp/remove").status_code
    assert 303 == send(browser, "/consumers/erp/remove", confirm="erp").status_code
    assert ["create consumer", "remove consumer"] == audited(shops)[-2:]


# -- Users and tokens --------------------------------------------------------------------------------------------------


def test_users_are_added_changed_and_removed(app, browser, shops):
    """Each change is in the audit in the name of who made it; the last administrator stays."""
    assert 422 == send(browser, "/users/add", name="olga", role="operator", password="short").status_code
    assert 303 == send(browser, "/users/add", name="olga", role="operator", password="long enough it is").status_code
    assert 303 == send(browser, "/users/olga/role", role="viewer").status_code
    assert 303 == send(browser, "/users/olga/password", password="another one it is").status_code
    assert 303 == send(browser, "/users/olga/remove", note="left").status_code
    assert 422 == send(browser, "/users/administrator/role", role="viewer").status_code

    assert ["add user", "set role", "set password", "remove user"] == audited(shops)[-4:]


def test_a_tokens_secret_is_shown_once_and_kept_by_no_browser(browser, shops):
    """The page that shows it is not stored; the list has the token without it."""
    told = send(browser, "/tokens/issue", name="1c", scope=["read", "export"], days="30")
    secret = re.search(r'id="secret">(ts_[^<]+)<', told.text)[1]

    assert "no-store" == told.headers["Cache-Control"]
    assert secret not in browser.get("/users").text
    assert ["1c"] == [row["name"] for row in browser.get("/tokens.json").json()]
    assert 422 == send(browser, "/tokens/issue", name="x", scope="read", days="0").status_code
    assert 303 == send(browser, "/tokens/1c/revoke", note="lost").status_code
    assert ["issue token", "revoke token"] == audited(shops)[-2:]


def test_the_configuration_is_shown_without_its_secrets(shops):
    """A token in the configuration is shown as set, never as what it is."""
    with web.a_console(shops.url, token="very-secret") as app, web.a_browser(app, "viewer") as browser:
        texts = [browser.get(path).text for path in ("/settings", "/settings.json", "/settings.csv")]

    assert [] == [text for text in texts if "very-secret" in text]
    assert "***" in texts[1]


def test_the_audit_is_narrowed_by_who_and_what(browser):
    """A row says who did what to what, when and why."""
    send(browser, "/tasks/again", task="1.1.2", note="the link is back")
    rows = browser.get(f"/audit.json?who=administrator&object={chain.BEHIND}").json()

    assert [("administrator", "request", "the link is back")] == [
        (row["who"], row["action"], row["note"]) for row in rows
    ]


# -- Rights ------------------------------------------------------------------------------------------------------------

FORGED = {
    "/tasks/again": {"task": "1.1.2"},
    "/tasks/cancel": {"task": "1.1.2"},
    "/automation/tag": {"till": "042-01", "tag": "x"},
    "/quarantine/retry": {"number": "1"},
    "/quarantine/discard": {"number": "1", "note": "n"},
    "/automation/put": {"scope": "fleet", "was": "1", "text": "", "note": "n"},
    "/rollouts/freeze": {"from": "2030-01-01", "until": "2030-01-02", "note": "n"},
    "/settings/stores": {"store": "042", "zone": "Asia/Omsk"},
    "/consumers/bi/rewind": {"to": "1-0", "confirm": "bi"},
    "/consumers/bi/remove": {"confirm": "bi"},
    "/users/add": {"name": "mallory", "role": "administrator", "password": web.PASSWORD},
    "/tokens/issue": {"name": "mallory", "scope": "admin"},
}


@pytest.mark.parametrize("path", FORGED)
def test_a_viewer_may_do_nothing_and_nobody_without_the_forms_secret(looked_at, path):
    """A viewer's own form is refused, an administrator's without its secret too; nothing changes by either."""
    app, administrator, shops = looked_at
    before = audited(shops)
    with web.a_browser(app, "viewer") as viewer:
        told = [send(viewer, path, **FORGED[path]), administrator.post(path, data=FORGED[path])]

    assert [403, 403] == [one.status_code for one in told]
    assert before == audited(shops)


def test_a_login_with_nul_in_its_name_is_only_wrong(app):
    """Whoever is nobody is told no more than that."""
    with web.a_browser(app) as browser:
        assert 401 == web.log_in(browser, "a\0b").status_code
