"""What docs/api.md says holds: its example runs, and its tables are those of the code."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from factories import NOW_MS
from test_api import fill
from test_console_process import running

from central import accounts, consumers
from central.api import problems
from central.api.app import describe
from central.consumer import Cursor
from central.database import Place
from central.pool import Pool
from central.rights import ACTIONS
from central.service import wall_clock_ms

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "api.md").read_text("utf-8")


def test_the_example_of_a_consumer_gets_every_document_once(tmp_path):
    """As it is printed, against a real console: all of them the first time, none the second."""
    url = str(tmp_path / "central.db")
    fill(url)
    with Pool(Place(url)) as pool, pool.changing("root"):
        secret = accounts.issue("erp", ["export"], None, wall_clock_ms())
        consumers.create("erp", Cursor(1, 0), NOW_MS)
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    with running(url) as (_process, address):
        environ = {**os.environ, "TILLSTREAM_URL": address, "TILLSTREAM_API_TOKEN": secret}
        command = [sys.executable, "-c", example.replace("limit=500", "limit=3")]
        first, second = (subprocess.run(command, env=environ, capture_output=True, text=True, check=True) for _ in "12")

    told = [line.split(" ", 2)[:2] for line in first.stdout.splitlines()]
    assert told == [["till-1", f"d{number}"] for number in range(1, 8)] + [["till-2", "e1"]]
    assert second.stdout == ""


def test_the_table_of_rights_is_the_one_that_counts():
    """Action by action, role and scope."""
    rows = re.findall(r"^\| `([\w.]+)` \| (\w+) \| `(\w+)` \|$", PAGE, re.MULTILINE)

    assert rows == [(action, right.role, right.scope) for action, right in ACTIONS.items()]


def test_every_code_of_a_problem_is_documented_and_none_is_made_up():
    """A program goes by them."""
    texts = [path.read_text("utf-8") for path in Path(problems.__file__).parent.glob("*.py")]
    used = set(re.findall(r'(?:ProblemError|problem)\(\s*\d{3}, "(\w+)"', "\n".join(texts)))
    used |= {code for _, code in problems._REFUSALS.values()}
    used |= {"method_not_allowed", "too_long", "refused"}

    assert set(re.findall(r"^\| `(\w+)` \| \d{3} \|", PAGE, re.MULTILINE)) == used


def test_every_path_of_the_api_is_named():
    """Whoever reads the page knows what there is."""
    words = re.sub(r"[`…?=&]|GET|POST|DELETE", " ", PAGE)
    for path in describe()["paths"]:
        assert path in words or "/" + path.rsplit("/", 1)[-1] in words, path
