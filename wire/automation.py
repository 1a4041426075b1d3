"""Actions, macros and events: what a till does when something happens, in the words of the manual page. Pure.

An *action* is one command with parameters, a *macro* an ordered list of actions, an *event* is bound to one macro.
The till runs them; central may send them. Both check them here, as a whole: one wrong line, and nothing of it is used.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

CommandName = Literal["COMMAND_OPERATION", "COMMAND_UPLOAD_SALES", "COMMAND_CLOSE_SHIFT"]
EventName = Literal["document_closed", "shift_opened", "shift_closed", "till_started", "till_stopping", "link_restored"]

Code = Annotated[int, Meta(ge=1, le=9999)]
Name = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f]*$(?!\n)")]
Value = Annotated[str, Meta(max_length=1024, pattern=r"^[^\x00-\x1f]*$(?!\n)")]
ACTIONS_MAX = 100
STEPS_MAX = 16


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


class Automation(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """All actions and macros of a till, and which macro each event runs."""

    actions: Annotated[tuple[Action, ...], Meta(max_length=ACTIONS_MAX)] = ()
    macros: Annotated[tuple[Macro, ...], Meta(max_length=ACTIONS_MAX)] = ()
    events: dict[EventName, Code] = {}
