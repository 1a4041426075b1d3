"""Runs the console as a process of its own until it is told to stop: a dead console never harms the worker."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from central.config import CentralConfig
from central.pool import Pool
from wire.program import Watchdog, notify_systemd, on_stop_signal

from .app import make_app

log = logging.getLogger("tillstream.console")

KEEP_ALIVE_S = 75
"""So long an idle connection is kept: longer than a page waits between two polls."""
GOODBYE_S = 5
"""So long requests that are under way may take when the process is told to stop."""


class _Patience(H11Protocol):
    """A connection whose client has so long to send a request, head and body: uvicorn itself would wait for ever."""

    request_s = 30.0
    _until: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_request()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.conn.trailing_data[0]:  # Of the next request, which came with this one.
            self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _look(self) -> None:
        if self.conn.their_state in (h11.IDLE, h11.SEND_BODY):
            self._await_request()
        else:
            self._stop_waiting()

    def _await_request(self) -> None:
        self._until = self._until or self.loop.call_later(self.request_s, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._until:
            self._until.cancel()
        self._until = None


def patient(request_s: float) -> type[H11Protocol]:
    """Return a kind of connection whose clients have so many seconds to send a request."""
    return type("Patience", (_Patience,), {"request_s": request_s})


class _Server(uvicorn.Server):
    """Says where it listens once it does, and that its loop still turns."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._watchdog = Watchdog(os.environ)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for server in self.servers:
            for listening in server.sockets:
                host, port = listening.getsockname()[:2]
                log.info("started", extra={"also": {"address": address(self.config.is_ssl, host, port)}})
        notify_systemd("READY=1")

    async def on_tick(self, counter: int) -> bool:
        self._watchdog.turn(time.monotonic())
        return await super().on_tick(counter)


def address(is_tls: bool, host: str, port: int) -> str:
    """Return what a browser is given."""
    return f"{'https' if is_tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}/"


def run(config: CentralConfig) -> None:
    """Serve until SIGTERM or SIGINT; raises reports.NoDatabaseError where there is no database."""
    host, port = config.console_address()
    with Pool(config.place("tillstream console")) as pool:
        server = _Server(
            uvicorn.Config(
                make_app(config, pool),
                host=host,
                port=port,
                ssl_certfile=config.console_tls_cert_file or None,
                ssl_keyfile=config.console_tls_key_file or None,
                proxy_headers=config.console_behind_proxy,
                forwarded_allow_ips=list(config.console_proxies),
                http=patient(config.console_request_s),
                limit_concurrency=config.console_connections_max,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=GOODBYE_S,
                log_config=None,
                access_log=False,
                server_header=False,
                ws="none",
            )
        )
        on_stop_signal(lambda: None)  # uvicorn has its own; at the end it raises the signal again.
        server.run()
    notify_systemd("STOPPING=1")
    log.info("stopped")
