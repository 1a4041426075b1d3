"""The till's rules: when it rings, what it answers, and whose word it believes."""

from __future__ import annotations

import pytest
from factories import CENTRAL, a_confirmation, a_head, a_request, a_stream, a_syps

from edge.syps import MarkStored, Prune, Ring, SendSales, Serve, ShowPresence, StartStream
from wire import chain
from wire.messages import CentralPresence, History, said

HELD = b"h" * 16


def rings(commands):
    return [command.message for command in commands if isinstance(command, Ring)]


def kinds(commands):
    return [type(command) for command in commands]


def connected(newest=5, stored=0, now=0.0, **limits):
    """Return a till that is connected and whose first doorbell has been acknowledged."""
    syps = a_syps(a_head(newest, stored), **limits)
    syps.on_connected(syps.head, now)
    syps.on_acknowledged("ring", now)
    return syps


def ask(syps, after=2, held=HELD, now=0.0, head=None, **fields):
    return syps.on_upload_request(a_request(after, HELD, **fields), held, head or syps.head, now)


# -- Ringing -----------------------------------------------------------------------------------------------------------


def test_a_till_that_connects_shows_itself_and_rings():
    """The broker may have lost everything: each connect says it all again, also with nothing unsent."""
    history = History(stream=a_stream(9), newest=3, digest=b"9" * 16)
    syps = a_syps(a_head(7, stored=7, oldest=3, previous=(history,)))

    commands = syps.on_connected(syps.head, 0)

    assert kinds(commands) == [ShowPresence, Ring]
    bell = commands[1].message
    assert (bell.stream, bell.oldest, bell.newest, bell.stored) == (a_stream(), 3, 7, 7)
    assert (bell.digest, bell.previous, bell.urgent) == (syps.head.digest, (history,), False)


def test_a_document_rings_with_the_new_head():
    """The doorbell says what the outbox holds now."""
    syps = connected(5)

    assert [6] == [bell.newest for bell in rings(syps.on_appended(a_head(6), 1, rings=True))]


def test_where_automation_does_not_ring_a_document_waits_unless_it_is_urgent():
    """The page's switch really switches; a closed shift rings all the same, and so does a person."""
    syps = connected(5)

    assert syps.on_appended(a_head(6), 1, rings=False) == []
    assert rings(syps.on_appended(a_head(7), 1, urgent=True, rings=False))[0].urgent
    syps.on_acknowledged("ring", 2)
    assert rings(syps.on_ring_asked(2))[0].newest == 7


def test_requests_of_another_stream_that_come_many_times_ring_once():
    """A broker that repeats itself must not make the till do so; one that acknowledges nothing does not silence it."""
    syps = connected(5)
    first = [ring for _ in range(50) for ring in rings(ask(syps, stream=a_stream(2), now=1))]
    assert len(first) == 1

    assert len(rings(ask(syps, stream=a_stream(2), now=62))) == 1
    syps.on_acknowledged("ring", 63)
    assert len(rings(ask(syps, stream=a_stream(2), now=64))) == 1


def test_one_doorbell_is_in_flight_and_what_is_asked_meanwhile_becomes_one_more():
    """A hundred receipts while the broker is slow are two doorbells: the first, and the newest."""
    syps = connected(0)
    first = rings(syps.on_appended(a_head(1), 1, rings=True))
    meanwhile = [command for newest in range(2, 100) for command in syps.on_appended(a_head(newest), 1, rings=True)]
    then = rings(syps.on_acknowledged("ring", 2))

    assert [1] == [bell.newest for bell in first]
    assert meanwhile == []
    assert [99] == [bell.newest for bell in then]
    assert syps.on_acknowledged("ring", 3) == []


def test_urgency_that_comes_while_a_doorbell_is_in_flight_is_not_lost():
    """The next doorbell is urgent, and only that one."""
    syps = connected(0)
    syps.on_appended(a_head(1), 1, rings=True)
    syps.on_appended(a_head(2), 1, urgent=True, rings=True)
    syps.on_appended(a_head(3), 1, rings=True)

    assert rings(syps.on_acknowledged("ring", 2))[0].urgent
    syps.on_acknowledged("ring", 3)
    assert not rings(syps.on_appended(a_head(4), 3, rings=True))[0].urgent


def test_nothing_is_said_while_offline_and_everything_after_it():
    """While offline nothing is queued: after the outage the newest doorbell says it all, urgency included."""
    syps = connected(0)
    syps.on_disconnected()

    assert syps.on_appended(a_head(1), 1, rings=True) == []
    assert syps.on_appended(a_head(2), 2, urgent=True, rings=True) == []
    assert syps.on_ring_asked(3) == []
    assert syps.on_tick(10_000) == []
    assert syps.next_deadline() is None

    bell = rings(syps.on_connected(a_head(2), 10_000))[0]
    assert (2, True) == (bell.newest, bell.urgent)


def test_a_till_that_was_not_asked_rings_again_less_and_less_often():
    """``ring_again_s`` doubles up to its maximum, with 30 % of jitter each way."""
    syps, now, waits = connected(5), 0.0, []
    for _ in range(8):
        before, now = now, min(at for at in [syps._ring_again_at] if at is not None)
        waits.append(now - before)
        assert rings(syps.on_tick(now))
        syps.on_acknowledged("ring", now)

    for wait, expected in zip(waits, [60, 120, 240, 480, 900, 900, 900, 900], strict=True):
        assert expected * 0.7 <= wait <= expected * 1.3
    assert len({round(wait / expected, 3) for wait, expected in zip(waits[4:], [900] * 4, strict=True)}) == 4
    assert (syps.counters.rung_again, syps.counters.unconfirmed) == (8, 8)


def test_a_request_ends_the_waiting_and_the_growth():
    """After an answer the next doorbell waits for ``ring_again_s`` as if it were the first."""
    syps = connected(5)
    for _ in range(4):
        syps.on_tick(syps._ring_again_at)
        syps.on_acknowledged("ring", 0)
    ask(syps, now=5000)

    assert 5000 + 42 <= syps._ring_again_at <= 5000 + 78


def test_fresh_receipts_do_not_put_ringing_again_off():
    """A till that closes a receipt a second still notices that nobody asks."""
    syps = connected(1)
    due = syps._ring_again_at
    for second in range(1, 40):
        syps.on_appended(a_head(1 + second), float(second), rings=True)
        syps.on_acknowledged("ring", float(second))

    assert due == syps._ring_again_at


def test_a_till_that_is_even_does_not_ring_again():
    """Nothing is owed, so nobody is waited for."""
    assert connected(5, stored=5)._ring_again_at is None


def test_after_an_outage_one_doorbell_is_rung_and_not_two():
    """A time to ring again that passed during the outage is settled by the doorbell of the connect."""
    syps = connected(5)
    syps.on_disconnected()

    assert len(rings(syps.on_connected(a_head(5), 10_000))) == 1
    assert rings(syps.on_tick(10_000)) == []


def test_the_presence_is_shown_now_and_then():
    """Every ``presence_every_s`` while connected."""
    syps = connected(0)

    assert syps.on_tick(59) == []
    assert kinds(syps.on_tick(60)) == [ShowPresence]
    assert syps.on_tick(61) == []
    assert kinds(syps.on_tick(120)) == [ShowPresence]


def test_the_next_deadline_has_something_to_do():
    """Whoever sleeps until the deadline finds work, and nothing was due before."""
    syps, now = connected(5), 0.0
    for _ in range(20):
        deadline = syps.next_deadline()
        assert syps.on_tick(deadline - 0.001) == []
        assert syps.on_tick(deadline) != []
        syps.on_acknowledged("ring", deadline)
        assert deadline > now
        now = deadline


# -- Answering ---------------------------------------------------------------------------------------------------------


def test_a_request_that_agrees_is_answered_and_acknowledges():
    """Its ``after`` says what central has; what follows is sent."""
    syps = connected(5)

    commands = ask(syps, backed_up=1)

    assert commands == [MarkStored(2, CENTRAL, 1), SendSales(a_request(2, HELD, backed_up=1))]


def test_a_request_is_answered_even_where_there_is_nothing_to_send():
    """Central waits for each answer; an empty one says that it is even."""
    assert SendSales in kinds(ask(connected(2, stored=2), after=2))


@pytest.mark.parametrize("stream", [None, a_stream(99)])
def test_a_request_for_another_stream_is_answered_with_the_doorbell(stream):
    """Central knows no stream, or an old one: the doorbell names the present one, and nothing is believed."""
    syps = connected(5)
    request = said(type(a_request()), stream=stream, central_id=CENTRAL, worker=1, task="t1")

    commands = syps.on_upload_request(request, HELD, syps.head, 1)

    assert kinds(commands) == [Ring]


def test_one_upload_is_in_flight_and_of_the_requests_meanwhile_only_the_newest_waits():
    """Three requests while an upload is on its way lead to one more upload, for the last of them."""
    syps = connected(5)
    ask(syps, task="t1")

    assert [ask(syps, task=task) for task in ("t2", "t3", "t4")] == [[], [], []]
    assert syps.on_acknowledged("sales", 1) == [Serve(a_request(2, HELD, task="t4"))]
    assert syps.on_acknowledged("sales", 1) == []
    assert SendSales in kinds(ask(syps, task="t4"))


def test_an_upload_whose_acknowledgement_never_comes_does_not_block_for_ever():
    """After ``answer_timeout_s`` the next request is answered."""
    syps = connected(5)
    ask(syps, now=0)

    assert ask(syps, now=59.9) == []
    assert SendSales in kinds(ask(syps, now=60))


def test_a_new_connection_forgets_what_was_in_flight():
    """No acknowledgement of an old connection is waited for."""
    syps = connected(5)
    ask(syps, task="t1")
    ask(syps, task="t2")
    syps.on_disconnected()
    syps.on_connected(syps.head, 1)

    assert syps.on_acknowledged("sales", 1) == []
    assert SendSales in kinds(ask(syps, now=1))


# -- Believing ---------------------------------------------------------------------------------------------------------


def test_a_confirmation_with_our_digest_is_believed():
    """``sales_stored`` moves the mark, backup included."""
    syps = connected(5)

    commands = syps.on_sales_stored(a_confirmation(5, HELD, backed_up=3), HELD, syps.head, 1)

    assert commands == [MarkStored(5, CENTRAL, 3)]
    assert syps._ring_again_at is None


@pytest.mark.parametrize("held", [None, b"x" * 16])
def test_a_confirmation_with_another_digest_is_not_believed(held):
    """Moving forward needs proof: the till rings, and lets central ask."""
    syps = connected(5)

    assert kinds(syps.on_sales_stored(a_confirmation(5, HELD), held, syps.head, 1)) == [Ring]


def test_a_confirmation_for_another_stream_means_nothing():
    """A stream of the past is nobody's business any more."""
    syps = connected(5)

    assert syps.on_sales_stored(a_confirmation(5, HELD, stream=a_stream(9)), HELD, syps.head, 1) == []


def test_a_foreign_central_is_served_and_never_believed():
    """It may have the documents, which is harmless; its word marks nothing stored."""
    syps = connected(5)

    assert kinds(ask(syps, central_id="another")) == [SendSales]
    assert syps.on_sales_stored(a_confirmation(5, HELD, central_id="another"), HELD, syps.head, 1) == []
    assert (syps.own_central, syps.counters.foreign_central) == (CENTRAL, 2)


def test_a_foreign_central_that_asks_does_not_stop_the_till_from_ringing_for_its_own():
    """Its own central has not asked: the till rings again after ``ring_again_s`` all the same."""
    syps = connected(5)
    ask(syps, central_id="another")
    syps.on_acknowledged("sales", 1)

    assert rings(syps.on_tick(60 * 1.3 + 1))


def test_the_first_central_that_is_heard_becomes_the_tills_own():
    """A till that was told none takes the first one, and keeps it."""
    syps = connected(5)
    syps.own_central = None

    assert MarkStored in kinds(ask(syps, central_id="first"))
    syps.on_acknowledged("sales", 1)
    assert MarkStored not in kinds(ask(syps, central_id="second"))
    assert syps.own_central == "first"


def test_a_till_prunes_only_while_its_own_central_is_there():
    """Forgetting waits for the till's own central, and ends with the connection."""
    syps = connected(5, stored=5)

    def presence(central_id, online):
        return said(CentralPresence, online=online, central_id=central_id, incarnation=1)

    syps.on_sales_stored(a_confirmation(5, HELD), HELD, syps.head, 1)
    assert Prune not in kinds(syps.on_tick(7000))
    syps.on_central_presence(1, presence("another", online=True))
    assert Prune not in kinds(syps.on_tick(7001))
    syps.on_central_presence(1, presence(CENTRAL, online=True))
    assert Prune in kinds(syps.on_tick(7002))
    assert Prune not in kinds(syps.on_tick(7002 + 3599))
    assert Prune in kinds(syps.on_tick(7002 + 3600))
    syps.on_central_presence(1, presence(CENTRAL, online=False))
    assert Prune not in kinds(syps.on_tick(20_000))
    syps.on_central_presence(1, presence(CENTRAL, online=True))
    syps.on_disconnected()
    syps.on_connected(syps.head, 30_000)
    assert Prune not in kinds(syps.on_tick(40_000))


@pytest.mark.fault("F28")
def test_a_till_prunes_only_by_what_its_central_said_in_this_connection():
    """A central that was restored is behind what it once said: until it speaks again nothing is forgotten."""
    syps = connected(5, stored=5)

    def come(incarnation, *, online=True):
        return said(CentralPresence, online=online, central_id=CENTRAL, incarnation=incarnation)

    syps.on_central_presence(1, come(1))
    assert not syps.may_prune
    assert syps.next_deadline() > 0
    syps.on_sales_stored(a_confirmation(5, HELD), HELD, syps.head, 1)
    assert syps.may_prune
    for again in ([come(1, online=False), come(1)], [come(2)]):
        for presence in again:
            syps.on_central_presence(1, presence)
        assert not syps.may_prune
        syps.on_sales_stored(a_confirmation(2, HELD), HELD, syps.head, 2)
        assert syps.may_prune

    syps.on_central_presence(1, come(2))
    assert syps.may_prune  # It only showed its newest backup.
    syps.on_disconnected()
    syps.on_connected(syps.head, 3)
    syps.on_central_presence(1, come(2))
    assert not syps.may_prune


# -- When histories disagree -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("held", [None, b"x" * 16], ids=["held none there", "held another"])
def test_a_request_whose_digest_is_not_ours_starts_a_new_stream(held):
    """One mechanism for all cases: nothing is believed, nothing is sent from the old stream."""
    syps = connected(5)

    commands = ask(syps, held=held)

    assert kinds(commands) == [StartStream]
    head = a_head(5, stream=a_stream(2), digest=chain.first(a_stream(2)))
    assert [a_stream(2)] == [bell.stream for bell in rings(syps.on_stream_started(head, 0))]


def test_central_may_ask_for_a_new_stream():
    """``reason = new_stream`` starts one, though the digest agrees."""
    assert kinds(ask(connected(5), reason="new_stream")) == [StartStream]


def test_at_most_so_many_streams_are_started_in_an_hour():
    """Two centrals with one name, say, must not make a till renumber all day long; an hour later it may again."""
    syps = connected(5)
    started = [kinds(ask(syps, held=None, now=60.0 * minute)) for minute in range(60)]

    assert [[StartStream]] * 3 + [[]] * 57 == started
    assert (syps.counters.streams_started, syps.counters.streams_refused) == (3, 57)
    assert kinds(ask(syps, held=None, now=3600)) == [StartStream]
    assert kinds(ask(syps, held=None, now=3601)) == []


def test_a_till_that_may_not_start_a_stream_rings_again_later():
    """It stays in touch: central learns of it by the next doorbell."""
    syps = connected(5, new_streams_per_hour=1)
    ask(syps, held=None, now=0)
    ask(syps, held=None, now=1)

    assert rings(syps.on_tick(100))


def test_a_request_that_waited_is_judged_anew_by_what_the_outbox_holds_then():
    """What waits for an upload belongs to the stream it named; a new stream forgets it."""
    syps = connected(5)
    ask(syps, task="t1")
    ask(syps, task="t2")
    syps.on_stream_started(a_head(5, stream=a_stream(2)), 1)

    assert syps.on_acknowledged("sales", 1) == []
