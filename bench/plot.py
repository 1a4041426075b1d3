"""Draw each curve of a run's JSON as an SVG file beside it: ``plot.py JSON``. Needs the extra ``bench``."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt


def main(told: Path) -> None:
    """Write a file for each figure that has points."""
    mpl.rcParams["svg.hashsalt"] = "tillstream"  # The same figures make the same file.
    run = json.loads(told.read_text("utf-8"))
    for figure in run["figures"]:
        if figure["points"]:
            _draw(figure, f"{run['date']}, {run['machine']}, commit {run['commit']}", told.parent)


def _draw(figure: dict, below: str, folder: Path) -> None:
    grown, values = zip(*figure["points"], strict=True)
    drawn, axes = plt.subplots(figsize=(7, 4))
    axes.plot(grown, values, marker="o")
    axes.set(xscale="symlog", ylim=(0, max(values) * 1.25), title=figure["name"], xlabel=below)
    axes.grid(alpha=0.3)
    name = re.sub(r"[^a-z0-9]+", "-", f"{figure['part']} {figure['name']}".lower())[:60].strip("-")
    drawn.savefig(folder / f"{name}.svg", metadata={"Date": None}, bbox_inches="tight")
    plt.close(drawn)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
