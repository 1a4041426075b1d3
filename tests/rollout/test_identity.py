"""Identities by playbook: taken back within seconds, renewed while a till sells, a list that never ends unnoticed."""

from __future__ import annotations

import json
import os
import re
import time

import pytest
from brokers import wait_until
from whole_chain import SERVER, TILLS, chain, counts

pytestmark = [pytest.mark.machines, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    with chain(tmp_path_factory.mktemp("chain")) as machines:
        assert wait_until(lambda: [["t"]] == machines.sql("SELECT count(*) = 3 FROM till WHERE is_online"), 60)
        machines.start_selling()
        yield machines


def test_a_renewal_loses_nothing_and_costs_one_reconnect(ours):
    """enroll.yml gives every till a new certificate while its POS closes documents: each is stored once."""
    before = {till: ours.ssh(till, SERIAL).stdout for till in TILLS}
    since = ours.ssh(SERVER, "date +%s").stdout.strip()

    said = ours.play("enroll", "-e", "till_identity_renew_before_days=1000")

    assert all(figure["failed"] == 0 and figure["changed"] for figure in counts(said.stdout).values())
    assert ours.has_all(TILLS)
    for till in TILLS:
        assert before[till] != ours.ssh(till, SERIAL).stdout
        log = ours.ssh(SERVER, f"journalctl -u mosquitto -o cat --since @{since}").stdout
        assert 1 == len(re.findall(rf"New client connected from .* as {till} ", log)), log
        doubled = ours.sql(f"SELECT document_id FROM document WHERE till_id = '{till}' GROUP BY 1 HAVING count(*) > 1")
        assert [] == doubled


SERIAL = "openssl x509 -noout -serial -in /var/lib/tillstream/tls/till.pem"


def test_a_list_that_is_about_to_end_is_an_alarm_before_anybody_is_locked_out(ours):
    """The check fails, so do failed units and drift; the authority's own work mends it."""
    ours.ssh(SERVER, "systemctl start tillstream-ca-check.service")
    ours.ssh(SERVER, "systemctl stop tillstream-ca.service; TILLSTREAM_CRL_DAYS=0.2 tillstream ca crl")

    assert ours.ssh(SERVER, "systemctl start tillstream-ca-check.service", check=False).returncode
    assert "tillstream-ca-check" in ours.ssh(SERVER, "systemctl --failed").stdout
    assert "changed=1" in ours.play("drift", "--check", "--limit", SERVER, "--tags", "signs").stdout
    ours.ssh(SERVER, "systemctl start tillstream-ca.service")
    assert wait_until(
        lambda: ours.ssh(SERVER, "systemctl start tillstream-ca-check.service", check=False).returncode == 0, 30
    )


def test_a_revoked_till_is_out_within_five_seconds_and_nobody_else_is(ours):
    """Its live session loses its rights when revoke.yml ends, a new connection is refused; the others sell on."""
    assert ours.has_all(TILLS)
    prove = "-b -m ansible.builtin.include_role -a 'name=till_identity tasks_from=prove_out'"
    asked = ours.command(f"ansible -i inventory/example 042-02 {prove}", check=False)
    assert "non-zero return code" in asked.stdout, "what proves that a till is out has to fail while it is in"
    ours.play("revoke", "-e", "till=042-02", "-e", "reason=stolen")

    time.sleep(5)  # The promise itself: what is stored from now on came too late.
    stored = ours.stored()["042-02"]
    assert ours.has_all(till for till in TILLS if till != "042-02")
    sold = ours.closed("042-02")
    assert wait_until(lambda: ours.closed("042-02") > sold, 10)  # It sells on, and nothing of it arrives.
    assert stored == ours.stored()["042-02"] < sold
    ours.ssh("042-02", "systemctl restart tillstream-edge")
    told = {}
    assert wait_until(lambda: told.update(status(ours, "042-02")) or told.get("last_error"), 30)
    assert told["connected"] is False
    assert stored == ours.stored()["042-02"]
    refused = ours.play("enroll", "--limit", "042-02", "-e", "till_identity_renew_before_days=1000", check=False)
    assert refused.returncode
    assert "deny list" in refused.stdout


def status(ours, till):
    asked = "runuser -u tillstream -- /opt/tillstream/current/bin/tillstream edge status --json"
    return json.loads(ours.ssh(till, asked, check=False).stdout or "{}")


def test_uninstall_leaves_the_machines_as_they_were(ours):
    """Without the word it does nothing; with it no file, user, group, unit or rule is left, nor one that had failed."""
    ours.stop_selling()
    for machine, *units in FAILED:
        let_fail(ours, machine, *units)
    refused = ours.play("uninstall", check=False)
    assert refused.returncode
    assert "uninstall_sure=yes" in refused.stdout
    ours.play("uninstall", "-e", "uninstall_sure=yes")

    for machine in (SERVER, *TILLS):
        assert [] == left(ours, machine), machine
        users = ours.ssh(machine, "cut -d: -f1 /etc/passwd /etc/group").stdout.split()
        assert not {"tillstream", "tillstream-ca", "mosquitto", "postgres", "pos"} & set(users)
        units = ours.ssh(
            machine, "systemctl list-units --all --no-legend --plain --type=service,path,timer,socket"
        ).stdout
        assert not re.search(r"tillstream|mosquitto|postgres", units), units
        assert "tillstream" not in ours.ssh(machine, "ls /var/lib/systemd/timers /var/lib/systemd").stdout
    assert "tillstream" not in ours.ssh(SERVER, "nft list ruleset").stdout
    assert not re.search("postgresql|mosquitto", ours.ssh(SERVER, "dpkg-query -f '${Package} ' -W").stdout)
    again = counts(ours.play("uninstall", "-e", "uninstall_sure=yes").stdout)
    assert dict.fromkeys((SERVER, *TILLS), 0) == {machine: figure["changed"] for machine, figure in again.items()}


FAILED = (
    (
        SERVER,
        "tillstream-central-check",
        "tillstream-central@1-1",
        "tillstream-renew",
        "mosquitto",
        "postgresql@15-main",
    ),
    ("042-01", "tillstream-edge"),
)


def let_fail(ours, machine, *units):
    """Leave these units failed, as whatever is wrong with them would."""
    for unit in units:
        wrong = f"/run/systemd/system/{unit}.service.d"
        said = "[Service]\\nExecStartPre=/bin/false\\nRestart=no\\n"
        ours.ssh(machine, f"mkdir -p {wrong}; printf '{said}' > {wrong}/wrong.conf; systemctl daemon-reload")
        assert ours.ssh(machine, f"systemctl restart {unit}", check=False).returncode
        ours.ssh(machine, f"rm -r {wrong}; systemctl daemon-reload; systemctl is-failed {unit}")


def left(ours, machine):
    """Return the files that a machine has and a bare one has not, but for those of Debian's packages that stayed."""
    aside = r"^/(var/(lib/(dpkg|apt|systemd|private|ucf)|cache|log|tmp|backups)|run|tmp|proc|sys|dev|root|home)(/|$)"
    listed = ours.ssh(machine, "find / -xdev -mindepth 1").stdout.splitlines()
    debian = set(ours.ssh(machine, "cat /var/lib/dpkg/info/*.list").stdout.splitlines()) | OF_ANY_BOOT
    base = ours._layers[machine][-1]
    new = [path for path in listed if not re.match(aside, path) and not os.path.lexists(f"{base}{path}")]
    return [path for path in new if path not in debian and path.replace("/usr/", "/", 1) not in debian]


OF_ANY_BOOT = {
    "/etc/hosts",  # The test's own, as the packages and the keys.
    "/srv/debs",
    "/etc/ssh/ssh_host_ed25519_key",
    "/etc/ssh/ssh_host_ed25519_key.pub",
    "/var/lib/dbus/machine-id",
    "/etc/default/locale",  # Made by Debian's packages locales and netbase, which stay.
    "/etc/locale.gen",
    "/etc/networks",
}
