"""What monitoring asks the console: by token or session for figures, by nobody in particular for health."""

from __future__ import annotations

import contextlib

import pytest
from databases import look
from factories import NOW_MS, a_store
from figures_told import names, value
from test_fleet_metrics import shows, stores
from web import a_browser, a_console

from central import accounts
from central.models import AccessToken
from central.service import wall_clock_ms


@pytest.fixture
def url(central_url):
    """Return a database with a till that sold something."""
    store = a_store(central_url)
    shows(store, "a")
    stores(store, "a", 3)
    store.close()
    return central_url


@pytest.fixture
def app(url):
    """Return the application over it."""
    with a_console(url) as made:
        yield made


def issued(app, name, scopes, expires_at_ms=None):
    with app.state.pool.changing("a test"):
        secret = accounts.issue(name, scopes, expires_at_ms, wall_clock_ms())
    return {"Authorization": f"Bearer {secret}"}


def test_a_token_to_read_gets_the_figures(app):
    """As Prometheus asks, with ``credentials_file``: its text format, and the figures of the database."""
    with a_browser(app) as client:
        answered = client.get("/metrics", headers=issued(app, "prometheus", ["read"]))
    assert answered.status_code == 200
    assert answered.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert value(answered.content, "last_receipt_timestamp_seconds") == NOW_MS / 1000
    assert "tillstream_till_up" not in names(answered.content)


def test_who_may_see_pages_may_see_figures(app):
    """A viewer's session is enough; whoever is not logged in is sent to the login."""
    with a_browser(app, "viewer") as client:
        assert client.get("/metrics").status_code == 200
    with a_browser(app) as client:
        assert client.get("/metrics").status_code == 303


@pytest.mark.parametrize("scopes", [["operate"], ["export"], ["admin"]])
def test_a_token_for_something_else_gets_nothing(app, scopes):
    """403 with what is needed: a program must not be led to a login page."""
    with a_browser(app) as client:
        answered = client.get("/metrics", headers=issued(app, "other", scopes))
    assert (answered.status_code, answered.json()["detail"][:34]) == (403, "metrics.see needs the scope read; ")
    assert b"tillstream_tills" not in answered.content


def test_a_token_that_is_none_is_over_or_was_taken_back_gets_nothing(app):
    """Also none behind the word Bearer."""
    expired, revoked = issued(app, "expired", ["read"], wall_clock_ms() + 60_000), issued(app, "revoked", ["read"])
    with app.state.pool.changing("a test"):
        AccessToken.update(expires_at_ms=wall_clock_ms()).where(AccessToken.name == "expired").execute()
        accounts.revoke("revoked", wall_clock_ms())
    with a_browser(app) as client:
        for header in (expired, revoked, {"Authorization": "Bearer nonsense"}, {"Authorization": "Bearer"}):
            answered = client.get("/metrics", headers=header)
            assert (answered.status_code, answered.headers["www-authenticate"]) == (401, 'Bearer realm="tillstream"')


def test_series_of_each_till_come_only_where_that_is_configured(url):
    """``metrics_per_till = true`` is for whoever has room for them."""
    with a_console(url, metrics_per_till=True) as app, a_browser(app) as client:
        answered = client.get("/metrics", headers=issued(app, "prometheus", ["read"]))
    assert value(answered.content, "till_up", store="s-1", till="a") == 1


def test_health_is_told_to_everybody(app):
    """200 each while all is well; nobody has to log in for it."""
    with a_browser(app) as client:
        assert client.get("/healthz").json() == {"status": "ok", "checks": {"console": "ok"}}
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["checks"]) == (200, {"database": "ok", "schema": "ok"})


def test_a_schema_of_another_version_is_named(app, url):
    """503 and which part; the text for everybody holds no address."""
    with a_browser(app) as client:
        look(url, "DELETE FROM migration WHERE number = (SELECT max(number) FROM migration)")
        ready = client.get("/readyz")
        assert client.get("/healthz").status_code == 200
    checks = ready.json()["checks"]
    assert (ready.status_code, checks["database"]) == (503, "ok")
    assert checks["schema"].startswith("is not what this version reads")
    assert str(url) not in ready.text


def test_a_database_that_is_away_is_named(postgres):
    """503 with the part, and 200 again once it is back."""
    url = postgres.new_database()
    a_store(url).close()
    with a_console(url) as app, a_browser(app) as client, contextlib.ExitStack() as back:
        assert client.get("/readyz").status_code == 200
        ((name,),) = look(url, "SELECT current_database()")
        admin = postgres.empty_database()
        look(admin, f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        back.callback(look, admin, f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
        look(admin, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        ready = client.get("/readyz")
        assert ready.status_code == 503
        assert ready.json()["checks"]["database"].startswith("does not answer")
        assert client.get("/healthz").status_code == 200
        back.close()
        assert client.get("/readyz").status_code == 200
