"""Bytes on the wire and time over a bad line: 64 kbit/s each way, some packets lost, TLS, real programs."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median

import netns
from figures import Figure, middle
from netns import CENTRAL_ADDRESS, IP, TwoHosts
from selling import sales
from station import ROOT, running_tls

from fleet.processes import free_port

LIVE, BACKLOG, ONE_BY_ONE, ROUNDS = 10, 200, 10, 3
"""Receipts in a run; a backlog is of fewer where each goes by itself: there one costs what the other costs."""
KILOBITS_PER_S, LOST_PERCENT = 64, 1
WAYS = {"tillstream": "", "plain_mqtt": "plain JSON by QoS 1", "post": "HTTPS POST, one connection",
        "post_anew": "HTTPS POST, a connection each"}  # fmt: skip
TILLS = [f"till-{number}" for number in range(1, 2 * len(WAYS) * ROUNDS + 1)]
"""Each run is another till's, which sends what nobody has sent: the same receipts under its name."""


@dataclass(frozen=True)
class Run:
    """What one receipt of a run took: bytes both ways on the wire and of the connection itself, and seconds."""

    wire: float
    socket: float
    took_s: float


def measure() -> Iterator[Figure]:
    """Return bytes both ways per receipt, live and in a backlog, and how long the backlog takes."""
    if why := netns.why_not():
        yield Figure("wire", "a slow line", why, "", "", None)
        return
    with tempfile.TemporaryDirectory() as name, TwoHosts() as hosts, _servers(Path(name), hosts) as servers:
        tills = iter(TILLS)
        for kind in ("live", "backlog"):
            yield from _figures(hosts, servers, kind, tills)
    some = b"\n".join(islice(sales(), BACKLOG))
    yield Figure("wire", "zlib -9 of the whole backlog, a receipt", f"{len(zlib.compress(some, 9)) / BACKLOG:,.0f}", "", "", None)  # fmt: skip # noqa: E501


def _figures(hosts: TwoHosts, servers: tuple[str, ...], kind: str, tills: Iterator[str]) -> Iterator[Figure]:
    title = f"{kind}, {KILOBITS_PER_S} kbit/s, {LOST_PERCENT} % lost, TLS: bytes per receipt, both ways, on the wire;"
    ours = 0.0
    for way, name in WAYS.items():
        count = LIVE if kind == "live" else ONE_BY_ONE if name else BACKLOG
        runs = [_over_the_line(hosts, servers, next(tills), way, count, kind) for _ in range(ROUNDS)]
        wire, socket = ([getattr(run, part) for run in runs] for part in ("wire", "socket"))
        ours = ours or median(wire)
        value = f"{middle(wire)}; {middle(socket)}; {median(run.took_s for run in runs):.2f} s"
        part = f"ours {ours / median(wire):.2f} of it" if name else ""
        yield Figure("wire", f"{title} at the socket; time", value, name, part, None)


def _over_the_line(hosts: TwoHosts, servers: tuple[str, ...], till_id: str, way: str, count: int, kind: str) -> Run:
    command = [sys.executable, str(Path(__file__).with_name("slow_till.py")), till_id, way, *servers, str(count), kind]
    till = subprocess.Popen(
        [*_inside(hosts.till), *command],
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'bench'}"}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert till.stdout.readline() == "ready\n"
        hosts.crawl(KILOBITS_PER_S)
        hosts.lose(LOST_PERCENT)
        before = _wire_bytes(hosts)
        print("go", file=till.stdin, flush=True)
        took_s, socket_bytes = map(float, till.stdout.readline().split())
        return Run((_wire_bytes(hosts) - before) / count, socket_bytes / count, took_s / count)
    finally:
        till.kill()
        till.wait()
        hosts.heal()


def _inside(host: str) -> list[str]:
    return [IP, "netns", "exec", host]


def _wire_bytes(hosts: TwoHosts) -> int:
    """Return what the till's end of the cable has sent and received, Ethernet's headers included."""
    told = subprocess.run([IP, "-n", hosts.till, "-s", "-j", "link", "show", "cable"], capture_output=True, check=True)
    counted = json.loads(told.stdout)[0]["stats64"]
    return counted["rx"]["bytes"] + counted["tx"]["bytes"]


@contextlib.contextmanager
def _servers(folder: Path, hosts: TwoHosts) -> Iterator[tuple[str, str, str]]:
    """Run what is at the far end; yields the broker's URL, the endpoint's port, and the authority's file."""
    port, inside = free_port(), _inside(hosts.central)
    with running_tls(folder, TILLS, str(folder / "central.db"), CENTRAL_ADDRESS, inside) as station:
        keys = [str(folder / "broker" / name) for name in ("server.crt", "server.key")]
        command = [*inside, sys.executable, "-m", "other_ways.take_posts", str(port), str(folder / "posted.db")]
        environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'bench'}"}
        server = subprocess.Popen([*command, CENTRAL_ADDRESS, *keys], env=environment, cwd=ROOT)
        try:
            yield station.url, str(port), station.ca_file
        finally:
            server.terminate()
            server.wait()
