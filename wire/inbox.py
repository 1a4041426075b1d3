"""What waits between other threads and a shell's one thread: bounded in messages and in bytes."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Inbox(Generic[Item]):
    """A first-in-first-out queue with two bounds; a weight of 0 is always let in (connection news must not be lost)."""

    def __init__(self, limit_messages: int = 10_000, limit_bytes: int = 64 * 2**20) -> None:
        self._limit_messages, self._limit_bytes = limit_messages, limit_bytes
        self._items: deque[tuple[Item, int]] = deque()
        self._bytes = 0
        self._woken = False
        self._news = threading.Condition()
        self.refused = 0

    def put(self, item: Item, weight_bytes: int = 0) -> bool:
        """Add an item; False means the queue is full and the item was not taken."""
        with self._news:
            if weight_bytes and self._is_full(weight_bytes):
                self.refused += 1
                return False
            self._items.append((item, weight_bytes))
            self._bytes += weight_bytes
            self._news.notify()
            return True

    def wake(self) -> None:
        """Let ``take`` return at once, with nothing if nothing is there; safe in a signal handler."""
        with self._news:  # A re-entrant lock: the handler may interrupt the very thread that holds it.
            self._woken = True
            self._news.notify()

    def take(self, timeout_s: float | None, most: int = 1, most_bytes: int = 2**63) -> list[Item]:
        """Wait until something is there, at most ``timeout_s``; return up to ``most`` items, oldest first."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        with self._news:
            while not self._items and not self._woken:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return []
                self._news.wait(left)
            self._woken = False
            return self._pop(most, most_bytes)

    def waiting(self) -> tuple[int, int]:
        """Return how many items wait, and how many bytes they are."""
        with self._news:
            return len(self._items), self._bytes

    def _pop(self, most: int, most_bytes: int) -> list[Item]:
        taken: list[Item] = []
        taken_bytes = 0
        while self._items and len(taken) < most and taken_bytes < most_bytes:
            item, weight_bytes = self._items.popleft()
            taken.append(item)
            taken_bytes += weight_bytes
        self._bytes -= taken_bytes
        return taken

    def _is_full(self, weight_bytes: int) -> bool:
        return len(self._items) >= self._limit_messages or self._bytes + weight_bytes > self._limit_bytes
