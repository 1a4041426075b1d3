"""What is sent to a machine by ssh, to the byte; and a machine that ssh alone does not reach."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from machines import Fleet

HEADERS = 52
"""Of IP and TCP in each packet, TCP's clock among them."""


@dataclass
class Spent:
    """What went over a cable: packets, and bytes with their headers."""

    packets: int = 0
    total: int = 0

    @property
    def payload(self) -> int:
        """Return the bytes without headers."""
        return self.total - HEADERS * self.packets


@contextlib.contextmanager
def counting_ssh(fleet: Fleet, name: str) -> Iterator[Spent]:
    """Count what is sent to a machine by ssh until the end of the body; it is known then."""
    table, spent = f"ssh_{fleet.ports[name]}", Spent()
    rule = f"ip daddr {fleet.address(name)} tcp dport 22 counter"
    hook = f"table inet {table} {{\n chain out {{\n type filter hook output priority 0\n {rule}\n }}\n}}\n"
    fleet.control("nft", "-f", "-", input=hook)
    try:
        yield spent
    finally:
        told = fleet.control("nft", "list", "table", "inet", table).stdout
        fleet.control("nft", "delete", "table", "inet", table)
        spent.packets, spent.total = map(int, re.findall(r"packets (\d+) bytes (\d+)", told)[0])


@contextlib.contextmanager
def without_ssh(fleet: Fleet, name: str) -> Iterator[None]:
    """Let nothing of ssh through to a machine until the end of the body; all else goes on."""
    table = f"cut_{fleet.ports[name]}"
    rule = f"ip daddr {fleet.address(name)} tcp dport 22 drop"
    hook = f"table inet {table} {{\n chain out {{\n type filter hook output priority 0\n {rule}\n }}\n}}\n"
    fleet.control("nft", "-f", "-", input=hook)
    try:
        yield
    finally:
        fleet.control("nft", "delete", "table", "inet", table)
