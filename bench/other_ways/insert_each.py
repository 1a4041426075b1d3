"""A server's script: insert each receipt that comes by MQTT. ``insert_each.py PORT DATABASE``."""

from __future__ import annotations

import sys

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from other_ways.table import Table


def main(port: str, database: str) -> None:
    """Subscribe with QoS 1 whenever connected; paho acknowledges when the callback has returned."""
    table = Table(database)
    client = Client(CallbackAPIVersion.VERSION2, client_id="server", clean_session=False)
    client.on_connect = lambda *_: client.subscribe("receipts", qos=1)
    client.on_message = lambda _client, _userdata, message: table.insert(message.payload)
    client.connect("127.0.0.1", int(port))
    client.loop_forever(retry_first_connection=True)


main(*sys.argv[1:])
