"""Central's shell: one transaction for all that waits, acknowledged only after it, and safe when it fails."""

from __future__ import annotations

import sqlite3
from collections import Counter
from itertools import count
from math import inf
from random import Random

import pytest
from databases import listening
from factories import (
    CENTRAL,
    NOW_MS,
    TILL,
    RecordingLink,
    a_bell,
    a_greeting,
    a_sale,
    a_store,
    a_stream,
    an_upload,
    digest_of,
    some_sales,
)

from central.config import CentralConfig
from central.subscriber import Subscriber
from wire import codec, topics
from wire.link import Acknowledged, Connected, Disconnected, Received
from wire.messages import VERSIONS, CentralPresence, SalesStored, TillPresence, UploadRequest, said


class Central:
    """A subscriber over a real database, with a link that records."""

    def __init__(self, path=":memory:", **config):
        self.link, self.mids = RecordingLink(), count(1)
        self.store = a_store(path)
        if self.store.database.kind == "sqlite":
            self.store.database.run("PRAGMA busy_timeout = 20")
        self.shell = Subscriber(CentralConfig(**config), self.store, self.link, Random(1), lambda: NOW_MS, 0.0)

    def received(self, topic, payload, *, retained=False, at=inf):
        """Return a message that came at a time, or in the very moment of its turn."""
        return Received(1, next(self.mids), topic, payload, retained, at)

    def bell(self, newest, till=TILL, **fields):
        return self.received(topics.RECEIPT_CLOSED.of(till=till), codec.encode(a_bell(newest, **fields)))

    def presence(self, shown, till=TILL):
        return self.received(topics.TILL_PRESENCE.of(till=till), codec.encode(shown))

    def sales(self, bodies, till=TILL, **fields):
        upload = an_upload(bodies, **fields)
        return self.received(topics.SALES.of(till=till, worker=1), codec.pack_sales(upload.header, upload.bodies))

    def said_to(self, till=TILL):
        requests = self.link.payloads(topics.UPLOAD_REQUEST.of(till=till))
        stored = self.link.payloads(topics.SALES_STORED.of(till=till))
        return [codec.decode(UploadRequest, one) for one in requests], [
            codec.decode(SalesStored, one) for one in stored
        ]

    def documents(self):
        return self.store.database.run("SELECT count(*) FROM document").fetchone()[0]

    def refuse_writes(self, path):
        """Hold the write lock as another program would; the returned connection gives it back when closed."""
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        return other


@pytest.mark.fault("F30")
def test_what_another_process_wrote_is_seen_at_the_next_connect(on_disk, path):
    """Two centrals with one number throw each other out; each goes on with the rows as they are."""
    bodies = some_sales(3)
    on_disk.shell.handle_all([on_disk.bell(3, digest=digest_of(bodies))], 0.0)
    other = Central(path)
    other.shell.handle_all([other.bell(3, digest=digest_of(bodies))], 0.0)
    other.shell.handle_all([other.sales(bodies)], 0.1)
    other.store.close()

    on_disk.shell.handle_all([Disconnected(1, "taken over"), Connected(2)], 0.2)
    on_disk.shell.tick(10.0)
    requests, _ = on_disk.said_to()
    assert [3] == [one.after for one in requests]


@pytest.fixture
def central(central_url):
    """Return a central over a database."""
    made = Central(central_url)
    yield made
    made.store.close()


@pytest.fixture
def path(tmp_path):
    """Return where a database file may be made."""
    return tmp_path / "central.db"


@pytest.fixture
def on_disk(path):
    """Return a central over a file, so that another program may lock it."""
    made = Central(path)
    yield made
    made.store.close()


def test_a_receipt_goes_from_doorbell_to_confirmation(central):
    """Rung, asked, uploaded, stored, confirmed: the four messages of one receipt."""
    body = a_sale()
    central.shell.handle_all([central.bell(1, digest=digest_of([body]))], 0.0)
    central.shell.tick(0.5)
    ((request,), _) = central.said_to()
    central.shell.handle_all([central.sales([body], task=request.task)], 0.6)

    (_, (stored,)) = central.said_to()
    assert (a_stream(), 0) == (request.stream, request.after)
    assert (1, digest_of([body]), CENTRAL) == (stored.through, stored.digest, stored.central_id)
    assert len(central.link.acknowledged) == 2


def test_a_doorbell_that_waited_for_its_turn_has_been_quiet_meanwhile(central):
    """The quiet time runs from when it came: a server that is busy adds its own wait to nobody's."""
    late = central.received(topics.RECEIPT_CLOSED.of(till=TILL), codec.encode(a_bell(1)), at=0.0)
    central.shell.handle_all([central.bell(0, digest=digest_of([]))], 0.0)
    central.shell.handle_all([late], 0.4)

    central.shell.tick(0.45)
    assert len(central.said_to()[0]) == 0
    central.shell.tick(0.5)
    assert len(central.said_to()[0]) == 1


def test_all_that_waits_is_one_transaction(central):
    """Two hundred uploads that came together are committed once, and only then acknowledged."""
    tills = [f"till-{number}" for number in range(200)]
    bodies = {till: [a_sale(till_id=till)] for till in tills}
    central.shell.handle_all([central.bell(1, till, digest=digest_of(bodies[till])) for till in tills], 0.0)
    uploads = [central.sales(bodies[till], till) for till in tills]
    seen = []

    with listening(central.store.database, lambda text: seen.append(text.split()[0])):
        central.shell.handle_all(uploads, 1.0)

    inserts = 200 if central.store.database.kind == "sqlite" else 2  # Of as many arrays.
    assert (1, 1, inserts) == (Counter(seen)["BEGIN"], Counter(seen)["COMMIT"], Counter(seen)["INSERT"])
    assert central.documents() == 200
    assert uploads == central.link.acknowledged[-200:]


def test_an_upload_is_acknowledged_only_after_its_commit(on_disk, path):
    """At the moment of each acknowledgement another program already sees the documents."""
    on_disk.shell.handle_all([on_disk.bell(3)], 0.0)
    outside, seen = sqlite3.connect(path), []
    on_disk.link.when_acknowledging = lambda: seen.append(
        outside.execute("SELECT count(*) FROM document").fetchone()[0]
    )

    on_disk.shell.handle_all([on_disk.sales(some_sales(3))], 1.0)

    assert seen == [3]
    outside.close()


def test_a_database_that_refuses_acknowledges_nothing_and_goes_on_later(on_disk, path):
    """The connection is made anew, so that all is said again; once the database takes it, everything is stored."""
    bell = on_disk.bell(3)
    on_disk.shell.handle_all([bell], 0.0)
    other = on_disk.refuse_writes(path)

    on_disk.shell.handle_all([on_disk.sales(some_sales(3))], 1.0)

    assert [bell] == on_disk.link.acknowledged
    assert on_disk.said_to()[1] == []
    assert len(on_disk.link.reconnects) == 1
    assert on_disk.documents() == 0
    other.close()
    on_disk.shell.handle_all([Disconnected(1, "refused"), Connected(2), on_disk.sales(some_sales(3))], 2.0)
    assert on_disk.documents() == 3
    assert [3] == [stored.through for stored in on_disk.said_to()[1]]


def test_nothing_that_was_concluded_from_an_uncommitted_upload_is_believed(on_disk, path):
    """After the database refused, the core is made anew from its rows: the till is asked from where they are."""
    on_disk.shell.handle_all([on_disk.bell(3)], 0.0)
    on_disk.shell.handle_all([on_disk.sales(some_sales(1))], 0.1)
    other = on_disk.refuse_writes(path)
    on_disk.shell.handle_all([on_disk.sales(some_sales(3)[1:], before=some_sales(1)), on_disk.bell(3)], 0.2)
    other.close()
    on_disk.shell.handle_all([on_disk.bell(3)], 1.0)
    on_disk.shell.tick(1.5)

    assert on_disk.said_to()[0][-1].after == 1


def test_a_database_that_refuses_a_note_does_not_end_the_program(on_disk, path):
    """Heads, proofs and presences are written later; in the meantime nothing is lost but time."""
    on_disk.shell.handle_all([on_disk.bell(3)], 0.0)
    on_disk.shell.tick(0.5)
    other = on_disk.refuse_writes(path)
    on_disk.shell.tick(2.0)
    other.close()

    assert len(on_disk.link.reconnects) == 1
    on_disk.shell.handle_all([on_disk.bell(3)], 3.0)
    for now in (4.0, 5.5, 8.0):
        on_disk.shell.tick(now)
    assert [3] == [head.newest for _, head in on_disk.store.heard_heads(0)]


def test_a_database_that_cannot_even_be_read_does_not_end_the_program(on_disk, path):
    """It may be gone for a while, as a database over a network is: nothing is acknowledged, and it goes on later."""
    on_disk.shell.handle_all([on_disk.bell(3)], 0.0)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("ALTER TABLE till RENAME TO gone")
    other.execute("ALTER TABLE watermark RENAME TO gone_too")

    on_disk.shell.handle_all([on_disk.sales(some_sales(3))], 1.0)

    other.execute("ALTER TABLE gone RENAME TO till")
    other.execute("ALTER TABLE gone_too RENAME TO watermark")
    other.close()
    assert len(on_disk.link.acknowledged) == 1
    on_disk.shell.handle_all([on_disk.sales(some_sales(3))], 20.0)
    assert on_disk.documents() == 3


@pytest.mark.parametrize("payload", [b"", b"{", b"\x01junk", b'{"v":2}', b"\xff" * 100, b"{" * 100_000])
@pytest.mark.parametrize("topic", ["receipt_closed", "presence", "sales/1"])
def test_a_bad_message_is_refused_acknowledged_and_stops_nothing(central, topic, payload):
    """It would come again for ever otherwise; the good one beside it is taken."""
    central.shell.handle_all([central.bell(3)], 0.0)
    bad, good = central.received(f"till/{TILL}/{topic}", payload), central.sales(some_sales(3))

    central.shell.handle_all([bad, good], 1.0)

    assert [bad, good] == central.link.acknowledged[-2:]
    assert central.documents() == 3


@pytest.mark.parametrize(
    "topic", ["till/a.b/sales/1", "till/+/sales/1", "other", "till/t1/unknown", "central/1/presence"]
)
def test_a_message_under_another_topic_is_acknowledged_and_ignored(central, topic):
    """It registers no till and stores nothing."""
    central.shell.handle_all([central.received(topic, codec.encode(a_bell(3)))], 0.0)

    assert len(central.link.acknowledged) == 1
    assert central.store.tills() == []


def test_an_upload_over_the_limits_is_refused(central):
    """More documents than were asked for are not even taken apart."""
    central.shell.handle_all([central.bell(201), central.sales([b"x"] * 201)], 0.0)

    assert (central.shell.refused, central.documents()) == (1, 0)


def test_a_document_that_nobody_can_parse_does_not_end_the_program(central):
    """Nested so deep that Python gives up, after all checks on the till: quarantined, or stored, never a crash."""
    deep = a_sale("deep")[:-1] + b',"x":' + b"[" * 600 + b'"\\u0041"' + b"]" * 600 + b"}"
    central.shell.handle_all([central.bell(3)], 0.0)

    central.shell.handle_all([central.sales([a_sale("d1"), deep, a_sale("d3")])], 1.0)

    assert len(central.link.acknowledged) == 2
    assert central.documents() >= 2


@pytest.mark.parametrize(
    "document", [b'{"\x80":1}', b'{"a":1,"x":"\xff"}', b'{"document_id":1,"x":"\x80', b'{"document_id":7,}', b"\xff"]
)
def test_a_body_that_no_agent_of_ours_would_send_is_quarantined(central, document):
    """Another agent may send what is no JSON at all: one bad body never stops central."""
    central.shell.handle_all([central.bell(3)], 0.0)

    central.shell.handle_all([central.sales([a_sale("d1"), document, a_sale("d3")])], 1.0)

    assert central.documents() == 2
    assert [(document,)] == central.store.database.run("SELECT body FROM quarantine").fetchall()


def test_a_retained_doorbell_proves_nothing_about_the_till(central):
    """A till that is offline is not asked for it."""
    offline = said(TillPresence, online=False, connection=3, boot_id="b")
    central.shell.handle_all(
        [
            central.received(topics.TILL_PRESENCE.of(till=TILL), codec.encode(offline)),
            central.received(topics.RECEIPT_CLOSED.of(till=TILL), codec.encode(a_bell(3)), retained=True),
        ],
        0.0,
    )
    central.shell.tick(10.0)
    assert central.said_to()[0] == []

    central.shell.handle_all([central.bell(3)], 11.0)
    central.shell.tick(11.5)
    assert len(central.said_to()[0]) == 1


def test_central_shows_itself_to_all_tills_on_every_connect(central):
    """Retained, with its name and its incarnation."""
    central.shell.handle_all([Connected(1), Acknowledged(1, 5)], 0.0)

    ((topic, payload, retained),) = central.link.published
    presence = codec.decode(CentralPresence, payload)
    assert ("central/1/presence", True) == (topic, retained)
    assert (True, CENTRAL, 1, VERSIONS) == (
        presence.online,
        presence.central_id,
        presence.incarnation,
        presence.protocol,
    )


def test_presences_are_written_once_a_second_for_all_tills(central):
    """The last one of each till counts; a late will is not written."""
    for number in range(50):
        shown = said(TillPresence, online=True, connection=9, store_id=f"s{number}", boot_id="b")
        late = said(TillPresence, online=False, connection=8, boot_id="b")
        topic = topics.TILL_PRESENCE.of(till=f"till-{number}")
        central.shell.handle_all([central.received(topic, codec.encode(one)) for one in (shown, late)], 0.5)
    central.shell.tick(2.0)

    rows = central.store.database.run("SELECT store_id, is_online, connection FROM till").fetchall()
    assert {(f"s{number}", 1, 9) for number in range(50)} == set(rows)


def test_a_restart_goes_on_where_the_database_is(path):
    """A new process knows every watermark and asks on as soon as a till rings; what came late is told where it is."""
    first = Central(path)
    first.shell.handle_all([first.bell(5)], 0.0)
    first.shell.handle_all([first.sales(some_sales(3))], 1.0)
    first.store.close()

    second = Central(path)
    second.shell.handle_all([second.sales(some_sales(3))], 0.0)
    assert [3] == [stored.through for stored in second.said_to()[1]]
    second.shell.handle_all([second.bell(5)], 0.1)
    second.shell.tick(0.6)
    assert [3] == [request.after for request in second.said_to()[0]]
    assert second.documents() == 3
    second.store.close()


def test_a_wish_of_a_person_is_taken_up_within_a_second(central):
    """A row without a worker in the table of tasks makes central ask."""
    central.shell.handle_all([central.bell(0, digest=digest_of([]))], 0.0)
    central.store.database.run(
        "INSERT INTO task (task_id, till_id, state, reason, attempts, created_at_ms, note)"
        " VALUES ('wish', ?, 'waiting', 'operator', 0, 1, '')",
        (TILL,),
    )
    central.shell.tick(1.0)

    ((request,), _) = central.said_to()
    assert ("wish", "operator") == (request.task, request.reason)


def test_what_a_refused_note_would_have_written_is_not_forgotten(on_disk, path):
    """A wish that was granted while the database refused to note it is asked again, and closed then."""
    even = digest_of([])
    on_disk.shell.handle_all([on_disk.bell(0, digest=even)], 0.0)
    on_disk.store.database.run(
        "INSERT INTO task (task_id, till_id, state, reason, attempts, created_at_ms, note)"
        " VALUES ('wish', ?, 'waiting', 'operator', 0, 1, '')",
        (TILL,),
    )
    on_disk.shell.tick(1.0)
    on_disk.shell.tick(2.1)
    assert on_disk.store.wishes() == []
    on_disk.shell.handle_all([on_disk.sales([], task="wish")], 2.2)
    other = on_disk.refuse_writes(path)
    on_disk.shell.tick(4.0)
    other.close()

    on_disk.shell.tick(20.0)
    assert on_disk.said_to()[0][-1].task == "wish"
    on_disk.shell.handle_all([on_disk.sales([], task="wish")], 20.1)
    on_disk.shell.tick(22.0)
    assert on_disk.store.open_tasks() == []


# -- Backups -----------------------------------------------------------------------------------------------------------


def record_backup(central, through):
    run = central.store.database.run
    run("UPDATE watermark SET backed_up = ?", (through,))
    run(
        "INSERT INTO backup (path, made_at_ms, verified_at_ms, size_bytes, documents) VALUES ('b', ?, ?, 1, 1)",
        (NOW_MS, NOW_MS + 5),
    )
    run("INSERT INTO audit (at_ms, who, action, object, note) VALUES (1, 'cron', 'backup', 'b', '')")


def shown(central):
    presences = central.link.payloads(topics.CENTRAL_PRESENCE.of(worker=1))
    return [codec.decode(CentralPresence, one).verified_backup_at_ms for one in presences]


@pytest.mark.fault("F28")
def test_tills_hear_how_far_they_are_backed_up_once_a_backup_was_made(central):
    """Nothing is said before the first backup; after it always, within a second, also of a stream it did not know."""
    bodies = some_sales(2)
    greetings = [central.presence(a_greeting(clock_ms=NOW_MS), till) for till in (TILL, "till-2")]
    central.shell.handle_all([Connected(1), *greetings], 0.0)
    central.shell.handle_all([central.bell(2, digest=digest_of(bodies))], 0.0)
    central.shell.tick(1.0)
    central.shell.handle_all([central.sales(bodies)], 1.1)
    record_backup(central, 1)
    central.shell.tick(2.5)
    central.shell.handle_all([central.bell(2, digest=digest_of(bodies))], 2.6)
    central.shell.handle_all([central.bell(1, stream=a_stream(2), till="till-2")], 2.7)
    central.shell.tick(9.0)

    requests, stored = central.said_to()
    assert ([one.backed_up for one in requests], [one.backed_up for one in stored]) == ([None], [None, 1])
    assert [one.backed_up for one in central.said_to("till-2")[0]] == [0]
    assert shown(central) == [None, NOW_MS + 5]


@pytest.mark.fault("F28")
def test_how_far_tills_are_backed_up_is_known_from_the_start_on(path):
    """Also before anything is read again, and after the database had to be asked anew."""
    first = Central(path)
    first.shell.handle_all([first.bell(1)], 0.0)
    record_backup(first, 0)
    first.store.close()
    central = Central(path)
    central.shell._begin_again(OSError("no"), 0.0)
    central.shell.handle_all([Connected(1)], 0.0)

    assert central.shell.collector.speech.backed_up.of(TILL, a_stream()) == 0
    assert shown(central) == [NOW_MS + 5]
    central.store.close()
