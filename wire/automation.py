"""Actions, macros and events: what a till does when something happens, in the words of the manual page. Pure.

An *action* is one command with parameters, a *macro* an ordered list of actions, an *event* is bound to one macro.
The till runs them; central may send them. Both check them here, as a whole: one wrong line, and nothing of it is used.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

CommandName = Literal["COMMAND_OPERATION", "COMMAND_UPLOAD_SALES", "COMMAND_CLOSE_SHIFT"]
EventName = Literal["document_closed", "shift_opened", "shift_closed", "till_started", "till_stopping", "link_restored"]
Language = Literal["en", "ru"]

Code = Annotated[int, Meta(ge=1, le=9999)]
Name = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f]*$(?!\n)")]
Value = Annotated[str, Meta(max_length=1024, pattern=r"^[^\x00-\x1f]*$(?!\n)")]
ACTIONS_MAX = 100
STEPS_MAX = 16
AUTOMATION_LIMIT_BYTES = 60 * 1024
"""As JSON; with its envelope it must fit a small message."""
QUOTED_MAX = 300
"""How much is told of what could not be read: it may quote what was given."""


class Parameter(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A parameter of an action, such as ``url``."""

    name: Name
    value: Value


class Action(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One command with its parameters, in order."""

    code: Code
    name: Name
    command: CommandName
    parameters: Annotated[tuple[Parameter, ...], Meta(max_length=STEPS_MAX)] = ()


class Macro(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Actions by code, carried out in order."""

    code: Code
    name: Name
    actions: Annotated[tuple[Code, ...], Meta(max_length=STEPS_MAX)] = ()


Coded = TypeVar("Coded", bound=Action | Macro)


class Automation(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """All actions and macros of a till, and which macro each event runs."""

    actions: Annotated[tuple[Action, ...], Meta(max_length=ACTIONS_MAX)] = ()
    macros: Annotated[tuple[Macro, ...], Meta(max_length=ACTIONS_MAX)] = ()
    events: dict[EventName, Code] = {}


FACTORY = Automation(
    actions=(
        Action(code=1, name="Закрытие смены", command="COMMAND_CLOSE_SHIFT"),
        Action(code=2, name="Выгрузка текущих продаж", command="COMMAND_UPLOAD_SALES"),
    ),
    macros=(
        Macro(code=1, name="Закрытие смены", actions=(1,)),
        Macro(code=2, name="Выгрузка текущих продаж", actions=(2,)),
    ),
)
"""What a new till has: two macros to start by hand, and no event bound."""

EVENT_TITLES: dict[EventName, str] = {
    "document_closed": "Действия после закрытия документа",
    "shift_opened": "Действия после открытия смены",
    "shift_closed": "Действия после закрытия смены",
    "till_started": "Действия после запуска кассы",
    "till_stopping": "Действия перед остановкой кассы",
    "link_restored": "Действия после восстановления связи",
}


class AutomationError(ValueError):
    """An automation that is refused; the text names what is wrong in it and what would be right."""


# -- What macros do ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ring:
    """Ring at central; urgently past its debounce."""

    urgent: bool = False


@dataclass(frozen=True, slots=True)
class RunScript:
    """Run a script that root has placed."""

    path: str


@dataclass(frozen=True, slots=True)
class ShowStatus:
    """Log how the till stands, and publish its presence."""


Step = Ring | RunScript | ShowStatus

RING_URL = "tillstream://ring"
_OWN_URLS: dict[str, Step] = {
    RING_URL: Ring(),
    "tillstream://upload": Ring(urgent=True),
    "tillstream://status": ShowStatus(),
}
_SHELL = "shell://"
_PATH = re.compile(r"(?:/[A-Za-z0-9._-]+)+")


def steps(automation: Automation, macro_code: int) -> tuple[Step, ...]:
    """Return what a macro does, in order; raises AutomationError if there is none with this code, or it is broken."""
    macros = {macro.code: macro for macro in automation.macros}
    actions = {action.code: action for action in automation.actions}
    if macro_code not in macros:
        raise AutomationError(f"macro {macro_code} does not exist; {_there_are('macros', macros)}")
    return tuple(_step(actions[code]) for code in macros[macro_code].actions)


def _step(action: Action) -> Step:
    match action.command:
        case "COMMAND_CLOSE_SHIFT":
            return Ring(urgent=True)
        case "COMMAND_UPLOAD_SALES":
            return Ring()
    return step_of(action.parameters[0].value)


def step_of(url: str) -> Step:
    """Return what a ``url`` does; raises AutomationError that tells which are known."""
    if url in _OWN_URLS:
        return _OWN_URLS[url]
    path = url.removeprefix(_SHELL)
    if path == url:
        raise AutomationError(f"url {url!r}: known are {', '.join(_OWN_URLS)} and shell:///absolute/path")
    if not _PATH.fullmatch(path) or {".", ".."} & set(path.split("/")):
        raise AutomationError(
            f"url {url!r}: after shell:// comes an absolute path of letters, digits, dot, underscore and hyphen,"
            " without `.`, `..`, doubled slashes or arguments"
        )
    return RunScript(path)


# -- Checking ----------------------------------------------------------------------------------------------------------


def decode(given: bytes) -> Automation:
    """Return an automation given as JSON, checked as a whole; raises AutomationError."""
    if len(given) > AUTOMATION_LIMIT_BYTES:
        raise AutomationError(f"{len(given)} bytes, an automation has at most {AUTOMATION_LIMIT_BYTES}")
    try:
        automation = msgspec.json.decode(given, type=Automation)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise AutomationError(str(problem)[:QUOTED_MAX]) from problem
    check(automation)
    return automation


def encode(automation: Automation) -> bytes:
    """Return an automation as JSON that a person can read; raises AutomationError if it is too large."""
    text = msgspec.json.format(msgspec.json.encode(automation), indent=2) + b"\n"
    if len(text) > AUTOMATION_LIMIT_BYTES:
        raise AutomationError(f"{len(text)} bytes, an automation has at most {AUTOMATION_LIMIT_BYTES}")
    return text


def check(automation: Automation) -> None:
    """Check bounds, that codes are unique, that what is named exists, and that each command has what it needs.

    Raises AutomationError that names the action, macro or event, and what would be right.
    """
    try:
        msgspec.convert(msgspec.to_builtins(automation), Automation)
    except msgspec.ValidationError as problem:
        raise AutomationError(str(problem)) from problem
    action_codes = [action.code for action in automation.actions]
    macro_codes = [macro.code for macro in automation.macros]
    _refuse_twice("action", action_codes)
    _refuse_twice("macro", macro_codes)
    for action in automation.actions:
        _check_action(action)
    for macro in automation.macros:
        for code in macro.actions:
            if code not in action_codes:
                raise AutomationError(
                    f"macro {macro.code} «{macro.name}»: action {code} does not exist;"
                    f" {_there_are('actions', action_codes)}"
                )
    for event, code in automation.events.items():
        if code not in macro_codes:
            raise AutomationError(f"event {event}: macro {code} does not exist; {_there_are('macros', macro_codes)}")


def _refuse_twice(what: str, codes: list[int]) -> None:
    twice = [code for code, times in Counter(codes).items() if times > 1]
    if twice:
        raise AutomationError(f"{what} {twice[0]}: the code is used twice; each {what} needs a code of its own")


def _check_action(action: Action) -> None:
    where = f"action {action.code} «{action.name}»"
    names = [parameter.name for parameter in action.parameters]
    if action.command != "COMMAND_OPERATION":
        if names:
            raise AutomationError(f"{where}: {action.command} takes no parameters, it has {', '.join(names)}")
        return
    if names != ["url"]:
        has = ", ".join(names) or "none"
        raise AutomationError(f"{where}: COMMAND_OPERATION takes exactly one parameter, url; it has {has}")
    try:
        step_of(action.parameters[0].value)
    except AutomationError as problem:
        raise AutomationError(f"{where}: {problem}") from None


def _there_are(what: str, codes: Iterable[int]) -> str:
    return f"{what} are {', '.join(map(str, sorted(codes))) or 'none'}"


# -- Per-receipt upload ------------------------------------------------------------------------------------------------

PER_RECEIPT_NAME = "Почечковая выгрузка"
PER_RECEIPT_CODE = 3
_SIX_STEPS: dict[Language, tuple[str, ...]] = {
    "ru": (
        "Создать действие: код {action}, наименование «{name}»",
        "Выбрать команду действия {action}: COMMAND_OPERATION",
        "Добавить параметр действия {action}: url = {url}",
        "Создать макрос: код {macro}, наименование «{name}»",
        "Добавить параметр макроса {macro}: действие {action}",
        "Назначить событию «{event}» макрос {macro}",
    ),
    "en": (
        "Make an action: code {action}, name «{name}»",
        "Choose the command of action {action}: COMMAND_OPERATION",
        "Add a parameter to action {action}: url = {url}",
        "Make a macro: code {macro}, name «{name}»",
        "Add a parameter to macro {macro}: action {action}",
        "Bind macro {macro} to the event «{event}»",
    ),
}


def six_steps(
    url: str, action_code: int = PER_RECEIPT_CODE, macro_code: int = PER_RECEIPT_CODE, language: Language = "en"
) -> tuple[str, ...]:
    """Return the manual page's six steps to per-receipt upload."""
    words = {"action": action_code, "macro": macro_code, "url": url}
    names = {"name": PER_RECEIPT_NAME, "event": EVENT_TITLES["document_closed"]}
    return tuple(step.format(**words, **names) for step in _SIX_STEPS[language])


def with_per_receipt_upload(
    automation: Automation, url: str = RING_URL, *, replace: bool = False, language: Language = "en"
) -> tuple[Automation, tuple[str, ...]]:
    """Return the automation with all six steps done, and those that were not done before, as text.

    Where the event runs another macro already, raises AutomationError unless that may be replaced.
    """
    after, told = per_receipt_upload(automation, url, replace=replace, language=language)
    return after, tuple(step for step, is_new in told if is_new)


def per_receipt_upload(
    automation: Automation, url: str = RING_URL, *, replace: bool = False, language: Language = "en"
) -> tuple[Automation, tuple[tuple[str, bool], ...]]:
    """Do as ``with_per_receipt_upload``, and return all six steps, each with whether it was new."""
    step_of(url)
    action = _action_for(automation, url, replace=replace)
    macro = _macro_for(automation, action.code)
    bound = automation.events.get("document_closed")
    if bound not in (None, macro.code) and not replace:
        raise AutomationError(
            f"event document_closed runs macro {bound} already; replace that, or add an action with url {url} to it"
        )
    after = Automation(
        actions=_with(automation.actions, action),
        macros=_with(automation.macros, macro),
        events={**automation.events, "document_closed": macro.code},
    )
    check(after)
    is_new_action = action.code not in {known.code for known in automation.actions}
    is_new_macro = macro not in automation.macros
    is_new = (
        is_new_action, is_new_action, action not in automation.actions, is_new_macro, is_new_macro, bound != macro.code,
    )  # fmt: skip
    return after, tuple(zip(six_steps(url, action.code, macro.code, language), is_new, strict=True))


def _action_for(automation: Automation, url: str, *, replace: bool) -> Action:
    """Return the action that does this already, the page's one with its url set anew, or a new one."""
    parameters = (Parameter(name="url", value=url),)
    ours = [action for action in automation.actions if action.parameters == parameters]
    if ours:
        return ours[0]
    named = [action for action in automation.actions if action.name == PER_RECEIPT_NAME]
    if named and replace:
        return msgspec.structs.replace(named[0], command="COMMAND_OPERATION", parameters=parameters)
    code = _free(action.code for action in automation.actions)
    return Action(code=code, name=PER_RECEIPT_NAME, command="COMMAND_OPERATION", parameters=parameters)


def _macro_for(automation: Automation, action_code: int) -> Macro:
    """Return the macro that holds the action, the bound one first, or a new one."""
    bound = automation.events.get("document_closed")
    holding = [macro for macro in automation.macros if action_code in macro.actions]
    known = [macro for macro in holding if macro.code == bound or macro.actions == (action_code,)]
    if known:
        return min(known, key=lambda macro: macro.code != bound)
    code = _free(macro.code for macro in automation.macros)
    return Macro(code=code, name=PER_RECEIPT_NAME, actions=(action_code,))


def _free(codes: Iterable[int]) -> int:
    taken = set(codes)
    return next(code for code in count(PER_RECEIPT_CODE) if code not in taken)


def _with(known: tuple[Coded, ...], one: Coded) -> tuple[Coded, ...]:
    """Return what is known with one in the place of its code, or at the end."""
    if one.code in {other.code for other in known}:
        return tuple(one if other.code == one.code else other for other in known)
    return (*known, one)
