"""Owns the power cuts: of the disk that the tills' outboxes stand on, and of the one with central's database.

The programs end first and the disk right after: a program that outlived its disk by a millisecond could believe an
fdatasync that the kernel was just giving up. What they had written and not synced is gone all the same.
After each cut the disk is mounted again and looked at before any program of ours writes to it: what was acknowledged
is there, the database is whole, the chain of digests fits.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

from brokers import wait_until
from loop_disk import LoopDisk
from yard import Till, Yard, yard

from edge.outbox import Outbox, OutboxLimits
from fleet.ledger import fingerprint
from fleet.pos import identity_of
from wire import chain

DISK_BYTES = 256 * 2**20
WITHIN_S = 30
UNSENT_MOST = 20
"""Short queues: each cut looks at everything there is."""
Cut = Callable[[Yard, LoopDisk, Random, Counter[str]], None]
AFTER = (1, 15)
"""How many documents more are taken, or committed, before the next cut."""


def outbox_cuts(folder: Path, cuts: int, seed: int, *, tills: int = 2, **settings) -> dict[str, int]:
    """Cut the power of the tills' disk so often while their POS close documents; return figures and balance.

    ``stop_at_loss`` ends at the first loss, for variants that are wrong on purpose; other ``settings`` are a `Yard`'s.
    """
    return _cuts(folder, cuts, seed, "agents_on", _cut_tills, tills=tills, **settings)


def central_cuts(folder: Path, cuts: int, seed: int, *, tills: int = 4, **settings) -> dict[str, int]:
    """Cut the power of central's disk so often while tills upload; otherwise as `outbox_cuts`."""
    return _cuts(folder, cuts, seed, "central_on", _cut_central, tills=tills, **settings)


def _cuts(
    folder: Path, cuts: int, seed: int, place: str, cut: Cut, *, tills: int, stop_at_loss: bool = False, **settings
) -> dict[str, int]:
    rng, figures = Random(seed), Counter[str]()
    with (
        LoopDisk(folder, DISK_BYTES) as disk,
        yard(folder / "site", tills, seed, **{place: disk.folder}, **settings) as running,
    ):
        for till in running.tills:
            till.open()
        for _ in range(cuts):
            cut(running, disk, rng, figures)
            figures["power cuts"] += 1
            if stop_at_loss and figures["acknowledged and gone"]:
                return dict(figures)
        return {**figures, **running.settle()}


def _wait_for_documents(running: Yard, rng: Random) -> None:
    taken = sum(till.taken for till in running.tills) + rng.randint(*AFTER)

    def are_taken() -> bool:
        running.look()
        return sum(till.taken for till in running.tills) >= taken

    assert wait_until(are_taken, WITHIN_S), running.logs()


def _cut_tills(running: Yard, disk: LoopDisk, rng: Random, figures: Counter[str]) -> None:
    _wait_for_documents(running, rng)
    for till in running.tills:
        till.agent.kill()
    running.is_dark = True
    disk.cut_power()
    promised = {till.till_id: dict(till.promised) for till in running.tills}
    disk.bring_back()
    running.is_dark = False
    for till in running.tills:
        _examine_till(till, promised[till.till_id], figures)
        till.agent.start()


def _examine_till(till: Till, promised: dict[str, str], figures: Counter[str]) -> None:
    """Count what the POS was told is kept and is neither in the outbox nor in the spool, and what is not whole."""
    found = {identity_of(path.read_bytes()) for path in (till.state_dir / "spool").glob("*.json")}
    outbox = Outbox(till.state_dir / "outbox.db", OutboxLimits(ballast_bytes=0), lambda: "new")
    try:
        (verdict,) = outbox.database.execute_sql("PRAGMA integrity_check").fetchone()
        digest = chain.first(outbox.head().stream)
        for body, stands in outbox.database.execute_sql("SELECT body, digest FROM document ORDER BY sequence"):
            digest = chain.follow(digest, body)
            figures["broken chains"] += digest != stands
            if promised.get(identity := identity_of(body)) in (fingerprint(body), None):
                found.add(identity)
    finally:
        outbox._let_go()  # Not `close`, which would write.
    figures["not whole"] += verdict != "ok"
    figures["acknowledged"] = figures["acknowledged"] + len(promised) - till.examined
    figures["acknowledged and gone"] += len(promised.keys() - found)
    till.examined = len(promised)


def _wait_for_word(running: Yard, rng: Random) -> None:
    """Wait until some till was told of more, and others still owe."""
    till = rng.choice(running.tills)
    told = till.status()["stored"] + rng.randint(*AFTER)
    assert wait_until(lambda: running.unsent() > 0 and till.status()["stored"] >= told, WITHIN_S), running.logs()


def _cut_central(running: Yard, disk: LoopDisk, rng: Random, figures: Counter[str]) -> None:
    _wait_for_word(running, rng)
    running.central.kill()
    disk.cut_power()
    running.forget_reader()
    disk.bring_back()
    told = {till.till_id: till.status()["stored"] for till in running.tills}
    _examine_database(running.database, told, figures)
    running.central.start()


def _examine_database(database: Path, told: dict[str, int], figures: Counter[str]) -> None:
    """Count tills that were told more than is committed, watermarks without their documents, and what is not whole."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        run = connection.execute
        figures["not whole"] += run("PRAGMA integrity_check").fetchone()[0] != "ok"
        through = dict(run("SELECT till_id, sum(through) FROM watermark GROUP BY till_id"))
        there = dict(run("SELECT till_id, count(*) FROM document GROUP BY till_id"))
    figures["acknowledged"] = sum(told.values())
    figures["acknowledged and gone"] += sum(max(0, told[till] - through.get(till, 0)) for till in told)
    figures["watermarks without documents"] += sum(there.get(till, 0) != mark for till, mark in through.items())
