"""Print every figure beside its limit, measured in the same run; ``--only PART``, ``--out FOLDER``."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from figures import Figure

ROOT = Path(__file__).parents[1]
PARTS = {
    "ingest": ("ingest", "measure"),
    "backlog": ("backlog", "measure"),
    "live": ("live", "measure"),
    "chain": ("live", "measure_chain"),
    "return": ("comeback", "measure"),
    "link": ("link_bytes", "measure"),
    "seed": ("seeds_way", "measure"),
    "alternatives": ("alternatives", "measure"),
    "wire": ("slow_link", "measure"),
    "till": ("till", "measure"),
    "simulation": ("simulation", "measure"),
}


def main() -> int:
    """Measure the parts one after the other: two at once would measure each other."""
    sys.path[:0] = [str(ROOT), str(ROOT / "bench"), str(ROOT / "tests"), str(ROOT / "tests/live")]
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--only", choices=PARTS, action="append", help="only this part; may be repeated")
    options.add_argument("--out", type=Path, help="a folder for bench.json and the curves drawn from it")
    chosen = options.parse_args()
    figures = (figure for part in chosen.only or PARTS for figure in _measured(part))
    return show(figures, chosen.out, "bench")


def _measured(part: str) -> Iterable[Figure]:
    module, measure = PARTS[part]
    found: Iterable[Figure] = getattr(import_module(module), measure)()
    return found


def show(figures: Iterable[Figure], out: Path | None, name: str) -> int:
    """Print each figure as it is measured; write all to ``out/name.json``, draw the curves; returns the exit code."""
    told = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "machine": _machine(), "commit": _commit()}
    print(f"{told['date']}, {told['machine']}, commit {told['commit']}\n")
    print("| part | figure | measured | limit in the same run | goal | met |")
    print("|---|---|---|---|---|---|", flush=True)
    shown: list[dict[str, Any]] = []
    for figure in figures:
        met = {True: "yes", False: "**no**", None: ""}[figure.met]
        row = (figure.part, figure.name, figure.value, figure.limit, figure.goal, met)
        print("| " + " | ".join(row) + " |", flush=True)
        shown.append(asdict(figure))
        if out:  # After each: what was measured before an end is kept.
            out.mkdir(parents=True, exist_ok=True)
            (out / f"{name}.json").write_text(json.dumps(told | {"figures": shown}, indent=1) + "\n", "utf-8")
    if out:
        import_module("plot").main(out / f"{name}.json")
    return 0


def _machine() -> str:
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    system = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    return f"{os.cpu_count()} cores (load {os.getloadavg()[0]:.1f}), {memory_gib:.0f} GiB, {system}"


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
