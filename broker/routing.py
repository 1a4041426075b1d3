"""Which reader a topic goes to, and what is retained: two tables without a scan, however many tills there are.

Pure. Every wildcard filter of the topic table has its one ``+`` in the second place, so a topic finds all its
readers with two look-ups: its own name, and its shape (``till/7/presence`` has the shape ``till/+/presence``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from broker.packets import Message

Reader = TypeVar("Reader")


def shape_of(topic: str) -> str:
    """Return a topic with its second level replaced by ``+``."""
    first, _, rest = topic.partition("/")
    _, slash, tail = rest.partition("/")
    return f"{first}/+{slash}{tail}"


def can_route(topic_filter: str) -> bool:
    """Say whether a filter is a topic or a shape; nothing else can be subscribed to."""
    return not any(sign in topic_filter for sign in "+#") or (
        shape_of(topic_filter) == topic_filter and topic_filter.count("+") == 1 and "#" not in topic_filter
    )


class Subscriptions(Generic[Reader]):
    """Who reads which filter, and with which quality of service."""

    def __init__(self) -> None:
        self._readers: dict[str, dict[Reader, int]] = {}
        self._filters: dict[Reader, set[str]] = {}

    def add(self, reader: Reader, topic_filter: str, qos: int) -> None:
        """Subscribe, or change the quality of service of a subscription."""
        self._readers.setdefault(topic_filter, {})[reader] = qos
        self._filters.setdefault(reader, set()).add(topic_filter)

    def remove(self, reader: Reader, topic_filter: str) -> None:
        """End one subscription; a filter nobody reads any more leaves the table."""
        self._filters.get(reader, set()).discard(topic_filter)
        readers = self._readers.get(topic_filter, {})
        readers.pop(reader, None)
        if not readers:
            self._readers.pop(topic_filter, None)

    def remove_reader(self, reader: Reader) -> None:
        """End all subscriptions of a reader."""
        for topic_filter in tuple(self._filters.get(reader, ())):
            self.remove(reader, topic_filter)
        self._filters.pop(reader, None)

    def count(self, reader: Reader) -> int:
        """Return how many filters a reader is subscribed to."""
        return len(self._filters.get(reader, ()))

    def has(self, reader: Reader, topic_filter: str) -> bool:
        """Say whether a reader is subscribed to a filter."""
        return topic_filter in self._filters.get(reader, ())

    def readers_of(self, topic: str) -> dict[Reader, int]:
        """Return each reader of a topic once, with the highest quality of service of its filters."""
        exact, shaped = self._readers.get(topic), self._readers.get(shape_of(topic))
        if exact is None or shaped is None:
            return dict(exact or shaped or {})
        return {reader: max(exact.get(reader, 0), shaped.get(reader, 0)) for reader in exact | shaped}

    def __len__(self) -> int:
        return len(self._readers)


class Retained:
    """The last retained message of each topic, bounded in number and bytes."""

    def __init__(self, limit: int, limit_bytes: int) -> None:
        self._limit, self._limit_bytes = limit, limit_bytes
        self._messages: dict[str, Message] = {}
        self._by_shape: dict[str, dict[str, None]] = {}
        self._bytes = 0

    def keep(self, message: Message) -> bool:
        """Keep a message as its topic's last one; an empty payload clears the topic.

        Returns False if there is no room: then the topic has none, since an old message would pass for the last.
        """
        self._forget(message.topic)
        if not message.payload:
            return True
        if len(self._messages) >= self._limit or self._bytes + message.size_bytes > self._limit_bytes:
            return False
        self._messages[message.topic] = message
        self._by_shape.setdefault(shape_of(message.topic), {})[message.topic] = None
        self._bytes += message.size_bytes
        return True

    def newest(self, topic: str) -> Message | None:
        """Return what is retained for a topic now."""
        return self._messages.get(topic)

    def topics_of(self, topic_filter: str) -> Iterable[str]:
        """Return the topics that a filter finds something retained for."""
        if "+" in topic_filter:
            return tuple(self._by_shape.get(topic_filter, ()))
        return (topic_filter,) if topic_filter in self._messages else ()

    def _forget(self, topic: str) -> None:
        old = self._messages.pop(topic, None)
        if old is None:
            return
        self._bytes -= old.size_bytes
        shape = shape_of(topic)
        del self._by_shape[shape][topic]
        if not self._by_shape[shape]:
            del self._by_shape[shape]

    def __iter__(self) -> Iterator[str]:
        return iter(self._messages)

    def __len__(self) -> int:
        return len(self._messages)
