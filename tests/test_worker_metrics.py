"""A worker's own figures and its health: true to what was committed, and told without touching the database."""

from __future__ import annotations

import socket
import time
from contextlib import closing

import pytest
from factories import NOW_MS, a_document, a_greeting, a_sale, a_stream, as_json, digest_of, some_sales
from figures_told import fetch, names, told, value
from pki import Pki
from test_subscriber import Central

from central.config import CentralConfig
from central.counters import Counters, Histogram, Ingested
from central.health import WorkerSeen, alive, answer, failing, ready
from central.metrics.listener import Listener
from central.metrics.serving import answers
from central.metrics.worker import WorkerFigures
from central.service import run
from wire.inbox import Inbox
from wire.link import Connected, Disconnected
from wire.program import ConfigError, read_config


@pytest.fixture
def central(central_url):
    """Return a central over a database of either kind."""
    made = Central(central_url)
    yield made
    made.store.close()


def figures_of(central, now=0.0):
    return WorkerFigures(central.shell, Inbox(), now)


def upload(central, bodies, at=0.0, **fields):
    """Ring, be asked, and answer 0.25 s later."""
    central.shell.handle_all([central.bell(len(bodies), digest=digest_of(bodies))], at)
    central.shell.tick(at + 0.5)
    request = central.said_to()[0][-1]
    central.shell.handle_all([central.sales(bodies, task=request.task, **fields)], at + 0.75)


def test_a_receipt_is_counted_from_doorbell_to_commit(central):
    """One doorbell, one request, one upload: each figure says exactly that, and how long it took."""
    upload(central, [a_sale(closed_at="2026-03-02T10:00:00+03:00")])
    text = figures_of(central).exposition()

    assert (1, 1, 0) == (
        value(text, "receipts_ingested_total"),
        value(text, "bells_received_total"),
        value(text, "receipts_duplicate_total"),
    )
    assert value(text, "upload_duration_seconds_count") == 1
    assert value(text, "upload_duration_seconds_sum") == pytest.approx(0.25)
    assert value(text, "ingest_commit_seconds_count") == 1
    assert value(text, "receipt_ingest_delay_seconds_count") == 1
    assert value(text, "mqtt_messages_total", direction="received", topic_kind="sales") == 1
    assert value(text, "mqtt_messages_total", direction="sent", topic_kind="upload_request") == 1
    assert value(text, "upload_tasks_total", cause="doorbell", result="done") == 1


def test_what_came_twice_is_a_duplicate_and_what_is_refused_has_its_code(central):
    """A till that renumbered sends again what is here; a document without sense goes aside under its code."""
    bodies = some_sales(3)
    upload(central, bodies)
    bad = as_json(a_document("d9", "nonsense"))
    again = [*bodies, bad]
    stream = a_stream(2)
    central.shell.handle_all([central.bell(4, stream=stream, digest=digest_of(again, stream))], 2.0)
    central.shell.tick(3.0)
    central.shell.handle_all([central.sales(again, stream=stream)], 3.1)
    text = figures_of(central).exposition()

    assert (3, 3) == (value(text, "receipts_ingested_total"), value(text, "receipts_duplicate_total"))
    ((code,),) = central.store.database.run("SELECT code FROM quarantine").fetchall()
    assert value(text, "receipts_rejected_total", code=code) == 1


def test_doorbells_that_need_no_upload_of_their_own_are_counted(central):
    """Five doorbells within the quiet time lead to one request: four were coalesced."""
    bodies = some_sales(5)
    bells = [central.bell(number, digest=digest_of(bodies[:number])) for number in range(1, 6)]
    central.shell.handle_all(bells, 0.0)
    central.shell.tick(1.0)
    text = figures_of(central).exposition()

    assert (5, 4, 1) == (
        value(text, "bells_received_total"),
        value(text, "bells_coalesced_total"),
        value(text, "upload_requests_total"),
    )
    assert (1, 500) == (value(text, "admission_slots_taken"), value(text, "admission_slots"))
    assert (0, 20) == (value(text, "admission_backlog_slots_taken"), value(text, "admission_backlog_slots"))


def test_what_was_rolled_back_is_not_counted(tmp_path):
    """While somebody else holds the lock nothing is committed, so nothing is counted; after it, it is, once."""
    path = tmp_path / "central.db"
    central = Central(path)
    bodies = some_sales(2)
    central.shell.handle_all([central.bell(2, digest=digest_of(bodies))], 0.0)
    with closing(central.refuse_writes(path)):
        central.shell.handle_all([central.sales(bodies)], 1.0)
        text = figures_of(central).exposition()
        assert (0, 0) == (value(text, "receipts_ingested_total"), value(text, "ingest_commit_seconds_count"))
    central.shell.tick(60.0)
    central.shell.handle_all([central.bell(2, digest=digest_of(bodies)), central.sales(bodies)], 61.0)

    text = figures_of(central).exposition()
    assert value(text, "receipts_ingested_total") == 2
    assert value(text, "bells_received_total") == 2, "what was counted before the core was made anew stays counted"
    central.store.close()


def test_the_link_is_told_with_how_often_and_why_it_ended(central):
    """0 until the broker let us in; each end is counted by kind, never by a text that somebody else wrote."""
    figures = figures_of(central)
    assert value(figures.exposition(), "mqtt_connected", component="central") == 0
    events = [Connected(1), Disconnected(1, "broken pipe"), Disconnected(2, "bad token", is_refused=True)]
    central.shell.handle_all(events, 0.0)
    text = figures.exposition()
    assert 1 == value(text, "mqtt_reconnects_total", component="central", reason="lost")
    assert 1 == value(text, "mqtt_reconnects_total", component="central", reason="refused")

    central.shell.handle_all([Connected(3)], 1.0)
    assert value(figures.exposition(), "mqtt_connected", component="central") == 1


def test_a_scrape_asks_the_database_nothing(central, monkeypatch):
    """A database that hangs must not take the figures with it."""
    figures = figures_of(central)
    monkeypatch.setattr(central.store, "database", None)
    assert "tillstream_receipts_ingested_total" in names(figures.exposition())


def test_a_value_on_a_bound_belongs_below_it():
    """As Prometheus reads it: ``le`` is less or equal."""
    seen = Histogram((1.0, 2.0))
    for one in (0.0, 1.0, 1.5, 9.0):
        seen.observe(one)
    assert (seen.counts, seen.total) == ([2, 1, 1], 11.5)


def test_a_till_whose_clock_is_ahead_has_no_delay_below_nothing():
    """A sum that went down would read as a restart."""
    seen = Ingested()
    seen.add(1, 1, (), [NOW_MS + 5000], NOW_MS)
    assert (seen.delay_s.total, seen.delay_s.counts[0]) == (0, 1)


def test_figures_of_a_fresh_worker_are_zero_and_not_absent(central):
    """A counter that begins with its first event hides that event from ``rate``."""
    text = figures_of(central).exposition()
    for name in ("receipts_ingested_total", "bells_received_total", "ingest_queue_messages", "admission_queue_length"):
        assert value(text, name) == 0
    assert value(text, "upload_duration_seconds_bucket", le="+Inf") == 0
    assert Counters().upload_s.counts == [0] * 12


def test_a_certificate_tells_until_when_it_is_valid(tmp_path):
    """In epoch seconds; without a certificate, or with a file that cannot be read, there is no series."""
    pki = Pki(tmp_path / "pki")
    cert_file, key_file = pki.files("central-1", ends_s=5000)
    name = "tls_certificate_expiry_timestamp_seconds"
    until = {}
    for label, file in (("there", cert_file), ("none", ""), ("broken", str(tmp_path / "nowhere.pem"))):
        keys = {"tls_ca_file": pki.ca_file, "tls_cert_file": file, "tls_key_file": key_file if file else ""}
        central = Central(broker_urls=("mqtts://broker.example",), **keys)
        until[label] = value(figures_of(central).exposition(), name, component="central")
        central.store.close()
    assert until["there"] == pytest.approx(time.time() + 5000, abs=120)
    assert until["none"] is until["broken"] is None


# -- Health ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seen", "wrong"),
    [
        (WorkerSeen(1, 5, "", ""), []),
        (WorkerSeen(1, 5, "connection refused", ""), ["database"]),
        (WorkerSeen(1, 0, "", "not connected yet"), ["mqtt"]),
        (WorkerSeen(31, 7, "", ""), ["inbox"]),
        (WorkerSeen(31, 7, "away", "down"), ["database", "mqtt", "inbox"]),
    ],
)
def test_readiness_names_each_part_that_does_not_work(seen, wrong):
    """503 with every failing part and why; 200 only if all work."""
    checks = ready(seen, 30)
    status, said = answer(checks)
    assert failing(checks) == wrong
    assert status == (503 if wrong else 200)
    assert {part for part, why in said["checks"].items() if why != "ok"} == set(wrong)


def test_a_worker_is_alive_without_database_and_broker():
    """Ending and starting it would mend neither; only a thread that stands still is a reason to."""
    assert answer(alive(WorkerSeen(5, 0, "away", "down"), 600))[0] == 200
    assert answer(alive(WorkerSeen(601, 0, "", ""), 600)) == (
        503,
        {"status": "failing", "checks": {"worker": "the worker has not finished a turn for 601 s"}},
    )


@pytest.fixture
def listener(central):
    """Return a listener at a port from the system, and what it tells of."""
    figures = figures_of(central, time.monotonic())
    made = Listener(("127.0.0.1", 0), 0.5, answers(CentralConfig(), figures))
    made.start()
    yield made
    made.stop()


def test_the_listener_answers_what_it_serves_and_names_it_otherwise(central, listener):
    """Three paths; anything else is 404 and says which there are."""
    _, port = listener.address
    status, text = fetch(port, "/metrics")
    assert (status, value(text, "receipts_ingested_total")) == (200, 0)
    assert told(port, "/healthz") == (200, {"status": "ok", "checks": {"worker": "ok"}})
    assert told(port, "/readyz")[0] == 503
    central.shell.handle_all([Connected(1)], 0.0)
    assert told(port, "/readyz") == (200, {"status": "ok", "checks": {"database": "ok", "mqtt": "ok", "inbox": "ok"}})
    assert (404, "served here: /metrics, /healthz, /readyz") == (
        (answered := told(port, "/admin"))[0],
        answered[1]["detail"],
    )


def test_one_who_says_nothing_holds_nobody_up_for_long(listener):
    """A connection without a request is let go after the time limit; whoever waited behind it is answered."""
    with socket.create_connection(listener.address):
        assert fetch(listener.address[1], "/healthz")[0] == 200


def test_a_database_that_went_away_is_named(tmp_path, monkeypatch):
    """The cause as the database said it, until it can be read again."""
    path = tmp_path / "central.db"
    central = Central(path)
    with closing(central.refuse_writes(path)):
        monkeypatch.setattr(central.store, "reopen", lambda: central.store.database.run("SELECT nothing FROM nowhere"))
        central.shell.handle_all([Connected(1), central.presence(a_greeting())], 0.0)
        central.shell.tick(2.0)
    checks = ready(figures_of(central).seen(1.0), 30)
    assert failing(checks) == ["database"]
    assert checks[0].problem == "database is locked"

    monkeypatch.undo()
    central.shell.tick(60.0)
    assert failing(ready(figures_of(central).seen(1.0), 30)) == []
    central.store.close()


# -- Where it may listen -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("listen", ["0.0.0.0:9464", "[::]:9464", "10.1.2.3:9464", "central.example:9464"])
def test_others_reach_it_only_if_somebody_says_so(listen):
    """There is neither login nor TLS: an address that others reach needs the switch, which the text names."""
    with pytest.raises(ConfigError, match="metrics_open"):
        read_config(CentralConfig, "central", None, {"TILLSTREAM_METRICS_LISTEN": listen})
    config = read_config(
        CentralConfig, "central", None, {"TILLSTREAM_METRICS_LISTEN": listen, "TILLSTREAM_METRICS_OPEN": "true"}
    )
    assert config.metrics_listen == listen


@pytest.mark.parametrize("listen", ["9464", "127.0.0.1", "127.0.0.1:", "127.0.0.1:70000", ":9464", "127.0.0.1:x"])
def test_an_address_that_is_none_is_refused_by_name(listen):
    """The text names the key and shows how it is written."""
    with pytest.raises(ConfigError, match=r"metrics_listen.*host:port"):
        read_config(CentralConfig, "central", None, {"TILLSTREAM_METRICS_LISTEN": listen})


def test_a_port_that_is_taken_ends_the_start_with_its_name(tmp_path):
    """Two workers on one machine: the second one's start fails and says which key to change."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        config = CentralConfig(database=str(tmp_path / "central.db"), metrics_listen=listen)
        with pytest.raises(ConfigError, match=rf"metrics_listen = {listen}: .*in use"):
            run(config)
