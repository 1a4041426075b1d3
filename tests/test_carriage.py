"""Documents carried by file: what was changed is not believed, and nothing is lost or doubled, whatever comes twice."""

from __future__ import annotations

import hmac
import io
import json
import sqlite3
import threading
from dataclasses import dataclass
from pathlib import Path
from random import Random

import msgspec
import pytest
from click.testing import CliRunner
from factories import (
    CENTRAL,
    NOW_MS,
    TILL,
    RecordingLink,
    Till,
    a_confirmation,
    a_parcel,
    a_sale,
    a_store,
    a_stream,
    a_syps,
    a_till,
    an_outbox,
    digest_of,
    filled,
    some_sales,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from central import carriage as at_central
from central import carriage_cli
from central.batch import Heard, NewStream
from central.config import CentralConfig
from central.subscriber import Subscriber
from edge import carriage as at_till
from edge import service
from edge.asking import ask
from edge.carriage_cli import confirm, export
from edge.cli import edge
from edge.config import EdgeConfig
from edge.syps import MarkStored
from wire import carriage, codec
from wire.carriage import CarriageError, CarriageHeader, Packing, ReplyHeader
from wire.inbox import Inbox
from wire.link import Acknowledged, Connected, Received
from wire.messages import Sales, said
from wire.tokens import token_of

KEY = b"a-fleet-key-for-tests-only-and-long-enough"
TOKEN = token_of(KEY, TILL)
OTHER = b"another-fleet-key-that-is-as-long-as-needed"


def tokens(till):
    """Return a till's token, as central makes it."""
    return token_of(KEY, till)


def exported(outbox, after=None, till=TILL, **options):
    """Return the file that a till writes, and what it says of it."""
    file = io.BytesIO()

    def ask(begin, through):
        return at_till.export_chunk(outbox, "boot-1", begin, through)

    done = at_till.export(file, ask, till, token_of(KEY, till), after, NOW_MS, **options)
    return file, done


def imported(store, file, **options):
    """Have central take a file in; return what came of it, and the sealed reply."""
    options = {"token_of": tokens, "denied": (), "at_ms": NOW_MS + 1, **options}
    done = at_central.take_in(store, file, **options)
    reply = io.BytesIO()
    at_central.write_reply(reply, done, TOKEN)
    return done, reply.getvalue()


def carried(outbox, store, **options):
    """Carry everything unsent to central and the answer back."""
    done, reply = imported(store, exported(outbox, **options)[0])
    at_till.believe(outbox, outbox.central_id, reply, TILL, TOKEN)
    return done


def rows(store, statement, *values):
    return store.database.run(statement, values).fetchall()


def bodies_of(store, till=TILL):
    """Return the bytes that central has of a till, oldest first."""
    return [bytes(body) for (body,) in rows(store, "SELECT body FROM document WHERE till_id = ? ORDER BY id", till)]


def mark_of(store, stream=None):
    return rows(store, "SELECT through, digest FROM watermark WHERE stream = ?", stream or a_stream())[0]


def contents(store):
    """Return all that central holds but the audit, which also tells what changed nothing."""
    tables = ("till", "watermark", "document", "quarantine", "heard_head", "gap", "task", "held_before")
    return {table: rows(store, f"SELECT * FROM {table}") for table in tables}


def is_untouched(store):
    return not any(contents(store).values()) and rows(store, "SELECT * FROM audit") == []


@pytest.fixture
def outbox():
    """Return an empty outbox."""
    made = an_outbox()
    yield made
    made.database.close()


@pytest.fixture
def store(central_url):
    """Return an empty central database."""
    made = a_store(central_url)
    yield made
    made.close()


# -- There and back ----------------------------------------------------------------------------------------------------


def test_what_is_carried_is_stored_byte_for_byte_and_confirmed(outbox, store):
    """All unsent documents arrive in their order, the till counts as verified, and nothing is unsent afterwards."""
    bodies = filled(outbox, 5)
    done = carried(outbox, store)

    assert bodies_of(store) == bodies
    assert (done.stored, done.known, done.quarantined) == (5, 0, 0)
    assert mark_of(store) == (5, digest_of(bodies))
    assert rows(store, "SELECT verified_at_ms FROM watermark") == [(NOW_MS,)]
    assert (outbox.head().stored, outbox.head().unsent, outbox.central_id) == (5, 0, CENTRAL)
    assert rows(store, "SELECT action, object, note FROM audit") == [
        ("import", f"till {TILL}", f"documents 1..5 of stream {a_stream()}")
    ]


def test_a_frame_is_what_the_link_would_have_carried(outbox):
    """The doorbell first, then uploads of at most 200 documents, in the wire's own format."""
    bodies = filled(outbox, 450)
    file, done = exported(outbox)
    bell, *sales = carriage.unseal(file, CarriageHeader, tokens, 2**20).frames

    assert bell == codec.encode(at_till.doorbell(outbox.head(), "boot-1"))
    uploads = [codec.unpack_sales(one, codec.SalesLimits()) for one in sales]
    assert [(one.header.after, one.header.through) for one in uploads] == [(0, 200), (200, 400), (400, 450)]
    assert [body for one in uploads for body in one.bodies] == bodies
    assert uploads[1].header == said(
        Sales, stream=a_stream(), after=200, through=400, digest=digest_of(bodies[:400]), task="carried"
    )
    assert done.left == 0


def test_one_document_larger_than_a_frame_travels_alone(outbox, store):
    """The limit in bytes never stops a document."""
    large = a_sale("large", note_of_the_pos="x" * carriage.FRAME_BYTES)
    for number, body in enumerate([a_sale("d1"), large, a_sale("d3")], 1):
        outbox.append(f"id{number}", body, NOW_MS)
    carried(outbox, store)

    assert bodies_of(store) == [a_sale("d1"), large, a_sale("d3")]


def test_with_nothing_unsent_the_file_is_the_proof_that_nothing_is_missing(outbox, store):
    """No documents travel, and central can call the till verified."""
    bodies = filled(outbox, 2)
    store.open_streams([NewStream(TILL, a_stream(), ())], {}, NOW_MS)
    store.ingest([a_parcel(bodies)], {}, NOW_MS)
    outbox.mark_stored(2, CENTRAL, None)
    done = carried(outbox, store)

    assert (done.header.after, done.header.through, done.stored) == (2, 2, 0)
    assert rows(store, "SELECT verified_at_ms FROM watermark") == [(NOW_MS,)]


def test_a_second_import_changes_nothing_and_answers_the_same(outbox, store):
    """Only the audit tells that somebody did it twice."""
    filled(outbox, 3)
    outbox.append("bad", b'{"document_id":"bad"}', NOW_MS)
    file, _ = exported(outbox)
    first, reply = imported(store, file)
    before = contents(store)
    second, again = imported(store, file, at_ms=NOW_MS + 99)

    assert (first.stored, first.known, first.quarantined) == (3, 0, 1)
    assert (second.stored, second.known, second.quarantined) == (0, 4, 0)
    assert contents(store) == before
    assert reply == again
    assert len(rows(store, "SELECT id FROM audit")) == 2
    assert [(one.sequence, one.code) for one in second.reply.quarantined] == [(4, "bad_schema")]


def test_documents_closed_during_the_export_wait_for_the_next(outbox, store):
    """The file ends where the till was when it began, so the doorbell in it is true."""
    filled(outbox, 250)

    def progress(_written, _of):
        if outbox.head().newest == 250:
            filled(outbox, 3, first=251)

    _, done = exported(outbox, progress=progress)
    assert (done.header.through, done.left) == (250, 0)

    carried(outbox, store)
    assert len(bodies_of(store)) == 253


def test_a_stream_that_changes_during_the_export_is_an_error(outbox):
    """Half of one history and half of another would be neither."""
    filled(outbox, 250)

    with pytest.raises(CarriageError, match="new stream meanwhile"):
        exported(outbox, progress=lambda _written, _of: outbox.start_stream(0))


def test_what_does_not_fit_into_one_file_goes_into_the_next(outbox, store):
    """Each file is whole; the second alone is refused with the number to begin after, and fits when it is its turn."""
    filled(outbox, 450)
    size_bytes = exported(outbox)[1].header.size_bytes
    first, done = exported(outbox, limit_bytes=size_bytes - 1)
    assert (done.header.through, done.left) == (400, 50)
    assert done.header.size_bytes == len(first.getvalue()) < size_bytes
    second, _ = exported(outbox, after=400)

    with pytest.raises(CarriageError, match=r"edge export --after 0 --to"):
        imported(store, second)
    assert bodies_of(store) == []
    imported(store, first)
    imported(store, second)
    assert mark_of(store)[0] == 450
    assert [] == rows(store, "SELECT * FROM gap")


# -- What is not believed ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sealed():
    """Return a file with three documents in two frames, and its reply."""
    outbox, store = an_outbox(), a_store()
    filled(outbox, 201)
    file, _ = exported(outbox)
    _, reply = imported(store, file)
    outbox.database.close()
    store.close()
    return file.getvalue(), reply


def frame_ends(content):
    """Return where the header and each frame of a file end."""
    ends = [carriage.HEADER_BYTES]
    while ends[-1] < len(content) - carriage.SEAL_BYTES:
        length = int.from_bytes(content[ends[-1] : ends[-1] + carriage.LENGTH_BYTES], "big")
        ends.append(ends[-1] + carriage.LENGTH_BYTES + length)
    return ends


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_a_byte_changed_anywhere_is_refused_and_nothing_is_touched(sealed, data):
    """Whichever byte and whatever it becomes, in the file or in the reply; the database stays empty."""
    which = data.draw(st.sampled_from([0, 1]))
    content = bytearray(sealed[which])
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))

    if which:
        with pytest.raises(CarriageError):
            at_till.open_reply(bytes(content), TILL, TOKEN)
        return
    store = a_store()
    with pytest.raises(CarriageError):
        imported(store, io.BytesIO(content))
    assert is_untouched(store)
    store.close()


def test_a_file_cut_short_anywhere_is_refused(sealed, store):
    """At each end of a frame, a byte before and after it, in the header, in the seal, and empty: told as what it is."""
    content = sealed[0]
    ends = frame_ends(content)
    assert len(ends) == 4
    cuts = {0, 1, 500, len(content) - 1, len(content) - carriage.SEAL_BYTES}
    cuts |= {end + by for end in ends for by in (-1, 0, 1)}
    for cut in cuts:
        with pytest.raises(CarriageError, match=r"cut short|less than its header"):
            imported(store, io.BytesIO(content[:cut]))
    with pytest.raises(CarriageError, match="longer than it was made"):
        imported(store, io.BytesIO(content + b"\0"))

    assert is_untouched(store)


def resealed(content, token=TOKEN, **changes):
    """Return a file with another header, sealed as if it had been made so."""
    header = {**json.loads(content[: carriage.HEADER_BYTES]), **changes}
    head = json.dumps(header).encode().ljust(carriage.HEADER_BYTES - 1) + b"\n"
    body = head + content[carriage.HEADER_BYTES : -carriage.SEAL_BYTES]
    return body + hmac.digest(token.encode(), body, "sha256")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"v": 2}, "version 2; this program reads 1: upgrade it"),
        ({"kind": "holiday photos"}, "not a file that a till exported"),
        ({"till": "../etc"}, "not a file that a till exported: .*till"),
        ({"through": -1}, "through"),
        ({"frames": 2}, "something follows the 2 frames"),
        ({"frames": 4}, "a frame is longer than the file"),
        ({"stream": a_stream(7)}, "the doorbell in it"),
        ({"after": 100}, "begins after document 100"),
        ({"through": 200}, "its header names 200"),
    ],
)
def test_a_header_that_is_wrong_is_refused_with_the_reason(sealed, store, changes, text):
    """Also when the seal fits: whoever made such a file had the token and a bug."""
    with pytest.raises(CarriageError, match=text):
        imported(store, io.BytesIO(resealed(sealed[0], **changes)))


def test_a_file_sealed_with_another_token_is_refused(sealed, store):
    """Another fleet's key, another till's token, and a till that says it is another one."""
    content = sealed[0]
    for refused, key in ((content, OTHER), (resealed(content, till="till-2"), KEY)):
        with pytest.raises(CarriageError, match="the seal does not fit"):
            imported(store, io.BytesIO(refused), token_of=lambda till, key=key: token_of(key, till))
    assert is_untouched(store)


def test_a_reply_is_no_export_and_an_export_no_reply(sealed, store):
    """One cannot be taken for the other, although one token seals both."""
    content, reply = sealed
    with pytest.raises(CarriageError, match="not a file that a till exported"):
        imported(store, io.BytesIO(reply))
    with pytest.raises(CarriageError, match="not a reply that central wrote"):
        at_till.open_reply(content[: carriage.REPLY_LIMIT_BYTES], TILL, TOKEN)


def test_a_reply_to_another_till_is_refused(sealed):
    """It is sealed with another token, and says so before anything is computed."""
    with pytest.raises(CarriageError, match="the reply is to till till-1, this is till-2"):
        at_till.open_reply(sealed[1], "till-2", token_of(KEY, "till-2"))


class WornStick(io.BytesIO):
    """A file that reads well until it was read once, and then has one byte changed."""

    def __init__(self, content, at):
        super().__init__(content)
        self.at, self.is_worn = at, False

    def read(self, size=-1):
        start = self.tell()
        got = bytearray(super().read(size))
        if self.is_worn and start <= self.at < start + len(got):
            got[self.at - start] ^= 1
        self.is_worn = self.is_worn or self.tell() == len(self.getvalue())
        return bytes(got)


@pytest.mark.parametrize("at", [5, 1500, 2100])
def test_a_stick_that_reads_differently_the_second_time_is_refused(sealed, store, at):
    """What is taken in is what was checked, not what is read after the check."""
    assert len(sealed[0]) > at
    with pytest.raises(CarriageError, match="reads differently the second time"):
        imported(store, WornStick(sealed[0], at))
    assert is_untouched(store)


def test_nothing_is_sealed_or_opened_without_a_token(outbox, sealed, store):
    """An empty key would let anybody seal."""
    with pytest.raises(CarriageError, match="token_file"):
        at_till.export(io.BytesIO(), lambda *_: at_till.export_chunk(outbox, "b", None, None), TILL, "", None, NOW_MS)
    with pytest.raises(CarriageError, match="token_file"):
        imported(store, io.BytesIO(sealed[0]), token_of=lambda _till: "")


def test_a_file_over_the_limit_is_refused_unread(store, monkeypatch):
    """The bound is checked before anything is read."""
    monkeypatch.setattr(carriage, "CARRIAGE_LIMIT_BYTES", 5000)
    with pytest.raises(CarriageError, match="5001 bytes; at most 5000"):
        imported(store, io.BytesIO(b" " * 5001))


def test_a_revoked_and_an_unapproved_till_are_refused(sealed):
    """The deny list counts for files too; who is new is registered, and nothing is stored before a person approved."""
    store = a_store(approve_tills=True)
    with pytest.raises(CarriageError, match="deny list"):
        imported(store, io.BytesIO(sealed[0]), denied={TILL})
    assert is_untouched(store)
    with pytest.raises(CarriageError, match=f"tills approve {TILL}"):
        imported(store, io.BytesIO(sealed[0]))
    assert (bodies_of(store), rows(store, "SELECT till_id, is_approved FROM till")) == ([], [(TILL, 0)])

    store.database.execute_sql("UPDATE till SET is_approved = true")
    assert imported(store, io.BytesIO(sealed[0]))[0].stored == 201
    store.close()


# -- Histories ---------------------------------------------------------------------------------------------------------


def test_what_central_had_lost_below_its_watermark_is_filled_in(outbox, store):
    """A file that lies across the watermark is cut there; what is known is known again, a hole is filled."""
    bodies = filled(outbox, 6)
    store.open_streams([NewStream(TILL, a_stream(), ())], {}, NOW_MS)
    store.ingest([a_parcel(bodies[:4])], {}, NOW_MS)
    store.database.execute_sql("DELETE FROM document WHERE sequence = 2")
    done, _ = imported(store, exported(outbox)[0])

    assert (done.stored, done.known, done.reply.through) == (3, 3, 6)
    assert sorted(bodies_of(store)) == sorted(bodies)


def test_a_pruned_outbox_gives_what_it_retains_and_says_what_it_cannot(outbox, store):
    """Stored documents may be forgotten; asking for them is an error that names what there is."""
    bodies = filled(outbox, 5)
    store.open_streams([NewStream(TILL, a_stream(), ())], {}, NOW_MS)
    store.ingest([a_parcel(bodies[:3])], {}, NOW_MS)
    outbox.mark_stored(3, CENTRAL, None)
    assert outbox.prune(NOW_MS + 3) == 2

    for after in (0, 1, 6):
        with pytest.raises(CarriageError, match=rf"holds documents 3\.\.5 .* --after may be 2\.\.5, not {after}"):
            exported(outbox, after=after)
    assert carried(outbox, store, after=2).stored == 2
    assert bodies_of(store) == bodies


def test_a_new_stream_takes_over_what_the_old_one_held_and_shows_what_it_cannot_bring(outbox, store):
    """Documents that central has are known again; what was pruned above its watermark is a gap; the rest arrives."""
    bodies = filled(outbox, 6)
    store.open_streams([NewStream(TILL, a_stream(), ())], {}, NOW_MS)
    store.ingest([a_parcel(bodies[:2])], {}, NOW_MS)
    outbox.mark_stored(4, CENTRAL, None)
    assert outbox.prune(NOW_MS + 4) == 3
    outbox.start_stream(2)
    done = carried(outbox, store)

    assert (done.stored, done.known) == (3, 0)
    assert bodies_of(store) == [*bodies[:2], *bodies[3:]]
    assert rows(store, "SELECT stream, first, last FROM gap") == [(a_stream(1), 3, 3)]
    assert outbox.head().unsent == 0


def test_a_head_that_was_heard_and_replaced_becomes_a_gap(outbox, store):
    """The link's rule: what a till rang for and does not hold any more is shown."""
    bodies = filled(outbox, 3)
    store.open_streams([NewStream(TILL, a_stream(), ())], {}, NOW_MS)
    store.note(NOW_MS, heads=[(TILL, Heard(a_stream(), "boot-0", 2, b"\7" * 16))])
    imported(store, exported(outbox)[0])

    assert bodies_of(store) == bodies
    assert rows(store, "SELECT stream, first, last FROM gap") == [(a_stream(), 1, 2)]
    assert rows(store, "SELECT * FROM heard_head") == []


@pytest.mark.parametrize("central_has", [1, 2])
def test_another_history_is_refused_where_it_parts_from_centrals(outbox, store, central_has):
    """The same numbers, other documents: nothing of the rest is stored, and the text says what to do."""
    filled(outbox, 3)
    strangers = some_sales(central_has, first=50)
    store.open_streams([NewStream(TILL, a_stream(), ())], {}, NOW_MS)
    store.ingest([a_parcel(strangers)], {}, NOW_MS)

    with pytest.raises(CarriageError, match=f"up to document {central_has} .* new stream by itself"):
        imported(store, exported(outbox)[0])
    assert mark_of(store) == (central_has, digest_of(strangers))


@pytest.mark.parametrize("how_many", [2, 3])
def test_another_history_is_refused_also_where_the_file_begins(outbox, store, how_many):
    """The file goes on exactly where central ends, or is empty there, and what is before it is not what central has."""
    filled(outbox, how_many)
    strangers = some_sales(2, first=50)
    store.open_streams([NewStream(TILL, a_stream(), ())], {}, NOW_MS)
    store.ingest([a_parcel(strangers)], {}, NOW_MS)

    with pytest.raises(CarriageError, match=r"up to document 2 .* new stream by itself"):
        imported(store, exported(outbox, after=2)[0])
    assert mark_of(store) == (2, digest_of(strangers))


def test_a_till_with_an_open_head_elsewhere_does_not_count_as_verified(outbox, store):
    """All of this stream is here; what the till rang for in another one is not."""
    filled(outbox, 2)
    store.open_streams([NewStream(TILL, a_stream(), ())], {}, NOW_MS)
    store.note(NOW_MS, heads=[(TILL, Heard(a_stream(5), "boot-0", 2, b"\7" * 16))])
    imported(store, exported(outbox)[0])

    assert rows(store, "SELECT through, verified_at_ms FROM watermark") == [(2, None)]


def test_a_restored_till_whose_numbers_central_has_already_is_not_dropped_in_silence(outbox, store):
    """Its file lies wholly below the watermark, with other documents: they are stored all the same."""
    filled(outbox, 3)
    store.open_streams([NewStream(TILL, a_stream(), ())], {}, NOW_MS)
    store.ingest([a_parcel(some_sales(9, first=50))], {}, NOW_MS)
    done, reply = imported(store, exported(outbox)[0])

    assert (done.stored, done.known, done.reply.through) == (3, 0, 9)
    with pytest.raises(CarriageError, match="nothing to compare"):
        at_till.believe(outbox, None, reply, TILL, TOKEN)
    assert outbox.head().unsent == 3


def test_a_file_of_an_older_stream_brings_its_documents_and_leaves_the_present_one_alone(outbox, store):
    """The till was re-imaged and has rung since: no false gap, and the newest stream stays the newest."""
    bodies = filled(outbox, 3)
    file, _ = exported(outbox)
    store.open_streams([NewStream(TILL, a_stream(9), ())], {}, NOW_MS + 1)
    store.note(NOW_MS, heads=[(TILL, Heard(a_stream(9), "boot-2", 7, b"\7" * 16))])
    done, _ = imported(store, file)

    assert done.is_older_stream
    assert bodies_of(store) == bodies
    assert rows(store, "SELECT * FROM gap") == []
    assert [head.newest for _, head in store.heard_heads(0)] == [7]
    assert [mark.stream for _, mark, *_ in store.tills()] == [a_stream(9)]


def test_a_stream_that_follows_the_known_one_is_never_taken_for_an_older_one(outbox, store):
    """It names its predecessor, so the till's clock does not matter."""
    bodies = filled(outbox, 2)
    store.open_streams([NewStream(TILL, a_stream(1), ())], {}, NOW_MS + 10**9)
    outbox.start_stream(0)
    done, _ = imported(store, exported(outbox)[0])

    assert not done.is_older_stream
    assert bodies_of(store) == bodies
    assert [mark.stream for _, mark, *_ in store.tills()] == [a_stream(2)]


# -- Crashes -----------------------------------------------------------------------------------------------------------


def test_after_a_crash_between_storing_and_answering_the_file_is_imported_again(outbox, tmp_path):
    """The documents are there, the answer is not; the second run writes the answer the first would have."""
    path = tmp_path / "central.db"
    filled(outbox, 3)
    file, _ = exported(outbox)
    store = a_store(path)
    at_central.take_in(store, file, tokens, (), NOW_MS)
    store.close()

    store = a_store(path)
    done, reply = imported(store, file)
    assert (done.stored, done.known) == (0, 3)
    assert at_till.believe(outbox, None, reply, TILL, TOKEN).through == 3
    store.close()


class CrashError(Exception):
    """The process died."""


def test_a_crash_in_the_middle_of_a_file_leaves_whole_uploads_and_the_rest_follows(outbox, store):
    """What was committed stays, what was not comes with the next run: nothing twice, nothing missing."""
    bodies = filled(outbox, 450)
    file, _ = exported(outbox)
    ingest, calls = store.ingest, []

    def die_at_the_second(*given):
        calls.append(1)
        if len(calls) == 2:
            raise CrashError
        return ingest(*given)

    store.ingest = die_at_the_second
    with pytest.raises(CrashError):
        imported(store, file)
    assert mark_of(store)[0] == 200
    store.ingest = ingest
    done, _ = imported(store, file)

    assert (done.stored, done.known) == (250, 200)
    assert bodies_of(store) == bodies


def test_a_file_that_could_not_be_written_leaves_nothing(tmp_path):
    """Neither the file nor a part of it; one that was there before stays as it was."""
    path = tmp_path / "out.carriage"
    path.write_bytes(b"before")

    def write_half():
        with carriage.written_whole(path) as file:
            file.write(b"half")
            raise CrashError

    with pytest.raises(CrashError):
        write_half()
    assert {one.name: one.read_bytes() for one in tmp_path.iterdir()} == {"out.carriage": b"before"}


def test_a_file_is_its_owners_alone_and_follows_nobodys_link(tmp_path):
    """It holds what a store sold, and may be written by root into a folder that is everybody's."""
    path, victim = tmp_path / "out.carriage", tmp_path / "victim"
    victim.write_bytes(b"precious")
    path.with_name("out.carriage.part").symlink_to(victim)
    with carriage.written_whole(path) as file:
        file.write(b"sales")

    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"sales", 0o600)
    assert victim.read_bytes() == b"precious"


# -- Beside the link ---------------------------------------------------------------------------------------------------


@dataclass
class Line:
    """A till and a central worker, and what carries their messages while the test lets it."""

    till: Till
    worker: Subscriber
    link: RecordingLink

    @property
    def store(self):
        return self.worker.store

    def connect(self, now):
        """Let both ends connect and talk until nobody has anything to say for five seconds."""
        self.worker.handle_all([Connected(1)], now)
        self.till.agent.handle(Connected(1), now)
        silent_at = now
        while now - silent_at < 5:
            now += 0.25
            silent_at = now if self._carry(now) else silent_at

    def _carry(self, now):
        """Carry what either end has published since, acknowledged; return whether there was anything."""
        agent, up, down = self.till.agent, self.till.link.published, self.link.published
        going_up, going_down = up[:], down[:]
        up.clear()
        down.clear()
        self.worker.handle_all(
            [Received(1, 1, topic, body, retained=False, at=now) for topic, body, _ in going_up], now
        )
        for mid in list(agent._sent):
            agent.handle(Acknowledged(1, mid), now)
        for topic, body, _ in going_down:
            agent.handle(Received(1, 1, topic, body, retained=False, at=now), now)
        self.worker.tick(now)
        agent.tick(now)
        return bool(going_up or going_down)

    def carry_by_file(self, path):
        """Have another process import what is unsent; return the sealed reply."""
        other = a_store(path)
        _, reply = imported(other, exported(self.till.outbox)[0])
        other.close()
        return reply


@pytest.fixture
def path(tmp_path):
    """Return where central's database lies."""
    return tmp_path / "central.db"


@pytest.fixture
def line(tmp_path, path):
    """Return a till and a worker over a database file."""
    (tmp_path / "till").mkdir()
    till, link, store = a_till(tmp_path / "till"), RecordingLink(), a_store(path)
    yield Line(till, Subscriber(CentralConfig(), store, link, Random(1), lambda: NOW_MS, 0.0), link)
    till.outbox.database.close()
    store.close()


def test_after_an_import_the_link_goes_on_without_loss_or_doubling(line, path):
    """A worker runs all the while with its own picture of the till; another process imports; then the link is back."""
    bodies = some_sales(9)
    for body in bodies[:3]:
        line.till.take_in(body, 1.0)
    line.connect(1.0)
    assert bodies_of(line.store) == bodies[:3]

    line.till.link.is_up = False
    for body in bodies[3:7]:
        line.till.take_in(body, 30.0)
    at_till.believe(line.till.outbox, CENTRAL, line.carry_by_file(path), TILL, TOKEN)
    for body in bodies[7:]:
        line.till.take_in(body, 40.0)
    assert line.till.outbox.head().unsent == 2
    line.till.link.is_up = True
    line.connect(60.0)

    assert bodies_of(line.store) == bodies
    assert line.till.outbox.head().unsent == 0
    assert rows(line.store, "SELECT * FROM gap") == []


def test_an_import_whose_reply_never_came_back_costs_nothing(line, path):
    """The till still believes that it owes; the link settles it, and no document is stored twice."""
    bodies = some_sales(4)
    for body in bodies:
        line.till.take_in(body, 1.0)
    line.till.link.published.clear()
    line.carry_by_file(path)
    assert line.till.outbox.head().unsent == 4
    line.connect(5.0)

    assert bodies_of(line.store) == bodies
    assert line.till.outbox.head().unsent == 0
    assert rows(line.store, "SELECT through FROM watermark") == [(4,)]


def test_a_worker_that_is_quicker_is_no_harm(outbox, path):
    """Between the look at the watermark and the commit another process takes the same documents: known, not doubled."""
    bodies = filled(outbox, 300)
    file, _ = exported(outbox)
    mine, worker = a_store(path), a_store(path)
    ingest = mine.ingest

    def after_the_worker(*given):
        mine.ingest = ingest
        worker.ingest([a_parcel(bodies[:100])], {}, NOW_MS)
        return ingest(*given)

    mine.ingest = after_the_worker
    done, _ = imported(mine, file)

    assert bodies_of(worker) == bodies
    assert (done.stored, done.known, mark_of(worker)[0]) == (200, 100, 300)
    mine.close()
    worker.close()


# -- What the till believes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "own", "text"),
    [
        ({"stream": a_stream(4)}, CENTRAL, "export again"),
        ({"central_id": "another"}, CENTRAL, "the word of central another; this till believes central-of-ours only"),
        ({"through": 9}, CENTRAL, "nothing to compare"),
        ({"digest": b"\7" * 16}, None, "not this till's"),
        ({}, CENTRAL, None),
        ({}, None, None),
    ],
)
def test_a_reply_is_believed_by_the_rule_of_the_link(outbox, changes, own, text):
    """The file and the link agree on what counts as stored; what does not is refused with the reason."""
    bodies = filled(outbox, 5)
    stored = msgspec.structs.replace(a_confirmation(3, digest_of(bodies[:3])), **changes)
    held, head = outbox.digest_at(stored.through), outbox.head()
    commands = a_syps(head, own).on_sales_stored(stored, held, head, 0.0)
    assert any(isinstance(command, MarkStored) for command in commands) is (text is None)

    if text is None:
        at_till.check_reply(stored, head, held, own)
    else:
        with pytest.raises(CarriageError, match=text):
            at_till.check_reply(stored, head, held, own)


def test_a_refused_reply_changes_nothing(outbox):
    """Not even the central that the till believes."""
    filled(outbox, 5)
    packing = Packing(file := io.BytesIO(), TOKEN)
    packing.add(codec.encode(a_confirmation(3, b"\7" * 16)))
    packing.seal(ReplyHeader(till=TILL, nonce="0" * 32))

    with pytest.raises(CarriageError):
        at_till.believe(outbox, None, file.getvalue(), TILL, TOKEN)
    assert (outbox.head().stored, outbox.central_id) == (0, None)


@pytest.mark.parametrize("frames", [[], [b"{}"], [b"\1\2"], [codec.encode(a_confirmation(1, b"\1" * 16))] * 2])
def test_a_sealed_reply_that_says_nothing_is_refused(frames):
    """No frame, another message, two answers."""
    packing = Packing(file := io.BytesIO(), TOKEN)
    for frame in frames:
        packing.add(frame)
    packing.seal(ReplyHeader(till=TILL, nonce="0" * 32))

    with pytest.raises(CarriageError, match="the reply cannot be read"):
        at_till.open_reply(file.getvalue(), TILL, TOKEN)


# -- The commands ------------------------------------------------------------------------------------------------------


@dataclass
class Desk:
    """A till's and a central's command line, over files in one folder."""

    folder: Path

    def till(self, command, *arguments, **environment):
        """Run a command on the till; no agent runs."""
        where = {"TILLSTREAM_TILL_ID": TILL, "TILLSTREAM_TOKEN": TOKEN, "TILLSTREAM_STATE_DIR": self.folder}
        where |= {"TILLSTREAM_RUN_DIR": self.folder, "TILLSTREAM_CENTRAL_ID": "", **environment}
        given = [str(argument) for argument in arguments]
        return CliRunner().invoke(command, given, env={name: str(value) for name, value in where.items()})

    def central(self, *arguments, **environment):
        """Run the import at central."""
        where = {"TILLSTREAM_DATABASE": str(self.folder / "central.db"), **environment}
        key = ("--fleet-key-file", str(self.folder / "fleet.key"))
        return CliRunner().invoke(carriage_cli.import_, [*key, *map(str, arguments)], obj=(None, where))

    @property
    def stick(self):
        return self.folder / "stick.carriage"

    @property
    def reply(self):
        return self.folder / "stick.carriage.reply"


@pytest.fixture
def desk(tmp_path):
    """Return a till with three documents and an empty central."""
    outbox = an_outbox(tmp_path / "outbox.db")
    filled(outbox, 3)
    outbox.close()
    a_store(tmp_path / "central.db").close()
    (tmp_path / "fleet.key").write_bytes(KEY)
    (tmp_path / "fleet.key").chmod(0o600)
    return Desk(tmp_path)


def test_three_commands_carry_documents_there_and_the_answer_back(desk):
    """Each says what it did and what comes next; each may be repeated."""
    for unsent in (3, 0):
        sent = desk.till(export, "--to", desk.stick)
        assert sent.exit_code == 0, sent.output
        assert ("documents 1..3 of stream" if unsent else "no documents, nothing is unsent") in sent.output
        taken = desk.central(desk.stick)
        assert taken.exit_code == 0, taken.output
        assert f"{unsent} documents carried, stored {unsent}, known already 0, quarantined 0" in taken.output
        assert "edge confirm stick.carriage.reply" in taken.output
        done = desk.till(confirm, desk.reply)
        assert (done.exit_code, done.output) == (0, "central has documents up to 3; unsent 0\n")

    names = {one.name for one in desk.folder.iterdir() if not one.name.endswith(("-wal", "-shm"))}
    assert names >= {"stick.carriage", "stick.carriage.reply"}
    assert not any(name.endswith(".part") for name in names)


def test_scripts_get_json(desk):
    """The same figures, by name."""
    sent = json.loads(desk.till(export, "--to", desk.stick, "--json").output)
    taken = json.loads(
        desk.central(desk.stick, "--json", "--reply", desk.folder / "r", "--note", "from a stick").output
    )
    done = json.loads(desk.till(confirm, desk.folder / "r", "--json").output)

    assert (sent["documents"], sent["left"], sent["size_bytes"]) == (3, 0, desk.stick.stat().st_size)
    assert (taken["till_id"], taken["stored"], taken["through"], taken["reply"]) == (TILL, 3, 3, str(desk.folder / "r"))
    assert (done["stored"], done["unsent"]) == (3, 0)
    store = a_store(desk.folder / "central.db")
    assert [note.endswith(": from a stick") for (note,) in rows(store, "SELECT note FROM audit")] == [True]
    store.close()


def test_what_is_wrong_is_said_with_what_to_do(desk):
    """Exit code 1 and one line that names the file, the key, the option or the command; nothing half is left."""
    desk.till(export, "--to", desk.stick)
    wrong = {
        "token_file": desk.till(export, "--to", desk.folder / "x", TILLSTREAM_TOKEN=""),
        "--after may be 0..3, not 4": desk.till(export, "--to", desk.folder / "x", "--after", 4),
        "broker key": desk.central("--fleet-key-file", desk.folder / "none", desk.stick),
        "central run": desk.central(desk.stick, TILLSTREAM_DATABASE=str(desk.folder / "typo.db")),
        "not a file that a till exported": desk.central(desk.folder / "fleet.key"),
        "not a reply that central wrote": desk.till(confirm, desk.stick),
        "No such file or directory": desk.till(export, "--to", desk.folder / "no" / "where"),
    }

    for text, told in wrong.items():
        assert told.exit_code == 1, told.output
        assert text in told.output, told.output
        assert told.output.count("\n") == 1
    assert not {"x", "x.part", "typo.db"} & {one.name for one in desk.folder.iterdir()}
    (desk.folder / "deny").write_text(f"{TILL}  # stolen\n", "utf-8")
    assert "deny list" in desk.central(desk.stick, TILLSTREAM_DENY_FILE=str(desk.folder / "deny")).output
    gone = desk.till(export, "--to", desk.folder / "x", TILLSTREAM_STATE_DIR=desk.folder / "nowhere")
    assert (gone.exit_code, "no agent runs, and there is no outbox" in gone.output) == (7, True)


def test_a_database_that_is_locked_for_long_is_said_and_costs_nothing(desk, monkeypatch):
    """Another program holds the lock: exit code 1, and the next run does it all."""
    desk.till(export, "--to", desk.stick)
    other = sqlite3.connect(desk.folder / "central.db", isolation_level=None)

    def open_and_lock(_config):
        store = a_store(desk.folder / "central.db")
        store.database.execute_sql("PRAGMA busy_timeout = 20")
        other.execute("BEGIN IMMEDIATE")
        return store

    with monkeypatch.context() as patch:
        patch.setattr(carriage_cli, "open_store", open_and_lock)
        told = desk.central(desk.stick)
    other.close()
    assert (told.exit_code, "import again, nothing is doubled" in told.output) == (1, True)
    assert not desk.reply.exists()
    assert "stored 3" in desk.central(desk.stick).output


def test_documents_that_found_no_room_are_told_by_the_exit_code(desk):
    """3: done, and something is left; the text has the command for the rest, and the rest fits where it ended."""
    outbox, noise = an_outbox(desk.folder / "outbox.db"), Random(1)
    for number in range(4, 16):
        outbox.append(f"d{number}", a_sale(f"d{number}", note_of_the_pos=noise.randbytes(2**18).hex()), NOW_MS)
    outbox.close()
    told = desk.till(export, "--to", desk.stick, "--limit-bytes", 2 * 2**20)
    assert told.exit_code == 3
    assert desk.stick.stat().st_size <= 2 * 2**20
    assert "left for another file: 5; tillstream edge export --after 10" in told.output

    assert desk.central(desk.stick).exit_code == 0
    assert desk.till(export, "--to", desk.stick, "--after", 10).exit_code == 0
    assert "central has documents up to 15" in desk.central(desk.stick).output


# -- While the agent runs ----------------------------------------------------------------------------------------------


@pytest.fixture
def running(tmp_path):
    """Return the desk of a till whose agent runs, without a broker, and its three documents."""
    where = {"state_dir": str(tmp_path), "run_dir": str(tmp_path), "spool_dir": str(tmp_path / "spool")}
    config, stopping = EdgeConfig(till_id=TILL, token=TOKEN, **where), []
    inbox, serves = Inbox(), threading.Event()

    def run():
        till = a_till(tmp_path, an_outbox(tmp_path / "outbox.db"), token=TOKEN)
        filled(till.outbox, 3)
        stop = service._open_doors(config, inbox)
        serves.set()
        service._turn(till.agent, inbox, stopping)
        stop()
        till.agent.stop()
        till.outbox.close()

    agent = threading.Thread(target=run)
    agent.start()
    assert serves.wait(5)
    a_store(tmp_path / "central.db").close()
    (tmp_path / "fleet.key").write_bytes(KEY)
    (tmp_path / "fleet.key").chmod(0o600)
    yield Desk(tmp_path)
    stopping.append(True)
    inbox.wake()
    agent.join(5)


def test_a_running_agent_gives_out_its_documents_and_believes_the_reply(running):
    """The command asks over the socket; the agent goes on, and knows at once what central has."""
    sent = running.till(export, "--to", running.stick)
    assert (sent.exit_code, "documents 1..3 of stream" in sent.output) == (0, True), sent.output
    assert running.central(running.stick).exit_code == 0
    done = running.till(confirm, running.reply)
    assert (done.exit_code, done.output) == (0, "central has documents up to 3; unsent 0\n")

    again = running.till(export, "--to", running.stick)
    assert "no documents, nothing is unsent" in again.output


def test_a_running_agent_checks_a_reply_itself(running):
    """Its socket is open to the POS, which must not be able to have documents forgotten."""
    packing = Packing(file := io.BytesIO(), token_of(OTHER, TILL))
    packing.add(codec.encode(a_confirmation(3, digest_of(some_sales(3)))))
    packing.seal(ReplyHeader(till=TILL, nonce="0" * 32))
    running.reply.write_bytes(file.getvalue())
    told = running.till(confirm, running.reply)
    assert (told.exit_code, "the seal does not fit" in told.output) == (1, True)

    config = EdgeConfig(till_id=TILL, run_dir=str(running.folder))
    for target, status, text in (
        ("/export?after=4", 409, "--after may be 0..3, not 4"),
        ("/export?after=-1", 400, "after is '-1'; it must be a whole number"),
    ):
        answered, body = ask(config, "GET", target)
        assert (answered, text in body["detail"]) == (status, True)
    assert ask(config, "GET", "/status")[1]["unsent"] == 3


def test_what_lies_in_the_spool_is_told_by_each_command_that_would_hide_it(tmp_path, monkeypatch):
    """With the agent down they have no number: status, pending and export say that they are there."""
    folders = {"STATE_DIR": tmp_path / "state", "RUN_DIR": tmp_path / "run", "SPOOL_DIR": tmp_path / "spool"}
    for name, path in folders.items():
        path.mkdir()
        monkeypatch.setenv(f"TILLSTREAM_{name}", str(path))
    monkeypatch.setenv("TILLSTREAM_TILL_ID", TILL)
    monkeypatch.setenv("TILLSTREAM_TOKEN", "token")
    an_outbox(tmp_path / "state" / "outbox.db").close()
    (tmp_path / "spool" / "d1.json").write_bytes(a_sale("d1"))

    def run(*arguments):
        return CliRunner().invoke(edge, list(arguments))

    status = run("status", "--exit-code", "--json")
    assert (status.exit_code, json.loads(status.stdout)["spooled"]) == (3, 1)
    assert "1 more lie in the spool" in run("pending").stderr
    export = run("export", "--to", str(tmp_path / "file"))
    assert (export.exit_code, "not in the file: 1 documents" in export.stderr) == (3, True)

    (tmp_path / "spool" / "d1.json").unlink()
    assert run("status", "--exit-code").exit_code == 0
    assert run("export", "--to", str(tmp_path / "file2")).exit_code == 0
