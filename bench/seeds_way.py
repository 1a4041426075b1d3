"""Per-receipt upload as chains know it, one request and one commit for each receipt, beside ours, at a rush hour.

The seed's way is a switch of the configuration here and nothing else: no quiet time, one document in an upload, one
message in a transaction. Both run on Mosquitto and PostgreSQL, which count messages and transactions themselves.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from figures import Figure
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion
from selling import a_fleet, connect, sell
from station import Station, cpu_s, postgres, running

from central.database import Place
from fleet.loop import Fleet

TILLS, PER_MINUTE, SELLING_S = 10_000, 4.0, 30.0
SEEDS_WAY = {"QUIET_S": "0", "MAX_WAIT_S": "0", "LIMIT_DOCUMENTS": "1", "BATCH_MESSAGES": "1", "GATHER_S": "0"}
COUNTED = {"messages": ("messages/received", "messages/sent"), "bytes": ("bytes/received", "bytes/sent")}
"""What the broker counts, both ways, and tells every second."""
TOLD_AGAIN_S = 2.5
PARTS = {"central": "central_s", "broker": "broker_s", "database": "database_s"}


@dataclass(frozen=True)
class Cost:
    """What 1,000 receipts cost: messages and bytes at the broker, transactions, and CPU seconds."""

    messages: float
    bytes: float
    transactions: float
    database_s: float
    central_s: float
    broker_s: float

    @property
    def cpu_s(self) -> float:
        """CPU of all that runs on the server."""
        return self.central_s + self.broker_s + self.database_s


def measure() -> Iterator[Figure]:
    """Return what 1,000 receipts cost either way, and the part of it that is left."""
    seeds, ours = _cost(SEEDS_WAY), _cost({})
    title = f"{TILLS:,} tills, {PER_MINUTE:.0f} receipts a minute each, per 1,000 receipts"
    for what, goal in (("transactions", 0.1), ("cpu_s", 1 / 3), ("messages", None), ("bytes", None)):
        one, other = getattr(ours, what), getattr(seeds, what)
        shown = f"{one:,.0f}" if other > 10 else f"{one:.2f}"
        limit = f"the seed's way {other:,.0f}" if other > 10 else f"the seed's way {other:.2f}"
        wanted = f"≤ {goal:.2f} of it: {one / other:.2f}" if goal else f"{one / other:.2f} of it"
        yield Figure("seed", f"{title}: {what}", shown, limit, wanted, one / other <= goal if goal else None)
    each = (f"{who} {getattr(ours, part):.2f} and {getattr(seeds, part):.2f}" for who, part in PARTS.items())
    yield Figure("seed", f"{title}: cpu_s of each, ours and the seed's", ", ".join(each), "", "", None)


def _cost(keys: dict[str, str]) -> Cost:
    ids = [f"till-{number}" for number in range(1, TILLS + 1)]
    with (
        tempfile.TemporaryDirectory(dir="/var/tmp") as name,
        postgres(Path(name)) as database,
        running(Path(name), database, broker="Mosquitto", **keys) as station,
        _Broker(station) as broker,
    ):
        fleet = a_fleet(station, ids)
        connect(fleet)
        before = (*broker.counts(fleet), *_database(database))
        sold = sell(station, fleet, ids, SELLING_S, PER_MINUTE)
        after = (*broker.counts(fleet), *_database(database))
        fleet.stop()
    per = 1000 / len(sold.lags_s)
    counts = [per * (now - then) for now, then in zip(after, before, strict=True)]
    return Cost(*counts, per * sold.central_cpu_s, per * sold.broker_cpu_s)


def _database(url: str) -> tuple[int, float]:
    """Return transactions committed, and CPU seconds of all its processes that are there now."""
    with contextlib.closing(Place(url).look(to_write=False)) as opened:
        statement = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
        committed = opened.run(statement).fetchone()[0]
        others = opened.run("SELECT pid FROM pg_stat_activity WHERE pid != pg_backend_pid()").fetchall()
    return committed, sum(cpu_s(pid) for (pid,) in others)


class _Broker:
    """What Mosquitto tells of itself once a second."""

    def __init__(self, station: Station) -> None:
        self._told: dict[str, int] = {}
        self._client = Client(CallbackAPIVersion.VERSION2, client_id="counts")
        self._client.on_message = lambda _client, _userdata, message: self._note(message.topic, message.payload)
        self._port = int(station.url.rpartition(":")[2])

    def __enter__(self) -> Self:
        self._client.connect("127.0.0.1", self._port)
        self._client.subscribe("$SYS/broker/+/+")
        self._client.loop_start()
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _note(self, topic: str, payload: bytes) -> None:
        with contextlib.suppress(ValueError):
            self._told[topic.removeprefix("$SYS/broker/")] = int(payload)

    def counts(self, fleet: Fleet) -> list[int]:
        """Return messages and bytes, both ways; what did not change the broker does not tell again."""
        fleet.run(lambda: False, TOLD_AGAIN_S)
        return [sum(self._told[name] for name in names) for names in COUNTED.values()]
