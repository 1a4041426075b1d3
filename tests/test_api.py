"""The REST API: it shows what central's commands show, changes it the same way, and every error says why."""

from __future__ import annotations

import json
from contextlib import closing

import pytest
from databases import look
from factories import NOW_MS, TILL, a_sale, a_store, a_stream, an_upload, some_sales
from web import a_browser, a_console

from central import accounts
from central.api.app import ROOM, describe
from central.batch import NewStream, Parcel
from central.database import Place
from central.models import Audit
from central.rights import SCOPES
from central.service import wall_clock_ms

DAY = "2026-03-01"


def fill(url):
    """Make a database with three tills, eight documents and one in quarantine."""
    with closing(a_store(url)) as store:
        streams = [NewStream(till, a_stream(number), ()) for number, till in enumerate((TILL, "till-2", "till-3"), 1)]
        store.open_streams(streams, {}, NOW_MS)
        bodies = [*some_sales(7), b'{"document_id": "bad"}']
        store.ingest([Parcel(TILL, an_upload(bodies))], {}, NOW_MS)
        other = an_upload([a_sale("e1", till_id="till-2", store_id="042")], stream=a_stream(2))
        store.ingest([Parcel("till-2", other)], {}, NOW_MS)
        store.database.run("UPDATE till SET store_id = '042' WHERE till_id <> 'till-3'")
        columns = "till_id, stream, first, last, reason, found_at_ms, note"
        gap = f"INSERT INTO gap ({columns}) VALUES (?, ?, 9, 9, 'lost', ?, '')"
        store.database.run(gap, (TILL, a_stream(), NOW_MS))


@pytest.fixture
def app(central_url):
    """Return the application over a database that is filled."""
    fill(central_url)
    with a_console(central_url) as made:
        yield made


@pytest.fixture
def client(app):
    """Return a program that has a token with every scope."""
    with app.state.pool.changing("root"):
        secret = accounts.issue("erp", SCOPES, None, wall_clock_ms())
    with a_browser(app) as made:
        made.headers["Authorization"] = f"Bearer {secret}"
        yield made


def get(client, path, **params):
    told = client.get(ROOM + path, params=params)
    assert told.status_code == 200, told.text
    return told.json()


def post(client, path, status=200, **given):
    told = client.post(ROOM + path, json=given)
    assert told.status_code == status, told.text
    return told.json()


def refused(told, status, code):
    """Assert that an answer is a problem, and return its detail."""
    assert (told.status_code, told.headers["content-type"]) == (status, "application/problem+json"), told.text
    problem = told.json()
    assert (problem["status"], problem["type"]) == (status, f"urn:tillstream:problem:{code}")
    return problem["detail"]


# -- Tokens ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic dTpw", "Bearer ts_guessed", "Bearer " + "x" * 300])
def test_without_a_token_nothing_is_told(app, header):
    """The answer says how to ask; a session's cookie does not count here."""
    with a_browser(app, "administrator") as client:
        told = client.get(f"{ROOM}/tills", headers={"Authorization": header})

    assert "Bearer" in told.headers["www-authenticate"]
    assert told.status_code == 401


def test_a_token_for_something_else_is_told_which_scope_is_needed(app):
    """Reading figures is not reading receipts."""
    with app.state.pool.changing("root"):
        secret = accounts.issue("wall", ["read"], None, wall_clock_ms())
    with a_browser(app) as client:
        headers = {"Authorization": f"Bearer {secret}"}
        assert client.get(f"{ROOM}/tills", headers=headers).status_code == 200
        assert "needs the scope export" in refused(
            client.get(f"{ROOM}/documents", headers=headers), 403, "scope_missing"
        )


def test_it_is_noted_when_a_token_was_last_used(client, app):
    """So that one that nobody uses is found; once a minute is often enough."""
    get(client, "/tills")
    with app.state.pool.reading():
        (row,) = accounts.tokens()
    assert row["used_at_ms"] is not None


# -- Looking -----------------------------------------------------------------------------------------------------------


def test_tills_come_by_id_in_pages_with_a_reason_each(client):
    """The page's end names where to go on; unknown is null."""
    first = get(client, "/tills", limit=2)
    rest = get(client, "/tills", after=first["next"])

    assert [one["till_id"] for one in first["tills"]] == [TILL, "till-2"]
    assert ([one["till_id"] for one in rest["tills"]], rest["next"]) == (["till-3"], None)
    assert first["tills"][0]["through"] == 8
    assert first["tills"][0]["reason"]["code"]
    assert first["tills"][0]["verified_at_ms"] is None
    assert get(client, "/tills/till-2")["store_id"] == "042"
    assert [one["till_id"] for one in get(client, "/tills", store="")["tills"]] == ["till-3"]
    assert get(client, "/tills", behind=True)["tills"] == []


def test_stores_and_status_sum_up(client):
    """The figures of the first screen."""
    assert [(one["store_id"], one["tills"]) for one in get(client, "/stores")["stores"]] == [("", 1), ("042", 2)]
    told = get(client, "/status")
    assert (told["tills"], told["quarantined"], told["open_gaps"], told["newest_document"]) == (3, 1, 1, 8)
    assert told["verified_backup_at_ms"] is None


def test_a_day_is_listed_as_noted_and_explained_as_it_is(client, central_url):
    """What the worker noted, fast; and what is stored now, with what is missing."""
    look(central_url, f"INSERT INTO day (store_id, business_day, state, since_ms) VALUES ('042', '{DAY}', 'open', 5)")
    listed = get(client, "/days", **{"from": DAY, "to": DAY})
    explained = get(client, f"/days/{DAY}", store="042")

    assert [(one["store_id"], one["state"]) for one in listed["days"]] == [("042", "open")]
    assert get(client, "/days", state="complete") == {"days": [], "more": False}
    assert {one["till_id"] for one in explained["tills"]} == {TILL, "till-2"}
    assert explained["documents"] == 8
    detail = refused(client.get(f"{ROOM}/days/{DAY}", params={"store": "none"}), 404, "not_found")
    assert "nothing is known" in detail


def test_tasks_gaps_quarantine_and_audit_are_listed(client):
    """As the commands list them."""
    assert get(client, "/tasks") == {"tasks": []}
    assert [one["first"] for one in get(client, "/gaps")["gaps"]] == [9]
    (one,) = get(client, "/quarantine", till=TILL)["quarantine"]
    assert get(client, "/quarantine", code="conflict") == {"quarantine": []}
    told = client.get(f"{ROOM}/quarantine/{one['id']}/bytes")
    assert (told.content, told.headers["content-type"]) == (b'{"document_id": "bad"}', "application/octet-stream")
    assert get(client, "/audit")["audit"][0]["action"] == "issue token"


def test_what_has_not_changed_is_not_sent_again(client):
    """ETag and 304, as on the pages."""
    first = client.get(f"{ROOM}/gaps")
    again = client.get(f"{ROOM}/gaps", headers={"If-None-Match": first.headers["etag"]})

    assert (again.status_code, again.content) == (304, b"")


# -- Documents ---------------------------------------------------------------------------------------------------------


def test_documents_are_read_in_an_order_that_skips_none(client):
    """Page by page, each with its exact text."""
    seen, cursor = [], "0"
    while (page := get(client, "/documents", after=cursor, limit=3))["documents"]:
        seen += [one["body"] for one in page["documents"]]
        cursor = page["cursor"]
    assert [text.encode() for text in seen[:7]] == some_sales(7)
    assert len(seen) == 8
    assert cursor == "1-8"


def test_a_document_is_found_and_returned_to_the_byte(client):
    """By its day, or by the till and the id that the POS gave it."""
    (found,) = get(client, "/documents/search", till=TILL, document_id="d3")["documents"]
    told = client.get(f"{ROOM}/documents/{found['id']}/bytes")

    assert told.content == a_sale("d3")
    assert get(client, f"/documents/{found['id']}") == found
    assert len(get(client, "/documents/search", day=DAY, store="042")["documents"]) == 1
    assert "name day" in refused(client.get(f"{ROOM}/documents/search"), 422, "invalid")
    refused(client.get(f"{ROOM}/documents/99"), 404, "not_found")


def test_bytes_that_retention_took_are_said_to_be_gone(client, central_url):
    """Not that there is no such document."""
    look(central_url, "UPDATE document SET body_digest = body, body = '{}' WHERE id = 3")

    refused(client.get(f"{ROOM}/documents/3/bytes"), 410, "forgotten")
    assert get(client, "/documents", after="1-2", limit=1)["documents"][0]["body"] is None


# -- Consumers ---------------------------------------------------------------------------------------------------------


def test_a_consumer_reads_acknowledges_and_rewinds(client):
    """As docs/api.md shows: page, keep, acknowledge; killed in between, the page comes once more."""
    assert post(client, "/consumers", 201, name="erp", note="1C")["behind"] == 8
    page = get(client, "/consumers/erp/documents", limit=5)
    assert get(client, "/consumers/erp/documents", limit=5) == page
    done = {"after": page["after"], "cursor": page["cursor"]}
    assert post(client, "/consumers/erp/acknowledge", **done) == {"changed": True}
    assert post(client, "/consumers/erp/acknowledge", **done) == {"changed": False}
    assert get(client, "/consumers/erp")["behind"] == 3
    assert len(get(client, "/consumers/erp/documents")["documents"]) == 3
    assert post(client, "/consumers/erp/rewind", cursor="0", note="lost")["behind"] == 8
    assert [one["name"] for one in get(client, "/consumers")["consumers"]] == ["erp"]
    assert client.delete(f"{ROOM}/consumers/erp").status_code == 204
    refused(client.get(f"{ROOM}/consumers/erp"), 404, "not_found")


def test_after_a_restore_a_consumer_gets_a_problem_of_its_own(client, central_url):
    """The code tells a program what happened; how far behind it is nobody knows."""
    post(client, "/consumers", 201, name="erp")
    look(central_url, "UPDATE central SET incarnation = 2")

    assert "rewind" not in refused(client.get(f"{ROOM}/consumers/erp/documents"), 409, "other_incarnation")
    assert get(client, "/consumers/erp")["behind"] is None
    assert get(client, "/consumers/erp")["must_rewind"] is True
    assert post(client, "/consumers/erp/rewind", cursor="0")["must_rewind"] is False


@pytest.mark.parametrize(
    ("path", "given", "status", "code"),
    [
        ("/consumers/erp/acknowledge", {"cursor": "1-99"}, 409, "cursor_unknown"),
        ("/consumers/erp/acknowledge", {"cursor": "1-2", "after": "1-1"}, 409, "moved"),
        ("/consumers/erp/acknowledge", {"cursor": "1-2", "after": "x"}, 422, "invalid"),
        ("/consumers/erp/acknowledge", {"cursor": "0"}, 422, "invalid"),
        ("/consumers/erp/acknowledge", {"cursor": "x"}, 422, "invalid"),
        ("/consumers/nobody/acknowledge", {"cursor": "1-1"}, 404, "not_found"),
        ("/consumers/erp/rewind", {"cursor": "1-5"}, 409, "cursor_unknown"),
        ("/consumers", {"name": "erp"}, 409, "exists"),
        ("/consumers", {"name": "a b"}, 422, "invalid"),
        ("/tills/nobody/park", {"note": "why"}, 404, "not_found"),
        ("/tills/till-1/park", {"note": ""}, 422, "invalid"),
        ("/tills/till-1/park", {"note": "x" * 501}, 422, "invalid"),
        ("/tills/till-1/park", {"note": "a\0b"}, 422, "invalid"),
        ("/tills/till-1/park", {"note": "why", "more": 1}, 422, "invalid"),
        ("/requests", {}, 422, "invalid"),
        ("/requests", {"till": "nobody"}, 409, "nothing_to_ask"),
        ("/requests", {"till": "till-1", "first": 1}, 422, "invalid"),
        ("/requests", {"till": "till-1", "first": 5, "last": 99}, 409, "nothing_to_ask"),
        ("/requests", {"store": "042", "shift": 1}, 422, "invalid"),
        ("/requests", {"day": "2026-02-30"}, 422, "invalid"),
        ("/tills/nobody/tags", {"tag": "pilot"}, 404, "not_found"),
        ("/gaps/99/close", {"note": "why"}, 404, "not_found"),
        ("/quarantine/retry", {"numbers": []}, 422, "invalid"),
        ("/quarantine/retry", {"numbers": [99]}, 404, "not_found"),
        ("/quarantine/discard", {"numbers": [1]}, 422, "invalid"),
        ("/nowhere", {}, 404, "not_found"),
        ("/tills", {}, 405, "method_not_allowed"),
    ],
)
def test_what_cannot_be_done_is_a_problem_that_says_why(client, path, given, status, code):
    """Always application/problem+json, and nothing is changed by it."""
    post(client, "/consumers", 201, name="erp")
    before = get(client, "/audit")["audit"]

    refused(client.post(ROOM + path, json=given), status, code)
    assert get(client, "/audit")["audit"] == before


def test_a_body_beyond_the_limit_or_that_is_no_json_is_a_problem_too(client):
    """With and without a length that is said beforehand."""
    long = b'{"note": "' + b"x" * 2**20 + b'"}'
    refused(client.post(f"{ROOM}/tills/{TILL}/park", content=long), 413, "too_long")
    refused(client.post(f"{ROOM}/tills/{TILL}/park", content=iter([long])), 413, "too_long")
    refused(client.post(f"{ROOM}/tills/{TILL}/park", content=b"{"), 422, "invalid")


def test_a_database_that_is_away_is_a_problem_too(client, central_url):
    """503, and when to come again."""
    look(central_url, "ALTER TABLE gap RENAME TO gone")
    told = client.get(f"{ROOM}/gaps")

    refused(told, 503, "database_away")
    assert told.headers["retry-after"] == "5"


# -- Deciding ----------------------------------------------------------------------------------------------------------


def test_decisions_go_the_way_of_the_commands_and_the_audit_names_the_token(client, app):
    """Deciding the same again changes nothing."""
    assert post(client, f"/tills/{TILL}/park", note="in repair") == {"changed": True}
    assert post(client, f"/tills/{TILL}/park", note="in repair") == {"changed": False}
    assert get(client, f"/tills/{TILL}")["is_parked"] is True
    assert post(client, f"/tills/{TILL}/unpark") == {"changed": True}
    assert post(client, f"/tills/{TILL}/approve") == {"changed": False}
    assert post(client, f"/tills/{TILL}/tags", tag="pilot") == {"changed": True}
    assert post(client, f"/tills/{TILL}/tags", tag="pilot", remove=True) == {"changed": True}
    assert post(client, f"/tills/{TILL}/tags", tag="pilot", remove=True) == {"changed": False}
    assert post(client, "/gaps/1/close", note="burnt") == {"changed": True}
    assert get(client, "/gaps") == {"gaps": []}
    with app.state.pool.reading():
        rows = [(one.who, one.action) for one in Audit.select().order_by(Audit.id)]
    done = ["park", "unpark", "tag", "untag", "close gap"]
    assert rows[-5:] == [("token erp", action) for action in done]


def test_tills_are_asked_as_by_the_command_and_twice_is_once(client):
    """A till for what is new, a day of a store once more."""
    first = post(client, "/requests", 202, till=TILL)["task_ids"]
    again = post(client, "/requests", 202, till=TILL)["task_ids"]
    day = post(client, "/requests", 202, store="042", day=DAY, note="partial")["task_ids"]

    assert first == again
    assert len(day) == 2
    assert {one["task_id"] for one in get(client, "/tasks", is_open=True)["tasks"]} == {*first, *day}


def test_quarantine_is_judged_again_and_discarded(client):
    """What is still refused stays; what was discarded waits for nobody."""
    (one,) = get(client, "/quarantine")["quarantine"]
    (tried,) = post(client, "/quarantine/retry", numbers=[one["id"]])["documents"]
    assert (tried["verdict"], tried["code"]) == ("refused", one["code"])
    assert post(client, "/quarantine/discard", numbers=[one["id"]], note="the POS's log") == {"discarded": [one["id"]]}
    assert get(client, "/quarantine") == {"quarantine": []}
    assert len(get(client, "/quarantine", everything=True)["quarantine"]) == 1


# -- The description ---------------------------------------------------------------------------------------------------


def test_the_description_is_open_and_names_every_error(app):
    """OpenAPI 3.1; each operation says that it needs a token, and that errors are problems."""
    with a_browser(app) as client:
        told = client.get(f"{ROOM}/openapi.json").json()

    assert told == json.loads(json.dumps(describe()))
    assert told["openapi"].startswith("3.1")
    for methods in told["paths"].values():
        for operation in methods.values():
            assert operation["security"] == [{"token": []}]
            assert operation["description"]
            for status in ("401", "403", "503"):
                assert "application/problem+json" in operation["responses"][status]["content"]


def test_whoever_waits_for_a_transaction_takes_no_thread_from_the_pages(postgres):
    """A worker's transaction that lasts holds up those who read on, half of the threads at most; the rest goes on."""
    url = postgres.new_database()
    fill(url)
    with a_console(url, console_threads=2, consumer_wait_s=0.3) as app:
        with app.state.pool.changing("root"):
            secret = accounts.issue("erp", SCOPES, None, wall_clock_ms())
        with (
            a_browser(app, headers={"Authorization": f"Bearer {secret}"}) as client,
            closing(Place(url).open()) as held,
        ):
            with held.writing():
                assert get(client, "/documents")["documents"] == []
                assert get(client, "/status")["newest_document"] == 8
                assert app.state.reading_on.acquire(blocking=False)
                told = client.get(f"{ROOM}/documents")
                app.state.reading_on.release()
            assert (refused(told, 503, "busy"), told.headers["retry-after"]) == (
                "too many read at once; come again",
                "5",
            )
            assert len(get(client, "/documents")["documents"]) == 8
    postgres.drop(url)
