"""Tills that sell: each closes receipts at an even pace, and what that took of everybody is told."""

from __future__ import annotations

import gc
import multiprocessing
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import cycle
from multiprocessing.connection import Connection

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


def a_fleet(
    station: Station,
    tills: list[str],
    on_stored: OnStored | None = None,
    processes: int = 1,
    presence_every_s: float = 60.0,
) -> Fleet:
    """Return tills that connect to a station's broker, 800 a second, or 400 by TLS; it is one of so many fleets."""
    settings = FleetSettings(
        broker_urls=(station.url,),
        tls_ca_file=station.ca_file,
        connects_per_s=(400.0 if station.ca_file else 800.0) / processes,
        presence_every_s=presence_every_s,
    )
    fleet = Fleet(settings, station.token, on_stored)
    for till in tills:
        fleet.add_till(till)
    return fleet


def sales(seed: int = 1) -> Iterator[bytes]:
    """Return sales for ever; a document's id and till are to be given by `renamed`."""
    return cycle(_sales(seed))


@cache
def _sales(seed: int) -> list[bytes]:
    return [body for body in bodies("till-x", 3000, seed) if b'"transaction_type":"sale"' in body]


def renamed(body: bytes, till: str, number: int) -> bytes:
    """Give a document another till's name and an id of its own, keeping its length about the same."""
    body = body.replace(b'"till_id":"till-x"', b'"till_id":"%s"' % till.encode(), 1)
    return body.replace(_ID.search(body)[1], id_of(number).encode(), 1)


def id_of(number: int) -> str:
    """Return the id of a document that was given one by `renamed`."""
    return f"{number:036d}"


def lags_beyond_quiet(fleet: Fleet) -> list[float]:
    """Return how long each receipt took from its close until its till knew that it is stored, sorted, in seconds."""
    return sorted(lag - QUIET_S for lag in fleet.lags_s)


def connect(fleet: Fleet) -> None:
    """Let all tills come and settle down."""
    tills = fleet.tills.values()  # `stats` asks each socket what it carried: too much for each turn of the loop.
    assert fleet.run(lambda: all(till.is_up for till in tills), 60 + len(tills) / 50), fleet.stats()
    fleet.run(lambda: False, 5)


def sell(station: Station, fleet: Fleet, ids: list[str], selling_s: float, per_minute: float = 1.0) -> Sold:
    """Let tills that are connected close receipts at an even pace, and wait until each knows that all are stored."""
    return _sold(station, lambda first: _close_evenly(fleet, ids, selling_s, per_minute, first))


def _sold(station: Station, close: Callable[[int], list[float]]) -> Sold:
    """Tell what it took to close receipts, which are numbered from the first that is not there yet."""
    before, started = station.through(), time.monotonic()
    cpu = [cpu_s(station.central.pid), cpu_s(station.broker.pid)]
    lags_s = close(before)
    busy_s = time.monotonic() - started
    spent = [cpu_s(station.central.pid) - cpu[0], cpu_s(station.broker.pid) - cpu[1]]
    assert station.through() == before + len(lags_s)
    return Sold(lags_s, busy_s, *spent, peak_mib(station.central.pid), peak_mib(station.broker.pid))


def _close_evenly(fleet: Fleet, ids: list[str], selling_s: float, per_minute: float, first: int) -> list[float]:
    """Return the lags beyond `QUIET_S` of the receipts that these tills closed in so many seconds."""
    material, gap_s = sales(), 60.0 / (len(ids) * per_minute)
    closed, wanted = 0, int(selling_s / gap_s)
    gc.collect()
    gc.freeze()  # Thousands of tills share this process; looking through them all stops each of them at once.
    fleet.lags_s.clear()
    started = time.monotonic()
    while closed < wanted:
        while closed < wanted and started + closed * gap_s <= time.monotonic():
            till = ids[closed % len(ids)]
            fleet.close_document(till, renamed(next(material), till, first + closed))
            closed += 1
        fleet.turn(min(gap_s, 0.02))
    assert fleet.run(lambda: fleet.unsent == 0, 120), fleet.unsent
    gc.unfreeze()
    return lags_beyond_quiet(fleet)


class Sellers:
    """Tills in processes of their own, which sell at once: one core is not the limit of all."""

    def __init__(self, station: Station, ids: list[str], processes: int) -> None:
        """Start them, and wait until all are connected."""
        self._station, parts = station, [ids[number::processes] for number in range(processes)]
        self._ends, self._processes = [], []
        fork = multiprocessing.get_context("fork")
        for part in parts:
            ours, theirs = fork.Pipe()
            self._ends.append(ours)
            self._processes.append(fork.Process(target=_seller, args=(theirs, station, part, processes), daemon=True))
        for process in self._processes:
            process.start()
        for end in self._ends:
            end.recv()

    def sell(self, selling_s: float, per_minute: float = 1.0) -> Sold:
        """Let all close receipts at an even pace, and wait until each knows that all are stored."""
        return _sold(self._station, lambda first: self._close(selling_s, per_minute, first))

    def _close(self, selling_s: float, per_minute: float, first: int) -> list[float]:
        for end in self._ends:
            end.send((selling_s, per_minute, first))
        return sorted(lag for end in self._ends for lag in end.recv())

    def stop(self) -> None:
        """End them."""
        for end, process in zip(self._ends, self._processes, strict=True):
            end.send(None)
            process.join()


def _seller(end: Connection, station: Station, ids: list[str], processes: int) -> None:
    fleet = a_fleet(station, ids, processes=processes)
    connect(fleet)
    end.send(None)
    while True:
        assert fleet.run(end.poll)
        asked = end.recv()
        if asked is None:
            break
        end.send(_close_evenly(fleet, ids, *asked))
    fleet.stop()
