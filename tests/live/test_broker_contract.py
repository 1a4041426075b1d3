"""What tillstream needs of a broker, asked of the embedded one, of a real Mosquitto and of a real NATS server alike.

Every client here uses a clean session; what a broker keeps for persistent sessions, ``$share`` and QoS 2 are not
used by this protocol and not tested. Mosquitto and NATS run as their recipes say. Where one of them rightly behaves
otherwise, the test says so beside ``DIFFERENCES``.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import ssl
import subprocess
import time
from functools import partial

import pytest
from brokers import MOSQUITTO, PACKET_LIMIT_BYTES, RunningBroker, embedded, mosquitto, nats, nats_of_three, wait_until
from raw_mqtt import ClosedError, connect_packet, packet, publish_packet, text

from wire.topics import CENTRAL_PRESENCE, RECEIPT_CLOSED, SALES, SALES_STORED, TILL_PRESENCE, TOPICS, UPLOAD_REQUEST

START = {"embedded": embedded, "mosquitto": mosquitto, "nats": nats, "nats-cluster": nats_of_three}
REFUSED, NOT_AUTHORISED, BAD_VERSION = 0x80, 5, 1

OTHERS_THAN_OURS = {
    "will": "lets a client with a forbidden will in and drops the will when it fires",
    "dollar": "drops what is published to a $ topic and keeps the connection, which goes on to work",
    "retain": "its access rules know no retain flag: what may be published may be retained",
    "deny": "a user is denied by taking him out of its list, and a reload",
}
DIFFERENCES = {
    "embedded": {},
    "mosquitto": OTHERS_THAN_OURS
    | {
        "client_id": "binds the session to the user name whatever the client id says, instead of refusing the client",
        "suback": "grants every subscription and delivers nothing that may not be read",
        "keepalive": "looks for silent clients only every few seconds",
        "mqtt5": "speaks MQTT 5 as well",
        "connect_timeout": "has no setting for it; a silent connection stays for about a minute and a half",
        "sessions": "keeps persistent sessions, which this protocol does not use",
        "slow": "drops the newest message for a reader whose queue is full, instead of ending the connection",
    },
    "nats": OTHERS_THAN_OURS
    | {
        "client_id": "does not bind a client id to its user: a till with a token can end another till's connection",
        "takeover": "publishes no will of a connection that another one of the same client replaces",
        "overlap": "delivers a message once for each filter of a client that it comes under",
        "settling": "acknowledges what is to be retained before it, or another node, has it for a new subscriber",
    },
}
DIFFERENCES["nats-cluster"] = DIFFERENCES["nats"]

kinds = pytest.mark.parametrize(
    "kind",
    [
        "embedded",
        pytest.param(
            "mosquitto", marks=pytest.mark.skipif(not MOSQUITTO, reason="the program mosquitto is not installed")
        ),
        "nats",
        "nats-cluster",
    ],
    scope="module",
)


@pytest.fixture(scope="module")
def broker(kind, tmp_path_factory):
    with START[kind](tmp_path_factory.mktemp(kind)) as running:
        yield running


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    with embedded(tmp_path_factory.mktemp("own"), connect_timeout_s=0.5, deny_check_s=0.1) as running:
        yield running


def differs(broker: RunningBroker, what: str) -> bool:
    """Say whether this broker rightly differs in a listed point."""
    return what in DIFFERENCES[broker.name]


def let_settle(broker, name, *payloads):
    """Wait until each node gives these to who subscribes now; the others do so from the PUBACK on."""

    def is_settled(anybody):
        return anybody.subscribe(name) != REFUSED and [m.payload for m in anybody.all_until_ping()] == [*payloads]

    for _ in range(3 if differs(broker, "settling") else 0):
        with broker.client("central-2") as anybody:
            assert wait_until(partial(is_settled, anybody))


def topic_of(topic, till):
    return topic.of(till=till, worker=1)


def parties(broker, topic):
    """Return (writer, reader, topic) for a row of the table, with a till of its own."""
    till = broker.new_till()
    reader, writer = ("central-1", till) if topic.writer == "till" else (till, "central-1")
    return writer, "central-2" if topic is CENTRAL_PRESENCE else reader, topic_of(topic, till)


def let_through(writer, reader, topic):
    """Return what reaches a reader of ``topic`` before a mark that its rightful writer sets now.

    NATS hands messages of QoS 1 to a reader in order, and on its own time: a ping proves nothing there.
    """
    writer.publish(topic, b"mark")
    got = []
    while (message := reader.message()).payload != b"mark":
        got.append(message)
    return got


def next_of(reader, topic):
    """Return the next message of a topic; of others there may be some that were retained."""
    while (message := reader.message()).topic != topic:
        pass
    return message


# --- who is let in -----------------------------------------------------------------------------------------------


@kinds
def test_a_wrong_token_is_refused_and_leaves_the_named_till_alone(broker):
    """Nobody ends or robs a till's connection without its token."""
    till = broker.new_till()
    with broker.client(till) as victim, broker.raw() as thief, broker.client("central-1") as central:
        victim.subscribe(topic_of(UPLOAD_REQUEST, till))
        assert thief.connect(till, user=till, password=broker.token("till-200")) == NOT_AUTHORISED
        assert thief.closed()
        central.publish(topic_of(UPLOAD_REQUEST, till), b"still here")
        assert victim.message().payload == b"still here"


@kinds
@pytest.mark.parametrize(
    "login", [{}, {"user": "till-1"}, {"user": "nobody", "password": "x"}, {"user": "", "password": ""}]
)
def test_a_client_without_a_known_name_and_token_is_refused(broker, login):
    """There is no anonymous access and no name without its token."""
    with broker.raw() as stranger:
        assert stranger.connect("till-1", **login) != 0


@kinds
def test_a_till_cannot_take_the_client_id_of_another(broker):
    """Its own token under another till's client id neither ends that till's connection nor reads its messages."""
    thief_id, victim_id = broker.new_till(), broker.new_till()
    name = topic_of(UPLOAD_REQUEST, victim_id)
    with broker.client(victim_id) as victim, broker.raw() as thief, broker.client("central-1") as central:
        victim.subscribe(name)
        answer = thief.connect(victim_id, user=thief_id, password=broker.token(thief_id))
        assert answer == (0 if differs(broker, "client_id") else NOT_AUTHORISED)
        if differs(broker, "client_id") and broker.name != "mosquitto":
            assert victim.closed()
            assert thief.subscribe(name) == REFUSED
        central.publish(name, b"for the victim")
        if broker.name in ("embedded", "mosquitto"):
            assert victim.message().payload == b"for the victim"
        if answer == 0:
            assert thief.all_until_ping() == []


@kinds
def test_mqtt_5_is_refused_with_the_code_for_an_unknown_version(broker):
    """Clients that try 5 first learn that 3.1.1 is spoken."""
    till = broker.new_till()
    with broker.raw() as client:
        answer = client.connect(till, user=till, password=broker.token(till), level=5)
        assert answer == (0 if differs(broker, "mqtt5") else BAD_VERSION)


@kinds
@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: till\r\n\r\n",
        b"\x30\x02ab",
        b"\x10\xff\xff\xff\xff\xff",
        packet(0x10, text("MQTT") + b"\x04"),
        b"\xc0\x00",
        b"\xe0\x00",
    ],
)
def test_a_connection_that_begins_with_anything_but_connect_is_closed(broker, garbage):
    """What is no MQTT client holds no connection."""
    with broker.raw() as client:
        client.send(garbage)
        assert client.closed(within_s=3)


# --- who may write and read what ---------------------------------------------------------------------------------


@kinds
@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
def test_what_the_table_allows_arrives(broker, topic):
    """Each topic carries from its writer to its reader, under the filters of the table."""
    writer_id, reader_id, name = parties(broker, topic)
    with broker.client(writer_id) as writer, broker.client(reader_id) as reader:
        till = "+" if topic.writer == "till" else writer_id if writer_id.startswith("till") else reader_id
        assert reader.subscribe(topic.of(till=till, worker="+" if topic is CENTRAL_PRESENCE else 1)) == 1
        writer.publish(name, b"allowed")
        while (message := next_of(reader, name)).payload != b"allowed":
            pass  # What an earlier test left there.
        assert (message.topic, message.qos, message.retain) == (name, 1, False)
        assert [message.topic for message in reader.all_until_ping()] == []


@kinds
@pytest.mark.parametrize("retain", [False, True], ids=["live", "retained"])
@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
def test_a_till_cannot_write_what_another_till_or_central_writes(broker, topic, retain):
    """Till A publishes to every topic of till B and of central: no reader sees it, now or as retained."""
    writer_id, reader_id, name = parties(broker, topic)
    with broker.client(writer_id) as writer:
        with broker.client(broker.new_till()) as thief, broker.client(reader_id) as reader:
            reader.subscribe(name)
            thief.publish(name, b"forged", qos=0, retain=retain)
            thief.publish(name, b"forged", retain=retain)
            thief.all_until_ping()
            assert b"forged" not in [message.payload for message in let_through(writer, reader, name)]
        with broker.client(reader_id) as later:
            later.subscribe(name)
            assert b"forged" not in [message.payload for message in let_through(writer, later, name)]


@kinds
@pytest.mark.parametrize("retain", [False, True], ids=["live", "retained"])
@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
def test_a_will_goes_nowhere_its_till_could_not_publish(broker, topic, retain):
    """A will is a publication like any other: what may not be said alive may not be said by dying."""
    writer_id, reader_id, name = parties(broker, topic)
    thief_id = broker.new_till()
    with broker.client(writer_id) as writer:
        with broker.client(reader_id) as reader, broker.raw() as thief:
            reader.subscribe(name)
            login = {"user": thief_id, "password": broker.token(thief_id)}
            answer = thief.connect(thief_id, **login, will=(name, b"forged", 1, retain))
            assert answer == (0 if differs(broker, "will") else NOT_AUTHORISED)
            fires_will(broker, thief_id, thief)
            assert b"forged" not in [message.payload for message in let_through(writer, reader, name)]
        with broker.client(reader_id) as later:
            later.subscribe(name)
            assert b"forged" not in [message.payload for message in let_through(writer, later, name)]


def fires_will(broker, user, connection):
    """End a connection so that its will has been dealt with on return."""
    if differs(broker, "takeover"):
        connection.drop()
        assert wait_until(lambda: f'"{user}" - Publish Violation' in broker.log())
        return
    with broker.client(user):  # Takes the connection over, which makes the will fire before the CONNACK.
        assert connection.closed()


@kinds
@pytest.mark.parametrize("retain", [False, True], ids=["live", "retained"])
@pytest.mark.parametrize("topic", [t for t in TOPICS if t is not CENTRAL_PRESENCE], ids=lambda topic: topic.name)
def test_a_till_cannot_read_what_is_not_written_to_it(broker, topic, retain):
    """Till A subscribes to every topic of till B, by name and by every wildcard, and hears nothing."""
    writer_id, reader_id, name = parties(broker, topic)
    till = writer_id if writer_id.startswith("till") else reader_id
    names = [name, topic.of(worker=1), f"till/{till}/#", "#", "+/+/#", f"$share/g/{name}", f"$share/g/{topic.of()}"]
    with broker.client(broker.new_till()) as thief, broker.client(writer_id) as writer:
        granted = {thief.subscribe(each) for each in names}
        assert differs(broker, "suback") or granted == {REFUSED}
        writer.publish(name, b"secret", retain=retain and topic.retained)
        assert thief.all_until_ping() == []
        assert differs(broker, "suback") or {thief.subscribe(each) for each in names} == {REFUSED}
        assert thief.all_until_ping() == []


@kinds
@pytest.mark.parametrize("topic", [RECEIPT_CLOSED, SALES, TILL_PRESENCE], ids=lambda topic: topic.name)
def test_central_cannot_write_what_a_till_writes(broker, topic):
    """Not even central may put words into a till's mouth."""
    till = broker.new_till()
    name = topic.of(till=till, worker=2)
    with (
        broker.client("central-1") as central,
        broker.client("central-2") as other,
        broker.client(till) as writer,
    ):
        other.subscribe(name)
        other.subscribe(CENTRAL_PRESENCE.of())
        central.publish(CENTRAL_PRESENCE.of(worker=2), b"forged", retain=True)
        central.publish(name, b"forged", retain=topic.retained)
        assert b"forged" not in [message.payload for message in let_through(writer, other, name)]
        central.publish(CENTRAL_PRESENCE.of(worker=1), b"mark")
        while (message := other.message()).payload != b"mark":
            assert message.payload != b"forged"


@kinds
def test_a_worker_does_not_read_the_sales_meant_for_another(broker):
    """Each worker reads its own share only."""
    till = broker.new_till()
    with broker.client("central-2") as other, broker.client("central-1") as worker, broker.client(till) as writer:
        other.subscribe(SALES.of(worker=1))
        other.subscribe(SALES.of(till=till, worker=1))
        worker.subscribe(SALES.of(worker=1))
        writer.publish(SALES.of(till=till, worker=1), b"mine")
        assert worker.message().payload == b"mine"
        assert other.all_until_ping() == []


@kinds
def test_the_brokers_own_topics_are_nobodys(broker):
    """$SYS tells a till nothing about the fleet."""
    with broker.client(broker.new_till()) as till:
        assert till.subscribe("$SYS/#") == REFUSED or differs(broker, "suback")
        assert till.all_until_ping() == []


@kinds
def test_only_what_the_table_calls_retained_is_retained(broker):
    """Sales with the retain flag reach nobody; a batch would otherwise come again at each subscription."""
    till = broker.new_till()
    name = topic_of(SALES, till)
    with broker.client(till) as writer, broker.client("central-1") as central:
        writer.publish(name, b"batch", retain=True)

        def is_retained():
            central.subscribe(name)
            return bool(central.all_until_ping())

        if differs(broker, "retain"):
            assert wait_until(is_retained)
            writer.publish(name, b"", retain=True)
        else:
            assert not is_retained()


# --- delivery ----------------------------------------------------------------------------------------------------


@kinds
def test_everything_acknowledged_to_a_publisher_that_leaves_at_once_is_delivered(broker):
    """200 messages in one breath, 200 PUBACKs, gone: 200 arrive, in order."""
    till = broker.new_till()
    name = topic_of(SALES, till)
    with broker.client("central-1") as central, broker.client(till) as writer:
        central.subscribe(name)
        writer.send(b"".join(publish_packet(name, b"%d" % number, packet_id=number) for number in range(1, 201)))
        for number in range(1, 201):
            assert writer.await_packet(4) == number.to_bytes(2, "big")
        writer.drop()
        got = [central.message() for _ in range(200)]
        assert [int(message.payload) for message in got] == list(range(1, 201))


@kinds
def test_what_was_sent_before_a_goodbye_is_delivered(broker):
    """Publish, DISCONNECT and close in one write, with no time to wait for a PUBACK: it still arrives."""
    till = broker.new_till()
    name = topic_of(SALES, till)
    with broker.client("central-1") as central, broker.client(till) as writer:
        central.subscribe(name)
        writer.send(publish_packet(name, b"last words") + b"\xe0\0")
        assert central.message().payload == b"last words"


@kinds
def test_the_lower_quality_of_service_of_both_sides_counts(broker):
    """What was published with 0 arrives with 0, and what was subscribed with 0 does too."""
    till = broker.new_till()
    name = topic_of(UPLOAD_REQUEST, till)
    with broker.client(till) as reader, broker.client("central-1") as central:
        assert reader.subscribe(name, 1) == 1
        central.publish(name, qos=0)
        assert reader.message().qos == 0
        assert reader.subscribe(name, 0) == 0
        central.publish(name, qos=1)
        assert reader.message().qos == 0


@kinds
def test_subscribing_again_changes_the_quality_of_service_and_doubles_nothing(broker):
    """The newest subscription to a filter counts, alone."""
    till = broker.new_till()
    name = topic_of(UPLOAD_REQUEST, till)
    with broker.client(till) as reader, broker.client("central-1") as central:
        assert [reader.subscribe(name, qos) for qos in (0, 1)] == [0, 1]
        central.publish(name)
        assert reader.message().qos == 1
        assert let_through(central, reader, name) == []


@kinds
def test_after_unsubscribing_nothing_arrives(broker):
    """UNSUBACK is the end of it, also for a filter that was never subscribed to."""
    till = broker.new_till()
    name = topic_of(UPLOAD_REQUEST, till)
    with broker.client(till) as reader, broker.client("central-1") as central:
        reader.subscribe(name)
        reader.unsubscribe(name)
        reader.unsubscribe(topic_of(SALES_STORED, till))
        central.publish(name)
        assert reader.all_until_ping() == []


@kinds
def test_each_of_many_tills_gets_its_own_request_only(broker):
    """Sixty tills with exact filters: sixty requests, each in the right place."""
    tills = [broker.new_till() for _ in range(60)]
    with contextlib.ExitStack() as stack:
        readers = {till: stack.enter_context(broker.client(till)) for till in tills}
        for till, reader in readers.items():
            assert reader.subscribe(topic_of(UPLOAD_REQUEST, till)) == 1
        with broker.client("central-1") as central:
            for till in tills:
                central.publish(topic_of(UPLOAD_REQUEST, till), till.encode())
        for till, reader in readers.items():
            assert reader.message().payload == till.encode()
            assert reader.all_until_ping() == []


@kinds
def test_a_message_under_two_filters_of_one_client_arrives_once(broker):
    """A wildcard and an exact filter over the same topic deliver one copy."""
    till = broker.new_till()
    with broker.client("central-1") as central, broker.client(till) as writer:
        central.subscribe(SALES.of(worker=1))
        central.subscribe(SALES.of(till=till, worker=1))
        writer.publish(SALES.of(till=till, worker=1), b"once")
        copies = 2 if differs(broker, "overlap") else 1
        assert [central.message().payload for _ in range(copies)] == [b"once"] * copies
        assert central.all_until_ping() == []


@kinds
def test_a_late_acknowledgement_drops_nothing_and_opens_the_window(kind, tmp_path):
    """A reader that holds its PUBACK for 5.5 s keeps its connection; the next message waits, and then comes."""
    settings = {"inflight_max": 1} if kind == "embedded" else {}
    with START[kind](tmp_path, **settings) as broker, broker.client("till-1") as reader:
        window = 1 if kind == "embedded" else 1000
        name = topic_of(UPLOAD_REQUEST, "till-1")
        reader.auto_ack = False
        reader.subscribe(name)
        with broker.client("central-1") as central:
            for number in range(window + 1):
                central.publish(name, b"%d" % number)
        held = [reader.message() for _ in range(window)]
        with pytest.raises(TimeoutError):
            reader.message(within_s=5.5)
        for message in held:
            reader.acknowledge(message)
        assert reader.message().payload == b"%d" % window


# --- retained ----------------------------------------------------------------------------------------------------


@kinds
def test_a_later_reader_gets_the_newest_retained_doorbell_marked_as_retained(broker):
    """Live it comes unmarked; who subscribes later gets the last one, once, marked."""
    till = broker.new_till()
    name = topic_of(RECEIPT_CLOSED, till)
    with broker.client("central-1") as central, broker.client(till) as writer:
        central.subscribe(name)
        writer.publish(name, b"1", retain=True)
        writer.publish(name, b"2", retain=True)
        got = [central.message() for _ in range(2)]
        assert [(m.payload, m.retain) for m in got] == [(b"1", False), (b"2", False)]
    let_settle(broker, name, b"2")
    with broker.client("central-2") as later:
        later.subscribe(RECEIPT_CLOSED.of())
        got = [(m.payload, m.qos, m.retain) for m in later.all_until_ping() if m.topic == name]
        assert got == [(b"2", 1, True)]


@kinds
def test_subscribing_again_brings_the_retained_doorbell_again(broker):
    """A client that is not sure subscribes again and gets the state again."""
    till = broker.new_till()
    name = topic_of(RECEIPT_CLOSED, till)
    with broker.client(till) as writer, broker.client("central-1") as central:
        writer.publish(name, b"1", retain=True)
        let_settle(broker, name, b"1")
        for _ in range(2):
            central.subscribe(name)
            message = central.message()
            assert (message.payload, message.retain) == (b"1", True)
            assert central.all_until_ping() == []


@kinds
def test_an_empty_payload_clears_what_is_retained(broker):
    """A till that is taken away leaves no doorbell for ever."""
    till = broker.new_till()
    name = topic_of(RECEIPT_CLOSED, till)
    with broker.client(till) as writer, broker.client("central-1") as central:
        writer.publish(name, b"1", retain=True)
        writer.publish(name, b"", retain=True)
        let_settle(broker, name)
        central.subscribe(name)
        assert central.all_until_ping() == []


@kinds
def test_a_newcomer_without_subscription_receives_nothing(broker):
    """Others' subscriptions are no reason to send a client anything."""
    till = broker.new_till()
    with broker.client("central-1") as central, broker.client(till) as writer:
        central.subscribe(RECEIPT_CLOSED.of())
        writer.publish(topic_of(RECEIPT_CLOSED, till), b"secret", retain=True)
        with broker.client(broker.new_till()) as newcomer, broker.client("central-2") as second:
            assert newcomer.all_until_ping() == []
            assert second.all_until_ping() == []


# --- connections that end ----------------------------------------------------------------------------------------


@kinds
@pytest.mark.parametrize("retain", [False, True], ids=["live", "retained"])
def test_the_will_of_a_silent_client_is_published(broker, retain):
    """One second of keep-alive, then silence: central learns that the till is gone."""
    till = broker.new_till()
    name = topic_of(TILL_PRESENCE, till)
    will = name, b"gone", 1, retain
    with broker.client("central-1") as central:
        central.subscribe(name)
        started = time.monotonic()
        with broker.client(till, keepalive_s=1, will=will):
            message = central.message()
        assert (message.payload, message.retain) == (b"gone", False)
        assert 1.0 <= time.monotonic() - started < (9 if differs(broker, "keepalive") else 2.5)
        central.unsubscribe(name)
        central.subscribe(name)
        assert [m.payload for m in central.all_until_ping()] == [b"gone"] * retain


@kinds
def test_a_client_that_pings_is_not_silent(broker):
    """Pings alone keep a connection for longer than its keep-alive."""
    with broker.client(broker.new_till(), keepalive_s=1) as client:
        for _ in range(5):
            with pytest.raises(TimeoutError):
                client.message(within_s=0.4)
            assert client.all_until_ping() == []


@kinds
def test_the_will_of_a_dropped_connection_is_published_and_that_of_a_polite_one_is_not(broker):
    """A reset fires the will; DISCONNECT takes it back."""
    till = broker.new_till()
    name = topic_of(TILL_PRESENCE, till)
    with broker.client("central-1") as central:
        central.subscribe(name)
        with broker.client(till, will=(name, b"polite", 1, False)) as client:
            client.disconnect()
        with broker.client(till, will=(name, b"dropped", 1, False)) as client:
            client.drop()
        assert central.message().payload == b"dropped"


@kinds
def test_a_second_connection_of_a_till_ends_the_first_and_works(broker):
    """A half-open connection is replaced: the old one closes with its will, the new one receives, for good."""
    till = broker.new_till()
    name, presence = topic_of(UPLOAD_REQUEST, till), topic_of(TILL_PRESENCE, till)
    with broker.client("central-1") as central:
        central.subscribe(presence)
        with broker.client(till, will=(presence, b"old", 1, False)) as old:
            old.subscribe(name)
            with broker.client(till, will=(presence, b"new", 1, False)) as new:
                new.subscribe(name)
                assert old.closed()
                assert differs(broker, "takeover") or central.message().payload == b"old"
                central.publish(name, b"for the new one")
                assert new.message().payload == b"for the new one"
                assert central.all_until_ping() == []
        assert central.message().payload == b"new"


@kinds
def test_subscriptions_of_a_taken_over_connection_are_gone(broker):
    """A clean session begins with nothing subscribed."""
    till = broker.new_till()
    with broker.client(till) as old, broker.client("central-1") as central:
        old.subscribe(topic_of(UPLOAD_REQUEST, till))
        with broker.client(till) as new:
            central.publish(topic_of(UPLOAD_REQUEST, till))
            assert new.all_until_ping() == []


@kinds
def test_a_packet_over_the_limit_closes_that_connection_and_no_other(broker):
    """A packet announced as too long is refused on its header; everybody else goes on."""
    till = broker.new_till()
    name = topic_of(SALES, till)
    with broker.client("central-1") as central, broker.client(till) as big, broker.client(broker.new_till()) as other:
        central.subscribe(name)
        fits = PACKET_LIMIT_BYTES - 1000
        big.publish(name, b"z" * fits)
        assert len(central.message().payload) == fits
        big.send(publish_packet(name, b"z" * 2 * PACKET_LIMIT_BYTES)[:100])
        assert big.closed()
        assert other.all_until_ping() == []
        assert central.all_until_ping() == []


@kinds
@pytest.mark.parametrize("name", ["$x/y", "$SYS/broker", "till/+/presence", "till/#", ""])
def test_publishing_to_a_forbidden_kind_of_topic_never_swallows_what_follows(broker, name):
    """Either the connection closes, or what is published after it is delivered; never acknowledged and lost."""
    till = broker.new_till()
    good = topic_of(SALES, till)
    with broker.client("central-1") as central, broker.client(till) as writer:
        central.subscribe(good)
        try:
            writer.publish(name, b"forbidden")
            writer.publish(good, b"after")
        except ClosedError:
            assert central.all_until_ping() == []
        else:
            assert name.startswith("$")
            assert differs(broker, "dollar")
            assert central.message().payload == b"after"


# --- the embedded broker's own bounds ------------------------------------------------------------------------------


@pytest.mark.parametrize("begin", [b"", b"\x10", connect_packet("till-1", user="till-1", password="x")[:-1]])
def test_a_connection_that_never_completes_connect_is_closed(own, begin):
    """Silence, one byte or half a packet: none buys time; Mosquitto has no such setting."""
    with own.raw() as idle:
        started = time.monotonic()
        idle.send(begin)
        assert idle.closed()
        assert 0.4 < time.monotonic() - started < 3


def test_a_byte_now_and_then_buys_no_time(own):
    """The wait for CONNECT is counted from the start, not from the last byte."""
    whole = connect_packet("till-1", user="till-1", password="x" * 20)
    with own.raw() as idle:
        sent = 0
        while sent < len(whole) and not idle.closed(within_s=0.1):
            with contextlib.suppress(ClosedError):
                idle.send(whole[sent : sent + 1])
            sent += 1
        assert sent < 12
    assert '"no_connect_packet"' in own.log()


def test_a_connect_packet_over_its_limit_is_refused_before_anybody_logged_in(own):
    """A stranger gets 16 KiB of memory, not the packet limit."""
    with own.raw() as stranger:
        stranger.send(packet(0x10, b"z" * 17_000)[:50])
        started = time.monotonic()
        assert stranger.closed()
        assert time.monotonic() - started < 0.4


def test_a_denied_till_is_thrown_out_and_not_let_in_again(own):
    """Its name in the deny list ends the live session within a moment; without it the till comes back."""
    till, other = own.new_till(), own.new_till()
    deny = own.folder / "deny"
    with own.client(till) as live, own.client(other) as bystander:
        deny.write_text(f"# stolen\n{till}  # store 12\n", "utf-8")
        assert live.closed(within_s=5)
        with own.raw() as again:
            assert again.connect(till, user=till, password=own.token(till)) == NOT_AUTHORISED
        assert bystander.all_until_ping() == []
    deny.unlink()
    with own.client(till):
        pass


def test_the_deny_list_counts_at_once_for_a_new_connection(own):
    """No login slips through between two looks at the file."""
    till = own.new_till()
    (own.folder / "deny").write_text(till, "utf-8")
    with own.raw() as client:
        assert client.connect(till, user=till, password=own.token(till)) == NOT_AUTHORISED
    (own.folder / "deny").unlink()


def test_no_session_outlives_its_connection(own):
    """A client that asks for a persistent session is let in and told, each time, that there is none."""
    till = own.new_till()
    login = {"user": till, "password": own.token(till), "clean": False}
    for _ in range(2):
        with own.raw() as client:
            client.send(connect_packet(till, **login))
            assert client.await_packet(2) == b"\0\0"
            client.subscribe(topic_of(UPLOAD_REQUEST, till))
            client.drop()


def test_a_reader_that_does_not_read_is_ended_and_costs_a_bounded_memory(tmp_path):
    """Its queue has a bound in messages and bytes; then it goes, and everybody else never noticed."""
    with embedded(tmp_path, queue_max_bytes=1_000_000, queue_max_messages=100) as broker:
        name = topic_of(SALES, "till-1")
        with broker.client("central-1") as lazy, broker.client("till-1") as writer:
            lazy.shrink_receive_buffer()
            lazy.subscribe(name)
            before = broker.rss_bytes()
            for _ in range(300):
                writer.publish(name, b"z" * 100_000)
            assert broker.rss_bytes() - before < 20_000_000
            assert wait_until(lambda: '"too_slow"' in broker.log())
            assert lazy.closed()


def test_a_reader_that_pauses_gets_everything_when_it_reads_again(own):
    """Up to the bounds nothing is dropped, also without acknowledgements that would ask for more."""
    till = own.new_till()
    name = topic_of(SALES, till)
    with own.client("central-1") as central, own.client(till) as writer:
        central.subscribe(name, 0)
        for number in range(100):
            writer.publish(name, b"%d" % number + b"z" * 200_000)
        assert [int(central.message().payload.rstrip(b"z")) for _ in range(100)] == list(range(100))


def test_many_small_messages_for_a_reader_that_never_acknowledges_are_bounded_by_number(tmp_path):
    """The window, then the queue, then the end of the connection."""
    with embedded(tmp_path, inflight_max=10, queue_max_messages=20) as broker:
        name = topic_of(UPLOAD_REQUEST, "till-1")
        with broker.client("till-1") as lazy, broker.client("central-1") as central:
            lazy.auto_ack = False
            lazy.subscribe(name)
            for _ in range(30):
                central.publish(name)
            assert len(lazy.all_until_ping()) == 10
            central.publish(name)
            assert lazy.closed()


def test_more_retained_doorbells_than_a_queue_holds_all_arrive(tmp_path):
    """What is retained waits by name only: a central that starts is not thrown out by its own fleet."""
    with embedded(tmp_path, inflight_max=5, queue_max_messages=5) as broker:
        tills = [broker.new_till() for _ in range(40)]
        for till in tills:
            with broker.client(till) as writer:
                writer.publish(topic_of(RECEIPT_CLOSED, till), till.encode(), retain=True)
        with broker.client("central-1") as central:
            central.subscribe(RECEIPT_CLOSED.of())
            assert {central.message().payload.decode() for _ in tills} == set(tills)


def test_connections_over_the_bound_are_closed_and_every_slot_comes_back(tmp_path):
    """Twenty broken connections, one after the other, leave all three places free."""
    with embedded(tmp_path, connections_max=3) as broker:
        for number in range(20):
            with broker.raw() as client:
                client.send((b"\x10\x02ab", b"", connect_packet("till-1"))[number % 3])
                client.drop()
        with contextlib.ExitStack() as stack:
            for till in ("till-1", "till-2", "till-3"):
                assert wait_until(partial(_gets_in, stack, broker, till))
            with broker.raw() as fourth:
                assert fourth.closed(within_s=3)
        with contextlib.ExitStack() as stack:
            assert wait_until(lambda: _gets_in(stack, broker, "till-4"))


def _gets_in(stack, broker, till) -> bool:
    """Log a till in and keep it so; False while the broker is still busy with those who went."""
    try:
        stack.enter_context(broker.client(till))
    except ClosedError:
        return False
    return True


def test_a_client_publishes_no_faster_than_its_bound(tmp_path):
    """A till gone mad is read more slowly; nothing of it is lost, and others are served meanwhile."""
    with embedded(tmp_path, publishes_per_s_max=20) as broker, broker.client("till-1") as mad:
        started = time.monotonic()
        for _ in range(50):
            mad.publish(topic_of(SALES, "till-1"))
        assert 1.5 < time.monotonic() - started < 6


@pytest.mark.fault("F43")
def test_a_till_publishes_no_faster_than_its_own_bound_and_central_is_not_held_to_it(tmp_path):
    """What one read brought at once is paid for too: three hundred in one go at a hundred a second take their time."""
    with embedded(tmp_path, till_publishes_per_s_max=100) as broker:
        flood = publish_packet(topic_of(SALES, "till-1"), b"", 0) * 300
        with broker.client("till-1") as mad, broker.client("central-1") as central:
            started = time.monotonic()
            mad.send(flood)
            mad.all_until_ping()
            mad.publish(topic_of(SALES, "till-1"))
            till_s, started = time.monotonic() - started, time.monotonic()
            for _ in range(300):
                central.publish(topic_of(UPLOAD_REQUEST, "till-1"))
            central_s = time.monotonic() - started
    assert till_s > 2
    assert central_s < 2


def test_a_client_has_a_bounded_number_of_subscriptions(tmp_path):
    """The one over the bound is refused; renewing one of them is not one more."""
    with embedded(tmp_path, subscriptions_max=2) as broker, broker.client("till-1") as till:
        names = [topic_of(topic, "till-1") for topic in (UPLOAD_REQUEST, SALES_STORED)]
        assert [till.subscribe(name) for name in (*names, CENTRAL_PRESENCE.of(), names[0])] == [1, 1, REFUSED, 1]


@pytest.mark.parametrize("seed", range(3))
def test_mutated_packets_never_harm_anybody_else(own, seed):
    """A hundred broken conversations: no traceback, and the broker goes on."""
    chance = random.Random(seed)
    till, name = "till-150", topic_of(UPLOAD_REQUEST, "till-150")
    good = connect_packet(
        till, user=till, password=own.token(till), will=(topic_of(TILL_PRESENCE, till), b"x", 1, True)
    )
    good += packet(0x82, b"\0\1" + text(name) + b"\1") + publish_packet(topic_of(SALES, till), b"abc")
    good += packet(0xA2, b"\0\2" + text(name)) + b"\xc0\0"
    for _ in range(100):
        broken = bytearray(good)
        for _ in range(chance.randint(1, 4)):
            broken[chance.randrange(len(broken))] = chance.randrange(256)
        with own.raw() as client, contextlib.suppress(ClosedError):
            client.send(bytes(broken))
    with own.client(own.new_till()) as witness:
        assert witness.all_until_ping() == []
    assert "Traceback" not in own.log()


@pytest.mark.skipif(not shutil.which("openssl"), reason="the program openssl is not installed")
def test_over_tls_it_serves_the_same_and_waits_as_short_for_the_handshake(tmp_path):
    """Messages larger than a TLS record arrive whole; a socket that never shakes hands is closed."""
    key, cert = tmp_path / "tls.key", tmp_path / "tls.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", cert]
    subprocess.run(command, check=True, capture_output=True)
    tls = ssl.create_default_context(cafile=cert)
    settings = {"tls_cert_file": str(cert), "tls_key_file": str(key), "connect_timeout_s": 0.5}
    name = topic_of(SALES, "till-1")
    with embedded(tmp_path / "broker", **settings) as broker:
        with broker.client("central-1", tls=tls) as central, broker.client("till-1", tls=tls) as writer:
            central.subscribe(name)
            for size in (1, 1_000_000, 1):
                writer.publish(name, b"z" * size)
                assert len(central.message().payload) == size
            writer.drop()
        with broker.raw() as silent, broker.raw() as plain:
            plain.send(connect_packet("till-1", user="till-1", password=broker.token("till-1")))
            assert plain.closed(within_s=5)
            assert silent.closed(within_s=5)
        assert "Traceback" not in broker.log()


def test_it_stops_cleanly_when_told_to(tmp_path):
    """SIGTERM ends it with exit code 0, connections closed, nothing in the log that looks like a failure."""
    with embedded(tmp_path) as broker, broker.client("till-1") as client, broker.raw():
        broker.process.terminate()
        assert client.closed()
        assert broker.process.wait(10) == 0
        assert "Traceback" not in broker.log()
        assert '"stopped"' in broker.log()
