"""Automation: actions, macros and events as on the manual page, the wizard for per-receipt upload, who runs what."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast, get_args

import msgspec
from fastapi import APIRouter, Form, Query, Request
from starlette.responses import Response

from central import settings
from central.accounts import User
from central.models import Till
from central.service import wall_clock_ms
from central.settings import Body, Scope, SettingsError
from wire import automation
from wire.automation import EVENT_TITLES, FACTORY, Automation, AutomationError, EventName
from wire.translation import Language

from . import lists
from .acts import PICKED_MAX, Back, Note, deciding, done
from .guard import pool_of, requires
from .lists import Column, Empty, Filter, Row, Shape, Wanted
from .render import language_of, page
from .words import say

router = APIRouter(include_in_schema=False)

Mark = Literal["+", "-", " "]
Tab = Literal["actions", "macros", "events"]

NAME_MAX = 64
"""So many characters a till's id or a tag has."""
TAG = re.compile(rf"[^\s\x00-\x1f\x7f]{{1,{NAME_MAX}}}")
TEXT_LIMIT_BYTES = 2 * automation.AUTOMATION_LIMIT_BYTES
"""So much is read of what a person wrote; blanks between count too."""
AROUND = 4
"""So many unchanged lines are shown around a change."""
PAGES_URL = "shell:///linuxcash/cash/sync/scripts/unloadSales.sh"
"""What the manual page has a till run."""
EVENTS: dict[EventName, str] = {
    "document_closed": say("After a document is closed"),
    "shift_opened": say("After a shift is opened"),
    "shift_closed": say("After a shift is closed"),
    "till_started": say("After the till has started"),
    "till_stopping": say("Before the till stops"),
    "link_restored": say("After the link is back"),
}
STANDS = (
    ("runs", say("runs what is wanted")),
    ("waits", say("has not taken it over yet")),
    ("refused", say("refused it")),
    ("unknown", say("has not said anything yet")),
)
SHAPE = Shape(
    "/automation/tills",
    say("Settings of the tills"),
    (
        Column("till_id", say("Till"), "link", is_sorted=True),
        Column("tags", say("Tags")),
        Column("wanted", say("Revision wanted"), "count", is_sorted=True),
        Column("runs", say("Revision shown"), "count", is_sorted=True),
        Column("stands", say("State"), "badge"),
        Column("refused", say("Revision refused")),
        Column("why", say("Why")),
    ),
    (Filter("stands", say("State"), STANDS), Filter("tag", say("Tag"))),
    sort="till_id",
)
EMPTY = Empty(say("No till is known yet."), say("A till is listed as soon as it connects."), "/tills")
_SEVERITY = {"runs": "fine", "waits": "wait", "refused": "act", "unknown": "unknown"}


class ChangedMeanwhileError(SettingsError):
    """Somebody else changed what is set there since it was looked at. Nothing was changed."""


@dataclass(frozen=True, slots=True)
class Place:
    """Whom settings are for."""

    scope: Scope = "fleet"
    name: str = ""

    @classmethod
    def of(cls, scope: str, name: str) -> Place:
        """Return the place that a URL or a form names; raises SettingsError."""
        name = name.strip()
        if scope not in get_args(Scope):
            raise SettingsError(f"scope: {scope[:20]!r}; right are {', '.join(get_args(Scope))}")
        if (scope == "fleet") == bool(name) or len(name) > NAME_MAX:
            raise SettingsError(f"name: a till or a tag has one of 1 to {NAME_MAX} characters, the fleet has none")
        return cls(cast("Scope", scope), name)

    def __str__(self) -> str:
        return f"{self.scope} {self.name}".strip()


@dataclass(frozen=True, slots=True)
class Change:
    """What would be set somewhere: its text, what that changes, and what a person may not have meant."""

    place: Place
    revision: int
    """What was set there when this was made; 0 is nothing."""
    text: str
    lines: tuple[tuple[Mark, str], ...]
    tills: int
    """How many tills it is for."""
    doubts: tuple[str, ...]
    steps: tuple[tuple[str, bool], ...] = ()
    """The manual page's six steps, and whether each is new."""

    @property
    def is_empty(self) -> bool:
        """Say whether it changes nothing."""
        return all(mark == " " for mark, _ in self.lines)


# -- Looking -----------------------------------------------------------------------------------------------------------


def there(place: Place) -> tuple[int, Body]:
    """Return what is set at a place, and its revision; 0 and nothing where nothing is."""
    return settings.get(place.scope, place.name) or (0, Body())


def tills(wanted: Wanted) -> list[Row]:
    """Return, till by till, the revision that is wanted and what the till said of it; by three statements."""
    rows = [row | {"stands": (how := _stands(row)), "severity": _SEVERITY[how]} for row in settings.standing()]
    how, tag = wanted.chosen["stands"], wanted.chosen["tag"]
    return [row for row in rows if how in ("", row["stands"]) and (not tag or tag in row["tags"].split())]


def _stands(row: Row) -> str:
    if row["runs"] is None:
        return "unknown"
    if row["refused"] and row["refused"] == row["wanted"]:
        return "refused"
    return "runs" if row["runs"] == row["wanted"] else "waits"


# -- Preparing a change ------------------------------------------------------------------------------------------------


def enabling(place: Place, url: str, language: Language, *, replace: bool) -> Change:
    """Return what the manual page's six steps would change; raises SettingsError."""
    revision, body = there(place)
    before = body.automation or FACTORY
    try:
        made, steps = automation.per_receipt_upload(before, url.strip(), replace=replace, language=language)
    except AutomationError as problem:
        raise SettingsError(str(problem)) from problem
    return _change(place, revision, body, msgspec.structs.replace(body, automation=made), steps)


def written(place: Place, text: str) -> Change:
    """Return what a person's own text would change; raises SettingsError that names the field."""
    given = text.encode()
    if len(given) > TEXT_LIMIT_BYTES:
        raise SettingsError(f"{len(given)} bytes, at most {TEXT_LIMIT_BYTES} are read")
    revision, body = there(place)
    return _change(place, revision, body, settings.read(given) if text.strip() else Body())


def _change(place: Place, revision: int, before: Body, after: Body, steps: tuple[tuple[str, bool], ...] = ()) -> Change:
    text = pretty(after)
    lines = tuple(_compared(pretty(before).splitlines(), text.splitlines()))
    return Change(place, revision, text, lines, _tills_of(place), tuple(_doubts(place, after)), steps)


def pretty(body: Body) -> str:
    """Return settings as text to read and to write; empty where nothing is set."""
    return msgspec.json.format(msgspec.json.encode(body), indent=2).decode() if body != Body() else ""


def _compared(before: list[str], after: list[str]) -> Iterator[tuple[Mark, str]]:
    """Yield the lines near a change with what becomes of them; all of them where nothing changes."""
    told = list(difflib.unified_diff(before, after, lineterm="", n=AROUND))[2:]
    for line in told or [f" {line}" for line in after]:
        yield (" ", "…") if line.startswith("@@") else (cast("Mark", line[0]), line[1:])


def _tills_of(place: Place) -> int:
    if place.scope == "tag":
        return settings.tagged(place.name)
    if place.scope == "till":
        return int(settings.is_known(place.name))
    count: int = Till.select().count()
    return count


def _doubts(place: Place, after: Body) -> Iterator[str]:
    if after == Body():
        yield say("Nothing will be set here any more: the next nearest settings count, else the till's own file.")
        return
    if place.scope != "fleet":
        yield say("The nearest settings count as a whole: what is set for the fleet does not count for these tills.")
    if after.automation is None:
        yield say("No automation is set here: the till's own counts.")
    if place.scope == "till" and not settings.is_known(place.name):
        yield say("No till of this name has connected yet.")
    if place.scope == "tag" and not settings.tagged(place.name):
        yield say("No till has this tag yet.")


# -- Doing -------------------------------------------------------------------------------------------------------------


def put(place: Place, text: str, was: int, note: str, at_ms: int) -> int:
    """Set what a preview showed, and return the revision; raises SettingsError, also if it changed meanwhile."""
    revision, _ = there(place)
    if revision != was:
        raise ChangedMeanwhileError(f"{place}: revision {was} was shown, {revision} is set by now: look at it again")
    body = settings.read(text.encode()) if text.strip() else None
    return settings.put(place.scope, place.name, body, at_ms, note)


def tag_all(tills: Sequence[str], name: str, note: str, at_ms: int, *, remove: bool) -> int:
    """Put a tag on tills, or take it off; returns of how many that changed something.

    Raises SettingsError for what can be no tag, and LookupError for a till that never connected.
    """
    if not TAG.fullmatch(name):
        raise SettingsError(f"tag: 1 to {NAME_MAX} characters without blanks are right")
    return sum(settings.tag(till, name, at_ms, note, remove=remove) for till in dict.fromkeys(tills))


def shown(body: Body) -> Automation:
    """Return the automation of settings as its three tables show it; a new till's where none is set."""
    return body.automation or FACTORY


def recipe(language: Language) -> tuple[str, ...]:
    """Return the six steps as they are typed into the POS vendor's own tool."""
    return automation.six_steps(PAGES_URL, language=language)


def event_title(name: EventName, language: Language) -> str:
    """Return what the manual page calls an event, or its English name."""
    return EVENT_TITLES[name] if language == "ru" else EVENTS[name]


# -- The pages ---------------------------------------------------------------------------------------------------------

Reader = Annotated[User, requires("automation.see")]
Administrator = Annotated[User, requires("automation.change")]
Named = Annotated[str, Query(max_length=2 * NAME_MAX)]
Typed = Annotated[str, Form(max_length=2 * NAME_MAX)]
Url = Annotated[str, Query(max_length=1024)]
TABS: dict[Tab, str] = {"actions": say("Actions"), "macros": say("Macros"), "events": say("Events")}
SCOPES = (("fleet", say("the whole fleet")), ("tag", say("tills with a tag")), ("till", say("one till")))


@router.get("/automation")
def show(request: Request, _user: Reader, scope: Named = "fleet", name: Named = "", tab: Tab = "actions") -> Response:
    """Show what is set at one place as actions, macros and events, and where else something is set."""
    with deciding(), pool_of(request).reading():
        place = Place.of(scope, name)
        revision, body = there(place)
        places = settings.places()
    names: dict[str, Any] = {"tabs": TABS, "scopes": SCOPES, "events": _events(request)}
    told: dict[str, Any] = {"place": place, "revision": revision, "body": body, "automation": shown(body)}
    return page(
        request,
        "automation.html",
        places=places,
        **told,
        **names,
        limits=msgspec.to_builtins(body.limits) or {},
        tab=tab,
        recipe=recipe(language_of(request)),
    )


def _events(request: Request) -> dict[str, str]:
    language = language_of(request)
    return {event: event_title(event, language) for event in EVENTS}


@router.get("/automation/tills")
def show_tills(request: Request, _user: Reader) -> Response:
    """Show which revision each till is to run and which one it said it runs."""
    wanted = Wanted.of(SHAPE, request)
    with pool_of(request).reading():
        rows = lists.arrange(wanted, tills(wanted))
    return page(request, "automation_tills.html", listed=lists.part(wanted, rows), empty=EMPTY, stands=dict(STANDS))


@router.get("/automation/tills.{form}")
def tills_as_file(request: Request, _user: Reader, form: lists.Form) -> Response:
    """Return how the tills that are chosen stand."""
    wanted = Wanted.of(SHAPE, request)
    with pool_of(request).reading():
        return lists.file(SHAPE, lists.arrange(wanted, tills(wanted)), form)


@router.get("/automation/wizard")
def wizard(
    request: Request, _user: Administrator, scope: Named = "", name: Named = "", url: Url = automation.RING_URL,
    replace: bool = False,
) -> Response:  # fmt: skip
    """Ask for whom per-receipt upload is to be switched on, and show what that would change before it does."""
    change, problem = None, ""
    if scope:
        try:
            with pool_of(request).reading():
                change = enabling(Place.of(scope, name), url, language_of(request), replace=replace)
        except SettingsError as refused:
            problem = str(refused)
    told = {"change": change, "problem": problem, "scopes": SCOPES}
    asked = {"scope": scope or "fleet", "name": name, "url": url, "replace": replace}
    return page(request, "automation_wizard.html", 422 if problem else 200, **told, asked=asked)


@router.get("/automation/edit")
def edit(request: Request, _user: Administrator, scope: Named = "fleet", name: Named = "") -> Response:
    """Show what is set at a place as text to write."""
    with deciding(), pool_of(request).reading():
        place = Place.of(scope, name)
        _, body = there(place)
    return page(request, "automation_edit.html", place=place, text=pretty(body), change=None, problem="", scopes=SCOPES)


@router.post("/automation/preview")
def preview(
    request: Request, _user: Administrator, scope: Typed, name: Typed = "",
    text: Annotated[str, Form(max_length=TEXT_LIMIT_BYTES)] = "",
) -> Response:  # fmt: skip
    """Show what a text would change; nothing is set by that."""
    change, problem = None, ""
    with deciding():
        place = Place.of(scope, name)
    try:
        with pool_of(request).reading():
            change = written(place, text)
    except SettingsError as refused:
        problem = str(refused)
    told = {"place": place, "text": text, "change": change, "problem": problem, "scopes": SCOPES}
    return page(request, "automation_edit.html", 422 if problem else 200, **told)


@router.post("/automation/put")
def set_it(
    request: Request, user: Administrator, scope: Typed, was: Annotated[int, Form(ge=0, le=2**53 - 1)],
    name: Typed = "", text: Annotated[str, Form(max_length=TEXT_LIMIT_BYTES)] = "", note: Note = "",
) -> Response:  # fmt: skip
    """Set what a preview showed."""
    with deciding(), pool_of(request).changing(user.name):
        place = Place.of(scope, name)
        revision = put(place, text, was, note, wall_clock_ms())
    told = say("Set as revision {revision}. The tills say here when they run it.")
    return done(request, "/automation/tills", told, otherwise="/", revision=revision)


Picked = Annotated[list[str], Form(max_length=PICKED_MAX)]
Tagger = Annotated[User, requires("tills.tag")]


@router.post("/automation/tag")
def put_tag(request: Request, user: Tagger, till: Picked, tag: Typed, note: Note = "", back: Back = "") -> Response:
    """Put a tag on the tills that are ticked."""
    return _tag(request, user, till, tag, note, back, remove=False)


@router.post("/automation/untag")
def take_tag(request: Request, user: Tagger, till: Picked, tag: Typed, note: Note = "", back: Back = "") -> Response:
    """Take a tag off the tills that are ticked."""
    return _tag(request, user, till, tag, note, back, remove=True)


def _tag(request: Request, user: User, till: list[str], tag: str, note: str, back: str, *, remove: bool) -> Response:
    with deciding(), pool_of(request).changing(user.name):
        changed = tag_all(till, tag.strip(), note, wall_clock_ms(), remove=remove)
    told = say("Tag {tag}: changed for {changed} of {of} tills.")
    return done(request, back, told, otherwise="/automation/tills", tag=tag.strip(), changed=changed, of=len(set(till)))
