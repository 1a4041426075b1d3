"""A share of the fuzz in the gate; the long run asks ``fuzzing.prove`` for tens of millions of the same cases."""

from __future__ import annotations

from collections import Counter
from typing import get_args

import fuzzing
import pytest
from factories import TILL
from fuzzing import TARGETS, prove, run, share, storable
from hostile import Hostile, documents

from central.judge import Code, judge
from wire.codec import SalesLimits, WireCode, WireError, unpack_sales

CASES, SEED = 300_000, 4711


@pytest.mark.fault("F22", "F23", "F44")
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_hostile_bytes_bring_out_nothing_but_what_is_promised(target):
    """Thousands of damaged and made-up inputs: a value that keeps its promises, or the room's own error."""
    found = run(target, share(target, CASES), SEED)

    assert found.failures == 0, found.told


def test_the_gate_tries_enough_and_the_long_run_leaves_nobody_out():
    """Over 200,000 cases here; of 22 million each target has at least half a million."""
    assert sum(share(target, CASES) for target in TARGETS) >= 200_000
    assert min(share(target, 22_000_000) for target in TARGETS) >= 500_000


def test_a_run_counts_its_cases_target_by_target():
    """What the long run prints is what was really tried."""
    counts = prove(2000, SEED)

    assert counts.pop("failures") == 0
    assert counts == {target.name: share(target, 2000) for target in TARGETS}


def test_the_same_seed_makes_the_same_cases():
    """A failure is found again from its seed."""
    corpus = documents()
    one, same, other = ([hostile.mutated(corpus) for _ in range(100)] for hostile in map(Hostile, (1, 1, 2)))

    assert one == same != other


def test_a_broken_promise_is_told_with_the_bytes_that_broke_it(monkeypatch, capsys):
    """A judge that raises is found at once, and the first case is shown."""

    def broken(_till, body):
        if b"\\ud800" in body:
            raise RecursionError("as if")
        return judge(TILL, body)

    monkeypatch.setattr(fuzzing, "judge", broken)

    assert prove(20_000, SEED)["failures"] > 0
    assert "judge, seed 4711, case" in (told := capsys.readouterr().out)
    assert "RecursionError('as if')" in told


# -- How far it reaches ------------------------------------------------------------------------------------------------


def test_the_documents_that_are_made_up_reach_every_verdict_of_the_judge():
    """A fuzz that is always refused at the first look proves nothing: every code comes up, and so do good ones."""
    hostile, corpus = Hostile(SEED), documents()
    bodies = (hostile.document() if number % 2 else hostile.mutated(corpus) for number in range(20_000))

    verdicts = Counter(getattr(judge(TILL, body), "code", "accepted") for body in bodies)

    assert verdicts["accepted"] > 2000
    assert set(get_args(Code)) - set(verdicts) == {"conflict", "unstorable"}, "which only the database can say"


def test_the_uploads_that_are_made_up_reach_every_refusal_of_the_codec():
    """Every code comes up among the first thousands, and so do good uploads."""
    feed, _ = next(target for target in TARGETS if target.name == "unpack").make()
    hostile, codes = Hostile(SEED), Counter()
    for _ in range(5000):
        try:
            unpack_sales(feed(hostile), SalesLimits(documents=2, inflated_bytes=1024))
            codes["taken"] += 1
        except WireError as problem:
            codes[problem.code] += 1

    assert codes["taken"] > 200
    assert set(get_args(WireCode)) <= set(codes)


# -- What is accepted can be stored ------------------------------------------------------------------------------------


@pytest.mark.fault("F22")
@pytest.mark.parametrize("seed", range(3))
def test_what_the_judge_accepts_both_databases_take_and_show_alike(seed, postgres):
    """Thousands of accepted documents go in, none is unstorable, and every view reads the same out of them."""
    stored, unstorable, shown = storable(10_000, seed)

    assert stored > 1000
    assert unstorable == 0
    assert len(shown["document_line"]) > 500
    assert storable(10_000, seed, postgres.new_database()) == (stored, 0, shown)
