"""The certificate authority's configuration: every key, its default and its bounds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from wire.translation import Language

Days = Annotated[float, Meta(gt=0, le=36_500)]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]
AbsolutePath = Annotated[str, Meta(pattern=r"^/", max_length=1024)]
HostName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9*:][A-Za-z0-9.:_-]*$", max_length=253)]


class CaConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``/etc/tillstream/ca.toml``; each key may be overridden by ``TILLSTREAM_<KEY>`` in the environment."""

    state_dir: AbsolutePath = "/var/lib/tillstream-ca"
    """The key and the register; nobody else may look in."""
    ca_file: AbsolutePath = "/etc/tillstream/ca/ca.pem"
    """Where the authority's certificate is put for brokers and central; it is no secret."""
    crl_file: AbsolutePath = "/etc/tillstream/ca/crl.pem"
    """Where brokers read what is revoked."""
    deny_file: AbsolutePath = "/etc/tillstream/deny"
    """The deny list: a revoked name is added there, so that its token and its live session end, too."""

    root_days: Days = 3650
    certificate_days: Days = 90
    crl_days: Days = 7
    """A list of revoked certificates that is older refuses everybody at Mosquitto; ``serve`` makes it anew at half."""
    token_hours: Annotated[float, Meta(gt=0, le=24 * 366)] = 24
    """How long an enrolment token may wait for its till."""
    renew_left: Annotated[float, Meta(gt=0, lt=1)] = 1 / 3
    """A certificate is due when this part of its life is left."""

    listen: Annotated[str, Meta(pattern=r"^.+:[0-9]{1,5}$")] = "127.0.0.1:8443"
    names: Annotated[tuple[HostName, ...], Meta(min_length=1, max_length=32)] = ("localhost", "127.0.0.1")
    """Under which names and addresses tills reach ``serve``: they stand in its own certificate."""
    connections_max: Annotated[int, Meta(ge=1, le=1000)] = 64
    connections_of_address_max: Annotated[int, Meta(ge=1, le=1000)] = 16
    """Of one address at once: so that one that holds connections open keeps the others' places free."""
    request_limit_bytes: Annotated[int, Meta(ge=1024, le=2**20)] = 16 * 1024
    request_timeout_s: Seconds = 10
    requests_per_minute: Annotated[int, Meta(ge=1, le=100_000)] = 120
    """Of one address; behind one address may be a whole store."""

    language: Language = "ru"
    log_level: str = "info"

    @property
    def folder(self) -> Path:
        """Where key and register lie."""
        return Path(self.state_dir)

    def address(self) -> tuple[str, int]:
        """Return host and port of ``listen``; port 0 lets the system choose one."""
        host, _, port = self.listen.rpartition(":")
        return host.removeprefix("[").removesuffix("]"), int(port)
