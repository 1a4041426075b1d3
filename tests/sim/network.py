"""A broker and links that lose, repeat, delay and cut, by named faults; nothing in it is durable."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

from wire.link import Acknowledged, Connected, Disconnected, Received


@dataclass(frozen=True)
class Faults:
    """What goes wrong, as probabilities and counts; delays in seconds."""

    loss: float = 0.25
    duplicate: float = 0.20
    delay_least_s: float = 0.01
    delay_most_s: float = 3.0
    cut: float = 0.01
    till_crashes: int = 1
    central_crashes: int = 2
    broker_wipes: int = 1
    crash_at_step: float = 0.01

    def calm(self) -> Faults:
        """Return the same network when it has stopped raining."""
        return Faults(0, 0, self.delay_least_s, 0.05, 0, 0, 0, 0, 0)


class CrashError(BaseException):
    """The process ends here: only what was durable is left."""


@dataclass
class SimLink:
    """What an agent or a subscriber holds instead of a connection."""

    client: str
    broker: SimBroker
    filters: tuple[str, ...]
    deliver: object = None
    generation: int = 0
    is_up: bool = False
    next_mid: int = 0
    will: object = None

    def publish(self, topic, payload, *, retain=False):
        self.broker.world.maybe_crash(self.client)
        if not self.is_up:
            return None
        self.next_mid += 1
        self.broker.publish(self, topic, payload, self.next_mid, retain)
        return self.next_mid

    def acknowledge(self, received):
        self.broker.world.maybe_crash(self.client)

    def reconnect(self, reason):
        self.broker.cut(self, reason)


@dataclass
class SimBroker:
    """Clean sessions, retained messages and wills: all the protocol asks of a broker."""

    world: object
    links: dict[str, SimLink] = field(default_factory=dict)
    retained: dict[str, bytes] = field(default_factory=dict)
    clients: dict[str, SimLink] = field(default_factory=dict)
    readers: dict[str, list[str]] = field(default_factory=dict)

    def link(self, client, filters):
        link = self.clients[client] = SimLink(client, self, filters)
        return link

    def connect(self, link):
        """Let a client in after a while; its retained messages follow."""
        link.generation += 1
        self.world.after(self.world.delay(), self._connected, link, link.generation)

    def _connected(self, link, generation):
        if link.generation != generation or link.deliver is None:
            return
        link.is_up = True
        self.links[link.client] = link
        link.deliver(Connected(generation))
        for topic, payload in sorted(self.retained.items()):
            if self._reads(link, topic):
                self._send(link, topic, payload, retained=True)

    def cut(self, link, reason="cut"):
        if not link.is_up:
            return
        link.is_up = False
        self.links.pop(link.client, None)
        self.world.count("cut")
        if link.will:
            topic, payload = link.will()
            self._route(topic, payload, retain=True)
        if link.deliver:
            link.deliver(Disconnected(link.generation, reason))
            self.world.after(1 + self.world.delay(), self.connect, link)

    def publish(self, link, topic, payload, mid, retain):
        if self.world.chance("cut"):
            self.world.after(0, self.cut, link)
            return
        self.world.after(self.world.delay(), self._give, link, Acknowledged(link.generation, mid))
        self._route(topic, payload, retain)

    def _give(self, link, event):
        if link.is_up and link.generation == event.generation:
            link.deliver(event)

    def _route(self, topic, payload, retain):
        if retain and not self.world.chance("loss"):
            self.retained[topic] = payload
        if topic not in self.readers:
            self.readers[topic] = [name for name in sorted(self.clients) if self._reads(self.clients[name], topic)]
        for name in self.readers[topic]:
            if name in self.links:
                self._send(self.links[name], topic, payload, retained=False)

    def _reads(self, link, topic):
        return any(matches(one, topic) for one in link.filters)

    def _send(self, link, topic, payload, *, retained):
        if self.world.chance("loss"):
            return
        copies = 2 if self.world.chance("duplicate") else 1
        for _ in range(copies):
            event = Received(link.generation, 1, topic, payload, retained)
            self.world.after(self.world.delay(), self._give, link, event)

    def wipe(self):
        """Lose everything a broker may lose, connections included."""
        self.retained.clear()
        for link in list(self.links.values()):
            self.cut(link, "the broker was wiped")


@cache
def matches(wanted, topic):
    """Compare level by level; only ``+`` is used by this protocol."""
    ours, theirs = wanted.split("/"), topic.split("/")
    return len(ours) == len(theirs) and all(a in ("+", b) for a, b in zip(ours, theirs, strict=True))
