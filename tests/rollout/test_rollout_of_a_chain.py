"""A release through a chain that site.yml and enroll.yml made, and back, while its tills sell: nothing is lost."""

from __future__ import annotations

import json

import pytest
from brokers import wait_until
from releases import changed, release
from whole_chain import chain

pytestmark = [pytest.mark.machines, pytest.mark.timeout(1500)]

VERSION = "SELECT till_id, presence::json ->> 'agent_version' FROM till WHERE is_online ORDER BY 1"
TIMES = "-e rollout_soak_s=2 -e rollout_wave_soak_s=0 -e rollout_settle_s=20"


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    with chain(tmp_path_factory.mktemp("chain")) as machines:
        machines.start_selling()
        yield machines


def rolled(ours, *words):
    """Run bin/rollout as a person would; returns its exit code, its report and what it said."""
    done = ours.command(
        f"bin/rollout {' '.join(map(str, words))} -i inventory/example --report out {TIMES}", check=False
    )
    return done.returncode, json.loads((ours.ansible / "out/report.json").read_text("utf-8")), done.stdout + done.stderr


def test_a_release_goes_out_and_back_while_the_tills_sell_and_nothing_is_lost(ours, tmp_path):
    """Newer tills speak to the older central; each document is stored once, and central wants what is there."""
    assert wait_until(lambda: len(ours.sql(VERSION)) == len(ours.tills), 60)
    new = changed(release(), tmp_path / "new", "0.1.1")
    code, report, said = rolled(ours, "--release", new, "--note", "'test of a chain'")
    assert (code, report["counts"]) == (0, {"upgraded": 3}), said
    assert ours.sql(VERSION) == [[till, "0.1.1"] for till in ours.tills]
    assert ours.sql("SELECT DISTINCT wanted FROM till_release") == [["0.1.1"]]

    code, report, said = rolled(ours, "rollback", "--from", "0.1.1")
    assert (code, report["counts"]) == (0, {"returned": 3}), said
    assert ours.sql("SELECT kind, outcome FROM rollout ORDER BY id") == [["rollout", "all"], ["rollback", "all"]]
    ours.stop_selling()
    closed = {till: ours.closed(till) for till in ours.tills}
    assert min(closed.values()) > 100
    assert wait_until(lambda: ours.stored() == closed, 60)
