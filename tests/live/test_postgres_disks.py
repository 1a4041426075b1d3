"""PostgreSQL's own disk loses its power, or is full: what tills were told is there afterwards, and all comes once."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import loop_disk
import pytest
from brokers import ROOT, wait_until
from loop_disk import LoopDisk
from postgres import Postgres
from station import Station, tillstream

DRAIN_S = 90
QUICK = {"DATABASE_RETRY_MIN_S": "0.2", "DATABASE_RETRY_MAX_S": "1", "QUIET_S": "0.02", "MAX_WAIT_S": "0.05"}
pytestmark = pytest.mark.skipif(bool(loop_disk.why_not()), reason=loop_disk.why_not())


@pytest.fixture
def disk():
    """Mount a disk where PostgreSQL's own account may go, too."""
    folder = Path(tempfile.mkdtemp(prefix="tillstream-disk-", dir="/tmp"))
    folder.chmod(0o755)
    with LoopDisk(folder, 256 * 2**20) as made:
        yield made
    shutil.rmtree(folder)


@pytest.fixture
def server(disk):
    """Run a server on it."""
    folder = disk.folder / "server"
    folder.mkdir()
    made = Postgres(folder, max_wal_size="32MB")
    subprocess.run(["sync", "-f", str(folder)], check=True)  # What initdb itself left out.
    made.start()
    yield made
    made.stop()


@pytest.fixture
def station(server, tmp_path):
    """Run a shop of two tills on it."""
    with Station(tmp_path, "embedded", tills=2, database=server.empty_database(), **QUICK) as made:
        yield made


def told(till):
    """Return how many documents a till was told are stored."""
    command = tillstream("edge", "status", "--json")
    done = subprocess.run(command, cwd=ROOT, env=till.agent._environment, capture_output=True, check=True)
    return json.loads(done.stdout)["stored"]


def stored(server, name):
    ((count,),) = server.run("SELECT coalesce(sum(through), 0) FROM watermark", name)
    return count


@pytest.mark.fault("F14")
def test_what_tills_were_told_survives_power_cuts_of_the_servers_disk(server, disk, station):
    """Everything that was not synced is gone at once; the server recovers, and no till was told more than is there."""
    name = str(station.database).split("@/")[1].split("?")[0]
    for _ in range(3):
        before, said = sum(map(told, station.tills)), station.central.log().count("database_refused")
        with ThreadPoolExecutor() as selling:
            for till in station.tills:
                selling.submit(till.close_documents, 150)
            assert wait_until(lambda least=before + 20: sum(map(told, station.tills)) > least, DRAIN_S)
            disk.cut_power()
            assert wait_until(lambda least=said: station.central.log().count("database_refused") > least, DRAIN_S)
            station.central.kill()
        server.stop(signal.SIGKILL)
        promised = sum(map(told, station.tills))
        disk.bring_back()
        server.start()
        assert stored(server, name) >= promised
        station.central.start()

    assert wait_until(station.is_proven, DRAIN_S), (station.closed(), station.stored(), station.central.log()[-2000:])


@pytest.mark.fault("F25")
def test_a_server_whose_disk_is_full_confirms_nothing_and_goes_on_when_there_is_room(server, disk, station):
    """It may refuse, or end itself for want of room for its log: central waits either way, and then all comes."""
    for till in station.tills:
        till.close_documents(10)
    assert wait_until(station.is_proven, DRAIN_S)
    disk.fill()
    for till in station.tills:
        till.close_documents(400)
    assert wait_until(lambda: "database_refused" in station.central.log(), DRAIN_S), station.central.log()[-2000:]
    assert "No space left on device" in station.central.log() + server.log.read_text("utf-8", "replace")
    disk.free()

    assert wait_until(lambda: _is_up(server) and station.is_proven(), DRAIN_S), station.central.log()[-2000:]
    assert station.central.process.poll() is None, "central itself never ended"


def _is_up(server):
    if server.process.poll() is not None:
        server.start()
    return True
