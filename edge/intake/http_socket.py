"""The socket that takes documents: HTTP/1.1 on a Unix socket, so that any language and ``curl`` can hand over.

``POST /documents`` answers when the document is durable: 201 with its sequence, 200 if it already stood there, 202 if
a numbered stub took its place because it is oversize. Errors are ``application/problem+json`` (RFC 9457).
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import socketserver
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Answer:
    """What an HTTP client is told."""

    status: int
    body: dict[str, Any]


LENGTH_DIGITS = 15
READ_BYTES = 65_536
STOP_WITHIN_S = 1.0
"""How often the socket's thread looks whether it should end; each look is a wake-up of an idle till."""

Stop = Callable[[], None]
Ask = Callable[[str, str, bytes], Answer]
"""Takes method, path and body, from any thread; answers when what was asked is done."""


def problem(status: int, title: str, detail: str) -> Answer:
    """Return a problem as RFC 9457 has it."""
    return Answer(status, {"type": "about:blank", "title": title, "status": status, "detail": detail})


@dataclass(frozen=True, slots=True)
class SocketLimits:
    """Bounds of the socket."""

    connections: int
    timeout_s: float
    body_bytes: int


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, path: Path, ask: Ask, limits: SocketLimits) -> None:
        self.ask, self.limits = ask, limits
        self._room = threading.BoundedSemaphore(limits.connections)
        super().__init__(str(path), _Connection)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Wait for room: further clients wait in the socket's backlog, not in threads of ours."""
        self._room.acquire()
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client that went away is its own business."""


class _Connection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        self.request.settimeout(self.server.limits.timeout_s)
        super().setup()

    def do_GET(self) -> None:
        self._send(self.server.ask("GET", self.path, b""))

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdigit():
            self._refuse(problem(411, "Length required", "send Content-Length; chunked bodies are not read"))
        elif len(length) > LENGTH_DIGITS or int(length) > self.server.limits.body_bytes:
            limit = self.server.limits.body_bytes
            self._refuse(problem(413, "Too large", f"{length[:20]} bytes; intake_limit_bytes is {limit}"))
        else:
            self._take(int(length))

    def _take(self, length: int) -> None:
        body = self.rfile.read(length)
        if len(body) < length:
            self.close_connection = True  # The client went away in the middle: half a document is none.
            return
        self._send(self.server.ask("POST", self.path, body))

    def _refuse(self, answer: Answer) -> None:
        """Answer before the body is read, and close; what a client sends all the same is dropped, within a bound."""
        self.close_connection = True
        self._send(answer)
        dropped = 0
        while dropped < self.server.limits.body_bytes * 4 and (some := self.rfile.read1(READ_BYTES)):
            dropped += len(some)

    def _send(self, answer: Answer) -> None:
        # A file's name may be no UTF-8; as an escape it can be told all the same.
        body = json.dumps(answer.body, ensure_ascii=False).encode("utf-8", "backslashreplace")
        self.send_response(answer.status)
        self.send_header("Content-Type", "application/json" if answer.status < 400 else "application/problem+json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the base class names it so
        """Log nothing: the agent logs what it does."""


class UnixConnection(http.client.HTTPConnection):
    """The other end: HTTP over the agent's socket, for our own commands and for POS software in Python."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket; raises OSError where nobody listens."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def listen(path: Path, ask: Ask, limits: SocketLimits, group_id: int | None) -> Stop:
    """Serve the socket from threads (mode 0660, the POS's group); return a function that stops it."""
    path.unlink(missing_ok=True)
    server = _Server(path, ask, limits)
    path.chmod(0o660)
    if group_id is not None:
        os.chown(path, -1, group_id)
    threading.Thread(target=server.serve_forever, args=(STOP_WITHIN_S,), name="intake", daemon=True).start()

    def stop() -> None:
        server.shutdown()
        server.server_close()
        path.unlink(missing_ok=True)

    return stop
