"""Owns the full disks: of the tills, of central, of the broker; each is filled, told of, freed, and forgotten."""

from __future__ import annotations

from pathlib import Path

from brokers import wait_until
from loop_disk import LoopDisk
from yard import Till, Yard, yard

DISK_BYTES = 24 * 2**20
WITHIN_S = 30
BALLAST_BYTES = 256 * 2**10


def full_till(folder: Path, cycles: int, seed: int) -> dict[str, int]:
    """Fill the disk of outbox and spool so often, until the POS is refused; return how often, and the balance."""
    refused = told = 0
    with LoopDisk(folder, DISK_BYTES) as disk:
        settings = {"ballast_bytes": BALLAST_BYTES}
        with yard(
            folder / "site", 2, seed, broker="embedded", agents_on=disk.folder, agent_settings=settings
        ) as running:
            for _ in range(cycles):
                disk.fill()
                for till in running.tills:
                    refused += _close_until_refused(running, till)
                    told += till.status()["reason"]["code"] in {"disk_full", "outbox_full"}
                disk.free()
                running.settle()
            return {"refusals": refused, "reasons shown": told, **running.settle()}


def _close_until_refused(running: Yard, till: Till) -> bool:
    def is_refused() -> bool:
        till.close_document()
        running.look()
        return till.pos.unconfirmed > 0

    return wait_until(is_refused, WITHIN_S)


def full_central(folder: Path, cycles: int, seed: int) -> dict[str, int]:
    """Fill the disk of central's database so often, until it refuses; return how often, and the balance."""
    refused = 0
    with LoopDisk(folder, DISK_BYTES) as disk:
        settings = {"broker": "embedded", "central_on": disk.folder}
        with yard(folder / "site", 2, seed, **settings) as running:
            for _ in range(cycles):
                refused += _fill_until_central_refuses(running, disk)
                disk.free()
                running.settle()
            return {"refusals": refused, **running.settle()}


def _fill_until_central_refuses(running: Yard, disk: LoopDisk) -> bool:
    before = running.central.log().count('"database_refused"')
    disk.fill()
    for till in running.tills:
        till.open()
    refused = wait_until(
        lambda: running.unsent() > 0 and running.central.log().count('"database_refused"') > before, WITHIN_S
    )
    for till in running.tills:
        till.close_up()
    return refused


def full_broker(folder: Path, cycles: int, seed: int, kind: str) -> dict[str, int]:
    """Fill the disk of the broker's log and files so often, with a kill while it is full; return the balance."""
    with LoopDisk(folder, DISK_BYTES) as disk:
        lines = ("persistence true", f"persistence_location {disk.folder}/", "autosave_interval 1")
        with yard(folder / "site", 2, seed, broker=kind, mosquitto=lines) as running:
            running.broker.log_path = disk.folder / "broker.log"
            for _ in range(cycles):
                running.broker.kill()
                disk.fill()
                running.broker.start()
                _close_and_store(running, 20)
                running.broker.kill()
                disk.free()
                (disk.folder / "mosquitto.db").unlink(missing_ok=True)  # Torn, it would keep Mosquitto from starting.
                running.broker.start()
                _close_and_store(running, 5)
            return {"cycles": cycles, **running.settle()}


def _close_and_store(running: Yard, documents: int) -> None:
    for till in running.tills:
        till.close_documents(documents)
    assert wait_until(running.is_settled, WITHIN_S), running.logs()
