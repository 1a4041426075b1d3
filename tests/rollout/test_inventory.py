"""Inventories: which tills there are, by a file and by central's database, in one shape, and fast enough."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from databases import look
from factories import NOW_MS, a_store, a_stream

from central.batch import NewStream
from central.cli import central
from central.inventory import lane, store_group

ANSIBLE = Path(__file__).parents[2] / "ansible"
EXAMPLE = ANSIBLE / "inventory" / "example"
TILLS = {"042-01": "canary", "042-02": "main", "043-01": "early", "043-02": "main"}


@pytest.fixture
def database(central_url):
    """Return a database with four tills, of which the last is parked."""
    store = a_store(central_url)
    for number, till in enumerate(TILLS, 1):
        store.open_streams([NewStream(till, a_stream(number), ())], {}, NOW_MS)
        store.database.run(f"UPDATE till SET store_id = '{till[:3]}' WHERE till_id = '{till}'")
    store.close()
    for till, ring in TILLS.items():
        if ring != "main":
            ask(central_url, "tills", "tag", till, ring)
    ask(central_url, "tills", "park", "043-02", "--note", "in repair")
    return str(central_url)


def ask(database, *arguments):
    done = CliRunner().invoke(central, ["--database", database, *arguments])
    assert done.exit_code == 0, done.output
    return done.output


def test_central_lists_its_tills_by_ring_and_store_and_parked_ones_apart(database):
    """What Ansible gets has every approved till once, and no rollout goes to a till that is parked."""
    told = json.loads(ask(database, "inventory", "--list", "--address", "{till}.example"))
    groups = {name: group["hosts"] for name, group in told.items() if name not in ("_meta", "tills")}

    assert ["canary", "early", "main"] == told["tills"]["children"]
    assert {
        "canary": ["042-01"],
        "early": ["043-01"],
        "main": ["042-02"],
        "store_042": ["042-01", "042-02"],
        "store_043": ["043-01"],
        "parked": ["043-02"],
    } == groups
    expected = {"store_id": "043", "lane": 1, "ring": "early", "ansible_host": "043-01.example"}
    assert expected == told["_meta"]["hostvars"]["043-01"]
    assert expected == json.loads(ask(database, "inventory", "--host", "043-01", "--address", "{till}.example"))


def test_a_till_that_nobody_knows_or_approved_is_no_host(database):
    """Asked for such a till the command fails and says where to look."""
    look(database, "UPDATE till SET is_approved = false WHERE till_id = '042-02'")
    told = json.loads(ask(database, "inventory", "--list"))

    assert "042-02" not in told["_meta"]["hostvars"]
    for till in ("042-02", "099-01"):
        done = CliRunner().invoke(central, ["--database", database, "inventory", "--host", till])
        assert 1 == done.exit_code
        assert "tillstream central tills" in done.output


def test_lanes_and_groups_are_made_of_ids():
    """The last number of an id is the lane; a group's name has only what Ansible takes."""
    assert [1, 12, 0, 7] == [lane(till) for till in ("042-01", "042-12", "kiosk", "a7-x")]
    assert "store_A_1_2" == store_group("A/1.2")


def test_the_file_gives_the_same_shape_as_central(database):
    """A playbook cannot tell where its inventory came from."""
    by_file = json.loads(subprocess.run([EXAMPLE / "tills.py"], capture_output=True, text=True, check=True).stdout)
    by_central = json.loads(ask(database, "inventory", "--list", "--address", "{till}"))

    assert set(by_file["_meta"]["hostvars"]["042-01"]) == set(by_central["_meta"]["hostvars"]["042-01"])
    assert {"tills", "canary", "early", "main", "store_042"} <= set(by_file) & set(by_central)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("042,042-01,,1,main", "was there already"),
        ("042,042 02,,1,main", "no till id"),
        ("042,042-02,,one,main", "no number"),
        ("042,042-02,,1,beta", "is none of"),
        ("042,042-02,,1", "columns"),
    ],
)
def test_a_line_that_is_wrong_is_named(tmp_path, line, named):
    """A typing mistake in the list of tills ends before anything is done, with its line."""
    script = shutil.copy(EXAMPLE / "tills.py", tmp_path)
    (tmp_path / "tills.csv").write_text(f"store,till,address,lane,ring\n042,042-01,,1,main\n{line}\n")
    done = subprocess.run([script], capture_output=True, text=True, check=False)

    assert 1 == done.returncode
    assert "line 3" in done.stderr
    assert named in done.stderr


def test_five_thousand_tills_are_read_in_two_seconds(tmp_path):
    """The tills of a large chain cost less than two seconds of one core beside what Ansible itself takes to start."""
    script = Path(shutil.copy(EXAMPLE / "tills.py", tmp_path))
    ids = ((number, f"{number // 5:04}") for number in range(5000))
    rows = [f"{store},{store}-{n % 5},10.0.{n // 250}.{n % 250},{n % 5},main" for n, store in ids]

    def seconds(lines):
        (tmp_path / "tills.csv").write_text("\n".join(["store,till,address,lane,ring", *lines]) + "\n")
        return min(processor_seconds(script, "0999-4", tmp_path) for _ in range(2))

    assert seconds(rows) - seconds(rows[-1:]) < 2.0


def processor_seconds(script, till, home):
    """Return what Ansible takes to read an inventory and to say where a till is."""
    command = [Path(sys.executable).with_name("ansible-inventory"), "-i", script, "--host", till]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environ = {**os.environ, "HOME": str(home)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environ)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "10.0.19.249" == json.loads(done.stdout)["ansible_host"]
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
