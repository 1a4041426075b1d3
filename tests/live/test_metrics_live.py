"""Figures and health of real processes: what is told while all runs, what while a part is down, and nothing twice."""

from __future__ import annotations

import json

from brokers import wait_until
from figures_told import fetch, names, series, told, value
from station import START_S, Station
from test_workers_live import Workers
from web import a_browser, a_console


def port_of(central) -> int | None:
    """Return where the worker that started last says it listens."""
    lines = [json.loads(line) for line in central.log().splitlines() if '"metrics_listening"' in line]
    return lines[-1]["port"] if lines else None


def test_a_worker_tells_its_figures_and_names_the_part_that_is_down(empty_url, tmp_path):
    """All documents are in the figures; without the broker it is alive and not ready, and says so."""
    with Station(tmp_path, "embedded", tills=2, database=empty_url, METRICS_LISTEN="127.0.0.1:0") as station:
        assert wait_until(lambda: port_of(station.central), START_S)
        port = port_of(station.central)
        for till in station.tills:
            till.close_documents(20)
        assert wait_until(station.is_proven, 60)
        stored = sum(count for till in station.stored().values() for count, _ in till.values())

        assert wait_until(lambda: value(fetch(port, "/metrics")[1], "receipts_ingested_total") == stored)
        assert value(fetch(port, "/metrics")[1], "receipt_ingest_delay_seconds_count") == stored
        assert told(port, "/readyz") == (
            200,
            {"status": "ok", "checks": dict.fromkeys(("database", "mqtt", "inbox"), "ok")},
        )

        station.broker.kill()
        assert wait_until(lambda: told(port, "/readyz")[0] == 503)
        checks = told(port, "/readyz")[1]["checks"]
        assert ([part for part in checks if checks[part] != "ok"], told(port, "/healthz")[0]) == (["mqtt"], 200)
        assert value(fetch(port, "/metrics")[1], "mqtt_connected", component="central") == 0

        station.broker.start()
        assert wait_until(lambda: told(port, "/readyz")[0] == 200, START_S)
        assert station.central.stop() == 0


def test_two_workers_and_a_console_add_up_to_what_is_stored(postgres, tmp_path):
    """Prometheus adds up over all that it scrapes: each document is counted by one worker, the fleet by the console."""
    url = postgres.new_database()
    keys = {"METRICS_LISTEN": "127.0.0.1:0"}
    with Workers(tmp_path, "embedded", 5, url) as station:
        workers = [station.worker(share, **keys) for share in ("1/2", "2/2")]
        assert wait_until(lambda: all(map(port_of, workers)), START_S)
        for till in station.tills:
            till.close_documents(10)
        assert wait_until(station.is_proven, 60)
        stored = sum(count for till in station.stored().values() for count, _ in till.values())

        def counted():
            texts = [fetch(port_of(worker), "/metrics")[1] for worker in workers]
            return [value(text, "receipts_ingested_total") for text in texts]

        assert wait_until(lambda: sum(counted()) == stored)
        assert all(counted()), "both had tills"
        with a_console(url) as app, a_browser(app, "viewer") as client:
            assert wait_until(lambda: value(client.get("/metrics").content, "pending_receipts") == 0)
            text = client.get("/metrics").content
        assert sum(n for (name, _), n in series(text).items() if name == "tillstream_tills") == 5
        assert "tillstream_receipts_ingested_total" not in names(text)
        assert value(text, "worker_seen_timestamp_seconds", worker="2") > 0
    postgres.drop(url)
