"""Every topic is built and parsed here, and who may write it; brokers' access rules are made from this table.

Pure. No other file puts a topic together.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

TILL_ID_PATTERN = r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}"
"""No dot: NATS splits subjects at dots. No wildcard and no slash: an id must never widen a filter."""

WORKER_PATTERN = r"[1-9][0-9]{0,2}"

_TILL_ID = re.compile(TILL_ID_PATTERN)
_WORKER = re.compile(WORKER_PATTERN)

CENTRAL_PREFIX = "central-"
_CENTRAL_USER = re.compile(rf"{CENTRAL_PREFIX}({WORKER_PATTERN})")

Party = Literal["till", "central"]


@dataclass(frozen=True, slots=True)
class Topic:
    """One row of the topic table: its shape, who writes it, and whether the broker keeps the last one."""

    name: str
    shape: str
    writer: Party
    retained: bool

    def of(self, *, till: str = "+", worker: int | str = "+") -> str:
        """Return the topic of one till or worker; what is left out becomes the wildcard ``+``."""
        return self.shape.format(till=till, worker=worker)


RECEIPT_CLOSED = Topic("receipt_closed", "till/{till}/receipt_closed", "till", retained=True)
UPLOAD_REQUEST = Topic("upload_request", "till/{till}/upload_request", "central", retained=False)
SALES = Topic("sales", "till/{till}/sales/{worker}", "till", retained=False)
SALES_STORED = Topic("sales_stored", "till/{till}/sales_stored", "central", retained=False)
TILL_PRESENCE = Topic("presence", "till/{till}/presence", "till", retained=True)
SETTINGS = Topic("settings", "till/{till}/settings", "central", retained=True)
CENTRAL_PRESENCE = Topic("central_presence", "central/{worker}/presence", "central", retained=True)

TOPICS = (RECEIPT_CLOSED, UPLOAD_REQUEST, SALES, SALES_STORED, TILL_PRESENCE, SETTINGS, CENTRAL_PRESENCE)

_TILL_TOPICS = {topic.name: topic for topic in TOPICS if topic.shape.startswith("till/")}


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed topic: which row of the table, which till and which worker (None where the row has none)."""

    topic: Topic
    till: str | None
    worker: int | None


def is_till_id(text: str) -> bool:
    """Say whether a text may name a till."""
    return _TILL_ID.fullmatch(text) is not None


def worker_of(user: str) -> int | None:
    """Return the number of the central worker that a user name stands for, None for any other name."""
    found = _CENTRAL_USER.fullmatch(user)
    return int(found[1]) if found else None


def is_till_user(user: str) -> bool:
    """Say whether a user name stands for a till: one that begins as central's do never does."""
    return is_till_id(user) and not user.startswith(CENTRAL_PREFIX)


def parse(topic: str) -> Address | None:
    """Return what a received topic names, or None if it is none of ours (wildcards are none of ours)."""
    parts = topic.split("/")
    if parts[0] == "till" and len(parts) in (3, 4):
        return _parse_till(parts)
    if parts[0] == "central" and len(parts) == 3 and parts[2] == "presence" and _WORKER.fullmatch(parts[1]):
        return Address(CENTRAL_PRESENCE, None, int(parts[1]))
    return None


def _parse_till(parts: list[str]) -> Address | None:
    row = _TILL_TOPICS.get(parts[2])
    if row is None or not _TILL_ID.fullmatch(parts[1]):
        return None
    if row is not SALES:
        return Address(row, parts[1], None) if len(parts) == 3 else None
    if len(parts) != 4 or not _WORKER.fullmatch(parts[3]):
        return None
    return Address(row, parts[1], int(parts[3]))
