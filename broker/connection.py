"""One client's connection: lets it in, reads its packets, writes to it, ends it for silence or for sending nonsense."""

from __future__ import annotations

import asyncio
import logging
from typing import Literal

from broker import packets
from broker.access import identity
from broker.certificates import shown_by
from broker.codec import Connect, UnsupportedVersionError, Will, read_connect, read_subscribe, read_unsubscribe
from broker.exchange import Exchange
from broker.outgoing import Bounds, Outgoing
from broker.packets import Message, ProtocolViolationError

log = logging.getLogger("tillstream.broker")

CHUNK_BYTES = 32 * 1024
TLS_HANDSHAKE = 0x16
"""What TLS begins with; a CONNECT has other flags."""
GOODBYE_S = 2.0
"""How long a refused client has to read why."""

KEEPALIVE_GRACE = 1.5
"""MQTT 3.1.1, section 3.1.2.10: one and a half times the keep-alive."""

EXPECTED_ENDS = frozenset({"disconnected", "connection_lost", "stopping"})
QUIET_ENDS = frozenset({"disconnected", "stopping", "refused"})
"""After these no will is published: the client said goodbye, never came in, or everybody goes."""


class Connection:
    """Lives as long as the socket."""

    def __init__(self, exchange: Exchange, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        config = exchange.config
        self.user = ""
        self.will: Will | None = None
        self.shown = shown_by(writer.get_extra_info("ssl_object"))
        self._exchange, self._config = exchange, config
        self._reader, self._writer = reader, writer
        self._loop = asyncio.get_running_loop()
        self._splitter = packets.Splitter(config.connect_limit_bytes)
        bounds = Bounds(config.inflight_max, config.queue_max_messages, config.queue_max_bytes)
        self._outgoing = Outgoing(bounds, exchange.total, self._write, self._is_full, self._newest)
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0
        self._draining: asyncio.Task[None] | None = None
        self._ended = self._complained = False
        self._second_began_at, self._published = self._loop.time(), 0
        self._publishes_max = config.publishes_per_s_max
        self._heard_at = self._loop.time()
        self._silence_limit_s = config.connect_timeout_s
        # amqtt 0.12.1 bugs: no CONNECT timeout; keepalive is never enforced. One timer does both.
        self._timer = self._loop.call_later(self._silence_limit_s, self._end_if_silent)
        writer.transport.set_write_buffer_limits(high=config.write_buffer_bytes)

    async def serve(self) -> None:
        """Read packets until the connection ends, and leave nothing behind."""
        reason = "stopping"
        try:
            reason = await self._read_packets()
        except ProtocolViolationError as problem:
            reason = str(problem)
        except OSError:
            reason = "connection_lost"
        except Exception:
            reason = "failed"
            log.exception("connection_failed", extra={"till": self.user})
        finally:
            self.end(reason)

    async def _read_packets(self) -> str:
        begun = False
        while chunk := await self._reader.read(CHUNK_BYTES):
            if not begun and chunk[0] == TLS_HANDSHAKE:
                raise ProtocolViolationError("tls_at_a_plain_port")
            if not begun and chunk[0] >> 4 != packets.CONNECT:
                raise ProtocolViolationError("first_packet_is_not_connect")
            begun = True
            if self.user:  # What dribbles in before CONNECT buys no time.
                self._heard_at = self._loop.time()
            for first, body in self._splitter.feed(chunk):
                if self._ended:  # By another's doing, with packets still in the buffer: they must do nothing any more.
                    return "ended"
                if first >> 4 == packets.DISCONNECT and self.user:
                    return "disconnected"
                await self._take(first, body)
            if self._owes_too_much():
                await self._writer.drain()
            if self._published >= self._publishes_max:
                await self._rest()
        return "connection_lost"

    async def _take(self, first: int, body: bytes) -> None:
        kind = first >> 4
        if not self.user:
            await self._take_connect(first, body)
        elif kind == packets.PUBLISH:
            self._take_publish(first, body)
        elif kind == packets.PUBACK:
            self._outgoing.acknowledged(packets.read_puback(body))
        elif kind == packets.PINGREQ:
            self._write(packets.PINGRESP)
        elif kind == packets.SUBSCRIBE:
            await self._take_subscribe(first, body)
        elif kind == packets.UNSUBSCRIBE:
            await self._take_unsubscribe(first, body)
        else:
            raise ProtocolViolationError(f"unexpected_packet_{kind}")

    async def _take_connect(self, first: int, body: bytes) -> None:
        if first >> 4 != packets.CONNECT:
            raise ProtocolViolationError("first_packet_is_not_connect")
        try:
            connect = await read_connect(first, body)
        except UnsupportedVersionError:
            self._refuse(packets.REFUSED_VERSION, "unsupported_version", "")
            return
        if reason := self._exchange.refusal(connect, self.shown):
            name = self.shown.name if self.shown else connect.user or connect.client_id
            self._refuse(packets.REFUSED_NOT_AUTHORISED, reason, name)
            return
        self._enter(connect)

    def _enter(self, connect: Connect) -> None:
        self.user, self.will = connect.client_id, connect.will
        self._splitter.limit_bytes = self._config.packet_limit_bytes
        if (who := identity(self.user)) and who.party == "till":
            self._publishes_max = min(self._publishes_max, self._config.till_publishes_per_s_max)
        longest = self._config.keepalive_max_s
        self._silence_limit_s = KEEPALIVE_GRACE * min(connect.keepalive_s or longest, longest)
        self._heard_at = self._loop.time()
        self._end_if_silent()
        self._exchange.enter(self)
        self._write(packets.connack(0))
        log.info("connected", extra={"till": self.user, "also": {"address": self._address()}})

    def _refuse(self, return_code: int, reason: str, name: str) -> None:
        log.warning("refused", extra={"till": name[:200], "also": {"reason": reason, "address": self._address()}})
        self._writer.write(packets.connack(return_code))
        self.end("refused")

    def _take_publish(self, first: int, body: bytes) -> None:
        self._published += 1
        published = packets.read_publish(first, body, self._config.topic_limit_bytes)
        if not self._exchange.publish(self, published) and not self._complained:
            self._complained = True  # Once a connection, or one mad till fills the journal.
            log.warning("publish_refused", extra={"till": self.user, "also": {"topic": published.message.topic}})
        if published.message.qos:
            # amqtt 0.12.1 bug: acknowledges before it routes, and loses what a closing publisher left. 3.1.1 has no
            # negative answer: what may not be published is acknowledged as well, and dropped.
            self._write(packets.puback(published.packet_id))

    async def _take_subscribe(self, first: int, body: bytes) -> None:
        packet_id, asked = await read_subscribe(first, body)
        granted = [(name, self._exchange.subscribe(self, name, qos)) for name, qos in asked]
        self._write(packets.suback(packet_id, [qos for _, qos in granted]))
        for name, qos in granted:
            if qos != packets.SUBSCRIPTION_REFUSED:
                self._outgoing.call_up(self._exchange.retained_topics(self, name), qos)

    async def _take_unsubscribe(self, first: int, body: bytes) -> None:
        packet_id, names = await read_unsubscribe(first, body)
        for name in names:
            self._exchange.unsubscribe(self, name)
        self._write(packets.unsuback(packet_id))

    def offer(self, message: Message, qos: int) -> None:
        """Take a message for the client; a client for whom too much waits is thrown out, and starts afresh.

        Not "drop the oldest": a hole in the middle looks like a whole stream, a new connection asks again.
        """
        if not self._ended and not self._outgoing.offer(message, qos):
            self._loop.call_soon(self.end, "too_slow")

    def end(self, reason: str) -> None:
        """End the connection now; the second time does nothing."""
        if self._ended:
            return
        self._ended = True
        self._timer.cancel()
        self._outgoing.clear()
        if self._draining:
            self._draining.cancel()
        self._close_socket(gently=reason == "refused")
        if self.user:
            level: Literal[20, 30] = logging.INFO if reason in EXPECTED_ENDS else logging.WARNING
            log.log(level, "ended", extra={"till": self.user, "also": {"reason": reason}})
            self._exchange.leave(self, with_will=reason not in QUIET_ENDS)
        elif reason not in ("refused", "connection_lost", "stopping"):
            log.warning("refused", extra={"also": {"reason": reason, "address": self._address()}})

    def _close_socket(self, *, gently: bool) -> None:
        """Close at once, or give a refused client a moment to read why."""
        transport = self._writer.transport
        if gently:
            transport.close()
            self._loop.call_later(GOODBYE_S, transport.abort)
        else:
            transport.abort()

    def _end_if_silent(self) -> None:
        self._timer.cancel()
        left_s = self._heard_at + self._silence_limit_s - self._loop.time()
        if left_s <= 0:
            self.end("silent" if self.user else "no_connect_packet")
        else:
            self._timer = self._loop.call_later(left_s, self._end_if_silent)

    def _write(self, packet: bytes) -> None:
        """Collect packets and write them together when this turn of the loop ends: one system call for many."""
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent.append(packet)
        self._unsent_bytes += len(packet)

    def _flush(self) -> None:
        if not self._ended:
            self._writer.write(b"".join(self._unsent))
        self._unsent.clear()
        self._unsent_bytes = 0
        if self._ended or self._draining:
            return
        if self._writer.transport.get_write_buffer_size() > self._config.write_buffer_bytes:
            self._draining = self._loop.create_task(self._drain())
        elif self._outgoing.has_waiting:
            self._outgoing.pump()

    async def _drain(self) -> None:
        try:
            await self._writer.drain()
        except OSError:
            return  # The reading side sees the same and ends the connection.
        self._draining = None
        self._outgoing.pump()

    def _is_full(self) -> bool:
        return self._draining is not None or self._unsent_bytes >= self._config.write_buffer_bytes

    def _owes_too_much(self) -> bool:
        """Say whether answers pile up: a client that sends and never reads is read from no longer.

        Messages alone never get there, they stop at the write buffer's bound; so a slow reader can still acknowledge.
        """
        bound = 2 * self._config.write_buffer_bytes + self._config.packet_limit_bytes
        return self._unsent_bytes + self._writer.transport.get_write_buffer_size() > bound

    async def _rest(self) -> None:
        """Read nothing until the rate allows what was read; TCP slows the client down, and the others have their turn.

        What one read brings may be many times the bound: small messages come by the thousand.
        """
        left_s = self._second_began_at + self._published / self._publishes_max - self._loop.time()
        if left_s > 0:
            await asyncio.sleep(left_s)
        self._second_began_at, self._published = self._loop.time(), 0

    def _newest(self, topic: str) -> Message | None:
        return self._exchange.newest(self, topic)

    def _address(self) -> str:
        peer = self._writer.get_extra_info("peername")
        return f"{peer[0]}:{peer[1]}" if peer else "gone"
