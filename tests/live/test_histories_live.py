"""Disks that go back, with real programs: what cannot come any more is in `central gaps` and `central status`."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest
from brokers import ROOT, wait_until
from station import Station, tillstream

DRAIN_S = 60


def asked(station, *arguments):
    done = subprocess.run(
        tillstream("central", "--database", str(station.database), *arguments, "--json"),
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    return json.loads(done.stdout)


def stored_ids(station):
    return {document_id for (document_id,) in station.query("SELECT document_id FROM document")}


def _hear_without_asking(station, newest):
    """Run central with a quiet time so long that it hears a doorbell, writes it down, and asks nobody."""
    before = dict(station.central._environment)
    station.central._environment |= {"TILLSTREAM_QUIET_S": "600", "TILLSTREAM_MAX_WAIT_S": "600"}
    station.central.start()
    assert wait_until(lambda: station.query("SELECT newest FROM heard_head") == [(newest,)], DRAIN_S)
    station.central._environment = before


@pytest.mark.fault("F20")
def test_a_disk_image_put_back_is_a_new_stream_and_what_it_lost_is_shown(tmp_path):
    """Rung for while central was away, and gone with the disk: a gap of exactly those numbers; the rest is stored."""
    with Station(tmp_path, "embedded", tills=1) as station:
        till = station.tills[0]
        outbox, image = till.folder / "state" / "outbox.db", tmp_path / "image.db"
        till.close_documents(5)
        assert wait_until(station.is_proven, DRAIN_S)
        assert wait_until(till.is_confirmed, DRAIN_S)
        assert till.agent.stop() == 0
        shutil.copy(outbox, image)

        till.start()
        till.close_documents(4)
        assert wait_until(station.is_proven, DRAIN_S)
        assert wait_until(till.is_confirmed, DRAIN_S)
        kept = stored_ids(station)
        station.central.kill()
        till.close_documents(3)
        _hear_without_asking(station, 12)
        till.agent.kill()
        station.central.kill()

        for leftover in outbox.parent.glob("outbox.db*"):
            leftover.unlink()
        shutil.copy(image, outbox)
        station.central.start()
        till.start()
        till.close_documents(2)
        assert wait_until(lambda: len(stored_ids(station) - kept) == 2, DRAIN_S)

        assert wait_until(lambda: asked(station, "gaps"), DRAIN_S)
        assert [(10, 12)] == [(row["first"], row["last"]) for row in asked(station, "gaps")]
        assert asked(station, "status")["open_gaps"] == 1
        assert station.query("SELECT count(*) FROM watermark") == [(2,)]
