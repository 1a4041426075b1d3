"""Every route of the console and of the API, tried by every role and every scope: the table is all there is."""

from __future__ import annotations

from contextlib import closing

import pytest
from factories import NOW_MS, TILL, a_store, a_stream, an_upload, some_sales
from fastapi.routing import APIRoute
from starlette.routing import Mount, Route
from web import a_browser, a_console, enter

from central import accounts
from central.api.app import ROOM
from central.api.bearer import TokenRequirement
from central.batch import NewStream, Parcel
from central.console.guard import Requirement
from central.rights import ACTIONS, OPEN, ROLES, SCOPES, covers, may
from central.service import wall_clock_ms

SAMPLES = {
    "till_id": TILL,
    "number": "1",
    "name": "erp",
    "business_day": "2026-03-01",
    "day": "2026-03-01",
    "store": "042",
}
"""What stands in a path for a parameter of this name; for any other one ``1``."""


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    """Return the application over a database with one till and its documents; tokens are named by their scope."""
    url = str(tmp_path_factory.mktemp("rights") / "central.db")
    with closing(a_store(url)) as store:
        store.open_streams([NewStream(TILL, a_stream(), ())], {}, NOW_MS)
        store.ingest([Parcel(TILL, an_upload([*some_sales(3), b"not json"]))], {}, NOW_MS)
    with a_console(url) as made:
        yield made


def needed(dependant):
    """Return what a route's dependencies require, of persons or of tokens."""
    own = [dependant.call] if isinstance(dependant.call, Requirement | TokenRequirement) else []
    return own + [one for below in dependant.dependencies for one in needed(below)]


def routes(app, room=""):
    for route in app.routes:
        if isinstance(route, Mount):
            yield from routes(route.app, room + route.path)
        elif included := getattr(route, "original_router", None):  # FastAPI's word for a router that was included.
            yield from routes(included, room)
        elif isinstance(route, APIRoute):
            for method in sorted(route.methods):
                yield method, room + route.path, needed(route.dependant)
        elif isinstance(route, Route):
            yield "GET", room + route.path, []
        else:
            raise TypeError(f"a route of an unknown kind: {route!r}")


def a_path(path):
    parts = [part[1:-1].split(":")[0] if part.startswith("{") else None for part in path.split("/")]
    texts = path.split("/")
    filled = [SAMPLES.get(name, "1") if name else text for name, text in zip(parts, texts, strict=True)]
    return "/".join(filled)


def test_every_route_says_what_it_needs_or_is_known_to_be_open(app):
    """A page that forgets it is found here, not by who finds it open."""
    silent = [path for _, path, requirements in routes(app) if not requirements]

    assert [] == [path for path in silent if path not in OPEN and not path.startswith("/static/")]
    for _, path, requirements in routes(app):
        assert len(requirements) <= 1, path
        kind = TokenRequirement if path.startswith(ROOM) else Requirement
        assert all(isinstance(one, kind) for one in requirements), path


def test_the_table_names_what_there_is_and_nothing_else(app):
    """Every action is one of a page's or of the API's: a right for nothing would be a promise that nobody keeps."""
    used = {one.action for _, _, requirements in routes(app) for one in requirements}

    assert used == set(ACTIONS)


@pytest.mark.parametrize("scope", SCOPES)
def test_a_token_of_one_scope_gets_what_the_table_says_and_nothing_else(app, scope):
    """Each route of the API; without a token nothing."""
    with app.state.pool.changing("root"):
        secret = accounts.issue(scope, [scope], None, wall_clock_ms())
    tried = 0
    with a_browser(app) as client:
        for method, path, requirements in routes(app):
            if not path.startswith(ROOM) or not requirements:
                continue
            call = {"method": method, "url": a_path(path), "json": {} if method == "POST" else None}
            assert client.request(**call).status_code == 401, path
            told = client.request(**call, headers={"Authorization": f"Bearer {secret}"})
            is_covered = covers([scope], requirements[0].action)
            assert (told.status_code not in (401, 403)) == is_covered, (method, path, told.status_code)
            assert told.status_code < 500, (method, path, told.text)
            tried += 1
    assert tried > 25


@pytest.mark.parametrize("role", ROLES)
def test_a_role_gets_what_the_table_says_and_nothing_else(app, role):
    """Each page and each form; without a login nothing, and no form without the session's secret."""
    for method, path, requirements in routes(app):
        if path.startswith(ROOM) or not requirements:
            continue
        with a_browser(app) as client:
            assert client.request(method, a_path(path)).status_code in (303, 401), path
            enter(app, client, role)
            if method != "GET":
                assert client.request(method, a_path(path)).status_code == 403, path
            told = client.request(method, a_path(path), headers={"X-CSRF-Token": client.csrf})
        assert (told.status_code not in (401, 403)) == may(role, requirements[0].action), (
            method,
            path,
            told.status_code,
        )
        assert told.status_code < 500, (method, path, told.text)
