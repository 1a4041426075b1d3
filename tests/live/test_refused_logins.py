"""A till that the broker does not let in, or that does not believe the broker: it says why, sells on and catches up."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from brokers import wait_until
from nursery import Nursery
from yard import Yard, is_in_order

SEED = 20261130
WITHIN_S = 30
pytestmark = pytest.mark.fault("F42")


def reason_of(till):
    return till.status()["reason"]


def sells_on(till, documents=5):
    """Close documents and say whether the agent's socket took every one."""
    taken = till.taken
    till.close_documents(documents)
    return till.taken == taken + documents


def refuses_and_sells_on(running, till, word):
    """Wait until the till says that it is refused; it takes documents meanwhile, and nothing is sent."""
    assert wait_until(lambda: reason_of(till)["code"] == "login_refused", WITHIN_S), till.agent.log()[-2000:]
    assert word in reason_of(till)["detail"]
    assert sells_on(till)
    assert running.unsent(till) == 5


def test_a_till_on_the_deny_list_sells_on_and_catches_up_when_it_is_taken_off(tmp_path):
    """The broker refuses its login, and only its; the reason is not that of a dead link."""
    with Nursery() as nursery, Yard(tmp_path / "site", nursery, 2, SEED, broker="embedded") as running:
        denied, other = running.tills
        running.broker.kill()
        (running.site.folder / "deny").write_text(f"{denied.till_id}\n", "utf-8")
        assert wait_until(lambda: not denied.is_connected(), WITHIN_S)
        assert reason_of(denied)["code"] == "offline"
        running.broker.start()

        refuses_and_sells_on(running, denied, "Not authorized")
        assert wait_until(other.is_connected, WITHIN_S)
        assert sells_on(other)

        (running.site.folder / "deny").write_text("", "utf-8")
        assert is_in_order(running.settle()), running.logs()
        assert wait_until(lambda: reason_of(denied)["code"] == "up_to_date", WITHIN_S)


def make_certificate(folder, name, *, is_expired=False):
    """Make a certificate that signs itself; returns its path, and its key's."""
    key, cert = folder / f"{name}.key", folder / f"{name}.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-subj", "/CN=broker", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert]
    subprocess.run(command, check=True, capture_output=True)
    if is_expired:
        command = ["openssl", "x509", "-in", cert, "-signkey", key, "-days", "-1", "-out", folder / "signed"]
        subprocess.run(command, check=True, capture_output=True)
        (folder / "signed").rename(cert)
    return cert, key


@pytest.mark.skipif(not shutil.which("openssl"), reason="the program openssl is not installed")
def test_a_till_that_does_not_believe_the_brokers_certificate_sells_on_until_it_is_mended(tmp_path):
    """One of another authority, then an expired one: the reason names each; with a right one all goes by itself."""
    good, stranger = (make_certificate(tmp_path, name) for name in ("good", "stranger"))
    expired = make_certificate(tmp_path, "expired", is_expired=True)
    trusted, served = tmp_path / "trusted.pem", (tmp_path / "tls.pem", tmp_path / "tls.key")
    trusted.write_bytes(good[0].read_bytes() + expired[0].read_bytes())

    def serve(pair):
        for file, place in zip(pair, served, strict=True):
            shutil.copy(file, place)

    serve(good)
    trusting = {"tls_ca_file": str(trusted)}
    with Nursery() as nursery:
        settings = {
            "broker": "embedded",
            "broker_at": "mqtts://127.0.0.1",
            "agent_settings": trusting,
            "central_settings": trusting,
        }
        running = Yard(tmp_path / "site", nursery, 1, SEED, **settings)
        with (running.site.folder / "broker.toml").open("a", encoding="utf-8") as config:
            config.write(f'tls_cert_file = "{served[0]}"\ntls_key_file = "{served[1]}"\n')
        with running:
            (till,) = running.tills
            for pair, word in ((stranger, "self-signed certificate"), (expired, "certificate has expired")):
                running.broker.kill()
                serve(pair)
                running.broker.start()
                refuses_and_sells_on(running, till, word)
                running.broker.kill()
                serve(good)
                running.broker.start()
                assert is_in_order(running.settle()), running.logs()
