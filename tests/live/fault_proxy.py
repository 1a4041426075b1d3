"""Owns what can happen to a TCP connection between two programs: cuts, silence, slowness, refusal; seeded.

A cut falls after a drawn number of bytes, so mostly inside a packet: what came before it is passed on, then both sides
get a reset.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Self

CHUNK_BYTES = 16_384
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with no time: closing sends RST, and drops what is unsent."""


@dataclass
class Weather:
    """What happens to connections; it may change at any time, and counts for all that is read from then on."""

    cut_after_bytes: tuple[int, int] | None = None
    """Between these, evenly by order of magnitude; drawn for each connection when it is made."""
    is_silent: bool = False
    """Half-open: bytes are swallowed and both connections stay up."""
    is_refusing: bool = False
    """New connections are reset at once."""
    delay_s: float = 0.0
    bytes_per_s: float = 0.0
    """0 is as fast as can be."""


class FaultProxy:
    """Listens on a port of its own and passes on to ``target_port``, in a thread of its own."""

    def __init__(self, seed: int, weather: Weather | None = None, target_port: int = 0) -> None:
        self.weather, self.cuts, self.connections = weather or Weather(), 0, 0
        self.target_port, self._rng = target_port, Random(seed)
        self._loop = asyncio.new_event_loop()
        self._pairs: set[_Pair] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._call(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut_all(self) -> int:
        """Reset every connection now; returns how many there were."""
        return self._call(self._cut_all())

    async def _cut_all(self) -> int:
        pairs = list(self._pairs)
        for pair in pairs:
            pair.cut()
        return len(pairs)

    async def _end(self) -> None:
        self._server.close()
        await self._cut_all()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _call(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        _no_delay(writer)
        if self.weather.is_refusing:
            _reset(writer)
            return
        try:
            there = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            _reset(writer)
            return
        pair = _Pair((reader, writer), there, self._draw_bytes(), lambda: self.weather)
        self._pairs.add(pair)
        try:
            was_cut = await pair.carry()
            self.cuts += was_cut  # Not in one line: what stands left of `await` is read before it.
        finally:
            self._pairs.discard(pair)

    def _draw_bytes(self) -> float:
        if self.weather.cut_after_bytes is None:
            return float("inf")
        least, most = self.weather.cut_after_bytes
        return int(least * (most / least) ** self._rng.random())


class _Pair:
    """One connection through the proxy, and how many bytes it has left."""

    def __init__(self, here, there, left_bytes: float, weather: Callable[[], Weather]) -> None:
        self._here, self._there, self._left_bytes, self._weather = here, there, left_bytes, weather
        self._was_cut = False

    async def carry(self) -> bool:
        """Carry bytes both ways until an end closes or the connection is cut; tell whether it was cut."""
        _no_delay(self._there[1])
        ways = [
            asyncio.ensure_future(self._pass_on(self._here[0], self._there[1])),
            asyncio.ensure_future(self._pass_on(self._there[0], self._here[1])),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            for writer in (self._here[1], self._there[1]):
                _reset(writer) if self._was_cut else writer.close()
        return self._was_cut

    def cut(self) -> None:
        self._was_cut = True
        for writer in (self._here[1], self._there[1]):
            _reset(writer)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                weather = self._weather()
                if weather.is_silent:
                    continue
                if weather.delay_s or weather.bytes_per_s:
                    slow_s = len(data) / weather.bytes_per_s if weather.bytes_per_s else 0.0
                    await asyncio.sleep(weather.delay_s + slow_s)
                some = data[: int(min(len(data), self._left_bytes))]
                self._left_bytes -= len(some)
                writer.write(some)
                await writer.drain()
                if self._left_bytes <= 0:
                    self._was_cut = True
                    return


def _no_delay(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _reset(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, AttributeError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()
