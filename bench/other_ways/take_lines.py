"""What a central rsyslog hands lines to (omprog, confirmed): insert each. ``take_lines.py DATABASE``."""

from __future__ import annotations

import sys

from other_ways.table import Table


def main(database: str) -> None:
    """Answer OK after each commit, as confirmMessages asks."""
    table = Table(database)
    print("OK", flush=True)
    for line in sys.stdin.buffer:
        table.insert(line.rstrip(b"\n"))
        print("OK", flush=True)


main(*sys.argv[1:])
