"""Real programs on two hosts with a bad cable between them: what the POS closed arrives once, when it can."""

from __future__ import annotations

import netns
import pytest
from brokers import MOSQUITTO, wait_until
from netns import CENTRAL_ADDRESS, TwoHosts
from yard import is_in_order, yard

SEED = 20261128
WITHIN_S = 40
WHY_NOT = netns.why_not() or ("" if MOSQUITTO else "Mosquitto is not installed")
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)


@pytest.fixture
def two_hosts(tmp_path):
    """Yield a yard with two tills on one host, Mosquitto and central on the other, and the cable between them."""
    with TwoHosts() as hosts:
        inside = {"agent": hosts.in_till, "central": hosts.in_central, "broker": hosts.in_central}
        settings = {"keepalive_s": 5}
        with yard(
            tmp_path / "site", 2, SEED, inside=inside, broker_at=f"mqtt://{CENTRAL_ADDRESS}", agent_settings=settings
        ) as running:
            yield running, hosts


def close_documents(running, count):
    for till in running.tills:
        till.close_documents(count)


@pytest.mark.fault("F34")
def test_a_third_of_all_packets_may_be_lost(two_hosts):
    """TCP and asking again get everything through while 30 of 100 packets are lost both ways."""
    running, hosts = two_hosts
    hosts.lose(30)
    while hosts.lost() < 30:
        close_documents(running, 10)
        assert wait_until(running.is_settled, WITHIN_S), running.logs()

    assert is_in_order(running.settle()), running.logs()


@pytest.mark.fault("F35")
def test_a_till_that_hears_nothing_notices_and_comes_back(two_hosts):
    """What the till sends arrives and nothing comes back: it gives the connection up, and later sends all of it."""
    running, hosts = two_hosts
    hosts.silence_central()
    close_documents(running, 10)
    for till in running.tills:
        assert wait_until(lambda: not till.is_connected(), WITHIN_S), till.agent.log()[-2000:]  # noqa: B023

    hosts.heal()
    assert is_in_order(running.settle()), running.logs()


@pytest.mark.fault("F37")
def test_a_line_of_64_kilobits_and_small_packets_brings_a_backlog(two_hosts):
    """A modem line with an MTU of 576 bytes: a backlog arrives, and new documents with it."""
    running, hosts = two_hosts
    hosts.pull_out()
    close_documents(running, 60)
    hosts.shrink(576)
    hosts.crawl(64)
    hosts.plug_in()
    close_documents(running, 10)

    assert is_in_order(running.settle()), running.logs()


@pytest.mark.fault("F34")
def test_a_cable_that_comes_and_goes_delays_and_does_no_more(two_hosts):
    """The link flaps while the POS closes documents, each time as soon as some of them have arrived."""
    running, hosts = two_hosts
    for till in running.tills:
        till.open()
    for _ in range(4):
        stored = running.look()
        assert wait_until(lambda: running.look() > stored, WITHIN_S), running.logs()  # noqa: B023
        hosts.pull_out()
        assert wait_until(lambda: running.unsent() >= 20, WITHIN_S), running.logs()
        hosts.plug_in()

    assert is_in_order(running.settle()), running.logs()
