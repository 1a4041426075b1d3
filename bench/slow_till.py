"""One till at the far end of a slow link: hands receipts over one after the other, or a backlog at once.

``slow_till.py TILL WAY BROKER_URL HTTPS_PORT CA_FILE COUNT live|backlog``; prints how long it took, in seconds, and how
many bytes its connection carried, both ways. It is run in the till's network namespace, so that all that it sends goes
over the cable.
"""

from __future__ import annotations

import contextlib
import http.client
import ssl
import sys
import time
from collections.abc import Callable
from itertools import islice
from typing import Protocol
from urllib.parse import urlsplit

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion
from selling import renamed, sales
from station import FLEET_KEY

from fleet.loop import Fleet, FleetSettings
from fleet.till import link_bytes
from wire.tokens import token_of

MOST_S = 300.0
OUT_OF = 200
"""The receipts are so many; of a run of fewer, each stands for its neighbours: their lengths differ."""


class Way(Protocol):
    """A way to hand receipts over: made when it is connected."""

    def hand_over(self, receipts: list[bytes], *, is_live: bool) -> None:
        """Return when all are known to have arrived."""

    def socket_bytes(self) -> int:
        """Return what the connection has carried so far, both ways, TLS included (tcp(7), TCP_INFO)."""


def main(till: str, way: str, url: str, https_port: str, ca_file: str, count: str, kind: str) -> None:
    """Hand over; ready means connected, and what comes before that is not counted in a live run."""
    receipts = [
        renamed(body, till, number) for number, body in enumerate(islice(sales(), 0, OUT_OF, OUT_OF // int(count)))
    ]
    chosen = WAYS[way](till, url, int(https_port), ca_file)
    print("ready", flush=True)
    sys.stdin.readline()
    began, before = time.monotonic(), chosen.socket_bytes()
    chosen.hand_over(receipts, is_live=kind == "live")
    print(time.monotonic() - began, chosen.socket_bytes() - before, flush=True)
    sys.stdin.readline()


class Tillstream:
    """The agent's own parts over one connection; a live receipt is closed when the one before is known stored."""

    def __init__(self, till: str, url: str, _port: int, ca_file: str) -> None:
        self._till = till
        settings = FleetSettings(broker_urls=(url,), tls_ca_file=ca_file)
        self._fleet = Fleet(settings, lambda name: token_of(FLEET_KEY, name))
        self._fleet.add_till(till)
        assert self._fleet.run(lambda: self._fleet.stats().connected == 1, MOST_S)

    def hand_over(self, receipts: list[bytes], *, is_live: bool) -> None:
        """Close them; the agent rings, and sends what it is asked for."""
        for body in receipts:
            self._fleet.close_document(self._till, body)
            if is_live:
                assert self._fleet.run(lambda: self._fleet.unsent == 0, MOST_S)
        assert self._fleet.run(lambda: self._fleet.unsent == 0, MOST_S)

    def socket_bytes(self) -> int:
        """Return what the fleet counts."""
        stats = self._fleet.stats()
        return stats.sent_bytes + stats.received_bytes


class PlainMqtt:
    """Each receipt as it is, published by QoS 1."""

    def __init__(self, till: str, url: str, _port: int, ca_file: str) -> None:
        self._topic, broker = f"till/{till}/sales/1", urlsplit(url)
        self._client = Client(CallbackAPIVersion.VERSION2, client_id=till)
        self._client.username_pw_set(till, token_of(FLEET_KEY, till))
        self._client.tls_set(ca_file)
        self._client.connect(broker.hostname, broker.port)
        self._client.loop_start()

    def hand_over(self, receipts: list[bytes], *, is_live: bool) -> None:
        """Publish; a live one when the one before is acknowledged."""
        sent = []
        for body in receipts:
            sent.append(self._client.publish(self._topic, body, qos=1))
            if is_live:
                sent[-1].wait_for_publish(MOST_S)
        for one in sent:
            one.wait_for_publish(MOST_S)

    def socket_bytes(self) -> int:
        """Return what its one connection carried."""
        return sum(link_bytes(self._client.socket()))


class Post:
    """A POST by HTTPS for each receipt, over one kept connection."""

    IS_KEPT = True

    def __init__(self, _till: str, url: str, port: int, ca_file: str) -> None:
        context = ssl.create_default_context(cafile=ca_file)
        self._connection = http.client.HTTPSConnection(urlsplit(url).hostname, port, context=context, timeout=MOST_S)
        self._ended_bytes = 0
        _patiently(self._connection.connect)

    def hand_over(self, receipts: list[bytes], *, is_live: bool) -> None:  # noqa: ARG002  # A POST waits in any case.
        """Post one after the other."""
        for body in receipts:
            self._connection.request("POST", "/receipts", body, {"Content-Type": "application/json"})
            self._connection.getresponse().read()
            if not self.IS_KEPT:
                self._ended_bytes += sum(link_bytes(self._connection.sock))
                self._connection.close()

    def socket_bytes(self) -> int:
        """Return what all its connections carried."""
        return self._ended_bytes + sum(link_bytes(self._connection.sock))


class PostAnew(Post):
    """The same over a connection of its own for each, as scripts do; the first has its connection already."""

    IS_KEPT = False


def _patiently(connect: Callable[[], None]) -> None:
    """Connect as soon as the server listens."""
    end = time.monotonic() + MOST_S
    while time.monotonic() < end:
        with contextlib.suppress(ConnectionRefusedError):
            return connect()
        time.sleep(0.05)
    raise TimeoutError("the endpoint did not come up")


WAYS: dict[str, Callable[[str, str, int, str], Way]] = {
    "tillstream": Tillstream,
    "plain_mqtt": PlainMqtt,
    "post": Post,
    "post_anew": PostAnew,
}

if __name__ == "__main__":
    main(*sys.argv[1:])
