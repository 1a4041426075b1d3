"""Owns the byte counter of a demo: a relay between the tills and the broker that counts what passes, and no more."""

from __future__ import annotations

import asyncio
import contextlib
import threading

READ_BYTES = 65_536
START_S = 10.0


class Meter:
    """A relay in a thread of its own. Tills connect to ``port``; both ways are counted in bytes of TCP payload."""

    def __init__(self, broker_port: int) -> None:
        self._broker_port = broker_port
        self.port = 0
        self.up_bytes = self.down_bytes = 0
        self._loop = asyncio.new_event_loop()
        self._listens = threading.Event()
        self._thread = threading.Thread(target=self._run, name="meter", daemon=True)

    @property
    def total_bytes(self) -> int:
        """Return what passed, both ways."""
        return self.up_bytes + self.down_bytes

    def start(self) -> None:
        """Listen on a free port."""
        self._thread.start()
        if not self._listens.wait(START_S):
            raise TimeoutError("the byte counter does not listen")

    def stop(self) -> None:
        """Close everything and end the thread."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(START_S)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._relay, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._listens.set()
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _relay(self, till: asyncio.StreamReader, to_till: asyncio.StreamWriter) -> None:
        """Relay one connection until either side ends it; a broker that is down ends it at once."""
        with contextlib.suppress(OSError, asyncio.CancelledError):
            broker, to_broker = await asyncio.open_connection("127.0.0.1", self._broker_port)
            up = asyncio.ensure_future(self._pump(till, to_broker, is_up=True))
            down = asyncio.ensure_future(self._pump(broker, to_till, is_up=False))
            try:
                await asyncio.wait((up, down), return_when=asyncio.FIRST_COMPLETED)
            finally:
                up.cancel()
                down.cancel()
                to_broker.close()
        to_till.close()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, is_up: bool) -> None:
        with contextlib.suppress(OSError):
            while passed := await source.read(READ_BYTES):
                if is_up:
                    self.up_bytes += len(passed)
                else:
                    self.down_bytes += len(passed)
                sink.write(passed)
                await sink.drain()
