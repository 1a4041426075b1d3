"""Who is connected and what is retained; takes each published message to its readers, by the access rules.

Does one thing at a time, never waits: a message is routed before its PUBACK is written, so what was acknowledged
cannot be lost with its publisher's connection.
"""

from __future__ import annotations

import logging
from typing import Protocol

from broker import tokens
from broker.access import may
from broker.certificates import RevokedList, Shown
from broker.codec import Connect, Will
from broker.keyring import DenyList
from broker.outgoing import Total
from broker.packets import SUBSCRIPTION_REFUSED, Message, Published
from broker.routing import Retained, Subscriptions, can_route, shape_of
from broker.settings import BrokerConfig

log = logging.getLogger("tillstream.broker")


class Client(Protocol):
    """What the exchange needs of a connection."""

    user: str
    will: Will | None
    shown: Shown | None

    def offer(self, message: Message, qos: int) -> None:
        """Take a message for the client; ends itself later if that is too much."""

    def end(self, reason: str) -> None:
        """End the connection now; calls `leave` before it returns."""


class Exchange:
    """The one meeting point of all clients."""

    def __init__(
        self, config: BrokerConfig, fleet_key: bytes, deny_list: DenyList, revoked: RevokedList | None = None
    ) -> None:
        self.config = config
        self.total = Total(config.queues_total_max_bytes)
        self._fleet_key = fleet_key
        self._deny_list, self._revoked = deny_list, revoked
        self._clients: dict[str, Client] = {}
        self._subscriptions: Subscriptions[Client] = Subscriptions()
        self._retained = Retained(config.retained_max, config.retained_total_max_bytes)
        self._retained_was_full = False

    def refusal(self, connect: Connect, shown: Shown | None = None) -> str:
        """Return why a client is not let in, or an empty text; touches nothing of a client that has the name."""
        self.refresh_deny_list()
        denied = self._deny_list.names
        if shown:
            is_revoked = self._is_revoked(shown)
            reason = tokens.refusal_of_shown(shown.name, is_revoked, denied, connect.client_id, connect.user)
        elif self.config.takes_tokens:
            reason = tokens.refusal(self._fleet_key, denied, connect.client_id, connect.user, connect.password)
        else:
            reason = "no_certificate"
        if not reason and connect.will and not self._may_publish_will(connect.client_id, connect.will):
            return "will_not_allowed"
        return reason

    def enter(self, client: Client) -> None:
        """Let a client in; a connection that has its name until now ends first, with its will."""
        if former := self._clients.get(client.user):
            former.end("taken_over")
        self._clients[client.user] = client

    def leave(self, client: Client, *, with_will: bool) -> None:
        """Forget a client. One whose name another connection has taken by now takes nothing of that along."""
        self._subscriptions.remove_reader(client)
        if self._clients.get(client.user) is client:
            del self._clients[client.user]
        if with_will and client.will:
            self.publish(client, Published(client.will.message, client.will.retain, 0))

    def publish(self, client: Client, published: Published) -> bool:
        """Take a message to its readers; return False if the client may not publish it (then nobody gets it)."""
        message = published.message
        if not may(client.user, "retain" if published.retain else "publish", message.topic):
            return False
        if published.retain:
            self._keep(client, message)
        for reader, qos in self._subscriptions.readers_of(message.topic).items():
            if may(reader.user, "receive", message.topic):
                reader.offer(message, min(qos, message.qos))
        return True

    def subscribe(self, client: Client, topic_filter: str, qos: int) -> int:
        """Subscribe a client and return the granted quality of service, or that it is refused."""
        room = self._subscriptions.count(client) < self.config.subscriptions_max
        allowed = can_route(topic_filter) and may(client.user, "subscribe", topic_filter)
        if not allowed or not (room or self._subscriptions.has(client, topic_filter)):
            log.info("subscription_refused", extra={"till": client.user, "also": {"filter": topic_filter[:200]}})
            return SUBSCRIPTION_REFUSED
        granted = min(qos, 1)
        self._subscriptions.add(client, topic_filter, granted)
        return granted

    def unsubscribe(self, client: Client, topic_filter: str) -> None:
        """End a client's subscription."""
        self._subscriptions.remove(client, topic_filter)

    def retained_topics(self, client: Client, topic_filter: str) -> list[str]:
        """Return what is retained under a filter and may be received by the client."""
        return [topic for topic in self._retained.topics_of(topic_filter) if may(client.user, "receive", topic)]

    def newest(self, client: Client, topic: str) -> Message | None:
        """Return what a topic retains now, for a client that is still subscribed to it."""
        subscribed = self._subscriptions.has(client, topic) or self._subscriptions.has(client, shape_of(topic))
        return self._retained.newest(topic) if subscribed else None

    def refresh_deny_list(self) -> None:
        """Read the deny list if it changed, and throw out who is on it now."""
        if self._deny_list.refresh():
            for user in self._deny_list.names & self._clients.keys():
                self._clients[user].end("denied")

    def end_who_may_not_stay(self, now_s: float) -> None:
        """Throw out whose certificate was revoked, or has expired, since it was shown."""
        for client in tuple(self._clients.values()):
            if client.shown and self._is_revoked(client.shown):
                client.end("certificate_revoked")
            elif client.shown and client.shown.not_after_s < now_s:
                client.end("certificate_expired")

    def _is_revoked(self, shown: Shown) -> bool:
        return self._revoked is not None and shown.serial in self._revoked.serials

    def _keep(self, client: Client, message: Message) -> None:
        """Retain a message; that there is no room is logged once each time it comes to that."""
        kept = self._retained.keep(message)
        if not kept and not self._retained_was_full:
            log.error("retained_full", extra={"till": client.user, "also": {"topic": message.topic}})
        self._retained_was_full = not kept

    def _may_publish_will(self, user: str, will: Will) -> bool:
        return may(user, "retain" if will.retain else "publish", will.message.topic)
