"""A core held to a quarter, as a weak till has it: a control group of our own, where the kernel lets us make one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

PERIOD_US, QUOTA_US = 20_000, 5_000
ROOTS = (
    (Path("/sys/fs/cgroup/cpu"), "cpu.cfs_quota_us", f"{QUOTA_US}", "cpu.cfs_period_us", f"{PERIOD_US}"),
    (Path("/sys/fs/cgroup"), "cpu.max", f"{QUOTA_US} {PERIOD_US}", "", ""),
)


@contextlib.contextmanager
def a_quarter() -> Iterator[list[str]]:
    """Yield what goes before a command that is to have a quarter of a core; nothing where there is no such group."""
    group, prefix = None, []
    with contextlib.suppress(OSError):
        root, quota, value, period, period_value = next(one for one in ROOTS if (one[0] / "cgroup.procs").exists())
        group = root / f"tillstream-{uuid4().hex[:8]}"
        group.mkdir()
        if period:
            (group / period).write_text(period_value)
        (group / quota).write_text(value)
        prefix = ["sh", "-c", f'echo $$ > {group / "cgroup.procs"} && exec "$@"', "sh"]
    try:
        yield prefix
    finally:
        if group:
            group.rmdir()
