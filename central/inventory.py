"""Tells Ansible which tills there are, as this central knows them: the shape that an inventory script prints."""

from __future__ import annotations

import re
from typing import Any

from .models import Till, TillTag

RINGS = ("canary", "early", "main")
"""Who gets a release first. A till's ring is its tag of that name; without one it is the last."""
_NO_GROUP = re.compile(r"[^A-Za-z0-9_]")
_LAST_DIGITS = re.compile(r"([0-9]{1,9})[^0-9]*$")


def inventory(address: str) -> dict[str, Any]:
    """Return all approved tills as groups with ``_meta``; parked ones are in a group of their own and in no other.

    ``address`` says where a till is reached: ``{till}`` in it becomes the id; empty leaves it to the names' resolution.
    """
    rings = {row.till_id: row.tag for row in TillTag.select().where(TillTag.tag << RINGS)}
    rows = list(Till.select().where(Till.is_approved).order_by(Till.till_id))
    active = [row for row in rows if row.parked_at_ms is None]
    groups: dict[str, list[str]] = {ring: [] for ring in RINGS}
    for row in active:
        groups[rings.get(row.till_id, RINGS[-1])].append(row.till_id)
        groups.setdefault(store_group(row.store_id), []).append(row.till_id)
    groups["parked"] = [row.till_id for row in rows if row.parked_at_ms is not None]
    hosts = {row.till_id: variables(row, rings.get(row.till_id, RINGS[-1]), address) for row in rows}
    found = {name: {"hosts": members} for name, members in groups.items()}
    return {"tills": {"children": list(RINGS)}, **found, "_meta": {"hostvars": hosts}}


def variables(till: Till, ring: str, address: str) -> dict[str, Any]:
    """Return what roles and rollouts ask of a till."""
    found: dict[str, Any] = {"store_id": till.store_id, "lane": lane(till.till_id), "ring": ring}
    return found | ({"ansible_host": address.replace("{till}", till.till_id)} if address else {})


def store_group(store_id: str) -> str:
    """Return the name of a store's group: Ansible takes letters, digits and _ only."""
    return f"store_{_NO_GROUP.sub('_', store_id)}"


def lane(till_id: str) -> int:
    """Return a till's number in its store: the last number in its id, 0 if there is none."""
    found = _LAST_DIGITS.search(till_id)
    return int(found[1]) if found else 0
