"""Owns the faults at every sync: a program fails, or dies, at its N-th fdatasync or write, for every N.

Whole agents and centrals in a yard; and the short lives of an outbox and of central's database, that end at the first
sync, at the second, and so on, until one gets through: creation, append, save, prune, renumbering, migration, commit.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from brokers import wait_until
from factories import BOOT, CENTRAL, NOW_MS, TILL, a_parcel, a_store, a_stream, an_outbox, filled, some_sales
from nursery import Forked, Nursery
from traced import HALTED, faults, injected_in
from yard import Yard

from central.batch import NewStream
from wire import chain

WITHIN_S = 30
MOST = 300


# -- Lives, forked as programs of this module --------------------------------------------------------------------------


def main(arguments: list[str]) -> None:
    """Live one life over a database, and tell what was promised."""
    life, path = arguments
    {"outbox": outbox_life, "central": central_life}[life](Path(path))
    _tell("through")


def outbox_life(path: Path) -> None:
    outbox = an_outbox(path)
    for number in range(1, 6):
        filled(outbox, 1, number)
        _tell(f"d{number}")
    outbox.mark_stored(3, CENTRAL, None)
    outbox.save()
    outbox.prune(NOW_MS + 3)
    outbox.start_stream(3)
    filled(outbox, 1, 6)
    _tell("d6")
    outbox.close()


def central_life(path: Path) -> None:
    store, sales = a_store(path), some_sales(6)
    store.open_streams([NewStream(TILL, a_stream(), ())], {}, NOW_MS)
    for after in (0, 2, 4):
        (outcome,) = store.ingest([a_parcel(sales[after : after + 2], before=sales[:after])], {}, NOW_MS)
        _tell(str(outcome.mark.through))
    store.note(NOW_MS, passed=[(TILL, a_stream(), BOOT, 6)])
    store.close()


def _tell(what: str) -> None:
    os.write(1, f"told {what}\n".encode())


def examine_outbox(path: Path, told: list[str]) -> None:
    """Hold an outbox to what its life told: only the two documents that were to be pruned may be missing."""
    if not path.exists():
        assert [] == told
        return
    outbox = an_outbox(path)
    rows = outbox.database.execute_sql("SELECT document_id, body, digest FROM document ORDER BY sequence").fetchall()
    found, digest = {identity for identity, _, _ in rows}, outbox.digest_at(outbox._pruned)
    for _, body, stands in rows:
        digest = chain.follow(digest, body)
        assert stands == digest
    assert [("ok",)] == outbox.database.execute_sql("PRAGMA integrity_check").fetchall()
    outbox.close()
    missing = set(told) - {"through"} - found
    assert missing <= ({"d1", "d2"} if "d5" in told else set()), (told, found)


def examine_central(path: Path, told: list[str]) -> None:
    """Hold central's database to what its life told: never a watermark behind that, or without its documents."""
    numbers = [int(number) for number in told if number != "through"]
    store = a_store(path)  # A migration that was cut short goes on here.
    store.close()
    with closing(sqlite3.connect(path)) as database:
        assert [("ok",)] == database.execute("PRAGMA integrity_check").fetchall()
        (through,) = database.execute("SELECT coalesce(max(through), 0) FROM watermark").fetchone()
        assert [(through,)] == database.execute("SELECT count(*) FROM document").fetchall()
    assert through >= max(numbers, default=0)


EXAMINE = {"outbox": examine_outbox, "central": examine_central}


def at_every_call(folder: Path, life: str, call: str, effect: str, step: int = 1) -> dict[str, int]:
    """Let a life meet the fault at its N-th call, for every N (or every ``step``-th), until one gets through."""
    with Nursery() as nursery:
        for number in range(1, MOST, step):
            path, log = folder / f"{number}.db", folder / f"{number}.log"
            program = Forked(nursery, [*HALTED, "sync_faults", life, str(path)], log)
            program.start()
            with faults(program, folder / "trace", f"{call}:{effect}:when={number}"):
                assert wait_until(program.has_ended, WITHIN_S)
            program.reap()
            told = [line.removeprefix("told ") for line in program.log().splitlines() if line.startswith("told ")]
            EXAMINE[life](path, told)
            if "through" in told and not injected_in(folder / "trace"):
                return {"lives that met the fault": number // step, "calls in a life": number - 1}
    raise AssertionError(f"no end after {MOST} calls")


# -- Whole programs ----------------------------------------------------------------------------------------------------


def end_at_call(running: Yard, program: Forked, fault: str, number: int) -> int:
    """Let a program meet a fault that ends it at its N-th call from now on; start it again; return how it ended."""
    with faults(program, running.site.folder / "trace", f"{fault}:when={number}"):
        for till in running.tills:
            till.open()
        ended = wait_until(lambda: running.look() >= 0 and program.has_ended(), WITHIN_S)
        for till in running.tills:
            till.close_up()
    assert ended, program.log()[-2000:]
    code, starts = program.reap(), program.log().count('"started"')
    program.start()
    # Not before it is up: SQLite does not mind a folder that cannot be synced when the log is made.
    assert wait_until(lambda: program.log().count('"started"') > starts, WITHIN_S), program.log()[-2000:]
    return code


def meet_faults(running: Yard, program: Forked, fault: str, most: int) -> int:
    """Let a program's next calls fail while POS close documents; return how many did by the time it was let off."""
    trace = running.site.folder / "trace"
    with faults(program, trace, f"{fault}:when=1..{most}"):
        for till in running.tills:
            till.open()
        met = wait_until(lambda: running.look() >= 0 and injected_in(trace) >= most, WITHIN_S)
        for till in running.tills:
            till.close_up()
    assert met, program.log()[-2000:]
    return injected_in(trace)
