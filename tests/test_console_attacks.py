"""What strangers, forgers and hasty people try on the console: each of these did harm once."""

from __future__ import annotations

import re
import threading
from contextlib import closing
from types import SimpleNamespace

import pytest
import retail_chain as chain
from databases import look
from factories import NOW_MS, TILL, a_store, a_stream, an_upload, some_sales
from web import PASSWORD, a_browser, a_console, csrf_of, enter, log_in

from central import audit, consumers
from central.batch import NewStream, Parcel
from central.console import login, overview, till
from central.console.words import LANGUAGES, speaker
from central.consumer import Cursor
from central.models import Consumer


@pytest.fixture
def app(central_url):
    """Return the application over an empty database."""
    a_store(central_url).close()
    with a_console(central_url) as made:
        yield made


@pytest.mark.parametrize("path", ["/tills/", "/login/", "/api/v1/tills/", "/api/v1"])
def test_no_answer_leads_to_the_host_that_a_request_names(app, path):
    """A slash too many is a path that is not there, not a redirection made of the Host header."""
    with a_browser(app) as client:
        told = client.get(path, headers={"Host": "evil.example"})

    assert (told.status_code, told.headers.get("location")) == (404, None)


@pytest.mark.parametrize("number", [0, -1, 2**53, 2**63, 10**30])
def test_a_number_that_no_gap_has_is_refused_by_name(app, number):
    """Also one that no column holds."""
    with a_browser(app) as client:
        enter(app, client, "operator")
        told = client.post(f"/gaps/{number}/close", data={"note": "lost", "csrf": client.csrf})

    assert told.status_code == 422
    assert "number" in told.text


def test_a_login_comes_back_to_an_address_with_many_filters(app):
    """Such an address is longer than any password; it stood in the way of the login."""
    long = "/receipts?" + "&".join(f"{name}={'%D0%96' * 150}" for name in ("till", "store", "document"))
    with a_browser(app) as client:
        assert log_in(client, "viewer", next_path=long).headers["location"] == long
        form = {"language": "en", "next_path": long, "csrf": csrf_of(app, client)}
        chosen = client.post("/choices", data=form)
        assert (chosen.status_code, chosen.headers["location"]) == (303, long)


def test_a_way_back_without_end_leads_to_the_list(app):
    """It is not echoed into a header."""
    with a_browser(app) as client:
        enter(app, client, "operator")
        told = client.post("/request", data={"back": "/" + "a" * 100_000, "csrf": client.csrf})

    assert (told.status_code, told.headers["location"]) == (303, "/")


def test_failures_that_come_at_once_are_counted_one_by_one(central_url, monkeypatch):
    """Twenty guesses sent together are not twenty guesses looked at: each is judged after the one before it."""
    monkeypatch.setattr(login, "WAIT_S", 60.0)
    a_store(central_url).close()
    with a_console(central_url, console_login_failures_max=3, console_threads=16) as app, a_browser(app) as client:
        form = {"name": "viewer", "password": "wrong", "csrf": "known"}
        client.cookies.set("tillstream_form", "known")
        answers = []

        def guess():
            answers.append(client.post("/login", data=form).status_code)

        guesses = [threading.Thread(target=guess) for _ in range(20)]
        for one in guesses:
            one.start()
        for one in guesses:
            one.join()
    looked_at = answers.count(401)

    assert looked_at + answers.count(429) == 20
    assert 3 <= looked_at < 3 + login.AT_ONCE


def test_whoever_found_a_session_open_cannot_guess_its_password(central_url):
    """The form that changes it counts failures as the login does."""
    a_store(central_url).close()
    with a_console(central_url, console_login_failures_max=3) as app, a_browser(app) as client:
        enter(app, client, "viewer")
        form = {"csrf": client.csrf, "new": "another long password"}
        wrong = [client.post("/password", data={**form, "old": "wrong"}).status_code for _ in range(3)]
        right = client.post("/password", data={**form, "old": PASSWORD}).status_code

    assert (wrong, right) == ([422, 422, 422], 429)


# -- What is shown is true ---------------------------------------------------------------------------------------------


def test_a_store_whose_name_holds_a_slash_has_its_days(central_url):
    """Whatever a till calls its store: each link that leads to its day finds it, and so does that of no store."""
    with closing(a_store(central_url)) as store:
        bodies = [*some_sales(1, store_id="ЦУМ/2"), *some_sales(1, 2, store_id="")]
        store.open_streams([NewStream(TILL, a_stream(), ())], {}, NOW_MS)
        store.ingest([Parcel(TILL, an_upload(bodies))], {}, NOW_MS)
    with a_console(central_url) as app, a_browser(app) as client:
        enter(app, client, "viewer")
        for number, store_id in ((1, "ЦУМ/2"), (2, "")):
            (link,) = re.findall(r'href="(/days/[^"]+)"', client.get(f"/receipts/{number}").text)
            told = client.get(link)
            assert told.status_code == 200, link
            assert store_id in told.text


def test_the_audit_of_a_till_is_its_own_and_whole(central_url):
    """With its tags and the gaps that were closed, and without tills whose names are alike."""
    a_store(central_url).close()
    own = ("till a_b", "till a_b, day 2026-03-01", "till a_b: spring", "5, till a_b")
    others = ("till a_bc", "till aXb, day 2026-03-01", "5, till xa_b", "till A_B, shift 1", "till a_b.")
    with a_console(central_url) as app, app.state.pool.changing("anna"):
        for one in (*own, *others):
            audit.record("act", one, "", NOW_MS)
        shown = till._audit(SimpleNamespace(till_id="a_b"))["audit"]

    assert {one["object"] for one in shown} == set(own)


def test_a_consumer_that_begins_behind_numbers_nobody_used_is_not_ahead(central_url):
    """PostgreSQL counts on where rows were taken back; the first screen shows no number below 0."""
    a_store(central_url).close()
    with a_console(central_url) as app, app.state.pool.changing("anna"):
        consumers.create("erp", Cursor(1, 0), NOW_MS)
        Consumer.update(acknowledged=7).execute()
        (shown,) = overview._consumers()

    assert shown["behind"] == 0


def test_a_chain_whose_tills_are_all_parked_is_not_said_to_have_uploaded_everything(tmp_path):
    """Nobody is expected, and nobody knows."""
    url = str(tmp_path / "central.db")
    chain.furnish(url)
    with a_console(url, language="en") as app, a_browser(app, headers={"Accept-Language": "en"}) as client:
        enter(app, client, "operator")
        tills = re.findall(r'name="till" value="([^"]+)"', client.get("/tills").text)
        client.post("/tills/park", data={"till": tills, "note": "inventory", "csrf": client.csrf})
        shown = client.get("/").text

    assert "Everything is uploaded" not in shown


def test_nothing_stored_is_not_told_as_not_taken_over():
    """A consumer cannot lack what is not there: the step says that nobody knows, not 0."""
    step = till._taken_over([5], None)

    assert (step.figure, step.severity) == (None, "unknown")


def test_an_empty_text_is_empty_in_each_language():
    """A catalogue's own head stands under it."""
    assert [speaker(language)("") for language in LANGUAGES] == ["", ""]


def test_a_double_click_freezes_once(central_url):
    """The very same freeze is told again, with one row in the audit; one that was lifted can be set anew."""
    a_store(central_url).close()
    form = {"from": "2027-12-20T00:00", "until": "2028-01-08T00:00", "note": "new year"}
    with a_console(central_url) as app, a_browser(app) as client:
        enter(app, client, "administrator")
        for path in ("/rollouts/freeze", "/rollouts/freeze", "/rollouts/freezes/1/thaw", "/rollouts/freeze"):
            assert client.post(path, data={**form, "csrf": client.csrf}).status_code == 303

    rows = look(central_url, "SELECT action, who FROM audit WHERE action IN ('freeze', 'thaw') ORDER BY id")
    assert rows == [("freeze", "administrator"), ("thaw", "administrator"), ("freeze", "administrator")]
