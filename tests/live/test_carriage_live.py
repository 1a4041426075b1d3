"""A till without a link, as real processes: what the cashier reads, why it is late, and its documents by file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from factories import TILL, a_store, some_sales, wait_until

from wire.tokens import token_of

ROOT = Path(__file__).resolve().parents[2]
KEY = b"a-fleet-key-for-tests-only-and-long-enough"


@pytest.fixture
def till(tmp_path):
    """Return a function that runs ``tillstream`` on a till whose agent runs and whose broker is not there."""
    store = tmp_path / "central.db"
    a_store(store).close()
    (tmp_path / "fleet.key").write_bytes(KEY)
    (tmp_path / "fleet.key").chmod(0o600)
    config = tmp_path / "edge.toml"
    folders = "".join(f'{name} = "{tmp_path}"\n' for name in ("state_dir", "run_dir"))
    settings = f'till_id = "{TILL}"\ntoken = "{token_of(KEY, TILL)}"\nspool_dir = "{tmp_path}/spool"\n{folders}'
    config.write_text(settings + 'broker_urls = ["mqtt://127.0.0.1:1"]\n', "utf-8")
    command = [sys.executable, str(ROOT / "tillstream.py")]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}

    def run(room, *arguments, given=None):
        where = ("--config", config) if room == "edge" else ("--database", store)
        whole = [*command, room, *map(str, where), *map(str, arguments)]
        return subprocess.run(whole, input=given, capture_output=True, env=environ, check=False)

    agent = subprocess.Popen([*command, "edge", "--config", str(config), "run"], env=environ, stderr=subprocess.DEVNULL)
    try:
        assert wait_until((tmp_path / "edge.sock").exists, 20)
        run.agent = agent
        yield run
    finally:
        agent.kill()
        agent.wait()


def test_a_till_without_a_link_says_so_and_its_documents_go_by_file(till, tmp_path):
    """The cashier's line, the reason with its next step, three commands, and the line again; it goes with the agent."""
    line = tmp_path / "cashier.txt"
    for body in some_sales(3):
        assert till("edge", "append", given=body).returncode == 0
    assert wait_until(lambda: line.read_text("utf-8") == "Не выгружено: 3, связи нет\n")

    reason = json.loads(till("edge", "status", "--json").stdout)["reason"]
    assert (reason["code"], reason["title"]) == ("link_down", "Нет связи, есть невыгруженные документы")
    assert "edge export" in reason["next_step"]
    assert reason["since_ms"] > 1_600_000_000_000

    stick = tmp_path / "stick.carriage"
    steps = (
        till("edge", "export", "--to", stick),
        till("central", "import", "--fleet-key-file", tmp_path / "fleet.key", stick),
        till("edge", "confirm", f"{stick}.reply"),
    )
    assert [step.returncode for step in steps] == [0, 0, 0], steps
    assert b"unsent 0" in steps[-1].stdout
    assert wait_until(lambda: line.read_text("utf-8") == "Всё выгружено, связи нет\n")

    till.agent.send_signal(signal.SIGTERM)
    assert till.agent.wait(20) == 0
    assert not line.exists()
