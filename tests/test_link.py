"""The link: waiting before a new connection, and what paho is made to do against a tiny broker of our own."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
import time
from collections import Counter
from queue import Empty, Queue
from random import Random

import pytest
from factories import wait_until
from pki import Pki
from raw_mqtt import publish_packet

from wire.broker_url import BrokerUrl, in_own_order
from wire.link import Acknowledged, Backoff, Connected, Connection, Disconnected, Link, LinkSettings, Received
from wire.tls import Tls

CONNECT, CONNACK, PUBLISH, PUBACK, SUBSCRIBE, SUBACK, DISCONNECT = 1, 2, 3, 4, 8, 9, 14


# -- Waiting -----------------------------------------------------------------------------------------------------------


def waits(*lived, seed=1, brokers=1):
    backoff = Backoff(1, 120, 300, Random(seed), brokers)
    return [backoff.after(lived_s) for lived_s in lived]


def test_the_wait_doubles_up_to_its_maximum_with_jitter():
    """From one second to two minutes, each with 30 % of jitter."""
    for wait, expected in zip(waits(*[0] * 10), [1, 2, 4, 8, 16, 32, 64, 120, 120, 120], strict=True):
        assert expected * 0.7 <= wait <= expected * 1.3


def test_a_connection_that_lived_long_begins_anew_and_a_short_one_does_not():
    """Under five minutes it doubles the wait: two machines with one identity throw each other out, but ever slower."""
    assert waits(0, 0, 0, 299.9)[-1] >= 8 * 0.7
    assert waits(0, 0, 0, 300)[-1] <= 1.3


def test_a_fleet_does_not_come_back_in_lockstep():
    """Two thousand tills that lost the same broker spread over the whole range of the jitter."""
    all_waits = [waits(1000, seed=seed)[0] for seed in range(2000)]

    assert (min(all_waits) < 0.75, max(all_waits) > 1.25) == (True, True)
    assert len(set(all_waits)) > 1990


def test_a_lost_broker_costs_a_moment_while_others_are_left_to_try():
    """Three brokers: after a long life two short waits, then the first of a whole round; a second waits longer."""
    got = waits(1000, 0, 0, 0, 0, 0, brokers=3)

    assert all(0 <= got[place] < 1 for place in (0, 1, 3, 4))
    assert 0.7 <= got[2] <= 1.3
    assert 1.4 <= got[5] <= 2.6


def test_two_machines_with_one_identity_slow_down_with_several_brokers_too():
    """Each new connection succeeds and is thrown out by the other: the rounds are waited for ever longer."""
    assert sum(waits(*[0.5] * 30, brokers=3)) > 7 * 120 * 0.7 / 3
    assert max(waits(*[0.5] * 30, brokers=3)[-3:]) >= 120 * 0.7


def test_clients_try_their_brokers_in_orders_of_their_own():
    """A thousand tills spread evenly over three brokers, and again when one of them is lost."""
    urls = ["mqtt://a", "mqtt://b", "mqtt://c"]
    orders = Counter("".join(one.host for one in in_own_order(urls, Random(seed))) for seed in range(1000))

    assert len(orders) == 6
    assert min(orders.values()) > 1000 / 6 * 0.7


# -- A tiny broker -----------------------------------------------------------------------------------------------------


class TinyBroker:
    """Takes connections one after the other, answers CONNECT and SUBSCRIBE, and writes every packet down."""

    def __init__(self, *, refuses=0, grants=1):
        self.packets, self.refuses, self.grants, self.client = Queue(), refuses, grants, None
        self.connections = 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            self.connections += 1
            self.client = client
            with client:
                self._talk(client)

    def _talk(self, client):
        reader = client.makefile("rb")
        try:
            while packet := self._read(reader):
                kind, flags, body = packet
                self.packets.put((kind, flags, body))
                if kind == CONNECT:
                    client.sendall(bytes([CONNACK << 4, 2, 0, self.refuses]))
                elif kind == SUBSCRIBE:
                    filters, rest = 0, body[2:]
                    while rest:
                        rest = rest[2 + int.from_bytes(rest[:2], "big") + 1 :]
                        filters += 1
                    granted = bytes([self.grants]) * filters
                    client.sendall(bytes([SUBACK << 4, 2 + filters]) + body[:2] + granted)
        except OSError:
            pass
        finally:
            reader.close()

    def _read(self, reader):
        first = reader.read(1)
        if not first:
            return None
        length = shift = 0
        while True:
            byte = reader.read(1)[0]
            length |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return first[0] >> 4, first[0] & 15, reader.read(length)

    def publish(self, topic, payload, *, qos=1, mid=1, retain=False):
        body = len(topic).to_bytes(2, "big") + topic.encode() + (mid.to_bytes(2, "big") if qos else b"") + payload
        self.client.sendall(bytes([PUBLISH << 4 | qos << 1 | retain, len(body)]) + body)

    def expect(self, kind, most_s=5):
        """Return the next packet of a kind, letting others go."""
        while True:
            packet = self.packets.get(timeout=most_s)
            if packet[0] == kind:
                return packet

    def cut(self):
        self.client.shutdown(socket.SHUT_RDWR)

    def close(self):
        for one in (self._listening, self.client):  # Shut down first: closing alone wakes no thread that waits in it.
            with contextlib.suppress(OSError, AttributeError):
                one.shutdown(socket.SHUT_RDWR)
        self._listening.close()


@pytest.fixture
def linked():
    """Return a function that links to a tiny broker; it gives the broker, the link and its events."""
    made = []

    def make(deliver=None, will=lambda generation: b"will %d" % generation, others=(), **broker_options):
        broker, events = TinyBroker(**broker_options), Queue()

        def take(event, _weight):
            events.put(event)
            return True

        settings = LinkSettings(
            brokers=tuple(BrokerUrl("127.0.0.1", one.port) for one in (broker, *others)),
            client_id="till-1",
            token="secret",
            subscriptions=("a/b", "c/+/d"),
            subscribe_qos=1,
            will_topic="till/till-1/presence",
            connect_timeout_s=1,
            reconnect_min_s=0.01,
            reconnect_max_s=0.02,
        )
        link = Link(settings, will, deliver or take, Random(1))
        made.append((broker, link))
        link.start()
        return broker, link, events

    yield make
    for broker, link in made:
        link.reconnect("the test is over")
        link.stop()
        broker.close()


def expect(events, kind, most_s=5):
    while True:
        event = events.get(timeout=most_s)
        if isinstance(event, kind):
            return event


def test_a_link_connects_clean_with_its_will_and_subscribes(linked):
    """Clean session, its identity, a retained will of QoS 1; up only once the subscriptions are granted."""
    broker, _, events = linked()

    _, _, connect = broker.expect(CONNECT)
    _, _, subscribe = broker.expect(SUBSCRIBE)

    assert Connected(1) == expect(events, Connected)
    clean, has_will, will_qos_1, will_retained = 0x02, 0x04, 0x08, 0x20
    assert connect[7] & (clean | has_will | will_qos_1 | will_retained) == 0x2E
    for text in (b"till-1", b"secret", b"till/till-1/presence", b"will 1"):
        assert text in connect
    assert b"a/b\x01" in subscribe
    assert b"c/+/d\x01" in subscribe


def test_a_message_stays_unacknowledged_until_it_is_acknowledged(linked):
    """PUBACK is sent when the receiver says so, and not before."""
    broker, link, events = linked()
    expect(events, Connected)
    broker.publish("a/b", b"payload", mid=77, retain=True)
    received = expect(events, Received)

    assert Received(1, 77, "a/b", b"payload", retained=True, at=received.at) == received
    assert 0 <= time.monotonic() - received.at < 60
    with pytest.raises(Empty):
        broker.expect(PUBACK, 0.05)
    link.acknowledge(received)
    assert broker.expect(PUBACK)[2] == (77).to_bytes(2, "big")


def test_a_message_of_quality_0_is_never_acknowledged(linked):
    """A person may publish by hand without QoS: there is no packet id, and a strict broker hangs up on a PUBACK."""
    broker, link, events = linked()
    expect(events, Connected)
    broker.publish("a/b", b"by hand", qos=0)
    link.acknowledge(expect(events, Received))
    broker.publish("a/b", b"after", mid=5)
    link.acknowledge(expect(events, Received))

    assert broker.expect(PUBACK)[2] == (5).to_bytes(2, "big")


def test_a_message_that_finds_no_room_is_let_go(linked):
    """Whoever sent it says it again; an unacknowledged one would block the window."""
    delivered = Queue()

    def full(event, weight_bytes):
        delivered.put((event, weight_bytes))
        return weight_bytes == 0

    broker, _, _ = linked(full)
    assert wait_until(lambda: not delivered.empty())
    broker.publish("a/b", b"x" * 50, mid=9)

    assert broker.expect(PUBACK)[2] == (9).to_bytes(2, "big")
    assert [50 + 64] == [weight for event, weight in delivered.queue if isinstance(event, Received)]


def test_publishing_gives_the_number_that_is_acknowledged_later(linked):
    """QoS 1, and PUBACK comes back as an event of the same connection."""
    broker, link, events = linked()
    expect(events, Connected)
    mid = link.publish("t", b"hello", retain=True)
    _, flags, body = broker.expect(PUBLISH)
    broker.client.sendall(bytes([PUBACK << 4, 2]) + mid.to_bytes(2, "big"))

    assert (0b0011, b"\x00\x01t" + mid.to_bytes(2, "big") + b"hello") == (flags, body)
    assert Acknowledged(1, mid) == expect(events, Acknowledged)


def test_after_a_cut_a_fresh_connection_sends_nothing_again(linked):
    """The next connection has the next generation and its own will; paho's leftovers are gone with its client."""
    broker, link, events = linked()
    expect(events, Connected)
    link.publish("t", b"never acknowledged")
    broker.expect(PUBLISH)
    broker.publish("a/b", b"before the cut", mid=3)
    received = expect(events, Received)

    broker.cut()

    assert expect(events, Disconnected).generation == 1
    assert b"will 2" in broker.expect(CONNECT)[2]
    assert Connected(2) == expect(events, Connected)
    link.acknowledge(received)
    assert link.publish("t", b"new") is not None
    kinds = []
    while (packet := broker.packets.get(timeout=5))[2][-3:] != b"new":
        kinds.append(packet[0])
    assert set(kinds) <= {SUBSCRIBE}


@pytest.mark.parametrize("broker_options", [{"refuses": 5}, {"grants": 0x80}], ids=["connection", "subscription"])
def test_a_link_that_the_broker_refuses_is_never_up_and_tries_again(linked, broker_options):
    """Refused by name or by topic: told once for each attempt, with a reason for people."""
    _, link, events = linked(**broker_options)

    ends = [expect(events, Disconnected) for _ in range(3)]

    assert [1, 2, 3] == [one.generation for one in ends]
    assert all("refused" in one.reason for one in ends)
    assert link.publish("t", b"x") is None
    assert not any(isinstance(event, Connected) for event in events.queue)


def test_a_broker_that_cannot_be_reached_is_tried_again_for_ever(linked):
    """Each attempt ends with one event."""
    broker, link, events = linked()
    expect(events, Connected)
    broker.close()
    expect(events, Disconnected)

    assert all("cannot reach" in expect(events, Disconnected).reason for _ in range(3))
    assert link.publish("t", b"x") is None


def test_each_attempt_goes_to_the_next_broker(linked):
    """The first is lost, the second refuses connections, the third takes it; lost again, the first is back in turn."""
    gone, third = TinyBroker(), TinyBroker()
    gone.close()
    first, _, events = linked(others=(gone, third))
    expect(events, Connected)
    first.cut()

    assert expect(events, Disconnected).generation == 1
    assert f"mqtt://127.0.0.1:{gone.port}" in expect(events, Disconnected).reason
    assert Connected(3) == expect(events, Connected)
    third.cut()
    assert Connected(4) == expect(events, Connected)
    assert (first.connections, third.connections) == (2, 1)
    third.close()


def test_a_connection_may_be_made_anew_on_purpose(linked):
    """Whoever could not take what was said wants to be told again."""
    _, link, events = linked()
    expect(events, Connected)
    link.reconnect("the database refused")

    assert Disconnected(1, "the database refused", is_asked=True) == expect(events, Disconnected)
    assert Connected(2) == expect(events, Connected)


def test_stopping_says_goodbye_so_that_no_will_is_published(linked):
    """DISCONNECT is sent, and no new connection follows."""
    broker, link, events = linked()
    expect(events, Connected)
    link.stop()

    assert broker.expect(DISCONNECT)
    assert broker.connections == 1
    assert not link._thread.is_alive()


def test_stopping_while_a_connection_is_being_made_ends_it(linked):
    """A stop that comes between the decision to connect and the connection must not wait for ever."""
    may_connect, asked = threading.Event(), threading.Event()

    def will(_generation):
        asked.set()
        may_connect.wait(5)
        return b"will"

    _, link, _ = linked(will=will)
    asked.wait(5)
    stopping = threading.Thread(target=link.stop)
    stopping.start()
    assert link._stopping.wait(5)
    may_connect.set()

    assert wait_until(lambda: not link._thread.is_alive(), most_s=1.5)
    stopping.join(10)


# -- Driven by a loop of somebody else's -------------------------------------------------------------------------------


class Watched:
    """A driver that remembers that there is something to write."""

    def __init__(self):
        self.is_wanted = False

    def opened(self, connection, sock):
        pass

    def wants_write(self, connection):
        self.is_wanted = True

    def closing(self, connection, sock):
        pass


def test_one_read_delivers_all_that_a_tls_record_held(tmp_path):
    """A selector tells of bytes in the socket; what is deciphered already would wait for the next ones."""
    cert_file, key_file = Pki(tmp_path).files("localhost", kind="server")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert_file, key_file)
    server = socket.create_server(("127.0.0.1", 0))
    messages = b"".join(publish_packet("till/t/settings", b"%d" % number, packet_id=number) for number in range(1, 9))

    def serve():
        with server, context.wrap_socket(server.accept()[0], server_side=True) as peer:
            peer.recv(1000)
            peer.sendall(b"\x20\x02\0\0")
            peer.recv(1000)
            peer.sendall(b"\x90\x03\0\1\1" + messages)
            peer.recv(1)

    thread = threading.Thread(target=serve)
    thread.start()
    broker = BrokerUrl("localhost", server.getsockname()[1], is_tls=True)
    tls = Tls(str(tmp_path / "ca.pem"))
    settings = LinkSettings((broker,), "t", "token", ("till/t/settings",), 1, "till/t/presence", tls=tls)
    events, driver = [], Watched()
    connection = Connection(settings, 1, b"", lambda event, _: events.append(event) or True, driver)
    connection.open()
    while not events:
        while driver.is_wanted:
            driver.is_wanted = connection.write()
        select.select([connection.sock], [], [], 5)
        connection.read()
    connection.close()
    connection.write()
    thread.join()

    assert [type(event) for event in events[:9]] == [Connected] + [Received] * 8
