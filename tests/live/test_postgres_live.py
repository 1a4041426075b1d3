"""Real processes on PostgreSQL: its backends and its server are killed and stopped under load, and the books agree."""

from __future__ import annotations

import signal
import subprocess

import pytest
from brokers import ROOT, wait_until
from postgres import running
from station import Station, tillstream

DRAIN_S = 60
QUICK = {"DATABASE_RETRY_MIN_S": "0.2", "DATABASE_RETRY_MAX_S": "1"}


@pytest.fixture
def server():
    """Run a PostgreSQL server of the test's own, which is going to be killed."""
    with running() as made:
        yield made


@pytest.fixture
def station(server, tmp_path):
    """Run a shop of three tills on it."""
    with Station(tmp_path, "embedded", tills=3, database=server.empty_database(), **QUICK) as made:
        yield made


def close_everywhere(station, count):
    for till in station.tills:
        till.close_documents(count)


def is_once(station):
    return station.query("SELECT count(*) - count(DISTINCT till_id || document_id) FROM document") == [(0,)]


@pytest.mark.fault("F33")
def test_backends_that_are_killed_under_load_lose_and_double_nothing(server, station):
    """SIGKILL of central's own backend: the server takes all of them down and recovers; central goes on by itself."""
    kills = 0
    backends = "SELECT pid FROM pg_stat_activity WHERE application_name = 'tillstream central 1/1'"
    for _ in range(6):
        close_everywhere(station, 12)
        assert wait_until(lambda: server.run(backends), DRAIN_S)
        pids = server.run(backends)
        for (pid,) in pids:
            subprocess.run(["/bin/kill", "-KILL", str(pid)], check=False)
            kills += 1
        close_everywhere(station, 6)
        assert wait_until(server.answers, 30)

    assert wait_until(station.is_proven, DRAIN_S), (station.closed(), station.stored(), station.central.log()[-2000:])
    assert kills >= 3
    assert is_once(station)
    assert station.central.process.poll() is None, "central itself never ended"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGQUIT, signal.SIGINT], ids=["kill -9", "crash", "shutdown"])
def test_a_server_that_is_killed_under_load_and_stays_away_costs_nothing(server, station, how):
    """Documents are closed while it is away; tills hear nothing of them, and all come when it is back."""
    for _ in range(2):
        close_everywhere(station, 15)
        server.stop(how)
        close_everywhere(station, 10)
        assert wait_until(lambda: "database_away" in station.central.log(), 30), station.central.log()[-2000:]
        told = subprocess.run(
            tillstream("central", "--database", str(station.database), "status"),
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (told.returncode, "connection to server" in told.stderr) == (7, True), told.stderr
        server.start()

    assert wait_until(station.is_proven, DRAIN_S), (station.closed(), station.stored(), station.central.log()[-2000:])
    assert is_once(station)
    assert station.central.process.poll() is None, "central itself never ended"
    assert "database_back" in station.central.log()


def test_a_central_whose_server_is_not_there_says_so_and_is_started_again(server, station):
    """A start without a database is a clear error; the next one, with it, serves what was closed meanwhile."""
    assert station.central.stop() == 0
    server.stop()
    station.central.start()
    assert station.central.process.wait(30) == 7
    assert "connection to server" in station.central.log()
    assert "Traceback" not in station.central.log()
    close_everywhere(station, 5)
    server.start()
    station.central.start()

    assert wait_until(station.is_proven, DRAIN_S), station.central.log()[-2000:]
