"""What waits for one reader: the window of unacknowledged messages, the bounded queue behind it, retained ones on call.

Knows no socket: it is told when there is room and given something to write to. Sessions are always clean, so a message
that was written needs no copy here; only its packet id stays taken until the PUBACK, however late that comes.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from broker.packets import Message, publish_packet

LAST_PACKET_ID = 65_535


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much may wait for one reader."""

    inflight: int
    messages: int
    bytes: int


class Total:
    """What waits for all readers together, in bytes."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0


class Outgoing:
    """Writes messages to one reader in order, at most a window of them unacknowledged."""

    def __init__(
        self,
        bounds: Bounds,
        total: Total,
        write: Callable[[bytes], None],
        is_full: Callable[[], bool],
        newest: Callable[[str], Message | None],
    ) -> None:
        self._bounds, self._total = bounds, total
        self._write, self._is_full, self._newest = write, is_full, newest
        self._inflight: set[int] = set()
        self._waiting: deque[tuple[Message, int]] = deque()
        self._waiting_bytes = 0
        self._retained: OrderedDict[str, int] = OrderedDict()
        self._packet_id = 0

    @property
    def has_waiting(self) -> bool:
        """Say whether anything waits for room."""
        return bool(self._waiting or self._retained)

    def offer(self, message: Message, qos: int) -> bool:
        """Write a message now or keep it for later; return False if a bound leaves no room for it."""
        if not self._waiting and not self._retained and self._has_room():
            self._send(message, qos, retain=False)
            return True
        size = message.size_bytes
        if len(self._waiting) >= self._bounds.messages or self._waiting_bytes + size > self._bounds.bytes:
            return False
        if self._total.used_bytes + size > self._total.limit_bytes:
            return False
        self._waiting.append((message, qos))
        self._count(size)
        return True

    def call_up(self, topics: Iterable[str], qos: int) -> None:
        """Write what is retained for these topics, each when there is room for it and as it is by then.

        Only names wait here, so that ten thousand retained doorbells at once fill no queue.
        """
        self._retained.update(dict.fromkeys(topics, qos))
        self.pump()

    def acknowledged(self, packet_id: int) -> None:
        """Take a PUBACK; one for an unknown packet id means nothing."""
        self._inflight.discard(packet_id)
        self.pump()

    def pump(self) -> None:
        """Write what waits for as long as there is room: first what is retained, then the queue."""
        while self._retained and self._has_room():
            topic, qos = self._retained.popitem(last=False)
            if message := self._newest(topic):
                self._send(message, min(qos, message.qos), retain=True)
        while self._waiting and not self._retained and self._has_room():
            message, qos = self._waiting.popleft()
            self._count(-message.size_bytes)
            self._send(message, qos, retain=False)

    def clear(self) -> None:
        """Give up all that waits."""
        self._count(-self._waiting_bytes)
        self._waiting.clear()
        self._retained.clear()
        self._inflight.clear()

    def _has_room(self) -> bool:
        return len(self._inflight) < self._bounds.inflight and not self._is_full()

    def _send(self, message: Message, qos: int, *, retain: bool) -> None:
        packet_id = self._take_packet_id() if qos else 0
        self._write(publish_packet(message, qos, packet_id, retain=retain))

    def _take_packet_id(self) -> int:
        """Return the next free packet id; the window is far below their number, so there is always one."""
        while True:
            self._packet_id = self._packet_id % LAST_PACKET_ID + 1
            if self._packet_id not in self._inflight:
                self._inflight.add(self._packet_id)
                return self._packet_id

    def _count(self, size: int) -> None:
        self._waiting_bytes += size
        self._total.used_bytes += size
