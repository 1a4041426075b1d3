"""What central wants tills to do: settings of one till, of a tag or of the whole fleet, each with its revision.

The nearest counts, as a whole: a till's own before its tags' (of several the one changed last), those before the
fleet's. The table is the truth; the retained message is made from it, and the till tells which revision it runs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any, Literal, cast

import msgspec
import peewee as pw

from wire import automation, codec
from wire.automation import Automation
from wire.messages import Settings, TillLimits, said

from . import audit, days
from .models import Setting, Till, TillTag

Scope = Literal["fleet", "tag", "till"]

LOST_MOST = 1_000
"""So many revisions beyond central's own a till is believed to run: a restored backup may have lost some."""


class SettingsError(Exception):
    """The settings cannot be used; the text names the field and what would be right. Nothing was changed."""


class Body(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What is set: the automation as a whole, limits, or both."""

    automation: Automation | None = None
    limits: TillLimits | None = None


class _Shown(msgspec.Struct):
    """What a till said of its settings; without a boot id it has said nothing yet."""

    boot_id: str | None = None
    settings_revision: int = 0
    settings_refused: int = 0
    settings_error: str = ""


_read_shown = msgspec.json.Decoder(_Shown).decode


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a till is to run: a revision and the message that says it."""

    revision: int
    payload: bytes


def read(given: bytes) -> Body:
    """Return the settings that a person wrote as JSON; raises SettingsError that names the field."""
    try:
        body = msgspec.json.decode(given, type=Body)
        if body.automation:
            automation.check(body.automation)
    except (msgspec.DecodeError, automation.AutomationError) as problem:
        raise SettingsError(str(problem)) from problem
    if body == Body():
        raise SettingsError('nothing is set: give "automation", "limits" or both; `withdraw` takes settings back')
    size = len(_message(body, 2**53 - 1))
    if size > codec.SMALL_LIMIT_BYTES:
        raise SettingsError(f"{size} bytes as a message, at most {codec.SMALL_LIMIT_BYTES} are read by a till")
    return body


def put(scope: Scope, name: str, body: Body | None, at_ms: int, note: str) -> int:
    """Set what a till, a tag or the fleet is to do (None takes it back) and return the revision; audited.

    The same settings once more change nothing and keep their revision.
    """
    text = msgspec.json.encode(body).decode() if body else ""
    there = Setting.get_or_none((Setting.scope == scope) & (Setting.name == name))
    if (there.body if there else "") == text:
        return int(there.revision) if there else 0
    revision = 1 + _newest_revision()
    values = {"body": text, "revision": revision, "changed_at_ms": at_ms, "note": note}
    row = {Setting.scope: scope, Setting.name: name, **{getattr(Setting, key): one for key, one in values.items()}}
    Setting.insert(row).on_conflict(conflict_target=[Setting.scope, Setting.name], update=values).execute()
    audit.record("settings" if body else "settings withdrawn", f"{scope} {name}".strip(), note, at_ms)
    return revision


def _newest_revision() -> int:
    """Return the newest revision that was ever sent: after a restore a number must not name other settings."""
    own: int = Setting.select(pw.fn.MAX(Setting.revision)).scalar() or 0
    known = (
        max(shown.settings_revision, shown.settings_refused)
        for (presence,) in cast("list[tuple[str]]", list(Till.select(Till.presence).tuples()))
        for shown in [_read_shown(presence)]
    )
    return max([own, *(revision for revision in known if revision <= own + LOST_MOST)])


def get(scope: Scope, name: str) -> tuple[int, Body] | None:
    """Return revision and settings of a till, a tag or the fleet itself; None where nothing is set."""
    there = Setting.get_or_none((Setting.scope == scope) & (Setting.name == name))
    return (int(there.revision), msgspec.json.decode(there.body, type=Body)) if there and there.body else None


def places() -> list[dict[str, Any]]:
    """Return where something is set: the fleet, tags and tills, each with its revision, the newest first."""
    query = Setting.select().where(Setting.body != "").order_by(Setting.revision.desc())
    return [
        {"scope": row.scope, "name": row.name, "revision": row.revision, "changed_at_ms": row.changed_at_ms,
         "note": row.note, "body": _body(row)} for row in query
    ]  # fmt: skip


def is_known(till: str) -> bool:
    """Say whether a till of this name has ever connected."""
    return bool(Till.select().where(Till.till_id == till).exists())


def tagged(name: str) -> int:
    """Return how many tills have this tag."""
    count: int = TillTag.select().where(TillTag.tag == name).count()
    return count


def tag(till: str, name: str, at_ms: int, note: str, *, remove: bool = False) -> bool:
    """Put a tag on a till, or take it off; tells whether that changed anything. Raises LookupError."""
    if not is_known(till):
        raise LookupError(f"no till named {till} has ever connected")
    has = TillTag.select().where((TillTag.till_id == till) & (TillTag.tag == name)).exists()
    if has != remove:
        return False
    if remove:
        TillTag.delete().where((TillTag.till_id == till) & (TillTag.tag == name)).execute()
    else:
        TillTag.create(till_id=till, tag=name)
    audit.record("untag" if remove else "tag", f"till {till}: {name}", note, at_ms)
    return True


def standing() -> list[dict[str, Any]]:
    """Return, till by till, the revision that is wanted and what the till said of it; 0 is its own file."""
    tags = _tags()
    tills = sorted(days.rows("SELECT till_id, presence FROM till"))
    found = _nearest(_made(), [till for till, _ in tills], tags)
    rows = []
    for till, presence in tills:
        shown = _read_shown(presence)
        rows.append(
            {
                "till_id": till,
                "tags": " ".join(tags.get(till, [])),
                "wanted": found[till].revision if till in found else 0,
                "runs": None if shown.boot_id is None else shown.settings_revision,
                "refused": shown.settings_refused or None,
                "why": shown.settings_error,
            }
        )
    return rows


def wanted() -> dict[str, Wanted]:
    """Return what each till is to run; one that nothing is set for is not named."""
    made = _made()
    return _nearest(made, _tills(), _tags()) if made else {}


@dataclass(frozen=True, slots=True)
class Revisions:
    """Which revision counts for a till; 0 is its own file."""

    fleet: int
    tagged: dict[str, int]
    own: dict[str, int]

    def of(self, till: str) -> int:
        """Return the nearest: the till's own, that of its tags which was changed last, the fleet's."""
        return self.own.get(till) or self.tagged.get(till) or self.fleet


def wanted_revisions() -> Revisions:
    """Return which revisions are wanted, without what they say: by one statement."""
    by_tag = (Setting.scope == "tag") & (TillTag.tag == Setting.name)
    query = Setting.select(Setting.scope, Setting.name, Setting.revision, TillTag.till_id)
    query = query.join(TillTag, pw.JOIN.LEFT_OUTER, on=by_tag).where(Setting.body != "")
    found = Revisions(0, {}, {})
    for scope, name, revision, till in cast("list[tuple[str, str, int, str | None]]", list(query.tuples())):
        if scope == "fleet":
            found = replace(found, fleet=revision)
        elif scope == "till":
            found.own[name] = revision
        elif till is not None:
            found.tagged[till] = max(revision, found.tagged.get(till, 0))
    return found


Made = dict[tuple[str, str], Wanted]


def _made() -> Made:
    """Return what is set anywhere, by scope and name."""
    rows = list(Setting.select().where(Setting.body != "").order_by(Setting.revision))
    return {(row.scope, row.name): Wanted(row.revision, _message(_body(row), row.revision)) for row in rows}


def _nearest(made: Made, tills: list[str], tags: dict[str, list[str]]) -> dict[str, Wanted]:
    found = {}
    for till in tills:
        tagged = [made["tag", name] for name in tags.get(till, []) if ("tag", name) in made]
        newest = max(tagged, key=attrgetter("revision"), default=None)
        if one := made.get(("till", till)) or newest or made.get(("fleet", "")):
            found[till] = one
    return found


def _tags() -> dict[str, list[str]]:
    """Return each till's tags."""
    tags: dict[str, list[str]] = {}
    rows = TillTag.select(TillTag.till_id, TillTag.tag).order_by(TillTag.tag).tuples()
    for till, name in cast("list[tuple[str, str]]", list(rows)):
        tags.setdefault(till, []).append(name)
    return tags


def _tills() -> list[str]:
    return [till for (till,) in cast("list[tuple[str]]", list(Till.select(Till.till_id).tuples()))]


def _body(row: Setting) -> Body:
    return msgspec.json.decode(row.body, type=Body)


def _message(body: Body, revision: int) -> bytes:
    return codec.encode(said(Settings, revision=revision, automation=body.automation, limits=body.limits))
