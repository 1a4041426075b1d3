"""The REST API against its own description: whatever comes, no fault and no answer that it does not name."""

from __future__ import annotations

import re

import pytest
import schemathesis
from factories import TILL
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.python import asgi
from schemathesis.specs.openapi.checks import positive_data_acceptance
from test_api import DAY, fill
from web import a_console

from central import accounts, consumers, requests
from central.api.app import ROOM, describe
from central.consumer import Cursor
from central.requests import Scope
from central.rights import SCOPES
from central.service import wall_clock_ms

EXAMPLES = 8
"""Of each operation, each kind and each database so many; `--hypothesis-profile=search` tries more."""

KNOWN = {"till_id": TILL, "number": 1, "name": "erp", "business_day": DAY}
"""What is there: without it nearly every path would name what is not."""

NARROWER = ("/requests", "/documents/search", "/days", "/days/{business_day}")
"""Which take less than a schema can say: dates that a calendar has, fields that need or exclude each other."""

OPERATIONS = [
    (method.upper(), path)
    for path, methods in describe()["paths"].items()
    for method in methods
    if method != "parameters"
]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def schema(request, tmp_path_factory):
    """Return the description, read from the application over a database that is filled, and what every call sends."""
    server = request.getfixturevalue("postgres") if request.param == "postgresql" else None
    url = server.new_database() if server else str(tmp_path_factory.mktemp("fuzz") / "central.db")
    fill(url)
    with a_console(url) as app:
        with app.state.pool.changing("root"):
            secret = accounts.issue("fuzz", SCOPES, None, wall_clock_ms())
            consumers.create("erp", Cursor(1, 0), wall_clock_ms())
            requests.leave(Scope(TILL), requests.plan(Scope(TILL)), wall_clock_ms(), "")
        read = schemathesis.openapi.from_asgi(f"{ROOM}/openapi.json", app)
        with asgi.get_client(app) as session:
            yield read, {"session": session, "headers": {"Authorization": f"Bearer {secret}"}}
    if server:
        server.drop(url)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["fits", "does not fit"])
@pytest.mark.parametrize(("method", "path"), OPERATIONS, ids=[f"{method} {path}" for method, path in OPERATIONS])
def test_every_answer_is_one_that_the_description_names(schema, method, path, mode):
    """What fits is answered as described, what does not is refused as a problem; never with a fault."""
    read, sent = schema
    operation = read[path][method]
    names = re.findall(r"{(\w+)}", path)
    known = {"path_parameters": {name: KNOWN[name] for name in names}} if names else {}
    strategies = [operation.as_strategy(mode)] if mode is GenerationMode.NEGATIVE else []
    if mode is GenerationMode.POSITIVE:
        strategies = [operation.as_strategy(mode, **fixed) for fixed in ([{}, known] if known else [{}])]
    for strategy in strategies:
        _try(strategy, sent, [positive_data_acceptance] if path in NARROWER else [])


def _try(strategy, sent, left_out):
    @settings(max_examples=EXAMPLES, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(strategy)
    def tried(case):
        case.call_and_validate(**sent, excluded_checks=left_out)

    tried()
