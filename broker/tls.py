"""The TLS side of the embedded broker: files that may change while it runs, and handshakes that say why they failed."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from broker.certificates import RevokedList
from broker.settings import BrokerConfig
from wire.program import ConfigError
from wire.tls import SPEAKS_PLAIN, told

log = logging.getLogger("tillstream.broker")

ACCEPT_AGAIN_S = 1.0
_failures: ContextVar[list[ssl.SSLError]] = ContextVar("failures")

OnConnection = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Frank(ssl.SSLObject):
    """Tells the client why it is refused before it fails.

    asyncio drops the connection at the error, and with it the alert that OpenSSL has just written for the client. So
    the first failure looks like a wait for more: asyncio then sends what there is, and the next turn fails.
    """

    _problem: ssl.SSLError | None = None

    def do_handshake(self) -> None:
        """Shake hands; keeps the failure for whoever waits."""
        if self._problem:
            raise self._problem
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as problem:
            _failures.get([]).append(problem)
            if problem.reason in SPEAKS_PLAIN or "ALERT" in (problem.reason or ""):
                raise  # Who speaks no TLS reads no alert; who sent one waits for none.
            self._problem = problem
            raise ssl.SSLWantReadError from problem


class ServerTls:
    """The broker's certificate, the authority whose clients it believes, and what that authority took back."""

    def __init__(self, config: BrokerConfig, now_s: float) -> None:
        self._config = config
        self.revoked: RevokedList | None = None
        if config.revocation_list_file and config.tls_ca_file:
            self.revoked = RevokedList(Path(config.revocation_list_file), Path(config.tls_ca_file))
            self.revoked.load()
        self._made_of: object = None
        self._complained = ""
        try:
            self.context = self._make(is_crl_current=self.revoked is not None and self.revoked.is_current(now_s))
        except (OSError, ValueError) as problem:
            raise ConfigError(f"cannot use the TLS files: {told(problem)}") from problem

    def refresh(self, now_s: float) -> None:
        """Read the files anew if one changed. Files that do not fit together (yet) leave everything as it was."""
        if self.revoked:
            self.revoked.refresh(now_s)
        is_crl_current = self.revoked is not None and self.revoked.is_current(now_s)
        try:
            if (made_of := (self._state(), is_crl_current)) != self._made_of:
                self.context, self._made_of = self._make(is_crl_current=is_crl_current), made_of
                self._complained = ""
        except (OSError, ValueError) as problem:
            if self._complained != (text := told(problem)):
                log.error("tls_files_unusable", extra={"also": {"problem": text}})  # noqa: TRY400
            self._complained = text

    def _state(self) -> list[tuple[int, int]]:
        config = self._config
        files = (config.tls_cert_file, config.tls_key_file, config.tls_ca_file, config.revocation_list_file)
        states = [Path(file).stat() for file in files if file]
        return [(state.st_mtime_ns, state.st_ino) for state in states]

    def _make(self, *, is_crl_current: bool) -> ssl.SSLContext:
        """Return a context. A list that is not current is left out: OpenSSL would refuse everybody by it."""
        config, context = self._config, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.sslobject_class = Frank
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(config.tls_cert_file or "", config.tls_key_file, password=lambda: b"")
        if config.tls_ca_file:
            context.load_verify_locations(cafile=config.tls_ca_file)
            context.verify_mode = ssl.CERT_OPTIONAL if config.takes_tokens else ssl.CERT_REQUIRED
        if is_crl_current:
            context.load_verify_locations(cafile=config.revocation_list_file)
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        return context


class TlsListener:
    """Listens, and shakes hands itself: asyncio's own server tells nobody why a handshake failed, or with whom."""

    def __init__(self, config: BrokerConfig, tls: ServerTls, on_connection: OnConnection, backlog: int) -> None:
        self._config, self._tls, self._on_connection, self._backlog = config, tls, on_connection, backlog
        self.sockets: list[socket.socket] = []
        self._accepting: list[asyncio.Task[None]] = []
        self._shaking: set[asyncio.Task[None]] = set()

    async def start(self, host: str, port: int) -> None:
        """Listen at every address that the host has."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, address in dict.fromkeys((one[0], one[4][:2]) for one in found):
            listening = socket.create_server((str(address[0]), int(address[1])), family=family, backlog=self._backlog)
            listening.setblocking(False)
            self.sockets.append(listening)
            self._accepting.append(loop.create_task(self._accept(listening)))

    def close(self) -> None:
        """Take no new connection; those that shake hands yet are let go."""
        for task in (*self._accepting, *self._shaking):
            task.cancel()
        for listening in self.sockets:
            listening.close()

    async def wait_closed(self) -> None:
        """Nothing is left to wait for."""

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(listening)
            except OSError as problem:  # Out of descriptors, mostly: there are some again when others have gone.
                log.error("accept_failed", extra={"also": {"problem": str(problem)}})  # noqa: TRY400
                await asyncio.sleep(ACCEPT_AGAIN_S)
                continue
            if len(self._shaking) >= self._config.connections_max:
                connection.close()
                continue
            task = loop.create_task(self._take(connection, f"{address[0]}:{address[1]}"))
            self._shaking.add(task)
            task.add_done_callback(self._shaking.discard)

    async def _take(self, connection: socket.socket, address: str) -> None:
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        transport = await self._shake_hands(connection, protocol, address)
        if transport is None:
            return
        if (task := asyncio.current_task()) is not None:
            self._shaking.discard(task)  # From here on it is a connection, and counted as one.
        await self._on_connection(reader, asyncio.StreamWriter(transport, protocol, reader, asyncio.get_running_loop()))

    async def _shake_hands(
        self, connection: socket.socket, protocol: asyncio.StreamReaderProtocol, address: str
    ) -> asyncio.Transport | None:
        failures: list[ssl.SSLError] = []
        _failures.set(failures)
        loop, within_s = asyncio.get_running_loop(), self._config.connect_timeout_s
        try:
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol, connection, ssl=self._tls.context, ssl_handshake_timeout=within_s
            )
        except OSError as problem:
            _log_refused(failures[0] if failures else problem, address)
            return None
        return transport


def _log_refused(problem: OSError, address: str) -> None:
    """Tell why a handshake failed; one that was only broken off is no refusal."""
    if isinstance(problem, ConnectionResetError | ssl.SSLEOFError):
        return
    text, reason = told(problem), getattr(problem, "reason", None) or ""
    if reason in SPEAKS_PLAIN:
        text = f"plain bytes at a TLS port ({text})"
    elif "ALERT" in reason:
        text = f"the client does not accept this broker's certificate: {text}"
    elif isinstance(problem, ConnectionAbortedError):
        text = "no_handshake"
    also: dict[str, Any] = {"reason": text, "address": address}
    log.warning("refused", extra={"also": also})
