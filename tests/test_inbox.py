"""The inbox between threads: bounded in messages and bytes, and woken for whatever comes."""

from __future__ import annotations

import threading

from factories import wait_until

from wire.inbox import Inbox


def test_what_was_put_comes_out_in_order_and_as_much_as_is_asked_for():
    """First in, first out; a taker says how many it wants at most."""
    inbox = Inbox()
    for item in range(5):
        inbox.put(item, 1)

    assert [[0], [1, 2, 3], [4], []] == [inbox.take(0), inbox.take(0, most=3), inbox.take(0, most=9), inbox.take(0)]


def test_an_item_over_the_number_of_messages_is_refused_and_counted():
    """A full queue takes nothing more until somebody takes from it."""
    inbox = Inbox(limit_messages=2)

    assert [True, True, False] == [inbox.put(item, 1) for item in range(3)]
    assert inbox.refused == 1
    inbox.take(0)
    assert inbox.put(3, 1)


def test_an_item_over_the_number_of_bytes_is_refused():
    """The bound on bytes is inclusive, and what was taken no longer counts."""
    inbox = Inbox(limit_bytes=100)

    assert inbox.put("a", 60)
    assert inbox.put("b", 40)
    assert not inbox.put("c", 1)
    assert inbox.take(0) == ["a"]
    assert inbox.put("c", 60)


def test_news_of_the_connection_is_let_in_even_when_full():
    """Weight 0 is always taken: a connection's end must not be lost."""
    inbox = Inbox(limit_messages=1, limit_bytes=10)
    inbox.put("a", 10)

    assert inbox.put("the connection ended", 0)
    assert inbox.take(0, most=9) == ["a", "the connection ended"]


def test_a_batch_ends_with_the_item_that_reaches_its_bytes():
    """A taker that names a number of bytes gets at least one item and stops once it has that many."""
    inbox = Inbox()
    for item in "abcd":
        inbox.put(item, 10)

    assert [["a", "b"], ["c"]] == [inbox.take(0, most=9, most_bytes=20), inbox.take(0, most=9, most_bytes=1)]


def test_a_taker_that_waits_is_woken_by_what_is_put():
    """Nobody waits out a timeout while something is there."""
    inbox, taken = Inbox(), []
    taker = threading.Thread(target=lambda: taken.extend(inbox.take(30)))
    taker.start()
    inbox.put("news", 1)
    taker.join(5)

    assert taken == ["news"]


def test_a_taker_can_be_woken_with_nothing():
    """A stop signal ends the waiting at once, also when it came just before."""
    inbox, taken = Inbox(), []
    inbox.wake()
    assert inbox.take(None) == []

    taker = threading.Thread(target=lambda: taken.append(inbox.take(None)))
    taker.start()
    inbox.wake()
    taker.join(5)

    assert taken == [[]]


def test_many_threads_put_and_none_is_lost():
    """What several threads put, each in its own order, all comes out."""
    inbox, taken = Inbox(), []
    putters = [
        threading.Thread(target=lambda who=who: [inbox.put((who, number), 1) for number in range(500)])
        for who in range(4)
    ]
    for putter in putters:
        putter.start()

    assert wait_until(lambda: len(taken) == 2000 or taken.extend(inbox.take(0, most=100)))
    for who in range(4):
        assert [number for one, number in taken if one == who] == list(range(500))
