"""The till's shell: what happens is carried to outbox and link, and nothing that a POS hands over ends it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from factories import (
    BOOT,
    CENTRAL,
    NOW_MS,
    TILL,
    a_confirmation,
    a_request,
    a_sale,
    a_stream,
    a_till,
    an_outbox,
    digest_of,
    filled,
    some_sales,
)

from edge.agent import AsideFullError
from edge.events import Handed, RingAsked, StatusAsked
from edge.intake.prepare import NotADocumentError
from edge.outbox import OutboxFullError
from wire import codec, topics
from wire.codec import SalesLimits
from wire.link import Acknowledged, Connected, Disconnected, Received
from wire.messages import CentralPresence, ReceiptClosed, TillPresence, said

SALES = topics.SALES.of(till=TILL, worker=1)


@pytest.fixture
def till(tmp_path):
    """Return a till that is connected, its first doorbell acknowledged."""
    (tmp_path / "spool").mkdir()
    made = a_till(tmp_path)
    made.agent.handle(Connected(1), 0.0)
    made.agent.handle(Acknowledged(1, 2), 0.0)
    yield made
    made.outbox.database.close()


def receive(till, message, topic=topics.UPLOAD_REQUEST, now=0.0, whose=TILL):
    event = Received(1, 7, topic.of(till=whose, worker=1), codec.encode(message), retained=False, at=now)
    till.agent.handle(event, now)
    return event


def bells(till):
    return [codec.decode(ReceiptClosed, one) for one in till.link.payloads(topics.RECEIPT_CLOSED.of(till=TILL))]


def uploads(till):
    return [codec.unpack_sales(one, SalesLimits()) for one in till.link.payloads(SALES)]


def acknowledge_all(till, generation=1):
    for mid in range(1, len(till.link.published) + 1):
        till.agent.handle(Acknowledged(generation, mid), 0.0)


# -- The protocol ------------------------------------------------------------------------------------------------------


def test_a_till_that_connects_shows_itself_and_rings_both_retained(till):
    """Whoever comes later learns who is there and who is ahead."""
    assert [topics.TILL_PRESENCE.of(till=TILL), topics.RECEIPT_CLOSED.of(till=TILL)] == [
        topic for topic, _, _ in till.link.published
    ]
    assert all(retained for _, _, retained in till.link.published)


def test_a_document_is_in_the_outbox_before_anybody_hears_of_it(till):
    """Numbered, durable, then rung for."""
    taken = till.take_in(a_sale())

    assert (1, True) == (taken.appended.sequence, taken.appended.is_new)
    assert (1, digest_of([a_sale()]), BOOT) == (bells(till)[-1].newest, bells(till)[-1].digest, bells(till)[-1].boot_id)
    rung = len(bells(till))
    assert not till.take_in(a_sale()).appended.is_new
    assert len(bells(till)) == rung


def test_a_request_is_answered_with_the_exact_bytes(till):
    """What follows ``after``, within the limits, not retained, to the worker that asked."""
    bodies = some_sales(5)
    for body in bodies:
        till.take_in(body)
    event = receive(till, a_request(2, digest_of(bodies[:2]), limit_documents=2, task="t9", central_id=CENTRAL))

    ((topic, _, retained),) = [one for one in till.link.published if "/sales/" in one[0]]
    assert (SALES, False) == (topic, retained)
    (upload,) = uploads(till)
    assert (a_stream(), 2, 4, "t9") == (
        upload.header.stream, upload.header.after, upload.header.through, upload.header.task,
    )  # fmt: skip
    assert (tuple(bodies[2:4]), digest_of(bodies[:4])) == (upload.bodies, upload.header.digest)
    assert till.outbox.head().stored == 2
    assert till.link.acknowledged == [event]


def test_of_three_requests_during_an_upload_only_the_newest_is_served(till):
    """The one that waited is taken up when the broker has acknowledged the upload before it."""
    for body in some_sales(3):
        till.take_in(body)
    for task in ("t1", "t2", "t3"):
        receive(till, a_request(task=task))
    assert ["t1"] == [upload.header.task for upload in uploads(till)]

    acknowledge_all(till)

    assert ["t1", "t3"] == [upload.header.task for upload in uploads(till)]


def test_an_acknowledgement_of_an_older_connection_confirms_nothing(till):
    """Another message may have the same packet id."""
    till.take_in(a_sale())
    receive(till, a_request(task="t1"))
    receive(till, a_request(task="t2"))
    acknowledge_all(till, generation=0)

    assert len(uploads(till)) == 1


def test_a_request_with_another_digest_starts_a_stream_and_rings_for_it(till):
    """All that is retained is renumbered, and the doorbell names what it took over."""
    bodies = some_sales(3)
    for body in bodies:
        till.take_in(body)
    receive(till, a_request(2, b"x" * 16))

    assert uploads(till) == []
    bell = bells(till)[-1]
    assert (a_stream(2), 3, digest_of(bodies, a_stream(2))) == (bell.stream, bell.newest, bell.digest)
    assert [(a_stream(), 0, 3)] == [(one.stream, one.pruned, one.newest) for one in bell.previous]


def test_a_confirmation_is_believed_on_its_digest(till):
    """With the right one documents count as stored, with a wrong one they do not."""
    till.take_in(a_sale())
    receive(till, a_confirmation(1, b"x" * 16), topics.SALES_STORED)
    assert till.outbox.head().stored == 0
    receive(till, a_confirmation(1, digest_of([a_sale()])), topics.SALES_STORED)

    assert (1, CENTRAL) == (till.outbox.head().stored, till.outbox.central_id)


@pytest.mark.parametrize("payload", [b"", b"{", b"{}", b'{"v":2}', b"\xff" * 9, b"{" * 5000])
def test_a_bad_message_is_acknowledged_and_changes_nothing(till, payload):
    """It would come again for ever otherwise."""
    before = len(till.link.published)
    events = [
        Received(1, 7, topic.of(till=TILL, worker=1), payload, retained=False, at=0.0)
        for topic in (topics.UPLOAD_REQUEST, topics.SALES_STORED, topics.CENTRAL_PRESENCE)
    ]
    for event in events:
        till.agent.handle(event, 0.0)

    assert events == till.link.acknowledged
    assert before == len(till.link.published)


def test_a_message_for_another_till_is_none_of_its_business(till):
    """A broker without access rules must not make a till answer for another."""
    till.take_in(a_sale())
    receive(till, a_request(), whose="till-2")

    assert uploads(till) == []


def test_nothing_is_sent_while_offline_and_documents_are_taken_all_the_same(till):
    """After the outage one doorbell says it all."""
    till.agent.handle(Disconnected(1, "cable"), 1.0)
    till.link.is_up = False
    for body in some_sales(5):
        till.take_in(body)
    till.agent.tick(1000.0)
    till.link.is_up = True
    before = len(bells(till))
    till.agent.handle(Connected(2), 2000.0)

    assert [5] == [bell.newest for bell in bells(till)[before:]]
    assert till.agent.standing.status()["connected"]


def test_connections_count_up_over_restarts(tmp_path):
    """A will of an earlier life has a lower number than any of this one."""
    numbers = []
    for _ in range(2):
        outbox = an_outbox(tmp_path / "outbox.db")
        made = a_till(tmp_path, outbox)
        numbers += [codec.decode(TillPresence, made.agent.presence(n, online=False)).connection for n in (1, 2)]
        outbox.close()

    assert numbers == sorted(set(numbers))


def test_pruning_waits_for_the_tills_own_central(till):
    """What is stored and old goes only while that very central is there."""
    filled(till.outbox, 3)
    digest = till.outbox.head().digest
    till.agent.syps.own_central = CENTRAL  # Known from an earlier connection; it is not there now.
    receive(till, a_confirmation(3, digest), topics.SALES_STORED)
    till.agent.config = type(till.agent.config)(till_id=TILL, retention_days=1e-9, spool_dir="/nonexistent")
    till.agent._clock_ms = lambda: NOW_MS + 10_000_000

    till.agent.tick(10_000.0)
    assert till.outbox.head().oldest == 1
    receive(till, said(CentralPresence, online=True, central_id=CENTRAL, incarnation=1), topics.CENTRAL_PRESENCE)
    till.agent.tick(10_001.0)
    assert till.outbox.head().oldest == 4


@pytest.mark.fault("F27")
def test_a_request_for_a_row_that_is_gone_starts_a_new_stream(till):
    """Whoever deleted it by hand: the agent lives, says so, and sends what it holds."""
    bodies = filled(till.outbox, 3)
    till.outbox._connection.execute("DELETE FROM document WHERE sequence = 2")
    receive(till, a_request(1, digest_of(bodies[:1])))

    bell = bells(till)[-1]
    assert (a_stream(2), 2) == (bell.stream, bell.newest)
    assert [(3, 3)] == [(one.pruned, one.newest) for one in bell.previous]


@pytest.mark.fault("F17", "F18")
def test_nothing_is_forgotten_by_a_clock_that_is_wrong(till):
    """Central says so, or the time of day has just run away from the monotonic clock: central has to see it first."""
    filled(till.outbox, 3)
    digest = till.outbox.head().digest
    till.agent.syps.own_central = CENTRAL
    till.agent.config = type(till.agent.config)(till_id=TILL, retention_days=1e-9, spool_dir="/nonexistent")
    receive(till, said(CentralPresence, online=True, central_id=CENTRAL, incarnation=1), topics.CENTRAL_PRESENCE)

    receive(till, a_confirmation(3, digest, keep=True), topics.SALES_STORED)
    till.agent._clock_ms = lambda: NOW_MS + 10_000_000
    till.agent.tick(10_000.0)
    assert till.outbox.head().oldest == 1

    receive(till, a_confirmation(3, digest), topics.SALES_STORED, now=10_000.0)
    till.agent._clock_ms = lambda: NOW_MS + 400 * 86_400_000
    till.agent.tick(20_000.0)
    assert till.outbox.head().oldest == 1

    till.agent._clock_ms = lambda: NOW_MS + 400 * 86_400_000 + 4_000_000
    till.agent.tick(24_000.0)
    assert till.outbox.head().oldest == 4


@pytest.mark.fault("F28")
def test_what_a_central_said_before_it_was_restored_prunes_nothing(till, tmp_path):
    """After a crash the till knows only what it last wrote; the restored central must speak before it forgets."""
    bodies = filled(till.outbox, 3)
    till.outbox.mark_stored(3, CENTRAL, 3)
    till.agent.syps.own_central = CENTRAL
    till.agent.config = type(till.agent.config)(till_id=TILL, retention_days=1e-9, spool_dir="/nonexistent")
    till.agent._clock_ms = lambda: NOW_MS + 10_000_000
    receive(till, said(CentralPresence, online=True, central_id=CENTRAL, incarnation=2), topics.CENTRAL_PRESENCE)

    till.agent.tick(10_000.0)
    assert till.outbox.head().oldest == 1
    receive(till, a_confirmation(2, digest_of(bodies[:2]), backed_up=1), topics.SALES_STORED, now=10_000.0)
    till.agent.tick(10_001.0)
    assert (till.outbox.head().stored, till.outbox.head().oldest) == (2, 2)


# -- Doors -------------------------------------------------------------------------------------------------------------


def test_whoever_hands_over_hears_what_became_of_it(till):
    """The number, or the error: never silence."""
    good, bad = (Handed(given, lambda: "made") for given in (a_sale(), b""))
    till.agent.handle(good, 0.0)
    till.agent.handle(bad, 0.0)

    assert (1, "d1") == (good.answer.result(0).appended.sequence, good.answer.result(0).document_id)
    with pytest.raises(NotADocumentError):
        bad.answer.result(0)


def test_rings_and_status_are_answered(till):
    """A person may ring, urgently too, and ask how the till stands."""
    till.agent.handle(RingAsked(urgent=True), 1.0)
    asked = StatusAsked(pending=5)
    filled(till.outbox, 2)
    till.agent.handle(asked, 1.0)

    assert bells(till)[-1].urgent
    status = asked.answer.result(0)
    assert (TILL, 2, 0, 2, True) == (
        status["till_id"], status["newest"], status["stored"], status["unsent"], status["connected"],
    )  # fmt: skip
    assert ["d1", "d2"] == [one["document_id"] for one in status["pending"]]


def test_what_waits_in_the_spool_is_taken_and_removed_after_its_commit(till, tmp_path):
    """Oldest first; a file that is taken up twice is one document."""
    for age, name in enumerate("cba"):
        (tmp_path / "spool" / f"{name}.json").write_bytes(a_sale(name))
        os.utime(tmp_path / "spool" / f"{name}.json", (1000 + age, 1000 + age))
    till.take_in(a_sale("b"))
    till.agent.tick(1.0)

    assert list((tmp_path / "spool").iterdir()) == []
    assert [a_sale(name) for name in "bca"] == till.outbox.read_after(0, 10, 2**20)


def test_a_file_in_the_spool_that_may_not_be_read_ends_nothing(till, tmp_path, monkeypatch):
    """A POS may leave a file that the agent's user cannot read, and its name may be no UTF-8: the rest is taken."""
    spool, real = tmp_path / "spool", Path.read_bytes
    for name in (b"a", b"b", b"\xff"):
        Path(os.fsdecode(os.fsencode(spool) + b"/" + name)).write_bytes(b"{}")

    def refuse(path):
        if path.name == "a":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", refuse)
        till.agent.tick(0)
        assert (till.outbox.head().newest, [path.name for path in spool.iterdir()]) == (2, ["a"])
    till.agent.tick(till.agent.config.spool_retry_s)
    assert till.outbox.head().newest == 3


def test_a_file_that_goes_away_from_the_spool_meanwhile_is_passed_by(till, tmp_path, monkeypatch):
    """Somebody may tidy up the spool by hand while it is being read: the rest is taken all the same."""
    for name in "abc":
        (tmp_path / "spool" / name).write_bytes(a_sale(name))
    real = Path.read_bytes

    def tidy_up(path):
        (tmp_path / "spool" / "b").unlink(missing_ok=True)
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", tidy_up)
    till.agent.tick(0)

    assert (till.outbox.head().newest, till.agent._passed_by) == (2, {})


@pytest.mark.parametrize("content", [b"", b"no json", b"\xff\x00", b'{"tenders":' + b"[" * 600 + b"]" * 600 + b"}"])
def test_nothing_in_the_spool_ends_the_agent_or_holds_up_the_rest(till, tmp_path, content):
    """A file that can be no document is left aside; any other gets a number, whatever is in it."""
    (tmp_path / "spool" / "a").write_bytes(content)
    (tmp_path / "spool" / "b").write_bytes(a_sale())
    for now in (1.0, 2.0, 3.0):
        till.agent.tick(now)

    assert a_sale() in till.outbox.read_after(0, 10, 2**20)
    assert till.outbox.head().newest == (2 if content else 1)


def test_files_that_cannot_be_taken_do_not_hold_up_those_behind_them(tmp_path):
    """As many as one look takes may have to wait for room: what is behind them is taken all the same."""
    (tmp_path / "spool").mkdir()
    made = a_till(tmp_path, document_limit_bytes=1024, aside_limit_bytes=1, spool_batch_documents=2)
    for age, body in enumerate([a_sale("x", note="x" * 2000), a_sale("y", note="y" * 2000), a_sale("small")]):
        (tmp_path / "spool" / f"{age}.json").write_bytes(body)
        os.utime(tmp_path / "spool" / f"{age}.json", (1000 + age, 1000 + age))
    for now in range(10):
        made.agent.tick(float(now))

    assert [a_sale("small")] == made.outbox.read_after(0, 10, 2**20)
    made.outbox.database.close()


def test_an_oversize_document_lies_aside_before_its_stub_is_appended(till, tmp_path):
    """Handed over again it is the same document, and lies there once."""
    large = a_sale("large", note="x" * 300_000)
    taken = [till.take_in(large) for _ in range(2)]

    assert [(1, True), (1, False)] == [(one.appended.sequence, one.appended.is_new) for one in taken]
    assert all(one.is_oversize for one in taken)
    (aside,) = (tmp_path / "aside").iterdir()
    assert aside.read_bytes() == large


def test_what_lies_aside_is_bounded(tmp_path):
    """Over ``aside_limit_bytes`` nothing is appended, and whoever handed it over is told."""
    made = a_till(tmp_path, document_limit_bytes=1024, aside_limit_bytes=5000)
    made.take_in(a_sale("a", note="x" * 4000))
    with pytest.raises(AsideFullError, match="aside_limit_bytes"):
        made.take_in(a_sale("b", note="x" * 4000))

    assert made.outbox.head().newest == 1
    made.outbox.database.close()


def test_a_full_outbox_refuses_until_central_has_what_is_in_it(tmp_path):
    """What is stored and old makes room by itself; otherwise whoever hands over is told, and nothing is half done."""
    outbox = an_outbox(tmp_path / "outbox.db", outbox_limit_bytes=2**20, ballast_bytes=2**16)
    made = a_till(tmp_path, outbox, retention_days=1e-9)
    made.agent._clock_ms = iter(range(NOW_MS, NOW_MS + 10**9, 1000)).__next__
    newest = 0
    try:
        with pytest.raises(OutboxFullError):  # noqa: PT012 -- which of them finds no room is not known before
            while newest < 500:
                newest = made.take_in(a_sale(f"d{newest + 1}", note="x" * 3000)).appended.sequence
        assert outbox.head().newest == newest
        assert not (tmp_path / "outbox.ballast").exists()

        made.agent.handle(Connected(1), 0.0)
        receive(made, a_confirmation(newest, outbox.head().digest), topics.SALES_STORED)
        assert made.take_in(a_sale("next", note="x" * 3000)).appended.sequence == newest + 1
        assert outbox.head().oldest > 1
        assert (tmp_path / "outbox.ballast").exists()
    finally:
        outbox.database.close()
        outbox._lock.close()


def test_a_till_says_goodbye(till):
    """An offline presence, retained, and the few facts in memory written."""
    till.take_in(a_sale())
    till.agent.stop()

    topic, payload, retained = till.link.published[-1]
    assert (topics.TILL_PRESENCE.of(till=TILL), True) == (topic, retained)
    assert (False, 1) == (codec.decode(TillPresence, payload).online, codec.decode(TillPresence, payload).unsent)
