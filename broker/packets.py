"""MQTT packets as bytes: cutting the stream into packets, and the small packets of the busy path.

Pure. amqtt reads a packet with some ten awaits and spends the memory before it looks at the length; this does neither.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

CONNECT, PUBLISH, PUBACK, SUBSCRIBE, UNSUBSCRIBE, PINGREQ, DISCONNECT = 1, 3, 4, 8, 10, 12, 14

PINGRESP = b"\xd0\x00"
REFUSED_VERSION, REFUSED_NOT_AUTHORISED = 1, 5
SUBSCRIPTION_REFUSED = 0x80

_MULTIPLIERS = (1, 128, 128**2, 128**3)


class ProtocolViolationError(Exception):
    """The client sent what MQTT or our limits forbid; the text is a slug for the log. The connection ends."""


class Message(NamedTuple):
    """What is published: the topic, the payload's exact bytes, and the quality of service it came with (0 or 1)."""

    topic: str
    payload: bytes
    qos: int

    @property
    def size_bytes(self) -> int:
        """Return what the message costs while it waits."""
        return len(self.topic) + len(self.payload)


class Published(NamedTuple):
    """A PUBLISH packet from a client."""

    message: Message
    retain: bool
    packet_id: int


class Splitter:
    """Cuts what arrives into packets. One that is too long is refused on its header, before its body is kept."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._rest = bytearray()
        self._needed = 2

    def feed(self, chunk: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield each whole packet as its first byte and its body; what is left waits for the next chunk."""
        if self._rest:
            self._rest += chunk
            if len(self._rest) < self._needed:
                return
            chunk = bytes(self._rest)
            self._rest.clear()
        at = 0
        while (cut := self._cut(chunk, at)) is not None:
            body_at, end = cut
            yield chunk[at], chunk[body_at:end]
            at = end
        self._rest += chunk[at:]

    def _cut(self, chunk: bytes, at: int) -> tuple[int, int] | None:
        """Return where the body of the packet at ``at`` begins and ends, or None if it is not all there."""
        length = 0
        for position, multiplier in enumerate(_MULTIPLIERS, at + 1):
            if position >= len(chunk):
                self._needed = position - at + 1
                return None
            length += (chunk[position] & 0x7F) * multiplier
            if chunk[position] < 0x80:
                break
        else:
            raise ProtocolViolationError("malformed_length")
        if length > self.limit_bytes:
            raise ProtocolViolationError("packet_too_long")
        self._needed = position + 1 - at + length
        return None if self._needed > len(chunk) - at else (position + 1, position + 1 + length)


def read_publish(first: int, body: bytes, topic_limit_bytes: int) -> Published:
    """Take a PUBLISH packet apart; a topic nobody may publish to ends the connection."""
    qos = first >> 1 & 3
    if qos > 1:
        raise ProtocolViolationError("qos_2_is_not_used")
    payload_at = 2 + int.from_bytes(body[:2], "big") + 2 * qos
    if len(body) < max(payload_at, 2) or payload_at - 2 - 2 * qos > topic_limit_bytes:
        raise ProtocolViolationError("malformed_publish")
    topic_end = payload_at - 2 * qos
    packet_id = int.from_bytes(body[topic_end:payload_at], "big")
    if qos and not packet_id:
        raise ProtocolViolationError("packet_id_zero")
    message = Message(_topic(body[2:topic_end]), body[payload_at:], qos)
    return Published(message, bool(first & 1), packet_id)


def _topic(raw: bytes) -> str:
    try:
        topic = raw.decode()
    except UnicodeDecodeError:
        raise ProtocolViolationError("topic_is_not_utf8") from None
    if not topic or topic.startswith("$") or "+" in topic or "#" in topic or "\0" in topic:
        raise ProtocolViolationError("topic_cannot_be_published_to")
    return topic


def read_puback(body: bytes) -> int:
    """Return the packet id that a PUBACK confirms."""
    if len(body) != 2:
        raise ProtocolViolationError("malformed_puback")
    return int.from_bytes(body, "big")


def publish_packet(message: Message, qos: int, packet_id: int, *, retain: bool) -> bytes:
    """Return the bytes of a PUBLISH packet; ``packet_id`` counts only with QoS 1."""
    topic = message.topic.encode()
    middle = len(topic).to_bytes(2, "big") + topic + (packet_id.to_bytes(2, "big") if qos else b"")
    first = PUBLISH << 4 | qos << 1 | retain
    return bytes((first,)) + _length(len(middle) + len(message.payload)) + middle + message.payload


def connack(return_code: int) -> bytes:
    """Return a CONNACK; the session is never one that was there before."""
    return bytes((0x20, 2, 0, return_code))


def puback(packet_id: int) -> bytes:
    """Return the PUBACK of a packet id."""
    return b"\x40\x02" + packet_id.to_bytes(2, "big")


def suback(packet_id: int, return_codes: list[int]) -> bytes:
    """Return a SUBACK: for each filter the granted quality of service, or 0x80 for refused."""
    return b"\x90" + _length(2 + len(return_codes)) + packet_id.to_bytes(2, "big") + bytes(return_codes)


def unsuback(packet_id: int) -> bytes:
    """Return the UNSUBACK of a packet id."""
    return b"\xb0\x02" + packet_id.to_bytes(2, "big")


def _length(length: int) -> bytes:
    out = bytearray()
    while True:
        length, low = divmod(length, 128)
        out.append(low | 0x80 if length else low)
        if not length:
            return bytes(out)
