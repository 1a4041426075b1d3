"""A chain for tests: tills that are booted machines with a POS each, Mosquitto and central where the ruling machine is.

Central and its broker are this checkout's processes, so that a test of tills alone needs no server installed; what
``site.yml`` makes of a bare server has tests of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from brokers import FLEET_KEY, mosquitto_server, wait_until
from machines import CONTROL, Fleet, FleetError, base
from station import Program, tillstream

from central.database import Place
from fleet import ledger
from wire.tokens import token_of

ROOT = Path(__file__).resolve().parents[2]
PORT = 1883
PLAYBOOK = Path(sys.executable).with_name("ansible-playbook")
POS = '''
"""Closes documents until it is told to stop, as a cashier does: its books, the agent's socket or the spool."""
import sys, time
from pathlib import Path
from random import Random
from fleet.baskets import Register, documents
from fleet.catalogue import make_catalogue
from fleet.ledger import Ledger
from fleet.pos import FirstThat, Journal, Pos, Socket, SpoolFolder, not_yet_closed, ring

till, books, run, stop = sys.argv[1], Path("/var/pos"), Path("/run/tillstream"), Path("/run/pos-stop")
way = FirstThat(Socket(run / "edge.sock"), SpoolFolder(Path("/var/spool/tillstream")))
book = Ledger(books, till)
pos = Pos(book, Journal(books, till), way, lambda: ring(run / "ring"))
register = Register(till, Random(till), make_catalogue(Random(7)))
stream = not_yet_closed(documents(register, 1_772_000_000_000, 1000), book)
while not stop.exists():
    pos.close(next(stream))
    time.sleep(0.1)
while not pos.repeat():
    time.sleep(0.1)
'''


class Chain:
    """Tills from nothing, a broker and central. ``suites`` says which Debian each till has."""

    def __init__(self, folder: Path, suites: Mapping[str, str]) -> None:
        self.folder = folder
        self.fleet = Fleet(folder / "fleet", {till: [base(suite)] for till, suite in suites.items()})
        self.database = folder / "central.db"

    @property
    def tills(self) -> list[str]:
        return self.fleet.names

    def __enter__(self) -> Self:
        self.fleet.__enter__()
        inside = ["ip", "netns", "exec", self.fleet._namespace("control")]
        server = mosquitto_server(self.folder / "broker", PORT, host=CONTROL, tills=self.tills)
        self.broker = Program(self.folder / "broker.log", [*inside, *server.command], {})
        keys = {"BROKER_URLS": f"mqtt://{CONTROL}:{PORT}", "TOKEN": token_of(FLEET_KEY, "central-1")}
        keys |= {"DATABASE": str(self.database), "RECONNECT_MAX_S": "1", "TIMEOUT_S": "3", "RETRY_MIN_S": "1"}
        environment = {f"TILLSTREAM_{key}": value for key, value in keys.items()}
        self.central = Program(self.folder / "central.log", [*inside, *tillstream("central", "run")], environment)
        self.broker.start()
        self.central.start()
        return self

    def __exit__(self, *_: object) -> None:
        for program in (self.central, self.broker):
            program.stop()
        self.fleet.__exit__()

    # -- Ansible

    def inventory(self) -> Path:
        """Write the inventory, new for each run: JSON is YAML."""
        hosts = {till: self._variables(till) for till in self.tills}
        path = self.folder / "inventory.json"
        path.write_text(json.dumps({"tills": {"hosts": hosts}, "central": {"hosts": {}}}), "utf-8")
        return path.rename(path.with_suffix(".yml"))

    def _variables(self, till: str) -> dict[str, object]:
        return {
            **self.fleet.variables(till),
            "store_id": "042",
            "till_agent_tls": False,
            "till_agent_broker_urls": [f"mqtt://{CONTROL}:{PORT}"],
            "till_agent_token": token_of(FLEET_KEY, till),
            "till_agent_settings": {"reconnect_max_s": 1, "ring_again_s": 2},
            "till_agent_health_timeout_s": 10,
        }

    def play(self, text: str, *words: str, release: Path | None = None, check: bool = True):
        """Run a playbook's text; returns what it said, raises FleetError if it failed."""
        path = self.folder / "play.yml"
        path.write_text(text, "utf-8")
        variables = {}
        if release:
            version = json.loads((release / "release.json").read_text("utf-8"))["version"]
            variables = {"till_agent_version": version, "till_agent_wheelhouse": str(release)}
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "TILLSTREAM_"))}
        words = ["-i", str(self.inventory()), str(path), "-e", json.dumps(variables), *words]
        environment = {
            **kept,
            "ANSIBLE_CONFIG": str(ROOT / "ansible/ansible.cfg"),
            "ANSIBLE_HOME": str(self.folder / "a"),
        }
        return self.fleet.control(PLAYBOOK, *words, env=environment, check=check, timeout=600)

    def install(self, release: Path, *words: str):
        """Do to the tills what site.yml does."""
        return self.play(TILLS, *words, release=release)

    # -- The POS, and the proof

    def start_selling(self) -> None:
        """Let a POS close ten documents a second on each till, through power cuts and all, until ``stop_selling``."""
        for till in self.tills:
            (self.fleet.root(till) / "opt/pos.py").write_text(POS, "utf-8")
            (self.fleet.root(till) / "etc/systemd/system/pos.service").write_text(POS_UNIT.format(till=till), "utf-8")
            own = "cp -a $(readlink -f /opt/tillstream/current) /opt/pos-python; install -d -o nobody -g pos /var/pos"
            self.fleet.ssh(till, f"{own}; systemctl daemon-reload; systemctl enable --now pos")

    def stop_selling(self) -> None:
        """Let each POS close nothing more, and end when everything is handed over."""
        for till in self.tills:
            self.fleet.ssh(till, "touch /run/pos-stop; while systemctl is-active -q pos; do sleep 0.1; done")

    def closed(self) -> dict[str, dict[str, tuple[int, int]]]:
        """Return count and money by till and type, as the POS's own books have it."""
        return {till: found for each in self.tills for till, found in ledger.add_up_folder(self._books(each)).items()}

    def _books(self, till: str) -> Path:
        return self.fleet.root(till) / "var/pos"

    def stored(self) -> dict[str, dict[str, tuple[int, int]]]:
        """Return the same as central's database has it."""
        found: dict[str, dict[str, tuple[int, int]]] = {}
        for till, kind, count, total_minor in self.query(
            "SELECT till_id, transaction_type, count(*), coalesce(sum(total_minor), 0) FROM document GROUP BY 1, 2"
        ):
            found.setdefault(till, {})[kind] = (count, total_minor)
        return found

    def query(self, statement: str) -> list[tuple]:
        with contextlib.closing(Place(str(self.database)).look(to_write=False)) as database:
            return database.run(statement).fetchall()

    def is_proven(self, within_s: float = 60) -> bool:
        """Tell whether central comes to have exactly what the POS closed."""
        return wait_until(lambda: self.closed() == self.stored(), within_s)

    # -- One till

    def release(self, till: str, *words: object, check: bool = False) -> dict:
        """Run till-release on a till and return what it told, with its exit code."""
        done = self.fleet.ssh(till, f"till-release {' '.join(map(str, words))}", check=check)
        found = re.search(r"\{.*\}", done.stdout)
        if not found:
            raise FleetError(f"{till}: {done.stdout}{done.stderr}")
        return {**json.loads(found[0]), "code": done.returncode}

    def healthy(self, till: str) -> str:
        """Return the release that runs on a till, is current and connected; raises FleetError if there is none."""
        told: dict = {}

        def is_well() -> bool:
            told.update(self.release(till, "status"))
            return (
                bool(told["release"] and told["release"] == told["agent"] and told["connected"])
                and not told["activation"]
            )

        if not wait_until(is_well, 30):
            raise FleetError(f"{till}: {told}")
        return told["release"]

    def send(self, till: str, release: Path) -> None:
        """Put a release's files where staging looks for them."""
        wheels = self.fleet.root(till) / "opt/tillstream/wheels"
        subprocess.run(["cp", "-r", f"{release}/.", str(wheels)], check=True)


TILLS = """
- hosts: tills
  become: true
  gather_facts: false
  roles: [till_base, till_agent]
"""
POS_UNIT = """
[Service]
User=nobody
Group=pos
ExecStart=/opt/pos-python/bin/python /opt/pos.py {till}
Restart=on-failure
[Install]
WantedBy=multi-user.target
"""
