"""Into the console and out of it: sessions, forged forms, how often a login may fail, what every answer carries."""

from __future__ import annotations

from typing import Annotated

import pytest
from databases import look
from factories import a_store
from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse
from web import PASSWORD, a_browser, a_console, csrf_of, log_in

from central.accounts import User
from central.console import guard
from central.console.guard import requires
from central.console.headers import POLICY
from central.rights import ROLES


def a_page(app):
    """Add what each page module has: something to see, and something to do."""
    router = APIRouter(include_in_schema=False)

    @router.get("/seen")
    def see(request: Request, user: Annotated[User, requires("tills.see")]):
        return PlainTextResponse(f"seen by {user.name}")

    @router.post("/done")
    def do(request: Request, user: Annotated[User, requires("tills.park")]):
        return PlainTextResponse(f"done by {user.name}")

    app.include_router(router)


@pytest.fixture
def app(central_url):
    """Return the application over an empty database, with a page of its own."""
    a_store(central_url).close()
    with a_console(central_url, a_page) as made:
        yield made


# -- In and out --------------------------------------------------------------------------------------------------------


def test_whoever_is_not_logged_in_comes_back_to_the_page_after_the_login(app):
    """With its query; a page that asks by script is told where to go, a program gets JSON."""
    with a_browser(app) as client:
        sent = client.get("/seen?behind=1")
        assert (sent.status_code, sent.headers["location"]) == (303, "/login?next_path=%2Fseen%3Fbehind%3D1")
        assert client.get("/seen", headers={"HX-Request": "true"}).headers["hx-redirect"] == "/login"

        let_in = log_in(client, "viewer", next_path="/seen?behind=1")
        assert (let_in.status_code, let_in.headers["location"]) == (303, "/seen?behind=1")
        assert client.get("/seen").text == "seen by viewer"


@pytest.mark.parametrize("elsewhere", ["https://evil.example/", "//evil.example", "/\\evil.example", "evil", "/a\nb"])
def test_a_login_leads_to_no_other_host(app, elsewhere):
    """Whatever a link to the form names."""
    with a_browser(app) as client:
        assert log_in(client, "viewer", next_path=elsewhere).headers["location"] == "/"


def test_a_wrong_password_and_a_wrong_name_get_the_same_answer(app):
    """Nobody learns which names there are."""
    with a_browser(app) as client:
        wrong = [log_in(client, "viewer", "wrong"), log_in(client, "nobody", PASSWORD)]

    assert [one.status_code for one in wrong] == [401, 401]
    assert wrong[0].text == wrong[1].text


def test_logging_out_ends_the_session_at_the_server(app):
    """The cookie that was copied before is worth nothing."""
    with a_browser(app, "viewer") as client:
        kept = dict(client.cookies)
        assert client.post("/logout", data={"csrf": client.csrf}).headers["location"] == "/login"
        client.cookies.update(kept)
        assert client.get("/seen").status_code == 303


def test_a_session_expires(app, central_url):
    """By age and by idleness, as configured; a page that only polls does not keep it alive."""
    with a_browser(app, "viewer") as client:
        look(central_url, "UPDATE console_session SET seen_at_ms = seen_at_ms - 120000")
        before = look(central_url, "SELECT seen_at_ms FROM console_session")
        assert client.get("/seen", headers={"X-Poll": "1"}).status_code == 200
        assert look(central_url, "SELECT seen_at_ms FROM console_session") == before
        assert client.get("/seen").status_code == 200
        assert look(central_url, "SELECT seen_at_ms FROM console_session") > before

        look(central_url, "UPDATE console_session SET seen_at_ms = seen_at_ms - 3600001")
        assert client.get("/seen").status_code == 303


def test_the_cookie_is_out_of_reach_of_scripts_and_over_tls_bound_to_it(central_url):
    """HttpOnly and SameSite always; behind TLS also Secure, and only from this very host."""
    a_store(central_url).close()
    with a_console(central_url) as app, a_browser(app) as client:
        plain = log_in(client, "viewer").headers["set-cookie"]
    behind = a_console(central_url, console_behind_proxy=True)
    with behind as app, a_browser(app, base_url="https://testserver") as client:
        safe = log_in(client, "viewer")

    assert all(word in plain for word in ("HttpOnly", "SameSite=lax", "tillstream="))
    assert "Secure" not in plain
    assert "__Host-tillstream=" in safe.headers["set-cookie"]
    assert "Secure" in safe.headers["set-cookie"]
    assert "max-age" in safe.headers["strict-transport-security"]


# -- Forgery and rights ------------------------------------------------------------------------------------------------


def test_a_form_that_no_page_of_the_session_made_is_refused(app):
    """Without the secret, with another session's, or sent by another site."""
    with a_browser(app, "operator") as client, a_browser(app, "administrator") as other:
        assert client.post("/done").status_code == 403
        assert client.post("/done", data={"csrf": other.csrf}).status_code == 403
        assert client.post("/done", data={"csrf": "ü"}).status_code == 403
        crossed = client.post("/done", data={"csrf": client.csrf}, headers={"Sec-Fetch-Site": "cross-site"})
        assert crossed.status_code == 403
        assert client.post("/done", data={"csrf": client.csrf}).text == "done by operator"
        assert client.post("/done", headers={"X-CSRF-Token": client.csrf}).text == "done by operator"


def test_a_login_form_from_elsewhere_is_refused(app):
    """Nobody is logged in as somebody else without noticing."""
    with a_browser(app) as client:
        forged = client.post("/login", data={"name": "viewer", "password": PASSWORD, "csrf": "guessed"})
        assert forged.status_code == 403
        client.cookies.clear()
        assert client.post("/login", data={"name": "viewer", "password": PASSWORD, "csrf": ""}).status_code == 403


@pytest.mark.parametrize(("role", "may"), [*zip(ROLES, (403, 200, 200), strict=True)])
def test_what_a_role_may_not_is_refused_by_the_server(app, role, may):
    """Whatever the page showed; the answer names the role that is needed."""
    with a_browser(app, role) as client:
        told = client.post("/done", data={"csrf": client.csrf})
        assert client.get("/seen").status_code == 200

    assert told.status_code == may
    assert may == 200 or "operator" in told.text


def test_another_role_counts_from_the_next_click_on(app, central_url):
    """No session keeps what its person lost."""
    with a_browser(app, "operator") as client:
        look(central_url, "UPDATE account SET role = 'viewer' WHERE name = 'operator'")
        assert client.post("/done", data={"csrf": client.csrf}).status_code == 403


# -- Failures ----------------------------------------------------------------------------------------------------------


def test_so_many_failures_make_a_name_wait(central_url):
    """Also with the right password; the answer says how long. Another name from another address gets in."""
    a_store(central_url).close()
    with a_console(central_url, console_login_failures_max=3) as app:
        with a_browser(app, client=("192.0.2.1", 1)) as client:
            assert [log_in(client, "viewer", "wrong").status_code for _ in range(3)] == [401] * 3
            held = log_in(client, "viewer")
            assert (held.status_code, 1 <= int(held.headers["retry-after"]) <= 61) == (429, True)
            assert log_in(client, "operator").status_code == 429
        with a_browser(app, client=("192.0.2.2", 1)) as client:
            assert log_in(client, "viewer").status_code == 429
            assert log_in(client, "operator").status_code == 303


# -- What every answer carries -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/login", "/seen", "/nowhere", "/static/console.css"])
def test_every_answer_carries_the_policy(app, path):
    """Pages, refusals and files alike."""
    with a_browser(app) as client:
        headers = client.get(path).headers

    assert headers["content-security-policy"] == POLICY
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "same-origin"


def test_what_has_not_changed_is_not_sent_again(app):
    """A page that is asked for every five seconds costs a header most of the time."""
    with a_browser(app, "viewer") as client:
        first = client.get("/seen")
        again = client.get("/seen", headers={"If-None-Match": first.headers["etag"]})
        other = client.get("/seen", headers={"If-None-Match": '"another"'})

    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    assert (other.status_code, other.text) == (200, "seen by viewer")


def test_a_request_beyond_the_limit_is_refused_before_it_is_read(central_url):
    """The answer names the key."""
    a_store(central_url).close()
    with a_console(central_url, console_request_limit_bytes=4096) as app, a_browser(app) as client:
        told = client.post("/login", content=b"x" * 5000)

    assert (told.status_code, "console_request_limit_bytes" in told.text) == (413, True)


def test_a_database_that_refuses_is_told_as_such(app, central_url):
    """503 and when to come again; never a trace."""
    with a_browser(app, "viewer") as client:
        look(central_url, "DROP TABLE console_session")
        told = client.get("/seen")

    assert (told.status_code, told.headers["retry-after"]) == (503, "5")
    assert "Traceback" not in told.text


def test_a_page_comes_in_the_language_of_its_reader(app, central_url):
    """The person's choice, the browser's, else the configured one."""
    with a_browser(app) as client:
        assert '<html lang="ru"' in client.get("/login").text
        assert '<html lang="en"' in client.get("/login", headers={"Accept-Language": "de, en;q=0.8"}).text
    with a_browser(app, "viewer") as client:
        assert client.post("/choices", data={"csrf": client.csrf, "language": "en", "theme": "dark"}).status_code == 303
        refused = client.get("/nowhere", headers={"Accept-Language": "ru"})
        assert refused.status_code == 404
        assert client.post("/choices", data={"csrf": client.csrf, "theme": "pink"}).status_code == 422
    assert look(central_url, "SELECT language, theme FROM account WHERE name = 'viewer'") == [("en", "dark")]


def test_a_person_changes_the_own_password(app):
    """With the old one only, within the limits; all sessions of the person end. The form is on a page for everybody."""
    with a_browser(app, "viewer") as client:
        assert 'action="/password"' in client.get("/settings").text
        csrf = csrf_of(app, client)
        wrong = {"csrf": csrf, "old": "wrong", "new": "another horse battery"}
        assert client.post("/password", data=wrong).status_code == 422
        assert client.post("/password", data={**wrong, "old": PASSWORD, "new": "short"}).status_code == 422
        assert client.post("/password", data={**wrong, "old": PASSWORD}).status_code == 303
        assert client.get("/seen").status_code == 303
        assert log_in(client, "viewer", "another horse battery").status_code == 303


def test_failures_are_remembered_of_so_many_and_end_by_themselves(monkeypatch):
    """Whoever makes names up fills no memory; after the pause a login may be tried again."""
    monkeypatch.setattr(guard, "ADDRESSES_MAX", 10)
    failures = guard.Failures(2, 60.0)
    for number in range(1000):
        failures.add((f"name {number}", "address a"), float(number) / 100)
    assert len(failures._failed) == 10
    assert failures.wait_s(("address a",), 10.0) == pytest.approx(60.0 - 10.0 + 9.98)
    assert failures.wait_s(("address a",), 70.0) == 0
    assert failures.wait_s(("name 1", "address b"), 10.0) == 0
