"""Knows which test covers which fault case: from the marks in the tests to the table in docs/reliability.md.

``python tests/fault_table.py`` writes the table's last column anew.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "reliability.md"
CASES = tuple(f"F{number:02}" for number in range(1, 46))
ROW = re.compile(r"^\| (F\d\d) \| (.*?) \|(.*?)\|$", re.MULTILINE)


@cache
def marked() -> dict[str, list[str]]:
    """Return the tests that name each case, as ``file: test``."""
    found: dict[str, list[str]] = {case: [] for case in CASES}
    for path in sorted(TESTS.rglob("test_*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        of_all = [one.value for one in tree.body if _marks_the_file(one)]
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                for case in _cases_of([*of_all, *node.decorator_list]):
                    found[case].append(f"{path.stem}: {node.name}")
    return found


def _marks_the_file(one: ast.stmt) -> bool:
    return isinstance(one, ast.Assign) and isinstance(one.targets[0], ast.Name) and one.targets[0].id == "pytestmark"


def _cases_of(marks: list[ast.expr]) -> list[str]:
    return [
        argument.value
        for mark in marks
        if isinstance(mark, ast.Call)
        if isinstance(mark.func, ast.Attribute) and mark.func.attr == "fault"
        for argument in mark.args
    ]


def told(tests: list[str]) -> str:
    """Return a cell: the tests by file, their names without the word that all begin with."""
    by_file: dict[str, list[str]] = {}
    for test in tests:
        file, _, name = test.partition(": ")
        by_file.setdefault(file, []).append(name.removeprefix("test_"))
    return "; ".join(f"`{file}`: {', '.join(names)}" for file, names in by_file.items())


def table() -> dict[str, str]:
    """Return the last column of the table as it stands in the page."""
    return {case: cell.strip() for case, _, cell in ROW.findall(PAGE.read_text("utf-8"))}


def main() -> None:
    """Write the last column anew."""
    found = marked()
    text = ROW.sub(lambda row: f"| {row[1]} | {row[2]} | {told(found[row[1]])} |", PAGE.read_text("utf-8"))
    PAGE.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
