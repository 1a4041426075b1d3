"""TLS at a client: what its files say, what it refuses to start with, and errors in words that tell what to do."""

from __future__ import annotations

import errno
import os
import ssl
import stat
import threading
import time
from pathlib import Path
from random import Random

import msgspec
import pytest
from pki import Pki

from central.config import CentralConfig
from edge.config import EdgeConfig
from edge.service import link_settings
from wire import examine
from wire.broker_url import BrokerUrl
from wire.files import make_folder, replace
from wire.tls import Certificate, Tls, TlsError, explain, is_cut, is_refusal, look_at, openssl, tls_of, told

TILL = "042-01"
TLS_URL = ("mqtts://localhost",)


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    return Pki(tmp_path_factory.mktemp("pki") / "ca")


# -- Configuration -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [EdgeConfig, CentralConfig])
@pytest.mark.parametrize(
    "half",
    [
        {"tls_cert_file": "c"},
        {"tls_key_file": "k"},
        {"tls_cert_file": "c", "tls_key_file": "k"},
        {"tls_ca_file": "a", "broker_urls": ["mqtt://localhost"]},
    ],
)
def test_half_a_configuration_is_an_error(config, half):
    """A certificate without its key, one that is shown to anybody, an authority and no TLS."""
    values = {"broker_urls": list(TLS_URL), "till_id": TILL, **half}
    if config is CentralConfig:
        del values["till_id"]
    with pytest.raises(msgspec.ValidationError, match="tls_"):
        msgspec.convert(values, config)


def test_without_a_tls_url_there_is_no_tls_and_with_one_its_files_are_taken():
    """The address alone says how it is spoken to."""
    assert tls_of([BrokerUrl("h", 1)], "", "", "") is None
    assert tls_of([BrokerUrl("h", 1), BrokerUrl("h", 2, is_tls=True)], "a", "c", "k") == Tls("a", "c", "k")


def test_who_shows_a_certificate_keeps_its_token(pki, tmp_path):
    """The token is for brokers without certificates, and for documents carried by file."""
    from wire.link import Connection

    cert, key = pki.files(TILL)
    files = {"tls_ca_file": pki.ca_file, "tls_cert_file": cert, "tls_key_file": key}
    for keys, password in (({}, "secret"), ({"tls_ca_file": pki.ca_file}, "secret"), (files, None)):
        config = EdgeConfig(till_id=TILL, token="secret", broker_urls=TLS_URL, **keys)
        client = Connection(link_settings(config, Random(1)), 1, b"", lambda *_: True).client
        assert (client.username, client.password) == (TILL, password)


# -- Files -------------------------------------------------------------------------------------------------------------


def test_a_certificate_tells_whom_it_names_and_how_long_it_is_good(pki):
    """Read by openssl, as on a till."""
    found = look_at(Path(pki.files("042-07")[0]))

    (entry,) = [one for one in pki.office.entries() if one.name == "042-07"]
    assert (found.name, found.serial) == (entry.name, entry.serial)
    assert found.left_s(time.time()) == pytest.approx(90 * 86_400, abs=60)
    assert not found.is_due(time.time() + 59 * 86_400, 1 / 3)
    assert found.is_due(time.time() + 61 * 86_400, 1 / 3)


def test_what_is_wrong_with_the_own_certificate_is_said(pki, tmp_path):
    """Of another, not begun, over, unreadable; the message names the file."""
    one = Certificate(TILL, "1", 100.0, 200.0)
    assert [one.flaw(TILL, 150), one.flaw("x", 150)] == ["", "it names '042-01', not 'x'"]
    assert "not valid before 1970-01-01 00:01:40 UTC by this machine's clock" in one.flaw(TILL, 99)
    assert "expired at 1970-01-01 00:03:20 UTC" in one.flaw(TILL, 201)
    cert, key = pki.files(TILL)
    tls = Tls(pki.ca_file, cert, key)
    assert tls.flaw(TILL, time.time()) == ""
    tls.check_name(TILL)
    with pytest.raises(TlsError, match=f"{cert} names '042-01', not 'x'"):
        tls.check_name("x")
    assert Tls(pki.ca_file).flaw("anybody", 0) == ""
    torn = tmp_path / "torn.pem"
    torn.write_text("torn")
    assert "openssl x509" in Tls(pki.ca_file, str(torn), key).flaw(TILL, 0)


def test_files_that_cannot_be_used_are_named(pki, tmp_path):
    """Missing, torn, not fitting, and a key that wants a password: an error, never a question at the terminal."""
    cert, key = pki.files(TILL)
    stranger = pki.files("042-02")[1]
    torn, locked = tmp_path / "torn.pem", tmp_path / "locked.key"
    torn.write_text("torn")
    locked.write_bytes(openssl("pkey", "-in", key, "-aes128", "-passout", "pass:x"))
    for tls, name in (
        (Tls(str(tmp_path / "none")), "tls_ca_file"), (Tls(str(torn)), "tls_ca_file"),
        (Tls(pki.ca_file, str(torn), key), "tls_cert_file"), (Tls(pki.ca_file, cert, stranger), "tls_key_file"),
        (Tls(pki.ca_file, cert, str(locked)), "tls_key_file"),
    ):  # fmt: skip
        with pytest.raises(TlsError, match=name):
            tls.context()


def test_who_shows_no_certificate_shares_one_context_until_the_authoritys_file_changes(pki, tmp_path):
    """Ten thousand tills of one process read the file once."""
    ca_file = tmp_path / "ca.pem"
    replace(ca_file, Path(pki.ca_file).read_bytes())
    first = Tls(str(ca_file)).context()

    assert Tls(str(ca_file)).context() is first
    os.utime(ca_file, (1, 1))
    assert Tls(str(ca_file)).context() is not first
    assert Tls(str(ca_file), *pki.files(TILL)).context() is not Tls(str(ca_file), *pki.files(TILL)).context()


def test_a_program_openssl_that_fails_is_told_in_one_line(tmp_path):
    """Its first line, and which of its commands it was."""
    with pytest.raises(TlsError, match=r"openssl x509: .*none\.pem|openssl x509: Could not open"):
        openssl("x509", "-in", str(tmp_path / "none.pem"))


def test_a_file_is_replaced_whole_with_its_mode_whoever_reads_it(tmp_path):
    """A reader sees the one before or the one after; a draft that a kill left is no hindrance."""
    make_folder(tmp_path / "a" / "b")
    path = tmp_path / "a" / "b" / "key"
    (path.with_name(".key.draft")).write_text("left by a kill")
    replace(path, b"0" * 5000, 0o600)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    seen, stopping = set(), threading.Event()

    def read():
        while not stopping.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(200):
        replace(path, str(number % 10).encode() * 5000, 0o600)
    stopping.set()
    reader.join()

    assert {len(content) for content in seen} == {5000}
    assert all(len(set(content)) == 1 for content in seen)
    assert [one.name for one in path.parent.iterdir()] == ["key"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_what_root_writes_for_a_service_belongs_to_the_service(tmp_path):
    """Whose folder it is, his file it is: enrolment by root must not leave a key that the agent cannot read."""
    folder = tmp_path / "state"
    folder.mkdir()
    os.chown(folder, 4711, 4712)

    make_folder(folder / "tls")
    replace(folder / "tls" / "till.key", b"x", 0o600)

    for path in (folder / "tls", folder / "tls" / "till.key"):
        assert (path.stat().st_uid, path.stat().st_gid) == (4711, 4712)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_that_is_replaced_keeps_its_owner_and_group(tmp_path):
    """A deny list of root:mosquitto 0640 stays readable for Mosquitto."""
    path = tmp_path / "deny"
    path.touch()
    os.chown(path, 0, 4712)

    replace(path, b"x", 0o640)

    assert (path.stat().st_uid, path.stat().st_gid) == (0, 4712)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_service_that_swaps_roots_draft_for_a_link_gets_nothing_of_roots(tmp_path, monkeypatch):
    """The service owns the folder; what root gives away is the file it wrote, whatever the name leads to by then."""
    folder, treasure, real = tmp_path / "state", tmp_path / "treasure", os.fsync
    folder.mkdir()
    os.chown(folder, 4711, 4712)
    treasure.touch()

    def swapped(descriptor):
        draft = folder / ".till.key.draft"
        if draft.exists():
            draft.unlink()
            draft.symlink_to(treasure)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", swapped)
    replace(folder / "till.key", b"x", 0o600)

    assert treasure.stat().st_uid == 0


# -- Words -------------------------------------------------------------------------------------------------------------


def an_ssl_error(kind, reason, text):
    problem = kind(1, f"[SSL: {reason}] {text} (_ssl.c:1006)")
    problem.reason = reason
    return problem


REFUSED = [
    (an_ssl_error(ssl.SSLError, "TLSV1_ALERT_UNKNOWN_CA", "tlsv1 alert unknown ca"), "does not accept this client"),
    (an_ssl_error(ssl.SSLError, "WRONG_VERSION_NUMBER", "wrong version number"), "no TLS is spoken at this port"),
    (an_ssl_error(ssl.SSLCertVerificationError, "CERTIFICATE_VERIFY_FAILED", "has expired"), "has expired"),
    (TlsError("tls_ca_file /x: no such file"), "tls_ca_file /x"),
]


@pytest.mark.parametrize(("problem", "words"), REFUSED)
def test_a_refusal_is_told_from_a_line_that_is_dead(problem, words):
    """And says nothing of where in OpenSSL it was noticed."""
    assert is_refusal(problem)
    assert words in explain(problem, is_tls=True, flaw="")
    assert "_ssl.c" not in explain(problem, is_tls=True, flaw="")


def test_a_cut_is_no_refusal_by_itself_and_asks_what_may_be_behind_it():
    """A broker that has just ended cuts, too; what is wrong with the own certificate is added."""
    eof, reset = ssl.SSLEOFError(8, "EOF"), ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
    for problem in (eof, reset):
        assert (is_cut(problem), is_refusal(problem)) == (True, False)
        assert "is TLS spoken at this port" in explain(problem, is_tls=True, flaw="")
    assert "does it want TLS at this port" in explain(reset, is_tls=False, flaw="")
    assert explain(eof, is_tls=True, flaw="it expired").endswith("; it expired")
    for dead in (ConnectionRefusedError(111, "Connection refused"), TimeoutError("timed out")):
        assert not is_refusal(dead)
        assert told(dead) in explain(dead, is_tls=True, flaw="")


def test_the_doctors_look_at_the_own_certificate(pki, tmp_path):
    """Fine, overdue, expired, another's, unreadable; and nothing to say where none is shown."""
    cert, now_s = pki.files(TILL)[0], time.time()

    def level(path, name, ahead_days):
        found = examine.certificate(path, name, now_s + ahead_days * 86_400, 0.3)
        return found.level

    assert [level(cert, TILL, days) for days in (0, 62, 64, 91)] == ["ok", "ok", "warning", "error"]
    assert [level("", TILL, 0), level(cert, "x", 0), level(str(tmp_path / "none"), TILL, 0)] == ["ok", "error", "error"]
