"""A broker and links that lose, repeat, delay, reorder and cut, by named faults; nothing in it is durable."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from functools import cache

from wire.link import Acknowledged, Backoff, Connected, Disconnected, Received

UNDO_MAX = 30


class CrashError(BaseException):
    """The process ends here: only what was durable is left."""


@dataclass(eq=False)
class SimLink:
    """What an agent or a subscriber holds instead of a connection. Two machines may have the same client id."""

    client: str
    broker: SimBroker
    filters: tuple[str, ...]
    wants_acks: bool
    deliver: object = None
    generation: int = 0
    life: int = 0
    """Which life of its process this is: what an earlier one had planned is over."""
    is_up: bool = False
    is_half_open: bool = False
    no_way_until: float = 0.0
    next_mid: int = 0
    will: object = None
    backoff: Backoff | None = None
    up_since: float = 0.0
    sent: int = 0
    seen: int = 0

    def publish(self, topic, payload, *, retain=False):
        self.broker.world.maybe_crash(self)
        if not self.is_up:
            return None
        self.next_mid += 1
        self.broker.publish(self, topic, payload, self.next_mid, retain)
        return self.next_mid

    def acknowledge(self, received):
        self.broker.world.maybe_crash(self)

    def reconnect(self, reason):
        self.broker.cut(self, reason)


@dataclass
class SimBroker:
    """Clean sessions, retained messages, wills and take-overs: all the protocol asks of a broker."""

    world: object
    links: dict[str, SimLink] = field(default_factory=dict)
    retained: dict[str, bytes] = field(default_factory=dict)
    clients: list[SimLink] = field(default_factory=list)
    down_until: float = 0.0
    _readers: dict[str, list[str]] = field(default_factory=dict)
    _undo: deque = field(default_factory=lambda: deque(maxlen=UNDO_MAX))

    def link(self, client, filters, *, wants_acks):
        link = SimLink(client, self, filters, wants_acks)
        self.clients.append(link)
        self._readers.clear()
        return link

    # -- Connections -----------------------------------------------------------------------------------------------

    def connect(self, link, life):
        """Let a client in after a while; its retained messages follow."""
        if link.life != life:
            return
        link.generation += 1
        self.world.after(self.world.delay(), self._connected, link, link.generation)

    def _connected(self, link, generation):
        if link.generation != generation or link.deliver is None:
            return
        if self.world.now < max(self.down_until, link.no_way_until):
            self._again(link, 0.0)
            return
        if other := self.links.get(link.client):
            self.world.count("taken over")
            self.cut(other, "taken over")
        link.is_up, link.is_half_open, link.up_since, link.next_mid = True, False, self.world.now, 0
        self.links[link.client] = link
        link.deliver(Connected(generation))
        for topic, payload in sorted(self.retained.items()):
            if self._reads(link, topic):
                self._send(link, topic, payload, retained=True)

    def _again(self, link, lived_s):
        self.world.after(link.backoff.after(lived_s), self.connect, link, link.life)

    def cut(self, link, reason="cut"):
        if not link.is_up:
            return
        link.is_up = link.is_half_open = False
        if self.links.get(link.client) is link:
            del self.links[link.client]
        self.world.count("cut")
        if link.will:
            topic, payload = link.will()
            self._route(topic, payload, retain=True)
        if link.deliver:
            link.deliver(Disconnected(link.generation, reason))
            self._again(link, self.world.now - link.up_since)

    def half_open(self, link, for_s):
        """Swallow all that goes either way; both ends find out when nothing has been heard for long enough."""
        if link.is_up:
            link.is_half_open = True
            self.world.after(for_s, self._found_out, link, link.generation)

    def _found_out(self, link, generation):
        if link.is_half_open and link.generation == generation:
            self.cut(link, "unheard of")

    # -- Messages --------------------------------------------------------------------------------------------------

    def publish(self, link, topic, payload, mid, retain):
        world = self.world
        if link.is_half_open:
            world.count("swallowed")
            return
        if world.chance("cut"):
            world.after(0, self.cut, link)
            return
        is_lost = world.chance("loss")
        # PUBACK proves nothing: half of what is lost has one.
        if link.wants_acks and not (is_lost and world.rng.random() < 0.5):
            world.after(world.delay(), self._acknowledge, link, link.life, Acknowledged(link.generation, mid))
        if not is_lost:
            self._route(topic, payload, retain)

    def _acknowledge(self, link, life, event):
        """Deliver PUBACK, of an earlier connection, too: the thread of an old one may still have it."""
        if link.is_up and link.life == life and not link.is_half_open:
            link.deliver(event)

    def _give(self, link, event, number):
        if not link.is_up or link.generation != event.generation:
            return
        if link.is_half_open:
            self.world.count("swallowed")
            return
        if number < link.seen:
            self.world.count("reorder")
        link.seen = max(link.seen, number)
        link.deliver(replace(event, at=self.world.now))

    def _route(self, topic, payload, retain):
        if retain:
            self._undo.append((topic, self.retained.get(topic)))
            self.retained[topic] = payload
        readers = self._readers.get(topic)
        if readers is None:
            names = {link.client for link in self.clients if self._reads(link, topic)}
            readers = self._readers[topic] = sorted(names)
        for name in readers:
            if link := self.links.get(name):
                self._send(link, topic, payload, retained=False)

    def _reads(self, link, topic):
        return any(matches(one, topic) for one in link.filters)

    def _send(self, link, topic, payload, *, retained):
        world = self.world
        if world.chance("loss"):
            return
        link.sent += 1
        event = Received(link.generation, 1, topic, payload, retained, at=0.0)
        world.after(world.delay(), self._give, link, event, link.sent)
        while world.chance("duplicate"):
            world.after(world.delay(), self._give, link, event, link.sent)

    # -- The broker itself -----------------------------------------------------------------------------------------

    def wipe(self):
        """Lose everything a broker may lose, connections included."""
        self.retained.clear()
        self.restart()

    def roll_back(self):
        """Come back with the retained messages of a while ago: the last ones were never on its disk."""
        for _ in range(self.world.rng.randint(1, UNDO_MAX)):
            if self._undo:
                topic, before = self._undo.pop()
                self.retained.pop(topic, None)
                if before is not None:
                    self.retained[topic] = before
        self.restart()

    def restart(self):
        """End all connections; whoever comes back waits until the broker is there."""
        self.down_until = self.world.now + self.world.rng.uniform(0, 5)
        for link in list(self.links.values()):
            self.cut(link, "the broker went down")


@cache
def matches(wanted, topic):
    """Compare level by level; only ``+`` is used by this protocol."""
    ours, theirs = wanted.split("/"), topic.split("/")
    return len(ours) == len(theirs) and all(a in ("+", b) for a, b in zip(ours, theirs, strict=True))
