"""Owns ``tillstream demo``: what it is asked for on the command line, and what it tells in the end."""

from __future__ import annotations

import json
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import click

from wire.program import EXIT_DONE, EXIT_FAILED

from . import journey
from .figures import Figures
from .ledger import SUFFIX, LedgerError
from .processes import ChildDiedError, NotReadyError, Site
from .proof import Proof, tell, tell_where
from .run import AGENTS_MAX, Plan, Run
from .view import choose, tell_bytes, tell_kills, tell_lag

RUN_S = 25
KEPT_DATABASE = "demo-last/central.db"
"""Where the last run leaves its database, in the folder it was called from, unless the whole folder is kept."""
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
AGENTS_RATE_MAX, FLEET_RATE_MAX = 60.0, 1000.0


@click.command()
@click.option("--tills", type=click.IntRange(1, 10_000), help="How many tills.  [default: 20; journey: all 457]")
@click.option("--receipts", type=click.IntRange(1), help="Documents for each till.  [default: 50; journey: all]")
@click.option(
    "--rate", type=click.FloatRange(0.1), help="Documents a second, all tills together.  [default: half a minute's]"
)
@click.option("--baskets", type=click.Choice(["generated", "journey"]), default="generated", show_default=True)
@click.option("--chaos", is_flag=True, help="Kill agents, central and broker (SIGKILL) while documents are unsent.")
@click.option("--keep", is_flag=True, help="Keep the folder with database, ledgers and logs.")
@click.option("--dir", "folder", type=click.Path(path_type=Path), help="Use this new folder, and keep it.")
@click.option("--stay", is_flag=True, help="Leave everything running after the proof, until Ctrl-C.")
@click.option("--seed", default=1, show_default=True, help="Of baskets and of chaos.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object at the end; progress goes to standard error.")
def demo(
    tills: int | None,
    receipts: int | None,
    rate: float | None,
    baskets: Literal["generated", "journey"],
    folder: Path | None,
    seed: int,
    *,
    chaos: bool,
    keep: bool,
    stay: bool,
    as_json: bool,
) -> None:
    """Run a broker, central and tills on this machine, and prove that every document arrived.

    The tills' POS software keeps its own ledgers. At the end they are compared with central's database, document by
    document: exit code 0 only if both are equal to the byte and to the last minor unit, 1 otherwise.

    Up to 40 tills are real agent processes; more, and the journey, run in one process.

    \b
    Example:
      tillstream demo                          20 tills, 50 documents each, under a minute
      tillstream demo --chaos                  the same while programs are killed and come back
      tillstream demo --tills 1000 --rate 200  a thousand tills in one process
      tillstream demo --baskets journey        155,848 baskets of 457 stores; `make baskets` first
      tillstream demo --dir /tmp/look          keeps everything for a look afterwards
    """
    plan = _plan(baskets, tills, receipts, rate, seed, chaos=chaos, stay=stay)
    if chaos and not plan.uses_agents:
        raise click.UsageError(f"--chaos kills agent processes: at most {AGENTS_MAX} tills, and no journey")
    if baskets == "journey" and not journey.is_installed():
        raise click.ClickException("the grocery journey is not installed: run `make baskets` first")
    try:
        with _interruptible():
            site = Site(folder, keep=keep or folder is not None)
            try:
                code = _run(plan, site, as_json=as_json)
            finally:
                site.close()
    except (ChildDiedError, NotReadyError, LedgerError, FileExistsError) as problem:
        raise click.ClickException(str(problem)) from problem
    raise click.exceptions.Exit(code)


def _plan(
    baskets: Literal["generated", "journey"],
    tills: int | None,
    receipts: int | None,
    rate: float | None,
    seed: int,
    *,
    chaos: bool,
    stay: bool,
) -> Plan:
    """Fill in the defaults; 0 stands for all that the journey has."""
    if baskets == "journey":
        return Plan(baskets, tills or 0, receipts or 0, 0.0, chaos, seed, stay)
    tills, receipts = tills or 20, receipts or 50
    most = AGENTS_RATE_MAX if tills <= AGENTS_MAX else FLEET_RATE_MAX
    return Plan(baskets, tills, receipts, rate or min(most, max(1.0, tills * receipts / RUN_S)), chaos, seed, stay)


def _run(plan: Plan, site: Site, *, as_json: bool) -> int:
    view = choose(as_json=as_json)
    run = Run(plan, site, view)
    try:
        with view:
            proof, figures, findings = run.go()
        database = site.database if site.keeps or plan.stay else _keep_database(site.database)
        if as_json:
            click.echo(json.dumps(_as_json(proof, figures, findings, database)))
        else:
            for line in [*_tell(plan, proof, figures, findings), *_tell_where(site, database)]:
                view.say(line)
        if plan.stay:
            run.stay()
    finally:
        for number in ENDING_SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # What is half cleaned up helps nobody.
        run.close()
    return EXIT_DONE if proof.is_equal and not findings else EXIT_FAILED


def _tell(plan: Plan, proof: Proof, figures: Figures, findings: list[str]) -> list[str]:
    lag = f"lag        {tell_lag(figures)} ({plan.lag_title})"
    lines = ["", *tell(proof), "", lag, f"link       {tell_bytes(figures)}"]
    if figures.kills:
        lines.append(f"kills      {tell_kills(figures)}, each while documents were unsent")
    lines += [f"FAILED     {text}" for text in findings]
    return [*lines, f"time       {figures.seconds:.1f} s"]


def _keep_database(database: Path) -> Path:
    """Leave a copy of the database for a look; the next run's takes its place."""
    kept = Path(KEPT_DATABASE).absolute()
    kept.parent.mkdir(exist_ok=True)
    kept.unlink(missing_ok=True)
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(kept)) as copy:
        source.backup(copy)
    return kept


def _tell_where(site: Site, database: Path) -> list[str]:
    till_id = min((path.name.removesuffix(SUFFIX) for path in site.books.glob(f"*{SUFFIX}")), default="till-1")
    return tell_where(database, till_id)


def _as_json(proof: Proof, figures: Figures, findings: list[str], database: Path) -> dict[str, Any]:
    told = asdict(figures) | {"bytes_per_document": figures.bytes_per_document, "unsent": figures.unsent}
    (documents_closed, documents_stored), (closed_minor, stored_minor) = proof.documents, proof.money_minor
    return told | {
        "equal": proof.is_equal,
        "documents_closed": documents_closed,
        "documents_stored": documents_stored,
        "money_closed_minor": closed_minor,
        "money_stored_minor": stored_minor,
        "differences": proof.differences,
        "findings": findings,
        "database": str(database),
    }


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM, and a terminal that closes, end the run in order as Ctrl-C does; restore what was before."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in ENDING_SIGNALS}
    try:
        yield
    finally:
        for number, was in before.items():
            signal.signal(number, was)
