"""Broker with authority, database and central each on a machine of its own, by the same playbooks."""

from __future__ import annotations

import json

import pytest
import yaml
from brokers import wait_until
from machines import base
from releases import release
from whole_chain import SERVER, Chain, counts

pytestmark = [pytest.mark.machines, pytest.mark.timeout(1500)]

BROKER, DATABASE, TILL = "mq", "db", "042-01"
GROUPS = {"central": SERVER, "broker": BROKER, "database": DATABASE}
BOOKS = ("site", "enroll")


class Apart(Chain):
    """Three servers and a till; the database is asked where it lies."""

    machines_of_debian = tuple(GROUPS.values())


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """Return machines on which site.yml and enroll.yml ended well."""
    layers = {name: [base()] for name in (SERVER, TILL, BROKER, DATABASE)}
    with Apart(tmp_path_factory.mktemp("apart"), layers) as machines:
        machines.offline_debian()
        machines.prepare(release())
        inventory = machines.ansible / "inventory/example"
        groups = {name: {"hosts": {host: {"ansible_host": machines.address(host)}}} for name, host in GROUPS.items()}
        (inventory / "servers.yml").write_text(yaml.safe_dump(groups), "utf-8")
        head, first, *_ = (inventory / "tills.csv").read_text("utf-8").splitlines()
        (inventory / "tills.csv").write_text(f"{head}\n{first}\n", "utf-8")
        for book in BOOKS:
            machines.play(book)
        yield machines


def test_receipts_go_through_three_servers_and_are_backed_up(ours):
    """Till, broker, central and database know each other by certificates; each program runs where it belongs."""
    ours.start_selling()
    assert wait_until(lambda: ours.stored()[TILL] > 20, 60)
    units = {host: ours.ssh(host, RUNNING).stdout for host in GROUPS.values()}
    assert {host: [name for name in PROGRAMS if name in text] for host, text in units.items()} == {
        SERVER: ["tillstream-central@"],
        BROKER: ["mosquitto", "tillstream-ca.service"],
        DATABASE: ["postgresql@"],
    }
    found = {host: set(ours.ssh(host, KEYS).stdout.split()) for host in units}
    assert found == {
        SERVER: {"central-1.key"},
        BROKER: {"broker.key", "ca.key", "serve.key"},
        DATABASE: {"database.key"},
    }
    for unit in ("tillstream-backup", "tillstream-central-check"):
        ours.ssh(SERVER, f"systemctl start {unit}.service")
    assert ours.ssh(SERVER, "ls /var/backups/tillstream").stdout.startswith("central-")


KEYS = "find / -xdev -type f -name '*.key' -path '*till*' -printf '%f '"
RUNNING = "systemctl list-units --state=running --no-legend --plain"
PROGRAMS = ("mosquitto", "postgresql@", "tillstream-ca.service", "tillstream-central@")


def test_the_database_lets_nobody_in_from_the_network_without_a_workers_certificate(ours):
    """Neither the broker's machine, nor central's without its certificate, nor anybody without TLS."""
    where = f"host={ours.address(DATABASE)} dbname=tillstream user=tillstream connect_timeout=5"
    certificate = "sslcert=/etc/tillstream/central/central-1.pem sslkey=/etc/tillstream/central/central-1.key"
    asked = {
        "as central does": (0, f"{where} sslmode=require {certificate}"),
        "without a certificate": (2, f"{where} sslmode=require sslcert=/nowhere"),
        "without TLS": (2, f"{where} sslmode=disable"),
    }
    told = {
        name: ours.ssh(SERVER, f"runuser -u tillstream -- psql -qtAc 'SELECT 1' '{how}'", check=False)
        for name, (_, how) in asked.items()
    }
    assert {name: one.returncode for name, one in told.items()} == {name: code for name, (code, _) in asked.items()}
    said = "".join(one.stderr for one in told.values())
    assert "certificate" in said
    assert "pg_hba.conf" in said


def test_nothing_is_left_to_do_on_any_of_the_machines(ours):
    """Drift, which is both playbooks again without a change, finds none in what is special where servers are apart."""
    found = ours.command("bin/drift -i inventory/example --tags database,broker,central,signs", check=False)

    assert (0, {*GROUPS.values(), TILL}) == (found.returncode, set(counts(found.stdout))), found.stdout


def test_a_revoked_till_is_denied_at_the_broker_and_known_at_central(ours):
    """What the authority's machine denies, central's carries: sealed files of that till are refused there, too."""
    ours.stop_selling()
    closed = ours.closed(TILL)
    assert wait_until(lambda: ours.stored()[TILL] == closed, 60), (closed, ours.stored())
    ours.play("revoke", "-e", f"till={TILL}", "-e", "reason=stolen")

    assert ours.ssh(SERVER, "cat /etc/tillstream/deny").stdout.splitlines() == [TILL]
    seen = "runuser -u tillstream -- tillstream central tills --json"
    assert wait_until(lambda: "revoked" in json.dumps(json.loads(ours.ssh(SERVER, seen).stdout)), 30)
