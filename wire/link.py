"""The one paho adapter: a fresh client for each connection, and events instead of callbacks.

Why fresh: paho sends its unacknowledged messages again after a reconnect, on top of our own asking again; in a trial
that multiplied the traffic eighty-fold. The two ends hold what must not be lost, so a connection's leftovers are
dropped with its client. Each event carries the generation of its connection: an acknowledgement of an older
connection would confirm another message that happens to have the same packet id.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, LogLevel, MQTTErrorCode

from .broker_url import BrokerUrl
from .tls import Tls, explain, hint, is_cut, is_refusal

QOS = 1
LOGIN_REFUSED = (133, 134, 135)
"""Client identifier, user name or password, authorisation: as MQTT 5 numbers what MQTT 3.1.1 says of a login."""


@dataclass(frozen=True, slots=True)
class Connected:
    """The broker let us in and granted all subscriptions."""

    generation: int


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection ended, or could not be made; the reason is for people.

    ``is_refused``: one of the two does not believe the other, or it may not do here what it must. Waiting mends none.
    ``is_asked``: this program wanted it to end.
    """

    generation: int
    reason: str
    is_refused: bool = False
    is_asked: bool = False


@dataclass(frozen=True, slots=True)
class Received:
    """A message; it stays unacknowledged until ``acknowledge`` is called with this event."""

    generation: int
    mid: int
    topic: str
    payload: bytes
    retained: bool
    at: float
    """When it came, in seconds of the monotonic clock; it may wait for its turn since."""


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The broker sent PUBACK. That proves only that the broker had it: nothing more is ever concluded from it."""

    generation: int
    mid: int


Event = Connected | Disconnected | Received | Acknowledged
Deliver = Callable[[Event, int], bool]
"""Takes an event and its weight in bytes; False means there was no room."""


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """Where to connect, as whom, and within which bounds."""

    brokers: tuple[BrokerUrl, ...]
    """In the order in which they are tried, one after the other, for ever."""
    client_id: str
    token: str
    subscriptions: tuple[str, ...]
    subscribe_qos: int
    """1 where PUBACK, sent after the commit, is what slows a broker down; 0 where what is lost is said again anyway."""
    will_topic: str
    keepalive_s: int = 30
    connect_timeout_s: float = 5.0
    inflight_max: int = 1000
    queued_max: int = 20_000
    unheard_s: int = 20
    tls: Tls | None = None
    reconnect_min_s: float = 1.0
    reconnect_max_s: float = 120.0
    settled_s: float = 300.0

    def broker(self, generation: int) -> BrokerUrl:
        """Return which broker the connection of that number is for."""
        return self.brokers[(generation - 1) % len(self.brokers)]


@dataclass(slots=True)
class Backoff:
    """How long to wait before the next connection, in seconds, with jitter.

    After a connection that lived ``settled_s`` all brokers are tried once with short waits: one that is lost costs a
    moment. Each further round of short lives or of none doubles the wait: two machines with one identity would
    otherwise throw each other out for ever, and a fleet would return in lockstep.
    """

    least_s: float
    most_s: float
    settled_s: float
    rng: Random
    brokers: int = 1
    _wait_s: float = field(default=0.0, init=False)
    _tried: int = field(default=0, init=False)

    def after(self, lived_s: float) -> float:
        """Return the wait after a connection that lived so long; 0 lived is a connection that never was."""
        if lived_s >= self.settled_s:
            self._wait_s, self._tried = 0.0, 0
        self._tried += 1
        if self._tried % self.brokers:
            return self.least_s * self.rng.random()
        self._wait_s = min(self.most_s, max(self.least_s, self._wait_s * 2))
        return self._wait_s * self.rng.uniform(0.7, 1.3)


def backoff(settings: LinkSettings, rng: Random) -> Backoff:
    """Return how these connections wait for each other."""
    return Backoff(settings.reconnect_min_s, settings.reconnect_max_s, settings.settled_s, rng, len(settings.brokers))


class Driver(Protocol):
    """A loop that drives the sockets of many connections itself, by ``read``, ``write`` and ``tidy``."""

    def opened(self, connection: Connection, sock: Any) -> None:
        """Watch this socket for reading."""

    def wants_write(self, connection: Connection) -> None:
        """Call ``write`` soon."""

    def closing(self, connection: Connection, sock: Any) -> None:
        """Forget this socket: it is closed right after."""


class Connection:
    """One paho client for one connection; its socket is driven by paho's thread or by the given ``driver``."""

    def __init__(
        self,
        settings: LinkSettings,
        generation: int,
        will: bytes,
        deliver: Deliver,
        driver: Driver | None = None,
        *,
        was_cut: bool = False,
    ) -> None:
        """``was_cut``: the connection before was cut before there was an answer.

        A broker that has just ended does so once; one that refuses and says nothing does so again.
        """
        self.generation, self.broker = generation, settings.broker(generation)
        self.ended = threading.Event()
        self.is_up = False
        self.is_cut, self._was_cut = False, was_cut
        self._is_answered, self._noted = False, ""
        self._settings, self._deliver, self._driver = settings, deliver, driver
        self.client = self._make_client(will)

    def _make_client(self, will: bytes) -> Client:
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._settings.client_id,
            clean_session=True,
            manual_ack=True,
            reconnect_on_failure=False,
        )
        client.username_pw_set(self._settings.client_id, None if self._shows_certificate else self._settings.token)
        client.will_set(self._settings.will_topic, will, qos=QOS, retain=True)
        client.max_inflight_messages_set(self._settings.inflight_max)
        client.max_queued_messages_set(self._settings.queued_max)
        client.connect_timeout = self._settings.connect_timeout_s
        client.on_log = self._on_log  # Until there is an answer: it makes paho write a text for each packet.
        client.on_socket_open = self._on_socket_open
        if driver := self._driver:
            client.on_socket_register_write = lambda *_: driver.wants_write(self)
            client.on_socket_close = lambda _client, _userdata, sock: driver.closing(self, sock)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        return client

    def open(self) -> None:
        """Connect; raises OSError (ssl errors and TlsError included) if the broker cannot be reached."""
        if self._is_tls and (tls := self._settings.tls):
            self.client.tls_set_context(tls.context())
        self.client.connect(self.broker.host, self.broker.port, self._settings.keepalive_s)

    @property
    def sock(self) -> Any:
        """The open socket, for a driver; None while there is none."""
        return self.client.socket()

    def read(self) -> None:
        """For a driver: take what the socket has, and deliver it."""
        self.client.loop_read()
        while isinstance(sock := self.sock, ssl.SSLSocket) and sock.pending():
            self.client.loop_read()  # What is deciphered already no selector tells of.

    def write(self) -> bool:
        """For a driver: send what waits; True means that the socket took no more and must be watched for writing."""
        self.client.loop_write()
        return self.client.want_write() and self.sock is not None

    def tidy(self) -> None:
        """For a driver, a few times in each keepalive: ping the broker, and notice one that is silent."""
        self.client.loop_misc()

    def close(self) -> None:
        """For a driver: say goodbye, so that the broker publishes no will; ``write`` sends it and closes."""
        self.client.disconnect()

    def publish(self, topic: str, payload: bytes, *, retain: bool) -> int | None:
        """Publish with QoS 1; return the packet id, or None if it was not even queued."""
        info = self.client.publish(topic, payload, qos=QOS, retain=retain)
        return info.mid if info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS else None

    def acknowledge(self, received: Received) -> None:
        """Send PUBACK, unless the message came over an older connection, or by QoS 0 (its packet id is 0)."""
        if received.mid and received.generation == self.generation:
            self.client.ack(received.mid, QOS)

    def end(self, reason: str, *, is_refused: bool = False, is_asked: bool = False) -> None:
        """Report the end once, whoever sees it first."""
        if not self.ended.is_set():
            self.is_up = False
            self.ended.set()
            self._deliver(Disconnected(self.generation, reason, is_refused, is_asked), 0)

    def _on_socket_open(self, _client: Client, _userdata: Any, sock: Any) -> None:
        with contextlib.suppress(OSError, AttributeError):  # Not every socket (TLS wrappers, tests) has these options.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # A half-open connection is noticed after this, not after many minutes of TCP retransmission.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, self._settings.unheard_s * 1000)
        if self._driver:
            self._driver.opened(self, sock)

    def explain(self, problem: BaseException) -> str:
        """Return what an error of ``open`` means, for people."""
        return explain(problem, is_tls=self._is_tls, flaw=self._flaw())

    def is_refusal(self, problem: BaseException) -> bool:
        """Say whether an error of ``open`` is one that waiting does not mend."""
        return is_refusal(problem) or (is_cut(problem) and self._is_cut_again())

    def check_own_name(self) -> None:
        """Raise TlsError if this client's certificate names another client."""
        if self._is_tls and (tls := self._settings.tls):
            tls.check_name(self._settings.client_id)

    def _is_cut_again(self) -> bool:
        """Note that the broker hung up before it answered; say whether that looks like a refusal."""
        self.is_cut = True
        return self._is_tls and (self._was_cut or self._flaw() != "")

    @property
    def _shows_certificate(self) -> bool:
        """Whether a certificate says who this is: the token stays here then, and NATS refuses both together."""
        return self._is_tls and self._settings.tls is not None and self._settings.tls.cert_file != ""

    @property
    def _is_tls(self) -> bool:
        return self._settings.tls is not None and self.broker.is_tls

    def _flaw(self) -> str:
        tls = self._settings.tls if self._is_tls else None
        return tls.flaw(self._settings.client_id, time.time()) if tls else ""

    def _on_log(self, _client: Client, _userdata: Any, level: int, text: str) -> None:
        """Keep why reading failed: paho tells nobody else. With TLS 1.3 that is where a refused certificate shows."""
        if level == LogLevel.MQTT_LOG_ERR and not self._noted:
            self._noted = text.removeprefix("failed to receive on socket: ")

    def _on_connect(self, client: Client, _userdata: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        self._is_answered, client.on_log = True, None
        if reason.is_failure:
            flaw = self._flaw()
            text = f"the broker refused: {reason}{'; ' if flaw else ''}{flaw}"
            self.end(text, is_refused=reason.value in LOGIN_REFUSED)
            return
        client.subscribe([(topic, self._settings.subscribe_qos) for topic in self._settings.subscriptions])

    def _on_subscribe(self, _client: Client, _userdata: Any, _mid: int, reasons: Any, _properties: Any) -> None:
        refused = [
            topic for topic, reason in zip(self._settings.subscriptions, reasons, strict=False) if reason.is_failure
        ]
        if refused:
            self.end(f"the broker refused the subscriptions {', '.join(refused)}", is_refused=True)
            return
        self.is_up = True
        self._deliver(Connected(self.generation), 0)

    def _on_disconnect(self, _client: Client, _userdata: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if self._is_answered or self.ended.is_set():
            self.end(str(reason))
            return
        text, flaw = hint(self._noted or str(reason), is_tls=self._is_tls), self._flaw()
        self.end(f"{text}; {flaw}" if flaw else text, is_refused="ALERT" in self._noted or self._is_cut_again())

    def _on_message(self, _client: Client, _userdata: Any, message: MQTTMessage) -> None:
        payload, at = bytes(message.payload), time.monotonic()
        event = Received(self.generation, message.mid, message.topic, payload, message.retain, at)
        if not self._deliver(event, len(message.payload) + 64):
            # No room: let it go. Whoever sent it says it again, and an unacknowledged one would block the window.
            self.acknowledge(event)

    def _on_publish(self, _client: Client, _userdata: Any, mid: int, _reason: Any, _properties: Any) -> None:
        self._deliver(Acknowledged(self.generation, mid), 0)


class Link:
    """Keeps one connection at a time alive from a thread of its own; events go to ``deliver``."""

    def __init__(self, settings: LinkSettings, will: Callable[[int], bytes], deliver: Deliver, rng: Random) -> None:
        self._settings, self._will, self._deliver = settings, will, deliver
        self._backoff = backoff(settings, rng)
        self._stopping = threading.Event()
        self._connection: Connection | None = None
        self._was_cut = False
        self._thread = threading.Thread(target=self._keep_connected, name="link", daemon=True)

    def start(self) -> None:
        """Start connecting, and go on for ever."""
        self._thread.start()

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> int | None:
        """Publish over the present connection; None means nothing was sent and nothing is kept for later."""
        connection = self._connection
        return connection.publish(topic, payload, retain=retain) if connection and connection.is_up else None

    def acknowledge(self, received: Received) -> None:
        """Send PUBACK for a message of the present connection; one of an older connection is let go."""
        if connection := self._connection:
            connection.acknowledge(received)

    def reconnect(self, reason: str) -> None:
        """End the present connection and make a new one: whoever has something to say says it again."""
        if connection := self._connection:
            connection.end(reason, is_asked=True)

    def stop(self) -> None:
        """Disconnect cleanly (no will) and end the thread."""
        self._stopping.set()
        if connection := self._connection:
            connection.client.disconnect()
            connection.ended.set()
        self._thread.join(timeout=self._settings.connect_timeout_s + 5)

    def _keep_connected(self) -> None:
        generation = 0
        while not self._stopping.is_set():
            generation += 1
            lived_s = self._connect_once(generation)
            self._stopping.wait(self._backoff.after(lived_s))

    def _connect_once(self, generation: int) -> float:
        will, was_cut = self._will(generation), self._was_cut
        connection = Connection(self._settings, generation, will, self._deliver, was_cut=was_cut)
        self._connection = connection
        if self._stopping.is_set():  # Looked at after the line above, as `stop` looks the other way round: one sees.
            return 0.0
        try:
            connection.check_own_name()
            connection.open()
        except (OSError, ValueError) as problem:
            connection.end(
                f"cannot reach {connection.broker}: {connection.explain(problem)}",
                is_refused=connection.is_refusal(problem),
            )
            self._was_cut = connection.is_cut
            return 0.0
        opened = time.monotonic()
        connection.client.loop_start()
        connection.ended.wait()
        self._connection, self._was_cut = None, connection.is_cut
        connection.client.disconnect()  # Before loop_stop, which would wait for unacknowledged messages.
        connection.client.loop_stop()
        return time.monotonic() - opened
