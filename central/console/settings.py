"""Settings: what the configuration says, the clocks of stores, the newest backup, how long bytes are kept."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Form, Request
from starlette.responses import Response

from central import decisions, rollouts
from central.accounts import User
from central.config import CentralConfig
from central.models import Backup
from central.service import wall_clock_ms

from . import lists
from .acts import Back, Note, deciding, done
from .guard import config_of, pool_of, requires
from .lists import Column, Shape
from .render import page
from .words import say

router = APIRouter(include_in_schema=False)

SECRET = frozenset({"token"})
"""Keys whose value is shown to nobody."""
GROUPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (say("Where the documents are kept"), ("database", "backup", "retention")),
    (say("Broker and identity"), ("broker", "token", "tls", "keepalive", "reconnect", "fleet", "deny", "approve")),
    (say("Console and API"), ("console", "export", "metrics", "language", "log")),
    (say("Uploads"), ()),
)
"""Which keys stand together, by how they begin; the last group has the rest."""
SHAPE = Shape(
    "/settings",
    say("Settings"),
    (Column("key", say("Key")), Column("value", say("Value")), Column("default", say("Default"))),
)


# -- Looking -----------------------------------------------------------------------------------------------------------


def configured(config: CentralConfig) -> list[dict[str, Any]]:
    """Return every key with its value and its default; a secret only says whether it is set."""
    defaults = CentralConfig()
    rows = []
    for name in config.__struct_fields__:
        value, default = getattr(config, name), getattr(defaults, name)
        is_changed = value != default
        if name in SECRET:
            value = "***" if value else ""
        rows.append({"key": name, "value": _plain(value), "default": _plain(default), "is_changed": is_changed})
    return rows


def grouped(rows: list[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Return the keys in their groups."""
    found: dict[str, list[dict[str, Any]]] = {title: [] for title, _ in GROUPS}
    for row in rows:
        word = row["key"].partition("_")[0]
        title = next((title for title, words in GROUPS if word in words), GROUPS[-1][0])
        found[title].append(row)
    return list(found.items())


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(msgspec.to_builtins(value))


def newest_backup() -> Backup | None:
    """Return the newest backup that was found whole; None where there is none."""
    found: Backup | None = Backup.select().order_by(Backup.id.desc()).first()
    return found


# -- The page ----------------------------------------------------------------------------------------------------------

Reader = Annotated[User, requires("settings.see")]
Word = Annotated[str, Form(max_length=64)]


@router.get("/settings")
def show(request: Request, _user: Reader) -> Response:
    """Show what is configured and what was decided."""
    config = config_of(request)
    with pool_of(request).reading():
        told: dict[str, Any] = {
            "backup": newest_backup(),
            "clocks": decisions.store_clocks(),
            "freezes": rollouts.freezes(wall_clock_ms()),
        }
    return page(request, "settings.html", **told, groups=grouped(configured(config)), config=config)


@router.get("/settings.{form}")
def as_file(request: Request, _user: Reader, form: lists.Form) -> Response:
    """Return the configuration."""
    return lists.file(SHAPE, configured(config_of(request)), form)


@router.post("/settings/stores")
def set_clock(
    request: Request, user: Annotated[User, requires("stores.set")], store: Word, zone: Word = "",
    cut_off: Annotated[str, Form(max_length=5)] = "", note: Note = "", back: Back = "",
) -> Response:  # fmt: skip
    """Set when a store's business day ends."""
    with deciding(), pool_of(request).changing(user.name):
        decisions.set_store_clock(store.strip(), zone or None, cut_off or None, wall_clock_ms(), note)
    return done(request, back, say("Store {store}: its clock is set."), otherwise="/settings", store=store)
