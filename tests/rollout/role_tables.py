"""Writes each role's README from its argument_specs.yml: what it does, its variables, its tags. Notes below them stay.

python tests/rollout/role_tables.py          write them all anew
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

ROLES = Path(__file__).parents[2] / "ansible" / "roles"
NOTES = "\n## Notes\n"


def names() -> list[str]:
    """Return the roles there are."""
    return sorted(path.name for path in ROLES.iterdir() if (path / "meta" / "argument_specs.yml").exists())


def specs(role: str) -> dict[str, Any]:
    """Return a role's entry points."""
    found: dict[str, Any] = yaml.safe_load((ROLES / role / "meta" / "argument_specs.yml").read_text("utf-8"))
    return dict(found["argument_specs"])


def readme(role: str) -> str:
    """Return what a role's README has to be, with the notes that are there."""
    entries = specs(role)
    path = ROLES / role / "README.md"
    notes = path.read_text("utf-8").partition(NOTES)[2] if path.exists() else ""
    lines = [f"# {role}", "", *_about(entries["main"]), "", "## Variables", "", *_table(entries["main"])]
    lines += ["", f"Tags: {', '.join(f'`{tag}`' for tag in tags(role))}.", ""]
    for name, entry in entries.items():
        if name != "main":
            lines += [f"## `tasks_from: {name}`", "", f"{entry['short_description']}.", "", *_table(entry), ""]
    return "\n".join(lines).rstrip() + "\n" + (NOTES + notes if notes else "")


def tags(role: str) -> list[str]:
    """Return the tags that a role's tasks carry."""
    text = (ROLES / role / "tasks" / "main.yml").read_text("utf-8")
    found = [tag.strip() for line in re.findall(r"^ *tags: \[(.*)\]$", text, re.MULTILINE) for tag in line.split(",")]
    return list(dict.fromkeys(found))


def _about(entry: dict[str, Any]) -> list[str]:
    told = [f"{entry['short_description']}.", ""]
    for paragraph in entry.get("description", []):
        told += [re.sub(r"C\(([^)]*)\)", r"`\1`", paragraph), ""]
    return told[:-1]


def _table(entry: dict[str, Any]) -> list[str]:
    options = entry.get("options", {})
    if not options:
        return ["It takes no variables."]
    rows = [f"| `{name}` | {_default(option)} | {option['description']} |" for name, option in options.items()]
    return ["| variable | default | what it is |", "|---|---|---|", *rows]


def _default(option: dict[str, Any]) -> str:
    if option.get("required"):
        return "required"
    return f"`{json.dumps(option['default'])}`" if "default" in option else "worked out"


if __name__ == "__main__":
    for one in names():
        (ROLES / one / "README.md").write_text(readme(one), "utf-8")
