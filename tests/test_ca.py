"""The certificate authority: who gets a certificate with what in it, tokens of one use, revocation, commands."""

from __future__ import annotations

import json
import os
import ssl
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from hostile import Corpus, Hostile
from pki import DAY_S, Pki, purposes, request

from ca.authority import RequestError, make_key, name_in, read_authority, read_request
from ca.cli import ca
from ca.doctor import examine
from ca.office import Office, RefusedError, found_authority, pem, revocation_list_ends_s
from ca.register import EnrolToken
from wire.program import ConfigError

ROOT = Path(__file__).parent.parent
TILL = "042-01"


@pytest.fixture
def pki(tmp_path):
    return Pki(tmp_path / "ca")


def crl_of(pki):
    return x509.load_pem_x509_crl(Path(pki.config.crl_file).read_bytes())


def extension(certificate, kind):
    return certificate.extensions.get_extension_for_class(kind)


# -- What a certificate says -------------------------------------------------------------------------------------------


def test_the_authority_may_sign_and_nothing_else_and_lives_ten_years(pki):
    """A root that may sign certificates, of no further authority, and the list of revoked ones."""
    root = pki.authority.certificate

    assert extension(root, x509.BasicConstraints).value == x509.BasicConstraints(ca=True, path_length=0)
    assert extension(root, x509.BasicConstraints).critical
    usage = extension(root, x509.KeyUsage).value
    assert (usage.key_cert_sign, usage.crl_sign, usage.digital_signature) == (True, True, False)
    assert 3649 <= (root.not_valid_after_utc - root.not_valid_before_utc).days <= 3651
    assert isinstance(root.public_key().curve, ec.SECP256R1)


def test_a_tills_certificate_names_it_and_serves_for_clients_only(pki):
    """CN = till id, ninety days, no authority, no server."""
    certificate = pki.office.issue(TILL, request(TILL, make_key()))

    assert certificate.subject.rfc4514_string() == f"CN={TILL}"
    assert purposes(certificate) == {"client"}
    assert not extension(certificate, x509.BasicConstraints).value.ca
    assert extension(certificate, x509.KeyUsage).value.digital_signature
    assert (certificate.not_valid_after_utc - certificate.not_valid_before_utc).days == 90
    certificate.verify_directly_issued_by(pki.authority.certificate)


def test_a_brokers_certificate_names_its_hosts_and_serves_for_servers_only(pki):
    """A stolen broker certificate cannot log in as a till, and a till's cannot stand in for the broker."""
    certificate = pki.office.issue_key("broker", "server", ("broker.example", "10.0.0.5"), make_key().public_key())

    names = extension(certificate, x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["broker.example"]
    assert [str(one) for one in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.5"]
    assert purposes(certificate) == {"server"}


def test_no_certificate_outlives_the_authority(tmp_path):
    """Its end is the authority's, where ninety days would be more."""
    short = Pki(tmp_path / "ca", root_days=10)

    certificate = short.office.issue(TILL, request(TILL, make_key()))

    assert certificate.not_valid_after_utc == short.authority.certificate.not_valid_after_utc


# -- Who gets one ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "a.b", "-x", "central-0", "central-x", "x" * 65, "a/b", "+", "042 01"])
def test_a_name_that_is_nobodys_gets_nothing(pki, name):
    """Only till ids and central workers; a name with a wildcard or a dot never comes into a certificate."""
    with pytest.raises((RefusedError, RequestError)):
        pki.office.enrol_token(name)
    with pytest.raises((RefusedError, RequestError, ValueError)):
        pki.office.issue(name, request(name, make_key()))


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (b"", "no certificate request"),
        (b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", "no certificate request"),
        (b"\x30\x82" + b"\0" * 100, "no certificate request"),
        (b"\0" * 20_000, "longer than"),
    ],
)
def test_what_is_no_request_is_refused_with_a_reason(pki, given, why):
    """Garbage of any kind is an answer, not a failure."""
    with pytest.raises(RequestError, match=why):
        pki.office.issue(TILL, given)


def test_a_request_of_another_name_a_weak_key_or_a_wrong_signature_is_refused(pki):
    """What is signed is the name that was asked for, and a key whose owner signed the request."""
    with pytest.raises(RequestError, match="names '042-02', not '042-01'"):
        pki.office.issue(TILL, request("042-02", make_key()))
    with pytest.raises(RequestError, match="P-256"):
        pki.office.issue(TILL, request(TILL, rsa.generate_private_key(65537, 2048)))
    der = bytearray(x509.load_pem_x509_csr(request(TILL, make_key())).public_bytes(Encoding.DER))
    der[-1] ^= 1
    with pytest.raises(RequestError):
        pki.office.issue(TILL, bytes(der))


def test_a_tills_key_is_never_made_here(pki):
    """It is made on the till; the refusal says how."""
    with pytest.raises(RefusedError, match="enrol-token"):
        pki.office.issue_key(TILL, "client", (), make_key().public_key())
    assert purposes(pki.office.issue_key("central-1", "client", (), make_key().public_key())) == {"client"}


# -- Enrolment tokens --------------------------------------------------------------------------------------------------


def test_a_token_serves_one_till_and_one_key_and_gives_the_same_certificate_again(pki):
    """A till that lost the answer asks again with its key; nobody else gets anything for the same token."""
    token, _, fingerprint = pki.office.enrol_token(TILL).rpartition(".")
    asked = request(TILL, make_key())

    first = pki.office.enrol(TILL, token, asked)
    again = pki.office.enrol(TILL, token, asked)

    assert first.serial_number == again.serial_number
    assert fingerprint == pki.authority.fingerprint
    with pytest.raises(RefusedError, match="used already"):
        pki.office.enrol(TILL, token, request(TILL, make_key()))


def test_a_token_of_another_till_an_unknown_and_an_expired_one_give_nothing(pki):
    """Each says why, and none uses the token up."""
    token = pki.office.enrol_token(TILL).split(".")[0]
    with pytest.raises(RefusedError, match="another till"):
        pki.office.enrol("042-02", token, request("042-02", make_key()))
    with pytest.raises(RefusedError, match="unknown"):
        pki.office.enrol(TILL, token + "x", request(TILL, make_key()))
    pki.clock.ahead_s = 24 * 3600 + 1
    with pytest.raises(RefusedError, match="expired"):
        pki.office.enrol(TILL, token, request(TILL, make_key()))
    pki.clock.ahead_s = 0
    assert pki.office.enrol(TILL, token, request(TILL, make_key()))


def test_a_token_is_kept_as_its_hash_only(pki):
    """Whoever reads the register, or a backup of it, can enrol nobody."""
    token = pki.office.enrol_token(TILL).split(".")[0]

    for path in pki.config.folder.iterdir():
        assert token.encode() not in path.read_bytes()
    with pki.office._register.transaction():
        assert [len(row.digest) for row in EnrolToken.select()] == [64]


def test_of_many_that_come_with_one_token_at_once_one_key_gets_a_certificate(pki):
    """The token is used in the transaction that gives the certificate."""
    token = pki.office.enrol_token(TILL).split(".")[0]
    given, refused = [], []

    def enrol():
        try:
            given.append(pki.office.enrol(TILL, token, request(TILL, make_key())))
        except RefusedError as problem:
            refused.append(problem)

    threads = [threading.Thread(target=enrol) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (len(given), len(refused)) == (1, 7)


# -- Renewal and revocation --------------------------------------------------------------------------------------------


def test_a_renewal_keeps_name_and_key_and_takes_none_but_a_living_certificate_of_ours(pki, tmp_path):
    """Not a stranger's, not an expired one, not a revoked one."""
    old = pki.office.issue(TILL, request(TILL, make_key()))
    new = pki.office.renew(old, early=True)

    assert (new.subject, new.public_key(), purposes(new)) == (old.subject, old.public_key(), {"client"})
    assert new.serial_number != old.serial_number
    with pytest.raises(RefusedError, match="not of this authority"):
        pki.office.renew(Pki(tmp_path / "other").office.issue(TILL, request(TILL, make_key())))
    pki = Pki(tmp_path / "ca")
    with pytest.raises(RequestError, match="names '042-02'"):
        pki.office.renew(old, request("042-02", make_key()))
    pki.clock.ahead_s = 91 * DAY_S
    with pytest.raises(RefusedError, match="expired"):
        pki.office.renew(old)
    pki.clock.ahead_s = 0
    pki.office.revoke(TILL, "lost")
    Path(pki.config.deny_file).write_text("")
    with pytest.raises(RefusedError, match="revoked"):
        pki.office.renew(old)


def test_who_asks_for_renewals_all_day_gets_one(pki):
    """Not before it is due, then one successor, which comes again if the answer was lost; a new key gets its own."""
    old = pki.office.issue(TILL, request(TILL, make_key()))
    assert pki.office.renew(old) == old
    pki.clock.ahead_s = 61 * DAY_S
    new = pki.office.renew(old)
    assert new != old
    assert [pki.office.renew(one) for one in (old, new)] == [new, new]
    assert pki.office.renew(old, request(TILL, make_key())) != new
    assert len(pki.office.entries()) == 3


def test_a_name_that_was_revoked_does_not_expire_any_more(pki):
    """Nor do its older certificates, which had successors: exit code 3 would never end."""
    old = pki.office.issue(TILL, request(TILL, make_key()))
    pki.clock.ahead_s = -80 * DAY_S
    pki.office.renew(pki.office.issue("042-02", request("042-02", make_key())), early=True)
    pki.clock.ahead_s = -100 * DAY_S
    pki.office.renew(old, early=True)
    pki.clock.ahead_s = 0
    pki.office.revoke(TILL, "gone")

    listed = at(pki, "list", "--expiring", 20, "--json")

    assert (listed.exit_code, [row["name"] for row in json.loads(listed.stdout)]) == (3, ["042-02"])


def test_a_brokers_renewal_keeps_its_host_names(pki):
    """Names and addresses are taken over from the old one."""
    old = pki.office.issue_key("broker", "server", ("b.example", "::1"), make_key().public_key())

    new = pki.office.renew(old, early=True)

    assert pki.office.names_of(new) == {"b.example", "::1"}
    assert purposes(new) == {"server"}


def test_a_revoked_name_is_on_both_lists_loses_its_waiting_tokens_and_gets_nothing_more(pki):
    """All its living certificates, and no others; the deny list keeps what people wrote there."""
    deny = Path(pki.config.deny_file)
    deny.write_text("042-09  # stolen, no line end")
    deny.chmod(0o640)
    first, second = (pki.office.issue(TILL, request(TILL, make_key())) for _ in range(2))
    other = pki.office.issue("042-02", request("042-02", make_key()))
    waiting = pki.office.enrol_token(TILL).split(".")[0]

    serials = pki.office.revoke(TILL, "lost")

    assert set(serials) == {f"{one.serial_number:x}" for one in (first, second)}
    assert {one.serial_number for one in crl_of(pki)} == {first.serial_number, second.serial_number}
    assert crl_of(pki).is_signature_valid(pki.authority.certificate.public_key())
    assert deny.read_text() == "042-09  # stolen, no line end\n042-01\n"
    assert stat.S_IMODE(deny.stat().st_mode) == 0o640
    for ask in (lambda: pki.office.enrol_token(TILL), lambda: pki.office.renew(first)):
        with pytest.raises(RefusedError, match="deny list"):
            ask()
    deny.write_text("")
    with pytest.raises(RefusedError, match="unknown"):
        pki.office.enrol(TILL, waiting, request(TILL, make_key()))
    assert pki.office.renew(other)
    assert pki.office.revoke(TILL, "again") == ()
    assert deny.read_text() == "042-01\n"


def test_the_list_is_written_anew_at_half_of_its_time_and_forgets_what_has_expired(pki):
    """It never lapses while somebody looks after it, and does not grow for ever."""
    pki.office.issue(TILL, request(TILL, make_key()))
    pki.office.revoke(TILL, "lost")
    path = Path(pki.config.crl_file)
    assert len(crl_of(pki)) == 1
    assert not pki.office.keep_revocation_list()
    pki.clock.ahead_s = 4 * DAY_S
    assert pki.office.keep_revocation_list()
    assert revocation_list_ends_s(path) - pki.clock() == pytest.approx(7 * DAY_S, abs=60)
    number = extension(crl_of(pki), x509.CRLNumber).value.crl_number
    pki.clock.ahead_s = 91 * DAY_S
    path.write_text("torn")
    assert pki.office.keep_revocation_list()
    assert len(crl_of(pki)) == 0
    assert extension(crl_of(pki), x509.CRLNumber).value.crl_number > number


def test_a_broker_whose_clock_is_behind_believes_a_list_that_was_made_just_now(pki):
    """As it believes a certificate: Mosquitto lets nobody in by a list that is not valid yet."""
    pki.office.write_revocation_list()

    assert pki.clock() - crl_of(pki).last_update_utc.timestamp() == pytest.approx(300, abs=60)


def test_two_that_revoke_at_once_lose_neither(pki):
    """List and deny list are written within the transaction."""
    tills = [f"t{number}" for number in range(12)]
    serials = {pki.office.issue(till, request(till, make_key())).serial_number for till in tills}

    threads = [threading.Thread(target=pki.office.revoke, args=(till, "x")) for till in tills]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert {one.serial_number for one in crl_of(pki)} == serials
    assert set(Path(pki.config.deny_file).read_text().split()) == set(tills)


# -- Making it, and what ends ------------------------------------------------------------------------------------------


def test_making_it_again_changes_nothing_and_completes_what_a_kill_left(pki):
    """The key stays; a certificate or a public copy that is missing is made."""
    folder = pki.config.folder
    key = (folder / "ca.key").read_bytes()
    assert stat.S_IMODE((folder / "ca.key").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not found_authority(pki.config, "again", pki.clock())
    assert pki.authority.certificate.subject.rfc4514_string() == "CN=test authority"
    (folder / "ca.pem").unlink()
    Path(pki.config.ca_file).unlink()

    assert found_authority(pki.config, "again", pki.clock())

    assert (folder / "ca.key").read_bytes() == key
    assert Path(pki.config.ca_file).read_bytes() == pki.authority.pem


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_what_root_does_for_an_authority_belongs_to_its_user(tmp_path):
    """Made and revoked by root, served by a user of its own: key, register and list are that user's."""
    for name in ("own", "own/state"):
        (tmp_path / name).mkdir()
        os.chown(tmp_path / name, 4711, 4712)

    own = Pki(tmp_path / "own")
    with own.office._register.transaction():  # The register's companions are there while it is open.
        pass
    own.office.issue(TILL, request(TILL, make_key()))
    own.office.revoke(TILL, "x")

    found = {path.name: path.stat().st_uid for path in (tmp_path / "own").rglob("*")}
    assert found.keys() >= {"ca.key", "ca.pem", "register.db", "crl.pem", "deny"}
    assert set(found.values()) == {4711}


def test_serve_does_not_start_where_it_cannot_write_the_list(pki, tmp_path):
    """Instead of a line in the log each minute until the list ends and Mosquitto lets nobody in."""
    (tmp_path / "blocked").touch()
    config = pki.toml()
    config.write_text(config.read_text().replace(pki.config.crl_file, str(tmp_path / "blocked" / "crl.pem")))

    done = CliRunner().invoke(ca, ["--config", str(config), "serve"])

    assert (done.exit_code, "cannot write crl_file" in done.stderr) == (1, True)


def test_a_key_that_others_may_read_is_not_used(pki):
    """The message names the file and what to type."""
    (pki.config.folder / "ca.key").chmod(0o640)

    with pytest.raises(ConfigError, match="chmod 0600"):
        read_authority(pki.config.folder)


def test_the_doctor_sees_a_list_and_a_root_that_are_about_to_end(pki):
    """Before they do, and after."""

    def found(ahead_days):
        return [(one.code, one.level) for one in examine(pki.office, pki.clock() + ahead_days * DAY_S)]

    assert found(0) == [("authority", "ok"), ("revocation_list", "ok")]
    assert found(5) == [("authority", "ok"), ("revocation_list", "warning")]
    assert found(8) == [("authority", "ok"), ("revocation_list", "error")]
    assert found(3400)[0] == ("authority", "warning")
    assert found(3700)[0] == ("authority", "error")
    Path(pki.config.crl_file).unlink()
    assert found(0)[1] == ("revocation_list", "error")


# -- The commands ------------------------------------------------------------------------------------------------------


def at(pki, *arguments, **options):
    return CliRunner().invoke(ca, ["--config", str(pki.toml()), *map(str, arguments)], **options)


def test_the_commands_of_a_whole_life(pki, tmp_path):
    """A request is carried here, listed, renewed when due, revoked; each step tells what it did."""
    csr, cert = tmp_path / "t.csr", tmp_path / "t.pem"
    csr.write_bytes(request(TILL, make_key()))

    assert at(pki, "issue", TILL, "--csr", csr, "--out", cert).exit_code == 0
    listed = json.loads(at(pki, "list", "--json").stdout)
    assert [(row["name"], row["state"], row["days_left"]) for row in listed] == [(TILL, "valid", 90.0)]
    before = cert.read_bytes()
    assert "not due" in at(pki, "renew", cert, "--if-due", "--in-place").stderr
    assert cert.read_bytes() == before
    assert at(pki, "renew", cert, "--in-place").exit_code == 0
    assert cert.read_bytes() != before
    assert at(pki, "list", "--expiring", 91).exit_code == 3
    assert at(pki, "list", "--expiring", 9).exit_code == 0
    assert "2 certificates revoked" in at(pki, "revoke", TILL, "--reason", "stolen").stdout
    assert at(pki, "renew", cert).exit_code == 1
    assert {row["state"] for row in json.loads(at(pki, "list", "--all", "--json").stdout)} == {"revoked"}
    assert at(pki, "doctor", "--json").exit_code == 0
    assert at(pki, "crl").stdout.strip() == pki.config.crl_file


def test_a_name_that_is_nobodys_is_not_revoked_in_silence(pki):
    """One that nobody can have is refused; one without a certificate may be misspelt: exit code 3."""
    pki.files("broker", kind="server")
    refused = at(pki, "revoke", "042/01")
    assert (refused.exit_code, "neither a till id" in refused.stderr) == (1, True)
    misspelt = at(pki, "revoke", "042-011")
    assert (misspelt.exit_code, "if it is misspelt" in misspelt.stderr) == (3, True)
    assert at(pki, "revoke", "broker").exit_code == 0
    assert Path(pki.config.deny_file).read_text() == "042-011\nbroker\n"


def test_a_deny_list_that_is_a_link_stays_one(pki, tmp_path):
    """The broker reads where it leads to."""
    real, deny = tmp_path / "real", Path(pki.config.deny_file)
    real.write_text("042-09\n")
    deny.symlink_to(real)

    pki.office.revoke(TILL, "lost")

    assert deny.is_symlink()
    assert real.read_text() == "042-09\n042-01\n"


def test_keys_made_here_are_for_servers_and_workers_and_are_not_overwritten(pki, tmp_path):
    """Readable by their owner only; what was asked for wrongly says how it is right."""
    out = tmp_path / "tls"
    assert at(pki, "issue", "broker", "--server", "--name", "b.example", "--out", out).exit_code == 0
    assert at(pki, "issue", "central-1", "--out", out).exit_code == 0
    assert {stat.S_IMODE((out / f"{name}.key").stat().st_mode) for name in ("broker", "central-1")} == {0o600}
    again = at(pki, "issue", "central-1", "--out", out)
    assert (again.exit_code, "ca renew" in again.stderr) == (1, True)
    till = at(pki, "issue", TILL, "--out", out)
    assert (till.exit_code, "enrol-token" in till.stderr) == (1, True)
    assert at(pki, "issue", "broker", "--server", "--out", out).exit_code == 2
    assert at(pki, "issue", "central-2").exit_code == 2


def test_the_request_of_a_server_on_another_machine_is_signed_with_its_names(pki, tmp_path):
    """Its key need not travel: the certificate is for a server of these names, and for no client."""
    csr, cert = tmp_path / "d.csr", tmp_path / "d.pem"
    csr.write_bytes(request("database", make_key()))
    names = ("--server", "--name", "db.example", "--name", "10.0.0.7")
    assert at(pki, "issue", "database", "--csr", csr, *names, "--out", cert).exit_code == 0

    made = x509.load_pem_x509_certificate(cert.read_bytes())
    assert purposes(made) == {"server"}
    named = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(one.value) for one in named] == ["db.example", "10.0.0.7"]


def test_an_issue_that_was_killed_between_key_and_certificate_is_completed_with_that_key(pki, tmp_path):
    """And a key that was moved away after a revocation makes room for a new one."""
    out = tmp_path / "tls"
    issue = ("issue", "broker", "--server", "--name", "b.example", "--out", out)
    assert at(pki, *issue).exit_code == 0
    key = (out / "broker.key").read_bytes()
    (out / "broker.pem").unlink()
    assert at(pki, *issue).exit_code == 0
    assert (out / "broker.key").read_bytes() == key
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(out / "broker.pem", out / "broker.key")

    assert at(pki, "revoke", "broker").exit_code == 0
    assert "move the old key away" in at(pki, *issue).stderr
    (out / "broker.key").rename(out / "old")
    (out / "broker.key").touch(0o600)
    (out / "broker.pem").rename(out / "old.pem")
    assert "holds no key" in at(pki, *issue).stderr
    (out / "broker.key").unlink()
    assert at(pki, *issue).exit_code == 0
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(out / "broker.pem", out / "broker.key")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("issue", "../escape", "--server", "--name", "b.example"), 2, "is no NAME"),
        (("issue", "x" * 65, "--server", "--name", "b.example"), 2, "is no NAME"),
        (("issue", "broker", "--server", "--name", "müller.example"), 1, "xn--"),
    ],
)
def test_a_name_that_cannot_be_is_told_and_nothing_is_written(pki, tmp_path, arguments, code, says):
    """Neither beside the folder nor in it."""
    done = at(pki, *arguments, "--out", tmp_path / "tls")

    assert (done.exit_code, says in done.stderr) == (code, True), done.output
    assert [path.name for path in tmp_path.rglob("*.key")] == ["ca.key"]


def test_an_authority_of_a_name_that_cannot_be_is_told(pki, tmp_path):
    """Instead of a traceback; the next run with another name completes it."""
    (pki.config.folder / "ca.pem").unlink()

    assert "1 to 64 characters" in at(pki, "init", "--name", "x" * 65).stderr
    assert at(pki, "init").exit_code == 0


def test_without_an_authority_the_command_says_how_to_make_one(tmp_path):
    """No traceback, and nothing is made in passing."""
    config = tmp_path / "ca.toml"
    config.write_text(f'state_dir = "{tmp_path}/none"\n')

    done = CliRunner().invoke(ca, ["--config", str(config), "list"])

    assert (done.exit_code, "tillstream ca init" in done.stderr) == (1, True)
    assert not (tmp_path / "none").exists()


def test_a_certificate_is_in_the_register_before_anybody_has_it(pki, tmp_path):
    """A kill at any moment leaves no certificate that cannot be revoked by name."""
    script = (
        "import os, sys, time; sys.path[:0] = ['tests']\n"
        "from ca.office import Office; from ca.cli import ca; import ca.cli as cli\n"
        "cli._put = lambda path, content: os._exit(9)\n"
        "ca()"
    )
    csr = tmp_path / "t.csr"
    csr.write_bytes(request(TILL, make_key()))
    command = [sys.executable, "-c", script, "--config", str(pki.toml()), "issue", TILL, "--csr", str(csr)]

    assert subprocess.run(command, cwd=ROOT, check=False, env=os.environ).returncode == 9
    assert [entry.name for entry in pki.office.entries()] == [TILL]


def test_a_second_office_sees_what_the_first_did(pki):
    """`serve` and the commands are several processes over one register."""
    Office(pki.config, pki.clock).issue(TILL, request(TILL, make_key()))

    assert [entry.name for entry in pki.office.entries()] == [TILL]
    assert pem(pki.authority.certificate) == pki.authority.pem


def test_thousands_of_damaged_requests_bring_out_a_refusal_and_nothing_else(pki):
    """DER that was cut, turned and filled up: what is granted is what was signed; what is not has a short reason."""
    good = x509.load_pem_x509_csr(request(TILL, make_key())).public_bytes(Encoding.DER)
    hostile, granted, told = Hostile(4711), 0, set()
    for number in range(4000):
        given = good if number % 100 == 0 else hostile.damaged(good, Corpus([good, pki.authority.pem]))
        try:
            granted += name_in(read_request(given).subject) == TILL
        except RequestError as problem:
            told.add(len(str(problem)))

    assert granted >= 40
    assert min(told) > 0
    assert max(told) < 500
