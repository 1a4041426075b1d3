"""Releases through a chain that site.yml and enroll.yml made, and back, while its tills sell: nothing is lost.

Tills and central are of different versions meanwhile, and of different wire versions, either of them the older one.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from brokers import wait_until
from cables import without_ssh
from releases import changed, release
from whole_chain import SERVER, chain, counts

pytestmark = [pytest.mark.machines, pytest.mark.timeout(1500)]

VERSION = "SELECT till_id, presence::json ->> 'agent_version' FROM till WHERE is_online ORDER BY 1"
SPEAKS = "SELECT DISTINCT presence::json ->> 'protocol' FROM till WHERE is_online"
TIMES = "-e rollout_soak_s=2 -e rollout_wave_soak_s=0 -e rollout_settle_s=20"
OLD, NEW = "0.1.0", "0.2.0"
SPEAKS_MORE = {
    "wire/messages.py": [("VERSIONS = (1, 2)", "VERSIONS = (1, 2, 3)"), ("v: Literal[1, 2]", "v: Literal[1, 2, 3]")]
}


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    with chain(tmp_path_factory.mktemp("chain")) as machines:
        machines.start_selling()
        assert wait_until(lambda: len(machines.sql(VERSION)) == len(machines.tills), 60)
        yield machines


@pytest.fixture(scope="module")
def new(tmp_path_factory):
    """Return a release that speaks a wire version more."""
    return changed(release(), tmp_path_factory.mktemp("releases") / "new", NEW, SPEAKS_MORE)


def rolled(ours, *words):
    """Run bin/rollout as a person would; returns its exit code, its report and what it said."""
    done = ours.command(
        f"bin/rollout {' '.join(map(str, words))} -i inventory/example --report out {TIMES}", check=False
    )
    return done.returncode, json.loads((ours.ansible / "out/report.json").read_text("utf-8")), done.stdout + done.stderr


def are_stored(ours, more=10):
    """Tell whether of each till documents come that it closed from now on."""
    before = ours.stored()
    return wait_until(lambda: all(count >= before[till] + more for till, count in ours.stored().items()), 60)


def test_central_that_is_not_reached_at_a_gate_stops_the_waves(ours, new):
    """The canary goes back, no other till has switched, exit code 2; what central has to be told is kept and can be."""
    report = ours.ansible / "out/report.json"
    with ThreadPoolExecutor(1) as beside:
        ended = beside.submit(rolled, ours, "--release", new, "-e rollout_soak_s=20")
        assert wait_until(lambda: report.exists() and '"upgraded"' in report.read_text("utf-8"), 120)
        with without_ssh(ours, SERVER):
            code, told, said = ended.result(180)

    assert code == 2, said
    assert "central is not reached" in told["stopped_by"]
    assert {till: one["state"] for till, one in told["tills"].items()} == {
        "042-01": "rolled_back",
        "042-02": "not_tried",
        "043-01": "not_tried",
    }
    assert f"central was not told: tillstream central rollout end {told['rollout']} -" in said
    ours.ssh(
        SERVER, f"runuser -u tillstream -- tillstream central rollout end {told['rollout']} -", input=json.dumps(told)
    )
    assert wait_until(lambda: ours.sql(VERSION) == [[till, OLD] for till in ours.tills], 60)


def test_a_release_goes_out_and_back_while_the_tills_sell_and_central_is_older(ours, new):
    """Newer tills speak to the older central in the newest words that it knows, and central wants what is there."""
    code, report, said = rolled(ours, "--release", new, "--note", "'test of a chain'")
    assert (code, report["counts"]) == (0, {"upgraded": 3}), said
    assert ours.sql(VERSION) == [[till, NEW] for till in ours.tills]
    assert ours.sql(SPEAKS) == [["[1,2,3]"]]
    assert ours.sql("SELECT DISTINCT wanted FROM till_release") == [[NEW]]
    assert are_stored(ours)

    code, report, said = rolled(ours, "rollback", "--from", NEW)
    assert (code, report["counts"]) == (0, {"returned": 3}), said
    done = [["rollout", "stopped"], ["rollout", "all"], ["rollback", "all"]]
    assert ours.sql("SELECT kind, outcome FROM rollout ORDER BY id") == done


def test_central_is_upgraded_first_and_the_tills_after_it(ours, new):
    """Older tills speak to the newer central; then they are brought to its release, wave by wave."""
    said = ours.play("site", "--limit", SERVER, "-e", f"release_dir={new}").stdout
    assert counts(said)[SERVER]["failed"] == 0
    runs = ours.ssh(SERVER, "tillstream --version; systemctl show -P MainPID tillstream-central@1-1").stdout
    assert NEW in runs
    assert wait_until(lambda: ours.sql(VERSION) == [[till, OLD] for till in ours.tills], 60)
    assert ours.sql(SPEAKS) == [["[1,2]"]]
    assert are_stored(ours)

    code, report, said = rolled(ours, "--release", new)
    assert (code, report["counts"]) == (0, {"upgraded": 3}), said
    assert (ours.sql(VERSION), ours.sql(SPEAKS)) == ([[till, NEW] for till in ours.tills], [["[1,2,3]"]])
    assert are_stored(ours)


def test_what_was_sold_through_all_of_it_is_stored_once_and_a_lost_document_would_be_seen(ours):
    """Central's count equals the tills'; one document less, or one twice, and it would not."""
    ours.stop_selling()
    closed = {till: ours.closed(till) for till in ours.tills}
    assert min(closed.values()) > 100
    assert wait_until(lambda: ours.stored() == closed, 60), (closed, ours.stored())

    ours.sql("DELETE FROM document WHERE id = (SELECT max(id) FROM document WHERE till_id = '042-02')")
    assert ours.stored() == closed | {"042-02": closed["042-02"] - 1}
