"""Waves on twenty booted tills: who goes when, what stops them, who is told, and that no store ever goes as a whole."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import threading
import time
import zipfile
from random import Random

import pytest
from brokers import wait_until
from cables import counting_ssh
from click.testing import CliRunner
from processes import command_lines
from releases import changed, release, seal, version_of
from shops import Shops, installed

from central.cli import central

pytestmark = [pytest.mark.machines, pytest.mark.timeout(600)]

OLD = "0.1.0"
CRASHES = {"edge/service.py": [("from __future__ import annotations", "raise SystemExit(7)")]}
FAILS = {"edge/standing.py": [("troubles=self._told", 'troubles={"intake_failing": self._clock_ms()}')]}
"""It runs, answers and connects; only central is told that something is wrong with it."""
FAILS_IN = 'troubles={{"intake_failing": self._clock_ms()}} if self._config.store_id == "{store}" else self._told'
TILLS = {
    f"{store:03}-{lane:02}": (f"{store:03}", lane, "canary" if (store, lane) in ((42, 1), (51, 1)) else "main")
    for store in range(42, 52)
    for lane in (1, 2)
}
NO_OP_BYTES = 2_000
"""What a till that is right may be sent: ssh's own greeting and one question."""
FEW = "042-01,042-02,043-01,044-01"
LARGE = 1_200_000


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return the releases by name: the one that is installed, two good ones, and two bad ones."""
    folder, first = tmp_path_factory.mktemp("releases"), release()
    assert version_of(first) == OLD
    planted = {
        "good": ("0.1.1", None),
        "better": ("0.1.2", None),
        "crashes": ("0.2.1", CRASHES),
        "fails": ("0.2.2", FAILS),
    }
    others = {name: changed(first, folder / name, version, change) for name, (version, change) in planted.items()}
    return {"first": first, **others}


@pytest.fixture(scope="module")
def shops(made, tmp_path_factory):
    """Return twenty tills in ten stores, on the old release; the others are staged on each."""
    folder = tmp_path_factory.mktemp("shops")
    layers = installed(folder / "master", *made.values())
    with Shops(folder / "f", TILLS, layers) as shops:
        yield shops


def at_central(shops, *words):
    """Ask central, as a person would; returns what it printed."""
    told = CliRunner().invoke(central, ["--database", str(shops.database), "rollout", *map(str, words)])
    assert told.exit_code == 0, told.output
    return told.output


def wanted(shops, *words):
    return {row["till_id"]: row["wanted"] for row in json.loads(at_central(shops, "tills", "--json", *words))}


# -- What is refused before anything is touched ------------------------------------------------------------------------


def test_a_release_that_central_does_not_understand_is_refused(shops, made, tmp_path):
    """Its wire versions stand in it: exit code 4, no till is asked."""
    odd = changed(made["first"], tmp_path / "odd", "0.3.0")
    path = odd / "release.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), "wire_versions": [8, 9]}), "utf-8")
    seal(odd)
    ended = shops.roll(release=odd)

    assert (ended.code, ended.report["tills"]) == (4, {})
    assert "speaks wire version 8, 9, central 1, 2: upgrade central first" in ended.said


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        ("changed", "not what make-release made: click-8"),
        ("gone", "No such file or directory"),
        ("unlisted", "lacks click-8"),
    ],
    ids=["changed", "gone", "unlisted"],
)
def test_a_release_with_a_changed_byte_or_without_a_wheel_is_refused(shops, made, tmp_path, damage, why):
    """Before central or a till hears of it, by `stage` as by a rollout: exit code 4, and the file is named."""
    broken = changed(made["first"], tmp_path / "broken", "0.3.1")
    wheel = next(broken.glob("click-*.whl"))
    if damage == "changed":
        wheel.write_bytes(wheel.read_bytes()[:-1] + b"x")
    else:
        wheel.unlink()
    if damage == "unlisted":
        seal(broken)
    ended = shops.roll(kind="rollout" if damage == "changed" else "stage", release=broken)

    assert (ended.code, ended.report["tills"], ended.report["rollout"]) == (4, {}, None)
    assert why in ended.report["stopped_by"], ended.said
    assert wheel.name in ended.report["stopped_by"]


def test_a_second_rollout_a_freeze_and_another_hour_are_refused_with_the_reason(shops, made):
    """Exit code 4: nothing was done; what to do stands there."""
    later = [f"{(time.gmtime().tm_hour + hours) % 24:02}:00" for hours in (2, 3)]
    ended = shops.roll(release=made["good"], rollout_hours=f"{'-'.join(later)} UTC")
    assert (ended.code, "outside the hours" in ended.report["stopped_by"]) == (4, True), ended.said

    number = at_central(shops, "begin", "9.9", "--wire", "1").strip()
    ended = shops.roll(release=made["good"])
    assert (ended.code, f"rollout {number} of 9.9 is under way" in ended.said) == (4, True), ended.said
    at_central(shops, "abandon", number, "--note", "test")

    at_central(shops, "freeze", "--from", "2020-01-01", "--until", "2100-01-02", "--note", "Christmas")
    ended = shops.roll(release=made["good"])
    assert (ended.code, "frozen until 2100-01-0" in ended.said) == (4, True), ended.said
    at_central(shops, "thaw", json.loads(at_central(shops, "freezes", "--json"))[0]["id"])
    assert set(shops.runs().values()) == {OLD}


def test_without_a_canary_nothing_goes_out(shops, made):
    """It is dead, or nobody answers at all: exit code 4, where Ansible itself says 0."""
    shops.fleet.link("042-01", up=False)
    try:
        ended = shops.roll("--limit", FEW, release=made["good"])
        assert (ended.code, "too few canaries" in ended.said) == (4, True), ended.said
        rest = dict.fromkeys(("042-02", "043-01", "044-01"), "not_tried")
        assert ended.states() == {"042-01": "unreached", **rest}
        ended = shops.roll("--limit", "042-01", release=made["good"])
        assert (ended.code, "no till answered" in ended.said) == (4, True), ended.said
    finally:
        shops.fleet.link("042-01", up=True)
    assert set(shops.runs().values()) == {OLD}


# -- What stops the waves ----------------------------------------------------------------------------------------------


def test_a_release_that_crashes_ends_at_the_canary(shops, made):
    """It is back on the old one by itself, no other till has switched, exit code 2, and the reason is told."""
    started = time.monotonic()
    ended = shops.roll("--limit", FEW, release=made["crashes"])

    assert time.monotonic() - started < 60
    assert ended.code == 2, ended.said
    assert ended.states() == {"042-01": "rolled_back", **dict.fromkeys(("042-02", "043-01", "044-01"), "not_tried")}
    assert ended.report["stopped_by"].startswith("042-01: ")
    assert (ended.limit("failed"), set(shops.runs().values())) == (["042-01"], {OLD})
    assert shops.healthy("042-01") == OLD


def test_a_release_that_only_central_sees_to_be_sick_is_taken_back_from_the_canaries(shops, made):
    """The till finds itself healthy; the fleet gate does not, and the canary goes back."""
    ended = shops.roll("--limit", FEW, release=made["fails"], rollout_settle_s=3)

    assert ended.code == 2, ended.said
    assert "042-01: it has a new trouble: intake_failing" in ended.report["stopped_by"]
    assert ended.states()["042-01"] == "rolled_back"
    assert (shops.healthy("042-01"), set(shops.runs().values())) == (OLD, {OLD})
    assert wanted(shops, "--missed") == {}


def test_an_interrupted_rollout_is_ended_at_central(shops, made):
    """Whoever presses ^C or ends it leaves a report and no lock; what has switched stays."""
    with begun(shops, "--limit", "042-01", release=made["good"], rollout_soak_s=300) as (running, folder, log):
        path = folder / "report.json"
        assert wait_until(lambda: path.exists() and '"upgraded"' in path.read_text("utf-8"), 60), log.read_text("utf-8")
        running.send_signal(signal.SIGTERM)
        assert running.wait(60) == 2, log.read_text("utf-8")

    report = json.loads(path.read_text("utf-8"))
    assert (report["outcome"], report["tills"]["042-01"]["state"]) == ("stopped", "upgraded")
    (newest, *_) = json.loads(at_central(shops, "--json"))
    assert (newest["outcome"], newest["tills"]) == ("stopped", {"upgraded": 1})


@contextlib.contextmanager
def begun(shops, *words, **options):
    """Begin a rollout beside the test; gives its process, the folder of its report, and the file of what it says."""
    command, environment, folder = shops.start(*words, **options)
    inside = ["ip", "netns", "exec", shops.fleet._namespace("control"), *map(str, command)]
    path = folder.with_suffix(".log")
    with path.open("wb") as log:
        running = subprocess.Popen(
            inside, env=environment, cwd=shops.folder, start_new_session=True, stdout=log, stderr=log
        )
    try:
        yield running, folder, path
    finally:
        if running.poll() is None:
            running.terminate()
            running.wait(60)


# -- The whole way -----------------------------------------------------------------------------------------------------


def test_a_release_reaches_twenty_tills_in_waves_and_who_was_away_is_caught_up_with(shops, made):
    """Two tills are dead, one of two canaries among them, one's copy is damaged: 17 go, one goes back, exit code 3."""
    dead, damaged = ("046-02", "051-01"), "050-02"
    for till in dead:
        shops.fleet.link(till, up=False)
    (shops.fleet.root(damaged) / "opt/tillstream/releases/0.1.1/bin/tillstream").write_text("#!/bin/false\n", "utf-8")
    seen, stop = watch(shops)
    started = time.monotonic()
    ended = shops.roll(release=made["good"], rollout_max_fail_percent=20)
    stop.set()

    assert time.monotonic() - started < 180
    assert ended.code == 3, ended.said
    states = ended.states()
    assert (
        {till for till, state in states.items() if state == "unreached"} == set(dead) == set(ended.limit("unreached"))
    )
    assert (states[damaged], ended.limit("failed")) == ("rolled_back", [damaged])
    assert sum(state in ("upgraded", "same") for state in states.values()) == 17
    assert whole_stores(seen, dead) == set()
    assert set(wanted(shops).items()) == {(till, "0.1.1") for till in TILLS}

    for till in dead:
        shops.fleet.link(till, up=True)
    assert wait_until(lambda: len(shops.connected()) == len(TILLS), 60)
    ended = shops.roll(kind="catchup", release=made["good"])
    assert (ended.code, ended.states()) == (0, dict.fromkeys(dead, "upgraded")), ended.said
    ended = shops.roll(kind="catchup", release=made["good"])
    assert (ended.code, ended.report["tills"], ended.report["rollout"]) == (0, {}, None), ended.said
    assert {till: version for till, version in shops.runs().items() if version != "0.1.1"} == {damaged: OLD}


def watch(shops):
    """Note, until told to end, which tills are not connected, again and again."""
    seen, stop = set(), threading.Event()

    def look():
        while not stop.wait(0.1):
            seen.add(frozenset(set(TILLS) - set(shops.connected())))

    threading.Thread(target=look).start()
    return seen, stop


def whole_stores(seen, dead):
    """Return the stores of which every till was away at once, of those that have two that live."""
    stores = {store for store, _, _ in TILLS.values()} - {till[:3] for till in dead}
    return {store for away in seen for store in stores if {till for till in TILLS if till.startswith(store)} <= away}


def test_a_till_whose_link_is_cut_while_it_switches_holds_nobody_up(shops, made):
    """It ends on a healthy release by itself, is told as not reached, and the others go on: exit code 3."""
    lost = "044-02"
    with begun(shops, "--limit", f"042-01,{lost},045-01", release=made["better"]) as (running, folder, log):
        assert wait_until((shops.fleet.root(lost) / "opt/tillstream/pending.json").exists, 120), log.read_text("utf-8")
        shops.fleet.link(lost, up=False)
        started = time.monotonic()
        code = running.wait(120)
        shops.fleet.link(lost, up=True)

    report = json.loads((folder / "report.json").read_text("utf-8"))
    assert (code, time.monotonic() - started < 60) == (3, True), log.read_text("utf-8")
    assert (report["tills"][lost]["state"], report["tills"]["045-01"]["state"]) == ("unreached", "upgraded")
    assert shops.healthy(lost) in ("0.1.1", "0.1.2")


def test_a_second_run_changes_nothing_and_costs_a_till_one_question(shops, made):
    """Less than 2 kB by a new connection, its keys and names among it; a till at a slow link does not notice."""
    shops.fleet.forget_connections()
    with counting_ssh(shops.fleet, "045-01") as spent:
        before = shops.runs()
        ended = shops.roll("--limit", "042-01,045-01", release=made["better"])

    assert (ended.code, ended.states()) == (0, {"042-01": "same", "045-01": "same"}), ended.said
    assert shops.runs() == before
    print(f"a till that is right: {spent.payload} bytes sent, {spent.total} with headers, {spent.packets} packets")
    assert 0 < spent.payload <= NO_OP_BYTES


def test_a_rollback_brings_the_release_before_and_central_wants_it(shops):
    """Those that run the release that is to be left, and nobody else."""
    three, another = ("046-01", "046-02", "047-01"), "042-01"
    before = shops.runs()
    ended = shops.roll("--from", "0.1.1", "--limit", ",".join([*three, another]), kind="rollback")

    assert (ended.code, ended.states()) == (0, {**dict.fromkeys(three, "returned"), another: "same"}), ended.said
    assert shops.runs() == before | dict.fromkeys(three, OLD)
    assert {wanted(shops)[till] for till in three} == {OLD}


# -- What else may happen on the way -----------------------------------------------------------------------------------


def test_staging_goes_on_where_a_cut_link_ended_it(shops, made, tmp_path):
    """What had come stays, only the rest is sent again, and nothing that runs is touched."""
    till, large = "048-01", changed(made["first"], tmp_path / "large", "0.4.0")
    wheel = fill(next(large.glob("tillstream-*.whl")), LARGE)
    seal(large)
    there, runs, sent = shops.fleet.root(till) / "opt/tillstream/wheels", shops.runs(), shops.fleet.sent(till)[0]
    at_once = {"till_agent_bwlimit_kbytes": 200}
    with begun(shops, "--limit", till, kind="stage", release=large, **at_once) as (running, folder, log):
        assert wait_until(lambda: came(there / wheel.name) > 2 * LARGE // 3, 60), log.read_text("utf-8")
        shops.fleet.link(till, up=False)
        assert wait_until(lambda: not is_sending(large), 60), log.read_text("utf-8")
        shops.fleet.link(till, up=True)
        code = running.wait(120)

    assert (code, staged(folder)) == (0, {till: "staged"}), log.read_text("utf-8")
    assert "0.4.0" in shops.release(till, "status")["staged"]
    assert shops.runs() == runs
    again = shops.fleet.sent(till)[0] - sent - LARGE
    print(f"{again} bytes beside the {LARGE} of the wheel, after a cut at two thirds of it")
    assert again < LARGE // 2  # What was under way when the link was cut. Begun anew: two thirds of it.


def fill(wheel, size):
    """Put bytes into a wheel that no compression and no older wheel makes fewer."""
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("edge/ballast.bin", Random(4).randbytes(size))
    return wheel


def came(path):
    return path.stat().st_size if path.exists() else 0


def is_sending(folder):
    """Tell whether an rsync of this folder runs."""
    named = str(folder).encode()
    return any(named in line and line.partition(b"\0")[0].endswith(b"rsync") for _, line in command_lines())


def staged(folder):
    told = json.loads((folder / "report.json").read_text("utf-8"))["tills"]
    return {till: one["state"] for till, one in told.items()}


def test_waves_stop_where_central_finds_a_till_of_one_sick(shops, made, tmp_path):
    """The canary and the first wave are well, the second is not: exit code 2, and the third is not begun."""
    sick = {"edge/standing.py": [("troubles=self._told", FAILS_IN.format(store="043"))]}
    partly = changed(made["first"], tmp_path / "partly", "0.5.0", sick)
    before = shops.runs()
    ended = shops.roll("--limit", FEW, release=partly, rollout_waves=[1, 1, 1], rollout_settle_s=4)

    assert ended.code == 2, ended.said
    assert "043-01: it has a new trouble: intake_failing" in ended.report["stopped_by"]
    assert ended.states() == {**dict.fromkeys(("042-01", "042-02", "043-01"), "upgraded"), "044-01": "not_tried"}
    assert shops.runs()["044-01"] == before["044-01"]
