"""Who may do what: one table, which the console's pages, the REST API and their tests go by. Pure.

A person has a role; each role may do all that the one before it may. A program has a token, and a token has scopes.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, get_args

Role = Literal["viewer", "operator", "administrator"]
Scope = Literal["read", "operate", "export", "admin"]

ROLES: tuple[Role, ...] = get_args(Role)
"""From the least to the most."""
SCOPES: tuple[Scope, ...] = get_args(Scope)
"""``read``: figures and states. ``operate``: what an operator does. ``export``: documents and consumers. ``admin``: the
rest."""


@dataclass(frozen=True, slots=True)
class Right:
    """What an action needs: at least this role of a person, this very scope of a token."""

    role: Role
    scope: Scope


_SEE, _OPERATE = Right("viewer", "read"), Right("operator", "operate")
_EXPORT, _ADMINISTER = Right("operator", "export"), Right("administrator", "admin")

ACTIONS: dict[str, Right] = {
    "overview.see": _SEE,
    "stores.see": _SEE,
    "tills.see": _SEE,
    "days.see": _SEE,
    "gaps.see": _SEE,
    "tasks.see": _SEE,
    "quarantine.see": _SEE,
    "consumers.see": _SEE,
    "automation.see": _SEE,
    "rollouts.see": _SEE,
    "settings.see": _SEE,
    "metrics.see": _SEE,
    # What was sold, by whom and to whom: a viewer reads a receipt on a page, a program needs to export.
    "documents.see": Right("viewer", "export"),
    "quarantine.bytes": Right("operator", "export"),
    "tills.request": _OPERATE,
    "tills.park": _OPERATE,
    "tills.unpark": _OPERATE,
    "tills.approve": _OPERATE,
    "tills.tag": _OPERATE,
    "stores.set": _OPERATE,
    "gaps.close": _OPERATE,
    "quarantine.retry": _OPERATE,
    "quarantine.discard": _OPERATE,
    "tasks.cancel": _OPERATE,
    "audit.see": _OPERATE,
    "consumers.create": _EXPORT,
    "consumers.read": _EXPORT,
    "consumers.acknowledge": _EXPORT,
    "consumers.rewind": _EXPORT,
    "consumers.remove": _ADMINISTER,
    "automation.change": _ADMINISTER,
    "rollouts.freeze": _ADMINISTER,
    "users.see": _ADMINISTER,
    "users.add": _ADMINISTER,
    "users.set_role": _ADMINISTER,
    "users.set_password": _ADMINISTER,
    "users.remove": _ADMINISTER,
    "tokens.issue": _ADMINISTER,
    "tokens.revoke": _ADMINISTER,
    # What each person may do for himself: language, theme, the own password.
    "self.change": Right("viewer", "admin"),
}
"""Every action by its name. A route that needs none of them is listed in ``OPEN``; a test walks both."""

OPEN = frozenset({"/login", "/healthz", "/readyz", "/api/v1/openapi.json"})
"""Paths that need no login; ``/static/`` needs none either."""


def may(role: str, action: str) -> bool:
    """Say whether a person of this role may; raises KeyError for an action that is not in the table."""
    needed = ACTIONS[action].role
    return role in ROLES and ROLES.index(role) >= ROLES.index(needed)


def covers(scopes: Collection[str], action: str) -> bool:
    """Say whether a token with these scopes covers it; raises KeyError for an action that is not in the table."""
    return ACTIONS[action].scope in scopes
