"""A damaged outbox: what can be read goes on in a new stream, and what cannot is owned up to."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest
from click.testing import CliRunner
from factories import BOOT, CENTRAL, NOW_MS, TILL, a_parcel, a_sale, a_store, a_stream, digest_of

from central.batch import Heard, NewStream
from edge import salvage
from edge.cli import edge
from edge.outbox import Outbox, OutboxBusyError, OutboxLimits, OutboxUnsafeError, hold
from edge.pages import PAGE_BYTES, Pages

LIMITS = OutboxLimits(ballast_bytes=0)
CHECK_LIMIT_BYTES = 64 * 2**20
pytestmark = pytest.mark.fault("F27")


def names(first=1):
    """Return a function that names streams; those of a salvage are another process's."""
    numbers = count(first)
    return lambda: a_stream(next(numbers))


def a_body(number):
    """Return a document of a size of its own: every eleventh flows over to further pages."""
    return a_sale(f"d{number}", text="x" * (9000 if number % 11 == 0 else number % 7 * 50))


BODIES = [a_body(number) for number in range(1, 151)]
STORED, PRUNED = 60, 20


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the path of an outbox of 150 documents, of which 20 are pruned and 60 stored; nobody changes it."""
    path = tmp_path_factory.mktemp("whole") / "outbox.db"
    outbox = Outbox(path, LIMITS, names())
    for number, body in enumerate(BODIES, 1):
        outbox.append(f"d{number}", body, NOW_MS + number)
    outbox.mark_stored(STORED, CENTRAL, None)
    outbox.prune(NOW_MS + PRUNED + 1)
    outbox.count_start()
    outbox.close()
    return path


@pytest.fixture
def path(whole, tmp_path):
    """Return the path of a copy to damage."""
    return Path(shutil.copy(whole, tmp_path / "outbox.db"))


def overwrite(path, at, data):
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def garbage(seed, size=PAGE_BYTES):
    return random.Random(seed).randbytes(size)


def flip(path, text, bit=1):
    """Turn one bit in the middle of where this text stands in the file."""
    data = path.read_bytes()
    at = data.index(text) + len(text) // 2
    overwrite(path, at, bytes([data[at] ^ bit]))


def mend(path, limits=LIMITS, check_limit_bytes=CHECK_LIMIT_BYTES):
    return salvage.mend(path, limits, names(2), check_limit_bytes)


def opened(path):
    return Outbox(path, LIMITS, names(50))


def held(path):
    """Return the head, and the documents, which must be whole and chained from the stream's beginning."""
    outbox = opened(path)
    try:
        bodies = outbox.read_after(0, 10_000, 2**30)
        head = outbox.head()
        assert (1, len(bodies), digest_of(bodies, head.stream)) == (head.oldest, head.newest, head.digest)
        return head, bodies
    finally:
        outbox.close()


def is_in_order(bodies):
    """Say whether these are documents of ours, each once, in their order."""
    places = [BODIES.index(body) for body in bodies]
    return places == sorted(set(places))


def readable(path):
    """Return the numbers whose rows a page-by-page look finds, and that follow from the row before."""
    with closing(Pages(path)) as pages:
        found = salvage.look_through(pages)
        return {row.sequence: row for row in salvage.documents(pages, found)}


def overwritten(whole, path):
    """Copy the outbox and overwrite a page in its middle."""
    shutil.copy(whole, path)
    overwrite(path, 20 * PAGE_BYTES, garbage(5))
    return path


# -- Is it damaged? ----------------------------------------------------------------------------------------------------


def test_a_whole_outbox_is_left_alone(path):
    """No byte of it changes, and its stream goes on."""
    before = path.read_bytes()

    assert mend(path) is None
    assert before == path.read_bytes()
    assert salvage.damaged_files(path) == []


def test_an_outbox_that_is_yet_to_be_made_is_no_damage(tmp_path):
    """A till's first start: there is nothing, or an empty file that a killed start left."""
    assert mend(tmp_path / "outbox.db") is None
    assert mend(tmp_path / "outbox.db") is None


def test_one_of_a_newer_version_is_not_salvaged(path):
    """An older agent must not make an outbox of what it does not know."""
    with closing(sqlite3.connect(path)) as newer:
        newer.execute("PRAGMA user_version = 99")

    assert mend(path) is None


def test_everything_is_read_back_from_an_undamaged_file(path):
    """The page reader finds the very rows that SQLite does, those with overflowing bodies too."""
    rows = readable(path)

    assert list(range(PRUNED + 1, 151)) == list(rows)
    assert BODIES[PRUNED:] == [row.body for row in rows.values()]
    assert all(row.is_proven for row in rows.values())


def test_what_is_only_in_the_log_is_read_too(tmp_path):
    """A killed agent leaves its newest documents in the write-ahead log; a frame that is torn ends it."""
    outbox = Outbox(tmp_path / "live.db", LIMITS, names())
    for number, body in enumerate(BODIES[:30], 1):
        outbox.append(f"d{number}", body, NOW_MS)
    for name in ("", "-wal"):
        shutil.copy(tmp_path / f"live.db{name}", tmp_path / f"outbox.db{name}")
    outbox.close()
    path = tmp_path / "outbox.db"
    assert BODIES[:30] == [row.body for row in readable(path).values()]

    log = path.with_name("outbox.db-wal")
    overwrite(log, log.stat().st_size - 50, b"torn")

    assert BODIES[:29] == [row.body for row in readable(path).values()]


# -- Real damage -------------------------------------------------------------------------------------------------------


def test_a_page_of_garbage_loses_what_stood_on_it_and_nothing_else(path):
    """The rest goes on, in order, in a new stream; the old one is named with its loss."""
    rows = readable(path)
    with closing(Pages(path)) as pages:
        (page,) = {cell.page for cell in salvage.look_through(pages).cells[90]}
    overwrite(path, (page - 1) * PAGE_BYTES, garbage(1))
    there = readable(path)

    told = mend(path)

    head, bodies = held(path)
    assert 90 not in there
    assert len(there) < len(rows)
    assert [row.body for row in there.values()] == bodies
    assert (told.read, told.old_stream) == (len(bodies), a_stream())
    assert told.lost == len(rows) - sum(row.is_proven for row in there.values())
    assert "d90" in told.lost_ids
    assert is_in_order(bodies)
    (old,) = head.previous
    assert (old.stream, old.newest, old.agreed) == (a_stream(), 150, STORED)
    assert old.pruned == max(number for number, row in there.items() if not row.is_proven)


def test_the_newest_documents_are_known_to_be_lost_by_the_index_alone(path):
    """Nothing follows them that could not be chained; the index by id still has their numbers and names."""
    with closing(Pages(path)) as pages:
        cells = salvage.look_through(pages).cells
    overwrite(path, (cells[150][0].page - 1) * PAGE_BYTES, garbage(2))
    last = max(readable(path))

    told = mend(path)

    head, bodies = held(path)
    assert last < 150
    assert (150, 150, STORED) == (head.previous[0].pruned, head.previous[0].newest, head.previous[0].agreed)
    assert told.lost == 150 - last
    assert {f"d{number}" for number in range(last + 1, 151)} == set(told.lost_ids)
    assert len(bodies) == last - PRUNED


@pytest.mark.parametrize("size", [100, PAGE_BYTES])
def test_a_header_of_zeros_loses_nothing(path, size):
    """The first page only says where the others belong: every document is still there, and proven."""
    overwrite(path, 0, bytes(size))

    told = mend(path)

    assert (told.read, told.lost) == (130, 0)
    assert BODIES[PRUNED:] == held(path)[1]


@pytest.mark.parametrize("part", [0.3, 0.7, 0.95])
def test_a_truncated_file_keeps_what_is_left_of_it(path, part):
    """A file that ends early is damaged, and what stands before its end is read."""
    os.truncate(path, int(path.stat().st_size * part))
    there = readable(path)

    told = mend(path)

    bodies = held(path)[1]
    assert 0 < told.read == len(there) < 130
    assert [row.body for row in there.values()] == bodies


def left_by_a_kill(folder, in_the_log_from):
    """Return the path of an outbox whose documents from this number on are in its log alone."""
    outbox = Outbox(folder / "live.db", LIMITS, names())
    for number, body in enumerate(BODIES, 1):
        if number == in_the_log_from:
            outbox._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        outbox.append(f"d{number}", body, NOW_MS)
    for name in ("", "-wal"):
        shutil.copy(folder / f"live.db{name}", folder / f"outbox.db{name}")
    outbox.close()
    return folder / "outbox.db"


def test_the_log_of_the_damaged_file_is_not_taken_for_the_new_ones(tmp_path):
    """What a killed agent left in the log is read; beside the new file SQLite would play it back into that one."""
    path = left_by_a_kill(tmp_path, in_the_log_from=100)
    overwrite(path, 10 * PAGE_BYTES, garbage(6))
    overwrite(path, 12 * PAGE_BYTES, garbage(7))
    there = readable(path)

    assert mend(path).read == len(there) < 150

    assert [row.body for row in there.values()] == held(path)[1]
    assert BODIES[120:] == held(path)[1][-30:]
    assert path.with_name(f"{salvage.damaged_files(path)[0].name}-wal").stat().st_size > 0


def test_an_emptied_file_is_made_of_its_log(tmp_path):
    """SQLite would throw away the log of an empty file."""
    outbox = Outbox(tmp_path / "live.db", LIMITS, names())
    outbox.append("d1", BODIES[0], NOW_MS)
    shutil.copy(tmp_path / "live.db-wal", tmp_path / "outbox.db-wal")
    outbox.close()
    (tmp_path / "outbox.db").touch()

    assert mend(tmp_path / "outbox.db").lost == 0
    assert BODIES[:1] == held(tmp_path / "outbox.db")[1]


def test_a_bit_that_turned_in_a_body_is_sent_as_it_is_and_counted_as_lost(path):
    """SQLite does not see it. The till goes on; looked at by hand, the chain tells it from the original."""
    flip(path, b'"document_id":"d100"', bit=2)
    assert mend(path) is None

    told = salvage.repair(path, LIMITS, names(2), dry_run=False)

    head, bodies = held(path)
    assert "number 100" in told.problem
    assert (told.read, told.lost, told.lost_ids) == (130, 1, ("d100",))
    assert BODIES[PRUNED:99] + BODIES[100:] == bodies[:79] + bodies[80:]
    assert bodies[79] not in BODIES
    assert (100, 150) == (head.previous[0].pruned, head.previous[0].newest)


@pytest.mark.parametrize("is_pruned", [False, True])
def test_a_bit_that_turned_in_the_streams_name_starts_a_stream_that_takes_over_none(tmp_path, is_pruned):
    """The name no longer makes the first digest; once something is pruned nothing proves it, and it goes on."""
    path = tmp_path / "outbox.db"
    outbox = Outbox(path, LIMITS, names())
    for number, body in enumerate(BODIES[:30], 1):
        outbox.append(f"d{number}", body, NOW_MS)
    outbox.mark_stored(10, CENTRAL, None)
    if is_pruned:
        outbox.prune(NOW_MS + 1, limit_documents=5)
    outbox.close()
    flip(path, a_stream().encode())

    told = mend(path)

    if is_pruned:
        assert told is None
        return
    head, bodies = held(path)
    assert (told.old_stream, told.is_complete) == (None, False)
    assert (BODIES[:30], ()) == (bodies, head.previous)


def test_a_stream_that_is_gone_leaves_the_documents(path):
    """Its page is garbage: a new stream without a history, over all documents; who central is, is heard again."""
    overwrite(path, PAGE_BYTES, garbage(3))

    assert mend(path).old_stream is None
    head, bodies = held(path)
    assert (BODIES[PRUNED:], ()) == (bodies, head.previous)


def test_older_histories_go_along(path):
    """A till that had started a stream before still names the one before that."""
    outbox = Outbox(path, LIMITS, names(7))
    outbox.start_stream(STORED)
    outbox.close()
    overwrite(path, 0, bytes(100))

    mend(path)

    head, bodies = held(path)
    assert [a_stream(), a_stream(7)] == [one.stream for one in head.previous]
    assert BODIES[PRUNED:] == bodies


@pytest.mark.parametrize("is_listed", [True, False], ids=["free pages are listed", "their list is gone"])
def test_pages_that_were_given_up_bring_nothing_back(tmp_path, is_listed):
    """A row under its number of before the last new stream, or a pruned one, may stand on a page that is not in use."""
    path = tmp_path / "outbox.db"
    outbox = Outbox(path, LIMITS, names())
    outbox._connection.execute("PRAGMA secure_delete = 0")  # Some builds of SQLite leave what is given up as it was.
    for number, body in enumerate(BODIES, 1):
        outbox.append(f"d{number}", body, NOW_MS)
    outbox.mark_stored(60, CENTRAL, None)
    outbox.prune(NOW_MS + 1, limit_documents=60)
    outbox.start_stream(60)
    outbox.close()
    if is_listed:
        with closing(Pages(path)) as pages:
            cells = salvage.look_through(pages).cells
        assert dict.fromkeys(range(1, 91), 1) == {number: len(those) for number, those in cells.items()}
        return
    overwrite(path, 0, bytes(PAGE_BYTES))
    with closing(Pages(path)) as pages:
        found = salvage.look_through(pages)
    assert len(found.cells) > 90 or max(len(cells) for cells in found.cells.values()) > 1

    mend(path)

    bodies = held(path)[1]
    assert is_in_order(bodies[:90])
    assert set(BODIES[60:]) <= set(bodies)
    assert len(bodies) == len(set(bodies))


def test_a_document_that_stands_under_an_older_number_too_is_sent_once(path):
    """An outbox never holds a document twice; a page of before its last new stream may."""
    with closing(sqlite3.connect(path)) as stale:
        stale.execute("INSERT INTO document VALUES (160, 'd100', ?, ?, 0)", (BODIES[99], b"0" * 16))
        stale.commit()
    overwrite(path, 0, bytes(PAGE_BYTES))

    mend(path)

    assert BODIES[PRUNED:] == held(path)[1]


@pytest.mark.parametrize("seed", range(4))
def test_whatever_page_is_garbage_the_rest_is_in_the_new_stream(whole, tmp_path, seed):
    """Each page in turn: the till starts again, nothing readable is missing, in order; a stranger counts as lost."""
    originals = set(BODIES)
    for number in range(seed + 1, whole.stat().st_size // PAGE_BYTES + 1, 4):
        path = Path(shutil.copy(whole, tmp_path / "outbox.db"))
        overwrite(path, (number - 1) * PAGE_BYTES, garbage(number))
        there = readable(path)

        told = mend(path)
        opened(path).close()  # The agent starts, whatever it was.
        if told is None:  # Garbage in a body, or where nothing points to: only the chain tells.
            told = salvage.repair(path, LIMITS, names(2), dry_run=False)
        if told is None:
            assert list(there) == list(range(PRUNED + 1, 151)), number
            continue

        head, bodies = held(path)
        proven = [row.body for row in there.values() if row.is_proven]
        strangers = sorted(set(bodies) - originals)
        assert set(proven) <= set(bodies), number
        assert is_in_order([body for body in bodies if body in originals]), number
        assert told.lost >= 130 - len(proven)
        if head.previous and (strangers or len(bodies) < 130):
            numbers = {row.body: row.sequence for row in there.values()}
            missing = [n for n in range(PRUNED + 1, 151) if BODIES[n - 1] not in set(bodies)]
            assert max([*missing, *(numbers[body] for body in strangers)]) <= head.previous[0].pruned, number
        for file in salvage.damaged_files(path):
            file.unlink()


# -- Safe whatever happens meanwhile -----------------------------------------------------------------------------------


def mend_and_die(path, steps):
    """Mend in a process of its own that is killed before its n-th call that touches the folder; its exit status."""
    process_id = os.fork()
    if process_id:
        return os.waitpid(process_id, 0)[1]
    left = [steps]

    def count_down(event, arguments):
        if event.startswith("os.") or (event == "open" and str(path.parent) in str(arguments[0])):
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count_down)
    try:
        mend(path)
    finally:
        os._exit(0)


@pytest.fixture(scope="module")
def with_a_log(tmp_path_factory):
    """Return the path of an outbox whose newest documents are in its log alone, as a killed agent leaves it."""
    return left_by_a_kill(tmp_path_factory.mktemp("log"), in_the_log_from=140)


def test_a_kill_at_any_step_leaves_the_damaged_file_or_the_new_one(with_a_log, tmp_path):
    """Killed before each call that touches the folder, one after the other: the next start ends with the same."""

    def damaged_copy(folder):
        folder.mkdir()
        shutil.copy(with_a_log.with_name("outbox.db-wal"), folder / "outbox.db-wal")
        return overwritten(with_a_log, folder / "outbox.db")

    unharmed = damaged_copy(tmp_path / "unharmed")
    mend(unharmed)
    expected, steps = held(unharmed)[1], 0
    assert BODIES[140:] == expected[-10:]
    for steps in count(1):
        path = damaged_copy(tmp_path / str(steps))
        damaged, log = path.read_bytes(), with_a_log.with_name("outbox.db-wal").read_bytes()
        if not mend_and_die(path, steps):
            break
        assert path.read_bytes() == damaged or salvage.damage_of(path, thoroughly=True) == ""

        mend(path)

        assert expected == held(path)[1], steps
        (kept,) = salvage.damaged_files(path)
        assert (damaged, log) == (kept.read_bytes(), kept.with_name(f"{kept.name}-wal").read_bytes())
        assert not list(path.parent.glob("*salvage.*")) + list(path.parent.glob("*salvaged*"))
    assert steps > 20


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_no_room_to_salvage_changes_nothing_and_says_how_much_is_needed(whole, tmp_path):
    """On a disk that is full the damaged file stays as it is; with the ballast's room it goes."""
    disk, size_bytes = tmp_path / "disk", whole.stat().st_size
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={2 * size_bytes}", "tmpfs", disk], check=True)
    try:
        path = overwritten(whole, disk / "outbox.db")
        before = path.read_bytes()
        with pytest.raises(OutboxUnsafeError, match=r"[0-9]+ bytes are needed in .*; nothing was changed"):
            mend(path)

        assert before == path.read_bytes()
        assert [] == [*disk.glob("*salvage*"), *disk.glob("*damaged*")]
        subprocess.run(["mount", "-o", f"remount,size={5 * 2**20}", disk], check=True)
        with path.with_suffix(".ballast").open("wb") as ballast:
            os.posix_fallocate(ballast.fileno(), 0, 4 * 2**20)
        assert mend(path).read
        assert not path.with_suffix(".ballast").exists()
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_only_a_few_damaged_files_are_kept(path):
    """The disk of a till that is damaged again and again does not fill up with them; nobody else may read them."""
    for seed in range(salvage.KEPT_MAX + 2):
        overwrite(path, 10 * PAGE_BYTES, garbage(seed))
        overwrite(path, 12 * PAGE_BYTES, garbage(seed))
        assert mend(path)

    kept = salvage.damaged_files(path)
    assert salvage.KEPT_MAX == len(kept)
    assert {0o600} == {file.stat().st_mode & 0o777 for file in [*kept, path]}


def test_an_outbox_that_an_agent_has_is_not_salvaged(path):
    """Whoever holds the lock writes to the file."""
    overwrite(path, 20 * PAGE_BYTES, garbage(5))
    with hold(path), pytest.raises(OutboxBusyError):
        mend(path)

    assert mend(path)


def test_a_large_outbox_is_looked_through_only_after_a_run_that_ended_by_it(path):
    """Reading all of it at each start would take too long; damage in its middle is met later, and marked then."""
    overwrite(path, 20 * PAGE_BYTES, garbage(1))
    assert mend(path, check_limit_bytes=0) is None

    salvage.suspect(path)

    assert mend(path, check_limit_bytes=0)
    assert mend(path, check_limit_bytes=0) is None
    assert not path.with_suffix(".suspect").exists()


def test_a_number_that_a_bit_was_turned_in_makes_no_gap_of_millions(path):
    """It would be larger than any that the file has room for."""
    data = path.read_bytes()
    with closing(Pages(path)) as pages:
        cell = salvage.look_through(pages).cells[150][0]
    at = (cell.page - 1) * PAGE_BYTES + cell.at
    while data[at : at + 2] != bytes([0x81, 150 & 0x7F]):  # The number 150 in two bytes; its size stands before it.
        at += 1
    overwrite(path, at, bytes([0xFF]))

    told = salvage.repair(path, LIMITS, names(2), dry_run=False)

    assert (told.lost, told.lost_ids) == (1, ("d150",))
    assert held(path)[0].previous[0].newest == 150


# -- Both ends ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def central(whole):
    """Return central's database with the 60 documents that were stored, and the head of 150 that it heard."""
    store = a_store()
    store.open_streams([NewStream(TILL, a_stream(), ())], {}, NOW_MS)
    (outcome,) = store.ingest([a_parcel(BODIES[:STORED])], {}, NOW_MS)
    assert outcome.kind == "advanced"
    promised = Heard(a_stream(), BOOT, 150, digest_of(BODIES), after=STORED, agreed=digest_of(BODIES[:STORED]))
    store.note(NOW_MS, heads=[(TILL, promised)])
    yield store
    store.close()


def upload_all(store, head, bodies):
    """Have central take a new stream over, as it does at a doorbell, and everything in it."""
    promised = Heard(head.stream, "boot-2", head.newest, head.digest)
    store.open_streams([NewStream(TILL, head.stream, head.previous, promised)], {}, NOW_MS)
    (outcome,) = store.ingest([a_parcel(bodies, stream=head.stream)], {TILL: (promised,)}, NOW_MS)
    assert outcome.kind == "advanced"


def of_central(store):
    """Return the documents that central has, and the numbers of the old stream that its gaps cover."""
    run = store.database.execute_sql
    gaps = run("SELECT first, last FROM gap WHERE stream = ?", (a_stream(),)).fetchall()
    bodies = [bytes(row[0]) for row in run("SELECT body FROM document ORDER BY rowid")]
    return bodies, {number for first, last in gaps for number in range(first, last + 1)}


@pytest.mark.parametrize("number", [0, 1, 2, 8, 20, 30, 40, 50, 54])
def test_central_ends_with_every_document_once_or_a_gap_that_covers_it(path, central, number):
    """Whatever page was garbage: what is stored twice would be a conflict, what is missing stands in a gap."""
    overwrite(path, number * PAGE_BYTES, garbage(number))
    mend(path) or salvage.repair(path, LIMITS, names(2), dry_run=False)
    head, bodies = held(path)

    upload_all(central, head, bodies)

    stored, covered = of_central(central)
    missing = {number for number, body in enumerate(BODIES, 1) if body not in set(stored)}
    strangers = len(set(stored) - set(BODIES))
    assert len(stored) == len(set(stored))
    assert missing <= covered
    assert strangers <= len(missing)
    assert all(number > STORED for number in covered)
    if not missing:
        assert len(stored) == 150


# -- By hand -----------------------------------------------------------------------------------------------------------


def run_repair(path, *options):
    environment = {"TILLSTREAM_TILL_ID": TILL, "TILLSTREAM_STATE_DIR": str(path.parent)}
    return CliRunner().invoke(edge, ["repair", *options], env=environment)


def test_a_whole_outbox_needs_no_repair(path):
    """Exit code 0, and a word that says so."""
    done = run_repair(path)

    assert (done.exit_code, "nothing to do" in done.stdout) == (0, True)
    assert {"repaired": False} == json.loads(run_repair(path, "--json").stdout)


def test_a_dry_run_tells_the_loss_and_changes_nothing(path):
    """Exit code 3 where documents are lost, 0 where all can be read; the file is as it was."""
    overwrite(path, 0, bytes(100))
    assert run_repair(path, "--dry-run").exit_code == 0
    overwrite(path, 20 * PAGE_BYTES, garbage(5))
    before = path.read_bytes()

    done = run_repair(path, "--dry-run", "--json")

    told = json.loads(done.stdout)
    assert (done.exit_code, told["repaired"]) == (3, False)
    assert told["lost"] >= 1
    assert before == path.read_bytes()


def test_a_repair_says_what_was_lost_and_what_to_do_next(path):
    """Ids as far as they are known, where the damaged file is, and the next step; a second one finds nothing to do."""
    flip(path, b'"document_id":"d100"', bit=2)

    done = run_repair(path)

    assert done.exit_code == 3
    for text in ("lost     1 of stream", "missing  d100", "damaged-", "start the agent", "gap"):
        assert text in done.stdout
    assert run_repair(path).exit_code == 0


def test_a_till_whose_agent_runs_is_not_repaired(path):
    """It says to stop the agent first; without an outbox, that there is none."""
    with hold(path):
        done = run_repair(path)
    assert (done.exit_code, "stop the agent first" in done.stderr) == (1, True)

    path.unlink()
    assert run_repair(path).exit_code == 7
