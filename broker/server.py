"""The embedded broker: amqtt's listeners, TLS and life cycle, with our own connections in the place of its sessions.

Each override names what it repairs in amqtt 0.12.1; when amqtt repairs them itself, this room can go.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Callable
from typing import Any

from amqtt.broker import Broker
from amqtt.errors import BrokerError

from broker.connection import Connection
from broker.exchange import Exchange
from broker.settings import BrokerConfig, amqtt_config
from broker.tls import ServerTls, TlsListener
from wire.program import ConfigError, notify_systemd

log = logging.getLogger("tillstream.broker")

BACKLOG = 4096
"""Connections the system holds for us while we are busy: a fleet that returns arrives within seconds."""

GOODBYE_S = 2.0


async def serve(
    config: BrokerConfig,
    tls: ServerTls | None,
    exchange: Exchange,
    stop: asyncio.Event,
    on_ready: Callable[[int], None],
) -> None:
    """Run the broker until ``stop`` is set; ``on_ready`` learns the port that is really listened on."""
    broker = TillBroker(config, exchange, tls)
    try:
        await broker.start()
    except BrokerError as problem:
        raise ConfigError(f"cannot listen on {config.listen}: {problem.__cause__ or problem}") from problem
    on_ready(broker.port)
    await stop.wait()
    notify_systemd("STOPPING=1")
    await broker.shutdown()


class TillBroker(Broker):  # type: ignore[misc]
    """amqtt's Broker; made inside the running loop, as amqtt's is."""

    def __init__(self, config: BrokerConfig, exchange: Exchange, tls: ServerTls | None = None) -> None:
        super().__init__(amqtt_config(config))
        self._settings, self._tls = config, tls
        self._exchange = exchange
        self._open: dict[Connection, asyncio.Task[Any]] = {}
        self._was_full = self._stopping = False
        self._deny_watch: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """Return the port that is really listened on."""
        return int(self._servers["default"].instance.sockets[0].getsockname()[1])

    async def start(self) -> None:
        """Listen, and watch the files that say who may come in."""
        await super().start()
        self._deny_watch = asyncio.create_task(self._watch_deny_list())

    async def shutdown(self) -> None:
        """Take no new connection, end those there are, then let amqtt stop."""
        self._stopping = True  # What the system accepted just before may still become a connection.
        if self._deny_watch:
            self._deny_watch.cancel()
        for server in self._servers.values():
            server.instance.close()
        tasks = tuple(self._open.values())
        for connection in tuple(self._open):
            connection.end("stopping")
        if tasks:
            await asyncio.wait(tasks, timeout=GOODBYE_S)
        await super().shutdown()

    async def _create_server_instance(
        self, listener_name: str, _listener_type: Any, address: str, port: int, _ssl_context: ssl.SSLContext | None
    ) -> asyncio.Server | TlsListener:
        """Listen; amqtt 0.12.1 gives a TLS handshake a minute, and a fleet's return overflows its backlog of 100."""
        host = address.removeprefix("[").removesuffix("]")
        if self._tls:
            listener = TlsListener(
                self._settings,
                self._tls,
                lambda reader, writer: self.stream_connected(reader, writer, listener_name),
                BACKLOG,
            )
            await listener.start(host, port)
            return listener
        return await asyncio.start_server(
            lambda reader, writer: self.stream_connected(reader, writer, listener_name),
            host,
            port,
            backlog=BACKLOG,
        )

    async def stream_connected(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _listener_name: str
    ) -> None:
        """Serve one connection.

        amqtt 0.12.1 bugs, all in the session and protocol classes that are left aside here: a bad login destroys its
        victim's session, a takeover leaves two connections or a deaf one, a slow PUBACK loses the message, strangers
        get what is retained, wills and garbage pass unchecked, no queue is bounded, every filter is tried for each
        message, and a connection's slot is not always released.
        """
        task = asyncio.current_task()
        if task is None or self._stopping or self._is_full():
            writer.transport.abort()
            return
        connection = Connection(self._exchange, reader, writer)
        self._open[connection] = task
        try:
            await connection.serve()
        finally:
            del self._open[connection]

    def _is_full(self) -> bool:
        """Say whether there are as many connections as allowed, and log it once each time that is reached."""
        full = len(self._open) >= self._settings.connections_max
        if full and not self._was_full:
            log.error("too_many_connections", extra={"also": {"connections_max": self._settings.connections_max}})
        self._was_full = full
        return full

    async def _watch_deny_list(self) -> None:
        while True:
            await asyncio.sleep(self._settings.deny_check_s)
            try:
                self._exchange.refresh_deny_list()
                if self._tls:
                    self._tls.refresh(time.time())
                    self._exchange.end_who_may_not_stay(time.time())
            except Exception:
                log.exception("deny_list_check_failed")  # The next look must come whatever this one met.
