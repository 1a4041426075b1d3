"""What the playbooks count on: the order of the waves, when they stop, and the report that makes the exit code."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

ANSIBLE = Path(__file__).parent.parent / "ansible"


def plugin(path):
    """Return a plugin as Ansible would load it."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


plans = plugin(ANSIBLE / "plugins/filter/rollout_plan.py")
Till, plan = plans.Till, plans.plan


def chain(stores=10, lanes=2, canary="s00-1", **fields):
    return [
        Till(
            f"s{store:02}-{lane}",
            f"s{store:02}",
            lane,
            "canary" if f"s{store:02}-{lane}" == canary else "main",
            **fields,
        )
        for store in range(stores)
        for lane in range(1, lanes + 1)
    ]


def cut(made):
    """Return the waves of a plan."""
    waves, rest = [], list(made.waves)
    for size in made.sizes:
        waves.append(rest[:size])
        rest = rest[size:]
    assert rest == []
    return waves


# -- The order ---------------------------------------------------------------------------------------------------------


def test_the_waves_are_as_large_as_the_steps_say_and_bring_everybody_once():
    """5 %, 25 % and all, counted from the start; canaries are no part of them."""
    made = plan(chain(stores=100), ["5%", "25%", "100%"])

    assert (made.canaries, sum(made.sizes), made.online) == (["s00-1"], 199, 200)
    sizes = made.sizes
    assert [sizes[0], sum(sizes[:2])] == [10, 50]
    assert sorted([*made.canaries, *made.waves]) == sorted(one.name for one in chain(stores=100))


def test_even_lanes_go_before_odd_ones_so_a_store_never_goes_as_a_whole():
    """Also in the last wave, which has all that are left."""
    waves = cut(plan(chain(canary=None), ["100%"]))

    assert [{name[-1] for name in wave} for wave in waves] == [{"2"}, {"1"}]


def test_rings_go_one_after_the_other():
    """Early before main, whatever the store."""
    tills = [Till("b-1", "b", 1, "main"), Till("a-1", "a", 1, "early"), Till("c-1", "c", 1, "canary")]

    assert (plan(tills, ["100%"]).canaries, plan(tills, ["100%"]).waves) == (["c-1"], ["a-1", "b-1"])


def test_the_only_till_of_a_store_goes_like_any_other():
    """There is no half of one."""
    made = plan([Till("a-1", "a"), Till("b-1", "b"), Till("c-1", "c")], [1, "100%"])

    assert (made.waves, made.sizes) == (["a-1", "b-1", "c-1"], [1, 2])


def test_who_has_the_release_is_left_alone_but_a_canary_that_has_it_is_asked_for():
    """A second run has nothing to do, and still asks central how its canary stands."""
    made = plan(chain(is_done=True), ["5%", "100%"])

    assert (made.canaries, made.waves, made.sizes, made.to_do) == (["s00-1"], [], [], [])


def test_a_catch_up_has_no_canaries():
    """Its release is proven: who is of that ring goes with the others, and a store in two halves."""
    made = plan(chain(stores=2), ["100%"], by_rings=False)

    assert (made.canaries, cut(made)) == ([], [["s00-2", "s01-2"], ["s00-1", "s01-1"]])


def test_a_great_chain_is_planned_at_once():
    """Five thousand tills in under a second, and reported as fast."""
    started = time.monotonic()
    made = plan(chain(stores=1_000, lanes=5), ["5%", "25%", "100%"])

    assert (len(made.waves), time.monotonic() - started < 1) == (4_999, True)


stores = st.lists(st.integers(1, 5), min_size=1, max_size=8)
steps = st.lists(st.one_of(st.integers(1, 9), st.integers(0, 100).map("{}%".format)), max_size=4)


@given(stores, steps, st.randoms())
def test_no_wave_ever_holds_all_tills_of_a_store(lanes, wanted, random):
    """Whatever the stores, the steps, the rings and who has the release by now; and nobody is forgotten."""
    tills = [
        Till(f"{store}-{lane}", str(store), random.choice([lane, 0]), random.choice(plans.RINGS), random.random() < 0.2)
        for store, count in enumerate(lanes)
        for lane in range(count)
    ]
    made = plan(tills, wanted)
    there = Counter(one.store for one in tills)
    for wave in cut(made):
        for store, count in Counter(name.split("-")[0] for name in wave).items():
            assert count < there[store] or there[store] == 1, wave

    expected = {one.name for one in tills if one.ring != "canary" and not one.is_done}
    assert sorted(made.waves) == sorted(expected)


# -- When they stop ----------------------------------------------------------------------------------------------------


def told(**fields):
    return {
        "rollout_activated": {"rc": 0 if fields.get("ok") else 3, "stdout": f"Warning: x\r\n{json.dumps(fields)}\r\n"}
    }


SWITCHED, WENT_BACK = told(ok=True, changed=True), told(ok=False, why="it ended 3 times")
LOST = {"rollout_activated": {"unreachable": True, "msg": "timed out"}}
SKIPPED = {"rollout_activated": {"skipped": True, "changed": False}}
GARBAGE = {"rollout_activated": {"rc": 127, "stdout": "sh: till-release: not found\r\n"}}


@pytest.mark.parametrize(
    ("wave", "tolerate", "gate", "why"),
    [
        ([SWITCHED, SKIPPED], 0, None, ""),
        ([SWITCHED], 0, {"rc": 0}, ""),
        ([SWITCHED, WENT_BACK], 0, None, "t1: it ended 3 times"),
        ([SWITCHED] * 9 + [WENT_BACK], 10, None, ""),
        ([SWITCHED] * 8 + [WENT_BACK] * 2, 10, None, "t8: it ended 3 times; t9: it ended 3 times"),
        ([GARBAGE], 10, None, "t0: sh: till-release: not found"),
        ([LOST], 0, None, ""),
        ([LOST, SWITCHED, LOST], 10, None, "2 of 3 tills were lost while they switched: t0, t2"),
        ([SWITCHED], 0, {"rc": 3, "stdout": '{"failing": {"t0": "it is away"}}'}, "central: t0: it is away"),
        ([SWITCHED], 0, {"rc": 1, "stderr": "tillstream central: frozen"}, "central: tillstream central: frozen"),
        ([SWITCHED], 0, {"unreachable": True, "msg": "no route"}, "central: no route"),
        ([SWITCHED], 0, {}, "central: it did not answer"),
    ],
)  # fmt: skip
def test_a_wave_stops_the_rollout(wave, tolerate, gate, why):
    """By too many that went back or were lost, and by central, also when that cannot be asked."""
    known = {f"t{number}": one for number, one in enumerate(wave)}

    assert plans.rollout_why_stop([*known], known, tolerate, gate) == why


@pytest.mark.parametrize(
    ("status", "kind", "done"),
    [
        ({"release": "2", "agent": "2", "activation": None}, "rollout", True),
        ({"release": "2", "agent": "1", "activation": None}, "rollout", False),
        ({"release": "2", "agent": "2", "activation": "started"}, "rollout", False),
        ({"release": "1", "agent": "1", "activation": None}, "rollout", False),
        ({"release": "1", "agent": "1", "activation": None}, "rollback", True),
        ({"release": "2", "agent": None, "activation": None}, "rollback", False),
    ],
)
def test_a_till_is_done_when_the_release_is_the_one_that_runs(status, kind, done):
    """A rollback leaves those alone that are not on the release that is to be left."""
    known = {"t": {"rollout_knock": {"stdout": json.dumps(status)}}, "dead": {"rollout_knock": {"unreachable": True}}}
    made = plans.rollout_plan(["t", "dead"], known, "2", ["100%"], kind)

    assert (made["to_do"], made["online"]) == ([] if done else ["t"], 1)


# -- The report --------------------------------------------------------------------------------------------------------


@pytest.fixture
def report():
    """Return a report of a rollout of release 2 that has begun, and to which two tills answered."""
    pytest.importorskip("ansible")
    made = plugin(ANSIBLE / "plugins/callback/rollout_report.py").Report("rollout", "2", 0.0)
    made.heard("central", "rollout_begun", {"stdout": "7", "rc": 0})
    for till in ("a", "b"):
        made.heard(till, "rollout_knock", a_result(release="1", agent="1"))
    return made


def a_result(rc=0, **fields):
    return {"stdout": json.dumps(fields), "rc": rc}


def states(report):
    return {name: one["state"] for name, one in report.tills.items()}


def test_all_who_answered_and_switched_make_all(report):
    """With the release that each runs by now."""
    report.heard("a", "rollout_activated", a_result(ok=True, changed=True, release="2", was="1"))
    report.heard("b", "rollout_activated", a_result(ok=True, changed=False, release="2"))
    report.end()

    assert (report.outcome, report.number, states(report)) == ("all", 7, {"a": "upgraded", "b": "same"})
    assert report.tills["a"]["version"] == "2"


def test_a_till_that_was_not_reached_makes_some(report):
    """Dead at the knock, or lost while it switched."""
    report.lost("b", "rollout_knock", "timed out")
    report.heard("a", "rollout_activated", a_result(ok=True, changed=True, release="2"))
    report.end()
    assert (report.outcome, report.named("unreached")) == ("some", ["b"])

    report.lost("a", "rollout_activated", "timed out")
    assert report.tills["a"]["why"] == "its link was lost while it switched"


def test_a_till_that_went_back_by_itself_makes_some_and_is_named(report):
    """Within the limit the waves went on."""
    report.heard(
        "a", "rollout_activated", a_result(3, ok=False, release="1", bad="2", healthy=True, why="it ended 3 times")
    )
    report.heard("b", "rollout_activated", a_result(1, ok=False, release="1", why="not staged"))
    report.end()

    assert (report.outcome, states(report)) == ("some", {"a": "rolled_back", "b": "failed"})
    assert report.tills["a"]["why"] == "it ended 3 times"


def test_what_stops_before_a_switch_is_nothing_and_after_one_stopped(report):
    """So does a run that was killed: it never came to its end."""
    assert report.outcome == "nothing"
    report.failed("central", "", {"msg": "too few canaries"})
    assert (report.outcome, report.stopped_by) == ("nothing", "too few canaries")

    report.heard("a", "rollout_activated", a_result(ok=True, changed=True, release="2"))
    report.end()
    assert report.outcome == "stopped"


def test_a_till_that_cannot_be_staged_is_left_out_and_stops_nobody(report):
    """A full disk is that till's own trouble."""
    report.failed("a", "till_agent_staged", a_result(1, ok=False, why="no room"))
    report.heard("b", "rollout_activated", a_result(ok=True, changed=True, release="2"))
    report.end()

    assert (report.outcome, report.tills["a"]["why"]) == ("some", "not staged: no room")


def test_a_damaged_release_is_told_file_by_file(report):
    """What sha256sum says on both its outputs, without its sums of that."""
    said = {"rc": 1, "stdout": "a.whl: FAILED", "stderr": "sha256sum: WARNING: 1 computed checksum did NOT match"}
    report.failed("central", "rollout_checked", said)
    report.end()

    assert report.outcome == "nothing"
    assert report.stopped_by == "the release is not what make-release made: a.whl: FAILED"


def test_canaries_that_central_did_not_see_well_went_back(report):
    """One that does not is failed."""
    for till in ("a", "b"):
        report.heard(till, "rollout_activated", a_result(ok=True, changed=True, release="2", was="1"))
    report.heard("a", "rollout_undone", a_result(ok=True, changed=True, release="1"))
    report.heard("b", "rollout_undone", a_result(1, ok=False, release="2", why="disk"))
    report.failed("a", "", {"msg": "central: a: it is not connected"})

    assert (report.outcome, states(report)) == ("stopped", {"a": "rolled_back", "b": "failed"})


def test_central_that_is_not_reached_stops_it_and_is_no_till(report):
    """It was asked in the name of a till."""
    report.lost("a", "rollout_gate", "timed out")

    assert (report.stopped_by, states(report)["a"]) == ("central is not reached: timed out", "not_tried")


def test_a_report_is_one_that_central_takes(report):
    """Its fields and words are those of central's own."""
    from central.rollouts import read

    report.lost("b", "rollout_knock", "timed out")
    report.heard("a", "rollout_activated", a_result(ok=True, changed=True, release="2"))
    report.end()
    taken = read(json.dumps(report.as_json(1.0)).encode())

    assert (taken.outcome, {name: one.state for name, one in taken.tills.items()}) == ("some", states(report))


# -- bin/rollout -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--inventory"),
        (["-i", "x"], "--release DIR"),
        (["-i", "x", "--release", "nowhere"], "is no release"),
        (["rollback", "-i", "x", "--release", "y"], "--from VERSION"),
        (["rollback", "-i", "x"], "--from VERSION"),
        (["-i", "x", "--release", "y", "--from", "1"], "--from VERSION"),
        (["-i", "x", "--from", "1", "--limit", "@gone"], "--from VERSION"),
        (["rollback", "-i", "x", "--from", "1", "--limit", "@gone"], "cannot read gone"),
    ],
)
def test_a_command_line_that_cannot_be_is_refused_with_exit_code_1(words, said, tmp_path):
    """2 would mean that a gate stopped the waves."""
    command = [sys.executable, str(ANSIBLE / "bin/rollout"), *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)

    assert (done.returncode, said in done.stderr) == (1, True), done.stderr
    assert list(tmp_path.iterdir()) == []
