"""Who may publish, retain, subscribe to and receive which topic, made from the topic table of ``wire.topics``.

Pure. A till's name is its only right: it writes what tills write under its own id and reads what is written to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from wire.topics import CENTRAL_PREFIX, CENTRAL_PRESENCE, TOPICS, Address, Party, Topic, is_till_user, parse, worker_of

Action = Literal["publish", "retain", "subscribe", "receive"]


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a user name stands for: a till, or the central worker of that number."""

    user: str
    party: Party
    worker: int | None


@dataclass(frozen=True, slots=True)
class Grant:
    """One line of the access table: a party may write or read the topics of one shape."""

    party: Party
    access: Literal["write", "read"]
    topic: Topic
    pattern: str
    """With ``<till>`` for the till's own id, ``<worker>`` for the worker's own number and ``+`` for any."""


def identity(user: str) -> Identity | None:
    """Return who a user name stands for, or None if nobody may be called so."""
    if (worker := worker_of(user)) is not None:
        return Identity(user, "central", worker)
    return Identity(user, "till", None) if is_till_user(user) else None


def may(user: str, action: Action, topic: str) -> bool:
    """Say whether a user may do this with a topic (``subscribe``: with a topic or a filter)."""
    who = _known(user)
    if who is None:
        return False
    if action == "subscribe" and topic in filters(who):
        return True
    address = _address(topic)
    if address is None:
        return False
    if action in ("publish", "retain"):
        return _may_write(who, address) and (action == "publish" or address.topic.retained)
    return _may_read(who, address)


def filters(who: Identity) -> frozenset[str]:
    """Return the only filters with a wildcard that a user may subscribe to; exact topics go by ``receive``."""
    till, worker = ("+", who.worker) if who.party == "central" else (who.user, None)
    return frozenset(
        topic.of(till=till, worker="+" if topic is CENTRAL_PRESENCE else worker or "+")
        for topic in TOPICS
        if _reads(who.party, topic)
    )


def grants() -> Iterator[Grant]:
    """Yield the access table, one line for each right; brokers' rules and the printed table are made from it."""
    for party in ("till", "central"):
        own = {"till": {"till": "<till>"}, "central": {"worker": "<worker>"}}[party]
        for topic in TOPICS:
            if topic.writer == party:
                yield Grant(party, "write", topic, topic.of(**own))
            if _reads(party, topic):
                yield Grant(party, "read", topic, topic.of(**({} if topic is CENTRAL_PRESENCE else own)))


def mosquitto_acl(workers: int = 4, denied: frozenset[str] = frozenset()) -> str:
    """Return Mosquitto's ``acl_file``: patterns for the tills, a block for each central worker, and who has no rights.

    Its patterns hold for every user, so a worker may also use the topics of a till of the worker's own name; no till
    has such a name. Who is let in, and under which client id, is its password file's and its configuration's matter.
    """
    lines = ["# Made by `tillstream broker recipe mosquitto`.", "# Tills: %u is the till id."]
    table = tuple(grants())
    lines += [f"pattern {g.access} {g.pattern.replace('<till>', '%u')}" for g in table if g.party == "till"]
    for worker in range(1, workers + 1):
        if (user := f"{CENTRAL_PREFIX}{worker}") in denied:
            continue
        lines += ["", f"user {user}"]
        lines += [
            f"topic {g.access} {g.pattern.replace('<worker>', str(worker))}" for g in table if g.party == "central"
        ]
    for user in sorted(denied):
        lines += ["", f"user {user}", "topic deny #"]
    return "\n".join(lines) + "\n"


def _reads(party: Party, topic: Topic) -> bool:
    """Each party reads what the other writes; workers of central read each other's presence as well."""
    return topic.writer != party or topic is CENTRAL_PRESENCE


def _may_write(who: Identity, address: Address) -> bool:
    if address.topic.writer != who.party:
        return False
    return address.till == who.user if who.party == "till" else address.till is not None or address.worker == who.worker


def _may_read(who: Identity, address: Address) -> bool:
    if address.topic is CENTRAL_PRESENCE:
        return True
    if address.topic.writer == who.party:
        return False
    return address.till == who.user if who.party == "till" else address.worker in (None, who.worker)


# Both answers depend on the text alone, and a few thousand texts make up all the traffic of a fleet.
_known = lru_cache(maxsize=32_768)(identity)
_address = lru_cache(maxsize=65_536)(parse)
