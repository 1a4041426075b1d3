"""A console for tests: the real application over a real database, and somebody who is logged in."""

from __future__ import annotations

import contextlib
import re

from fastapi.testclient import TestClient

from central import accounts
from central.config import CentralConfig
from central.console.app import make_app
from central.console.guard import session_cookie
from central.database import Place
from central.pool import Pool
from central.rights import ROLES
from central.service import wall_clock_ms

PASSWORD = "correct horse battery"
_kept = []


def password_hash():
    """Return what is kept of PASSWORD; made once, for it takes long."""
    if not _kept:
        _kept.append(accounts.hash_password(PASSWORD, 12))
    return _kept[0]


@contextlib.contextmanager
def a_console(url, extend=lambda _app: None, **config):
    """Yield the application over a database that has one user of each role, named like the role."""
    config = CentralConfig(database=str(url), **config)
    with Pool(Place(str(url))) as pool:
        with pool.changing("a test"):
            for role in ROLES:
                if role not in [one["name"] for one in accounts.listed()]:
                    accounts.add(role, role, password_hash(), wall_clock_ms())
        app = make_app(config, pool)
        extend(app)
        yield app


@contextlib.contextmanager
def a_browser(app, role=None, **options):
    """Yield a client that follows no redirects; with a role, logged in as the user of that name."""
    options = {"follow_redirects": False, "raise_server_exceptions": False, **options}
    with TestClient(app, **options) as client:
        if role:
            assert log_in(client, role).status_code == 303
            client.csrf = csrf_of(app, client)
        yield client


def log_in(client, name, password=PASSWORD, next_path="", **headers):
    """Send the login form as a browser does: with what the page that showed it had in it."""
    shown = client.get("/login")
    found = re.search(r'name="csrf" value="([^"]+)"', shown.text)
    form = {"name": name, "password": password, "next_path": next_path, "csrf": found[1] if found else ""}
    return client.post("/login", data=form, headers=headers)


def csrf_of(app, client):
    """Return what the forms of this client's session carry."""
    (cookie,) = (value for name, value in client.cookies.items() if name.endswith("tillstream"))
    with app.state.pool.looking():
        return accounts.user_of(cookie, wall_clock_ms(), 10**12, 10**12).csrf


def enter(app, client, name):
    """Put the client into a session of a user, without the form: a password takes long to check."""
    pool, at_ms = app.state.pool, wall_clock_ms()
    with pool.noting():
        secret = accounts.open_session(name, "192.0.2.1", at_ms, 10**12)
    client.cookies.set(session_cookie(app.state.config), secret)
    client.csrf = csrf_of(app, client)
