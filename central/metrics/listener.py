"""Answers ``/metrics``, ``/healthz`` and ``/readyz`` beside a worker, from one thread of its own."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from wire.program import ConfigError

log = logging.getLogger("tillstream.central")

TEXT, JSON = "text/plain; version=0.0.4; charset=utf-8", "application/json"
Answer = tuple[int, str, bytes]
"""HTTP status, content type, body."""
Answers = Mapping[str, Callable[[], Answer]]


def as_json(told: tuple[int, Any]) -> Answer:
    """Return a status and what is said with it as an answer."""
    status, body = told
    return status, JSON, json.dumps(body).encode() + b"\n"


class Listener:
    """One small HTTP server: one request after the other, each within a time limit."""

    def __init__(self, address: tuple[str, int], timeout_s: float, answers: Answers) -> None:
        """Listen; raises ConfigError that names the key if the address cannot be had."""
        try:
            self._server = _Server(address, _handler_of(timeout_s, answers))
        except OSError as problem:
            where = f"{address[0]}:{address[1]}"
            raise ConfigError(f"metrics_listen = {where}: {problem.strerror or problem}") from problem
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)

    @property
    def address(self) -> tuple[str, int]:
        """Return host and port that are really listened on."""
        host, port = self._server.server_address[:2]
        return str(host), int(port)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()
        host, port = self.address
        log.info("metrics_listening", extra={"also": {"host": host, "port": port}})

    def stop(self) -> None:
        """Stop answering and let go of the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(HTTPServer):
    """Binds an address of either family; what goes wrong with one who asks is his matter."""

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        if ":" in address[0]:
            import socket

            self.address_family = socket.AF_INET6
        super().__init__(address, handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: whoever asked went away, or took too long."""


def _handler_of(timeout_s: float, answers: Answers) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = timeout_s
        server_version = "tillstream"
        sys_version = ""

        def do_GET(self) -> None:
            asked = answers.get(self.path.partition("?")[0])
            status, kind, body = asked() if asked else (404, JSON, _served(answers))
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815 -- as above

        def log_message(self, *_: object) -> None:  # What monitoring asks every few seconds is no news.
            pass

    return Handler


def _served(answers: Answers) -> bytes:
    return json.dumps({"detail": f"served here: {', '.join(answers)}"}).encode() + b"\n"
