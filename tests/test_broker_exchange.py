"""The exchange without a network: who is let in, replaced, thrown out, and what is left of those who went."""

from __future__ import annotations

import asyncio

import pytest

from broker.codec import Connect, Will
from broker.connection import Connection
from broker.exchange import Exchange
from broker.keyring import DenyList
from broker.packets import SUBSCRIPTION_REFUSED, Message, Published, publish_packet
from broker.settings import BrokerConfig
from wire.tokens import token_of
from wire.topics import RECEIPT_CLOSED, SALES, TILL_PRESENCE, TOPICS, UPLOAD_REQUEST

KEY = b"k" * 32


class Writer:
    """A stream writer's stand-in over a socket that takes everything."""

    def __init__(self):
        self.transport, self.raw = self, b""
        self.written, self.drained, self.waiting_bytes = asyncio.Event(), asyncio.Event(), 0

    def set_write_buffer_limits(self, high):
        pass

    def get_write_buffer_size(self):
        return self.waiting_bytes

    async def drain(self):
        await self.drained.wait()

    def get_extra_info(self, _name):
        return None

    def write(self, raw):
        self.raw += raw
        self.written.set()

    def abort(self):
        pass

    close = abort


class Client:
    """A connection's stand-in that notes what it is given."""

    def __init__(self, exchange, user, will=None):
        self.exchange, self.user, self.will, self.shown = exchange, user, will, None
        self.got, self.ended = [], []

    def offer(self, message, qos):
        self.got.append((message.topic, message.payload, qos))

    def end(self, reason):
        self.ended.append(reason)
        self.exchange.leave(self, with_will=True)


@pytest.fixture
def exchange(tmp_path):
    return Exchange(BrokerConfig(subscriptions_max=4), KEY, DenyList(tmp_path / "deny"))


def entered(exchange, user, will=None):
    client = Client(exchange, user, will)
    exchange.enter(client)
    return client


def connect_packet(user):
    token, name = token_of(KEY, user).encode(), len(user).to_bytes(2, "big") + user.encode()
    body = b"\0\4MQTT\4\xc2\0\x3c" + name + name + len(token).to_bytes(2, "big") + token
    return bytes((0x10, len(body))) + body


def published(topic, payload=b"x", *, qos=1, retain=False):
    return Published(Message(topic, payload, qos), retain, 1)


def test_nothing_is_left_of_clients_that_went(exchange):
    """However they came and went: no filter, no name."""
    name = UPLOAD_REQUEST.of(till="t1")
    first = entered(exchange, "t1")
    exchange.subscribe(first, name, 1)
    second = entered(exchange, "t1")
    exchange.subscribe(second, name, 1)
    exchange.leave(first, with_will=False)
    assert first.ended == ["taken_over"]
    assert exchange.publish(entered(exchange, "central-1"), published(name))
    assert (first.got, second.got) == ([], [(name, b"x", 1)])
    exchange.leave(second, with_will=False)
    assert (len(exchange._subscriptions), exchange._subscriptions._filters) == (0, {})
    assert set(exchange._clients) == {"central-1"}


def test_a_former_connection_that_goes_late_takes_nothing_of_the_new_one_along(exchange):
    """The name stays with the connection that has it."""
    first = entered(exchange, "t1")
    second = entered(exchange, "t1")
    exchange.leave(first, with_will=False)
    assert exchange._clients["t1"] is second


def test_the_will_of_a_replaced_connection_comes_before_anything_of_the_new_one(exchange):
    """Offline, then online; never the other way round."""
    name = TILL_PRESENCE.of(till="t1")
    central = entered(exchange, "central-1")
    exchange.subscribe(central, TILL_PRESENCE.of(), 1)
    entered(exchange, "t1", Will(Message(name, b"offline", 1), True))
    exchange.publish(entered(exchange, "t1"), published(name, b"online", retain=True))
    assert [payload for _, payload, _ in central.got] == [b"offline", b"online"]
    assert exchange.newest(central, name).payload == b"online"


def test_a_refused_client_changes_nothing(exchange):
    """Neither the one whose name it used nor what that is subscribed to."""
    live = entered(exchange, "t1")
    for password, will in (("guess", None), (token_of(KEY, "t1"), Will(Message("till/t2/presence", b"", 1), False))):
        assert exchange.refusal(Connect("t1", "t1", password, 0, will))
    assert live.ended == []
    assert exchange.refusal(Connect("t1", "t1", token_of(KEY, "t1"), 0, None)) == ""


def test_a_will_is_held_against_the_rules_again_when_it_fires(exchange):
    """Even one that should never have come in goes nowhere."""
    central = entered(exchange, "central-1")
    exchange.subscribe(central, TILL_PRESENCE.of(), 1)
    thief = entered(exchange, "t1", Will(Message(TILL_PRESENCE.of(till="t2"), b"forged", 1), True))
    thief.end("connection_lost")
    assert central.got == []
    assert len(exchange._retained) == 0


def test_what_may_not_be_received_is_not_delivered_even_to_a_subscriber(exchange):
    """The rule for receiving stands on its own, live and retained."""
    thief, writer = entered(exchange, "t2"), entered(exchange, "t1")
    name = RECEIPT_CLOSED.of(till="t1")
    exchange._subscriptions.add(thief, name, 1)
    exchange.publish(writer, published(name, retain=True))
    assert thief.got == []
    assert exchange.retained_topics(thief, name) == []


def test_retained_messages_follow_the_subscription(exchange):
    """None for who is not, or no longer, subscribed."""
    name = RECEIPT_CLOSED.of(till="t1")
    central = entered(exchange, "central-1")
    exchange.publish(entered(exchange, "t1"), published(name, retain=True))
    assert exchange.newest(central, name) is None
    exchange.subscribe(central, RECEIPT_CLOSED.of(), 1)
    assert exchange.retained_topics(central, RECEIPT_CLOSED.of()) == [name]
    assert exchange.newest(central, name).payload == b"x"
    exchange.unsubscribe(central, RECEIPT_CLOSED.of())
    assert exchange.newest(central, name) is None


def test_the_retain_flag_counts_where_the_table_says_so_only(exchange):
    """Elsewhere the message is refused as a whole."""
    clients = {user: entered(exchange, user) for user in ("t1", "central-1")}
    for topic in TOPICS:
        writer = clients["t1" if topic.writer == "till" else "central-1"]
        assert exchange.publish(writer, published(topic.of(till="t1", worker=1), retain=True)) is topic.retained
    assert set(exchange._retained) == {topic.of(till="t1", worker=1) for topic in TOPICS if topic.retained}


def test_subscriptions_are_counted_and_quality_of_service_2_becomes_1(exchange):
    """A refused filter does not count."""
    central = entered(exchange, "central-1")
    assert exchange.subscribe(central, "#", 1) == SUBSCRIPTION_REFUSED
    names = [SALES.of(till=f"t{number}", worker=1) for number in range(5)]
    assert [exchange.subscribe(central, name, 2) for name in names] == [1, 1, 1, 1, SUBSCRIPTION_REFUSED]
    assert exchange.subscribe(central, names[0], 0) == 0


def test_names_that_are_denied_while_connected_are_thrown_out(exchange, tmp_path):
    """And only those."""
    denied, other = entered(exchange, "t1"), entered(exchange, "t2")
    (tmp_path / "deny").write_text("t1\nt9\n", "utf-8")
    exchange.refresh_deny_list()
    assert (denied.ended, other.ended) == (["denied"], [])


def test_packets_left_in_the_buffer_of_an_ended_connection_do_nothing(exchange):
    """A SUBSCRIBE that was read after the takeover would stay in the table for ever, a PUBLISH would be a ghost's."""
    name = UPLOAD_REQUEST.of(till="t1")
    central = entered(exchange, "central-1")
    exchange.subscribe(central, RECEIPT_CLOSED.of(), 1)

    async def converse():
        reader, writer = asyncio.StreamReader(), Writer()
        connection = Connection(exchange, reader, writer)
        serving = asyncio.create_task(connection.serve())
        reader.feed_data(connect_packet("t1"))
        await writer.written.wait()
        reader.feed_data(b"\x82" + bytes((5 + len(name),)) + b"\0\1\0" + bytes((len(name),)) + name.encode() + b"\1")
        message = Message(RECEIPT_CLOSED.of(till="t1"), b"ghost", 0)
        reader.feed_data(publish_packet(message, 0, 0, retain=False))
        connection.end("taken_over")
        reader.feed_eof()
        await serving
        return writer.raw

    assert asyncio.run(converse()) == b"\x20\2\0\0"
    assert central.got == []
    assert not exchange._subscriptions.readers_of(name)


def test_a_client_that_sends_and_never_reads_its_answers_is_read_from_no_longer(exchange):
    """Otherwise the answers to a flood of pings would fill the memory."""

    async def converse():
        reader, writer = asyncio.StreamReader(), Writer()
        serving = asyncio.create_task(Connection(exchange, reader, writer).serve())
        reader.feed_data(connect_packet("t1"))
        await writer.written.wait()
        writer.waiting_bytes = 3 * exchange.config.packet_limit_bytes
        answers = []
        for _ in range(2):
            reader.feed_data(b"\xc0\0")
            answers.append(await _turns(lambda: writer.raw.count(b"\xd0\0")))
        writer.waiting_bytes = 0
        writer.drained.set()
        answers.append(await _turns(lambda: writer.raw.count(b"\xd0\0")))
        reader.feed_eof()
        await serving
        return answers

    assert asyncio.run(converse()) == [1, 1, 2]


async def _turns(count):
    """Let the loop turn often enough for anything that is ready, then count."""
    for _ in range(20):
        await asyncio.sleep(0)
    return count()
