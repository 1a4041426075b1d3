"""Tills that sell: each closes receipts at an even pace, and what that took of everybody is told."""

from __future__ import annotations

import gc
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle

from material import bodies
from station import Station, cpu_s, peak_mib

from fleet.loop import Fleet, FleetSettings, OnStored

QUIET_S = 0.5
"""Central's default wait after a doorbell, in which a till may ring again."""
_ID = re.compile(rb'"document_id":"([^"]+)"')


@dataclass(frozen=True)
class Sold:
    """What came of it; lags in seconds beyond ``quiet_s``, sorted; CPU in seconds while it went on."""

    lags_s: list[float]
    busy_s: float
    central_cpu_s: float
    broker_cpu_s: float
    central_mib: float
    broker_mib: float

    def lag_ms(self, part: float) -> float:
        """Return the lag that this part of the receipts does not exceed, in milliseconds; 1 is the longest."""
        return self.lags_s[min(int(len(self.lags_s) * part), len(self.lags_s) - 1)] * 1000


def a_fleet(station: Station, tills: list[str], on_stored: OnStored | None = None) -> Fleet:
    """Return tills that connect to a station's broker, 400 a second."""
    settings = FleetSettings(broker_urls=(station.url,), tls_ca_file=station.ca_file, connects_per_s=400)
    fleet = Fleet(settings, station.token, on_stored)
    for till in tills:
        fleet.add_till(till)
    return fleet


def sales(seed: int = 1) -> Iterator[bytes]:
    """Return sales for ever; a document's id and till are to be given by `renamed`."""
    return cycle([body for body in bodies("till-x", 3000, seed) if b'"transaction_type":"sale"' in body])


def renamed(body: bytes, till: str, number: int) -> bytes:
    """Give a document another till's name and an id of its own, keeping its length about the same."""
    body = body.replace(b'"till_id":"till-x"', b'"till_id":"%s"' % till.encode(), 1)
    return body.replace(_ID.search(body)[1], b"%036d" % number, 1)


def lags_beyond_quiet(fleet: Fleet) -> list[float]:
    """Return how long each receipt took from its close until its till knew that it is stored, sorted, in seconds."""
    return sorted(lag - QUIET_S for lag in fleet.lags_s)


def connect(fleet: Fleet) -> None:
    """Let all tills come and settle down."""
    tills = len(fleet.tills)
    assert fleet.run(lambda: fleet.stats().connected == tills, 60 + tills / 50), fleet.stats()
    fleet.run(lambda: False, 5)


def sell(station: Station, fleet: Fleet, ids: list[str], selling_s: float, per_minute: float = 1.0) -> Sold:
    """Let tills that are connected close receipts at an even pace, and wait until each knows that all are stored."""
    material, gap_s = sales(), 60.0 / (len(ids) * per_minute)
    wanted = int(selling_s / gap_s)
    gc.collect()
    gc.freeze()  # Ten thousand tills share this process; looking through them all stops each of them at once.
    fleet.lags_s.clear()
    before, started = station.through(), time.monotonic()
    cpu, closed = [cpu_s(station.central.pid), cpu_s(station.broker.pid)], 0
    while closed < wanted:
        while closed < wanted and started + closed * gap_s <= time.monotonic():
            till = ids[closed % len(ids)]
            fleet.close_document(till, renamed(next(material), till, before + closed))
            closed += 1
        fleet.turn(min(gap_s, 0.02))
    assert fleet.run(lambda: fleet.unsent == 0, 120), fleet.unsent
    busy_s = time.monotonic() - started
    spent = [cpu_s(station.central.pid) - cpu[0], cpu_s(station.broker.pid) - cpu[1]]
    assert station.through() == before + wanted
    gc.unfreeze()
    return Sold(lags_beyond_quiet(fleet), busy_s, *spent, peak_mib(station.central.pid), peak_mib(station.broker.pid))
