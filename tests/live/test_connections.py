"""Connections that are cut, silent, refused or slow: everything arrives once, as soon as the weather allows it."""

from __future__ import annotations

import pytest
from brokers import MOSQUITTO, wait_until
from connection_cuts import connection_cuts
from fault_proxy import FaultProxy, Weather
from nursery import Nursery
from yard import Yard, is_in_order

SEED = 20261128
WITHIN_S = 40


@pytest.mark.skipif(not MOSQUITTO, reason="Mosquitto is not installed")
@pytest.mark.fault("F07", "F13", "F14", "F34", "F38")
def test_two_thousand_cuts_in_mid_packet_lose_and_double_nothing(tmp_path):
    """Forty tills and central are cut off Mosquitto again and again, by resets on both sides: the books agree."""
    figures = connection_cuts(tmp_path / "site", 2000, SEED)

    assert figures["cuts at tills"] + figures["cuts at central"] >= 2000
    assert figures["cuts at central"] >= 20
    assert is_in_order(figures), figures


@pytest.mark.fault("F34", "F38")
def test_cuts_beside_the_embedded_broker_lose_and_double_nothing(tmp_path):
    """The same, smaller, with the broker that comes along."""
    figures = connection_cuts(tmp_path / "site", 300, SEED, broker="embedded")

    assert is_in_order(figures), figures


@pytest.fixture
def weather(tmp_path):
    """Yield a yard of two tills that reach the broker through a proxy, and the proxy."""
    with FaultProxy(SEED) as proxy, Nursery() as nursery:
        settings = {"broker_urls": [f"mqtt://127.0.0.1:{proxy.port}"], "keepalive_s": 5}
        running = Yard(tmp_path / "site", nursery, 2, SEED, broker="embedded", agent_settings=settings)
        proxy.target_port = running.site.port
        with running:
            yield running, proxy


@pytest.mark.fault("F35")
def test_a_half_open_connection_is_noticed_and_made_anew(weather):
    """All bytes vanish and TCP stays up: the till notices within two keepalives, and nothing is lost."""
    running, proxy = weather
    proxy.weather = Weather(is_silent=True)
    for till in running.tills:
        till.close_documents(5)

    for till in running.tills:
        assert wait_until(lambda: not till.is_connected(), WITHIN_S), till.agent.log()[-2000:]  # noqa: B023
    assert running.unsent() == 10
    proxy.weather = Weather()
    assert is_in_order(running.settle()), running.logs()


@pytest.mark.fault("F37")
def test_a_link_that_refuses_and_then_crawls_brings_everything(weather):
    """Every connection is reset at once, then 4 kB a second with 50 ms of delay: all documents arrive, once."""
    running, proxy = weather
    proxy.weather = Weather(is_refusing=True)
    assert 2 == proxy.cut_all()
    refused = proxy.connections
    for till in running.tills:
        till.close_documents(40)
    assert wait_until(lambda: proxy.connections >= refused + 5, WITHIN_S)
    assert running.unsent() == 80

    proxy.weather = Weather(delay_s=0.05, bytes_per_s=4000)
    assert is_in_order(running.settle()), running.logs()
