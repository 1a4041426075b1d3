"""The rare packets (CONNECT, SUBSCRIBE, UNSUBSCRIBE), read by amqtt's own classes and checked where it does not."""

from __future__ import annotations

from typing import Any, NamedTuple

from amqtt.adapters import BufferReader
from amqtt.errors import AMQTTError, MQTTError, NoDataError
from amqtt.mqtt.connect import ConnectPayload, ConnectVariableHeader
from amqtt.mqtt.packet import MQTTFixedHeader
from amqtt.mqtt.subscribe import SubscribePacket
from amqtt.mqtt.unsubscribe import UnsubscribePacket

from broker.packets import Message, ProtocolViolationError

PROTOCOL, LEVEL = "MQTT", 4


class UnsupportedVersionError(Exception):
    """The client speaks another version than MQTT 3.1.1."""


class Will(NamedTuple):
    """What the broker publishes for a client that goes without saying so."""

    message: Message
    retain: bool


class Connect(NamedTuple):
    """A CONNECT packet."""

    client_id: str
    user: str | None
    password: str | None
    keepalive_s: int
    will: Will | None


async def read_connect(first: int, body: bytes) -> Connect:
    """Take a CONNECT packet apart."""
    reader = BufferReader(body)
    try:
        head = await ConnectVariableHeader.from_stream(reader, MQTTFixedHeader(first >> 4, first & 15, len(body)))
        _check_head(first, head)
        rest = await ConnectPayload.from_stream(reader, None, head)
    except (AMQTTError, MQTTError, NoDataError, ValueError, IndexError) as problem:
        raise ProtocolViolationError("malformed_connect") from problem
    named = head.username_flag or not head.password_flag
    if not named or (head.username_flag and rest.username is None) or (head.password_flag and rest.password is None):
        raise ProtocolViolationError("malformed_connect")
    # amqtt gives an empty client id a random one; here it is nobody's name, and is refused as such.
    client_id = "" if rest.client_id_is_random else rest.client_id
    return Connect(client_id, rest.username, rest.password, head.keep_alive, _will(head, rest))


def _check_head(first: int, head: Any) -> None:
    if (head.proto_name, head.proto_level) != (PROTOCOL, LEVEL):
        if head.proto_name in (PROTOCOL, "MQIsdp"):
            raise UnsupportedVersionError
        raise ProtocolViolationError("not_mqtt")
    will_flags = head.will_qos or head.will_retain_flag
    if first & 15 or head.reserved_flag or head.will_qos > 2 or (will_flags and not head.will_flag):
        raise ProtocolViolationError("malformed_connect")


def _will(head: Any, rest: Any) -> Will | None:
    if not head.will_flag:
        return None
    if rest.will_topic is None or rest.will_message is None:
        raise ProtocolViolationError("malformed_connect")
    return Will(Message(rest.will_topic, bytes(rest.will_message), min(head.will_qos, 1)), head.will_retain_flag)


async def read_subscribe(first: int, body: bytes) -> tuple[int, list[tuple[str, int]]]:
    """Return the packet id and each filter with the quality of service that is asked for."""
    packet = await _read_filters(SubscribePacket, first, body)
    topics = packet.payload.topics
    _check_filters(packet, [topic for topic, _ in topics], len(body) - len(topics))
    if any(qos > 2 for _, qos in topics):
        raise ProtocolViolationError("malformed_subscribe")  # amqtt 0.12.1 bug: grants quality of service 3.
    return packet.variable_header.packet_id, topics


async def read_unsubscribe(first: int, body: bytes) -> tuple[int, list[str]]:
    """Return the packet id and the filters."""
    packet = await _read_filters(UnsubscribePacket, first, body)
    _check_filters(packet, packet.payload.topics, len(body))
    return packet.variable_header.packet_id, packet.payload.topics


async def _read_filters(packet_type: Any, first: int, body: bytes) -> Any:
    if first & 15 != 2:
        raise ProtocolViolationError("malformed_subscribe")
    try:
        return await packet_type.from_stream(
            BufferReader(body), fixed_header=MQTTFixedHeader(first >> 4, first & 15, len(body))
        )
    except (AMQTTError, MQTTError, NoDataError, ValueError, IndexError) as problem:
        raise ProtocolViolationError("malformed_subscribe") from problem


def _check_filters(packet: Any, filters: list[str], filter_bytes: int) -> None:
    """Refuse what amqtt passes over in silence: packet id 0, no filter at all, a last one cut short."""
    expected = 2 + sum(2 + len(name.encode()) for name in filters)
    if not packet.variable_header.packet_id or not filters or expected != filter_bytes:
        raise ProtocolViolationError("malformed_subscribe")
