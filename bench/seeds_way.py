"""Per-receipt upload as chains know it, one request and one commit for each receipt, beside ours, at a rush hour.

The seed's way is a switch of the configuration here and nothing else: no quiet time, one document in an upload, one
message in a transaction. Both run on Mosquitto and PostgreSQL, which count messages and transactions themselves.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Self

from figures import Figure, middle, middle_ratio
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion
from selling import Sellers
from station import Station, cpu_s, postgres, running

from central.database import Place

TILLS, PROCESSES, PER_MINUTE, SELLING_S, ROUNDS = 10_000, 2, 4.0, 6.0, 3
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
    seeds, ours = _costs(SEEDS_WAY), _costs({})
    title = f"{TILLS:,} tills, {PER_MINUTE:.0f} receipts a minute each, per 1,000 receipts"
    for what, goal in (("transactions", 0.1), ("cpu_s", 1 / 3), ("messages", None), ("bytes", None)):
        some, others = [getattr(one, what) for one in ours], [getattr(one, what) for one in seeds]
        ratios = [one / other for one, other in zip(some, others, strict=True)]
        unit, scale = ("CPU ms", 1000) if what == "cpu_s" else (what, 1)
        shown, limit = (middle([scale * one for one in costs]) for costs in (some, others))
        wanted = f"≤ {goal:.2f} of it: {middle_ratio(ratios)}" if goal else f"{middle_ratio(ratios)} of it"
        is_met = median(ratios) <= goal if goal else None
        yield Figure("seed", f"{title}: {unit}", shown, f"the seed's way {limit}", wanted, is_met)
    each = (f"{who} {_middle_ms(ours, part)} and {_middle_ms(seeds, part)}" for who, part in PARTS.items())
    yield Figure("seed", f"{title}: CPU ms of each, ours and the seed's", ", ".join(each), "", "", None)


def _middle_ms(costs: list[Cost], part: str) -> str:
    return f"{1000 * median(getattr(one, part) for one in costs):,.0f}"


def _costs(keys: dict[str, str]) -> list[Cost]:
    """Return what each of the rounds cost, one after the other with the same fleet."""
    ids = [f"till-{number}" for number in range(1, TILLS + 1)]
    with (
        tempfile.TemporaryDirectory(dir="/var/tmp") as name,
        postgres(Path(name)) as database,
        running(Path(name), database, broker="Mosquitto", **keys) as station,
        _Broker(station) as broker,
    ):
        sellers = Sellers(station, ids, PROCESSES)
        costs = [_cost(sellers, broker, database) for _ in range(ROUNDS)]
        sellers.stop()
    return costs


def _cost(sellers: Sellers, broker: _Broker, database: str) -> Cost:
    before = (*broker.counts(), *_database(database))
    sold = sellers.sell(SELLING_S, PER_MINUTE)
    after = (*broker.counts(), *_database(database))
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

    def counts(self) -> list[int]:
        """Return messages and bytes, both ways; what did not change the broker does not tell again."""
        time.sleep(TOLD_AGAIN_S)
        return [sum(self._told[name] for name in names) for names in COUNTED.values()]
