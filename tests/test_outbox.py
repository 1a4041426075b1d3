"""The outbox: durable, numbered, chained, bounded, and careful with what it believes."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from factories import CENTRAL, NOW_MS, a_sale, a_stream, an_outbox, digest_of, filled, some_sales

from edge.outbox import Appended, Outbox, OutboxBusyError, OutboxFullError
from wire import chain
from wire.messages import HISTORIES_MAX, History

YEAR_MS = 365 * 86_400_000


@pytest.fixture
def opened():
    """Return a function that opens outboxes; whatever a test leaves open is closed after it."""
    made = []

    def open_one(*path, **limits):
        made.append(an_outbox(*path, **limits))
        return made[-1]

    yield open_one
    for outbox in made:
        outbox.database.close()
        if outbox._lock:
            outbox._lock.close()


@pytest.fixture
def outbox(opened):
    """Return an empty outbox in memory."""
    return opened()


@pytest.fixture
def path(tmp_path):
    """Return where an outbox file may be made."""
    return tmp_path / "outbox.db"


def fill_up(outbox, size=3000):
    """Append until there is no room for a document of this size; return how many are in it."""
    number = outbox.head().newest
    with pytest.raises(OutboxFullError, match="full"):  # noqa: PT012 -- which of them finds no room is not known
        while True:
            number += 1
            outbox.append(f"d{number}", b"x" * size, NOW_MS + number)
    return number - 1


def is_whole(outbox, stream, bodies):
    """Say whether the outbox holds exactly these documents, chained from the stream's beginning."""
    head = outbox.head()
    digests = [outbox.digest_at(number) for number in range(len(bodies) + 1)]
    return (
        (stream, len(bodies), digest_of(bodies, stream)) == (head.stream, head.newest, head.digest)
        and digests == [digest_of(bodies[:number], stream) for number in range(len(bodies) + 1)]
        and outbox.read_after(0, 10_000, 2**30) == bodies
    )


# -- Appending ---------------------------------------------------------------------------------------------------------


def test_documents_are_numbered_from_one_and_chained(outbox):
    """Number n follows n-1, and each digest is over all documents before it."""
    assert (0, 1, 0) == (outbox.head().newest, outbox.head().oldest, outbox.head().unsent)

    bodies = filled(outbox, 5)

    assert is_whole(outbox, a_stream(), bodies)
    assert outbox.digest_at(6) is None


def test_the_same_document_again_keeps_its_number(outbox):
    """What was committed and never heard of is handed over again, and stands there once."""
    filled(outbox, 3)

    assert Appended(2, is_new=False) == outbox.append("d2", a_sale("d2"), NOW_MS)
    assert outbox.head().newest == 3


def test_the_same_id_with_other_bytes_gets_a_number_of_its_own(outbox):
    """The till never refuses a closed document: central will judge the conflict."""
    filled(outbox, 3)

    assert Appended(4, is_new=True) == outbox.append("d2", b"other", NOW_MS)
    assert Appended(4, is_new=False) == outbox.append("d2", b"other", NOW_MS)


def test_what_was_appended_is_there_after_opening_it_again(opened, path):
    """Numbers, chain, stream and findings survive the process."""
    outbox = opened(path)
    bodies = filled(outbox, 5)
    outbox.append("d6", b"card", NOW_MS, card_numbers=2)
    outbox.close()

    again = opened(path)
    assert is_whole(again, a_stream(), [*bodies, b"card"])
    assert again.card_numbers_masked == 2
    assert Appended(7, is_new=True) == again.append("d7", b"next", NOW_MS)


def test_a_document_is_durable_when_append_returns(opened, path):
    """A process killed right after the answer has lost nothing: no close, no save."""
    script = (
        "import os, sys; sys.path[:0] = ['tests']; from factories import *;"
        f"outbox = an_outbox({str(path)!r}); filled(outbox, 3); os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parent.parent, check=False)
    outbox = opened(path)

    assert killed.returncode == -9
    assert is_whole(outbox, a_stream(), some_sales(3))


SYNCS = """
import sys; sys.path[:0] = ["tests"]
from factories import *
outbox = an_outbox({path!r})
filled(outbox, 5)
print("begin", flush=True)
filled(outbox, {documents}, first=6)
print("end", flush=True)
"""


def can_trace():
    return (
        shutil.which("strace") and not subprocess.run(["strace", "true"], capture_output=True, check=False).returncode
    )


@pytest.mark.skipif(not can_trace(), reason="strace, which counts the fsyncs of a process, cannot be used here")
def test_a_document_costs_exactly_one_fsync(path, tmp_path):
    """Twenty documents are twenty syncs of the write-ahead log, and nothing else is synced."""
    trace = tmp_path / "trace"
    calls = ["strace", "-f", "-e", "trace=fsync,fdatasync,write", "-s", "8", "-o", str(trace)]
    script = SYNCS.format(path=str(path), documents=20)
    subprocess.run([*calls, sys.executable, "-c", script], cwd=Path(__file__).parent.parent, check=True)

    between = re.search(r'write\(1, "begin.*?\n(.*)write\(1, "end', trace.read_text(), re.DOTALL)[1]

    assert len(re.findall(r"\b(?:fsync|fdatasync)\(", between)) == 20


# -- Reading -----------------------------------------------------------------------------------------------------------


def test_reading_stops_at_either_limit(outbox):
    """Documents come in order, as many as both limits allow."""
    for number in range(1, 6):
        outbox.append(f"d{number}", b"x" * 100, NOW_MS)

    assert [5, 2, 3, 2, 0] == [
        len(outbox.read_after(*limits)) for limits in ((0, 9, 999), (0, 2, 999), (2, 9, 300), (0, 9, 299), (5, 9, 999))
    ]


def test_one_document_always_fits(outbox):
    """A document over the limit in bytes is sent alone: it must not block the rest."""
    outbox.append("large", b"x" * 1000, NOW_MS)
    outbox.append("small", b"y", NOW_MS)

    assert [b"x" * 1000] == outbox.read_after(0, 10, 5)


def test_the_oldest_unsent_document_tells_how_long_it_waits(outbox):
    """Its time is told, and none once everything is stored."""
    filled(outbox, 3)
    outbox.mark_stored(1, CENTRAL, None)

    assert outbox.head().oldest_unsent_at_ms == NOW_MS + 2
    assert [2, 3] == [row["sequence"] for row in outbox.unsent_documents(10)]
    outbox.mark_stored(3, CENTRAL, None)
    assert outbox.head().oldest_unsent_at_ms is None
    assert outbox.unsent_documents(10) == []


# -- What central has --------------------------------------------------------------------------------------------------


def test_the_head_tells_the_digest_at_what_is_stored(outbox):
    """By it central sees whether it holds this very history; at either end there is nothing to say."""
    filled(outbox, 3)
    stream, bodies = outbox.head().stream, outbox.read_after(0, 3, 10_000)

    for stored, count in ((0, None), (1, 1), (2, 2), (3, None)):
        outbox.mark_stored(stored, CENTRAL, None)
        digest = count and chain.follow_all(chain.first(stream), bodies[:count])
        assert outbox.head().stored_digest == digest


def test_what_central_has_is_written_with_the_next_commit(opened, path):
    """Marking costs no fsync: a crash loses it harmlessly, the next document or ``save`` writes it."""
    outbox = opened(path)
    filled(outbox, 3)
    outbox.mark_stored(2, CENTRAL, 1)
    outside = sqlite3.connect(f"file:{path}?mode=ro", uri=True)

    def written():
        return outside.execute("SELECT stored, backed_up, central_id FROM stream").fetchone()

    assert written() == (0, None, None)
    filled(outbox, 1, first=4)
    assert written() == (2, 1, CENTRAL)
    outbox.mark_stored(4, CENTRAL, 1)
    outbox.save()
    assert written() == (4, 1, CENTRAL)
    outside.close()


def test_a_crash_makes_the_till_believe_less_and_never_more(opened, path, tmp_path):
    """What is on the disk right after marking knows nothing of it, and holds every document."""
    outbox = opened(path)
    bodies = filled(outbox, 3)
    outbox.mark_stored(3, CENTRAL, None)
    for file in tmp_path.glob("outbox.db*"):
        shutil.copy(file, tmp_path / file.name.replace("outbox", "crashed"))
    crashed = opened(tmp_path / "crashed.db")

    assert (3, 0) == (outbox.head().stored, crashed.head().stored)
    assert is_whole(crashed, a_stream(), bodies)


def test_more_than_there_is_cannot_be_stored(outbox):
    """A mark stops at the newest document."""
    filled(outbox, 3)
    outbox.mark_stored(99, CENTRAL, None)

    assert (3, 0) == (outbox.head().stored, outbox.head().unsent)


def test_starts_are_counted_durably(opened, path):
    """Connections count up over restarts: each start has its own number."""
    starts = []
    for _ in range(3):
        outbox = opened(path)
        starts.append(outbox.count_start())
        outbox.close()

    assert [1, 2, 3] == starts


# -- Pruning -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stored", "backed_up", "expected"), [(0, None, 0), (6, None, 6), (6, 4, 4), (6, 0, 0), (3, 9, 3), (10, None, 8)]
)
def test_pruned_is_only_what_is_stored_backed_up_and_old(outbox, stored, backed_up, expected):
    """Ten documents, of which eight are old: the least of the three bounds holds."""
    bodies = filled(outbox, 10)
    outbox.mark_stored(stored, CENTRAL, backed_up)

    assert outbox.prune(NOW_MS + 9) == expected
    assert outbox.prune(NOW_MS + 9) == 0
    assert outbox.head().oldest == expected + 1
    assert outbox.read_after(expected, 100, 2**20) == bodies[expected:]


@pytest.mark.fault("F28")
def test_how_far_central_is_backed_up_goes_down_and_outlives_silence_and_restarts(opened, path):
    """A restored central says less: that counts. One that says nothing frees nothing; another one has other backups."""
    outbox = opened(path)
    filled(outbox, 10)
    outbox.mark_stored(10, CENTRAL, 6)
    outbox.mark_stored(9, CENTRAL, 2)
    outbox.close()
    outbox = opened(path)
    outbox.mark_stored(10, CENTRAL, None)

    assert outbox.prune(NOW_MS + 99) == 2
    outbox.mark_stored(10, "another", None)
    assert outbox.prune(NOW_MS + 99) == 8


def test_pruning_keeps_the_digest_where_it_ended_and_the_chain_goes_on(opened, path):
    """Central may still ask from there; the next documents chain on, also after opening it again with none left."""
    outbox = opened(path)
    bodies = filled(outbox, 4)
    outbox.mark_stored(4, CENTRAL, None)
    outbox.prune(NOW_MS + 99)
    outbox.close()

    again = opened(path)
    assert (5, 4, 4) == (again.head().oldest, again.head().newest, again.head().stored)
    assert again.digest_at(4) == again.head().digest == digest_of(bodies)
    assert again.digest_at(3) is None
    assert again.append("d5", b"next", NOW_MS).sequence == 5
    assert again.head().digest == digest_of([*bodies, b"next"])


def test_pruning_goes_in_bounded_steps(outbox):
    """A transaction forgets so many at most; whoever wants more asks again."""
    filled(outbox, 10)
    outbox.mark_stored(10, CENTRAL, None)

    assert [4, 4, 2, 0] == [outbox.prune(NOW_MS + 99, limit_documents=4) for _ in range(4)]


@pytest.mark.fault("F17", "F18")
def test_a_document_of_a_clock_that_was_behind_takes_nothing_along_that_came_before_it(outbox):
    """A clock that was a year behind for a moment: what was closed before, by the right one, is kept its time."""
    for number, at_ms in enumerate((NOW_MS, NOW_MS + 1, NOW_MS - YEAR_MS, NOW_MS + 3), 1):
        outbox.append(f"d{number}", b"1", at_ms)
    outbox.mark_stored(4, CENTRAL, None)

    assert outbox.prune(NOW_MS, now_ms=NOW_MS + 9) == 0
    assert outbox.prune(NOW_MS + 1, now_ms=NOW_MS + 9) == 1
    assert outbox.prune(NOW_MS + 2, now_ms=NOW_MS + 9) == 2


@pytest.mark.fault("F17", "F18")
def test_a_document_of_a_clock_that_was_ahead_is_kept_its_time_from_when_that_is_seen(outbox):
    """It would be kept for a year more, and everything behind it; the disk would be full first."""
    for number, at_ms in enumerate((NOW_MS, NOW_MS + YEAR_MS, NOW_MS + 2), 1):
        outbox.append(f"d{number}", b"1", at_ms)
    outbox.mark_stored(3, CENTRAL, None)

    assert outbox.prune(NOW_MS + 1, now_ms=NOW_MS + 9) == 1
    assert outbox.prune(NOW_MS + 9, now_ms=NOW_MS + 99) == 0
    assert outbox.prune(NOW_MS + 10, now_ms=NOW_MS + 99) == 2


# -- New streams -------------------------------------------------------------------------------------------------------


def test_a_new_stream_renumbers_what_is_retained_in_order_under_a_new_chain(opened, path):
    """Documents 4 to 10 become 1 to 7; the old stream is named with where it was pruned and where it ended."""
    outbox = opened(path)
    bodies = filled(outbox, 10)
    outbox.mark_stored(5, CENTRAL, 4)
    outbox.prune(NOW_MS + 4)
    before, at_3 = outbox.head(), outbox.digest_at(3)
    old = History(stream=a_stream(), pruned=3, newest=10, digest=before.digest, agreed=3, agreed_digest=at_3)

    outbox.start_stream(0)

    for one in (outbox, None):
        if one is None:
            outbox.close()
            one = opened(path)  # noqa: PLW2901 -- the very same must hold after opening it again
        assert is_whole(one, a_stream(2), bodies[3:])
        assert (1, 0) == (one.head().oldest, one.head().stored)
        assert (old,) == one.head().previous
        assert one.prune(NOW_MS + 99) == 0
    assert one.append("d11", b"next", NOW_MS).sequence == 8


@pytest.mark.parametrize(
    "edit", ["DELETE FROM document WHERE sequence = 4", "UPDATE document SET body = 'x' WHERE sequence = 4"]
)
def test_a_new_stream_owns_up_to_rows_that_were_edited(outbox, edit):
    """Up to the last place where the old chain does not hold nothing is vouched for."""
    filled(outbox, 6)
    outbox._connection.execute(edit)
    outbox.start_stream(2)

    (old,) = outbox.head().previous
    broken = 5 if "DELETE" in edit else 4
    assert (broken, 6, 2) == (old.pruned, old.newest, old.agreed)


def test_a_row_that_is_gone_ends_what_is_read(outbox):
    """What follows a hole would go under wrong numbers."""
    bodies = filled(outbox, 5)
    outbox._connection.execute("DELETE FROM document WHERE sequence = 3")

    assert outbox.read_after(0, 10, 10**6) == bodies[:2]
    assert outbox.read_after(2, 10, 10**6) == []


def test_numbers_whose_rows_are_gone_no_longer_count_as_stored(opened, path):
    """They will be given out again, to documents that central does not have."""
    outbox = opened(path)
    filled(outbox, 5)
    outbox.mark_stored(5, CENTRAL, None)
    outbox.save()
    outbox._connection.execute("DELETE FROM document WHERE sequence = 5")
    outbox.close()

    assert opened(path).head().stored == 4


def test_the_digest_of_a_forgotten_document_is_still_known(outbox):
    """Central is told it when the histories part, and can see whether it holds the same."""
    bodies = filled(outbox, 6)
    outbox.mark_stored(6, CENTRAL, None)
    outbox.prune(NOW_MS + 5)
    outbox.start_stream(2)

    (old,) = outbox.head().previous
    assert (old.pruned, old.agreed, old.agreed_digest) == (4, 2, digest_of(bodies[:2]))
    assert outbox._connection.execute("SELECT count(*) FROM forgotten").fetchone() == (0,)


@pytest.mark.fault("F41")
def test_an_outbox_of_the_first_version_is_brought_up_to_date(opened, path):
    """It keeps its documents, its stream and the streams that it took over."""
    outbox = opened(path)
    bodies = filled(outbox, 3)
    outbox.start_stream(0)
    outbox.close()
    old = sqlite3.connect(path)
    old.executescript("DROP TABLE forgotten; ALTER TABLE previous DROP COLUMN agreed;"
                      " ALTER TABLE previous DROP COLUMN agreed_digest; PRAGMA user_version = 1")  # fmt: skip
    old.close()

    again = opened(path)
    assert is_whole(again, a_stream(2), bodies)
    assert [(a_stream(), 3)] == [(one.stream, one.newest) for one in again.head().previous]


def test_a_document_is_known_again_in_the_new_stream(outbox):
    """Idempotency is by id and bytes, and goes along."""
    filled(outbox, 5)
    outbox.mark_stored(2, CENTRAL, None)
    outbox.prune(NOW_MS + 3)
    outbox.start_stream(0)

    assert Appended(1, is_new=False) == outbox.append("d3", a_sale("d3"), NOW_MS)


def test_an_empty_outbox_may_start_a_stream_too(outbox):
    """Nothing is renumbered, and the stream begins with its own digest 0."""
    outbox.start_stream(0)

    assert is_whole(outbox, a_stream(2), [])
    assert outbox.head().digest == chain.first(a_stream(2))


def test_the_last_sixteen_histories_are_kept(outbox):
    """Older ones are forgotten: a doorbell is bounded."""
    filled(outbox, 1)
    for _ in range(HISTORIES_MAX + 4):
        outbox.start_stream(0)

    assert [a_stream(number) for number in range(5, 21)] == [one.stream for one in outbox.head().previous]


# -- Room --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_file", [True, False], ids=["file", "memory"])
def test_a_full_outbox_refuses_and_is_as_before(opened, path, is_file):
    """At ``outbox_limit_bytes`` an append raises OutboxFullError; what is in it stays in it, in order."""
    outbox = opened(*[path] * is_file, outbox_limit_bytes=2**20)
    held = fill_up(outbox)

    assert held > 200
    assert outbox.head().newest == held
    assert is_whole(outbox, a_stream(), [b"x" * 3000] * held)


def test_a_full_outbox_is_usable_after_pruning(opened, path):
    """What is pruned makes room; numbers and chain go on as if nothing had been."""
    outbox = opened(path, outbox_limit_bytes=2**20)
    held = fill_up(outbox)
    outbox.mark_stored(held, CENTRAL, None)
    assert outbox.prune(NOW_MS + held + 1) == held

    assert outbox.append("next", b"x" * 3000, NOW_MS).sequence == held + 1
    assert outbox.head().digest == digest_of([b"x" * 3000] * (held + 1))


def test_a_document_that_found_no_room_is_not_counted_as_a_finding(opened, path):
    """The card number of a refused document is counted when it is appended at last, once."""
    outbox = opened(path, outbox_limit_bytes=2**20)
    fill_up(outbox)
    with pytest.raises(OutboxFullError):
        outbox.append("card", b"x" * 3000, NOW_MS, card_numbers=1)

    assert outbox.card_numbers_masked == 0


def test_a_full_outbox_can_still_start_a_new_stream(opened, path):
    """Renumbering rewrites what is there: a till that is full must not fall out of the protocol for it."""
    outbox = opened(path, outbox_limit_bytes=2**20)
    held = fill_up(outbox)
    outbox.start_stream(0)

    assert is_whole(outbox, a_stream(2), [b"x" * 3000] * held)


def test_the_ballast_is_laid_down_given_back_and_laid_down_again(opened, path):
    """Eight megabytes that can be given back to a full disk; pruning restores them."""
    outbox = opened(path, ballast_bytes=2**16)
    ballast = path.with_suffix(".ballast")
    assert ballast.stat().st_size == 2**16
    assert ballast.stat().st_blocks * 512 >= 2**16

    outbox.make_room()
    assert not ballast.exists()
    outbox.make_room()

    filled(outbox, 2)
    outbox.mark_stored(2, CENTRAL, None)
    outbox.prune(NOW_MS + 99)
    assert ballast.stat().st_size == 2**16


class FullDisk:
    """A connection on a disk that has no room for a commit while the ballast lies there."""

    def __init__(self, connection, ballast):
        self._connection, self._ballast = connection, ballast

    def execute(self, statement, *parameters):
        if statement == "COMMIT" and self._ballast.exists():
            raise sqlite3.OperationalError("database or disk is full")
        return self._connection.execute(statement, *parameters)

    def __getattr__(self, name):
        return getattr(self._connection, name)


def test_a_full_disk_does_not_keep_the_till_from_starting(opened, path):
    """The ballast is for that, too: an agent that was killed on a full disk could otherwise never begin again."""
    outbox = opened(path, ballast_bytes=2**16)
    outbox._connection = FullDisk(outbox._connection, path.with_suffix(".ballast"))

    assert outbox.count_start() == 1
    outbox.close()
    assert opened(path).starts == 1


def test_what_a_store_sold_is_nobody_elses_business(opened, path):
    """The outbox and what SQLite lays beside it may be read by the agent's user alone."""
    filled(opened(path), 1)

    files = [path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")]
    assert [0o600] * 3 == [file.stat().st_mode & 0o777 for file in files]


def test_no_ballast_is_laid_down_where_there_is_little_room(opened, path):
    """A disk with less than four times its size free keeps its room for documents."""
    room = os.statvfs(path.parent)
    opened(path, ballast_bytes=room.f_bavail * room.f_frsize // 2)

    assert not path.with_suffix(".ballast").exists()


# -- Opening -----------------------------------------------------------------------------------------------------------


def test_a_second_process_cannot_open_it(opened, path):
    """One writing connection: the second gets OutboxBusyError, and the first goes on."""
    outbox = opened(path)
    script = f"import sys; sys.path[:0] = ['tests']; from factories import *; an_outbox({str(path)!r})"
    second = subprocess.run(
        [sys.executable, "-c", script], cwd=Path(__file__).parent.parent, check=False, capture_output=True, text=True
    )

    assert "OutboxBusyError" in second.stderr
    with pytest.raises(OutboxBusyError):
        opened(path)
    filled(outbox, 1)
    outbox.close()
    opened(path).close()


def test_an_outbox_of_a_newer_version_is_refused_untouched(opened, path):
    """An older agent must not write into a schema that it does not know; it lets the file go again."""
    opened(path).close()
    newer = sqlite3.connect(path)
    newer.executescript("PRAGMA user_version = 3; PRAGMA application_id = 3")
    newer.close()
    before = path.read_bytes()

    with pytest.raises(sqlite3.DatabaseError, match="schema 3, this version knows 2"):
        opened(path)

    assert before == path.read_bytes()
    with pytest.raises(sqlite3.DatabaseError, match="schema 3"):
        opened(path)


def test_an_outbox_that_a_newer_version_only_added_to_is_used(opened, path):
    """A till can go back to the release before: what was added stays, and the mark of the newer schema with it."""
    outbox = opened(path)
    filled(outbox, 2)
    outbox.close()
    newer = sqlite3.connect(path)
    newer.executescript("ALTER TABLE stream ADD COLUMN later INTEGER NOT NULL DEFAULT 7; PRAGMA user_version = 3")
    newer.close()

    outbox = opened(path)
    assert 2 == outbox.head().newest
    outbox.append("d3", a_sale("d3"), NOW_MS)
    outbox.close()
    looked_at = sqlite3.connect(path)
    assert (3, 7) == looked_at.execute("SELECT user_version, later FROM pragma_user_version, stream").fetchone()
    looked_at.close()


def test_a_file_that_is_no_outbox_is_refused(opened, path):
    """A damaged file is not trusted, and not overwritten."""
    path.write_bytes(b"no database" * 1000)

    with pytest.raises(Exception, match="not a database"):
        opened(path)

    assert path.read_bytes() == b"no database" * 1000


def test_a_new_outbox_is_made_whole_or_not_at_all(opened, path):
    """A name for its stream that cannot be made leaves no half-made file behind that would be taken for an outbox."""
    from edge.outbox import OutboxLimits

    def no_name():
        raise OSError("no randomness")

    with pytest.raises(OSError, match="no randomness"):
        Outbox(path, OutboxLimits(ballast_bytes=0), no_name)

    outbox = opened(path)
    assert is_whole(outbox, a_stream(), [])


@pytest.mark.fault("F26")
def test_what_a_crash_left_in_the_log_is_in_the_database_before_anybody_is_told_of_it(opened, tmp_path):
    """The kernel may show bytes of the log that a failed fsync never wrote; a start writes them anew in their place."""
    filled(opened(tmp_path / "outbox.db"), 3)
    for name in ("outbox.db", "outbox.db-wal"):  # What a killed process leaves.
        shutil.copy(tmp_path / name, tmp_path / f"left-{name}")
    assert (tmp_path / "left-outbox.db-wal").stat().st_size > 0

    left = opened(tmp_path / "left-outbox.db")

    assert 0 == (tmp_path / "left-outbox.db-wal").stat().st_size
    assert 3 == left.head().newest
