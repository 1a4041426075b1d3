"""One till at the far end of a slow link: hands receipts over one after the other, or a backlog at once.

``slow_till.py WAY BROKER_URL HTTPS_PORT CA_FILE COUNT live|backlog``; prints how long it took, in seconds. It is run in
the till's network namespace, so that all that it sends goes over the cable.
"""

from __future__ import annotations

import contextlib
import http.client
import ssl
import sys
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from material import bodies
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion
from station import FLEET_KEY

from fleet.loop import Fleet, FleetSettings
from wire.tokens import token_of

TILL = "till-1"
MOST_S = 300.0


def main(way: str, url: str, https_port: str, ca_file: str, count: str, kind: str) -> None:
    """Hand over; ready means connected, and what comes before that is not counted in a live run."""
    receipts = [body for body in bodies(TILL, 2 * int(count)) if b'"transaction_type":"sale"' in body][: int(count)]
    hand_over = WAYS[way](url, int(https_port), ca_file)
    print("ready", flush=True)
    sys.stdin.readline()
    began = time.monotonic()
    hand_over(receipts, kind == "live")
    print(time.monotonic() - began, flush=True)
    sys.stdin.readline()


HandOver = Callable[[list[bytes], bool], None]


def tillstream(url: str, _port: int, ca_file: str) -> HandOver:
    """Use the agent's own parts over one connection; a live receipt is closed when the one before is known stored."""
    fleet = Fleet(FleetSettings(broker_urls=(url,), tls_ca_file=ca_file), lambda till: token_of(FLEET_KEY, till))
    fleet.add_till(TILL)
    assert fleet.run(lambda: fleet.stats().connected == 1, MOST_S)

    def hand_over(receipts: list[bytes], is_live: bool) -> None:
        for body in receipts:
            fleet.close_document(TILL, body)
            if is_live:
                assert fleet.run(lambda: fleet.unsent == 0, MOST_S)
        assert fleet.run(lambda: fleet.unsent == 0, MOST_S)

    return hand_over


def plain_mqtt(url: str, _port: int, ca_file: str) -> HandOver:
    """Publish each receipt as it is by QoS 1."""
    client, broker = Client(CallbackAPIVersion.VERSION2, client_id=TILL), urlsplit(url)
    client.username_pw_set(TILL, token_of(FLEET_KEY, TILL))
    client.tls_set(ca_file)
    client.connect(broker.hostname, broker.port)
    client.loop_start()

    def hand_over(receipts: list[bytes], is_live: bool) -> None:
        sent = []
        for body in receipts:
            sent.append(client.publish(f"till/{TILL}/sales/1", body, qos=1))
            if is_live:
                sent[-1].wait_for_publish(MOST_S)
        for one in sent:
            one.wait_for_publish(MOST_S)

    return hand_over


def post(url: str, port: int, ca_file: str, *, is_kept: bool = True) -> HandOver:
    """POST each receipt by HTTPS, over one kept connection, or each over its own as scripts do."""
    context = ssl.create_default_context(cafile=ca_file)
    kept = http.client.HTTPSConnection(urlsplit(url).hostname, port, context=context, timeout=MOST_S)
    _patiently(kept.connect)

    def hand_over(receipts: list[bytes], _is_live: bool) -> None:
        for body in receipts:
            kept.request("POST", "/receipts", body, {"Content-Type": "application/json"})
            kept.getresponse().read()
            if not is_kept:
                kept.close()

    return hand_over


def _patiently(connect: Callable[[], None]) -> None:
    """Connect as soon as the server listens."""
    end = time.monotonic() + MOST_S
    while time.monotonic() < end:
        with contextlib.suppress(ConnectionRefusedError):
            return connect()
        time.sleep(0.05)
    raise TimeoutError("the endpoint did not come up")


def post_anew(url: str, port: int, ca_file: str) -> HandOver:
    """POST each over a connection of its own."""
    return post(url, port, ca_file, is_kept=False)


WAYS = {"tillstream": tillstream, "plain_mqtt": plain_mqtt, "post": post, "post_anew": post_anew}

if __name__ == "__main__":
    main(*sys.argv[1:])
