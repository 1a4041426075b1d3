"""What every answer carries and no request may exceed: security headers, validators (ETag), the limit of a body."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'self';"
    " object-src 'none'"
)
"""No inline script and no inline style, and nothing from any other host."""

ALWAYS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
HSTS_S = 31_536_000

TAGGED_MAX_BYTES = 4 * 2**20
"""A longer answer goes out as it is made, without an ETag."""


class SafeHeaders:
    """Adds the headers; pages are kept by nobody but the browser, and asked for again each time."""

    def __init__(self, app: ASGIApp, *, over_tls: bool) -> None:
        self._app = app
        self._always = dict(ALWAYS)
        if over_tls:
            self._always["Strict-Transport-Security"] = f"max-age={HSTS_S}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, with the headers added to the beginning of the answer."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(self._always)
                headers.setdefault("Cache-Control", "private, no-cache")
            await send(message)

        await self._app(scope, receive, with_headers if scope["type"] == "http" else send)


class Validators:
    """Gives what is read an ETag, and answers 304 to whoever has it: most of what a page polls for is as before."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hold an answer back until it is whole, or too long."""
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
            await self._app(scope, receive, send)
            return
        answer = _Answer(Headers(scope=scope).get("if-none-match", ""), send)
        await self._app(scope, receive, answer.take)


class _Answer:
    def __init__(self, known: str, send: Send) -> None:
        self._known, self._send = known, send
        self._start: Message | None = None
        self._parts: list[bytes] = []
        self._size_bytes = 0

    async def take(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if message["status"] != 200 or "etag" in Headers(raw=message["headers"]):
                await self._send(message)
            else:
                self._start = message
            return
        if self._start is None or message["type"] != "http.response.body":
            await self._send(message)
            return
        self._parts.append(message.get("body", b""))
        self._size_bytes += len(self._parts[-1])
        if self._size_bytes > TAGGED_MAX_BYTES:
            await self._flush(self._start, more=message.get("more_body", False))
        elif not message.get("more_body", False):
            await self._end(self._start)

    async def _flush(self, start: Message, *, more: bool) -> None:
        self._start = None
        await self._send(start)
        await self._send({"type": "http.response.body", "body": b"".join(self._parts), "more_body": more})

    async def _end(self, start: Message) -> None:
        digest = hashlib.blake2b(b"".join(self._parts), digest_size=16).hexdigest()
        headers = MutableHeaders(scope=start)
        headers["ETag"] = tag = f'"{digest}"'
        if tag not in _named(self._known) and self._known.strip() != "*":
            await self._flush(start, more=False)
            return
        for name in ("content-length", "content-type"):
            del headers[name]
        await self._send({**start, "status": 304})
        await self._send({"type": "http.response.body", "body": b""})


def _named(known: str) -> Iterable[str]:
    return (one.strip().removeprefix("W/") for one in known.split(","))


class BodyLimit:
    """Refuses a request whose body is longer than the limit, before the memory is spent."""

    def __init__(self, app: ASGIApp, limit_bytes: int) -> None:
        self._app, self._limit_bytes = app, limit_bytes
        self._detail = f"a request may have {limit_bytes} bytes (console_request_limit_bytes)"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on with a receive that counts."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        said = Headers(scope=scope).get("content-length", "0")
        if not said.isdecimal() or int(said) > self._limit_bytes:
            await self._refuse(send)
            return
        await self._app(scope, self._counted(receive), send)

    def _counted(self, receive: Receive) -> Receive:
        left = self._limit_bytes

        async def counted() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise HTTPException(413, self._detail)
            return message

        return counted

    async def _refuse(self, send: Send) -> None:
        title = HTTPStatus(413).phrase
        told = {"type": "urn:tillstream:problem:too_long", "title": title, "status": 413, "detail": self._detail}
        text = json.dumps(told).encode()
        head = [(b"content-type", b"application/problem+json"), (b"content-length", str(len(text)).encode())]
        await send({"type": "http.response.start", "status": 413, "headers": [*head, (b"connection", b"close")]})
        await send({"type": "http.response.body", "body": text})
