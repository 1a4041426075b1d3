"""Shops for the tests of waves: booted tills that were installed once, a broker and central, and `bin/rollout`.

Installing by modules takes 20 s a till; here one till is installed, and what that wrote lies under all the others.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from brokers import FLEET_KEY, wait_until
from chain import Chain
from releases import ROOT, version_of
from station import tillstream

from wire.tokens import token_of

ROLLOUT = ROOT / "ansible/bin/rollout"
MASTER = "master"
"""The till that is installed; its settings are what the others' are made from."""
AT_ONCE = {"rollout_soak_s": 2, "rollout_wave_soak_s": 0, "rollout_settle_s": 10, "rollout_health_timeout_s": 8}
"""Times for tests: tills that sell nothing have nothing to wait for."""

WATCHES, WATCHES_MIN = Path("/proc/sys/fs/inotify/max_user_instances"), 1024
"""Each machine's systemd takes five; twenty machines and others beside them are more than the kernel's own 128."""


@dataclass(frozen=True)
class Ended:
    """How a rollout ended."""

    code: int
    report: dict
    said: str
    folder: Path

    def states(self) -> dict[str, str]:
        return {till: one["state"] for till, one in self.report["tills"].items()}

    def limit(self, name: str) -> list[str]:
        return (self.folder / f"{name}.limit").read_text("utf-8").split()


def installed(folder: Path, release: Path, *staged: Path) -> list[Path]:
    """Install one till by its roles, stage further releases there, and return the layers that others start from.

    Its agent does not run there.
    """
    with Chain(folder, {MASTER: "bookworm"}) as chain:
        chain.install(release)
        for other in staged:
            chain.send(MASTER, other)
            chain.release(MASTER, "stage", version_of(other), check=True)
        forget = "find /var/lib/tillstream -type f -not -name automation.json -delete"
        chain.fleet.ssh(MASTER, f"systemctl disable --now tillstream-edge; {forget}")
        return chain.fleet.keep(folder / "kept")[MASTER]


class Shops(Chain):
    """Tills by name with store, lane and ring; ``layers`` are those of an installed till."""

    def __init__(self, folder: Path, tills: dict[str, tuple[str, int, str]], layers: list[Path]) -> None:
        super().__init__(folder, dict.fromkeys(tills, "bookworm"))
        self.places, self.more = tills, {}
        self.fleet._layers = {till: list(layers) for till in tills}
        self._runs = 0

    def __enter__(self) -> Self:
        self._watches = WATCHES.read_text("utf-8")
        WATCHES.write_text(str(max(int(self._watches), WATCHES_MIN)), "utf-8")
        super().__enter__()
        try:
            for till in self.tills:
                self._name(till)
            assert wait_until(lambda: len(self.connected()) == len(self.tills), 60), self.connected()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        WATCHES.write_text(self._watches, "utf-8")

    def _name(self, till: str) -> None:
        """Let a copy of the installed till be this one, and start its agent."""
        folder = self.fleet.root(till) / "etc/tillstream"
        for name in ("edge.toml", "token"):
            text = (folder / name).read_text("utf-8").replace(token_of(FLEET_KEY, MASTER), token_of(FLEET_KEY, till))
            text = text.replace(f'"{MASTER}"', f'"{till}"').replace('"042"', f'"{self.places[till][0]}"')
            (folder / name).write_text(text, "utf-8")
        self.fleet.ssh(till, "systemctl enable --now tillstream-edge")

    def connected(self) -> dict[str, str]:
        """Return which version each till shows at central that is connected."""
        if not self.database.exists():
            return {}
        rows = self.query("SELECT till_id, presence FROM till WHERE is_online")
        return {till: json.loads(presence)["agent_version"] for till, presence in rows}

    def hosts(self) -> Path:
        """Write the inventory of central and the tills."""
        command = [*tillstream("central"), "--database", str(self.database)]
        central = {"ansible_connection": "local", "ansible_become": False, "rollout_central_command": command}
        central["ansible_python_interpreter"] = sys.executable
        rings = {ring: {} for ring in ("canary", "early", "main")}
        for till, (store, lane, ring) in self.places.items():
            also = {"store_id": store, "lane": lane, "ring": ring}
            rings[ring][till] = {**self.fleet.variables(till), **also}
        children = {ring: {"hosts": hosts} for ring, hosts in rings.items()}
        every = {"vars": {"rollout_central_command": command}}
        groups = {"all": every, "central": {"hosts": {"central-1": central}}, "tills": {"children": children}}
        path = self.folder / "hosts.json"
        path.write_text(json.dumps(groups), "utf-8")
        return path

    def start(self, *words: str | Path, kind: str = "rollout", release: Path | None = None, **variables):
        """Return the command line of a rollout, its environment, and the folder of its report."""
        self._runs += 1
        folder = self.folder / f"report-{self._runs}"
        given = json.dumps({**AT_ONCE, **variables})
        command = [sys.executable, ROLLOUT, kind, "-i", self.hosts(), "--report", folder, "-e", given]
        command += ["--release", release] if release else []
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "TILLSTREAM_"))}
        return [*command, *words], {**kept, "ANSIBLE_HOME": str(self.folder / "a")}, folder

    def roll(self, *words: str | Path, kind: str = "rollout", release: Path | None = None, **variables) -> Ended:
        """Run bin/rollout and return how it ended."""
        command, environment, folder = self.start(*words, kind=kind, release=release, **variables)
        done = self.fleet.control(*command, env=environment, check=False, timeout=600, cwd=self.folder)
        path = folder / "report.json"
        report = json.loads(path.read_text("utf-8")) if path.exists() else {}
        return Ended(done.returncode, report, done.stdout + done.stderr, folder)

    def runs(self) -> dict[str, str]:
        """Return which release each till has, by its link."""
        return {till: (self.fleet.root(till) / "opt/tillstream/current").readlink().name for till in self.tills}
