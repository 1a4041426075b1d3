"""docs/reliability.md cannot promise what no test holds: its table is what the tests are marked with."""

from __future__ import annotations

import json

import pytest
from fault_table import CASES, PAGE, marked, table, told


@pytest.mark.parametrize("case", CASES)
def test_each_fault_case_is_covered_by_the_tests_that_the_page_names(case):
    """The page's row lists exactly the tests that carry the case's mark, and there is one at least."""
    tests = marked()[case]

    assert tests
    assert told(tests) == table()[case], "write it anew: python tests/fault_table.py"


def test_the_published_figures_are_those_that_were_measured():
    """What the page says of the long run is in docs/proof.json, as it came out."""
    proof = json.loads((PAGE.parent / "proof.json").read_text("utf-8"))
    page = PAGE.read_text("utf-8")

    for figures in proof["parts"].values():
        for name, value in figures.items():
            if isinstance(value, int) and name in ("faults", "runs", "cases", "lost", "doubled"):
                assert f"{value:,}" in page, (name, value)
