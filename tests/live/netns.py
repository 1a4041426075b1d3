"""Owns hosts that are network namespaces of this machine: one alone, or two and a cable that can be bad.

Names are unique, only what was made here is removed, and it is removed whatever happens. Needs root.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Self
from uuid import uuid4

IP, NFT, TC = (shutil.which(name) or shutil.which(f"/usr/sbin/{name}") for name in ("ip", "nft", "tc"))
CLONE_NEWNET = 0x40000000
TILL_ADDRESS, CENTRAL_ADDRESS = "10.231.7.1", "10.231.7.2"


def why_not() -> str:
    """Return why there can be no such hosts here; empty if there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if not (IP and NFT and TC):
        return "iproute2 or nftables is not installed"
    name = f"tillstream-{uuid4().hex[:8]}"
    if subprocess.run([IP, "netns", "add", name], capture_output=True, check=False).returncode:
        return "no network namespace can be made here"
    subprocess.run([IP, "netns", "delete", name], check=True)
    return ""


def main(arguments: list[str]) -> None:
    """Go into a namespace, and be the program that is named."""
    _enter(arguments[0])
    importlib.import_module(arguments[1]).main(arguments[2:])


def _enter(name: str) -> None:
    with Path(f"/run/netns/{name}").open() as namespace:
        _set_namespace(namespace.fileno())


def _set_namespace(number: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(number, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "cannot enter a network namespace")


class OneHost:
    """A host with nothing but its loopback; ``command`` goes before a program that is to run there."""

    def __enter__(self) -> Self:
        self.name = f"tillstream-{uuid4().hex[:8]}"
        self.command = (IP, "netns", "exec", self.name)
        _run(IP, "netns", "add", self.name)
        _run(IP, "-n", self.name, "link", "set", "lo", "up")
        return self

    def __exit__(self, *_: object) -> None:
        _run(IP, "netns", "delete", self.name)

    def load(self, rules: Path) -> None:
        """Load nftables rules."""
        _run(*self.command, NFT, "-f", str(rules))

    def dropped(self) -> int:
        """Return how many packets the rules have dropped."""
        return sum(map(int, re.findall(r"packets (\d+)", _run(*self.command, NFT, "list", "ruleset"))))

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Make sockets there: what this thread opens meanwhile belongs to that host, also after it."""
        with Path("/proc/thread-self/ns/net").open() as here:
            _enter(self.name)
            try:
                yield
            finally:
                _set_namespace(here.fileno())


class TwoHosts:
    """A till's host and central's host; `in_till` and `in_central` put a program there."""

    def __enter__(self) -> Self:
        mark = uuid4().hex[:8]
        self.till, self.central = f"tillstream-{mark}-t", f"tillstream-{mark}-c"
        self.in_till, self.in_central = ("netns", self.till), ("netns", self.central)
        try:
            for name in (self.till, self.central):
                _run(IP, "netns", "add", name)
            _run(IP, "link", "add", "cable", "netns", self.till, "type", "veth", "peer", "cable", "netns", self.central)
            for name, address in ((self.till, TILL_ADDRESS), (self.central, CENTRAL_ADDRESS)):
                _run(IP, "-n", name, "address", "add", f"{address}/24", "dev", "cable")
                for device in ("cable", "lo"):
                    _run(IP, "-n", name, "link", "set", device, "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in (self.till, self.central):
            if Path(f"/run/netns/{name}").exists():
                _run(IP, "netns", "delete", name)

    def lose(self, percent: int) -> None:
        """Lose so many of a hundred packets, in both directions."""
        for name in (self.till, self.central):
            self._filter(name, f"numgen random mod 100 < {percent} counter drop")

    def lost(self) -> int:
        """Return how many packets the filters have dropped."""
        listed = [_run(IP, "netns", "exec", name, NFT, "list", "ruleset") for name in (self.till, self.central)]
        return sum(int(packets) for packets in re.findall(r"packets (\d+)", "".join(listed)))

    def silence_central(self) -> None:
        """Let nothing reach the till any more; what it sends still arrives."""
        self._filter(self.till, "counter drop")

    def crawl(self, kilobits_per_s: int) -> None:
        """Let only so much through, in each direction."""
        shape = ["rate", f"{kilobits_per_s}kbit", "burst", "1600", "latency", "400ms"]
        for name in (self.till, self.central):
            _run(TC, "-n", name, "qdisc", "replace", "dev", "cable", "root", "tbf", *shape)

    def shrink(self, mtu_bytes: int) -> None:
        """Let no packet be longer."""
        for name in (self.till, self.central):
            _run(IP, "-n", name, "link", "set", "cable", "mtu", str(mtu_bytes))

    def pull_out(self) -> None:
        """Pull the cable out."""
        _run(IP, "-n", self.till, "link", "set", "cable", "down")

    def plug_in(self) -> None:
        _run(IP, "-n", self.till, "link", "set", "cable", "up")

    def heal(self) -> None:
        """End loss, silence and slowness."""
        for name in (self.till, self.central):
            _run(IP, "netns", "exec", name, NFT, "flush", "ruleset")
            subprocess.run(
                [TC, "-n", name, "qdisc", "delete", "dev", "cable", "root"], capture_output=True, check=False
            )

    def _filter(self, name: str, rule: str) -> None:
        ruleset = (
            f'table inet bad {{ chain arriving {{ type filter hook input priority 0; iifname "cable" {rule}; }}; }}'
        )
        _run(IP, "netns", "exec", name, NFT, ruleset)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout
