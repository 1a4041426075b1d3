#!/usr/bin/env python3
"""Inventory script: the tills of the CSV file beside it (store,till,address,lane,ring), for ansible-playbook -i.

A till's host name is its id. The ring says who gets a release first: canary, early or main. Once central runs, it knows
the tills itself: `tillstream central inventory --list` prints the same shape.
"""

from __future__ import annotations

import csv
import json
import pathlib
import re
import sys
from collections.abc import Collection
from typing import Any

Row = dict[str, Any]

COLUMNS = ("store", "till", "address", "lane", "ring")
RINGS = ("canary", "early", "main")
TILL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def rows(path: pathlib.Path) -> list[Row]:
    """Return the rows of the file; ends with a message that names the line which is wrong."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            sys.exit(f"{path}: the first line has to be {','.join(COLUMNS)}")
        found: dict[str, Row] = {}
        for row in reader:
            wrong = wrong_of(row, found)
            if wrong:
                sys.exit(f"{path}, line {reader.line_num}: {wrong}")
            found[row["till"]] = row
    return list(found.values())


def wrong_of(row: Row, known: Collection[str]) -> str:
    """Return what is wrong with a row, nothing if all is well."""
    if None in row or None in row.values():
        return f"there have to be {len(COLUMNS)} columns"
    if not TILL.fullmatch(row["till"]):
        return f"{row['till']!r} is no till id"
    if row["till"] in known:
        return f"till {row['till']} was there already"
    if row["ring"] not in RINGS:
        return f"ring {row['ring']!r} is none of {', '.join(RINGS)}"
    return "" if row["lane"].isdecimal() else f"lane {row['lane']!r} is no number"


def inventory(tills: list[Row]) -> dict[str, Any]:
    """Return what Ansible asks of an inventory script, all hosts' variables with it."""
    groups: dict[str, list[str]] = {ring: [] for ring in RINGS}
    for row in tills:
        for name in (row["ring"], "store_" + re.sub(r"[^A-Za-z0-9_]", "_", row["store"])):
            groups.setdefault(name, []).append(row["till"])
    hosts = {row["till"]: variables(row) for row in tills}
    found = {name: {"hosts": members} for name, members in groups.items()}
    return {"tills": {"children": list(RINGS)}, **found, "_meta": {"hostvars": hosts}}


def variables(row: Row) -> dict[str, Any]:
    """Return a till's variables; without an address its name is looked up."""
    found: dict[str, Any] = {"store_id": row["store"], "lane": int(row["lane"]), "ring": row["ring"]}
    return {**found, "ansible_host": row["address"]} if row["address"] else found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(inventory(rows(pathlib.Path(__file__).with_name("tills.csv")))) + "\n")
