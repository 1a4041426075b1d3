"""Two machines with one till id: nothing is lost, they do not throw each other out for ever, and both say so."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import sqlite3
import time

import pytest
from brokers import wait_until
from nursery import Forked
from yard import yard

from edge.intake.http_socket import UnixConnection

SEED = 20261131
WITHIN_S = 60
RECONNECT_MAX_S, CUTS = 1.0, 30
DOUBLINGS = 8
"""Doublings from ``reconnect_min_s`` of 0.02 s to the most, and a first connection."""


class Clone:
    """A second agent over a copy of a till's disk, with a POS that hands over documents of its own."""

    def __init__(self, running, till):
        self.run_dir = till.run_dir.with_name("clone")
        state = till.state_dir.with_name("clone")
        shutil.copytree(till.state_dir, state)
        config = (till.state_dir / "edge.toml").read_text("utf-8")
        config = config.replace(str(till.state_dir), str(state)).replace(str(till.run_dir), str(self.run_dir))
        (state / "edge.toml").write_text(config, "utf-8")
        log = running.site.logs / "clone.log"
        command = [str(state / "edge.toml") if part.endswith("edge.toml") else part for part in till.agent.command]
        self.agent = Forked(running.nursery, command, log)

    def ask(self, method, target, body=None):
        connection = UnixConnection(self.run_dir / "edge.sock", 5)
        with contextlib.closing(connection):
            connection.request(method, target, body)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    def sell(self, document_id):
        sale = {
            "document_id": document_id, "transaction_type": "no_sale", "business_day": "2026-03-01",
            "closed_at": "2026-03-01T10:00:00+03:00", "currency": "RUB",
        }  # fmt: skip
        return self.ask("POST", "/documents", json.dumps(sale).encode())[0]

    def is_up(self):
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.ask("GET", "/status")[0] == 200
        return False


def documents_and_troubles(running):
    with contextlib.closing(sqlite3.connect(f"file:{running.database}?mode=ro", uri=True, timeout=20)) as central:
        documents = [row[0] for row in central.execute("SELECT document_id FROM document")]
        ((presence,),) = central.execute("SELECT presence FROM till").fetchall()
    return documents, json.loads(presence).get("troubles", {})


@pytest.mark.fault("F16", "F19")
def test_two_agents_with_one_identity_lose_nothing_and_both_say_that_there_are_two(tmp_path):
    """A copied disk: both sell, both histories come to central, connections grow rarer, and the reason is named."""
    settings = {"reconnect_max_s": RECONNECT_MAX_S, "new_streams_per_hour": 60}
    with yard(tmp_path / "site", 1, SEED, broker="embedded", agent_settings=settings) as running:
        (till,) = running.tills
        till.close_documents(10)
        assert wait_until(running.is_settled, WITHIN_S), running.logs()
        till.agent.stop()
        clone = Clone(running, till)
        began_at = time.monotonic()
        clone.agent.start()
        till.agent.start()
        try:
            assert wait_until(clone.is_up, WITHIN_S), clone.agent.log()
            assert [201] * 10 == [clone.sell(f"clone-{number}") for number in range(10)]
            till.close_documents(10)

            def all_there():
                return len(documents_and_troubles(running)[0]) >= 30

            def cuts():
                return sum(agent.log().count('"disconnected"') for agent in (till.agent, clone.agent))

            def both_say_so():
                told = clone.ask("GET", "/status")[1], till.status(), {"troubles": documents_and_troubles(running)[1]}
                return all("identity_shared" in one["troubles"] for one in told)

            assert wait_until(all_there, WITHIN_S), running.logs() + clone.agent.log()[-2000:]
            assert wait_until(both_say_so, WITHIN_S), running.logs() + clone.agent.log()[-2000:]
            assert till.status()["reason"]["code"] == "identity_shared"
            assert wait_until(lambda: cuts() >= CUTS, WITHIN_S)
            most = 2 * (DOUBLINGS + (time.monotonic() - began_at) / (0.7 * RECONNECT_MAX_S))
        finally:
            clone.agent.stop()
        documents, _ = documents_and_troubles(running)
        assert len(documents) == len(set(documents)) == 30
        assert most >= CUTS
