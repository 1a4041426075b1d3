#!/usr/bin/python3
"""Puts releases of tillstream on this machine, switches between them, and goes back by itself when one is not healthy.

Installed as ``/usr/local/sbin/till-release``. It needs Python 3.9 and nothing else: no pip, no network, no release of
tillstream that works. What has to survive a cut link runs in a unit of its own; what has to survive a cut power stands
in ``pending.json`` before it is done.
"""

from __future__ import annotations

import argparse
import configparser
import contextlib
import fcntl
import hashlib
import http.client
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

UNIT = "tillstream-edge.service"
UNIT_FILE = Path("/etc/systemd/system") / UNIT
CONFIG = Path("/etc/tillstream/edge.toml")
SOCKET = "/run/tillstream/edge.sock"
OUTBOX = Path("/var/lib/tillstream/outbox.db")
ROOT = Path("/opt/tillstream")
LOCK = Path("/run/till-release.lock")

DONE, FAILED, WENT_BACK = 0, 1, 3
RESERVE_BYTES = 64 * 2**20
"""Room that staging leaves to the outbox."""
COPY_LIMIT_BYTES = 256 * 2**20
UNPACKED_FACTOR = 2
"""Compiled modules need about as much again as what a wheel unpacks to."""
LOOK_EVERY_S, SETTLE_S, RESTARTS_MAX = 0.2, 2.0, 3
PARTS = ("till", "server")


class RefusedError(Exception):
    """It was not done, and nothing that runs was touched; the text says why and what helps."""


# -- Files that survive a power cut ------------------------------------------------------------------------------------


def sync_folder(folder):
    """Make what was renamed in a folder last."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def put(name, told):
    """Replace one of our records, all of it or nothing."""
    scratch = ROOT / f".{name}.new"
    with scratch.open("w", encoding="utf-8") as file:
        json.dump(told, file)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(ROOT / name)
    sync_folder(ROOT)


def get(name):
    """Return a record; None if there is none, or none that can be read."""
    try:
        return json.loads((ROOT / name).read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def drop(name):
    """Remove a record."""
    with contextlib.suppress(FileNotFoundError):
        (ROOT / name).unlink()
    sync_folder(ROOT)


def point(name, version):
    """Let ``current`` or ``previous`` be this release, in one step."""
    scratch = ROOT / f".{name}.new"
    with contextlib.suppress(FileNotFoundError):
        scratch.unlink()
    scratch.symlink_to(f"releases/{version}")
    scratch.replace(ROOT / name)
    sync_folder(ROOT)


def pointed(name):
    """Return the release that a link names, or None."""
    try:
        return (ROOT / name).readlink().name
    except FileNotFoundError:
        return None


@contextlib.contextmanager
def alone():
    """Hold the lock of this machine; raises RefusedError while another till-release has it."""
    with LOCK.open("a", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RefusedError("another till-release is at work: try again when it has ended") from None
        yield


# -- Staging -----------------------------------------------------------------------------------------------------------


def stage(version, part, sums):
    """Build a release beside the others from the wheels that lie in ``wheels``; nothing that runs is touched."""
    with alone():
        listed, release = read_release(version, sums)
        place = ROOT / "releases" / version
        if is_staged(version) and (place / "SHA256SUMS").read_bytes() == (ROOT / "wheels/SHA256SUMS").read_bytes():
            return {"ok": True, "changed": False, "release": version}
        if is_staged(version) and version in (pointed("current"), pointed("previous")):
            raise RefusedError(f"{version} is in use and was made of other files: give the new one a new version")
        target, bundle = choose_python(release, part)
        names = release[part][target]
        check_files([*names, *([bundle] if bundle else [])], listed)
        check_room(names, bundle)
        build(place, version, interpreter(target, bundle), names)
    return {"ok": True, "changed": True, "release": version, "python": target}


def read_release(version, sums):
    """Return the checksums and the description of what lies in ``wheels``, after they were found to belong together."""
    try:
        raw = (ROOT / "wheels/SHA256SUMS").read_bytes()
        listed = {name: digest for digest, name in (line.split(None, 1) for line in raw.decode().splitlines())}
        if sums and hashlib.sha256(raw).hexdigest() != sums:
            raise RefusedError("SHA256SUMS is not the one that was sent for: send the release again")
        check_files(["release.json"], listed)
        release = json.loads((ROOT / "wheels/release.json").read_text("utf-8"))
    except FileNotFoundError as problem:
        raise RefusedError(f"{problem.filename} is missing: send the release first") from None
    if release["version"] != version:
        raise RefusedError(f"{ROOT}/wheels holds release {release['version']}, not {version}: send that first")
    return listed, release


def check_files(names, listed):
    """Refuse a file that is missing, not listed, or has a changed byte."""
    for name in names:
        if name not in listed or "/" in name:
            raise RefusedError(f"SHA256SUMS does not list {name}: the release was made wrong")
        path = ROOT / "wheels" / name
        if not path.exists():
            raise RefusedError(f"{name} is missing: send the release again")
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
        if digest.hexdigest() != listed[name]:
            raise RefusedError(f"{name} is damaged, its checksum differs: send the release again")


def choose_python(release, part):
    """Return what the wheels must fit, as ``3.11-x86_64``, and the bundled interpreter's file if it takes that one."""
    machine = platform.machine()
    for target in release[part]:
        if target.endswith(f"-{machine}") and system_python(target):
            return target, None
    bundle = release.get("python", {}).get(machine)
    if bundle is None:
        raise RefusedError(
            f"no Python here fits the release, which is made for {', '.join(release[part])};"
            f" here is {platform.python_version()} on {machine}: make it with --python for that, or --bundle-python"
        )
    return f"{'.'.join(bundle.split('-')[1].split('.')[:2])}-{machine}", bundle


def system_python(target):
    """Return the system's interpreter of a version, or None."""
    return shutil.which(f"python{target.split('-')[0]}", path="/usr/local/bin:/usr/bin:/bin")


def interpreter(target, bundle):
    """Return the interpreter that a release will run with, unpacking the bundled one first."""
    if bundle is None:
        return system_python(target)
    place = ROOT / "python" / bundle.replace(".tar.gz", "")
    if not place.exists():
        scratch = place.with_name(f".{place.name}.new")
        shutil.rmtree(scratch, ignore_errors=True)
        with tarfile.open(ROOT / "wheels" / bundle) as archive:
            archive.extractall(scratch)  # noqa: S202 -- Its checksum was compared a moment ago.
        os.sync()
        scratch.rename(place)
    return place / "bin/python3"


def check_room(names, bundle):
    """Refuse to fill the disk that the outbox needs."""
    need = RESERVE_BYTES
    for name in names:
        with zipfile.ZipFile(ROOT / "wheels" / name) as wheel:
            need += UNPACKED_FACTOR * sum(entry.file_size for entry in wheel.infolist())
    if bundle:
        need += 4 * (ROOT / "wheels" / bundle).stat().st_size
    free = free_bytes(ROOT)
    if free < need:
        raise RefusedError(
            f"{free >> 20} MiB are free in {ROOT}, staging needs {need >> 20}: make room (till-release gc)"
        )


def free_bytes(folder):
    """Return the room that is left on a folder's disk, in bytes."""
    room = os.statvfs(folder)
    return room.f_bavail * room.f_frsize


def build(place, version, python, names):
    """Build a release in a scratch folder and give it its name when it is whole."""
    scratch = place.with_name(f".{version}.new")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        run(python, "-m", "venv", "--without-pip", scratch)
        for script in [*(scratch / "bin").glob("[aA]ctivate*")]:
            script.unlink()
        library = next((scratch / "lib").glob("python*/site-packages"))
        for name in names:
            unpack_wheel(ROOT / "wheels" / name, library, scratch / "bin", place / "bin/python")
        run(scratch / "bin/python", "-m", "compileall", "-q", library)
        said = run(
            scratch / "bin/python", "-c", "import importlib.metadata as m; print(m.version('tillstream'))"
        ).strip()
        if said != version:
            raise RefusedError(f"its wheels hold tillstream {said}, not {version}: the release was made wrong")
        for name in ("release.json", "SHA256SUMS"):
            shutil.copy(ROOT / "wheels" / name, scratch / name)
        os.sync()
        (scratch / ".complete").touch()
        shutil.rmtree(place, ignore_errors=True)
        scratch.rename(place)
        os.sync()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def unpack_wheel(path, library, programs, python):
    """Put a wheel's files where they belong, and make the programs that it names."""
    with zipfile.ZipFile(path) as wheel:
        wheel.extractall(library)  # noqa: S202 -- Its checksum was compared a moment ago.
        listed = [name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt")]
        texts = [wheel.read(name).decode() for name in listed]
    for data in library.glob("*.data"):
        shutil.rmtree(data)
    for text in texts:
        points = configparser.ConfigParser(delimiters=("=",))
        points.optionxform = str
        points.read_string(text)
        for name, target in points.items("console_scripts") if points.has_section("console_scripts") else ():
            module, function = target.split(":")
            program = programs / name
            program.write_text(f"#!{python}\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n")
            program.chmod(0o755)


def run(*words):
    """Run a command and return what it said; raises RefusedError with its words if it fails."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RefusedError(f"{words[0]} ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    return done.stdout


def is_staged(version):
    """Tell whether a release is here, whole; an upgrade of Debian takes the Python away that it was built for."""
    place = ROOT / "releases" / version
    return (place / ".complete").exists() and (place / "bin/python").exists()


def staged():
    """Return the names of the releases that are here, the one that was built last at the end."""
    marks = sorted((ROOT / "releases").glob("[!.]*/.complete"), key=lambda path: path.stat().st_mtime)
    return [mark.parent.name for mark in marks if is_staged(mark.parent.name)]


# -- Health ------------------------------------------------------------------------------------------------------------


class AgentConnection(http.client.HTTPConnection):
    """HTTP to the agent's socket: asked without a line of the release's code, which may be the sick part."""

    def connect(self):
        """Connect to it; raises OSError if nobody listens."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(SOCKET)


def ask_agent():
    """Return what the agent says of itself, or None if it says nothing that can be read."""
    connection = AgentConnection("localhost", timeout=5)
    try:
        connection.request("GET", "/status")
        answer = connection.getresponse()
        told = json.loads(answer.read())
    except (OSError, ValueError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    return told if answer.status == 200 and isinstance(told, dict) else None


def ask_systemd():
    """Return the agent's unit as systemd sees it."""
    said = subprocess.run(
        ["systemctl", "show", UNIT, "--property=ActiveState,MainPID,NRestarts"],
        capture_output=True, text=True, check=False,
    ).stdout  # fmt: skip
    return dict(line.split("=", 1) for line in said.splitlines())


def what_is_wrong(version, *, connected):
    """Return why the running agent is not what it should be, or an empty text."""
    if ask_systemd().get("ActiveState") != "active":
        return "the agent does not stay up (journalctl -u tillstream-edge)"
    told = ask_agent()
    if told is None:
        return "the agent does not answer"
    if told.get("version") != version:
        return f"the agent that answers is {told.get('version')}"
    if connected and not told.get("connected"):
        return f"the agent finds no way to the broker, and the one before did: {told.get('last_error')}"
    return ""


def prove(version, timeout_s, *, connected=False):
    """Look until the agent has been healthy for SETTLE_S, as one process; return why it is not, or an empty text."""
    deadline, since, process, why = time.monotonic() + timeout_s, None, None, "it was not looked at"
    while time.monotonic() < deadline or (since and not why):
        unit = ask_systemd()
        why = what_is_wrong(version, connected=connected)
        if why or since is None or unit.get("MainPID") != process:
            since, process = None if why else time.monotonic(), unit.get("MainPID")
        elif time.monotonic() - since >= SETTLE_S:
            return ""
        if int(unit.get("NRestarts") or 0) >= RESTARTS_MAX:
            return f"it ended {unit['NRestarts']} times; at last {why or 'it answered'}"
        time.sleep(LOOK_EVERY_S)
    return why


# -- Switching ---------------------------------------------------------------------------------------------------------


def systemctl(*words):
    """Tell systemd something about the agent; what comes of it is looked at, not believed."""
    subprocess.run(["systemctl", *words, UNIT], capture_output=True, check=False)


def note(pending, step):
    """Write down how far an activation has come, before it goes on."""
    pending["step"] = step
    put("pending.json", pending)


def switch(version, timeout_s, number):
    """Make a staged release the current one and prove it healthy, or go back to the one before."""
    if pending := get("pending.json"):
        settle(pending, timeout_s)
    before = pointed("current")
    if not is_staged(version):
        raise RefusedError(f"{version} is not staged here: till-release stage {version}")
    if before == version and not what_is_wrong(version, connected=False):
        return {"ok": True, "changed": False, "release": version}
    started, told = time.monotonic(), ask_agent() or {}
    pending = {"id": number, "from": before, "to": version, "connected": bool(told.get("connected"))}
    note(pending, "begun")
    try:
        copied = change_over(pending)
        why = prove(version, timeout_s, connected=pending["connected"])
        if not why:
            note(pending, "healthy")
    except OSError as problem:  # The disk is full, or worse.
        why = str(problem)
    if why:
        return go_back(pending, why, timeout_s)
    commit(pending)
    seconds = round(time.monotonic() - started, 1)
    return {"ok": True, "changed": True, "release": version, "was": before, "copied": copied, "seconds": seconds}


def change_over(pending):
    """Stop the agent, lay a copy of its outbox aside, and start the new release; tell whether there is a copy."""
    systemctl("stop")
    note(pending, "stopped")
    copied = copy_outbox()
    note(pending, "copied")
    point("current", pending["to"])
    note(pending, "switched")
    systemctl("reset-failed")
    systemctl("start", "--no-block")
    note(pending, "started")
    return copied


def commit(pending):
    """Keep the new release: from here on nothing goes back by itself."""
    if pending["from"] not in (None, pending["to"]):
        point("previous", pending["from"])
    drop("pending.json")
    shutil.rmtree(ROOT / "before", ignore_errors=True)


def copy_outbox():
    """Lay a copy of the stopped agent's outbox aside for a person, if there is room; tell whether there was."""
    kept = ROOT / "before"
    shutil.rmtree(kept, ignore_errors=True)
    files = [path for path in (OUTBOX, OUTBOX.with_name(f"{OUTBOX.name}-wal")) if path.exists()]
    size = sum(path.stat().st_size for path in files)
    if size > min(COPY_LIMIT_BYTES, free_bytes(ROOT) - RESERVE_BYTES):
        return False
    kept.mkdir(mode=0o700)
    for path in files:
        shutil.copy2(path, kept / path.name)
    os.sync()
    return True


def go_back(pending, why, timeout_s):
    """Run the release from before again. Its copy of the outbox stays aside: newer documents are in the outbox only."""
    before, bad = pending["from"], pending["to"]
    told = {"ok": False, "changed": False, "release": before, "bad": bad, "why": why}
    with contextlib.suppress(OSError):  # The disk may be full: what must be done takes no room.
        note(pending, "going back")
    if before == bad:  # It was started anew, and nothing else was switched: systemd goes on trying.
        drop("pending.json")
        return {**told, "healthy": False}
    systemctl("stop")
    if before is None:
        with contextlib.suppress(FileNotFoundError):
            (ROOT / "current").unlink()
        drop("pending.json")
        return {**told, "healthy": False}
    point("current", before)
    systemctl("reset-failed")
    systemctl("start", "--no-block")
    still = prove(before, timeout_s)
    drop("pending.json")
    if not still:
        shutil.rmtree(ROOT / "before", ignore_errors=True)
    return {**told, "healthy": not still, **({"why_not_healthy": still} if still else {})}


def settle(pending, timeout_s):
    """End an activation that was cut: keep what it switched to if that is healthy, go back otherwise."""
    version = pending["to"]
    if pointed("current") != version:
        return go_back(pending, "it was cut before the switch", timeout_s)
    systemctl("start", "--no-block")
    why = prove(version, timeout_s, connected=pending["connected"])
    if why:
        return go_back(pending, f"it was cut, and then: {why}", timeout_s)
    commit(pending)
    return {"ok": True, "changed": True, "release": version, "was": pending["from"]}


def recover(timeout_s):
    """End what a power cut interrupted; runs at boot."""
    with alone():
        pending = get("pending.json")
        if pending is None:
            drop("pending.json")
            return {"ok": True, "changed": False, "release": pointed("current")}
        told = {**settle(pending, timeout_s), "recovered": True}
        with contextlib.suppress(OSError):  # Whoever still waits for the activation hears what became of it.
            put("result.json", {**told, "id": pending.get("id")})
        return told


def activate(version, timeout_s):
    """Switch to a release in a unit of its own, which a lost link does not stop, and wait for what comes of it."""
    if not is_staged(version):
        raise RefusedError(f"{version} is not staged here: till-release stage {version}")
    number = str(time.time_ns())
    unit = f"till-release-{number}.service"
    words = ["--quiet", "--collect", f"--unit={unit}", "--property=OnFailure=tillstream-recover.service"]
    run("systemd-run", *words, sys.executable, Path(sys.argv[0]).resolve(), "activate", version,
        "--timeout-s", timeout_s, "--inner", number)  # fmt: skip
    while True:
        works = is_active(unit) or is_active("tillstream-recover.service") or get("pending.json")
        told = get("result.json") or {}
        if told.pop("id", None) == number:
            return told
        if not works:
            why = f"it ended without a word: journalctl -u {unit}"
            return {"ok": False, "changed": False, "release": pointed("current"), "why": why}
        time.sleep(LOOK_EVERY_S)


def is_active(unit):
    """Tell whether a unit runs or is about to."""
    said = subprocess.run(["systemctl", "is-active", unit], capture_output=True, text=True, check=False).stdout
    return said.strip() in ("active", "activating")


def activate_inner(version, timeout_s, number):
    """Do it, and leave what came of it for whoever waits or asks later."""
    try:
        with alone():
            told = switch(version, timeout_s, number)
    except (RefusedError, OSError) as problem:
        told = {"ok": False, "changed": False, "release": pointed("current"), "why": str(problem)}
    put("result.json", {**told, "id": number})
    return told


def rollback(timeout_s):
    """Go to the release that was current before."""
    before = pointed("previous")
    if before is None:
        raise RefusedError("there is no release before this one")
    return activate(before, timeout_s)


def link(version):
    """Make a staged release current without starting or proving anything: for servers, whose units are several."""
    with alone():
        if not is_staged(version):
            raise RefusedError(f"{version} is not staged here: till-release stage {version}")
        before = pointed("current")
        if before == version:
            return {"ok": True, "changed": False, "release": version}
        point("current", version)
        if before:
            point("previous", before)
        return {"ok": True, "changed": True, "release": version, "was": before}


# -- Looking and tidying -----------------------------------------------------------------------------------------------


def status():
    """Tell in one short line what a rollout has to know of this machine."""
    agent, pending = ask_agent() or {}, get("pending.json")
    return {
        "release": pointed("current"),
        "previous": pointed("previous"),
        "staged": {name: digest_of(ROOT / "releases" / name / "SHA256SUMS") for name in staged()},
        "agent": agent.get("version"),
        "connected": agent.get("connected", False),
        "unsent": agent.get("unsent"),
        "activation": pending and pending.get("step"),
        "python": [f"3.{minor}" for minor in range(9, 20) if system_python(f"3.{minor}")],
        "machine": platform.machine(),
        "free_mib": free_bytes(ROOT) >> 20,
        "certificate_days": (agent.get("certificate") or {}).get("days_left"),
        "digests": {name: digest_of(path) for name, path in (("unit", UNIT_FILE), ("config", CONFIG))},
    }


def digest_of(path):
    """Return the beginning of a file's checksum, enough to see a change by; None if there is no file."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    except FileNotFoundError:
        return None


def gc(keep):
    """Remove releases beyond the newest few, never one in use, and wheels that no release here was made of."""
    with alone():
        if get("pending.json"):
            raise RefusedError("an activation is under way: try again when it has ended")
        used = {pointed("current"), pointed("previous"), *staged()[::-1][:keep]}
        old = [path for path in (ROOT / "releases").iterdir() if path.name not in used]
        for path in old:
            shutil.rmtree(path)
        needed = {"SHA256SUMS"}
        for sums in [*(ROOT / "releases").glob("*/SHA256SUMS"), ROOT / "wheels/SHA256SUMS"]:
            if sums.exists():
                needed |= {line.split()[1] for line in sums.read_text("utf-8").splitlines()}
        stray = [path for path in (ROOT / "wheels").iterdir() if path.name not in needed]
        for path in stray:
            path.unlink()
    return {"ok": True, "changed": bool(old or stray), "removed": sorted(path.name for path in [*old, *stray])}


# -- The command line --------------------------------------------------------------------------------------------------

ABOUT = """Put releases of tillstream on this machine, switch between them, and go back when one is not healthy.

  till-release stage 1.4.0        build it from the wheels in /opt/tillstream/wheels; nothing running is touched
  till-release activate 1.4.0     switch, restart, prove it healthy within --timeout-s, otherwise go back
  till-release status             what is here and what runs
  till-release rollback           back to the release before
  till-release recover            end an activation that a power cut interrupted; runs at boot
  till-release gc                 remove old releases and wheels
  till-release link 1.4.0         on a server: switch only; its units are restarted by whoever calls

Every command tells what came of it in one line of JSON.
Exit codes: 0 done or nothing to do; 1 not done, the text says why; 2 usage; 3 the release was not healthy, and the one
before runs again."""


def version_text(text):
    """Return a version that can be the name of a folder."""
    if not re.fullmatch(r"[0-9A-Za-z][0-9A-Za-z.+-]{0,63}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no version, such as 1.4.0")
    return text


def arguments():
    """Read the command line."""
    parser = argparse.ArgumentParser(description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    stage_ = commands.add_parser("stage", help="build a release from its wheels")
    stage_.add_argument("version", type=version_text)
    stage_.add_argument("--for", dest="part", choices=PARTS, default="till", help="whose wheels (default: till)")
    stage_.add_argument(
        "--sums", default="", metavar="SHA256", help="refuse another SHA256SUMS than the one of this hash"
    )
    for name, text in (("activate", "switch to a staged release"), ("rollback", "back to the release before"),
                       ("recover", "end what a power cut interrupted")):  # fmt: skip
        command = commands.add_parser(name, help=text)
        if name == "activate":
            command.add_argument("version", type=version_text)
            command.add_argument("--inner", help=argparse.SUPPRESS)
        command.add_argument(
            "--timeout-s", type=float, default=20, help="how long it has to become healthy (default: 20)"
        )
    commands.add_parser("link", help="on a server: switch only").add_argument("version", type=version_text)
    commands.add_parser("status", help="what is here and what runs")
    gc_ = commands.add_parser("gc", help="remove old releases and wheels")
    gc_.add_argument(
        "--keep", type=int, default=3, help="how many of the newest stay besides those in use (default: 3)"
    )
    return parser.parse_args()


def carry_out(asked):
    """Do what was asked and return what came of it."""
    if asked.command == "stage":
        return stage(asked.version, asked.part, asked.sums)
    if asked.command == "activate" and asked.inner:
        return activate_inner(asked.version, asked.timeout_s, asked.inner)
    if asked.command == "activate":
        return activate(asked.version, asked.timeout_s)
    if asked.command in ("rollback", "recover"):
        return (rollback if asked.command == "rollback" else recover)(asked.timeout_s)
    if asked.command == "link":
        return link(asked.version)
    return gc(asked.keep) if asked.command == "gc" else {"ok": True, **status()}


def main():
    """Do one command."""
    os.umask(0o022)
    asked = arguments()
    if not (ROOT / "releases").is_dir():
        (ROOT / "releases").mkdir(parents=True)
    try:
        told = carry_out(asked)
    except RefusedError as problem:
        told = {"ok": False, "changed": False, "why": str(problem)}
    except OSError as problem:
        told = {"ok": False, "changed": False, "why": f"{problem}; nothing was switched"}
    print(json.dumps(told))
    if told["ok"]:
        return DONE
    return WENT_BACK if told.get("healthy") else FAILED


if __name__ == "__main__":
    sys.exit(main())
