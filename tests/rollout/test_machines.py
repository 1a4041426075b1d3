"""The machines of the other tests are real: booted, apart, cut off from the world, and gone afterwards."""

from __future__ import annotations

import time

import pytest
from machines import PREFIX, Fleet, base, cgroups, run

pytestmark = pytest.mark.machines


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    with Fleet(tmp_path_factory.mktemp("fleet"), {"till-a": [base()], "till-b": [base("trixie")]}) as fleet:
        yield fleet


def test_machines_run_their_own_systemd_and_cannot_reach_the_world(two):
    """Each has its own name, services and Python; there is no route but to the bridge."""
    for name, python in (("till-a", "3.11"), ("till-b", "3.13")):
        said = two.ssh(name, "hostname; systemctl is-system-running; python3 -V; ip route").stdout
        assert said.splitlines()[:2] == [name, "running"]
        assert f"Python {python}" in said
        assert "default" not in said


def test_what_was_written_survives_a_power_cut(two):
    """A machine that was killed comes back with what it had on its disk, and without what it ran."""
    two.ssh("till-a", "echo kept >/etc/mark; sync; systemd-run --unit lost sleep 600")
    two.cut_power("till-a")
    two.boot("till-a")

    assert two.ssh("till-a", "cat /etc/mark").stdout == "kept\n"
    assert two.ssh("till-a", "systemctl is-active lost", check=False).returncode


def test_a_cable_can_be_cut_and_counts_bytes(two):
    """A cut cable is noticed within seconds, the counter tells what went over it, a slow one is slow."""
    two.link("till-b", up=False)
    assert two.ssh("till-b", "true", check=False).returncode == 255
    two.link("till-b", up=True)
    before = two.sent("till-b")[0]
    two.shape("till-b", "512kbit")
    started = time.monotonic()
    two.ssh("till-b", "cat >/dev/null", input="x" * 100_000)
    two.unshape("till-b")

    assert time.monotonic() - started > 1
    assert two.sent("till-b")[0] - before > 100_000


def test_a_fleet_starts_from_what_another_one_wrote_and_leaves_nothing(two, tmp_path):
    """Kept layers lie under the next fleet; afterwards no namespace, group or mount is left."""
    with Fleet(tmp_path / "first", {"till-c": [base()]}) as first:
        first.ssh("till-c", "echo kept >/etc/mark")
        layers = first.keep(tmp_path / "kept")
    with Fleet(tmp_path / "second", layers) as second:
        assert second.ssh("till-c", "cat /etc/mark").stdout == "kept\n"
        gone = second._namespace("till-c")

    assert gone.startswith(PREFIX)
    assert gone not in run("ip", "netns", "list").stdout
    assert not (cgroups() / gone).exists()
    assert not second.root("till-c").is_mount()
