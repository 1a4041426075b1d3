"""Real machines for tests: Debian booted by systemd-nspawn over overlayfs, each with its own network namespace.

A fleet of four is up in a second and leaves nothing behind. There is no way out of the namespaces, so "a till has no
internet" is real. Everything outside the work folder is named after this process, and :func:`sweep` takes away what one
that was killed left. Root only; :func:`why_not` says what a machine lacks.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

NEEDED = ("systemd-nspawn", "mmdebstrap", "ip", "nft", "tc", "ssh", "ssh-keyscan", "rsync", "dpkg-scanpackages")
PACKAGES = (
    "systemd,systemd-sysv,dbus,libpam-systemd,openssh-server,python3,python3-apt,sudo,iproute2,ca-certificates,openssl,"
    "rsync,procps"
)
NETWORK = "198.51.100"
CONTROL = f"{NETWORK}.1"
PREFIX = "tsfleet"
KEEPS_COMPILED = Path(__file__).with_name("sitecustomize_of_machines.py")
LINK_PORT = 10
UNUSED_S = 14 * 86_400


class FleetError(Exception):
    """A machine did not do what it was told; the text holds what it said."""


def run(*words: object, check: bool = True, timeout: float = 120, **options) -> subprocess.CompletedProcess[str]:
    """Run a command and return what it said; raise FleetError with its words if it fails."""
    done = subprocess.run(
        [str(word) for word in words], check=False, text=True, capture_output=True, timeout=timeout, **options
    )
    if check and done.returncode:
        said = f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        raise FleetError(f"{shlex.join(done.args)} ended with {done.returncode}:\n{said}")
    return done


def cgroups() -> Path | None:
    """Return where the unified tree of control groups is mounted."""
    mounts = (line.split() for line in Path("/proc/self/mounts").read_text("utf-8").splitlines())
    return next((Path(where) for _, where, kind, *_ in mounts if kind == "cgroup2"), None)


def why_not() -> str | None:
    """Return why no machine can be booted here, or None."""
    if os.geteuid() != 0:
        return "booting machines takes root"
    if missing := [name for name in NEEDED if not shutil.which(name)]:
        return f"not installed: {', '.join(missing)}"
    tree = cgroups()
    if tree is None or not os.access(tree, os.W_OK) or str(tree) in _read_only():
        return "no cgroup2 tree that may be written"
    folder = cache() / f"probe-{os.getpid()}"
    for name in ("low", "up", "work", "root"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    layers = f"lowerdir={folder}/low,upperdir={folder}/up,workdir={folder}/work"
    done = run("mount", "-t", "overlay", "overlay", "-o", layers, folder / "root", check=False)
    if done.returncode == 0:
        run("umount", folder / "root")
    shutil.rmtree(folder)
    return f"no overlayfs: {done.stderr.strip()}" if done.returncode else None


def _read_only() -> set[str]:
    mounts = (line.split() for line in Path("/proc/self/mounts").read_text("utf-8").splitlines())
    return {where for _, where, _, options, *_ in mounts if "ro" in options.split(",")}


# -- What is made once for a machine -----------------------------------------------------------------------------------


def cache() -> Path:
    """Return the folder for what is made once: outside the checkout, kept between runs."""
    home = os.environ.get("XDG_CACHE_HOME")
    folder = Path(home) if home else Path("/var/cache")
    (folder / "tillstream-tests").mkdir(parents=True, exist_ok=True)
    return folder / "tillstream-tests"


@contextlib.contextmanager
def made_once(name: str, *made_of: str) -> Iterator[tuple[Path, bool]]:
    """Hold a folder of the cache, named after what it is made of; tell whether it is still to be made.

    If the body ends without an exception the folder counts as made. Other processes wait meanwhile.
    """
    digest = hashlib.sha256("\0".join(made_of).encode()).hexdigest()[:12]
    folder = cache() / f"{name}-{digest}"
    with (cache() / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ready = folder / ".ready"
        if ready.exists():
            ready.touch()
            yield folder, False
            return
        _forget_unused()
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        yield folder, True
        ready.touch()


def _forget_unused() -> None:
    """Remove what nothing asked for in two weeks."""
    for ready in cache().glob("*/.ready"):
        if time.time() - ready.stat().st_mtime > UNUSED_S:
            shutil.rmtree(ready.parent, ignore_errors=True)


def base(suite: str = "bookworm") -> Path:
    """Return a minimal Debian with sshd and Python, made the first time (about 30 s)."""
    with made_once(f"base-{suite}", PACKAGES, "1", KEEPS_COMPILED.read_text("utf-8")) as (folder, new):
        root = folder / "root"
        if new:
            _bootstrap(suite, root)
    return root


def _bootstrap(suite: str, root: Path) -> None:
    small = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*")
    words = [f"--dpkgopt=path-exclude={path}" for path in small]
    words += [f"--include={PACKAGES}", '--aptopt=Acquire::Languages "none"']
    run("mmdebstrap", "--variant=minbase", *words, suite, root, timeout=600)
    run("chroot", root, "useradd", "--create-home", "--shell", "/bin/bash", "deploy")
    may = root / "etc/sudoers.d/deploy"
    may.write_text("deploy ALL=(ALL) NOPASSWD: ALL\n", "utf-8")
    may.chmod(0o440)
    (root / "var/cache/compiled").mkdir()
    for folder in (root / "etc").glob("python3.*"):
        shutil.copy(KEEPS_COMPILED, folder / "sitecustomize.py")
    (root / "etc/apt/sources.list").write_text("", "utf-8")  # There is no way out: apt must not wait for one.
    (root / "etc/machine-id").write_text("", "utf-8")
    for key in (root / "etc/ssh").glob("ssh_host_*"):  # Made anew for each machine by `boot`.
        key.unlink()


def packages(suite: str, *names: str) -> Path:
    """Return a folder that apt can install these packages from, with all they need beyond :func:`base`."""
    with made_once(f"packages-{suite}", PACKAGES, *names) as (folder, new):
        if new:
            scratch, archives = folder / "scratch", "var/cache/apt/archives"
            fetch = 'APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-get -y --no-install-recommends --download-only install '
            out = f'mkdir -p "{folder}/debs" && cp "$1"/{archives}/*.deb "{folder}/debs/"'
            words = [f"--customize-hook={fetch}{' '.join(names)}", f"--customize-hook={out}", f"--include={PACKAGES}"]
            run("mmdebstrap", "--variant=minbase", "--skip=essential/unlink", *words, suite, scratch, timeout=900)
            shutil.rmtree(scratch)
            listed = run("dpkg-scanpackages", "-m", ".", cwd=folder / "debs", timeout=300).stdout
            (folder / "debs/Packages").write_text(listed, "utf-8")
    return folder / "debs"


# -- Machines ----------------------------------------------------------------------------------------------------------


def sweep() -> None:
    """Take away the machines of processes that are no more."""
    tree = cgroups()
    assert tree is not None
    for folder in tree.glob(f"{PREFIX}-*"):
        if not _lives(folder.name):
            with contextlib.suppress(FileNotFoundError):  # The other process of this run sweeps, too.
                (folder / "cgroup.kill").write_text("1")
            _remove_cgroup(folder)
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text("utf-8").splitlines()]
    for where in mounts:
        marker = Path(where).parent / f"{PREFIX}.owner"
        if marker.exists() and not _lives(marker.read_text("utf-8")):
            run("umount", "--lazy", where, check=False)
    for name in [line.split()[0] for line in run("ip", "netns", "list").stdout.splitlines() if line.startswith(PREFIX)]:
        if not _lives(name):
            run("ip", "netns", "del", name, check=False)


def _lives(name: str) -> bool:
    return Path(f"/proc/{name.split('-')[1]}").exists()


def _folders_in(folder: Path) -> list[Path]:
    with contextlib.suppress(FileNotFoundError):  # One that was there when it was listed.
        return sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True)
    return []


def _remove_cgroup(folder: Path) -> None:
    """Remove a machine's control groups; the kernel needs a moment to empty them."""
    deadline = time.monotonic() + 10
    while folder.exists():
        for path in (*_folders_in(folder), folder):
            with contextlib.suppress(OSError):
                path.rmdir()
        if time.monotonic() > deadline:
            raise FleetError(f"{folder} does not go away")
        time.sleep(0.02)


class Fleet:
    """Machines on one bridge, and the place that rules them: ``control`` (198.51.100.1)."""

    def __init__(
        self, work: Path, layers: Mapping[str, Sequence[Path]], binds: Mapping[str, Mapping[Path, str]] | None = None
    ) -> None:
        """Take each machine's name with its lower layers, topmost first, and what it may read of this one's files.

        >>> Fleet(work, {"central": [base()], "till-0001": [base("trixie")]}, {"central": {debs: "/srv/debs"}})
        """
        self.work = work.resolve()
        self._layers = {name: list(layers) for name, layers in layers.items()}
        self._binds = binds or {}
        self.ports = {name: LINK_PORT + place for place, name in enumerate(self._layers)}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._prefix = f"{PREFIX}-{os.getpid()}-{hashlib.sha256(str(self.work).encode()).hexdigest()[:6]}"
        self._groups: Path = cgroups() or Path("/")

    @property
    def names(self) -> list[str]:
        return list(self._layers)

    def __enter__(self) -> Self:
        try:
            self._lay_network()
            for name in self._layers:
                self.boot(name, wait=False)
            for name in self._layers:
                self.wait(name)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.forget_connections()
        for name in self._layers:
            self._end(name, hard=True)
            run("umount", "--lazy", self.root(name), check=False)
            shutil.rmtree(self.work / name / "work", ignore_errors=True)
        for name in (*self._layers, "control"):
            run("ip", "netns", "del", self._namespace(name), check=False)

    # -- The network

    def _namespace(self, name: str) -> str:
        return f"{self._prefix}-{name}"

    def address(self, name: str) -> str:
        return CONTROL if name == "control" else f"{NETWORK}.{self.ports[name]}"

    def _lay_network(self) -> None:
        self.work.mkdir(parents=True, exist_ok=True)
        if not self.key.exists():
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key)
        control = self._namespace("control")
        run("ip", "netns", "add", control)
        bridge = f"""link set lo up
            link add br0 type bridge
            addr add {CONTROL}/24 dev br0
            link set br0 up"""
        _ip(control, bridge)
        for name, port in self.ports.items():
            run("ip", "netns", "add", self._namespace(name))
            _ip(control, f"link add v{port} type veth peer name host0 netns {self._namespace(name)}")
            _ip(control, f"link set v{port} master br0 up")
            _ip(self._namespace(name), f"link set lo up\naddr add {self.address(name)}/24 dev host0\nlink set host0 up")

    def link(self, name: str, *, up: bool) -> None:
        """Plug a machine's cable in or out."""
        _ip(self._namespace("control"), f"link set v{self.ports[name]} {'up' if up else 'down'}")

    def shape(self, name: str, rate: str) -> None:
        """Make the way to a machine as slow as ``128kbit``."""
        where = ("tc", "-n", self._namespace("control"), "qdisc", "replace", "dev", f"v{self.ports[name]}", "root")
        run(*where, "tbf", "rate", rate, "burst", "8kb", "latency", "400ms")

    def unshape(self, name: str) -> None:
        run("tc", "-n", self._namespace("control"), "qdisc", "del", "dev", f"v{self.ports[name]}", "root")

    def sent(self, name: str) -> tuple[int, int]:
        """Return how many bytes have gone to a machine and come from it over its cable."""
        listed = json.loads(run("ip", "-n", self._namespace("control"), "-s", "-j", "link").stdout)
        numbers = next(entry["stats64"] for entry in listed if entry["ifname"] == f"v{self.ports[name]}")
        return numbers["tx"]["bytes"], numbers["rx"]["bytes"]

    # -- Power

    def root(self, name: str) -> Path:
        """Return a machine's file system as this one sees it."""
        return self.work / name / "root"

    def boot(self, name: str, *, wait: bool = True) -> None:
        """Switch a machine on."""
        folder, root = self.work / name, self.root(name)
        for part in ("up", "work", "root"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / f"{PREFIX}.owner").write_text(self._prefix, "utf-8")
        if not root.is_mount():
            lower = ":".join(str(layer) for layer in self._layers[name])
            options = f"lowerdir={lower},upperdir={folder}/up,workdir={folder}/work"
            run("mount", "-t", "overlay", "overlay", "-o", options, root)
            self._name(name, root)
        group = self._groups / self._namespace(name)  # Without one of its own all machines would share one "payload".
        group.mkdir(exist_ok=True)
        words = ["systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit", "-D", str(root)]
        words += [f"--machine={name}", f"--network-namespace-path=/run/netns/{self._namespace(name)}"]
        words += ["--console=pipe", "--resolv-conf=off", "--timezone=off"]
        words += ["--capability=CAP_NET_ADMIN"]  # Over its own network: a server has rules of nftables.
        words += [f"--bind-ro={here}:{there}" for here, there in self._binds.get(name, {}).items()]
        enter = ["sh", "-c", 'echo $$ > "$0/cgroup.procs"; exec "$@"', str(group), *words]
        environment = {**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}  # The host's tree may be the old one.
        with (folder / "console.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                enter, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=environment
            )
        if wait:
            self.wait(name)

    def _name(self, name: str, root: Path) -> None:
        """Give a new machine its name, the others' names, its host key and the key that rules it."""
        (root / "etc/hostname").write_text(f"{name}\n", "utf-8")
        hosts = [f"{self.address(other)} {other}" for other in (*self._layers, "control")]
        (root / "etc/hosts").write_text("\n".join(["127.0.0.1 localhost", *hosts, ""]), "utf-8")
        for old in (root / "etc/ssh").glob("ssh_host_*"):
            old.unlink()
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", root / "etc/ssh/ssh_host_ed25519_key")
        public = (root / "etc/ssh/ssh_host_ed25519_key.pub").read_text("utf-8").split()[:2]
        known = self.work / "known_hosts"
        lines = known.read_text("utf-8").splitlines() if known.exists() else []
        entry = f"{name},{self.address(name)} {' '.join(public)}"
        known.write_text("\n".join([*(line for line in lines if not line.startswith(f"{name},")), entry, ""]), "utf-8")
        keys = root / "home/deploy/.ssh/authorized_keys"
        keys.parent.mkdir(mode=0o700, exist_ok=True)
        shutil.copy(f"{self.key}.pub", keys)
        owner = keys.parent.parent.stat()
        for path in (keys.parent, keys):
            os.chown(path, owner.st_uid, owner.st_gid)

    def wait(self, name: str, seconds: float = 30) -> None:
        """Wait until a machine answers by ssh and has started all its units."""
        deadline = time.monotonic() + seconds
        while self.ssh(name, "true", check=False).returncode:
            if time.monotonic() > deadline:
                log = (self.work / name / "console.log").read_text("utf-8", "replace")
                raise FleetError(f"{name} does not answer; its console said:\n{log[-3000:]}")
            time.sleep(0.05)
        self.ssh(name, "systemctl is-system-running --wait", check=False)

    def cut_power(self, name: str) -> None:
        """Kill a machine where it stands; what it wrote stays."""
        self._end(name, hard=True)

    def shut_down(self, name: str) -> None:
        self._end(name, hard=False)

    def _end(self, name: str, *, hard: bool) -> None:
        process, group = self._processes.pop(name, None), self._groups / self._namespace(name)
        if process:
            if hard:
                (group / "cgroup.kill").write_text("1")
            else:
                process.send_signal(signal.SIGTERM)
            process.wait(60)
        _remove_cgroup(group)

    # -- Ruling machines

    @property
    def key(self) -> Path:
        return self.work / "id"

    def control(self, *words: object, **options) -> subprocess.CompletedProcess[str]:
        """Run a command where the ruling machine stands."""
        return run("ip", "netns", "exec", self._namespace("control"), *words, **options)

    def ssh(self, name: str, command: str, **options) -> subprocess.CompletedProcess[str]:
        """Run a shell's command line as root on a machine."""
        words = ["ssh", "-i", self.key, "-o", f"UserKnownHostsFile={self.work}/known_hosts", "-o", "BatchMode=yes"]
        words += ["-o", "ConnectTimeout=3", "-o", "ServerAliveInterval=3", "-o", "ServerAliveCountMax=3"]
        words += [f"deploy@{self.address(name)}", f"sudo sh -c {shlex.quote(command)}"]
        return self.control(*words, **options)

    def variables(self, name: str) -> dict[str, object]:
        """Return what Ansible's inventory has to say of a machine so that it is reached."""
        # Addresses are the same in every fleet: a connection that is kept open must not be taken for another fleet's.
        own = f"-o UserKnownHostsFile={self.work}/known_hosts -o ControlPath={self._kept_connection('%h')}"
        return {
            "ansible_host": self.address(name),
            "ansible_user": "deploy",
            "ansible_ssh_private_key_file": str(self.key),
            "ansible_ssh_common_args": own,
        }

    def _kept_connection(self, address: str) -> str:
        return f"/tmp/{self._prefix}-{address}"

    def forget_connections(self) -> None:
        """End the connections that Ansible keeps open; they would keep the network alive."""
        for name in self._layers:
            path = self._kept_connection(self.address(name))
            if Path(path).exists():
                run("ssh", "-O", "exit", "-o", f"ControlPath={path}", self.address(name), check=False)

    def keep(self, folder: Path) -> dict[str, list[Path]]:
        """Shut all machines down and keep what they wrote; return layers for other fleets to start from."""
        for name in self._layers:
            self.shut_down(name)
            run("umount", self.root(name))
            kept = folder / name
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(self.work / name / "up", kept)
        return {name: [folder / name, *layers] for name, layers in self._layers.items()}


def _ip(namespace: str, commands: str) -> None:
    run("ip", "-n", namespace, "-batch", "-", input=commands)
