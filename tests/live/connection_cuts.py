"""Owns the cuts of connections: tills and central talk to the broker through proxies that reset them in mid-packet.

Many real tills run in this one process (`fleet.loop`), so thousands of cuts take seconds. Documents are entered into
books of their own before they are closed.
"""

from __future__ import annotations

from pathlib import Path
from random import Random

from brokers import FLEET_KEY, TILLS
from fault_proxy import FaultProxy, Weather
from nursery import Nursery
from yard import START_MS, Yard, balance

from fleet.baskets import Register, encode
from fleet.catalogue import make_catalogue
from fleet.ledger import Ledger, enter
from fleet.loop import Fleet, FleetSettings
from wire.tokens import token_of

WITHIN_S = 60
AT_TILLS, AT_CENTRAL = (20, 30_000), (300, 300_000)
"""After how many bytes a connection is cut: from the middle of CONNECT to a dozen uploads and more."""
UNSENT_MOST = 300


class Customers:
    """Closes documents on the tills of a fleet, each entered into the POS's books before."""

    def __init__(self, fleet: Fleet, books: Path, till_ids: tuple[str, ...], rng: Random) -> None:
        self._fleet, self._rng = fleet, rng
        catalogue = make_catalogue(Random(7))
        self._ledgers = {till: Ledger(books, till, fsync=False) for till in till_ids}
        self._registers = {till: Register(till, Random(f"{rng.random()} {till}"), catalogue) for till in till_ids}
        self._now_ms = START_MS

    def close_one(self) -> None:
        till = self._rng.choice(list(self._registers))
        self._now_ms += 1000
        document = self._registers[till].close_next(self._now_ms)
        body = encode(document)
        self._ledgers[till].append(enter(document, body))
        self._fleet.close_document(till, body)


def connection_cuts(
    folder: Path, cuts: int, seed: int, *, tills: int = 40, broker: str = "mosquitto"
) -> dict[str, int]:
    """Cut connections of tills and of central so often under load; return the figures and the balance."""
    rng = Random(seed)
    with FaultProxy(seed, Weather(AT_TILLS)) as near_tills, FaultProxy(seed + 1, Weather(AT_CENTRAL)) as near_central:
        settings = {"broker_urls": [f"mqtt://127.0.0.1:{near_central.port}"]}
        with Nursery() as nursery, Yard(folder, nursery, 0, seed, broker=broker, central_settings=settings) as running:
            near_tills.target_port = near_central.target_port = running.site.port
            fleet = _fleet(near_tills.port, seed, tills)
            try:
                customers = Customers(fleet, running.books, TILLS[:tills], rng)

                def is_enough() -> bool:
                    if fleet.unsent < UNSENT_MOST:
                        customers.close_one()
                    return near_tills.cuts + near_central.cuts >= cuts

                assert fleet.run(is_enough, WITHIN_S + cuts / 20), (near_tills.cuts, running.logs())
                near_tills.weather = near_central.weather = Weather()
                fleet.run(lambda: fleet.unsent == 0, WITHIN_S)
            finally:
                fleet.stop()
            figures = {"cuts at tills": near_tills.cuts, "cuts at central": near_central.cuts}
            return {**figures, "reconnects": fleet.stats().reconnects, **balance(running.books, running.database)}


def _fleet(port: int, seed: int, tills: int) -> Fleet:
    settings = FleetSettings(
        broker_urls=(f"mqtt://127.0.0.1:{port}",), reconnect_min_s=0.01, reconnect_max_s=0.05, seed=seed
    )
    fleet = Fleet(settings, lambda user: token_of(FLEET_KEY, user))
    for till_id in TILLS[:tills]:
        fleet.add_till(till_id)
    return fleet
