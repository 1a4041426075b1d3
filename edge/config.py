"""The till's configuration: every key, its default and its bounds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from wire.broker_url import DEFAULT, check_broker_urls
from wire.documents import DOCUMENT_LIMIT_MAX_BYTES
from wire.tls import check_files
from wire.topics import TILL_ID_PATTERN
from wire.translation import Language

Seconds = Annotated[float, Meta(gt=0, le=7 * 86_400)]
AbsolutePath = Annotated[str, Meta(pattern=r"^/", max_length=1024)]
Bytes = Annotated[int, Meta(ge=1, le=2**50)]


class EdgeConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``/etc/tillstream/edge.toml``; each key may be overridden by ``TILLSTREAM_<KEY>`` in the environment."""

    till_id: Annotated[str, Meta(pattern=rf"^{TILL_ID_PATTERN}$(?!\n)")]
    store_id: Annotated[str, Meta(max_length=64)] = ""
    central_id: Annotated[str, Meta(max_length=40)] = ""
    """The only central whose word counts; empty takes the first that is heard and keeps it."""

    broker_urls: tuple[str, ...] = DEFAULT
    """``mqtt://host:port`` or ``mqtts://host:port``; with several, each client tries them in an order of its own."""
    token: str = ""
    token_file: str = ""
    tls_ca_file: str = ""
    """The certificate authority of the brokers' certificates; empty believes those of the system."""
    tls_cert_file: str = ""
    tls_key_file: str = ""
    """What this till shows the broker: a certificate that names till_id, and its key."""

    enrol_url: Annotated[str, Meta(pattern=r"^(https://[^/\s]+/?)?$", max_length=300)] = ""
    """Where ``tillstream ca serve`` listens: the certificate is renewed there. Empty: somebody else renews the file."""
    renew_left: Annotated[float, Meta(gt=0, lt=1)] = 1 / 3
    """A certificate is renewed when this part of its life is left."""
    renew_again_s: Seconds = 3600
    """How long to wait after a renewal that failed; give or take a third."""

    keepalive_s: Annotated[int, Meta(ge=5, le=3600)] = 30
    reconnect_min_s: Seconds = 1
    reconnect_max_s: Seconds = 120

    state_dir: str = "/var/lib/tillstream"
    run_dir: str = "/run/tillstream"
    spool_dir: str = "/var/spool/tillstream"
    intake_dir: str = "/etc/tillstream/intake"
    """Where the mappings of a POS's own records lie, one source a file (``*.toml``)."""
    pos_group: str = "pos"
    """Members of this group may hand over documents and ring; without such a group only the agent's own user may."""

    ring_again_s: Seconds = 60
    ring_again_max_s: Seconds = 900
    presence_every_s: Seconds = 60
    prune_every_s: Seconds = 3600
    retention_days: Annotated[float, Meta(gt=0, le=3650)] = 35
    clock_settles_s: Seconds = 900
    """So long after a start, or a jump of the clock, nothing is forgotten: central has to see the clock first."""
    new_streams_per_hour: Annotated[int, Meta(ge=1, le=60)] = 3

    document_limit_bytes: Annotated[int, Meta(ge=1024, le=DOCUMENT_LIMIT_MAX_BYTES)] = 256 * 1024
    intake_limit_bytes: Annotated[int, Meta(ge=1024, le=256 * 2**20)] = 32 * 2**20
    intake_connections: Annotated[int, Meta(ge=1, le=64)] = 8
    intake_timeout_s: Seconds = 10
    spool_every_s: Seconds = 1
    spool_retry_s: Seconds = 60
    spool_batch_documents: Annotated[int, Meta(ge=1, le=10_000)] = 100
    aside_limit_bytes: Bytes = 256 * 2**20
    outbox_limit_bytes: Annotated[int, Meta(ge=2**20, le=2**46)] = 2 * 2**30
    outbox_check_limit_bytes: Annotated[int, Meta(ge=0, le=2**46)] = 64 * 2**20
    """An outbox up to this size is looked through whole at each start of the agent."""
    ballast_bytes: Annotated[int, Meta(ge=0, le=2**34)] = 8 * 2**20
    scripts_dirs: Annotated[tuple[AbsolutePath, ...], Meta(max_length=16)] = (
        "/usr/lib/tillstream/scripts",
        "/linuxcash/cash/sync/scripts",
    )
    """Where the scripts of ``shell://`` actions lie; root owns them, and everything above them."""
    script_timeout_s: Annotated[float, Meta(gt=0, le=600)] = 10
    script_output_limit_bytes: Annotated[int, Meta(ge=0, le=64 * 1024)] = 4096
    scripts_waiting_max: Annotated[int, Meta(ge=1, le=1000)] = 16

    inbox_messages: Annotated[int, Meta(ge=10, le=10**6)] = 10_000
    inbox_bytes: Bytes = 64 * 2**20

    metrics_file: Annotated[str, Meta(pattern=r"^(/.*\.prom)?$", max_length=1024)] = ""
    """Where node_exporter's textfile collector finds this till's figures (``….prom``); empty: nowhere."""
    metrics_every_s: Seconds = 60

    language: Language = "ru"
    """What the cashier and ``tillstream edge status`` read: ``ru`` or ``en``."""
    log_level: str = "info"

    def __post_init__(self) -> None:
        check_broker_urls(self.broker_urls, self.tls_ca_file)
        check_files(self.tls_ca_file, self.tls_cert_file, self.tls_key_file)

    @property
    def outbox_path(self) -> Path:
        """The outbox file; its lock, ballast and oversize documents lie beside it."""
        return Path(self.state_dir) / "outbox.db"

    @property
    def aside_dir(self) -> Path:
        """Where the bytes of oversize documents stay."""
        return Path(self.state_dir) / "aside"

    @property
    def socket_path(self) -> Path:
        """The Unix socket that takes documents."""
        return Path(self.run_dir) / "edge.sock"

    @property
    def cashier_path(self) -> Path:
        """The one line for the cashier."""
        return Path(self.run_dir) / "cashier.txt"

    @property
    def metrics_path(self) -> Path | None:
        """The figures for node_exporter; None if nobody wants them."""
        return Path(self.metrics_file) if self.metrics_file else None

    @property
    def positions_dir(self) -> Path:
        """How far each of the POS's databases was read."""
        return Path(self.state_dir) / "intake"

    @property
    def fifo_path(self) -> Path:
        """The FIFO that takes rings."""
        return Path(self.run_dir) / "ring"
