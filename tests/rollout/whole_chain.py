"""A whole chain on booted machines, made from bare ones by the very commands of the README: a server and three tills.

It is made once for these sources and kept as layers, from which each module's own machines are booted in a second.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import yaml
from brokers import wait_until
from factories import a_receipt
from machines import Fleet, base, cache, made_once, packages, run
from releases import release

ROOT = Path(__file__).resolve().parents[2]
SERVER = "hq"
TILLS = {"042-01": "bookworm", "042-02": "bookworm", "043-01": "bookworm"}
"""Named and addressed as in the inventory of the README."""
DEBIAN = ("mosquitto", "nftables", "postgresql", "postgresql-client")
SAID = "said.json"
RECAP = re.compile(r"^(\S+)\s+: ok=(\d+)\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", re.MULTILINE)

POS = """
import http.client, json, os, socket, sys, time

class Agent(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(5)
        self.sock.connect("/run/tillstream/edge.sock")

def hand_over(document):
    agent = Agent("till")
    try:
        agent.request("POST", "/documents", json.dumps(document))
        return agent.getresponse().status in (200, 201, 202)
    except OSError:
        return False
    finally:
        agent.close()

till, number = sys.argv[1], 0
with open("/opt/receipt.json") as file:
    receipt = json.load(file)
while not os.path.exists("/run/shut"):
    number += hand_over({**receipt, "document_id": f"{till}-{number}", "till_id": till, "receipt_number": number})
    with open("/run/closed.new", "w") as count:
        count.write(str(number))
    os.rename("/run/closed.new", "/run/closed")
    time.sleep(0.3)
"""
"""Closes three documents a second; what the agent did not take is handed over again, under its id."""


def commands() -> list[str]:
    """Return the commands by which the README makes a chain."""
    text = (ROOT / "README.md").read_text("utf-8").partition("## A chain: from nothing to three tills")[2]
    return text.partition("```sh\n")[2].partition("\n```")[0].splitlines()


class Chain(Fleet):
    """A server and its tills, and a copy of ``ansible/`` to rule them with, which holds the inventory."""

    machines_of_debian: tuple[str, ...] = (SERVER,)
    """Where Debian's packages are installed; the last one has the database."""

    def __init__(self, work: Path, layers: dict[str, list[Path]]) -> None:
        debian = {packages("bookworm", *DEBIAN): "/srv/debs"}
        super().__init__(work, layers, dict.fromkeys(self.machines_of_debian, debian))
        self.ansible = self.work / "checkout" / "ansible"

    @property
    def tills(self) -> list[str]:
        return [name for name in self.names if name not in self.machines_of_debian]

    def prepare(self, made: Path | None = None) -> None:
        """Copy what the README's reader has, and tell its inventory how these machines are reached."""
        left_out = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "tests", "bench", "release")
        shutil.copytree(ROOT, self.ansible.parent, ignore=left_out)
        variables = self.variables(SERVER)
        del variables["ansible_host"]  # That one, the example itself has right.
        (self.ansible / "inventory/example/group_vars/all.yml").write_text(yaml.safe_dump(variables), "utf-8")
        if made:
            (self.ansible / "release").symlink_to(made)

    def command(self, line: str, *, check: bool = True, ruled: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command line in ``ansible/`` as a person would, where the machines are reached or, unruled, here."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "TILLSTREAM_"))}
        environment = {
            **kept,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "ANSIBLE_HOME": str(self.work / "a"),
            "ANSIBLE_NOCOLOR": "1",
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(release()),
        }
        run_it = self.control if ruled else run
        return run_it("sh", "-c", line, cwd=self.ansible, env=environment, check=check, timeout=900)

    def play(self, book: str, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run one of our playbooks."""
        return self.command(
            f"ansible-playbook -i inventory/example playbooks/{book}.yml {' '.join(words)}", check=check
        )

    def offline_debian(self) -> None:
        """Let the servers' apt find its packages in a folder: they have no internet either."""
        for server in self.machines_of_debian:
            self.ssh(server, "echo 'deb [trusted=yes] file:///srv/debs ./' >/etc/apt/sources.list; apt-get -q update")

    def start_selling(self) -> None:
        """Let a POS close three documents a second on each till."""
        for till in self.tills:
            (self.root(till) / "opt/pos.py").write_text(POS, "utf-8")
            (self.root(till) / "opt/receipt.json").write_text(json.dumps(a_receipt()), "utf-8")
            self.ssh(till, f"systemd-run --quiet --unit pos python3 /opt/pos.py {till}")

    def closed(self, till: str) -> int:
        """Return how many documents the POS of a till has closed, by its own count."""
        return int(self.ssh(till, "cat /run/closed").stdout)

    def stop_selling(self) -> None:
        """Close the shops."""
        for till in self.tills:
            self.ssh(till, "touch /run/shut; while systemctl is-active -q pos; do sleep 0.1; done")
            self.ssh(till, "rm /opt/pos.py /opt/receipt.json")

    def sql(self, statement: str) -> list[list[str]]:
        """Ask central's database."""
        asked = "psql -U tillstream -d tillstream -qtA -F '|'"
        said = self.ssh(self.machines_of_debian[-1], asked, input=statement).stdout
        return [line.split("|") for line in said.splitlines()]

    def stored(self) -> dict[str, int]:
        """Return how many documents of each till central has."""
        found = {till: int(count) for till, count in self.sql("SELECT till_id, count(*) FROM document GROUP BY 1")}
        return {till: found.get(till, 0) for till in self.tills}

    def has_all(self, of: Iterable[str], within_s: float = 60) -> bool:
        """Tell whether central comes to have what these tills have closed by now."""
        closed = {till: self.closed(till) for till in of}

        def is_there() -> bool:
            stored = self.stored()
            return all(stored[till] >= count for till, count in closed.items())

        return wait_until(is_there, within_s)


def bare(work: Path, tills: dict[str, str] = TILLS) -> Chain:
    """Return bare machines that are to become a chain."""
    return Chain(work, {SERVER: [base()], **{till: [base(suite)] for till, suite in tills.items()}})


def counts(said: str) -> dict[str, dict[str, int]]:
    """Return each machine's figures of a playbook's last lines."""
    names = ("ok", "changed", "unreachable", "failed")
    return {host: dict(zip(names, map(int, numbers), strict=True)) for host, *numbers in RECAP.findall(said)}


@contextlib.contextmanager
def made_chain() -> Iterator[Path]:
    """Hold the folder of the chain that the README's commands made: its layers, and what they said."""
    with made_once("chain", *_sources()) as (folder, new):
        if new:
            _tidy()
            with bare(folder / "work") as chain:
                chain.offline_debian()
                chain.prepare()
                (folder / SAID).write_text(json.dumps([_ask(chain, line) for line in commands()]), "utf-8")
                chain.keep(folder / "layers")
                _set_timers_anew(folder / "layers" / SERVER)
                if (chain.ansible / "release").exists():
                    shutil.move(chain.ansible / "release", folder / "release")
            shutil.rmtree(folder / "work")
        yield folder


def _set_timers_anew(layer: Path) -> None:
    """Let no machine booted from this layer make up for what its timers missed while the layer lay in the cache."""
    for stamp in layer.glob("var/lib/systemd/timers/stamp-tillstream-*"):
        stamp.unlink()


def _tidy() -> None:
    """Remove chains that were made a day ago or earlier: a younger one may be in use by another checkout's tests."""
    for old in cache().glob("chain-*/.ready"):
        if time.time() - old.stat().st_mtime > 86_400:
            shutil.rmtree(old.parent)


def _ask(chain: Chain, line: str) -> dict[str, object]:
    done = chain.command(line, check=False, ruled="make-release" not in line)
    return {"command": line, "code": done.returncode, "said": done.stdout[-20_000:], "errors": done.stderr[-4_000:]}


def chain(work: Path) -> Chain:
    """Return the chain that the README's commands made, on machines of one's own; an exception tells if they failed."""
    with made_chain() as folder:
        said = json.loads((folder / SAID).read_text("utf-8"))
        for one in said:
            assert one["code"] == 0, f"{one['command']}\n{one['said']}\n{one['errors']}"
        layers = {name: [folder / "layers" / name, base(TILLS.get(name, "bookworm"))] for name in (SERVER, *TILLS)}
        ready = Chain(work, layers)
        ready.prepare(folder / "release")
        return ready


def _sources() -> list[str]:
    files = [
        path for path in sorted((ROOT / "ansible").rglob("*")) if path.is_file() and "__pycache__" not in path.parts
    ]
    files = [path for path in files if path.suffix != ".md" and (ROOT / "ansible/release") not in path.parents]
    told = [f"{path.relative_to(ROOT)} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in files]
    return [*told, *commands(), str(release()), str(base()), *DEBIAN]
