"""Real processes, killed and stopped under load: what the POS's own books say is what central's database holds."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
from brokers import MOSQUITTO, wait_until
from kill_runs import KINDS, kill_runs
from yard import is_in_order, yard

SEED = 20261128
needs_mosquitto = pytest.mark.skipif(not MOSQUITTO, reason="Mosquitto is not installed")
LOCKER = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)
database.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
database.execute("ROLLBACK")
"""


@needs_mosquitto
@pytest.mark.fault("F02", "F03", "F04", "F05", "F07", "F10", "F11", "F13")
def test_fifty_kills_of_each_program_under_load_lose_and_double_nothing(tmp_path):
    """SIGKILL of agent, central and Mosquitto, 50 times each with documents unsent: the books agree."""
    figures = kill_runs(tmp_path / "site", 50, SEED)

    assert [50] * 3 == [figures[f"kills of the {kind}"] for kind in KINDS], figures
    assert is_in_order(figures), figures
    assert 0 == figures["promised and not kept"]


@pytest.mark.fault("F03", "F07", "F10")
def test_kills_beside_the_embedded_broker_lose_and_double_nothing(tmp_path):
    """The same storm, smaller, with the broker that comes along."""
    figures = kill_runs(tmp_path / "site", 12, SEED, broker="embedded")

    assert [12] * 3 == [figures[f"kills of the {kind}"] for kind in KINDS], figures
    assert is_in_order(figures), figures


@needs_mosquitto
@pytest.mark.fault("F01")
def test_an_agent_that_answers_before_its_commit_is_seen_to_lose(tmp_path):
    """Control: the storm of kills notices an agent that says 201 too early."""
    figures = kill_runs(
        tmp_path / "site", 12, SEED, kinds=("agent",), settle_s=2, agent=("careless", "answer_before_commit")
    )

    assert figures["lost"] > 0, figures


@needs_mosquitto
@pytest.mark.fault("F09")
def test_an_agent_that_takes_puback_for_proof_is_seen_to_lose(tmp_path):
    """Control: the storm of kills notices an agent that forgets what the broker has acknowledged."""
    figures = kill_runs(
        tmp_path / "site",
        12,
        SEED,
        kinds=("broker", "central"),
        settle_s=2,
        agent=("careless", "believe_puback"),
        agent_settings={"new_streams_per_hour": 60},
        unsent_most=float("inf"),
    )

    assert figures["lost"] > 0, figures


def test_a_database_that_somebody_else_holds_locked_is_refused_cleanly_and_costs_nothing(tmp_path):
    """A stopped process holds the write lock past central's patience: nothing is promised, and later all is there."""
    with yard(tmp_path / "site", 2, SEED, broker="embedded") as running, _locker(running.database) as locker:
        before = running.look()
        for till in running.tills:
            till.close_documents(10)
        assert wait_until(lambda: "database_refused" in running.central.log(), 30), running.central.log()[-2000:]
        told = sum(till.status()["stored"] for till in running.tills)
        assert before == running.look()
        assert before >= told
        assert not running.central.has_ended()

        locker.send_signal(signal.SIGCONT)
        locker.stdin.close()
        assert is_in_order(running.settle()), running.logs()


class _locker:  # noqa: N801 -- reads as what it holds
    """A process that holds the write lock and is stopped."""

    def __init__(self, database) -> None:
        self._command = [sys.executable, "-c", LOCKER, str(database)]

    def __enter__(self) -> subprocess.Popen:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert b"locked\n" == self._process.stdout.readline()
        self._process.send_signal(signal.SIGSTOP)
        return self._process

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate() if not self._process.stdin.closed else self._process.wait()
        self._process.stdout.close()
