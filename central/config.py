"""Central's configuration: every key, its default and its bounds."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from wire.broker_url import DEFAULT, check_broker_urls
from wire.listen import host_and_port, is_loopback
from wire.tls import check_files
from wire.tokens import FLEET_KEY_FILE
from wire.translation import Language

from .commands import CollectorLimits
from .database import Place
from .export_files import Form, What
from .share import Share

Seconds = Annotated[float, Meta(gt=0, le=7 * 86_400)]


class CentralConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``/etc/tillstream/central.toml``; each key may be overridden by ``TILLSTREAM_<KEY>`` in the environment."""

    database: str = "/var/lib/tillstream/central.db"
    """A path, ``sqlite:///path`` or ``postgresql://user@host/name``; never with a password in it."""
    worker: str = "1/1"
    """Which worker this is, of how many: each answers for a fixed share of the tills. All are told the same number."""
    approve_tills: bool = False
    """Whether a new till is asked only after a person has approved it."""

    broker_urls: tuple[str, ...] = DEFAULT
    """``mqtt://host:port`` or ``mqtts://host:port``; with several, each client tries them in an order of its own."""
    token: str = ""
    token_file: str = ""
    tls_ca_file: str = ""
    """The certificate authority of the brokers' certificates; empty believes those of the system."""
    tls_cert_file: str = ""
    tls_key_file: str = ""
    """What this worker shows the broker: a certificate that names central-<worker>, and its key."""

    keepalive_s: Annotated[int, Meta(ge=5, le=3600)] = 30
    reconnect_min_s: Seconds = 1
    reconnect_max_s: Seconds = 30

    quiet_s: Annotated[float, Meta(ge=0, le=3600)] = 0.5
    max_wait_s: Annotated[float, Meta(ge=0, le=3600)] = 5
    parallel: Annotated[int, Meta(ge=1, le=10_000)] = 500
    """How many tills are asked at a time. It bounds the receipts a second: a slot is taken for a round trip and a
    commit, so 500 serve 1,600 a second over lines of 300 ms."""
    parallel_backlog: Annotated[int, Meta(ge=1, le=10_000)] = 20
    """How many of them may owe more than ``live_documents``: what they send stands before the others' receipts."""
    timeout_s: Seconds = 30
    retry_min_s: Seconds = 5
    retry_max_s: Seconds = 600
    attempts_max: Annotated[int, Meta(ge=1, le=1000)] = 12
    sweep_s: Seconds = 600
    task_expires_s: Seconds = 86_400
    live_documents: Annotated[int, Meta(ge=1, le=10_000)] = 10
    """Who owes at most so many sells now, and goes before those that come back with more."""
    limit_documents: Annotated[int, Meta(ge=1, le=10_000)] = 200
    limit_bytes: Annotated[int, Meta(ge=1024, le=2**20)] = 512 * 1024

    batch_messages: Annotated[int, Meta(ge=1, le=100_000)] = 500
    batch_bytes: Annotated[int, Meta(ge=1024, le=2**30)] = 512 * 1024
    """How much one transaction takes, as received. Small enough that tills pack while central commits: with all that
    waits in one go the two take turns instead (11,000 documents a second instead of 14,000)."""

    gather_s: Annotated[float, Meta(ge=0, le=1)] = 0.02
    """How soon one commit may follow another: what comes meanwhile shares it. After a pause nothing waits."""

    gather_documents: Annotated[int, Meta(ge=0, le=100_000)] = 50
    """After a commit of so many nothing is waited for: it gains nothing by being larger."""

    batch_inflated_bytes: Annotated[int, Meta(ge=2**16, le=2**34)] = 16 * 2**20
    """How much uploads may take once inflated before what waits is committed; tills really send a quarter of it."""

    inbox_messages: Annotated[int, Meta(ge=10, le=10**6)] = 20_000
    inbox_bytes: Annotated[int, Meta(ge=2**20, le=2**34)] = 64 * 2**20

    till_messages_per_s: Annotated[float, Meta(gt=0, le=10_000)] = 10
    till_messages_burst: Annotated[int, Meta(ge=1, le=100_000)] = 100
    """How much of one till is heard: doorbells, presences and uploads, each for itself. Beyond it only the newest
    doorbell and presence count, in their turn, and uploads are let go. One that brings documents is not counted."""
    till_streams_per_hour: Annotated[int, Meta(ge=1, le=1000)] = 12
    """New streams of one till; further ones wait. A till makes at most ``new_streams_per_hour``, two that share a name
    twice as many."""

    look_every_s: Annotated[float, Meta(gt=0, le=60)] = 1
    """How often the rows are looked at for what people asked and changed."""
    clock_skew_max_s: Seconds = 43_200
    """A till whose clock is further from central's is told to forget nothing; half a day is no forgotten time zone."""
    days_every_s: Seconds = 5
    days_at_once: Annotated[int, Meta(ge=1, le=1000)] = 1
    """How many stores' days are looked at each time; 20 tills take about 0.1 s, in which nothing is committed."""

    consumer_wait_s: Annotated[float, Meta(ge=0, le=3600)] = 5
    """How long a read of stored documents waits for transactions that may still bring something older."""

    hand_over_folder: str = ""
    """Where `tillstream central hand-over` puts the files of complete days, for a program that takes them."""
    hand_over_files: tuple[What, ...] = ("documents",)
    """What is written of a day: documents, lines, tenders, taxes."""
    hand_over_format: Form = "csv"
    hand_over_days: Annotated[int, Meta(ge=1, le=3650)] = 35
    """A day that is over for longer is not handed over any more, nor again."""
    hand_over_every_s: Seconds = 10
    """How often it looks for days that are complete by now."""

    backups_keep: Annotated[int, Meta(ge=1, le=10_000)] = 7
    """How many backups stay in the folder they are made in; the newest ones."""
    backup_age_max_days: Annotated[float, Meta(gt=0, le=3650)] = 2
    """An older newest backup is a finding of ``tillstream central doctor``."""

    retention_after_days: Annotated[float, Meta(ge=0, le=36_500)] = 0
    """What ``tillstream central retention`` forgets the bytes of; 0: nothing, unless it is told."""
    retention_batch_rows: Annotated[int, Meta(ge=1, le=100_000)] = 1_000
    """So many numbers of a stream are forgotten in one transaction."""

    console_listen: str = "127.0.0.1:8080"
    """Where the console and the REST API are; anywhere else than on this machine only with TLS or behind a proxy."""
    console_tls_cert_file: str = ""
    console_tls_key_file: str = ""
    console_behind_proxy: bool = False
    """Whether a proxy that speaks TLS stands before it: its word counts for who asks, and cookies go over TLS only."""
    console_proxies: tuple[str, ...] = ("127.0.0.1", "::1")
    """From which addresses a proxy's word counts."""
    console_threads: Annotated[int, Meta(ge=2, le=256)] = 8
    """So many requests are answered at once; each has a connection to the database meanwhile."""
    console_connections_max: Annotated[int, Meta(ge=8, le=100_000)] = 512
    console_request_s: Annotated[float, Meta(gt=0, le=600)] = 30
    """So long a client may take to send a request; one that takes longer holds a connection that others need."""
    console_request_limit_bytes: Annotated[int, Meta(ge=4096, le=2**26)] = 2**20
    console_session_s: Annotated[float, Meta(ge=60, le=31 * 86_400)] = 43_200
    console_idle_s: Annotated[float, Meta(ge=60, le=31 * 86_400)] = 3_600
    """A login ends after this time, and earlier if nothing was asked for this long."""
    console_login_failures_max: Annotated[int, Meta(ge=1, le=1000)] = 10
    console_login_pause_s: Annotated[float, Meta(gt=0, le=86_400)] = 60
    """After so many failures for one name, or from one address, within this time nobody is let in there for the rest of
    it."""
    console_password_chars_min: Annotated[int, Meta(ge=8, le=128)] = 12

    database_password_file: str = ""
    """PostgreSQL's password; empty leaves it to libpq (PGPASSFILE, PGPASSWORD, a socket's peer)."""
    database_connect_timeout_s: Annotated[float, Meta(ge=2, le=300)] = 10
    database_lock_timeout_s: Annotated[float, Meta(ge=0.1, le=3600)] = 10
    database_statement_timeout_s: Annotated[float, Meta(ge=1, le=86_400)] = 300
    database_idle_timeout_s: Annotated[float, Meta(ge=1, le=86_400)] = 300
    """So long PostgreSQL lets a transaction of ours wait for a lock, run a statement, and do nothing at all."""
    database_retry_min_s: Annotated[float, Meta(ge=0.05, le=3600)] = 1
    database_retry_max_s: Annotated[float, Meta(ge=0.05, le=3600)] = 30
    """How long a worker waits before it asks a database again that refused: growing, with jitter."""

    fleet_key_file: str = FLEET_KEY_FILE
    """What tills' tokens are made from: it checks the seal of documents that were carried by file."""
    deny_file: str = ""
    """The embedded broker's deny list, if central can read it: a till on it is shown as revoked."""
    metrics_listen: str = ""
    """Where this worker answers ``/metrics``, ``/healthz`` and ``/readyz``, such as 127.0.0.1:9464; empty: nowhere.
    Each worker on a machine needs a port of its own."""
    metrics_open: bool = False
    """Whether ``metrics_listen`` may be an address that others reach: there is neither login nor TLS."""
    metrics_timeout_s: Annotated[float, Meta(gt=0, le=60)] = 5
    """So long one who asks there may take to say what."""
    metrics_per_till: bool = False
    """Whether the console's ``/metrics`` has series of each till: some 9 a till, 0.9 MB for 1,000 tills."""
    ready_turn_max_s: Seconds = 30
    """A worker that has finished nothing for so long while something waits is not ready."""
    health_turn_max_s: Seconds = 600
    """A worker that has finished nothing for so long is not alive; longer than database_statement_timeout_s."""

    language: Language = "ru"
    """What people read: ``ru`` or ``en``; codes, logs and JSON stay English."""
    log_level: str = "info"

    def __post_init__(self) -> None:
        """Refuse what the fields' own bounds cannot say."""
        Share.parse(self.worker)
        check_broker_urls(self.broker_urls, self.tls_ca_file)
        check_files(self.tls_ca_file, self.tls_cert_file, self.tls_key_file)
        self._check_console()
        if "days" in self.hand_over_files or not self.hand_over_files:
            raise ValueError("`hand_over_files` are some of documents, lines, tenders and taxes")
        self._check_metrics()

    def _check_metrics(self) -> None:
        if self.metrics_listen and not (is_loopback(self.metrics_address()[0]) or self.metrics_open):
            raise ValueError(
                f"`metrics_listen` = {self.metrics_listen!r} can be reached from outside, and there is no login and no"
                " TLS: listen on 127.0.0.1, or say `metrics_open = true` if that is meant"
            )

    def metrics_address(self) -> tuple[str, int]:
        """Return where a worker answers for its figures and its health; port 0 lets the system choose one."""
        return host_and_port("metrics_listen", self.metrics_listen)

    def _check_console(self) -> None:
        host, _ = self.console_address()
        if bool(self.console_tls_cert_file) != bool(self.console_tls_key_file):
            raise ValueError("`console_tls_cert_file` and `console_tls_key_file` go together: set both or neither")
        if not (is_loopback(host) or self.console_tls_cert_file or self.console_behind_proxy):
            raise ValueError(
                f"`console_listen` = {self.console_listen!r} can be reached from outside, and passwords would cross the"
                " network readable: set `console_tls_cert_file` and `console_tls_key_file`, or listen on 127.0.0.1, or"
                " say `console_behind_proxy = true` where a proxy speaks TLS before it"
            )

    def console_address(self) -> tuple[str, int]:
        """Return host and port of the console; port 0 lets the system choose one."""
        return host_and_port("console_listen", self.console_listen)

    @property
    def console_over_tls(self) -> bool:
        """Whether browsers reach the console by TLS."""
        return bool(self.console_tls_cert_file) or self.console_behind_proxy

    @property
    def share(self) -> Share:
        """The tills that this worker answers for."""
        return Share.parse(self.worker)

    def place(self, program: str = "tillstream central") -> Place:
        """Return where the database is, and how long it is waited for; ``program`` is what PostgreSQL shows of us."""
        names = [name for name in Place.__dataclass_fields__ if f"database_{name}" in self.__struct_fields__]
        return Place(self.database, program=program, **{name: getattr(self, f"database_{name}") for name in names})

    def collector_limits(self) -> CollectorLimits:
        """Return the part that the pure core needs."""
        names = CollectorLimits.__dataclass_fields__
        return CollectorLimits(**{name: getattr(self, name) for name in names if name in self.__struct_fields__})
