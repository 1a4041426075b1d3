"""Roles that tell the truth about themselves: their READMEs, their defaults, their names, and no secret in any file."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from role_tables import ROLES, names, readme, specs, tags

ANSIBLE = ROLES.parent
EXPECTED = {"ca", "broker", "database", "central", "till_base", "till_agent", "till_identity", "server_base"}
ENTRY_POINTS = ("main", "uninstall")


def test_the_roles_that_a_chain_needs_are_there():
    """Each part of a chain is a role of its own."""
    assert set(names()) >= EXPECTED


@pytest.mark.parametrize("role", names())
def test_the_readme_is_what_the_argument_specs_say(role):
    """After a change of argument_specs.yml: python tests/rollout/role_tables.py."""
    assert (ROLES / role / "README.md").read_text("utf-8") == readme(role)


@pytest.mark.parametrize("role", names())
def test_every_default_is_described_and_every_description_has_its_default(role):
    """What argument_specs.yml says a variable is without being set is what defaults/main.yml sets it to."""
    defaults = yaml.safe_load((ROLES / role / "defaults" / "main.yml").read_text("utf-8")) or {}
    options = specs(role)["main"].get("options", {})

    assert set(defaults) == {name for name, option in options.items() if not option.get("required")}
    for name, option in options.items():
        if "default" in option:
            assert option["default"] == defaults[name], name
        elif not option.get("required"):
            assert "{{" in str(defaults[name]), f"{name}: give its default in argument_specs.yml"


@pytest.mark.parametrize("role", sorted({*names()} - {"rollout"}))  # It leaves nothing on a machine.
def test_a_role_has_all_that_a_good_one_has(role):
    """Tags of its own, a way to be taken away, and variables that begin with its name."""
    assert {role, *(f"{role}_{part}" for part in ("prepare", "stage", "activate", "config"))} >= set(tags(role))
    assert role in tags(role)
    for entry in ENTRY_POINTS:
        assert (ROLES / role / "tasks" / f"{entry}.yml").exists()
        assert entry in specs(role)
    assert all(name.startswith(f"{role}_") for entry in specs(role).values() for name in entry.get("options", {}))


def test_the_linter_finds_nothing_in_its_production_profile():
    """ansible-lint, its strictest profile, without the internet."""
    words = [Path(sys.executable).with_name("ansible-lint"), "--offline", "--strict", "--nocolor", "-q"]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(words, cwd=ANSIBLE, capture_output=True, text=True, check=False, env=environment)

    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_nothing_but_builtin_modules_is_used():
    """No collection has to be fetched: every task's module is Ansible's own, by its full name."""
    found = set()
    for path in [*ROLES.rglob("tasks/*.yml"), *ROLES.rglob("handlers/*.yml"), *(ANSIBLE / "playbooks").glob("*.yml")]:
        found |= set(re.findall(r"^\s+(?:- )?([a-z_]+\.[a-z_]+\.[a-z_]+):", path.read_text("utf-8"), re.MULTILINE))

    assert {name.rpartition(".")[0] for name in found} == {"ansible.builtin"}
    assert not list(ANSIBLE.rglob("requirements.y*ml"))


SECRET = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----"
    r"|^\s*[\w-]*(?:password|passwd|secret|token|fleet_key|api_key)[\w-]*[ \t]*[:=]"
    r"[ \t]*[\"']?(?![\"'{\s/#]|$)[^\s\"']+",
    re.MULTILINE | re.IGNORECASE,
)


def secrets_in(folder):
    """Return the files below that hold what looks like a secret; vault files may, and nothing else."""
    files = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    found = []
    for path in files:
        text = path.read_text("utf-8", "replace")
        if path.name == "vault.yml":
            assert text.startswith("$ANSIBLE_VAULT;"), f"{path} is not encrypted: ansible-vault encrypt {path}"
        elif SECRET.search(text):
            found.append(path)
    return found


def test_secrets_are_in_vault_files_only(tmp_path):
    """No file of the rollout holds a key or a password, and the test would see one."""
    assert [] == secrets_in(ANSIBLE)

    for number, line in enumerate(("db_password: hunter2", "-----BEGIN EC PRIVATE KEY-----", "token = 'abc'")):
        (tmp_path / f"{number}.yml").write_text(f"a: 1\n{line}\n", "utf-8")
    (tmp_path / "fine.yml").write_text('password_file: /etc/x\ntoken: "{{ vault_token }}"\n', "utf-8")
    assert 3 == len(secrets_in(tmp_path))
    (tmp_path / "vault.yml").write_text("vault_token: abc\n", "utf-8")
    with pytest.raises(AssertionError, match="ansible-vault encrypt"):
        secrets_in(tmp_path)


@pytest.mark.parametrize("path", sorted(ROLES.rglob("*.yml")), ids=lambda path: str(path.relative_to(ROLES)))
def test_no_task_hides_what_it_does(path):
    """Errors are not ignored, and whatever runs a command says when that is a change."""
    tasks = yaml.safe_load(path.read_text("utf-8")) if {"tasks", "handlers"} & set(path.parts) else []
    for task in flat(tasks):
        assert not task.get("ignore_errors"), task["name"]
        runs = {"ansible.builtin.command", "ansible.builtin.shell", "ansible.builtin.raw"} & set(task)
        makes = any("creates" in (task[module] if isinstance(task[module], dict) else {}) for module in runs)
        assert not runs or makes or "changed_when" in task, task["name"]


def flat(tasks):
    for task in tasks or []:
        yield task
        for part in ("block", "rescue", "always"):
            yield from flat(task.get(part))
