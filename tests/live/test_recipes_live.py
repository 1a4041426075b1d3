"""The recipes over TLS, by certificate, with a till denied while it is connected, and at the size they are made for."""

from __future__ import annotations

import contextlib
import signal
import ssl

import pytest
from brokers import (
    MOSQUITTO,
    _process,
    mosquitto,
    mosquitto_server,
    nats,
    nats_cluster,
    nats_server,
    wait_until,
)
from own_ca import OPENSSL, OwnCa
from raw_mqtt import ClosedError

from fleet.processes import free_port, listens
from wire.topics import RECEIPT_CLOSED, SALES, SALES_STORED, UPLOAD_REQUEST

pytestmark = pytest.mark.skipif(not (MOSQUITTO and OPENSSL), reason="mosquitto or openssl is not installed")

START = {"mosquitto": mosquitto, "nats": nats}
WRITE = {"mosquitto": mosquitto_server, "nats": nats_server}
kinds = pytest.mark.parametrize("kind", START)
MANY = 2500


@pytest.fixture(scope="module")
def ca(tmp_path_factory):
    return OwnCa(tmp_path_factory.mktemp("ca"))


def is_let_in(broker, tls, user, password=None):
    """Say whether a client gets past handshake and login; which of them refuses it is the broker's matter."""
    try:
        with broker.raw(tls) as client:
            return client.connect(user, user=user, password=password) == 0
    except (ClosedError, ssl.SSLError, ConnectionError):
        return False


def hears(broker, tls, user, till, password=None):
    """Say whether what central sends to a till reaches a client that subscribes to it."""
    name = UPLOAD_REQUEST.of(till=till)
    with broker.raw(tls) as client, broker.raw(broker.central_tls) as central:
        assert client.connect(user, user=user, password=password) == 0
        central_password = password and broker.token("central-1")
        assert central.connect("central-1", user="central-1", password=central_password) == 0
        client.subscribe(name)
        central.publish(name, b"for one till")
        with contextlib.suppress(TimeoutError):
            return client.message(within_s=0.5).payload == b"for one till"
        return False


@kinds
def test_by_certificate_a_client_is_who_its_certificate_says(kind, ca, tmp_path):
    """CN = name, whatever it calls itself; without a certificate, or with another authority's, nobody is let in."""
    ca.serve_from(tmp_path)
    with START[kind](tmp_path, security="mutual") as broker:
        broker.central_tls, till = ca.client("central-1"), ca.client("till-1")
        stranger = OwnCa(tmp_path / "stranger").client("till-1")
        stranger.load_verify_locations(ca.folder / "ca.crt")

        assert hears(broker, till, "till-1", "till-1")
        assert not hears(broker, till, "till-2", "till-2")
        for tls in (ca.nobody(), stranger, None):
            for password in (None, broker.token("till-1")):
                assert not is_let_in(broker, tls, "till-1", password)


@kinds
def test_by_token_over_tls_a_till_is_let_in_and_a_plain_connection_is_not(kind, ca, tmp_path):
    """The server shows its certificate; the token decides."""
    ca.serve_from(tmp_path)
    with START[kind](tmp_path, security="tls") as broker:
        broker.central_tls = ca.nobody()

        assert hears(broker, ca.nobody(), "till-1", "till-1", broker.token("till-1"))
        assert not is_let_in(broker, ca.nobody(), "till-1", broker.token("till-2"))
        assert not is_let_in(broker, None, "till-1", broker.token("till-1"))


def test_mosquitto_does_not_let_a_revoked_certificate_in_again(ca, tmp_path):
    """The list is read again at a reload."""
    with mosquitto_with(ca, tmp_path) as broker:
        thief = ca.client("till-3")
        assert is_let_in(broker, thief, "till-3")
        ca.revoke("till-3")
        ca.serve_from(tmp_path)
        broker.process.send_signal(signal.SIGHUP)

        assert wait_until(lambda: not is_let_in(broker, thief, "till-3"))
        assert is_let_in(broker, ca.client("till-4"), "till-4")


@contextlib.contextmanager
def mosquitto_with(ca, folder):
    ca.serve_from(folder)
    with mosquitto(folder, security="mutual") as broker:
        yield broker


@kinds
def test_a_till_that_is_denied_while_it_is_connected_loses_its_rights_at_the_reload(kind, tmp_path):
    """The recipe again with the deny list, and SIGHUP: it is out, or dumb and deaf; another till never notices."""
    same = {"monitor": f"127.0.0.1:{free_port()}"} if kind == "nats" else {}
    with (
        START[kind](tmp_path, **same) as broker,
        broker.client("central-1") as central,
        broker.client("till-1") as denied,
        broker.client("till-2") as other,
    ):
        central.subscribe(SALES.of(worker=1))
        for till, client in (("till-1", denied), ("till-2", other)):
            client.subscribe(SALES_STORED.of(till=till))
        (tmp_path / "deny").write_text("till-1  # stolen\n", "utf-8")
        WRITE[kind](tmp_path, broker.port, deny=tmp_path / "deny", **same)
        broker.process.send_signal(signal.SIGHUP)

        assert wait_until(lambda: not is_let_in(broker, None, "till-1", broker.token("till-1")))
        with contextlib.suppress(ClosedError):
            denied.publish(SALES.of(till="till-1", worker=1), b"forged")
        central.publish(SALES_STORED.of(till="till-1"), b"secret")
        other.publish(SALES.of(till="till-2", worker=1), b"honest")
        assert central.message().payload == b"honest"
        with contextlib.suppress(ClosedError):
            assert denied.all_until_ping() == []
        central.publish(SALES_STORED.of(till="till-2"), b"stored")
        assert other.message().payload == b"stored"


@kinds
def test_a_worker_that_is_denied_while_it_is_connected_hears_nothing_more(kind, tmp_path):
    """Whoever has its key reads no till's sales; the other workers never notice."""
    same = {"monitor": f"127.0.0.1:{free_port()}"} if kind == "nats" else {}
    ring = RECEIPT_CLOSED.of(till="till-1")
    with (
        START[kind](tmp_path, **same) as broker,
        broker.client("central-1") as denied,
        broker.client("central-2") as other,
        broker.client("till-1") as till,
    ):
        for central in (denied, other):
            central.subscribe(RECEIPT_CLOSED.of())
        (tmp_path / "deny").write_text("central-1\n", "utf-8")
        WRITE[kind](tmp_path, broker.port, deny=tmp_path / "deny", **same)
        broker.process.send_signal(signal.SIGHUP)

        assert wait_until(lambda: not is_let_in(broker, None, "central-1", broker.token("central-1")))
        till.publish(ring, b"ring")
        assert other.message().payload == b"ring"
        with contextlib.suppress(ClosedError):
            assert denied.all_until_ping() == []


def test_all_retained_doorbells_of_a_large_fleet_reach_central(tmp_path):
    """Mosquitto's own limits let 1,020 of them through; the recipe's are made for the number of tills."""
    names = [f"store-{number}" for number in range(MANY)]
    with mosquitto(tmp_path, tills=names) as broker:
        for name in names:
            with broker.client(name) as till:
                till.publish(RECEIPT_CLOSED.of(till=name), b"bell", retain=True)
        with broker.client("central-1") as central:
            central.auto_ack = False  # Central acknowledges when it has committed, and not before.
            central.subscribe(RECEIPT_CLOSED.of())
            window = [central.message() for _ in range(1000)]
            central.auto_ack = True
            for message in window:
                central.acknowledge(message)
            rest = [central.message() for _ in range(MANY - 1000)]
    assert len({message.topic for message in window + rest}) == MANY


def test_the_nodes_of_a_cluster_find_each_other_over_tls(ca, tmp_path):
    """Each shows the others its certificate and its password; a till reaches any of them over TLS."""
    for number in (1, 2, 3):
        ca.serve_from(tmp_path / f"node-{number}")
    nodes = nats_cluster(tmp_path, security="tls")
    with contextlib.ExitStack() as stack:
        for number, node in enumerate(nodes, 1):
            stack.enter_context(_process(node.command, tmp_path / f"node-{number}"))
        assert wait_until(lambda: all(listens(node.port) for node in nodes))
        assert wait_until(lambda: all(node.told("/routez").get("num_routes", 0) >= 2 for node in nodes))
        assert len({route["remote_name"] for route in nodes[0].told("/routez")["routes"]}) == 2
