"""A raw MQTT 3.1.1 client: sends exactly what it is told, acknowledges only when it is told, hides nothing."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import time
from typing import NamedTuple

CONNACK, PUBLISH, PUBACK, SUBACK, UNSUBACK, PINGRESP = 2, 3, 4, 9, 11, 13
PATIENCE_S = 30.0


class Message(NamedTuple):
    topic: str
    payload: bytes
    qos: int
    retain: bool
    packet_id: int


class ClosedError(Exception):
    """The broker closed the connection."""


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("!H", len(raw)) + raw


def packet(first: int, body: bytes) -> bytes:
    length, out = len(body), bytearray()
    while True:
        length, low = divmod(length, 128)
        out.append(low | 0x80 if length else low)
        if not length:
            return bytes((first,)) + bytes(out) + body


def connect_packet(client_id, *, user=None, password=None, will=None, clean=True, keepalive_s=60, level=4) -> bytes:
    """``will`` is (topic, payload, qos, retain)."""
    flags = 2 * clean | 0x80 * (user is not None) | 0x40 * (password is not None)
    body = b""
    if will:
        flags |= 4 | will[2] << 3 | 0x20 * will[3]
        body = text(will[0]) + text(will[1])
    body += b"".join(text(value) for value in (user, password) if value is not None)
    properties = b"\0" if level == 5 else b""
    head = text("MQTT") + bytes((level, flags)) + struct.pack("!H", keepalive_s) + properties
    return packet(0x10, head + text(client_id) + body)


def publish_packet(topic, payload, qos=1, *, packet_id=1, retain=False) -> bytes:
    middle = struct.pack("!H", packet_id) if qos else b""
    return packet(0x30 | qos << 1 | retain, text(topic) + middle + payload)


class RawClient:
    """One connection; `messages` holds what was published to it and not yet taken."""

    def __init__(self, port: int, tls: ssl.SSLContext | None = None, source: str = "127.0.0.1") -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), PATIENCE_S, (source, 0))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls:
            self._socket = tls.wrap_socket(self._socket, server_hostname="localhost")
        self._buffer = bytearray()
        self._packet_id = 0
        self.messages: list[Message] = []
        self.auto_ack = True

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._socket.close()

    def connect(self, client_id, **options) -> int:
        """Return the CONNACK's return code; raises ClosedError if there is none."""
        self.send(connect_packet(client_id, **options))
        return self.await_packet(CONNACK)[1]

    def send(self, raw: bytes) -> None:
        try:
            self._socket.sendall(raw)
        except ConnectionError as problem:
            raise ClosedError from problem

    def publish(self, topic, payload=b"x", qos=1, *, retain=False) -> None:
        """Publish and, for QoS 1, wait for the PUBACK."""
        packet_id = self._next_id()
        self.send(publish_packet(topic, payload, qos, packet_id=packet_id, retain=retain))
        if qos:
            assert self.await_packet(PUBACK) == struct.pack("!H", packet_id)

    def subscribe(self, topic_filter, qos=1) -> int:
        """Return what the SUBACK grants; 0x80 is refused."""
        packet_id = struct.pack("!H", self._next_id())
        self.send(packet(0x82, packet_id + text(topic_filter) + bytes((qos,))))
        answer = self.await_packet(SUBACK)
        assert answer[:2] == packet_id
        return answer[2]

    def unsubscribe(self, topic_filter) -> None:
        self.send(packet(0xA2, struct.pack("!H", self._next_id()) + text(topic_filter)))
        self.await_packet(UNSUBACK)

    def acknowledge(self, message: Message) -> None:
        self.send(packet(0x40, struct.pack("!H", message.packet_id)))

    def message(self, within_s=PATIENCE_S) -> Message:
        """Return the next message; raises TimeoutError or ClosedError."""
        deadline = time.monotonic() + within_s
        while not self.messages:
            self._read_one(deadline)
        return self.messages.pop(0)

    def all_until_ping(self) -> list[Message]:
        """Return all messages that the broker sent before it answered a ping sent now.

        Brokers route in order and answer in order: a message that was let through before this call is in the list.
        """
        self.send(b"\xc0\0")
        self.await_packet(PINGRESP)
        taken, self.messages = self.messages, []
        return taken

    def closed(self, within_s=PATIENCE_S) -> bool:
        """Say whether the broker closes the connection in time."""
        deadline = time.monotonic() + within_s
        try:
            while True:
                self._read_one(deadline)
        except ClosedError:
            return True
        except TimeoutError:
            return False

    def disconnect(self) -> None:
        self.send(b"\xe0\0")
        self._socket.close()

    def drop(self) -> None:
        """Go without a word, as a machine that loses power does not even do (a reset)."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def shrink_receive_buffer(self) -> None:
        """Let little wait in the kernel, so that a client that does not read is soon felt by the broker."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)

    def await_packet(self, kind: int, within_s=PATIENCE_S) -> bytes:
        """Return the body of the next packet of a kind; messages that come before it are kept."""
        deadline = time.monotonic() + within_s
        while True:
            got, body = self._read_one(deadline)
            if got == kind:
                return body
            assert got == PUBLISH, f"expected packet {kind}, got {got}"

    def _next_id(self) -> int:
        self._packet_id += 1
        return self._packet_id

    def _read_one(self, deadline: float) -> tuple[int, bytes]:
        while (whole := self._cut()) is None:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            self._socket.settimeout(left_s)
            try:
                chunk = self._socket.recv(65536)
            except (ConnectionError, ssl.SSLEOFError) as problem:
                raise ClosedError from problem
            if not chunk:
                raise ClosedError
            self._buffer += chunk
        first, body = whole
        if first >> 4 == PUBLISH:
            self._keep(first, body)
        return first >> 4, body

    def _cut(self) -> tuple[int, bytes] | None:
        length = 0
        for place in range(1, 5):
            if place >= len(self._buffer):
                return None
            length |= (self._buffer[place] & 0x7F) << 7 * (place - 1)
            if self._buffer[place] < 0x80:
                break
        end = place + 1 + length
        if len(self._buffer) < end:
            return None
        first, body = self._buffer[0], bytes(self._buffer[place + 1 : end])
        del self._buffer[:end]
        return first, body

    def _keep(self, first: int, body: bytes) -> None:
        qos, end = first >> 1 & 3, 2 + int.from_bytes(body[:2], "big")
        packet_id = int.from_bytes(body[end : end + 2], "big") if qos else 0
        message = Message(body[2:end].decode(), body[end + 2 * bool(qos) :], qos, bool(first & 1), packet_id)
        self.messages.append(message)
        if qos and self.auto_ack:
            with contextlib.suppress(ClosedError):
                self.acknowledge(message)
