"""The README's steps by hand, taken from the README: what a newcomer types is what works."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from brokers import ROOT

from fleet.processes import free_port

BLOCK = re.compile(r"^## On one machine, by hand\n\n```sh\n(.*?)```", re.MULTILINE | re.DOTALL)
WAITS = {  # Between two steps a person looks away; a script must wait for what the step before began.
    "tillstream central run &": 'until [ -e "$TILLSTREAM_DATABASE" ]; do sleep 0.1; done',
    "tillstream edge run &": 'until [ -S "$TILLSTREAM_RUN_DIR/edge.sock" ]; do sleep 0.1; done',
    "tillstream edge status": "until tillstream central documents --till 042-01 | grep -q 042-01; do sleep 0.1; done",
}


def test_what_the_readme_says_to_type_stores_a_receipt(tmp_path):
    """Broker, central and a till by hand, a receipt by curl, and it is found at central, by its till and its day."""
    (block,) = BLOCK.findall((ROOT / "README.md").read_text("utf-8"))
    steps = ["set -e", "trap 'kill $(jobs -p) && wait' EXIT", f"PATH={Path(sys.executable).parent}:$PATH"]
    for line in block.replace("/tmp/ts", str(tmp_path)).splitlines()[1:]:
        steps += [line, *(wait for step, wait in WAITS.items() if line.split("  #")[0].rstrip().endswith(step))]
    port = free_port()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TILLSTREAM_")}
    environment = {
        **kept,
        "TILLSTREAM_LISTEN": f"127.0.0.1:{port}",
        "TILLSTREAM_BROKER_URLS": f"mqtt://127.0.0.1:{port}",
    }

    with (tmp_path / "log").open("wb") as log:
        done = subprocess.run(
            ["bash", "-c", "\n".join(steps)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            timeout=60,
            check=False,
        )

    assert '"sequence": 1' in done.stdout, done.stdout + (tmp_path / "log").read_text("utf-8")[-3000:]
    assert "0b9f5a52-7c1e-4d0a-9a3e-5f2f6d1c7b11" in done.stdout
    assert re.search(r"store 042.*open", done.stdout), done.stdout
