"""One till cannot keep the others waiting: what it says too much is put off or let go, and nothing of it is lost."""

from __future__ import annotations

import itertools
import tracemalloc
from random import Random

import pytest
from factories import (
    NOW_MS,
    TILL,
    a_sale,
    a_stream,
    an_upload,
    digest_of,
    some_sales,
)
from hypothesis import given
from hypothesis import strategies as st
from test_subscriber import Central

from central.batch import NewStream
from central.rates import HOUR_S, Hourly, Rates
from wire import codec, topics
from wire.link import Connected
from wire.messages import TillPresence, said

RATE, BURST = 2.0, 5


@pytest.fixture
def central():
    """Return a connected central over a database in memory."""
    made = Central(till_messages_per_s=RATE, till_messages_burst=BURST, till_streams_per_hour=3)
    made.shell.handle_all([Connected(1)], 0.0)
    yield made
    made.store.close()


def rows(central, statement, *values):
    return central.store.database.execute_sql(statement, values).fetchall()


# -- The pure part -----------------------------------------------------------------------------------------------------


@pytest.mark.fault("F43")
@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 3)), max_size=60), st.floats(0.1, 20), st.integers(1, 10))
def test_the_newest_of_each_is_heard_in_the_end_and_no_more_than_the_rate_allows(said_by, per_s, burst):
    """Whatever two tills say whenever: each one's last word is heard last, and their sum keeps to burst and rate."""
    rates, now, heard = Rates(per_s, burst), 0.0, {"a": [], "b": []}
    for number, (key, wait_s) in enumerate(said_by):
        now += wait_s
        if rates.takes(key, now):
            heard[key].append(number)
        else:
            rates.hold(key, (key, number))
        for due_key, due_number in rates.due(now):
            heard[due_key].append(due_number)
    while (at := rates.next_deadline()) < float("inf"):
        now = max(now, at)
        for due_key, due_number in rates.due(now):
            heard[due_key].append(due_number)

    for key, numbers in heard.items():
        said = [number for number, (who, _) in enumerate(said_by) if who == key]
        assert numbers[-1:] == said[-1:]
        assert numbers == sorted(set(numbers))
        assert len(numbers) <= burst + per_s * now + 1


def test_what_was_given_back_leaves_room_and_never_more_than_the_burst():
    """An upload that brought documents does not count."""
    rates = Rates(1.0, 2)
    assert [rates.takes("a", 0.0) for _ in range(3)] == [True, True, False]
    rates.give("a")
    assert [rates.takes("a", 0.0) for _ in range(2)] == [True, False]
    for _ in range(10):
        rates.give("a")
    rates.give("nobody")
    assert [rates.takes("a", 0.0) for _ in range(3)] == [True, True, False]


def test_a_key_without_room_is_told_of_once_a_minute():
    """A flood of messages is no flood of lines in the log."""
    rates = Rates(1.0, 1)
    rates.takes("a", 0.0)
    assert [rates.is_news("a", now) for now in (0.0, 1.0, 59.0, 60.0, 61.0)] == [True, False, False, True, False]


@given(st.lists(st.floats(0, 2000), max_size=40), st.integers(1, 5))
def test_no_hour_has_more_than_it_may_and_who_waits_is_named(waits, most):
    """In any hour at most so many; who was refused is named as soon as there is room."""
    hourly, now, taken, is_waiting = Hourly(most), 0.0, [], False
    for wait_s in waits:
        now += wait_s
        is_waiting = not hourly.takes("a", now)
        if not is_waiting:
            taken.append(now)

    assert all(later >= earlier + HOUR_S for earlier, later in zip(taken, taken[most:], strict=False))
    if is_waiting:
        room_at = taken[-most] + HOUR_S
        assert hourly.next_deadline() <= room_at
        assert hourly.due(room_at) == ["a"]
        assert hourly.takes("a", room_at)


# -- In central --------------------------------------------------------------------------------------------------------


@pytest.mark.fault("F43")
def test_of_a_thousand_doorbells_the_newest_is_asked_for():
    """A till that rings and rings is heard a few times, and its last word counts as soon as its rate allows it."""
    central = Central(till_messages_per_s=RATE, till_messages_burst=BURST, quiet_s=100, max_wait_s=100)
    central.shell.handle_all([Connected(1), *(central.bell(number) for number in range(1, 1001))], 0.0)
    core = central.shell.collector
    assert (core.counters.doorbells, len(central.link.acknowledged)) == (BURST, 1000)

    central.shell.tick(0.4)
    assert core.tills[TILL].bell.newest == BURST
    assert central.shell.next_deadline() == 0.5, "nothing else would wake it then"
    central.shell.tick(0.5)

    assert (core.tills[TILL].bell.newest, core.counters.doorbells) == (1000, BURST + 1)
    central.store.close()


@pytest.mark.fault("F43")
def test_other_tills_are_heard_while_one_floods(central):
    """Each till has a rate of its own."""
    flood = [central.bell(number) for number in range(1, 1001)]
    central.shell.handle_all([*flood, central.bell(1, till="till-2", digest=digest_of(some_sales(1)))], 0.0)
    central.shell.tick(0.6)

    assert central.said_to("till-2")[0]


@pytest.mark.fault("F24")
def test_a_stream_that_the_database_refused_counts_for_nothing(tmp_path):
    """A disk that is full for a moment, again and again, does not shut a new till out for an hour."""
    central = Central(tmp_path / "central.db", till_streams_per_hour=2)
    full = central.refuse_writes(tmp_path / "central.db")
    for now in (0.0, 1.0, 2.0):
        central.shell.handle_all([Connected(1), central.bell(1)], now)
    assert len(central.link.reconnects) == 3
    full.close()

    central.shell.handle_all([Connected(1), central.bell(1)], 3.0)

    assert rows(central, "SELECT count(*) FROM watermark") == [(1,)]
    central.store.close()


@pytest.mark.fault("F43", "F09")
def test_an_upload_that_was_let_go_is_asked_for_again_and_stored_once(central):
    """A till that sends what nobody asked for is let go; asked by its doorbell, it brings all of it."""
    bodies = some_sales(3)
    central.shell.handle_all([central.bell(3, digest=digest_of(bodies))], 0.0)
    unasked = [central.sales([a_sale("other")], task=f"t{number}", digest=b"\0" * 16) for number in range(BURST)]
    central.shell.handle_all([*unasked, central.sales(bodies)], 0.0)
    assert central.documents() == 0

    central.shell.tick(5.0)
    (request,) = central.said_to()[0]
    central.shell.handle_all([central.sales(bodies, task=request.task)], 5.0)

    assert central.documents() == 3


@pytest.mark.fault("F43")
def test_a_backlog_is_never_slowed(central):
    """An upload that brings documents is not counted: hundreds in a moment are all stored."""
    bodies = [a_sale(f"d{number}") for number in range(100)]
    central.shell.handle_all([central.bell(100, digest=digest_of(bodies))], 0.0)
    for number in range(100):
        upload = an_upload(bodies[number : number + 1], before=bodies[:number])
        payload = codec.pack_sales(upload.header, upload.bodies)
        central.shell.handle_all([central.received(topics.SALES.of(till=TILL, worker=1), payload)], 0.0)

    assert central.documents() == 100


@pytest.mark.fault("F43")
def test_a_flood_of_presences_ends_with_the_last_one(central):
    """On and off and on again, a thousand times: the last one is what the till shows."""
    shown = ({"online": number % 2 == 1, "connection": number, "boot_id": "b"} for number in range(1000))
    presences = [said(TillPresence, **fields) for fields in shown]
    topic = topics.TILL_PRESENCE.of(till=TILL)
    central.shell.handle_all([central.received(topic, codec.encode(one)) for one in presences], 0.0)
    central.shell.tick(0.5)
    central.shell.tick(2.0)

    assert rows(central, "SELECT connection, is_online FROM till") == [(999, 1)]


@pytest.mark.fault("F43", "F22")
def test_what_cannot_be_read_is_let_go_alike(central, caplog):
    """A thousand broken messages make as many lines in the log as the burst, and one that says so."""
    topic = topics.RECEIPT_CLOSED.of(till=TILL)
    broken = [central.received(topic, b'{"v":1,"stream":%d}' % number) for number in range(1000)]
    too_large = [central.received(topic, b"{" + b" " * 2_000_000)]
    central.shell.handle_all(broken + too_large, 0.0)
    central.shell.tick(0.5)

    assert [record.message for record in caplog.records].count("refused") == BURST + 1
    assert [record.message for record in caplog.records].count("too_many") == 1


@pytest.mark.fault("F44")
def test_uploads_that_inflate_to_much_are_not_all_held_at_once():
    """Two hundred kilobytes from a hundred tills that make a hundred megabytes: a few of them are in memory."""
    central = Central(batch_inflated_bytes=4 * 2**20)
    upload = an_upload([b"0" * 2**20], digest=b"\0" * 16)
    payload = codec.pack_sales(upload.header, upload.bodies)
    events = [central.received(topics.SALES.of(till=f"till-{number}", worker=1), payload) for number in range(100)]
    tracemalloc.start()
    central.shell.handle_all([Connected(1), *events], 0.0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert len(central.link.acknowledged) == central.shell.collector.counters.uploads == 100
    assert peak < 10 * 2**20
    central.store.close()


def test_what_is_committed_in_parts_is_acknowledged_after_all_of_it():
    """A batch that is too much for one transaction is answered as ever: each upload once."""
    made = Central(batch_inflated_bytes=2**16)
    bodies = [a_sale(f"d{number}", note="x" * 1000) for number in range(200)]
    made.shell.handle_all([Connected(1), made.bell(200, digest=digest_of(bodies))], 0.0)
    made.shell.handle_all([made.sales(bodies[:100]), made.sales(bodies)], 0.0)

    assert made.documents() == 100
    assert [outcome.through for outcome in made.said_to()[1]] == [100]
    assert len(made.link.acknowledged) == 3
    made.store.close()


# -- Streams without end -----------------------------------------------------------------------------------------------


def lies(central, count, till=TILL):
    """Ring for so many streams that never were, each with sixteen histories that never were either."""
    lie = {"pruned": 10**9, "newest": 10**9 + 1, "digest": b"\7" * 16}
    names = (f"lie{number:019d}" for number in itertools.count())
    return [
        central.bell(
            5, till=till, stream=a_stream(100 + number), previous=[{"stream": next(names), **lie} for _ in range(16)]
        )
        for number in range(count)
    ]


@pytest.mark.fault("F43")
def test_a_till_that_names_stream_after_stream_gets_a_few_rows_an_hour(central):
    """Rows of watermarks and gaps are bounded by the named limit, hour by hour; the rest waits."""
    for number, bell in enumerate(lies(central, 60)):
        central.shell.handle_all([bell], float(number))
    assert rows(central, "SELECT count(*) FROM watermark") == [(3,)]
    assert 3 * 16 <= rows(central, "SELECT count(*) FROM gap")[0][0] <= 3 * (16 + 16)

    central.shell.tick(HOUR_S + 1.0)

    assert rows(central, "SELECT count(*) FROM watermark") == [(4,)]
    assert rows(central, "SELECT stream FROM watermark ORDER BY id DESC LIMIT 1") == [(a_stream(159),)]


@pytest.mark.fault("F43")
def test_the_honest_history_survives_the_lies(central):
    """What was stored stays, and the true stream goes on where it was, without waiting for the hour to pass."""
    bodies = some_sales(4)
    central.shell.handle_all([central.bell(2, digest=digest_of(bodies[:2])), central.sales(bodies[:2])], 0.0)
    for number, bell in enumerate(lies(central, 60), 1):
        central.shell.handle_all([bell], float(number))

    central.shell.handle_all([central.bell(4, digest=digest_of(bodies))], 100.0)
    central.shell.tick(110.0)
    request = central.said_to()[0][-1]
    assert (request.stream, request.after, request.digest) == (a_stream(), 2, digest_of(bodies[:2]))
    upload = an_upload(bodies[2:], before=bodies[:2], task=request.task)
    topic = topics.SALES.of(till=TILL, worker=1)
    central.shell.handle_all([central.received(topic, codec.pack_sales(upload.header, upload.bodies))], 111.0)

    assert central.documents() == 4
    assert rows(central, "SELECT through FROM watermark WHERE stream = ?", a_stream()) == [(4,)]


@pytest.mark.fault("F43")
def test_doorbells_of_one_new_stream_count_as_one(central):
    """A till that rings three times before its new stream has a row uses one of its streams, not three."""
    central.shell.handle_all([central.bell(number, stream=a_stream(1)) for number in (1, 2, 3)], 0.0)
    for number in (2, 3):
        central.shell.handle_all([central.bell(1, stream=a_stream(number))], float(number))

    assert rows(central, "SELECT stream FROM watermark ORDER BY id") == [(a_stream(number),) for number in (1, 2, 3)]


def test_a_stream_that_is_known_is_opened_as_often_as_it_takes(central):
    """Only rows that are made count: a till that goes back and forth between its streams waits for nothing."""
    central.store.open_streams([NewStream(TILL, a_stream(number), ()) for number in range(6)], {}, NOW_MS)
    order = [Random(1).randrange(6) for _ in range(40)]
    for at, number in enumerate(order):
        central.shell.handle_all([central.bell(5, stream=a_stream(number))], float(at))

    assert central.shell.collector.tills[TILL].mark.stream == a_stream(order[-1])
