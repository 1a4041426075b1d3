"""Mutual TLS on each broker: who shows the right certificate is in; each wrong one is told on both ends; revocation."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from queue import Queue
from random import Random

import pytest
from brokers import MOSQUITTO, embedded, wait_until
from mutual import Mutual
from pki import Pki
from raw_mqtt import ClosedError

from edge.config import EdgeConfig
from edge.service import link_settings
from wire.link import Connected, Disconnected, Link
from wire.tls import Tls
from wire.topics import RECEIPT_CLOSED

TRUE = type("Toml", (), {"__repr__": lambda _: "true"})()
REVOKED_WITHIN_S = 60
KINDS = ("embedded", "mosquitto", "nats")
# paho leaves the socket of a handshake that failed to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in. <ssl.SSLSocket")
kinds = pytest.mark.parametrize("kind", KINDS, scope="module")


@pytest.fixture(scope="module")
def mutual(kind, tmp_path_factory):
    if kind == "mosquitto" and not MOSQUITTO:
        pytest.skip("the program mosquitto is not installed")
    with Mutual(kind, tmp_path_factory.mktemp(f"mutual-{kind}")).running() as running:
        yield running


@contextlib.contextmanager
def link(port, user, tls, *, host="localhost", is_tls=True):
    """Keep a real link as agent and central do; yields the queue of its events."""
    events, files = Queue(), tls or Tls("")
    config = EdgeConfig(
        till_id=user, broker_urls=(f"{'mqtts' if is_tls else 'mqtt'}://{host}:{port}",), reconnect_min_s=0.05,
        reconnect_max_s=0.1, tls_ca_file=files.ca_file, tls_cert_file=files.cert_file, tls_key_file=files.key_file,
    )  # fmt: skip
    settings = link_settings(config, Random(1))
    running = Link(settings, lambda _: b"{}", lambda event, _: events.put(event) or True, Random(1))
    running.start()
    try:
        yield events
    finally:
        running.stop()


def refusal(port, user, tls, **options) -> str:
    """Return why a link is refused, in its own words."""
    with link(port, user, tls, **options) as events:
        for _ in range(20):
            event = events.get(timeout=15)
            assert not isinstance(event, Connected)
            if isinstance(event, Disconnected) and event.is_refused:
                return event.reason
    raise AssertionError("never refused")


# -- In ----------------------------------------------------------------------------------------------------------------


@kinds
def test_a_certificate_lets_in_whom_it_names_without_a_token(mutual):
    """A till and a worker meet; the user name that is sent as well changes nothing."""
    till = mutual.broker.new_till()
    with mutual.client("central-1") as central, mutual.client(till) as client:
        central.subscribe(RECEIPT_CLOSED.of())
        client.publish(RECEIPT_CLOSED.of(till=till), b"ring")
        assert central.message().payload == b"ring"
    with link(mutual.broker.port, till, Tls(mutual.pki.ca_file, *mutual.pki.files(till))) as events:
        assert isinstance(events.get(timeout=15), Connected)


@kinds
def test_a_certificate_gives_the_rights_of_its_name_only(mutual):
    """What another till may write does not get through, whatever the client says of itself."""
    till, other = mutual.broker.new_till(), mutual.broker.new_till()
    with mutual.client("central-2") as central, mutual.client(till) as client, mutual.client(other) as rightful:
        central.subscribe(RECEIPT_CLOSED.of())
        with contextlib.suppress(ClosedError):
            client.publish(RECEIPT_CLOSED.of(till=other), b"forged")
        rightful.publish(RECEIPT_CLOSED.of(till=other), b"mark")
        assert central.message().payload == b"mark"


# -- Out ---------------------------------------------------------------------------------------------------------------

BROKER_SAYS = {
    "embedded": {
        "expired": "certificate has expired", "early": "certificate is not yet valid", "stranger": "self-signed|issuer",
        "server": "unsuitable certificate purpose|unsupported certificate purpose", "none": "did not return a certif",
        "revoked": "certificate revoked|denied",
    },
    "mosquitto": dict.fromkeys(("expired", "early", "stranger", "server", "revoked"), "certificate verify failed")
    | {"none": "peer did not return a certificate"},
    "nats": {
        "expired": "expired or is not yet valid", "early": "expired or is not yet valid",
        "stranger": "unknown authority", "server": "incompatible key usage", "none": "provide a certificate",
        "revoked": "authentication error",
    },
}  # fmt: skip
TILL_SAYS = {"expired": "it expired at", "early": "it is not valid before"}
REFUSED = "does not accept this client|Not authorized"
SILENT = f"{REFUSED}|does it accept this client's certificate"
"""Mosquitto sends no alert, and NATS closes so soon that its alert is lost as often as not."""
TOLD = {"embedded": REFUSED, "mosquitto": SILENT, "nats": SILENT}


def flawed(mutual, flaw, till, tmp_path):
    """Return certificate and key of a till, with this flaw."""
    match flaw:
        case "expired":
            return mutual.pki.files(till, label=f"{till}-expired", begins_s=-7200, ends_s=-3600)
        case "early":
            return mutual.pki.files(till, label=f"{till}-early", begins_s=3600, ends_s=7200)
        case "server":
            return mutual.pki.files(till, kind="server")
        case "revoked":
            files = mutual.pki.files(till)
            mutual.pki.office.revoke(till, "lost")
            mutual.apply()
            return files
        case "none":
            return ("", "")
    return Pki(tmp_path / "stranger").files(till)


@kinds
@pytest.mark.parametrize("flaw", ["expired", "early", "stranger", "server", "none", "revoked"])
def test_a_wrong_certificate_is_refused_and_both_ends_say_why(mutual, flaw, tmp_path):
    """Expired, not valid yet, of another authority, made for a server, none, revoked."""
    import re

    till, before = mutual.broker.new_till(), len(mutual.broker.log())
    files = flawed(mutual, flaw, till, tmp_path)
    if flaw == "revoked":
        assert wait_until(lambda: is_out(mutual, till, files), REVOKED_WITHIN_S)

    reason = refusal(mutual.broker.port, till, Tls(mutual.pki.ca_file, *files))

    assert re.search(TILL_SAYS.get(flaw, TOLD[mutual.kind]), reason), reason
    said = BROKER_SAYS[mutual.kind][flaw]
    assert wait_until(lambda: re.search(said, mutual.broker.log()[before:]), 5), mutual.broker.log()[before:]
    assert "Traceback" not in mutual.broker.log()


def is_out(mutual, till, files):
    """Say whether a certificate no longer lets in."""
    try:
        with mutual.broker.raw(mutual.context(files)) as client:
            return client.connect(till) != 0
    except (OSError, ClosedError):
        return True


@kinds
def test_a_certificate_that_names_another_is_not_even_shown(mutual):
    """The client sees it itself: not every broker minds. The embedded one refuses it, too."""
    till, other = mutual.broker.new_till(), mutual.broker.new_till()
    files = mutual.pki.files(other)

    reason = refusal(mutual.broker.port, till, Tls(mutual.pki.ca_file, *files))

    assert f"names '{other}', not '{till}'" in reason
    if mutual.kind == "embedded":
        with mutual.broker.raw(mutual.context(files)) as thief:
            assert thief.connect(till) == 5
        assert "client_id_is_not_certificate_name" in mutual.broker.log()


@kinds
def test_plain_tcp_to_a_tls_port_and_a_name_that_is_not_the_brokers_are_told(mutual):
    """What the client has wrong is in its own words; the broker names the other side's bytes."""
    till, before = mutual.broker.new_till(), len(mutual.broker.log())
    with link(mutual.broker.port, till, None, is_tls=False) as events:
        event = events.get(timeout=15)
    assert "does it want TLS at this port" in event.reason
    # NATS hangs up at once, but notes that in its debug log only.
    said = {"embedded": "plain bytes at a TLS port", "mosquitto": "wrong version number", "nats": ""}
    assert wait_until(lambda: said[mutual.kind] in mutual.broker.log()[before:], 5), mutual.broker.log()[before:]

    tls = Tls(mutual.pki.ca_file, *mutual.pki.files(till))
    assert "IP address mismatch" in refusal(mutual.broker.port, till, tls, host="127.0.0.1")


@kinds
def test_a_client_that_does_not_believe_the_broker_says_so_and_the_broker_too(mutual, tmp_path):
    """Another authority's certificate in tls_ca_file."""
    till, before = mutual.broker.new_till(), len(mutual.broker.log())
    files = mutual.pki.files(till)
    stranger = Pki(tmp_path / "stranger").ca_file

    reason = refusal(mutual.broker.port, till, Tls(stranger, *files))

    assert "certificate verify failed" in reason
    said = {"embedded": "client does not accept this broker", "mosquitto": "alert", "nats": "handshake error"}
    assert wait_until(lambda: said[mutual.kind] in mutual.broker.log()[before:], 5), mutual.broker.log()[before:]


# -- Taken back --------------------------------------------------------------------------------------------------------


@kinds
def test_a_revocation_ends_a_live_session_and_lets_nobody_in_again(mutual, capsys):
    """Within the minute, by one reload; the others stay connected. The time is printed."""
    till, other = mutual.broker.new_till(), mutual.broker.new_till()
    files = mutual.pki.files(till)
    ring = RECEIPT_CLOSED.of(till=till)
    with (
        mutual.client("central-1") as central,
        mutual.client(other) as stays,
        mutual.client(till, files) as live,
    ):
        central.subscribe(RECEIPT_CLOSED.of())
        live.publish(ring, b"before")
        assert central.message().payload == b"before"

        mutual.pki.office.revoke(till, "stolen")
        mutual.apply()
        began = time.monotonic()
        assert wait_until(lambda: has_lost_its_rights(live, ring, central, stays, other), REVOKED_WITHIN_S)
        muted_s = time.monotonic() - began
        assert wait_until(lambda: is_out(mutual, till, files), REVOKED_WITHIN_S)
        stays.publish(RECEIPT_CLOSED.of(till=other), b"still here")
        assert central.message().payload == b"still here"
    with capsys.disabled():
        print(f"\n{mutual.kind}: a live session of a revoked till ended, or was mute, {muted_s:.2f} s after the reload")


def has_lost_its_rights(live, ring, central, stays, other):
    """Say whether what a client publishes no longer gets through; the mark behind it proves that it is not late."""
    with contextlib.suppress(ClosedError, OSError):
        live.publish(ring, b"after")
    stays.publish(RECEIPT_CLOSED.of(till=other), b"mark")
    got = []
    while not got or got[-1] != b"mark":
        got.append(central.message().payload)
    return got == [b"mark"]


def test_mosquitto_gives_a_session_that_stayed_open_its_rights_back_with_its_name(tmp_path):
    """Why the page has Mosquitto restarted before a name comes off the deny list; to connect anew it is refused."""
    ring = RECEIPT_CLOSED.of(till="till-1")
    with Mutual("mosquitto", tmp_path).running() as mutual:
        files = mutual.pki.files("till-1")
        with (
            mutual.client("central-1") as central,
            mutual.client("till-2") as stays,
            mutual.client("till-1", files) as live,
        ):
            central.subscribe(RECEIPT_CLOSED.of())
            mutual.pki.office.revoke("till-1", "stolen")
            mutual.apply()
            assert wait_until(lambda: has_lost_its_rights(live, ring, central, stays, "till-2"))
            mutual.deny.write_text("")
            mutual.apply()
            assert wait_until(lambda: not has_lost_its_rights(live, ring, central, stays, "till-2"))
            assert is_out(mutual, "till-1", files)


def test_the_embedded_broker_ends_a_live_session_by_the_list_of_certificates_alone(own):
    """Revoked, and its name free again for the machine that takes its place: that one is let in, the old one is not."""
    old = own.pki.files("till-1")
    with own.client("till-1", old) as live, own.client("till-2") as stays:
        own.pki.office.revoke("till-1", "replaced")
        own.deny.write_text("")
        assert live.closed(within_s=REVOKED_WITHIN_S)
        assert is_out(own, "till-1", old)
        with own.client("till-1", own.pki.files("till-1", label="new")):
            assert stays.all_until_ping() == []


@pytest.fixture
def own(tmp_path):
    with Mutual("embedded", tmp_path / "own").running() as running:
        yield running


def test_the_embedded_broker_goes_on_with_a_list_that_is_out_of_date_and_says_so(tmp_path):
    """What it revokes stays out, everybody else stays in: a forgotten list must not close a hundred shops."""
    mutual = Mutual("embedded", tmp_path)
    revoked = mutual.pki.files("till-1")
    mutual.pki.office.revoke("till-1", "lost")
    mutual.deny.write_text("")
    mutual.pki.clock.ahead_s = -8 * 86_400
    mutual.pki.office.write_revocation_list()
    mutual.pki.clock.ahead_s = 0
    with mutual.running():
        with mutual.client("till-2"):
            assert is_out(mutual, "till-1", revoked)
        assert wait_until(lambda: "crl_expired" in mutual.broker.log())
        assert "certificate_revoked" in mutual.broker.log()
        mutual.pki.office.write_revocation_list()
        assert wait_until(lambda: is_out(mutual, "till-1", revoked))


def test_the_embedded_broker_ends_a_session_whose_certificate_expired(own):
    """A certificate that has ended does not live on in its connection."""
    files = own.pki.files("till-1", ends_s=2.5)
    with own.client("till-1", files) as live:
        assert live.closed(within_s=10)
    assert "certificate_expired" in own.broker.log()


def test_the_embedded_broker_takes_a_renewed_certificate_of_its_own_without_a_restart(own):
    """One that expired last night is told on both ends; a new file, and all is well; nobody was thrown out."""
    with own.client("till-2") as live:
        good = [Path(path).read_bytes() for path in own.server]
        bad = own.pki.files("broker", label="old", kind="server", names=("localhost",), begins_s=-7200, ends_s=-60)
        Path(own.server[1]).write_bytes(Path(bad[1]).read_bytes())  # For a moment the two do not fit.
        Path(own.server[0]).write_bytes(Path(bad[0]).read_bytes())
        files = own.pki.files("till-1")
        tls = Tls(own.pki.ca_file, *files)
        assert wait_until(lambda: is_out(own, "till-1", files))
        with link(own.broker.port, "till-1", tls) as events:
            assert wait_until(lambda: "certificate has expired" in getattr(events.get(timeout=15), "reason", ""))
            assert wait_until(lambda: "client does not accept this broker" in own.broker.log())
            for path, content in zip(own.server, good, strict=True):
                Path(path).write_bytes(content)
            assert wait_until(lambda: isinstance(events.get(timeout=15), Connected))
        live.publish(RECEIPT_CLOSED.of(till="till-2"), b"x")


@pytest.mark.parametrize("kind", ["mosquitto", "nats"])
def test_the_others_take_a_renewed_certificate_at_a_reload(kind, tmp_path):
    """Nobody is thrown out for it."""
    with Mutual(kind, tmp_path).running() as mutual, mutual.client("till-1") as stays:
        files = mutual.pki.files("till-2")

        def shown():
            with mutual.broker.raw(mutual.context(files)) as client:
                return client._socket.getpeercert()["serialNumber"]

        before = shown()
        mutual.server = mutual.pki.files("broker", label="new", kind="server", names=("localhost",))
        mutual.apply()
        assert wait_until(lambda: shown() != before)
        stays.publish(RECEIPT_CLOSED.of(till="till-1"), b"x")


def test_the_embedded_broker_says_that_tls_came_to_a_plain_port(tmp_path):
    """And the client asks whether TLS is spoken there."""
    pki = Pki(tmp_path / "ca")
    with embedded(tmp_path / "broker") as plain:
        reason = refusal(plain.port, "till-1", Tls(pki.ca_file, *pki.files("till-1")))
        assert "is TLS spoken at this port" in reason or "no TLS is spoken at this port" in reason
        assert "tls_at_a_plain_port" in plain.log()


def test_while_a_fleet_moves_tokens_and_certificates_let_in_side_by_side(tmp_path):
    """Only if that is configured; who shows a certificate is whom it names, token or not."""
    mutual = Mutual("embedded", tmp_path)
    believing = Tls(mutual.pki.ca_file).context()
    settings = {
        "tls_cert_file": mutual.server[0], "tls_key_file": mutual.server[1], "tls_ca_file": mutual.pki.ca_file,
        "tls_tokens_too": TRUE,
    }  # fmt: skip
    with embedded(tmp_path / "broker", **settings) as broker:
        mutual.broker = broker
        with broker.client("till-1", tls=believing), mutual.client("till-2"):
            with broker.raw(mutual.context(mutual.pki.files("till-3"))) as thief:
                assert thief.connect("till-1", user="till-1", password=broker.token("till-1")) == 5
            with broker.raw(believing) as nobody:
                assert nobody.connect("till-4", user="till-4", password="guessed") == 5


@pytest.mark.parametrize("missing", ["revocation_list_file", "tls_ca_file", "tls_cert_file"])
def test_the_embedded_broker_does_not_start_without_a_file_that_it_is_to_go_by(tmp_path, missing):
    """One that is configured and not there must not let everybody in; the message names it."""
    mutual = Mutual("embedded", tmp_path)
    settings = {
        "tls_cert_file": mutual.server[0], "tls_key_file": mutual.server[1], "tls_ca_file": mutual.pki.ca_file,
        "revocation_list_file": str(mutual.crl), missing: str(tmp_path / "none.pem"),
    }  # fmt: skip
    with pytest.raises(AssertionError, match=r"none\.pem|TLS files"), embedded(tmp_path / "broker", **settings):
        pass
    assert "Traceback" not in (tmp_path / "broker" / "log").read_text("utf-8")
