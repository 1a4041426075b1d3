"""What every recipe is made from: who may connect, how, from where, and how many.

Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from broker.settings import MIB
from wire.listen import is_loopback
from wire.topics import CENTRAL_PREFIX

Security = Literal["plain", "tls", "mutual"]
"""Nothing but loopback and tokens; TLS and tokens; or TLS and a certificate of each client, CN = the user."""

PACKET_LIMIT_BYTES = 2 * MIB
INFLIGHT_MAX = 1000
KEEP_ALIVE_OTHERS = 64
"""Connections beside tills and workers: people who look, and half-open ones that are just being noticed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One broker. ``folder`` is absolute: where its files lie, also ca.crt, server.crt, server.key and crl.pem."""

    folder: str
    host: str
    port: int
    security: Security
    tills: int
    workers: int
    till_ids: tuple[str, ...]
    denied: frozenset[str]
    account: str
    trusted: tuple[str, ...]
    till_bytes_per_s: int
    token: Callable[[str], str]

    def __post_init__(self) -> None:
        if self.security == "plain" and not is_loopback(self.host):
            raise ValueError(
                f"{self.host} can be reached from outside, and tokens would cross the network readable: "
                "take --security tls or mutual, or listen on 127.0.0.1"
            )
        if len(self.till_ids) > self.tills:
            raise ValueError(f"{len(self.till_ids)} till ids are given and --tills allows for {self.tills}")

    @property
    def users(self) -> tuple[str, ...]:
        """Everybody who may log in: central's workers and the tills but those denied."""
        workers = (f"{CENTRAL_PREFIX}{number}" for number in range(1, self.workers + 1))
        return tuple(user for user in (*workers, *self.till_ids) if user not in self.denied)

    def require_till_ids(self) -> None:
        """Raise ValueError if no till is named."""
        if not self.till_ids:
            raise ValueError("this broker has to know its tills beforehand: --users FILE names them, one id a line")

    @property
    def connections_max(self) -> int:
        """How many connections are taken at once."""
        return self.tills + self.workers + KEEP_ALIVE_OTHERS

    def file(self, name: str) -> str:
        """Return the path of a file of the recipe."""
        return f"{self.folder}/{name}"


Files = dict[str, str]
"""Names and contents; what is in ``SECRET`` no message shows."""

SECRET = ("passwords", "users.conf", "nats.conf")
