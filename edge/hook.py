"""``tillstream hook``: what to set up in a POS's own tool, so that it rings after each document."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import get_args

import click

from wire.automation import AutomationError, Language, RunScript, six_steps, step_of

SCRIPT = Path(__file__).parent / "scripts" / "unloadSales.sh"
PAGE_URL = "shell:///linuxcash/cash/sync/scripts/unloadSales.sh"

_WORDS: dict[Language, tuple[str, str]] = {
    "ru": ("Почечковая выгрузка, шаги в Yuki:", "Скрипт на кассе (один раз, от root):"),
    "en": ("Per-receipt upload, the steps in Yuki:", "The script on the till (once, as root):"),
}


@click.group()
def hook() -> None:
    """Show how a POS's own tool is told to ring after each document.

    \b
    Example: tillstream hook recipe yuki
    """


@hook.group()
def recipe() -> None:
    """Print the steps for one tool.

    \b
    Example: tillstream hook recipe yuki --lang en
    """


@recipe.command()
@click.option("--url", default=PAGE_URL, show_default=True, help="Where the POS finds the script.")
@click.option("--lang", "language", type=click.Choice(get_args(Language)), default="ru", show_default=True)
def yuki(url: str, language: Language) -> None:
    """Print the six steps of the manual page with our url, and the command that puts the script there.

    \b
    Example: tillstream hook recipe yuki --url shell:///linuxcash/cash/sync/scripts/unloadSales.sh
    """
    try:
        step = step_of(url)
    except AutomationError as problem:
        raise click.BadParameter(str(problem), param_hint="--url") from problem
    if not isinstance(step, RunScript):
        raise click.BadParameter(f"{url}: Yuki runs scripts only; give shell:///absolute/path", param_hint="--url")
    title, script = _WORDS[language]
    steps = [f"  {number}. {text}" for number, text in enumerate(six_steps(url, language=language), 1)]
    click.echo("\n".join([title, *steps, script, f"  {shlex.join(['ln', '-s', str(SCRIPT), step.path])}"]))
