"""The style that matters is a test: sizes, docstrings, the eight functions, what a till installs."""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("wire", "edge", "central", "broker", "ca", "fleet")
MODULES = [*sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py")), ROOT / "tillstream.py"]
ON_A_TILL = {"paho-mqtt", "peewee", "msgspec", "click"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_says_what_it_owns_and_stays_readable(path):
    """Each module opens with a sentence, and neither it nor its functions grow past what a reader takes in."""
    tree = ast.parse(path.read_text("utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = [node.name for node in functions if node.end_lineno - node.lineno > 50]

    assert (ast.get_docstring(tree) or "").strip()
    assert [] == long
    assert len(path.read_text("utf-8").splitlines()) <= 560


def test_the_readme_names_the_eight_functions_of_a_documents_path():
    """The table of the eight functions names functions that exist, in the README."""
    readme = (ROOT / "README.md").read_text("utf-8")
    names = re.findall(r"^\| [1-8] \| `([\w.]+)`", readme, re.MULTILINE)

    assert 8 == len(names)
    for name in names:
        module, owner, function = name.rsplit(".", 2)
        assert callable(getattr(getattr(importlib.import_module(module), owner), function))


def test_a_till_installs_four_libraries_and_no_more():
    """The base dependencies are the four that a till may have."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]

    assert {re.split(r"[<>=]", line)[0] for line in project["dependencies"]} == ON_A_TILL


def test_what_a_till_installs_needs_nothing_else_and_stays_under_ten_megabytes():
    """None of the four pulls in more, and together they are small."""
    size_bytes = 0
    for name in ON_A_TILL:
        installed = distribution(name)
        needs = [line for line in installed.requires or () if "extra ==" not in line and "platform_system" not in line]
        assert needs == []
        files = [Path(installed.locate_file(file)) for file in installed.files or ()]
        size_bytes += sum(file.stat().st_size for file in files if file.exists() and file.suffix != ".pyc")

    assert size_bytes <= 10_000_000


def test_our_package_names_are_ours_alone():
    """Plain package names are a risk when a stranger installs the same one: each has a single owner."""
    owners = packages_distributions()

    for room in ROOMS:
        assert set(owners.get(room, ["tillstream"])) == {"tillstream"}


def test_running_the_edge_loads_no_central_and_no_broker():
    """A till's command line imports the till's rooms only."""
    rooms = ("central", "broker", "ca", "fleet", "amqtt", "rich")
    code = f"import sys, edge.service, edge.cli; print([m for m in sys.modules if m.split('.')[0] in {rooms}])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert "[]" == done.stdout.strip()


def test_no_file_names_this_machine_or_a_registry():
    """What is committed must read the same everywhere."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("no git checkout")
    forbidden = re.compile(r"/(?:wor" + r"k|far" + r"m)/|(?:py" + r"pi|python" + r"hosted|npm" + r"js)\.(?:org|com)")
    files = [ROOT / name for name in listed.stdout.splitlines() if not name.endswith((".bin", ".svg", ".png"))]

    assert [] == [str(file) for file in files if file.exists() and forbidden.search(file.read_text("utf-8", "replace"))]


def test_each_test_that_boots_machines_may_be_skipped_and_no_other_of_the_rollout():
    """One that is not listed would fail the gate where no machine can be booted, and only there."""
    words = (sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "-m", "machines")
    own = {"cwd": ROOT, "env": os.environ | {"PYTEST_ADDOPTS": ""}}
    told = subprocess.run([*words, "tests/rollout"], **own, capture_output=True, text=True, check=True)
    listed = (ROOT / "tests/expected_skips.txt").read_text("utf-8")

    booting = set(re.findall(r"^tests/rollout/\S+::\S+", told.stdout, re.MULTILINE))
    assert booting
    assert booting == set(re.findall(r"^tests/rollout/\S+", listed, re.MULTILINE))
