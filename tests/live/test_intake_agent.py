"""A real agent that reads the POS's own database and folder, and is killed again and again."""

from __future__ import annotations

import contextlib
import sqlite3
from itertools import islice

from brokers import wait_until
from factories import a_sale
from intake_pos import a_day, a_pos, added_up, sqlite_example
from station import Program, tillstream

from fleet.pos import ring
from fleet.processes import free_port

KILLS, ROUND_DOCUMENTS, FILE_DOCUMENTS = 4, 60, 20


def an_agent(folder):
    """Return an agent's process; it has no broker, which documents do not need to be taken."""
    keys = {
        "TILL_ID": "till-1",
        "STORE_ID": "store-1",
        "STATE_DIR": folder / "state",
        "RUN_DIR": folder / "run",
        "SPOOL_DIR": folder / "spool",
        "INTAKE_DIR": folder / "mappings",
        "BROKER_URLS": f"mqtt://127.0.0.1:{free_port()}",
    }
    environment = {f"TILLSTREAM_{key}": str(value) for key, value in keys.items()}
    return Program(folder / "agent.log", tillstream("edge", "run"), environment)


def bodies_in(folder):
    """Return what the outbox holds, read beside the agent."""
    path = folder / "state" / "outbox.db"
    if not path.exists():
        return []
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)) as database:
        try:
            return [bytes(body) for (body,) in database.execute("SELECT body FROM document ORDER BY sequence")]
        except sqlite3.OperationalError:
            return []  # It is just being made.


def from_database(folder):
    """Return those that did not come from the folder."""
    return [body for body in bodies_in(folder) if b'"drop-' not in body]


def make_mappings(folder):
    """Write one mapping for the POS's database and one for a folder, which is made and returned."""
    drop = folder / "drop"
    for made in (drop, folder / "mappings"):
        made.mkdir()
    sqlite_example(folder).rename(folder / "mappings" / "pos.toml")
    text = f'kind = "folder"\nname = "drop"\nfolder = "{drop}"\nformat = "json"\npoll_s = 0.1\n'
    (folder / "mappings" / "drop.toml").write_text(text, "utf-8")
    return drop


def drop_file(drop, number):
    """Leave a file of documents as a POS does: written under another name, then renamed."""
    part = drop / f"{number}.part"
    part.write_bytes(b"\n".join(a_sale(f"drop-{number}-{place}") for place in range(FILE_DOCUMENTS)))
    part.rename(drop / f"{number}.json")


def test_an_agent_that_is_killed_again_and_again_takes_everything_once(tmp_path):
    """Documents closed before, while and after it is down; counts and money equal the POS's own books in the end."""
    pos, drop, closed, agent = a_pos(tmp_path), make_mappings(tmp_path), iter(a_day(400)), an_agent(tmp_path)

    def has(count, of=bodies_in):
        return wait_until(lambda: len(of(tmp_path)) >= count)

    try:
        for number in range(KILLS):
            for document in islice(closed, ROUND_DOCUMENTS):
                pos.close(document)
            drop_file(drop, number)
            before = len(from_database(tmp_path))
            agent.start()
            # Killed while it takes: after some documents of this round, and before all of them.
            assert has(before + 3, from_database), agent.log()
            agent.kill()
        agent.start()
        assert has(KILLS * (ROUND_DOCUMENTS + FILE_DOCUMENTS)), agent.log()
        pos.close(next(closed))
        assert ring(tmp_path / "run" / "ring")
        assert has(KILLS * (ROUND_DOCUMENTS + FILE_DOCUMENTS) + 1), agent.log()
        assert wait_until(lambda: not [*drop.glob("*.json"), *drop.glob("taking/*")])
    finally:
        agent.stop()
        pos.disconnect()

    dropped = [body for body in bodies_in(tmp_path) if b'"drop-' in body]
    assert (KILLS * FILE_DOCUMENTS, True) == (len(dropped), len(set(dropped)) == len(dropped))
    assert pos.sums() == added_up(from_database(tmp_path))
