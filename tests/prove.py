"""Runs every proof at length and writes what came out of it: ``make prove`` (all of it takes some two hours).

Each part is the same code that the gate runs small. Parts follow one another; the simulator uses all cores. Figures are
written as they come, so that a run that was stopped still says how far it came. Exit code 1 if anything failed.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import platform
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from queue import Empty

TESTS = Path(__file__).parent
sys.path[:0] = [str(TESTS.parent), str(TESTS), str(TESTS / "sim"), str(TESTS / "live")]

TELL_EVERY_S = 5.0
SWARM_FAULTS, FLOOD_FAULTS = 15_000_000, 85_000_000
"""Mixtures of all faults, and the same with each message a hundred times: these are cheap, and counted apart."""
KILLS_EACH = 1000
POWER_CUTS = 200
"""Of the tills' disk, and as many of central's."""
CONNECTION_CUTS = 10_000
FUZZ_CASES = 20_000_000
KILLS_A_YARD = 100
CUTS_A_YARD = 5000


def simulator(scale: float, seed: int, jobs: int, tell) -> dict:
    """Mixtures of all faults, seed after seed."""
    return _simulated(int(SWARM_FAULTS * scale), seed, jobs, tell, {})


def simulator_flood(scale: float, seed: int, jobs: int, tell) -> dict:
    """The same with each message a hundred times."""
    from faults import FLOOD

    return _simulated(int(FLOOD_FAULTS * scale), seed, jobs, tell, FLOOD)


def _simulated(faults: int, seed: int, jobs: int, tell, forced: dict) -> dict:
    """Run in one process for each core; each takes every n-th seed."""
    told: dict[int, dict] = {}
    queue: multiprocessing.Queue = multiprocessing.Queue()
    portions = [(queue, job, faults // jobs, seed + job, jobs, forced) for job in range(jobs)]
    workers = [multiprocessing.Process(target=_simulate, args=portion, daemon=True) for portion in portions]
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers) or not queue.empty():
        try:
            job, figures = queue.get(timeout=TELL_EVERY_S)
        except Empty:
            continue
        told[job] = figures
        tell(_sum(told.values()))
    return _sum(told.values())


def _simulate(queue, job, faults, first_seed, step, forced):
    from storm import Weathered, until

    logging.disable(logging.CRITICAL)
    next_at = 0.0
    weathered = Weathered()
    for weathered in until(Weathered(), faults, first_seed, step, **forced):
        if time.monotonic() >= next_at:
            next_at = time.monotonic() + TELL_EVERY_S
            queue.put((job, weathered.told()))
    queue.put((job, weathered.told()))


def _sum(many) -> dict:
    total: dict = {}
    for figures in many:
        for name, value in figures.items():
            if isinstance(value, dict):
                total[name] = dict(Counter(total.get(name, {})) + Counter(value))
            else:
                total[name] = total[name] + value if name in total else value
    return total


def kills(scale: float, seed: int, _jobs: int, tell) -> dict:
    """SIGKILL of agent, central and Mosquitto with documents unsent, each so often; and SIGSTOP."""
    from kill_runs import kill_runs

    return _in_yards(kill_runs, KILLS_EACH, KILLS_A_YARD, scale, seed, tell)


def outbox_power_cuts(scale: float, seed: int, _jobs: int, tell) -> dict:
    """Power cuts of the tills' disk."""
    from power_cuts import outbox_cuts

    return _in_yards(outbox_cuts, POWER_CUTS, 50, scale, seed, tell)


def central_power_cuts(scale: float, seed: int, _jobs: int, tell) -> dict:
    """Power cuts of central's disk."""
    from power_cuts import central_cuts

    return _in_yards(central_cuts, POWER_CUTS, 50, scale, seed, tell)


def cut_connections(scale: float, seed: int, _jobs: int, tell) -> dict:
    """Connections cut in mid-packet."""
    from connection_cuts import connection_cuts

    return _in_yards(connection_cuts, CONNECTION_CUTS, CUTS_A_YARD, scale, seed, tell)


def _in_yards(run, total, a_yard, scale, seed, tell) -> dict:
    figures: Counter = Counter()
    left, number = max(1, int(total * scale)), 0
    while left > 0:
        with tempfile.TemporaryDirectory(prefix="tillstream-prove-", dir="/tmp") as folder:
            (site := Path(folder) / "site").mkdir()
            figures.update(run(site, min(left, a_yard), seed + number))
        left, number = left - a_yard, number + 1
        tell(dict(figures))
    return dict(figures)


def fuzz(scale: float, seed: int, jobs: int, tell) -> dict:
    """Hostile bytes for every door, in one process for each core."""
    each = int(FUZZ_CASES * scale) // jobs
    portions = [(min(500_000, each - done), seed + 1000 * job + done) for job in range(jobs)
                for done in range(0, each, 500_000)]  # fmt: skip
    figures: Counter = Counter()
    with multiprocessing.Pool(jobs) as pool:
        for found in pool.imap_unordered(_fuzz, portions):
            figures.update(found)
            tell({**figures, "cases": sum(figures.values()) - figures["failures"]})
    return {**figures, "cases": sum(figures.values()) - figures["failures"]}


def _fuzz(portion):
    from fuzzing import prove

    logging.disable(logging.CRITICAL)
    return prove(*portion)


PARTS = {
    part.__name__: part
    for part in (
        simulator,
        simulator_flood,
        kills,
        outbox_power_cuts,
        central_power_cuts,
        cut_connections,
        fuzz,
    )
}
BAD = (
    "lost", "doubled", "gaps", "failures", "acknowledged and gone", "promised and not kept", "not whole",
    "broken chains", "watermarks without documents",
)  # fmt: skip


def is_bad(figures: dict) -> bool:
    """Say whether a part's figures tell of a loss, a double or a failure."""
    return any(figures.get(name) for name in BAD)


class Report:
    """The figures of a run, on the screen and in a file; parts that were run before stay in it."""

    def __init__(self, path: Path, seed: int, scale: float) -> None:
        self._path, self._seen = path, set[str]()
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=TESTS, capture_output=True, text=True, check=False)
        self._run = {"commit": commit.stdout.strip()[:12], "seed": seed, "scale": scale}
        before = json.loads(path.read_text("utf-8")) if path.exists() else {"parts": {}}
        machine = f"{os.cpu_count()} cores, Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
        self.told: dict = {"machine": machine, "parts": before["parts"]}

    def part(self, name: str, figures: dict, seconds: float) -> None:
        """Show how far a part has come, and write it down."""
        ended = time.strftime("%Y-%m-%d %H:%M")
        self.told["parts"][name] = {**self._run, "ended": ended, "seconds": round(seconds), **figures}
        self._path.write_text(json.dumps(self.told, indent=1, ensure_ascii=False) + "\n", "utf-8")
        brief = {key: value for key, value in figures.items() if isinstance(value, int | float)}
        line = ", ".join(f"{value:,} {key}" for key, value in brief.items())
        print(f"{name:20} {seconds:6.0f} s  {line}", flush=True)
        failures = figures.get("failures")
        for failure in failures if isinstance(failures, list) else ():
            if failure not in self._seen:
                self._seen.add(failure)
                print(f"  {failure}", flush=True)


def main() -> int:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", action="append", choices=PARTS, help="Only this part; may be given more than once.")
    parser.add_argument("--scale", type=float, default=1.0, help="A fraction of everything: 0.01 takes a minute.")
    parser.add_argument("--seed", type=int, default=1_000_000, help="Where the seeds begin.")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="Processes of simulator and fuzz.")
    parser.add_argument("--out", type=Path, default=Path("proof.json"), help="The file for the figures.")
    given = parser.parse_args()
    report, failed = Report(given.out, given.seed, given.scale), False
    for name in given.part or PARTS:
        begun = time.monotonic()
        figures = PARTS[name](
            given.scale,
            given.seed,
            given.jobs,
            lambda told, n=name, b=begun: report.part(n, told, time.monotonic() - b),
        )
        report.part(name, figures, time.monotonic() - begun)
        failed = failed or is_bad(figures)
    print("FAILED" if failed else "PROVEN")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
