"""The fleet gate: what central must see of a wave before the next one goes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from factories import NOW_MS

from central.fleet_gate import Asked, Judgement, Seen, judge, verdict
from wire.reasons import Reason

S = 1000
BEGAN_MS = NOW_MS - 900 * S
ASKED = Asked(version="2.0", since_ms=BEGAN_MS, soak_s=600)
WELL = Seen(
    version="2.0",
    is_online=True,
    running_since_ms=NOW_MS - 700 * S,
    verified_at_ms=NOW_MS - 650 * S,
    is_verified=True,
)
"""It runs the release for longer than was asked for, and all it ever rang for is here."""


@pytest.mark.parametrize(
    ("seen", "judgement"),
    [
        (WELL, Judgement("well")),
        (None, Judgement("waiting", "it has never connected")),
        (replace(WELL, version="1.0"), Judgement("waiting", "it shows version 1.0")),
        (replace(WELL, is_online=False), Judgement("waiting", "it is not connected")),
        (replace(WELL, is_online=None), Judgement("waiting", "it is not connected")),
        (replace(WELL, running_since_ms=NOW_MS - 60 * S, verified_at_ms=NOW_MS),
         Judgement("waiting", "it runs for 60 of 600 s")),
        (replace(WELL, verified_at_ms=NOW_MS - 701 * S),
         Judgement("waiting", "nothing has come from it since it runs")),
        (replace(WELL, is_verified=False), Judgement("waiting", "its outbox does not go down")),
        (replace(WELL, is_verified=False, moved_at_ms=NOW_MS - 59 * S), Judgement("well")),
        (replace(WELL, is_verified=False, moved_at_ms=NOW_MS - 61 * S),
         Judgement("waiting", "its outbox does not go down")),
        (replace(WELL, reasons=(Reason("intake_failing", BEGAN_MS + 1),)),
         Judgement("waiting", "it has a new trouble: intake_failing")),
        (replace(WELL, reasons=(Reason("intake_failing", BEGAN_MS - 1),)), Judgement("well")),
        (replace(WELL, reasons=(Reason("clock_skew", None, "+400"),)), Judgement("well")),
        (replace(WELL, quarantined=2), Judgement("ill", "2 of its documents were refused since the rollout began")),
        (replace(WELL, missing=1), Judgement("ill", "1 of its documents were found lost since the rollout began")),
        (replace(WELL, version="1.0", reasons=(Reason("version_unknown", 1, "till 3; central 1, 2"),)),
         Judgement("ill", "it has no wire version in common with central: till 3; central 1, 2")),
    ],
)  # fmt: skip
def test_a_till_is_judged_by_what_central_sees(seen, judgement):
    """Only a till that runs the release for long enough, is connected, and brings its documents, is well."""
    assert judge(seen, ASKED, NOW_MS) == judgement


def test_a_till_that_ran_the_release_before_the_rollout_soaks_from_its_beginning():
    """A canary that had the release by hand for weeks still stands the time that was asked for."""
    seen = replace(WELL, running_since_ms=NOW_MS - 10**9)

    assert judge(seen, replace(ASKED, since_ms=NOW_MS - 30 * S), NOW_MS).why == "it runs for 30 of 600 s"


@pytest.mark.parametrize(
    ("well", "waiting", "ill", "tolerate", "is_open", "is_hopeless"),
    [
        (1, 0, 0, 0, True, False),
        (9, 1, 0, 0, False, False),
        (9, 1, 0, 10, True, False),
        (9, 0, 1, 10, True, False),
        (8, 1, 1, 10, False, False),
        (8, 0, 2, 10, False, True),
        (0, 0, 1, 0, False, True),
    ],
)
def test_a_wave_goes_while_no_more_than_is_tolerated_fails(well, waiting, ill, tolerate, is_open, is_hopeless):
    """The limit may be reached and not passed; what cannot become well any more is not waited for."""
    kinds = [WELL] * well + [replace(WELL, is_online=False)] * waiting + [replace(WELL, quarantined=1)] * ill
    seen = {f"t{number}": one for number, one in enumerate(kinds)}

    found = verdict(seen, seen, ASKED, NOW_MS, tolerate)
    assert (found.is_open, found.is_hopeless, len(found.failing())) == (is_open, is_hopeless, waiting + ill)


def test_a_till_that_central_does_not_know_counts():
    """Whoever is named and was never seen is waited for: a canary that never connects must not open the gate."""
    found = verdict(["ghost"], {}, ASKED, NOW_MS, 0)

    assert (found.is_open, found.failing()) == (False, {"ghost": "it has never connected"})
