"""Every key of /etc/tillstream/broker.toml with its bound, and what of it amqtt is told.

Pure: reads no file and no clock.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from wire.listen import host_and_port, is_loopback

MIB = 1024 * 1024

Count = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]
KeepAlive = Annotated[int, Meta(ge=1, le=65_535)]
Window = Annotated[int, Meta(ge=1, le=60_000)]
"""Packet identifiers are 16 bits; a window below that always leaves a free one."""


class BrokerConfig(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """One flat table; a size is in bytes, a wait in seconds, and nothing is without a bound."""

    listen: str = "127.0.0.1:1883"
    fleet_key_file: str = "/etc/tillstream/fleet.key"
    deny_file: str = "/etc/tillstream/deny"
    deny_check_s: Seconds = 1.0
    tls_cert_file: str | None = None
    tls_key_file: str | None = None
    tls_ca_file: str | None = None
    """With it each client shows a certificate of this authority that names it, and needs no token."""
    revocation_list_file: str | None = None
    """What that authority has revoked; read again when it changes, within ``deny_check_s``."""
    tls_tokens_too: bool = False
    """Whether tokens still let in who shows no certificate: while a fleet moves from one to the other."""
    connections_max: Count = 12_000
    connect_timeout_s: Seconds = 10.0
    connect_limit_bytes: Count = 16 * 1024
    keepalive_max_s: KeepAlive = 600
    packet_limit_bytes: Annotated[int, Meta(ge=1024, le=268_435_455)] = 2 * MIB
    topic_limit_bytes: Annotated[int, Meta(ge=16, le=65_535)] = 256
    publishes_per_s_max: Count = 10_000
    till_publishes_per_s_max: Count = 200
    """A till that is faster is read more slowly. One that drains a backlog publishes a few dozen uploads a second."""
    subscriptions_max: Count = 64
    inflight_max: Window = 1000
    queue_max_messages: Count = 10_000
    queue_max_bytes: Count = 64 * MIB
    queues_total_max_bytes: Count = 512 * MIB
    write_buffer_bytes: Count = 256 * 1024
    retained_max: Count = 100_000
    retained_total_max_bytes: Count = 256 * MIB

    def __post_init__(self) -> None:
        host, _ = self.address()
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError("`tls_cert_file` and `tls_key_file` go together: set both or neither")
        if self.tls_ca_file is not None and self.tls_cert_file is None:
            raise ValueError("`tls_ca_file` needs `tls_cert_file` and `tls_key_file`")
        if self.tls_ca_file is None and (self.revocation_list_file is not None or self.tls_tokens_too):
            raise ValueError(
                "`revocation_list_file` and `tls_tokens_too` need `tls_ca_file`: without it no certificate counts"
            )
        if self.tls_cert_file is None and not is_loopback(host):
            raise ValueError(
                f"`listen` = {self.listen!r} can be reached from outside, and tokens would cross the network readable: "
                "set `tls_cert_file` and `tls_key_file`, or listen on 127.0.0.1",
            )

    @property
    def takes_tokens(self) -> bool:
        """Whether a token lets anybody in."""
        return self.tls_ca_file is None or self.tls_tokens_too

    def address(self) -> tuple[str, int]:
        """Return host and port of ``listen``; port 0 lets the system choose one."""
        return host_and_port("listen", self.listen)


def amqtt_config(config: BrokerConfig) -> dict[str, Any]:
    """Return what amqtt is configured with: one listener, whose TLS is ours, and no plugins.

    Leaving ``plugins`` out would give anonymous access and a log line for every packet.
    """
    return {"listeners": {"default": {"type": "tcp", "bind": config.listen, "ssl": False}}, "plugins": {}}
