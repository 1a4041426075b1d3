"""Enrolment and renewal between a till and the authority's door, over real HTTPS: what goes through and what not."""

from __future__ import annotations

import base64
import http.client
import io
import socket
import ssl
import stat
import struct
import threading
import time
from pathlib import Path
from random import Random
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner
from factories import wait_until
from pki import Pki, request

from ca.authority import Wanted, make_key, read_request
from ca.server import Door, Places, _keep_fresh
from edge import enrolment
from edge.cli import edge
from edge.config import EdgeConfig
from edge.enrolment import EnrolmentError, enrol, renew, request_of
from edge.enrolment import make_key as make_till_key
from edge.renewal import CertificateSeen, Renewal
from wire.tls import look_at

TILL = "042-01"
EST = "/.well-known/est"


@pytest.fixture
def pki(tmp_path):
    return Pki(tmp_path / "ca")


def till(folder, **keys):
    files = {"tls_ca_file": "ca.pem", "tls_cert_file": "till.pem", "tls_key_file": "till.key"}
    paths = {key: str(folder / "tls" / name) for key, name in files.items()}
    return EdgeConfig(till_id=TILL, state_dir=str(folder), broker_urls=("mqtts://localhost",), **{**paths, **keys})


def write(path, config):
    """Write as a file what a till's commands need of a configuration."""
    names = ("till_id", "tls_ca_file", "tls_cert_file", "tls_key_file")
    lines = [f'{name} = "{getattr(config, name)}"\n' for name in names]
    path.write_text("".join([*lines, f"broker_urls = {list(config.broker_urls)}\n"]), "utf-8")


def ask(url, method, path, body=None, headers=None, context=None):
    """Ask the door as any program may; returns status and body."""
    host = urlsplit(url)
    context = context or ssl._create_unverified_context()
    connection = http.client.HTTPSConnection("127.0.0.1", host.port, timeout=10, context=context)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


# -- Enrolment ---------------------------------------------------------------------------------------------------------


def test_a_till_gets_its_certificate_and_its_key_stays(pki, tmp_path):
    """Key 0600 and made here; certificate and authority are there, and fit; a second run leaves key and certificate."""
    config = till(tmp_path / "till")
    with pki.serving() as url:
        token = pki.office.enrol_token(TILL)
        found = enrol(config, url, token)
        files = [Path(path) for path in (config.tls_ca_file, config.tls_cert_file, config.tls_key_file)]
        before = [path.read_bytes() for path in files]
        again = enrol(config, url, token)

    assert (found.name, found) == (TILL, again)
    assert [path.read_bytes() for path in files] == before
    assert [stat.S_IMODE(path.stat().st_mode) for path in files] == [0o644, 0o644, 0o600]
    assert files[0].read_bytes() == pki.authority.pem
    assert len(pki.office.entries()) == 2  # The door's own, and the till's.
    assert sorted(path.name for path in files[0].parent.iterdir()) == ["ca.pem", "till.key", "till.pem"]


def test_the_token_goes_to_nobody_but_the_authority_that_it_names(pki, tmp_path):
    """A stranger's server, however well it answers, learns no token; nothing is written over."""
    stranger = Pki(tmp_path / "stranger")
    config, token = till(tmp_path / "till"), pki.office.enrol_token(TILL)
    with stranger.serving() as url, pytest.raises(EnrolmentError, match="another authority"):
        enrol(config, url, token)

    assert not Path(config.tls_ca_file).exists()
    assert not Path(config.tls_cert_file).exists()


def test_a_server_under_another_name_gets_no_token(tmp_path):
    """The right authority, but the address is not one that its door answers for."""
    pki = Pki(tmp_path / "ca", names=("central.example",))
    with pki.serving() as url, pytest.raises(EnrolmentError, match="Hostname mismatch"):
        enrol(till(tmp_path / "till"), url, pki.office.enrol_token(TILL))


def test_an_enrolment_that_fails_leaves_the_authority_that_works_and_one_that_succeeds_adds_its_own(pki, tmp_path):
    """The broker still shows a certificate of the old authority while tills go over to the new one."""
    new, config = Pki(tmp_path / "new"), till(tmp_path / "till")
    ca = Path(config.tls_ca_file)
    with pki.serving() as url:
        enrol(config, url, pki.office.enrol_token(TILL))
    with new.serving() as url:
        with pytest.raises(EnrolmentError, match="another till"):
            enrol(config, url, new.office.enrol_token("042-02"))
        assert ca.read_bytes() == pki.authority.pem
        enrol(config, url, new.office.enrol_token(TILL))
        assert ca.read_bytes() == pki.authority.pem + new.authority.pem
        assert renew(till(tmp_path / "till", enrol_url=url)).name == TILL
        assert ca.read_bytes() == pki.authority.pem + new.authority.pem


@pytest.mark.parametrize(
    ("given", "why"),
    [("x", "no enrolment token"), ("", "no enrolment token"), ("a" * 32 + "." + "0" * 64, "another authority")],
)
def test_a_token_that_is_none_is_told_and_not_repeated(pki, tmp_path, given, why):
    """What was typed never stands in the message."""
    with pki.serving() as url, pytest.raises(EnrolmentError, match=why) as refused:
        enrol(till(tmp_path / "till"), url, given)

    assert not given or given not in str(refused.value).replace("no enrolment token", "")


def test_a_refusal_of_the_authority_is_told_on_the_till(pki, tmp_path):
    """Used, expired, or for another till: in the authority's words, without the token."""
    token = pki.office.enrol_token("042-02")
    with pki.serving() as url, pytest.raises(EnrolmentError, match=r"refused \(401\): .* another till") as refused:
        enrol(till(tmp_path / "till"), url, token)

    assert token.split(".")[0] not in str(refused.value)


def test_without_a_door_without_openssl_and_without_files_it_is_said_what_to_do(pki, tmp_path, monkeypatch):
    """Each names what is missing."""
    token = pki.office.enrol_token(TILL)
    with pytest.raises(EnrolmentError, match="Connection refused"):
        enrol(till(tmp_path / "till"), "https://127.0.0.1:1", token)
    for url in ("http://127.0.0.1:1", "https://127.0.0.1:abc", "https://[::1", "https://127.0.0.1:70000", ""):
        with pytest.raises(EnrolmentError, match="no https:// address"):
            enrol(till(tmp_path / "till"), url, token)
    with pytest.raises(EnrolmentError, match="set tls_ca_file, tls_cert_file and tls_key_file"):
        enrol(EdgeConfig(till_id=TILL), "https://127.0.0.1:1", token)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnrolmentError, match="apt-get install openssl"):
        enrol(till(tmp_path / "other"), "https://127.0.0.1:1", token)


STEPS = ["make_folder", "make_key", "_authority", "request_of", "_ask", "_certificates", "look_at"]


class KilledError(BaseException):
    """Stands for SIGKILL: nothing between here and the top may take it."""


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_an_enrolment_that_was_killed_at_any_step_is_completed_by_the_next_run(pki, tmp_path, monkeypatch, step, after):
    """With the same token, also if the authority had answered already; never half a file, never two certificates."""
    config, real = till(tmp_path / "till"), getattr(enrolment, step)

    def killed(*arguments, **options):
        if after:
            real(*arguments, **options)
        raise KilledError

    with pki.serving() as url:
        token = pki.office.enrol_token(TILL)
        with monkeypatch.context() as patch:
            patch.setattr(enrolment, step, killed)
            with pytest.raises(KilledError):
                enrol(config, url, token)
        assert enrol(config, url, token).name == TILL

    assert [entry.name for entry in pki.office.entries()].count(TILL) == 1
    ssl.create_default_context().load_cert_chain(config.tls_cert_file, config.tls_key_file)


def test_a_request_can_be_carried_by_hand(pki, tmp_path):
    """`edge enrol --csr` prints it; what the authority makes of it fits the key."""
    config = tmp_path / "edge.toml"
    keys = till(tmp_path / "till")
    write(config, keys)

    done = CliRunner().invoke(edge, ["--config", str(config), "enrol", "--csr"])

    certificate = pki.office.issue(TILL, done.stdout.encode())
    Path(keys.tls_cert_file).write_bytes(certificate.public_bytes(enrolment_pem()))
    ssl.create_default_context().load_cert_chain(keys.tls_cert_file, keys.tls_key_file)


def enrolment_pem():
    from cryptography.hazmat.primitives.serialization import Encoding

    return Encoding.PEM


def test_the_command_takes_the_token_from_standard_input(pki, tmp_path):
    """Never as an argument; it tells where the certificate is and how long it is valid."""
    config = tmp_path / "edge.toml"
    keys = till(tmp_path / "till")
    write(config, keys)
    with pki.serving() as url:
        command = ["--config", str(config), "enrol", "--url", url]
        refused = CliRunner().invoke(edge, command, input="nonsense\n")
        done = CliRunner().invoke(edge, command, input=pki.office.enrol_token(TILL) + "\n")

    assert (refused.exit_code, "no enrolment token" in refused.stderr) == (1, True)
    assert (done.exit_code, "042-01, valid until" in done.stdout) == (0, True)


# -- Renewal -----------------------------------------------------------------------------------------------------------


def enrolled(pki, folder, url, **keys):
    config = till(folder, enrol_url=url, **keys)
    enrol(config, url, pki.office.enrol_token(TILL))
    return config


def test_a_renewal_replaces_the_certificate_and_nothing_else(pki, tmp_path):
    """Another serial number, the same key: at each moment key and certificate fit."""
    with pki.serving() as url:
        config = enrolled(pki, tmp_path / "till", url)
        key, old = Path(config.tls_key_file).read_bytes(), look_at(Path(config.tls_cert_file))
        assert renew(config) == old  # It is not due.
        pki.clock.ahead_s = 61 * DAY_S
        new = renew(config)

    assert new == look_at(Path(config.tls_cert_file))
    assert (new.name, new.serial != old.serial) == (TILL, True)
    assert Path(config.tls_key_file).read_bytes() == key


def test_a_revoked_till_and_one_whose_certificate_expired_are_not_renewed(pki, tmp_path):
    """The certificate stays as it was, and the reason is told."""
    with pki.serving() as url:
        config = enrolled(pki, tmp_path / "till", url)
        before = Path(config.tls_cert_file).read_bytes()
        pki.office.revoke(TILL, "lost")
        with pytest.raises(EnrolmentError, match="deny list"):
            renew(config)
        Path(pki.config.deny_file).write_text("")
        with pytest.raises(EnrolmentError, match="was revoked"):
            renew(config)
        assert Path(config.tls_cert_file).read_bytes() == before
        cert, key = pki.files(TILL, begins_s=-100, ends_s=-50)
        with pytest.raises(EnrolmentError, match=r"expired|alert"):
            renew(till(tmp_path / "till", enrol_url=url, tls_cert_file=cert, tls_key_file=key))


def test_an_answer_that_does_not_fit_replaces_nothing(pki, tmp_path, monkeypatch):
    """Another key's, another till's, a stranger's certificate, or none at all."""
    stranger = Pki(tmp_path / "stranger")
    pki = Pki(tmp_path / "ca")
    with pki.serving() as url:
        config = enrolled(pki, tmp_path / "till", url)
        before = Path(config.tls_cert_file).read_bytes()
        other = pki.office.issue(TILL, request(TILL, make_key()))
        own_key = read_request(request_of(Path(config.tls_key_file), TILL)).public_key()
        foreign = stranger.authority.sign(own_key, Wanted(TILL, "client", (), 7, 0, time.time() + 900))
        for answer in (other, foreign):
            pems = [answer.public_bytes(enrolment_pem())]
            monkeypatch.setattr(enrolment, "_certificates", lambda _, pems=pems: pems)
            with pytest.raises(EnrolmentError):
                renew(config)
        monkeypatch.setattr(enrolment, "_certificates", lambda _: [])
        with pytest.raises(EnrolmentError, match="no certificate"):
            renew(config)

    assert Path(config.tls_cert_file).read_bytes() == before
    names = [path.name for path in Path(config.tls_cert_file).parent.iterdir()]
    assert sorted(names) == ["ca.pem", "till.key", "till.pem"]


class Watched:
    """A renewal that is looked at once, and what it told."""

    def __init__(self, config, ahead_s=0.0):
        self.seen, self.renewed = [], []
        self.renewal = Renewal(
            config, self.seen.append, lambda: self.renewed.append(True), Random(1), lambda: time.time() + ahead_s
        )

    def look(self):
        return self.renewal._look()


DAY_S = 86_400


def test_it_waits_until_a_third_is_left_renews_then_and_says_so(pki, tmp_path):
    """Looked at once an hour at least; after the renewal the link is told to connect anew."""
    with pki.serving() as url:
        config = enrolled(pki, tmp_path / "till", url)
        early, late = Watched(config, 59 * DAY_S), Watched(config, 61 * DAY_S)
        seen, wait_s = early.look()
        assert (seen.problem, early.renewed) == ("", [])
        assert 0 < wait_s <= 2 * 3600
        pki.clock.ahead_s = 61 * DAY_S
        # The door's own certificate is as old as the till's: TLS goes by the machine's clock, which stands.
        seen, wait_s = late.look()

    assert (seen.problem, late.renewed) == ("", [True])
    assert seen.not_after_s - time.time() > 150 * DAY_S


def test_a_renewal_that_fails_is_told_with_the_days_left_and_tried_again(pki, tmp_path):
    """While the door is shut, without an address, and after the end."""
    with pki.serving() as url:
        config = enrolled(pki, tmp_path / "till", url)
    seen, wait_s = Watched(config, 70 * DAY_S).look()
    assert "Connection refused" in seen.problem
    assert seen.days_left(time.time() + 70 * DAY_S) == pytest.approx(20, abs=0.1)
    assert seen.trouble(time.time() + 70 * DAY_S).startswith("20: https://localhost")
    assert 0.6 * config.renew_again_s < wait_s < 1.4 * config.renew_again_s

    assert "enrol_url is not set" in Watched(till(tmp_path / "till"), 70 * DAY_S).look()[0].problem
    assert "tillstream edge enrol" in Watched(config, 91 * DAY_S).look()[0].problem
    Path(config.tls_cert_file).write_text("torn")
    torn, _ = Watched(config).look()
    assert (torn.not_after_s, "openssl x509" in torn.problem) == (None, True)
    assert torn.trouble(0).startswith("?: ")
    assert CertificateSeen(5.0).trouble(0) == ""


def test_a_fleet_enrolled_in_one_night_does_not_renew_in_one_second(pki, tmp_path):
    """The moment is spread over an hour."""
    with pki.serving() as url:
        config = enrolled(pki, tmp_path / "till", url)
    certificate = look_at(Path(config.tls_cert_file))
    waits = []
    for seed in range(200):
        renewal = Renewal(config, print, print, Random(seed))
        waits.append(renewal._until_due_s(certificate, certificate.not_after_s - 30 * DAY_S))

    assert max(waits) - min(waits) > 3000


# -- What the door takes -----------------------------------------------------------------------------------------------


def basic(name, token):
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{token}".encode()).decode()}


def test_the_door_answers_as_the_standard_has_it(pki):
    """RFC 7030: cacerts as certs-only PKCS #7 in base64; a login that is missing is asked for."""
    with pki.serving() as url:
        status, body = ask(url, "GET", f"{EST}/cacerts")
        assert status == 200
        assert [pem.strip() for pem in enrolment._certificates(body)] == [pki.authority.pem.strip()]
        status, crl = ask(url, "GET", "/crl.pem")
        assert (status, crl) == (200, Path(pki.config.crl_file).read_bytes())
        assert ask(url, "GET", "/")[0] == 404
        assert ask(url, "POST", "/", b"")[0] == 404
        body = base64.b64encode(b"x")
        assert ask(url, "POST", f"{EST}/simpleenroll", body)[0] == 401
        assert ask(url, "POST", f"{EST}/simplereenroll", body)[0] == 401
        assert ask(url, "POST", f"{EST}/simpleenroll", body, basic(TILL, "x"))[0] == 400
        assert ask(url, "POST", f"{EST}/simpleenroll", b"\xff\xfe", basic(TILL, "x"))[0] == 400
        assert ask(url, "POST", f"{EST}/simpleenroll", b"", {**basic(TILL, "x"), "Content-Length": "20000"})[0] == 400
        assert ask(url, "POST", f"{EST}/simpleenroll", body, {"Authorization": "Basic \xff"})[0] == 401
        assert ask(url, "PUT", "/", b"")[0] == 501


def test_a_certificate_of_another_authority_does_not_even_get_to_ask(pki, tmp_path):
    """Refused in the handshake, by name of the reason."""
    cert, key = Pki(tmp_path / "stranger").files(TILL)
    context = ssl._create_unverified_context()
    context.load_cert_chain(cert, key)
    with pki.serving() as url, pytest.raises(ssl.SSLError, match="unknown ca"):
        ask(url, "POST", f"{EST}/simplereenroll", b"", context=context)


def test_an_address_that_asks_too_often_waits_and_the_others_do_not(tmp_path):
    """Counted by address; what is public is not counted."""
    pki = Pki(tmp_path / "ca", requests_per_minute=3)
    with pki.serving() as url:
        found = [ask(url, "POST", f"{EST}/simpleenroll", b"", basic(TILL, "x"))[0] for _ in range(5)]
        assert found == [400, 400, 400, 429, 429]
        assert ask(url, "GET", f"{EST}/cacerts")[0] == 200


def test_those_that_say_nothing_hold_up_nobody_and_are_hung_up_on(tmp_path, caplog):
    """Before the handshake and within it; and beyond connections_max nobody is let in."""
    pki = Pki(tmp_path / "ca", request_timeout_s=5.0, connections_max=3)
    with pki.serving() as url:
        port = urlsplit(url).port
        silent = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(2)]
        silent[1].sendall(b"\x16\x03\x01")
        assert ask(url, "GET", f"{EST}/cacerts")[0] == 200
        assert wait_until(lambda: _stays(port, silent))  # The place of the one that was answered is free in a moment.
        over = socket.create_connection(("127.0.0.1", port), timeout=10)
        assert over.recv(1) == b""
        assert {one.also["reason"] for one in caplog.records if one.msg == "refused"} == {"too_many_connections"}
        assert silent[0].recv(100) == b""
        assert wait_until(lambda: _answers(url))
        for one in (*silent, over):
            one.close()


def _stays(port, kept):
    """Connect; keep the connection and say so if it is not hung up on at once."""
    one = socket.create_connection(("127.0.0.1", port), timeout=0.3)
    try:
        one.recv(1)
    except TimeoutError:
        kept.append(one)
        return True
    one.close()
    return False


def test_clients_that_are_gone_before_they_are_looked_at_take_no_place(tmp_path):
    """Reset while they wait: making TLS of them fails, and their places are free again."""
    with Door(Pki(tmp_path / "ca").office) as door:
        for _ in range(8):
            gone = socket.create_connection(("127.0.0.1", door.port))
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            gone.close()
            door.turn(time.monotonic())
        assert wait_until(lambda: len(door.places) == 0)


def test_no_address_takes_all_places_and_one_without_a_thread_gives_its_place_back(tmp_path, monkeypatch):
    """Of one address so many; another one is let in beside it."""
    places = Places(4, 2)
    assert [places.take(address) for address in "aaabbc"] == [True, True, False, True, True, False]
    places.leave("a")
    assert [places.take(address) for address in "bc"] == [False, True]

    with Door(Pki(tmp_path / "ca").office) as door, socket.create_connection(("127.0.0.1", door.port)) as client:
        monkeypatch.setattr(threading.Thread, "start", _no_thread)
        door.turn(time.monotonic())
        client.settimeout(10)
        assert client.recv(1) == b""
        assert len(door.places) == 0


def _no_thread(_):
    raise RuntimeError("can't start new thread")


def _answers(url):
    try:
        return ask(url, "GET", f"{EST}/cacerts")[0] == 200
    except OSError:
        return False


def test_a_trickle_ends_at_the_deadline_of_the_whole_request(tmp_path):
    """A byte now and then does not keep a connection open."""
    pki = Pki(tmp_path / "ca", request_timeout_s=1.0)
    with pki.serving() as url:
        began = time.monotonic()
        raw = socket.create_connection(("127.0.0.1", urlsplit(url).port), timeout=10)
        with ssl._create_unverified_context().wrap_socket(raw) as tls:
            tls.settimeout(0.2)
            while time.monotonic() < began + 8 and _trickles(tls):
                pass

    assert time.monotonic() - began < 6


def _trickles(tls):
    """Send a byte or two; say whether the other side still listens."""
    try:
        tls.sendall(b"X")
        return tls.recv(1) != b""
    except TimeoutError:
        return True
    except OSError:
        return False


def test_the_doors_own_certificate_is_made_anew_when_it_is_due_or_names_changed(tmp_path):
    """Without a restart; it is in the register like any other."""
    from ca.server import own_context

    pki = Pki(tmp_path / "ca")
    own_context(pki.office)
    own_context(pki.office)
    assert len(pki.office.entries()) == 1
    pki.clock.ahead_s = 61 * DAY_S
    own_context(pki.office)
    assert len(pki.office.entries()) == 2
    own_context(Pki(tmp_path / "ca", names=("other.example",)).office)
    assert len(pki.office.entries()) == 3
    long = f"{'x' * 60}.{'y' * 60}.example"  # Longer than a common name may be; what counts are the alternative names.
    own_context(Pki(tmp_path / "ca", names=(long,)).office)
    assert len(pki.office.entries()) == 4


def test_a_list_that_cannot_be_written_does_not_keep_the_door_from_renewing_its_certificate(tmp_path, caplog):
    """Each of the two is tried, and told, by itself."""
    pki = Pki(tmp_path / "ca")
    with Door(pki.office) as door:
        before = door.context
        Path(pki.config.crl_file).unlink()
        Path(pki.config.crl_file).mkdir()
        pki.clock.ahead_s = 61 * DAY_S
        _keep_fresh(pki.office, door)

    assert [one.msg for one in caplog.records if one.levelname == "ERROR"] == ["not_kept_fresh"]
    assert door.context is not before
    assert len(pki.office.entries()) == 2


def test_two_tills_with_one_token_at_once(pki, tmp_path):
    """One is enrolled, the other is told; both really at the door together."""
    configs = [till(tmp_path / name) for name in ("a", "b")]
    told = []
    with pki.serving() as url:
        token = pki.office.enrol_token(TILL)

        def go(config):
            try:
                told.append(enrol(config, url, token).name)
            except EnrolmentError as problem:
                told.append("used already" if "used already" in str(problem) else str(problem))

        threads = [threading.Thread(target=go, args=(config,)) for config in configs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert sorted(told) == [TILL, "used already"]


def test_a_key_that_is_there_is_never_replaced(tmp_path):
    """It may be what the only valid certificate belongs to."""
    key = tmp_path / "till.key"
    make_till_key(key)
    before = key.read_bytes()
    make_till_key(key)
    assert key.read_bytes() == before
    assert io.BytesIO(before).readline().startswith(b"-----BEGIN EC PRIVATE KEY")
