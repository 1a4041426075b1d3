"""The authority's one door: enrolment over HTTPS as RFC 7030 (EST) has it, and the list of revoked certificates.

One request a connection, each bounded in size, time and number; nothing here is trusted before the office has looked.
"""

from __future__ import annotations

import base64
import logging
import os
import socket
import ssl
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import ExitStack, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import pkcs7

from wire.files import replace
from wire.program import ConfigError, Watchdog
from wire.tls import told

from .authority import NAME_MAX, RequestError, make_key, name_in, pem_of
from .office import DAY_S, Office, RefusedError, pem, read_certificate

log = logging.getLogger("tillstream.ca")

EST = "/.well-known/est"
CERTIFICATE_FILE, KEY_FILE = "serve.pem", "serve.key"
GOODBYE_S = 2.0
ADDRESSES_MAX = 10_000
_FAILURES = (RequestError, RefusedError, ConfigError)


class Rate:
    """How often each address may ask; times are seconds of a monotonic clock."""

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._asked: dict[str, deque[float]] = {}
        self._lock = threading.Lock()

    def allows(self, address: str, now: float) -> bool:
        """Count one request and say whether it is within the rate."""
        with self._lock:
            if len(self._asked) > ADDRESSES_MAX:
                self._asked = {one: times for one, times in self._asked.items() if now - times[-1] < 60}
            times = self._asked.setdefault(address, deque(maxlen=self._per_minute))
            if len(times) == self._per_minute and now - times[0] < 60:
                return False
            times.append(now)
            return True


class Places:
    """How many connections are open, in all and of each address: nobody takes them all."""

    def __init__(self, most: int, of_address_most: int) -> None:
        self._most, self._of_address_most = most, of_address_most
        self._taken: Counter[str] = Counter()
        self._lock = threading.Lock()

    def take(self, address: str) -> bool:
        """Take a place, and say whether there was one."""
        with self._lock:
            if self._taken.total() >= self._most or self._taken[address] >= self._of_address_most:
                return False
            self._taken[address] += 1
            return True

    def leave(self, address: str) -> None:
        """Give a place back."""
        with self._lock:
            self._taken -= Counter([address])  # Drops those that have none left.

    def __len__(self) -> int:
        """Return how many are taken."""
        with self._lock:
            return self._taken.total()


class Door(ThreadingHTTPServer):
    """Listens; shakes hands in the thread of each connection, so that nobody holds up the others."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, office: Office) -> None:
        self.office, self.config = office, office.config
        self.rate = Rate(self.config.requests_per_minute)
        self.timeout = 0.2
        self.places = Places(self.config.connections_max, self.config.connections_of_address_max)
        self._open: dict[socket.socket, float] = {}
        self.address_family = socket.AF_INET6 if ":" in self.config.address()[0] else socket.AF_INET
        self.context = own_context(office)
        super().__init__(self.config.address(), Answerer)

    @property
    def port(self) -> int:
        """The port that is really listened on."""
        return int(self.server_address[1])

    def turn(self, now: float) -> None:
        """Take what knocks, for a moment at most, and end connections that take too long."""
        self.handle_request()
        for connection, since in tuple(self._open.items()):
            if now - since > self.config.request_timeout_s:
                _shut(connection)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give a connection its thread, if there is a place left."""
        if not self.places.take(client_address[0]):
            self._turn_away(request, client_address, "too_many_connections")
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError as problem:  # The system has no thread left.
            self.places.leave(client_address[0])
            self._turn_away(request, client_address, str(problem))

    def _turn_away(self, request: Any, client_address: Any, reason: str) -> None:
        log.warning("refused", extra={"also": {"reason": reason, "address": client_address[0]}})
        self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Shake hands, answer, hang up; whatever happens, the place is free again."""
        with ExitStack() as ending:
            ending.callback(self.places.leave, client_address[0])
            ending.callback(request.close)
            try:
                request.settimeout(self.config.request_timeout_s)
                request.getpeername()  # Raises if it was reset: wrap_socket would, too, and leave its socket open.
                tls = self.context.wrap_socket(request, server_side=True, do_handshake_on_connect=False)
                ending.callback(self._end, tls)
                self._open[tls] = time.monotonic()
                tls.do_handshake()
                self.finish_request(tls, client_address)
            except (OSError, ValueError) as problem:
                log.warning("refused", extra={"also": {"reason": told(problem), "address": client_address[0]}})
            except Exception:
                log.exception("request_failed")

    def _end(self, tls: ssl.SSLSocket) -> None:
        _hang_up(tls)
        self._open.pop(tls, None)
        tls.close()


class Answerer(BaseHTTPRequestHandler):
    """Answers one request."""

    server: Door
    server_version, sys_version = "tillstream", ""

    def do_GET(self) -> None:
        """Serve what is public: the authority's certificate and the list of revoked ones."""
        if self.path == f"{EST}/cacerts":
            self._answer_certificate(self.server.office.authority.certificate)
        elif self.path == "/crl.pem":
            self._answer(200, "application/x-pem-file", Path(self.server.config.crl_file).read_bytes())
        else:
            self._refuse(404, f"{EST}/cacerts, {EST}/simpleenroll, {EST}/simplereenroll and /crl.pem are served")

    def do_POST(self) -> None:
        """Enrol or renew."""
        if not self.server.rate.allows(self.client_address[0], time.monotonic()):
            self._refuse(429, "too many requests of this address; wait a minute")
            return
        ways = {f"{EST}/simpleenroll": self._enrol, f"{EST}/simplereenroll": self._renew}
        if (way := ways.get(self.path)) is None:
            self._refuse(404, f"{EST}/simpleenroll and {EST}/simplereenroll take requests")
            return
        try:
            way(self._body())
        except _FAILURES as problem:
            self._refuse(401 if isinstance(problem, RefusedError) else 400, str(problem))

    def _enrol(self, body: bytes) -> None:
        name, token = self._login()
        self._answer_certificate(self.server.office.enrol(name, token, body))

    def _renew(self, body: bytes) -> None:
        shown = self.connection.getpeercert(binary_form=True)
        if not shown:
            raise RefusedError("a renewal needs the present certificate: show it in the TLS handshake")
        self._answer_certificate(self.server.office.renew(x509.load_der_x509_certificate(shown), body))

    def _login(self) -> tuple[str, str]:
        scheme, _, given = (self.headers.get("Authorization") or "").partition(" ")
        try:
            name, colon, token = base64.b64decode(given, validate=True).decode().partition(":")
        except ValueError:  # No base64, no ASCII, no UTF-8.
            colon = ""
        if scheme.lower() != "basic" or not colon:
            raise RefusedError("an enrolment needs HTTP Basic authentication: the till id and its token")
        return name, token

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length") or ""
        if not length.isascii() or not length.isdigit() or int(length) > self.server.config.request_limit_bytes:
            raise RequestError(f"a request has a Content-Length, at most {self.server.config.request_limit_bytes}")
        given = self.rfile.read(int(length))
        try:
            return (
                given
                if given.lstrip().startswith(b"-----")
                else base64.b64decode(b"".join(given.split()), validate=True)
            )
        except ValueError as problem:
            raise RequestError(f"the body is no base64: {problem}") from problem

    def _answer_certificate(self, certificate: x509.Certificate) -> None:
        der = pkcs7.serialize_certificates([certificate], serialization.Encoding.DER)
        body = base64.encodebytes(der)
        self._answer(200, "application/pkcs7-mime; smime-type=certs-only", body, base64_encoded=True)

    def _refuse(self, status: int, text: str) -> None:
        name = self._told_name()
        log.warning("refused", extra={"till": name, "also": {"reason": text, "address": self.client_address[0]}})
        self._answer(status, "text/plain; charset=utf-8", f"{text}\n".encode())

    def _told_name(self) -> str:
        shown = self.connection.getpeercert(binary_form=True)
        if shown:
            return name_in(x509.load_der_x509_certificate(shown).subject)
        try:
            return self._login()[0][:64]
        except RefusedError:
            return ""

    def _answer(self, status: int, kind: str, body: bytes, *, base64_encoded: bool = False) -> None:
        self.close_connection = True
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        if base64_encoded:
            self.send_header("Content-Transfer-Encoding", "base64")
        if status == 401:
            self.send_header("WWW-Authenticate", 'Basic realm="tillstream"')
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Log nothing here: what counts is logged where it is decided."""


def own_context(office: Office) -> ssl.SSLContext:
    """Return what the door shakes hands with: a certificate that it makes for itself and keeps fresh."""
    folder = office.config.folder
    path, key_path = folder / CERTIFICATE_FILE, folder / KEY_FILE
    if not _serves(office, path, key_path):
        key = make_key()
        names = office.config.names
        certificate = office.issue_key(names[0][:NAME_MAX], "server", names, key.public_key())
        replace(key_path, pem_of(key), 0o600)
        replace(path, pem(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(path, key_path)
    context.load_verify_locations(cadata=office.authority.pem.decode())
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


def _serves(office: Office, path: Path, key_path: Path) -> bool:
    """Say whether the certificate that is there names what it should and is not due."""
    try:
        certificate = read_certificate(path)
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(path, key_path)
    except (ConfigError, OSError):
        return False
    is_right = office.names_of(certificate) == set(office.config.names) and office.authority.has_signed(certificate)
    return is_right and not office.is_due(certificate)


def _hang_up(connection: ssl.SSLSocket) -> None:
    """Read on until the other side has closed: closing with something unread takes our last word back (TCP resets)."""
    with suppress(OSError, ValueError):
        connection.settimeout(GOODBYE_S)
        socket.socket.shutdown(connection, socket.SHUT_WR)
        while socket.socket.recv(connection, 65_536):
            pass


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # It ended meanwhile.


def serve(office: Office, is_stopping: Callable[[], bool], on_ready: Callable[[int], None]) -> None:
    """Serve until told to stop; the list of revoked certificates and the own certificate are kept fresh meanwhile.

    Raises ConfigError if the list cannot be written: Mosquitto would let nobody in when the present one ends.
    """
    try:
        office.write_revocation_list()
    except OSError as problem:
        raise ConfigError(f"cannot write crl_file, and who serves must own its folder: {problem}") from problem
    with Door(office) as door:
        on_ready(door.port)
        next_at, watchdog = 0.0, Watchdog(os.environ)
        while not is_stopping():
            now = time.monotonic()
            door.turn(now)
            watchdog.turn(now)
            if now >= next_at:
                next_at = now + min(60.0, min(office.config.crl_days, office.config.certificate_days) * DAY_S / 10)
                _keep_fresh(office, door)


def _keep_fresh(office: Office, door: Door) -> None:
    """Renew what is due; what goes wrong is said, holds the other up no more, and is tried again at the next turn."""
    for keep in (_keep_list, _keep_certificate):
        try:
            keep(office, door)
        except Exception:
            log.exception("not_kept_fresh")


def _keep_list(office: Office, _: Door) -> None:
    if office.keep_revocation_list():
        log.info("revocation_list_written", extra={"also": {"path": office.config.crl_file}})


def _keep_certificate(office: Office, door: Door) -> None:
    door.context = own_context(office)
