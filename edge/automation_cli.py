"""``tillstream edge actions|macros|events|enable``: people edit what the till does by itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import click
import msgspec

from wire.automation import (
    EVENT_TITLES,
    RING_URL,
    Action,
    Automation,
    AutomationError,
    CommandName,
    EventName,
    Language,
    Macro,
    Parameter,
    per_receipt_upload,
)
from wire.program import EXIT_NOT_REACHABLE

from .asking import AgentDownError, ask, configured, fail
from .automation import SETTINGS, NotEditableError, TillAutomation
from .config import EdgeConfig

Coded = TypeVar("Coded", bound=Action | Macro)

as_json_option = click.option("--json", "as_json", is_flag=True, help="Machine-readable; an empty list is [].")
code_argument = click.argument("code", type=click.IntRange(1, 9999))
command_choice = click.Choice(get_args(CommandName))
event_argument = click.argument("event", type=click.Choice(get_args(EventName)))
parameter_option = click.option(
    "--parameter", "parameters", multiple=True, metavar="NAME=VALUE", help="In order; may be given again."
)


# -- Actions -----------------------------------------------------------------------------------------------------------


@click.group()
def actions() -> None:
    """List and edit actions: one command each, with its parameters.

    COMMAND_UPLOAD_SALES rings, COMMAND_CLOSE_SHIFT rings urgently, COMMAND_OPERATION does what its url says:
    shell:///absolute/path of a script, tillstream://ring, tillstream://upload or tillstream://status.

    \b
    Example:
      tillstream edge actions add 3 'Почечковая выгрузка' --parameter url=tillstream://ring
      tillstream edge actions set 3 --parameter url=shell:///linuxcash/cash/sync/scripts/unloadSales.sh
      tillstream edge actions list
    """


@actions.command("list")
@as_json_option
@click.pass_context
def list_actions(context: click.Context, as_json: bool) -> None:
    """List the actions in force.

    \b
    Example: tillstream edge actions list --json
    """
    kept = _kept(context)
    lines = [
        f"{one.code:>5}  {one.name}  {one.command}" + "".join(f"  {each.name}={each.value}" for each in one.parameters)
        for one in kept.automation.actions
    ]
    _show(kept, kept.automation.actions, lines, as_json=as_json)


@actions.command("add")
@code_argument
@click.argument("name")
@click.option("--command", type=command_choice, default="COMMAND_OPERATION", show_default=True)
@parameter_option
@click.pass_context
def add_action(context: click.Context, code: int, name: str, command: CommandName, parameters: tuple[str, ...]) -> None:
    """Add an action.

    \b
    Example: tillstream edge actions add 4 'Статус' --parameter url=tillstream://status
    """
    action = Action(code=code, name=name, command=command, parameters=_parameters(parameters))
    _edit(context, lambda was: msgspec.structs.replace(was, actions=(*was.actions, action)))


@actions.command("set")
@code_argument
@click.option("--name")
@click.option("--command", type=command_choice)
@parameter_option
@click.pass_context
def set_action(
    context: click.Context, code: int, name: str | None, command: CommandName | None, parameters: tuple[str, ...]
) -> None:
    """Change an action; parameters are replaced all together, and with the command.

    \b
    Example: tillstream edge actions set 3 --parameter url=tillstream://upload
    """
    changes: dict[str, Any] = {"name": name} if name is not None else {}
    if command:
        changes["command"] = command
    if command or parameters:
        changes["parameters"] = _parameters(parameters)
    _edit(context, lambda was: msgspec.structs.replace(was, actions=_changed("action", was.actions, code, changes)))


@actions.command("remove")
@code_argument
@click.pass_context
def remove_action(context: click.Context, code: int) -> None:
    """Remove an action that no macro holds any more.

    \b
    Example: tillstream edge actions remove 4
    """
    _edit(context, lambda was: msgspec.structs.replace(was, actions=_without("action", was.actions, code)))


# -- Macros ------------------------------------------------------------------------------------------------------------


@click.group()
def macros() -> None:
    """List, edit and run macros: actions in order.

    \b
    Example:
      tillstream edge macros add 3 'Почечковая выгрузка' 3
      tillstream edge macros run 2                 «Выгрузка текущих продаж» by hand
    """


@macros.command("list")
@as_json_option
@click.pass_context
def list_macros(context: click.Context, as_json: bool) -> None:
    """List the macros in force.

    \b
    Example: tillstream edge macros list --json
    """
    kept = _kept(context)
    lines = [
        f"{one.code:>5}  {one.name}  actions {', '.join(map(str, one.actions)) or '(none)'}"
        for one in kept.automation.macros
    ]
    _show(kept, kept.automation.macros, lines, as_json=as_json)


@macros.command("add")
@code_argument
@click.argument("name")
@click.argument("actions", type=click.IntRange(1, 9999), nargs=-1)
@click.pass_context
def add_macro(context: click.Context, code: int, name: str, actions: tuple[int, ...]) -> None:
    """Add a macro that runs these ACTIONS in order.

    \b
    Example: tillstream edge macros add 4 'Выгрузка и статус' 2 4
    """
    macro = Macro(code=code, name=name, actions=actions)
    _edit(context, lambda was: msgspec.structs.replace(was, macros=(*was.macros, macro)))


@macros.command("set")
@code_argument
@click.option("--name")
@click.option("--action", "actions", type=click.IntRange(1, 9999), multiple=True, help="In order; may be given again.")
@click.pass_context
def set_macro(context: click.Context, code: int, name: str | None, actions: tuple[int, ...]) -> None:
    """Change a macro; its actions are replaced all together.

    \b
    Example: tillstream edge macros set 4 --action 2 --action 4
    """
    changes: dict[str, Any] = {"name": name} if name is not None else {}
    if actions:
        changes["actions"] = actions
    _edit(context, lambda was: msgspec.structs.replace(was, macros=_changed("macro", was.macros, code, changes)))


@macros.command("remove")
@code_argument
@click.pass_context
def remove_macro(context: click.Context, code: int) -> None:
    """Remove a macro that no event is bound to any more.

    \b
    Example: tillstream edge macros remove 4
    """
    _edit(context, lambda was: msgspec.structs.replace(was, macros=_without("macro", was.macros, code)))


@macros.command("run")
@code_argument
@click.pass_context
def run_macro(context: click.Context, code: int) -> None:
    """Run a macro now; its scripts run when their turn comes.

    \b
    Example: tillstream edge macros run 2
    """
    try:
        told = _ask_agent(configured(context), f"/macros/{code}/run")
    except AgentDownError as problem:
        raise fail(f"the agent does not answer: {problem}", EXIT_NOT_REACHABLE) from problem
    click.echo(f"macro {told['macro']} was started")


# -- Events ------------------------------------------------------------------------------------------------------------


@click.group()
def events() -> None:
    """List events and bind macros to them.

    \b
    Example:
      tillstream edge events set document_closed 3
      tillstream edge events remove document_closed    no upload after each receipt any more
    """


@events.command("list")
@as_json_option
@click.pass_context
def list_events(context: click.Context, as_json: bool) -> None:
    """List all events, and which macro each runs.

    \b
    Example: tillstream edge events list --json
    """
    kept = _kept(context)
    bound = kept.automation.events
    rows = [{"event": event, "title": title, "macro": bound.get(event)} for event, title in EVENT_TITLES.items()]
    lines = [f"{one['event']:<16} {one['title']}: {_tell_macro(kept.automation, one['macro'])}" for one in rows]
    _show(kept, rows, lines, as_json=as_json)


@events.command("set")
@event_argument
@click.argument("macro", type=click.IntRange(1, 9999))
@click.pass_context
def set_event(context: click.Context, event: EventName, macro: int) -> None:
    """Bind a macro to an event.

    \b
    Example: tillstream edge events set link_restored 2
    """
    _edit(context, lambda was: msgspec.structs.replace(was, events={**was.events, event: macro}))


@events.command("remove")
@event_argument
@click.pass_context
def remove_event(context: click.Context, event: EventName) -> None:
    """Let an event run nothing.

    \b
    Example: tillstream edge events remove document_closed
    """

    def unbind(was: Automation) -> Automation:
        if event not in was.events:
            raise AutomationError(f"event {event} is bound to no macro")
        left = {name: code for name, code in was.events.items() if name != event}
        return msgspec.structs.replace(was, events=left)

    _edit(context, unbind)


# -- Enable ------------------------------------------------------------------------------------------------------------


@click.group()
def enable() -> None:
    """Switch on what takes several steps by hand.

    \b
    Example: tillstream edge enable per-receipt-upload
    """


@enable.command("per-receipt-upload")
@click.option("--url", default=RING_URL, show_default=True, help="What the action does.")
@click.option("--replace", is_flag=True, help="Also where the event runs another macro, or the action another url.")
@click.option("--lang", "language", type=click.Choice(get_args(Language)), default="en", show_default=True)
@click.pass_context
def enable_per_receipt_upload(context: click.Context, url: str, replace: bool, language: Language) -> None:
    """Do the six steps to «Почечковая выгрузка» at once, and show which of them were new (+).

    \b
    Example:
      tillstream edge enable per-receipt-upload
      tillstream edge events remove document_closed    switches it off again
    """
    told: list[tuple[str, bool]] = []

    def switch_on(was: Automation) -> Automation:
        after, steps = per_receipt_upload(was, url, replace=replace, language=language)
        told.extend(steps)
        return after

    config = configured(context)
    _change(config, switch_on)
    for number, (step, is_new) in enumerate(told, 1):
        click.echo(f"{'+' if is_new else '='} {number}. {step}")
    click.echo(_reload(config))


# -- What they share ---------------------------------------------------------------------------------------------------


def _kept(context: click.Context) -> TillAutomation:
    """Return what is in force; who may not look into the folder must not be told that there is nothing."""
    config = configured(context)
    try:
        (Path(config.state_dir) / SETTINGS).exists()
    except PermissionError as problem:
        raise fail(f"{problem}; run it as root, or as the agent's user") from problem
    return TillAutomation(Path(config.state_dir))


def _show(kept: TillAutomation, rows: Sequence[Any], lines: list[str], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(rows), ensure_ascii=False))
        return
    owner = {
        "central": f"central's, settings revision {kept.revision}",
        "till": "this till's own",
        "factory": "as a new till has it",
    }
    click.echo("\n".join([f"automation: {owner[kept.source]}", *lines]))
    for error in filter(None, (kept.settings_error, kept.local_error)):
        click.echo(f"not used: {error}", err=True)


def _tell_macro(automation: Automation, code: Any) -> str:
    names = {macro.code: macro.name for macro in automation.macros}
    return "nothing" if code is None else f"macro {code} «{names[code]}»"


def _parameters(given: tuple[str, ...]) -> tuple[Parameter, ...]:
    pairs = [one.partition("=") for one in given]
    wrong = [name for name, equals, _ in pairs if not equals]
    if wrong:
        raise click.BadParameter(f"{wrong[0]!r} is not NAME=VALUE, such as url={RING_URL}", param_hint="--parameter")
    return tuple(Parameter(name=name, value=value) for name, _, value in pairs)


def _changed(what: str, known: tuple[Coded, ...], code: int, changes: dict[str, Any]) -> tuple[Coded, ...]:
    _refuse_unknown(what, known, code)
    return tuple(msgspec.structs.replace(one, **changes) if one.code == code else one for one in known)


def _without(what: str, known: tuple[Coded, ...], code: int) -> tuple[Coded, ...]:
    _refuse_unknown(what, known, code)
    return tuple(one for one in known if one.code != code)


def _refuse_unknown(what: str, known: tuple[Coded, ...], code: int) -> None:
    codes = [one.code for one in known]
    if code not in codes:
        raise AutomationError(f"{what} {code} does not exist; there are {', '.join(map(str, codes)) or 'none'}")


def _edit(context: click.Context, edit: Callable[[Automation], Automation]) -> None:
    config = configured(context)
    _change(config, edit)
    click.echo(_reload(config))


def _change(config: EdgeConfig, edit: Callable[[Automation], Automation]) -> None:
    try:
        TillAutomation(Path(config.state_dir)).change(edit)
    except (AutomationError, NotEditableError, OSError) as problem:
        raise fail(f"nothing was changed: {problem}") from problem


def _reload(config: EdgeConfig) -> str:
    try:
        _ask_agent(config, "/automation/reload")
    except AgentDownError:
        return "kept; the agent does not run, and goes by it when it starts"
    return "kept, and the agent goes by it now"


def _ask_agent(config: EdgeConfig, target: str) -> dict[str, Any]:
    status, told = ask(config, "POST", target)
    if status >= 400:
        raise fail(f"{told.get('title')}: {told.get('detail')}")
    return told
