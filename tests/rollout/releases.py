"""Releases for tests: one that make-release made of this checkout, and others with a planted change."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from machines import made_once, run

ROOT = Path(__file__).resolve().parents[2]
Pairs = Sequence[tuple[str, str]]
MAKE = ROOT / "ansible/bin/make-release"
ROOMS = ("wire", "edge", "central", "broker", "ca", "fleet", "tillstream.py", "pyproject.toml", "ansible/bin")


def release() -> Path:
    """Return a release of this checkout for Debian 12 and 13, with a bundled Python; made once for these sources.

    What it needs of others is fetched once for these dependencies, so that a later one needs no network.
    """
    wanted = (ROOT / "pyproject.toml").read_text("utf-8").split("[tool.", 1)[0]
    with made_once("wheels", wanted, MAKE.read_text("utf-8")) as (wheels, new):
        if new:
            run(sys.executable, MAKE, "--out", wheels / "first", timeout=600)
    with made_once("release", *_sources()) as (folder, new):
        if new:
            words = ("--bundle-python", "--find-links", wheels / "first")
            run(sys.executable, MAKE, "--out", folder / "out", *words, timeout=600)
    return folder / "out"


def _sources() -> list[str]:
    paths = [
        path for room in ROOMS for path in ([ROOT / room] if (ROOT / room).is_file() else (ROOT / room).rglob("*"))
    ]
    files = sorted(path for path in paths if path.is_file() and "__pycache__" not in path.parts)
    return [f"{path.relative_to(ROOT)} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in files]


def changed(first: Path, out: Path, version: str, changes: Mapping[str, Pairs] | None = None) -> Path:
    """Make another version of a release: in each named file the first text of each pair is replaced by the second.

    Raises KeyError if a text is not there: then the planted change would be none.
    """
    shutil.copytree(first, out)
    old = next(out.glob("tillstream-*.whl"))
    was = old.name.split("-")[1]
    new = out / old.name.replace(was, version)
    with zipfile.ZipFile(old) as source, zipfile.ZipFile(new, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith(".dist-info/METADATA"):
                content = content.replace(f"Version: {was}".encode(), f"Version: {version}".encode())
            for before, after in (changes or {}).get(name, ()):
                if before not in content.decode():
                    raise KeyError(f"{name} does not hold {before!r}")
                content = content.replace(before.encode(), after.encode())
            renamed = zipfile.ZipInfo(name.replace(f"tillstream-{was}", f"tillstream-{version}"))
            renamed.compress_type = zipfile.ZIP_DEFLATED
            target.writestr(renamed, content)
    if missing := set(changes or ()) - set(zipfile.ZipFile(new).namelist()):
        raise KeyError(f"the wheel lacks {missing}")
    old.unlink()
    text = (out / "release.json").read_text("utf-8").replace(old.name, new.name)
    (out / "release.json").write_text(json.dumps({**json.loads(text), "version": version}, indent=2), "utf-8")
    seal(out)
    return out


def seal(out: Path) -> None:
    """Write the checksums of a release anew."""
    files = sorted(path for path in out.iterdir() if path.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (out / "SHA256SUMS").write_text("".join(lines), "utf-8")


def version_of(folder: Path) -> str:
    return json.loads((folder / "release.json").read_text("utf-8"))["version"]


def wheels_bytes(folder: Path, target: str) -> int:
    """Return how much a till of this kind (``3.11-x86_64``) is sent of a release."""
    listed = json.loads((folder / "release.json").read_text("utf-8"))["till"][target]
    return sum((folder / name).stat().st_size for name in listed)
