"""Owns what a broker's address looks like, and in which order a client tries several.

Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from urllib.parse import urlsplit

PORTS = {"mqtt": 1883, "mqtts": 8883}
DEFAULT = ("mqtt://127.0.0.1:1883",)
URLS_MAX = 16


@dataclass(frozen=True, slots=True)
class BrokerUrl:
    """Where a broker listens, and whether over TLS."""

    host: str
    port: int
    is_tls: bool = False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.is_tls else 'mqtt'}://{host}:{self.port}"


def parse_broker_url(text: str) -> BrokerUrl:
    """Return what a URL names; the port may be left out. Raises ValueError that says what would be right."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        port, parts = 0, urlsplit("")
    is_bare = parts.scheme in PORTS and parts.netloc and not (parts.path or parts.query or parts.fragment)
    if not is_bare or "@" in parts.netloc or not parts.hostname or port == 0 or any(map(str.isspace, text)):
        raise ValueError(f"{text!r} is no broker URL: mqtt://host:port, or mqtts://host:port for TLS")
    return BrokerUrl(parts.hostname, port or PORTS[parts.scheme], parts.scheme == "mqtts")


def check_broker_urls(urls: Sequence[str], tls_ca_file: str) -> None:
    """Raise ValueError if a list of URLs cannot be meant: none, one twice, or a certificate authority and no TLS."""
    if not 1 <= len(urls) <= URLS_MAX:
        raise ValueError(f"`broker_urls` names {len(urls)} brokers: one to {URLS_MAX}")
    brokers = [parse_broker_url(text) for text in urls]
    if len(set(brokers)) < len(brokers):
        raise ValueError("`broker_urls` names a broker twice")
    if tls_ca_file and not any(broker.is_tls for broker in brokers):
        raise ValueError(
            "`tls_ca_file` is given, and `broker_urls` has no mqtts:// URL: the token would go in the clear"
        )


def in_own_order(urls: Sequence[str], rng: Random) -> tuple[BrokerUrl, ...]:
    """Return the brokers in an order of this client's own: a fleet spreads over the nodes, at every node's end too."""
    brokers = [parse_broker_url(text) for text in urls]
    return tuple(rng.sample(brokers, len(brokers)))
