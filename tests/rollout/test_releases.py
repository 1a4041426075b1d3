"""What make-release makes, and how till-release writes, without a machine of its own."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys

import pytest
from releases import MAKE, ROOT, release

TOOL = ROOT / "ansible/roles/till_base/files/till_release.py"


@pytest.mark.machines  # Packing an interpreter takes Debian's own, and patchelf.
def test_a_release_holds_what_its_description_names_and_nothing_else():
    """Four libraries and ours for a till, whatever its Python; each file is under its checksum."""
    folder = release()
    told = json.loads((folder / "release.json").read_text("utf-8"))
    named = {name for part in ("till", "server") for names in told[part].values() for name in names}

    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=folder, check=True)
    assert named | set(told["python"].values()) | {"release.json", "SHA256SUMS"} == {p.name for p in folder.iterdir()}
    for names in told["till"].values():
        libraries = {name.split("-")[0] for name in names}
        assert libraries == {"click", "msgspec", "paho_mqtt", "peewee", "tillstream"}
    assert {target.split("-")[0] for target in told["till"]} == {"3.11", "3.13"}
    assert told["wire_versions"][0] == 1


def test_a_release_is_made_of_a_checkout_into_a_folder_of_its_own(tmp_path):
    """A folder that holds something, and a copy of the program that lies elsewhere, are refused; nothing is written."""
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/file").touch()
    stray = tmp_path / "somewhere/ansible/bin/make-release"
    stray.parent.mkdir(parents=True)
    shutil.copy(MAKE, stray)
    for program, out, why in ((MAKE, "taken", "not empty"), (stray, "new", "no checkout")):
        done = subprocess.run(
            [sys.executable, program, "--out", tmp_path / out], check=False, capture_output=True, text=True
        )
        assert (done.returncode, why in done.stderr) == (1, True), done.stderr
    assert list((tmp_path / "taken").iterdir()) == [tmp_path / "taken/file"]


def test_till_release_is_read_by_the_oldest_python_and_imports_nothing_of_ours():
    """Debian 11 has Python 3.9; the tool must work when no release does."""
    tree = ast.parse(TOOL.read_text("utf-8"), feature_version=(3, 9))
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]

    assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names


def test_each_step_is_on_the_disk_before_the_next(tmp_path):
    """Content before name, name before what follows: a file's fsync, its rename, the folder's fsync, in this order."""
    code = (
        f"import importlib.util as u, pathlib; s = u.spec_from_file_location('t', {str(TOOL)!r});"
        f"t = u.module_from_spec(s); s.loader.exec_module(t); t.ROOT = pathlib.Path({str(tmp_path)!r});"
        "t.note({}, 'begun'); t.point('current', '1'); t.drop('pending.json')"
    )
    trace = ["strace", "-qq", "-y", "-e", "trace=fsync,rename,symlink,symlinkat,unlink,unlinkat,renameat2"]
    said = subprocess.run([*trace, sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr
    lines = [line for line in said.splitlines() if str(tmp_path) in line]
    calls = [re.match(r"(\w+?)(?:at2?)?\(", line)[1] for line in lines]

    assert [call for call in calls if call != "unlink"] == [
        "fsync",
        "rename",
        "fsync",
        "symlink",
        "rename",
        "fsync",
        "fsync",
    ]
    assert calls[-2:] == ["unlink", "fsync"]
