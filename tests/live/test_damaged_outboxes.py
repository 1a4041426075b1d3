"""Tills whose disk spoils the outbox: the agent goes on by itself, and central names what is lost."""

from __future__ import annotations

import contextlib
import random
import sqlite3

import pytest
from brokers import wait_until
from yard import is_in_order, yard

from edge import salvage
from edge.pages import INDEX_INNER, INDEX_LEAF, PAGE_BYTES, Pages
from fleet.ledger import SUFFIX, read

SEED = 20261129
WITHIN_S = 30
pytestmark = pytest.mark.fault("F27")


def spoil(path, pages):
    """Overwrite these pages with garbage, under nobody's lock, as a disk would."""
    with path.open("r+b") as file:
        for page in pages:
            file.seek((page - 1) * PAGE_BYTES)
            file.write(random.Random(page).randbytes(PAGE_BYTES))


def page_of(path, number):
    with contextlib.closing(Pages(path)) as pages:
        return salvage.look_through(pages).cells[number][0].page


def index_pages(path):
    with contextlib.closing(Pages(path)) as pages:
        return {cell.page for cell in pages.cells() if cell.kind in (INDEX_LEAF, INDEX_INNER)}


def missing_and_gaps(running, till):
    """Return the numbers of the till's documents that central lacks, and those that its gaps cover."""
    closed = [entry.document_id for entry in read(running.books / f"{till.till_id}{SUFFIX}")]
    with contextlib.closing(sqlite3.connect(f"file:{running.database}?mode=ro", uri=True, timeout=20)) as central:
        stored = [row[0] for row in central.execute("SELECT document_id FROM document")]
        gaps = central.execute("SELECT * FROM gap").fetchall()
        columns = [row[1] for row in central.execute("PRAGMA table_info(gap)")]
    assert len(stored) == len(set(stored))
    ranges = [dict(zip(columns, gap, strict=True)) for gap in gaps]
    covered = {number for one in ranges for number in range(one["first"], one["last"] + 1)}
    return {number for number, name in enumerate(closed, 1) if name not in set(stored)}, covered


def test_a_till_whose_outbox_is_spoiled_goes_on_and_its_loss_is_a_gap(tmp_path):
    """A page of unsent documents is overwritten while the agent is down: all others come, those are named as a gap."""
    with yard(tmp_path / "site", 1, SEED, broker="embedded") as running:
        (till,) = running.tills
        till.close_documents(20)
        assert wait_until(running.is_settled, WITHIN_S), running.logs()
        running.broker.kill()
        till.close_documents(60)
        till.agent.stop()
        outbox = till.state_dir / "outbox.db"
        spoil(outbox, [page_of(outbox, 50)])

        till.agent.start()
        running.broker.start()
        till.close_documents(5)
        assert wait_until(lambda: till.is_connected() and till.status()["unsent"] == 0, WITHIN_S), running.logs()

        missing, covered = missing_and_gaps(running, till)
        assert 50 in missing
        assert missing <= covered
        assert 1 <= len(missing) < 40
        assert "outbox_salvaged" in till.agent.log()
        assert "outbox_damaged" in till.status()["troubles"]


def test_an_agent_that_meets_damage_ends_without_a_false_word_and_salvages_at_its_next_start(tmp_path):
    """A file too large to be looked through at each start: the POS hears no 201, and nothing is lost at all."""
    settings = {"outbox_check_limit_bytes": 0}
    with yard(tmp_path / "site", 1, SEED, broker="embedded", agent_settings=settings) as running:
        (till,) = running.tills
        till.close_documents(100)
        assert wait_until(running.is_settled, WITHIN_S), running.logs()
        till.agent.stop()
        outbox = till.state_dir / "outbox.db"
        spoil(outbox, index_pages(outbox))
        till.agent.start()
        assert wait_until(till.is_connected, WITHIN_S), running.logs()
        taken = till.taken

        till.close_document()

        assert wait_until(till.agent.has_ended, WITHIN_S), till.agent.log()[-2000:]
        assert (1, taken) == (till.agent.reap(), till.taken)
        assert "disk_failed" in till.agent.log()
        till.agent.start()
        assert is_in_order(running.settle()), running.logs()
        assert "outbox_salvaged" in till.agent.log()
