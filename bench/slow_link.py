"""Bytes on the wire and time over a bad line: 64 kbit/s each way, some packets lost, TLS, real programs."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import netns
from figures import Figure
from material import bodies
from netns import CENTRAL_ADDRESS, IP, TwoHosts
from station import ROOT, running_tls

from fleet.processes import free_port

LIVE, BACKLOG, ONE_BY_ONE, ROUNDS = 10, 200, 20, 3
"""Receipts in a run; a backlog is of fewer where each goes by itself: there one costs what the other costs."""
KILOBITS_PER_S, LOST_PERCENT = 64, 1
WAYS = {"tillstream": "", "plain_mqtt": "plain JSON by QoS 1", "post": "HTTPS POST, one connection",
        "post_anew": "HTTPS POST, a connection each"}  # fmt: skip


def measure() -> Iterator[Figure]:
    """Return bytes both ways per receipt, live and in a backlog, and how long the backlog takes."""
    if why := netns.why_not():
        yield Figure("wire", "a slow line", why, "", "", None)
        return
    for kind in ("live", "backlog"):
        counts = {way: LIVE if kind == "live" else ONE_BY_ONE if name else BACKLOG for way, name in WAYS.items()}
        measured = {way: [_over_the_line(way, count, kind) for _ in range(ROUNDS)] for way, count in counts.items()}
        ours = median(sent for sent, _ in measured["tillstream"]) / counts["tillstream"]
        for way, name in WAYS.items():
            per_receipt = median(sent for sent, _ in measured[way]) / counts[way]
            took_s = median(took for _, took in measured[way]) / counts[way]
            value = f"{per_receipt:,.0f} ({took_s:.2f} s)"
            line = f"{KILOBITS_PER_S} kbit/s, {LOST_PERCENT} % lost, TLS and TCP"
            title = f"{kind}, {line}: bytes (and time) per receipt, both ways"
            yield Figure("wire", title, value, name, f"ours {ours / per_receipt:.2f} of it" if name else "", None)
    some = b"\n".join(_sales(BACKLOG))
    yield Figure("wire", "zlib -9 of the whole backlog, a receipt", f"{len(zlib.compress(some, 9)) / BACKLOG:,.0f}", "", "", None)  # fmt: skip # noqa: E501


def _sales(count: int) -> list[bytes]:
    return [body for body in bodies("till-1", 2 * count) if b'"transaction_type":"sale"' in body][:count]


def _over_the_line(way: str, count: int, kind: str) -> tuple[int, float]:
    """Return the bytes on the wire, and how long it took, in seconds."""
    with tempfile.TemporaryDirectory() as name, TwoHosts() as hosts, _servers(Path(name), hosts) as (url, port, ca):
        till = subprocess.Popen(
            [*_inside(hosts.till), sys.executable, str(Path(__file__).with_name("slow_till.py")),
             way, url, str(port), ca, str(count), kind],
            env={"PYTHONPATH": f"{ROOT}:{ROOT / 'bench'}"}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert till.stdout.readline() == "ready\n"
            hosts.crawl(KILOBITS_PER_S)
            hosts.lose(LOST_PERCENT)
            before = _wire_bytes(hosts)
            print("go", file=till.stdin, flush=True)
            took_s = float(till.stdout.readline())
            return _wire_bytes(hosts) - before, took_s
        finally:
            till.kill()
            till.wait()


def _inside(host: str) -> list[str]:
    return [IP, "netns", "exec", host]


def _wire_bytes(hosts: TwoHosts) -> int:
    """Return what the till's end of the cable has sent and received, Ethernet's headers included."""
    told = subprocess.run([IP, "-n", hosts.till, "-s", "-j", "link", "show", "cable"], capture_output=True, check=True)
    counted = json.loads(told.stdout)[0]["stats64"]
    return counted["rx"]["bytes"] + counted["tx"]["bytes"]


@contextlib.contextmanager
def _servers(folder: Path, hosts: TwoHosts) -> Iterator[tuple[str, int, str]]:
    """Run what is at the far end; yields the broker's URL, the endpoint's port, and the authority's file."""
    port, inside = free_port(), _inside(hosts.central)
    with running_tls(folder, ["till-1"], str(folder / "central.db"), CENTRAL_ADDRESS, inside) as station:
        keys = [str(folder / "broker" / name) for name in ("server.crt", "server.key")]
        command = [*inside, sys.executable, "-m", "other_ways.take_posts", str(port), str(folder / "posted.db")]
        environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'bench'}"}
        server = subprocess.Popen([*command, CENTRAL_ADDRESS, *keys], env=environment, cwd=ROOT)
        try:
            yield station.url, port, station.ca_file
        finally:
            server.terminate()
            server.wait()
