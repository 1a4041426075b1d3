"""Real processes, real brokers, real sockets: what the POS's own books say is what central's database holds."""

from __future__ import annotations

import json
import subprocess

import pytest
from brokers import MOSQUITTO, ROOT, wait_until
from station import Station, tillstream

BROKERS = [
    "embedded",
    pytest.param("mosquitto", marks=pytest.mark.skipif(not MOSQUITTO, reason="Mosquitto is not installed")),
    "nats",
    "nats-cluster",
]
DRAIN_S = 60


@pytest.mark.parametrize("kind", BROKERS)
def test_what_the_pos_closed_is_what_central_holds(kind, empty_url, tmp_path):
    """Documents handed over by socket reach the database once, the till knows it, and each till is verified."""
    with Station(tmp_path, kind, tills=2, database=empty_url) as station:
        for till in station.tills:
            till.close_documents(30)

        assert wait_until(station.is_proven, DRAIN_S), (station.closed(), station.stored())
        assert wait_until(lambda: _is_verified(station), DRAIN_S), _tills(station)
        assert station.query("SELECT count(*) FROM quarantine") == [(0,)]
        assert station.query("SELECT count(*) FROM gap") == [(0,)]

        codes = {program.stop() for program in (station.tills[0].agent, station.central)}
        assert codes == {0}


@pytest.mark.parametrize("victim", ["agent", "central", "broker"])
@pytest.mark.parametrize("kind", BROKERS)
def test_killing_a_process_while_documents_are_unsent_loses_and_doubles_nothing(kind, victim, empty_url, tmp_path):
    """SIGKILL of agent, central or broker, three times, each with documents under way: the books still agree."""
    with Station(tmp_path, kind, tills=2, database=empty_url) as station:
        program = {"agent": station.tills[0].agent, "central": station.central, "broker": station.broker}[victim]
        for _ in range(3):
            for till in station.tills:
                till.close_documents(15)
            assert wait_until(lambda: station.unsent() > 0 or station.is_proven(), DRAIN_S)
            program.kill()
            for till in station.tills:
                till.close_documents(10)
            assert station.unsent() > 0
            program.start()

        assert wait_until(station.is_proven, DRAIN_S), (
            station.closed(),
            station.stored(),
            station.central.log()[-2000:],
        )
        assert station.query("SELECT count(*) - count(DISTINCT till_id || document_id) FROM document") == [(0,)]


@pytest.mark.parametrize("kind", BROKERS)
def test_two_thousand_documents_of_twenty_tills_survive_the_kill_of_each_component(kind, empty_url, tmp_path):
    """An agent, central and the broker (one node of a cluster) are killed while documents come: each arrives once."""
    with Station(tmp_path, kind, tills=20, database=empty_url) as station:
        for victim in (None, station.tills[0].agent, station.central, station.broker):
            for till in station.tills[:10]:
                till.close_documents(25)
            if victim:
                victim.kill()
            for till in station.tills[10:]:
                till.close_documents(25)
            if victim:
                victim.start()

        assert wait_until(station.is_proven, DRAIN_S), station.central.log()[-2000:]
        assert station.query("SELECT count(*), count(DISTINCT till_id || document_id) FROM document") == [(2000, 2000)]
        assert station.query("SELECT (SELECT count(*) FROM quarantine), (SELECT count(*) FROM gap)") == [(0, 0)]


def test_documents_left_in_the_spool_are_taken_when_the_agent_is_back(tmp_path):
    """While the agent is down the hook leaves documents in the spool folder, and none is lost or doubled."""
    with Station(tmp_path, "embedded", tills=1) as station:
        till = station.tills[0]
        till.agent.kill()
        till.close_documents(20)

        assert list((till.folder / "spool").glob("*.json"))
        till.start()
        assert wait_until(station.is_proven, DRAIN_S)
        assert wait_until(lambda: not list((till.folder / "spool").iterdir()), DRAIN_S)


def test_status_and_pending_answer_while_the_agent_is_down(tmp_path):
    """What central lacks can be seen on the till without the agent; so can a document be handed over by hand."""
    with Station(tmp_path, "embedded", tills=1) as station:
        till = station.tills[0]
        station.central.kill()
        till.close_documents(3)
        assert till.agent.stop() == 0

        assert _edge(till, "status", "--json")["unsent"] == 3
        assert _edge(till, "status", "--json")["agent"] == "down"
        assert len(_edge(till, "pending", "--json")) == 3
        assert _edge(till, "append", "--json", given=b'{"document_id":"by-hand"}') == {
            "document_id": "by-hand",
            "spooled": True,
        }


def _edge(till, *arguments, given=b""):
    done = subprocess.run(
        tillstream("edge", *arguments),
        cwd=ROOT,
        env={**till.agent._environment},
        input=given,
        capture_output=True,
        check=True,
    )
    return json.loads(done.stdout)


def _tills(station):
    done = subprocess.run(
        tillstream("central", "--database", str(station.database), "tills", "--json"),
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    return json.loads(done.stdout)


def _is_verified(station):
    return all(row["verified"] for row in _tills(station))
