"""Owns a disk of its own: an ext4 in a file, that loses its power, comes back, and can be filled.

EXT4_IOC_SHUTDOWN without flushing drops at once all that was not synced, as a power cut does; the next mount recovers
the journal. Needs root and loop devices.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import struct
import subprocess
from functools import cache
from pathlib import Path
from typing import Self

from brokers import wait_until

EXT4_IOC_SHUTDOWN, WITHOUT_FLUSH = 0x8004587D, 2
MKFS = shutil.which("mkfs.ext4") or shutil.which("/usr/sbin/mkfs.ext4")
WITHIN_S = 20


class LoopDisk:
    """A mounted disk; `folder` is where."""

    def __init__(self, folder: Path, size_bytes: int) -> None:
        self.folder, self._around, self._image = folder / "disk", folder, folder / "disk.img"
        self._size_bytes = size_bytes

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True)
        # Shared: whoever copies all mounts meanwhile, as `ip netns exec` does for a program, lets go with us. Else the
        # disk stays in use there, and is not read anew when it is mounted again.
        subprocess.run(["mount", "--bind", str(self._around), str(self._around)], check=True)
        subprocess.run(["mount", "--make-shared", str(self._around)], check=True)
        with self._image.open("wb") as image:
            image.truncate(self._size_bytes)
        subprocess.run([MKFS, "-q", "-F", "-m", "0", str(self._image)], check=True)
        self.mount()
        return self

    def __exit__(self, *_: object) -> None:
        if os.path.ismount(self.folder):
            self.unmount()
        self._image.unlink()
        subprocess.run(["umount", "-l", str(self._around)], check=True)

    def mount(self) -> None:
        subprocess.run(["mount", "-o", "loop", str(self._image), str(self.folder)], check=True)

    def cut_power(self) -> None:
        """Drop at once all that was not synced; whatever is asked of the disk from now on fails."""
        mounted = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(mounted, EXT4_IOC_SHUTDOWN, struct.pack("I", WITHOUT_FLUSH))
        finally:
            os.close(mounted)

    def fill(self) -> None:
        """Leave no room for anything."""
        with (self.folder / "filler").open("ab", buffering=0) as file:
            for size_bytes in (2**20, 2**12, 512):
                with contextlib.suppress(OSError):  # It is full: that is what is wanted.
                    while True:
                        file.write(bytes(size_bytes))
                        os.fsync(file.fileno())

    def free(self) -> None:
        """Give back what `fill` took."""
        (self.folder / "filler").unlink()

    def unmount(self) -> None:
        """Unmount it as soon as nobody has a file open."""
        if not wait_until(self._is_unmounted, WITHIN_S):
            subprocess.run(["umount", "-l", str(self.folder)], check=True)
            raise AssertionError(f"{self.folder} stayed busy")

    def bring_back(self) -> None:
        """Mount it as a machine that boots does: the journal is recovered."""
        self.unmount()
        self.mount()

    def _is_unmounted(self) -> bool:
        return subprocess.run(["umount", str(self.folder)], stderr=subprocess.DEVNULL, check=False).returncode == 0


@cache
def why_not() -> str:
    """Return why such a disk cannot be had here; empty if it can."""
    if os.geteuid() != 0:
        return "a disk of its own needs root"
    if not MKFS:
        return "e2fsprogs is not installed"
    may_mount = subprocess.run(
        ["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"], check=False, capture_output=True
    )
    has_loops = subprocess.run(["losetup", "--find"], check=False, capture_output=True)
    return "" if may_mount.returncode == has_loops.returncode == 0 else "no disk can be mounted from a file here"
