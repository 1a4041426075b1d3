"""The pages that look: what each shows, to whom, in how many statements, and what it says when there is nothing."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from urllib.parse import quote

import peewee as pw
import pytest
import retail_chain as chain
from databases import look
from factories import a_store
from web import a_browser, a_console

from central import completeness
from central.completeness import Missing
from central.console import days, notes, overview, receipts
from central.console.words import speaker
from central.database import Place

LISTS = ("/tills", "/stores", "/days", "/receipts")
PAGES = ("/", *LISTS)
OWN = ("console_session", "account", "migration")
"""Tables that are read to know who asks, or whether the schema is the one that is known."""


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def url(request, tmp_path_factory):
    """Return a database with a small chain of shops: something of everything."""
    if request.param == "sqlite":
        made = str(tmp_path_factory.mktemp("shops") / "central.db")
        chain.furnish(made)
        yield made
        return
    server = request.getfixturevalue("postgres")
    made = server.new_database()
    chain.furnish(made)
    yield made
    server.drop(made)


@pytest.fixture(scope="module")
def app(url):
    """Return the console over the shops."""
    with a_console(url) as made:
        yield made


@pytest.fixture(scope="module")
def viewer(app):
    """Return a client that is logged in as somebody who may only look."""
    with a_browser(app, "viewer") as client:
        yield client


@pytest.fixture(scope="module")
def operator(app):
    """Return a client that is logged in as somebody who may ask and decide."""
    with a_browser(app, "operator") as client:
        yield client


@pytest.fixture
def fresh(tmp_path):
    """Return the console over shops of its own, for what changes them, and where they are."""
    url = str(tmp_path / "central.db")
    chain.furnish(url)
    with a_console(url, language="en") as app, a_browser(app, "operator", headers={"Accept-Language": "en"}) as client:
        yield client, url


@pytest.fixture
def statements(monkeypatch):
    """Return the list in which every statement of every page is noted."""
    noted = []
    execute = pw.Database.execute_sql

    def note(database, sql, *arguments, **options):
        if not any(table in sql for table in OWN):
            noted.append(sql)
        return execute(database, sql, *arguments, **options)

    monkeypatch.setattr(pw.Database, "execute_sql", note)
    return noted


# -- All of them -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PAGES)
def test_a_page_that_has_not_changed_is_not_sent_again(viewer, path):
    """Whoever names what he has gets 304 and no body."""
    first = viewer.get(path)
    again = viewer.get(path, headers={"If-None-Match": first.headers["etag"], "X-Poll": "1"})

    assert (200, 304, b"") == (first.status_code, again.status_code, again.content)


@pytest.mark.parametrize("path", LISTS)
def test_a_list_takes_three_statements_at_most(app, viewer, statements, path):
    """However many rows it has; the tills are read anew for this one, too."""
    for shown in (path, f"{path}.json"):
        app.state.fleet.changed()
        statements.clear()
        assert 200 == viewer.get(shown).status_code
        read = [one for one in statements if one.lstrip().upper().startswith(("SELECT", "WITH"))]
        assert 1 <= len(read) <= 3, read


@pytest.mark.parametrize("path", LISTS)
def test_the_files_of_a_list_have_the_rows_of_the_page(viewer, path):
    """CSV and JSON agree on the rows, and each row of a page is among them."""
    rows = viewer.get(f"{path}.json").json()
    table = list(csv.DictReader(io.StringIO(viewer.get(f"{path}.csv").text)))

    assert len(rows) == len(table) > 0
    assert list(rows[0]) == list(table[0])
    assert all(str(row["store_id"]) in viewer.get(path).text for row in rows)


@pytest.mark.parametrize("path", PAGES)
def test_a_page_needs_a_login(app, path):
    """Without one a person is led to it; a program that asks for a file is told so."""
    with a_browser(app) as client:
        assert "/login" in client.get(path).headers["location"]


@pytest.mark.parametrize("path", LISTS)
def test_an_empty_list_says_the_next_step(tmp_path, path):
    """Nothing is shown as nothing, with what to do about it; as a file it has no rows."""
    a_store(tmp_path / "central.db").close()
    with a_console(tmp_path / "central.db") as app, a_browser(app, "viewer") as client:
        shown, rows = client.get(path), client.get(f"{path}.json")

        assert (200, []) == (shown.status_code, rows.json())
        nothing = shown.text.partition('class="nothing"')[2]
        assert 2 <= nothing.partition("</div>")[0].count("<p>")
        assert 200 == client.get("/").status_code


def test_the_first_screen_of_a_chain_without_tills_says_three_steps(tmp_path):
    """Each step is a command to type."""
    a_store(tmp_path / "central.db").close()
    with a_console(tmp_path / "central.db") as app, a_browser(app, "viewer") as client:
        shown = client.get("/").text

    assert all(command in shown for command in overview.FIRST_STEPS)


@pytest.mark.parametrize("path", PAGES)
def test_a_page_of_a_large_chain_is_60_kb_at_most(tmp_path, path):
    """With a full page of rows, each with a reason, in Russian."""
    url = str(tmp_path / "central.db")
    chain.furnish(url)
    _many_tills(url, 700)
    with a_console(url, language="ru") as app, a_browser(app, "administrator") as client:
        shown = client.get(path, headers={"Accept-Language": "ru"})

    assert 200 == shown.status_code
    assert len(shown.content) <= 60 * 1024


def _many_tills(url, how_many):
    numbers = f"WITH RECURSIVE s(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM s WHERE n < {how_many - 1})"
    store = "'moscow-' || (1000 + n / 2)"
    look(
        url,
        "INSERT INTO till (till_id, store_id, is_approved, first_seen_ms, is_online, connection, presence_at_ms,"
        f" presence) {numbers} SELECT 'moscow-' || (10000 + n), {store}, true, 1772600000000, false, 1, 1772600000000,"
        " '{}' FROM s",
    )
    look(
        url,
        f"INSERT INTO day (store_id, business_day, state, since_ms) {numbers} SELECT 'moscow-' || (1000 + n / 14),"
        " '2126-03-' || (10 + n % 14), 'partial', 1772600000000 FROM s",
    )


# -- Tills, stores, a till ---------------------------------------------------------------------------------------------


def test_tills_stand_worst_first_and_what_nobody_knows_is_no_zero(viewer):
    """Who owes documents and needs a person leads; a till that only showed itself owes an unknown number."""
    rows = {row["till_id"]: row for row in viewer.get("/tills.json").json()}

    assert chain.BEHIND == next(iter(rows))
    assert (12, "link_down") == (rows[chain.BEHIND]["waiting"], rows[chain.BEHIND]["reason"])
    assert rows[chain.SILENT]["waiting"] is None
    assert 0 == rows[chain.VERIFIED]["waiting"]
    assert chain.PARKED == list(rows)[-1] or "parked" == rows[chain.PARKED]["reason"]


@pytest.mark.parametrize(
    ("query", "tills"),
    [
        ("state=act", {chain.BEHIND, chain.QUARANTINED, chain.WITH_GAP}),
        ("state=parked", {chain.PARKED}),
        ("reason=link_down", {chain.BEHIND}),
        ("store=007", {chain.QUARANTINED, chain.SILENT, chain.WITH_GAP}),
        ("till=042", {chain.VERIFIED, chain.BEHIND, chain.PARKED}),
        ("link=off", {chain.BEHIND, chain.PARKED}),
        ("version=9.9", set()),
    ],
)
def test_a_filter_narrows_the_tills(viewer, query, tills):
    """By state, reason, store, name, link or version."""
    assert tills == {row["till_id"] for row in viewer.get(f"/tills.json?{query}").json()}


def test_a_store_is_as_its_worst_till(viewer):
    """What is owed is added up; parked tills are none that are not connected."""
    rows = {row["store_id"]: row for row in viewer.get("/stores.json").json()}

    assert (3, 1, 1, 1, 12) == tuple(rows["042"][key] for key in ("tills", "troubled", "offline", "parked", "waiting"))


@pytest.mark.parametrize("till", chain.TILLS)
def test_each_part_of_each_till_can_be_seen(operator, till):
    """Whatever state the till is in; a part that does not exist is the first one."""
    parts = ("now", "receipts", "days", "tasks", "connection", "health", "audit", "nonsense")

    assert {200} == {operator.get(f"/tills/{till}?tab={part}").status_code for part in parts}


def test_a_till_says_why_what_to_do_and_what_is_unknown_since_when(viewer):
    """The figure of a till that is away is of when it was last seen, and says so."""
    shown = viewer.get(f"/tills/{chain.BEHIND}", headers={"Accept-Language": "en"}).text

    assert "No link, and documents are owed" in shown
    assert "Check its power, network and broker address" in shown
    assert re.search(r'id="waiting">[^<]*<strong>12</strong>\s*<span[^>]*>known when it was last seen', shown)


def test_a_till_that_is_not_there_is_not_found(viewer):
    """A name that nobody ever used is 404."""
    assert 404 == viewer.get("/tills/no-such-till").status_code


def test_a_viewer_sees_no_button_and_may_not_push_one(app, viewer, operator):
    """What may not be done is not offered, and refused all the same."""
    path = f"/tills/{chain.BEHIND}"
    assert 'action="/tills/park"' not in viewer.get(path).text
    assert 'action="/tills/park"' in operator.get(path).text
    assert "?tab=audit" not in viewer.get(path).text
    done = viewer.post("/tills/park", data={"till": chain.BEHIND, "note": "x", "csrf": viewer.csrf})
    assert 403 == done.status_code


# -- What people do ----------------------------------------------------------------------------------------------------


def push(client, path, **fields):
    """Send a form as a page does, and return what the next page says came of it."""
    done = client.post(path, data={"csrf": client.csrf, "back": "/tills", **fields})
    assert (303, "/tills") == (done.status_code, done.headers["location"])
    return re.search(r'id="told"[^>]*>([^<]*)<', client.get("/tills").text)[1]


def test_tills_are_parked_and_expected_again_with_a_name_in_the_audit(fresh):
    """Several at once; the next page says it once, and shows it at once."""
    client, url = fresh
    tills = [chain.BEHIND, chain.SILENT]

    assert "Done for 2 of 2 tills." == push(client, "/tills/park", till=tills, note="moving house")
    parked = {row["till_id"] for row in client.get("/tills.json?state=parked").json()}
    assert {*tills, chain.PARKED} == parked
    assert 'aria-live="polite"></p>' in client.get("/tills").text
    assert "Done for 1 of 1 tills." == push(client, "/tills/unpark", till=[chain.SILENT], note="")
    rows = look(url, "SELECT who, action, object, note FROM audit ORDER BY id")
    assert ("operator", "park", f"till {chain.BEHIND}", "moving house") in rows
    assert ("operator", "unpark", f"till {chain.SILENT}", "") in rows


def test_parking_needs_a_note_and_says_so(fresh):
    """Without one nothing is changed, for none of them."""
    client, _url = fresh
    before = client.get("/tills.json?state=parked").json()

    assert "parking needs a note" in push(client, "/tills/park", till=[chain.BEHIND])
    assert before == client.get("/tills.json?state=parked").json()


def test_asking_twice_makes_one_task(fresh):
    """What is new of a till; the second wish is the first one's."""
    client, url = fresh
    for _ in range(2):
        assert push(client, "/tills/request", till=[chain.BEHIND]).startswith("Asked for: 1 tasks.")

    assert [(1,)] == look(url, f"SELECT count(*) FROM task WHERE reason = 'operator' AND till_id = '{chain.BEHIND}'")


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"store": "042", "day": "2026-03-01"}, "Asked for: 3 tasks"),
        ({"till": chain.VERIFIED, "first": "2", "last": "3"}, "Asked for: 1 tasks"),
        ({"till": chain.VERIFIED, "first": "2", "last": "999999"}, "central has 1.."),
        ({"till": chain.VERIFIED, "day": "yesterday"}, "a business day is written YYYY-MM-DD"),
        ({"till": chain.VERIFIED, "first": "2"}, "give the first and the last number"),
        ({"store": "042", "first": "2", "last": "3"}, "numbers need a till"),
        ({}, "name a till, a store or a day"),
        ({"till": "nobody"}, "no till is known for till nobody"),
    ],
)
def test_a_request_says_what_it_asked_for_or_why_not(fresh, asked, told):
    """A wrong one names what would be right, and leaves no task."""
    assert told in push(fresh[0], "/request", **asked)


def test_a_gap_is_closed_with_a_note(fresh):
    """Its till then stands where it stood without it."""
    client, url = fresh
    ((gap,),) = look(url, "SELECT id FROM gap WHERE closed_at_ms IS NULL")

    assert "needs a note" in push(client, f"/gaps/{gap}/close")
    assert f"Gap {gap} is closed." == push(client, f"/gaps/{gap}/close", note="booked by hand")
    assert [] == client.get("/tills.json?reason=gap_open").json()


def test_a_form_without_the_sessions_secret_does_nothing(fresh):
    """Another site cannot push a button in a person's name."""
    client, _ = fresh
    done = client.post("/tills/park", data={"till": chain.BEHIND, "note": "x", "csrf": "forged"})

    assert 403 == done.status_code


# -- Days --------------------------------------------------------------------------------------------------------------


def test_the_matrix_shows_the_worst_store_first_and_leads_to_its_days(app, viewer):
    """Each cell has a word beside its sign, and a link."""
    shown = viewer.get("/days", headers={"Accept-Language": "en"}).text
    rows = viewer.get("/days.json").json()
    worst = next(row for row in rows if row["state"] == "partial")

    assert shown.index(f"/days/{worst['business_day']}/{worst['store_id']}") > 0
    assert 'aria-label="partial"' in shown
    assert viewer.get(f"/days?to={worst['business_day']}&state=partial&store=042").status_code == 200
    assert [] == viewer.get("/days.json?to=1999-01-01").json()
    assert rows == viewer.get("/days.json?to=rubbish").json()


def test_a_day_names_what_is_missing_and_offers_what_to_do(operator, url):
    """The till that rang for twelve more is asked for them; the complete one offers nothing."""
    ((day,),) = look(url, "SELECT business_day FROM day WHERE state = 'partial' AND store_id = '042' LIMIT 1")
    shown = operator.get(f"/days/{day}/042", headers={"Accept-Language": "en"}).text

    assert "the till has it, central not yet" in shown
    assert "documents missing at least: 12" in shown
    assert 1 == shown.count('action="/tills/request"')


@pytest.mark.parametrize("path", ["/days/2026-02-30/042", "/days/yesterday/042", "/days/2026-03-01/no-such-store"])
def test_a_day_that_cannot_be_is_not_found(viewer, path):
    """Neither a date that does not exist nor a store that nobody knows."""
    assert 404 == viewer.get(path).status_code


NOTES = (
    "shift 7: not closed yet",
    "shift 7: closed 2 times: which documents belong to which close cannot be told",
    "shift 7: shift_close carries no sums",
    "parked: in repair",
    "first seen after the day had ended",
    "nothing was heard",
    "not verified: the till has not confirmed that this is all",
    "no document names a shift: there is nothing to reconcile with",
    "3 documents that move money name no shift",
    "the day is not over",
)


@pytest.mark.parametrize("note", NOTES)
def test_a_days_note_is_translated_with_its_figures(note):
    """What the judge of days says in English is said in Russian, and keeps its numbers and notes."""
    said = notes.translated(note, speaker("ru"))

    assert re.search("[а-я]", said)
    assert re.findall(r"\d+|in repair", note) == re.findall(r"\d+|in repair", said)


def test_every_note_of_the_judge_of_days_is_known():
    """A note that was added there has a text here."""
    text = Path(completeness.__file__).read_text("utf-8")
    said = re.findall(r'notes\.append\(f?"([^"]+)"\)', text) + re.findall(r'return f?"([^"]+)"\n', text)
    shown = [re.sub(r"\{[^}]+\}", "4", one) for one in said if not one.startswith("tillstream")]
    shown = [one for one in shown if one not in completeness.STATES]

    assert 8 <= len(shown)
    speak = speaker("ru")
    unknown = [one for one in shown if all(notes.translated(one, speak) == one for one in (one, f"shift 4: {one}"))]
    assert [] == unknown


def test_only_holes_of_the_present_stream_can_be_asked_for_by_number():
    """An older stream is gone from the till; what it rang for comes by itself."""
    streams = {"a": "new"}

    assert days.can_be_asked(Missing("sequence", 1, 2, "new"), streams, "a")
    assert not days.can_be_asked(Missing("sequence", 1, 2, "old"), streams, "a")
    assert not days.can_be_asked(Missing("rung_for", 1, 2, "new"), streams, "a")


# -- Receipts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query",
    ["number=2", "number=2&till={till}", "till={till}", "till={till}&day={day}", "store={store}", "day={day}",
     "store={store}&day={day}", "document={document}", "till={till}&document={document}", "till={till}&sum=1.00",
     "store={store}&kind=sale", "till={till}&kind=shift_open"],
)  # fmt: skip
def test_a_search_finds_what_fits_and_nothing_else(viewer, query):
    """Each way to a document, whatever index leads there."""
    every = viewer.get("/receipts.json").json()
    one = next(row for row in every if row["till_id"] == chain.VERIFIED and row["receipt_number"] == 1)
    asked = query.format(
        till=one["till_id"], store=one["store_id"], day=one["business_day"], document=one["document_id"]
    )
    keys = {"number": "receipt_number", "till": "till_id", "store": "store_id", "day": "business_day", "kind": "kind",
            "document": "document_id", "sum": "total_minor"}  # fmt: skip
    wanted = {keys[name]: value for name, value in (part.split("=") for part in asked.split("&"))}
    wanted |= {"total_minor": "100"} if "sum=" in asked else {}
    fits = [row["id"] for row in every if all(str(row[key]) == value for key, value in wanted.items())]

    assert fits
    assert sorted(fits) == sorted(row["id"] for row in viewer.get(f"/receipts.json?{asked}").json())


@pytest.mark.parametrize("query", ["kind=sale", "sum=1.00", "day=2026-03-01&kind=sale"])
def test_a_search_that_would_read_everything_says_what_else_to_name(viewer, query):
    """Nothing is read for it."""
    shown = viewer.get(f"/receipts?{query}", headers={"Accept-Language": "en"})

    assert "would have to read all documents" in shown.text
    assert [] == viewer.get(f"/receipts.json?{query}").json()


@pytest.mark.parametrize(
    "query", ["number=x", "number=9e9", "till=042-01&sum=abc", "day=2026-13-01", "till=042-01&sum=1.001"]
)
def test_what_is_no_number_sum_or_day_fits_nothing(viewer, query):
    """It is no error of the program's either."""
    assert [] == viewer.get(f"/receipts.json?{query}").json()


@pytest.mark.parametrize(
    ("typed", "minor"), [("1 234,50", 123_450), ("0.01", 1), ("7", 700), ("NaN", -1), ("1e99", -1)]
)
def test_a_sum_is_read_as_people_type_it(typed, minor):
    """With a comma or a point, with spaces between thousands."""
    assert minor == receipts._minor(typed)


def test_a_receipt_is_shown_as_a_person_reads_it_with_its_bytes(viewer):
    """Lines, tender and total, the way here, and exactly what the till sent, escaped."""
    row = next(row for row in viewer.get("/receipts.json").json() if row["receipt_number"] == 3)
    shown = viewer.get(f"/receipts/{row['id']}", headers={"Accept-Language": "en"}).text

    assert "3.00 RUB" in shown
    assert "&#34;document_id&#34;:&#34;" + row["document_id"] in shown
    assert "cash" in shown
    assert 404 == viewer.get("/receipts/999999").status_code
    assert 422 == viewer.get("/receipts/0").status_code


@pytest.mark.parametrize(
    ("typed", "where"),
    [
        (chain.VERIFIED, f"/tills/{chain.VERIFIED}"),
        ("042", "/tills?store=042"),
        ("007-", "/tills?till=007-"),
        ("1234", "/receipts?number=1234"),
        ("a b/c", f"/receipts?document={quote('a b/c', safe='')}"),
        ("", "/tills"),
    ],
)
def test_the_search_field_leads_to_what_was_typed(viewer, typed, where):
    """A till, a store, a part of a till's name, a receipt number, a document's id."""
    assert where == viewer.get("/find", params={"q": typed}).headers["location"]


# -- Speed -------------------------------------------------------------------------------------------------------------

_ROWS = 40_000
_FILL = (
    "INSERT INTO document (till_id, stream, sequence, document_id, transaction_type, store_id, business_day,"
    " receipt_number, closed_at_ms, currency, total_minor, is_training, received_at_ms, body)"
    " SELECT 'till-' || n %% 50, 's', n / 50, 'd' || n, 'sale', 'store-' || n %% 50 / 4,"
    f" to_char(date '2026-01-01' + n / {_ROWS // 60}, 'YYYY-MM-DD'), n / 50, n, 'RUB', n, false, n, ''"
    f" FROM generate_series(1, {_ROWS}) n"
)
_TILLS = """
INSERT INTO till (till_id, store_id, is_approved, first_seen_ms, connection, presence)
  SELECT 'till-' || n, 'store-' || n / 4, true, 1, 0, '{}' FROM generate_series(0, 49) n;
INSERT INTO watermark (till_id, stream, through, digest, opened_at_ms)
  SELECT 'till-' || n, 's', 800, '', 1 FROM generate_series(0, 49) n;
INSERT INTO day (store_id, business_day, state, since_ms)
  SELECT DISTINCT store_id, business_day, 'open', 1 FROM document;
INSERT INTO central (central_id, incarnation, starts) VALUES ('central', 1, 1) ON CONFLICT DO NOTHING;
INSERT INTO consumer (name, incarnation, acknowledged, made_at_ms, note) VALUES ('erp', 1, 39000, 1, '')
"""
WORKING = (
    "/tasks", "/quarantine", "/rollouts", "/automation/tills", "/consumers", "/consumers/erp?ask=true&cursor=1-100",
    "/consumers/erp?ask=true&day=2026-01-20",
)  # fmt: skip
"""The pages on which people do things, with what they ask of documents."""
SEARCHES = (
    "", "number=17", "till=till-7", "till=till-7&day=2026-01-20", "till=till-7&document=d57", "document=d57",
    "store=store-3", "store=store-3&day=2026-01-20", "day=2026-01-20", "till=till-7&kind=sale", "number=17&till=till-7",
)  # fmt: skip


@pytest.fixture(scope="module")
def large(postgres):
    """Return a PostgreSQL with so many documents that reading all of them is no plan."""
    made = postgres.new_database()
    for statement in (_FILL, *_TILLS.split(";"), "ANALYZE"):
        look(made, statement)
    yield made
    postgres.drop(made)


def test_no_page_reads_all_documents(large, statements):
    """PostgreSQL's plan of each statement that a page or a search makes finds documents by an index's condition."""
    read = []
    execute = pw.Database.execute_sql

    def note(database, sql, params=None):
        read.append((sql, params))
        return execute(database, sql, params)

    with pytest.MonkeyPatch.context() as patch, a_console(large) as app, a_browser(app, "viewer") as client:
        patch.setattr(pw.Database, "execute_sql", note)
        for path in ("/", "/tills", "/stores", "/days", "/tills/till-7", "/tills/till-7?tab=receipts", "/receipts/57"):
            assert 200 == client.get(path).status_code
        assert {200} == {client.get(path).status_code for path in WORKING}
        for search in SEARCHES:
            assert client.get(f"/receipts?{search}").text.count("/receipts/") > 0, search

    asked = {sql: params for sql, params in read if "document" in sql and "SELECT" in sql}
    assert len(asked) >= len(SEARCHES)
    assert {} == {sql: bad for sql, params in asked.items() if (bad := _reading_all(large, sql, params))}


def _reading_all(url, sql, params):
    """Return the steps of a plan that go through all documents, or through all of an index."""
    database = Place(url).look(to_write=False)
    try:
        ((plan,),) = database.execute_sql(f"EXPLAIN (FORMAT JSON) {sql}", params).fetchall()
    finally:
        database.close()
    return [step for step in _steps(plan[0]["Plan"]) if _goes_through_all(step)]


LEADING = {
    "document_pkey": "id",
    "document_till_id_document_id_key": "till_id",
    "document_by_sequence": "till_id",
    "document_by_day": "business_day",
    "document_by_number": "receipt_number",
}
"""The first column of each index of documents: without a condition on it all of the index is read."""


def _goes_through_all(step):
    if step["Node Type"] == "Seq Scan":
        return step["Relation Name"] == "document"
    leading = LEADING.get(step.get("Index Name"))
    narrower = step.get("Index Cond", "") + step.get("Filter", "")
    return bool(leading and narrower) and not re.search(rf"\b{leading}\b", step.get("Index Cond", ""))


def _steps(plan):
    yield plan
    for part in plan.get("Plans", ()):
        yield from _steps(part)


def test_the_chart_counts_what_came_in():
    """What lies between two numbers is spread over the time between them; nothing is added or lost."""
    points = [(1_000, 10), (50_000_000, 20), (86_000_000, 110)]
    drawn = overview._per_slot(points, 0)

    assert (96, 100) == (len(drawn["x"]), sum(drawn["y"][0]))
