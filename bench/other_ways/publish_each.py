"""A till's script: publish each receipt of a file by MQTT QoS 1. ``publish_each.py PORT FILE``."""

from __future__ import annotations

import sys
from pathlib import Path

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion


def main(port: str, receipts: str) -> None:
    """Publish, wait for every PUBACK, and say goodbye; paho connects again by itself."""
    client = Client(CallbackAPIVersion.VERSION2, client_id=Path(receipts).stem)
    client.max_queued_messages_set(0)
    client.connect("127.0.0.1", int(port))
    client.loop_start()
    sent = [client.publish("receipts", line, qos=1) for line in Path(receipts).read_bytes().splitlines()]
    for one in sent:
        one.wait_for_publish()
    client.disconnect()


main(*sys.argv[1:])
