"""Routing, the retained table, the outgoing queue and the packets: the parts without a socket."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.outgoing import Bounds, Outgoing, Total
from broker.packets import Message, ProtocolViolationError, Splitter, publish_packet, read_publish
from broker.routing import Retained, Subscriptions, can_route, shape_of


def message(topic="till/a/presence", payload=b"x", qos=1):
    return Message(topic, payload, qos)


# --- routing -----------------------------------------------------------------------------------------------------


class CountingDict(dict):
    """Counts how often it is looked into, and forbids walking through it."""

    looks = 0

    def get(self, *key):
        self.looks += 1
        return super().get(*key)

    def __iter__(self):
        raise AssertionError("walked through all filters")

    items = values = keys = __iter__


def test_a_message_costs_two_look_ups_with_ten_thousand_filters():
    """One exact filter for each till must not slow anybody's message."""
    subscriptions = Subscriptions()
    for number in range(10_000):
        subscriptions.add(f"reader-{number}", f"till/{number}/upload_request", 1)
    subscriptions.add("central", "till/+/upload_request", 0)
    subscriptions._readers = CountingDict(subscriptions._readers)
    assert subscriptions.readers_of("till/77/upload_request") == {"reader-77": 1, "central": 0}
    assert subscriptions._readers.looks == 2


def test_unsubscribed_filters_leave_the_tables():
    """Nothing is left of readers that went."""
    subscriptions = Subscriptions()
    for name in ("a", "b"):
        subscriptions.add(name, "till/+/presence", 1)
        subscriptions.add(name, f"till/{name}/settings", 1)
    subscriptions.remove("a", "till/a/settings")
    subscriptions.remove("a", "never")
    subscriptions.remove_reader("a")
    subscriptions.remove_reader("a")
    assert subscriptions.readers_of("till/x/presence") == {"b": 1}
    subscriptions.remove_reader("b")
    assert (len(subscriptions), subscriptions._filters) == (0, {})


@pytest.mark.parametrize(
    ("name", "possible"),
    [
        *((name, True) for name in ("till/a/presence", "till/+/presence", "till/+/sales/1", "a")),
        *((name, False) for name in ("till/+/+", "+/a/b", "till/a/+", "till/+/#", "#", "a/b+/c")),
    ],
)
def test_only_topics_and_shapes_can_be_subscribed_to(name, possible):
    """Any other filter would be accepted and hear nothing."""
    assert can_route(name) is possible


def test_a_shape_replaces_the_second_level():
    """Whatever the number of levels."""
    assert [shape_of(t) for t in ("till/a/sales/1", "till/a", "till")] == ["till/+/sales/1", "till/+", "till/+"]


# --- retained ----------------------------------------------------------------------------------------------------


def test_what_is_retained_is_found_by_topic_and_shape_and_cleared_by_an_empty_payload():
    """The newest only, and nothing left of what was cleared."""
    retained = Retained(10, 1000)
    for name in ("a", "b"):
        assert retained.keep(message(f"till/{name}/presence", b"1"))
    assert retained.keep(message("till/a/presence", b"2"))
    assert retained.newest("till/a/presence").payload == b"2"
    assert set(retained.topics_of("till/+/presence")) == {"till/a/presence", "till/b/presence"}
    assert list(retained.topics_of("till/c/presence")) == []
    for name in ("a", "b", "never"):
        assert retained.keep(message(f"till/{name}/presence", b""))
    assert (len(retained), retained._bytes, retained._by_shape) == (0, 0, {})


def test_the_retained_table_is_bounded_and_never_keeps_an_old_message_for_a_newer_one():
    """Without room for the newest, the topic has none."""
    retained = Retained(2, 100)
    for name in ("a", "b", "c"):
        assert retained.keep(message(f"t/{name}", b"1")) is (name != "c")
    assert not retained.keep(message("t/a", b"z" * 100))
    assert list(retained) == ["t/b"]
    assert retained.keep(message("t/a", b"z" * 80))


# --- the queue of one reader -------------------------------------------------------------------------------------


class Link:
    """A socket's stand-in: what was written, and whether it is full."""

    def __init__(self, inflight=2, messages=3, size=100, total=1000):
        self.written, self.full, self.retained = [], False, {}
        self.total = Total(total)
        bounds = Bounds(inflight, messages, size)
        self.queue = Outgoing(bounds, self.total, self.written.append, lambda: self.full, self.retained.get)

    def payloads(self):
        return [read_publish(raw[0], raw[2:], 100).message.payload for raw in self.written]


def test_a_window_of_unacknowledged_messages_and_a_queue_behind_it():
    """A PUBACK, however late, lets exactly the next one through, in order."""
    link = Link()
    assert [link.queue.offer(message(payload=b"%d" % number), 1) for number in range(6)] == [True] * 5 + [False]
    assert link.payloads() == [b"0", b"1"]
    link.queue.acknowledged(1)
    link.queue.acknowledged(1)
    link.queue.acknowledged(77)
    assert link.payloads() == [b"0", b"1", b"2"]
    link.queue.acknowledged(2)
    link.queue.acknowledged(3)
    assert link.payloads() == [b"0", b"1", b"2", b"3", b"4"]


def test_a_queue_is_bounded_in_bytes_and_all_queues_together_too():
    """Whatever bound is met first."""
    link = Link(inflight=1, messages=99)
    assert link.queue.offer(message(payload=b"z" * 80), 1)
    assert link.queue.offer(message(payload=b"z" * 80), 1)
    assert not link.queue.offer(message(payload=b"z" * 80), 1)
    link.total.limit_bytes = 100
    assert not link.queue.offer(message(payload=b""), 1)
    link.queue.clear()
    assert link.total.used_bytes == 0


def test_a_full_socket_holds_messages_of_both_qualities_of_service_in_order():
    """QoS 0 does not overtake either."""
    link = Link()
    link.full = True
    for number, qos in enumerate((1, 0, 1)):
        assert link.queue.offer(message(payload=b"%d" % number), qos)
    assert link.written == []
    link.full = False
    link.queue.pump()
    assert link.payloads() == [b"0", b"1", b"2"]


def test_retained_topics_wait_by_name_and_go_out_as_they_are_by_then():
    """One that changed meanwhile goes out new, one that was cleared not at all."""
    link = Link(inflight=1)
    link.retained = {"t/a": message("t/a", b"old"), "t/b": message("t/b", b"old"), "t/c": message("t/c", b"c", 0)}
    link.queue._newest = link.retained.get
    link.queue.call_up(["t/a", "t/b", "t/c"], 1)
    assert link.payloads() == [b"old"]
    del link.retained["t/b"]
    link.retained["t/c"] = message("t/c", b"new", 0)
    link.queue.acknowledged(1)
    assert link.payloads() == [b"old", b"new"]
    assert [raw[0] & 1 for raw in link.written] == [1, 1]
    assert not link.queue.has_waiting


def test_packet_ids_in_use_are_not_given_again():
    """After 65,535 messages the numbers start over, around the one that is still unacknowledged."""
    link = Link(inflight=3, messages=1)
    link.queue.offer(message(), 1)
    for packet_id in range(2, 65_536):
        link.queue.offer(message(), 1)
        link.queue.acknowledged(packet_id)
    link.queue.offer(message(), 1)
    assert read_publish(link.written[-1][0], link.written[-1][2:], 100).packet_id == 2


# --- packets -----------------------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=300), max_size=5), st.integers(1, 50))
def test_packets_are_cut_alike_however_they_arrive(payloads, step):
    """In one piece or byte by byte."""
    raw = b"".join(publish_packet(message(payload=payload), 1, 5, retain=False) for payload in payloads)
    splitter, got = Splitter(1000), []
    for at in range(0, len(raw), step):
        got += [read_publish(first, body, 100) for first, body in splitter.feed(raw[at : at + step])]
    assert [published.message.payload for published in got] == payloads


def test_a_packet_over_the_limit_is_refused_on_its_header():
    """Before a byte of its body came; so is a length that never ends."""
    for header, reason in ((b"\x30\xe9\x07", "packet_too_long"), (b"\x30\xff\xff\xff\xff", "malformed_length")):
        with pytest.raises(ProtocolViolationError, match=reason):
            list(Splitter(1000).feed(header))
    assert list(Splitter(1000).feed(b"\x30\xe8\x07")) == []


@pytest.mark.parametrize("first", [0x30, 0x32, 0x34, 0x36])
@given(body=st.binary(max_size=40))
def test_any_bytes_are_a_publish_packet_or_a_violation(first, body):
    """Nothing else is raised, and no wildcard, system or empty topic comes out."""
    try:
        published = read_publish(first, body, 20)
    except ProtocolViolationError:
        return
    assert published.message.topic
    assert not set("+#\0") & set(published.message.topic)
    assert not published.message.topic.startswith("$")
    assert published.packet_id or not published.message.qos
