"""From bare machines to a chain that sells, by the README's commands; the second run finds nothing to do."""

from __future__ import annotations

import json
import os
import re
import time

import pytest
from brokers import wait_until
from releases import release
from whole_chain import SAID, SERVER, TILLS, bare, chain, commands, counts, made_chain

pytestmark = [pytest.mark.machines, pytest.mark.timeout(1500)]

SERVICES = (
    "tillstream-ca.service",
    "tillstream-central@1-1.service",
    "tillstream-console.service",
    "mosquitto.service",
)
ON_SERVERS = {
    "tillstream-backup.service",
    "tillstream-ca-check.service",
    "tillstream-ca.service",
    "tillstream-central-check.service",
    "tillstream-central@.service",
    "tillstream-console.service",
    "tillstream-nftables.service",
    "tillstream-reload.service",
    "tillstream-renew.service",
}
ON_TILLS = {"tillstream-edge.service", "tillstream-recover.service"}


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    with chain(tmp_path_factory.mktemp("chain")) as machines:
        machines.start_selling()
        yield machines


def test_three_commands_of_the_readme_make_a_chain_of_bare_machines():
    """make-release, site.yml and enroll.yml end well on every machine."""
    assert 3 == len(commands())
    with made_chain() as folder:
        said = json.loads((folder / SAID).read_text("utf-8"))

    assert [0, 0, 0] == [one["code"] for one in said], said
    for one in said[1:]:
        figures = counts(one["said"])
        assert set(figures) == ({SERVER, *TILLS} if "site.yml" in one["command"] else set(TILLS))
        assert all(figure["failed"] == figure["unreachable"] == 0 for figure in figures.values())


def test_each_till_is_connected_by_a_certificate_of_its_own_name(ours):
    """The key is on the till alone, for its user alone; nobody made a token or a password."""
    assert wait_until(lambda: [["t"]] == ours.sql("SELECT count(*) = 3 FROM till WHERE is_online"), 30)
    for till in TILLS:
        told = ours.ssh(
            till, "cd /var/lib/tillstream/tls; openssl x509 -noout -subject -in till.pem; stat -c %U:%a till.key"
        )
        assert re.fullmatch(rf"subject=CN ?= ?{till}\ntillstream:600\n", told.stdout)
        assert not ours.ssh(SERVER, f"find / -xdev -name '{till}*.key'").stdout
    assert not ours.ssh(SERVER, "find /etc/tillstream /var/lib/tillstream* -name '*token*' -o -name fleet.key").stdout


ASK = """python3 -c '
import urllib.request
print(urllib.request.urlopen("http://127.0.0.1:8080/{}", timeout=10).read().decode())'"""


def test_the_console_is_ready_on_the_server_alone_and_lets_nobody_in_by_default(ours):
    """It answers on loopback and sees its database; there is no user until somebody makes one."""
    ready = json.loads(ours.ssh(SERVER, ASK.format("readyz")).stdout)
    assert "ok" == ready["status"], ready
    assert 'name="password"' in ours.ssh(SERVER, ASK.format("")).stdout
    listening = ours.ssh(SERVER, "ss -Hltn 'sport = :8080'").stdout.split()
    assert "127.0.0.1:8080" == listening[3]
    assert [["0"]] == ours.sql("SELECT count(*) FROM account")
    word = "correct horse battery staple"
    made = "runuser -u tillstream -- tillstream central users add anna --role administrator --password-file -"
    ours.ssh(SERVER, made, input=f"{word}\n")
    assert [["anna", "administrator"]] == ours.sql("SELECT name, role FROM account")


def test_services_run_without_rights_and_in_a_sandbox(ours):
    """Not root, no capability, `/usr` read-only."""
    places = [(SERVER, unit) for unit in SERVICES] + [(till, "tillstream-edge.service") for till in TILLS]
    for machine, unit in places:
        pid = ours.ssh(machine, f"systemctl show -P MainPID {unit}").stdout.strip()
        status = ours.ssh(machine, f"cat /proc/{pid}/status").stdout
        assert not re.search(r"^Uid:\s+0", status, re.MULTILINE), unit
        assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE), unit
        mounts = ours.ssh(machine, f"cat /proc/{pid}/mountinfo").stdout
        assert re.search(r"^\S+ \S+ \S+ \S+ (/usr|/) ro[, ]", mounts, re.MULTILINE), unit


def test_systemd_judges_every_unit_that_is_shipped_to_be_confined(ours):
    """At most 1.5 on its scale of ten, those that must be root's, too, and Mosquitto's by what is added."""
    for machine, expected in ((SERVER, ON_SERVERS), ("042-01", ON_TILLS)):
        found = ours.ssh(machine, "cd /etc/systemd/system; find . -maxdepth 1 -type f -name '*.service' -printf '%f '")
        assert expected == set(found.stdout.split())
        units = " ".join(sorted(expected | ({"mosquitto.service"} if machine == SERVER else set())))
        judged = ours.ssh(machine, f"systemd-analyze security --no-pager {units.replace('@.', '@1-1.')} | grep Overall")
        levels = {unit: float(level) for unit, level in re.findall(r"level for (\S+): ([\d.]+)", judged.stdout)}
        print(machine, levels)
        assert len(levels) == len(units.split())
        assert {} == {unit: level for unit, level in levels.items() if level > 1.5}
    ours.ssh(SERVER, "systemctl start tillstream-reload && systemctl is-active tillstream-nftables")
    assert "limit rate" in ours.ssh(SERVER, "nft list table inet tillstream").stdout


def test_a_server_that_slept_through_the_night_backs_up_before_it_checks(ours):
    """Both timers make up for what they missed, at once; a check that came first would say that there is no backup."""
    ours.shut_down(SERVER)
    long_ago = time.time() - 2 * 86_400
    for timer in ("tillstream-backup.timer", "tillstream-central-check.timer"):
        os.utime(ours.root(SERVER) / f"var/lib/systemd/timers/stamp-{timer}", (long_ago, long_ago))
    ours.boot(SERVER)

    assert wait_until(lambda: _of(ours, "tillstream-central-check", "ExecMainExitTimestampMonotonic") != "0", 60)
    assert "0" == _of(ours, "tillstream-central-check", "ExecMainStatus"), ours.ssh(
        SERVER, "journalctl -b -u tillstream-central-check -u tillstream-backup"
    ).stdout


def _of(ours, unit, name):
    return ours.ssh(SERVER, f"systemctl show -P {name} {unit}").stdout.strip()


def test_nightly_work_can_be_done(ours):
    """The backup is made and verified; then nothing is wrong for the check to find."""
    ours.ssh(SERVER, "systemctl start tillstream-backup.service tillstream-renew.service tillstream-ca-check.service")

    assert ours.ssh(SERVER, "ls /var/backups/tillstream").stdout.startswith("central-")
    ours.ssh(SERVER, "systemctl start tillstream-central-check.service")
    timers = ours.ssh(SERVER, "systemctl list-timers --no-pager").stdout
    assert 4 == len(re.findall(r"tillstream-[\w-]+\.timer", timers))


def test_the_same_commands_again_change_nothing_on_any_host(ours):
    """What they made they leave alone: `changed=0` on each machine. Drift finds none: `test_apart`."""
    for line in commands()[1:]:
        figures = counts(ours.command(line).stdout)
        assert set(figures) == ({SERVER, *TILLS} if "site.yml" in line else set(TILLS))
        assert all(figure["changed"] == figure["failed"] == figure["unreachable"] == 0 for figure in figures.values())


WITH_CONFIG = "broker,central,till_agent"
"""The roles whose files an operator is likely to edit; that the others find nothing to do tells the test above."""


def test_drift_is_found_and_healed(ours):
    """Edited units, settings and rules, a wrong mode and release: each is named, nothing else is; it is mended."""
    edited = {
        SERVER: ["/etc/systemd/system/tillstream-central@.service", "/etc/mosquitto/tillstream/acl"],
        "042-02": ["/etc/systemd/system/tillstream-edge.service", "/etc/tillstream/edge.toml"],
    }
    sums = {machine: f"sha256sum {' '.join(paths)}" for machine, paths in edited.items()}
    whole = {machine: ours.ssh(machine, command).stdout for machine, command in sums.items()}
    for machine, paths in edited.items():
        ours.ssh(machine, f"echo '# mine' | tee -a {' '.join(paths)}")
    ours.ssh("042-02", "chmod 0644 /var/lib/tillstream/tls/till.key")
    ours.ssh("043-01", "cd /opt/tillstream; cp -a $(readlink -f current) releases/9; ln -sfn releases/9 current")

    found = ours.command(f"bin/drift -i inventory/example --tags {WITH_CONFIG},till_identity", check=False)

    assert 1 == found.returncode
    planted = {*edited, "043-01"}
    assert planted == {host for host, figure in counts(found.stdout).items() if figure["changed"]}
    assert 4 == found.stdout.count("-# mine")
    for line in (
        "tillstream-central@.service",
        "/etc/mosquitto/tillstream/acl",
        "tillstream-edge.service",
        "edge.toml",
    ):
        assert line in found.stdout
    healed = counts(ours.play("site", f"--limit {','.join(planted)} --tags {WITH_CONFIG}").stdout)
    assert all(healed[machine]["changed"] for machine in planted)
    assert whole == {machine: ours.ssh(machine, command).stdout for machine, command in sums.items()}
    assert "releases/9" not in ours.ssh("043-01", "readlink -f /opt/tillstream/current").stdout
    assert 1 == counts(ours.play("enroll", "--limit", "042-02").stdout)["042-02"]["changed"]
    assert "600\n" == ours.ssh("042-02", "stat -c %a /var/lib/tillstream/tls/till.key").stdout


def test_what_tills_closed_through_all_of_it_is_stored_once(ours):
    """Receipts went through broker and certificates into PostgreSQL while playbooks ran: none is lost or doubled."""
    ours.stop_selling()
    closed = {till: ours.closed(till) for till in TILLS}

    assert all(count > 20 for count in closed.values())
    assert wait_until(lambda: closed == ours.stored(), 60)
    counted = "SELECT count(*), count(DISTINCT (till_id, document_id)) FROM document"
    assert [[str(sum(closed.values()))] * 2] == ours.sql(counted)


def test_a_dry_run_on_bare_machines_fails_at_nothing(tmp_path):
    """Before anything is installed `--check` tells what would be done, and does nothing."""
    with bare(tmp_path / "bare", {"042-01": "trixie"}) as machines:
        machines.offline_debian()
        machines.prepare(release())
        for book in ("site", "enroll"):
            said = machines.play(book, "--check", "--limit", f"{SERVER},042-01")
            assert all(figure["failed"] == 0 for figure in counts(said.stdout).values())
        assert not machines.ssh("042-01", "ls -d /opt/tillstream /etc/tillstream", check=False).stdout
        assert not machines.ssh(SERVER, "ls -d /opt/tillstream /etc/tillstream /etc/mosquitto", check=False).stdout
