"""Puts central's parts together and runs them until told to stop."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random, SystemRandom
from string import ascii_letters, digits

import peewee as pw

from wire import codec, topics
from wire.broker_url import in_own_order
from wire.inbox import Inbox
from wire.link import Link, LinkSettings
from wire.program import ConfigError, Watchdog, notify_systemd, on_stop_signal, read_secret
from wire.tls import tls_of

from .config import CentralConfig
from .database import UnsafeDatabaseError, first_cause
from .reports import UnreachableError
from .store import Store
from .subscriber import Event, Subscriber

log = logging.getLogger("tillstream.central")


def make_central_id() -> str:
    """Name a new database; tills believe only the central they know by this name."""
    return "".join(SystemRandom().choices(ascii_letters + digits, k=16))


def wall_clock_ms() -> int:
    """Return the time of day in epoch milliseconds: it labels, and neither orders nor identifies."""
    return time.time_ns() // 1_000_000


def open_store(config: CentralConfig) -> Store:
    """Open central's database, making its folder first; what stores sold only its owner may read."""
    place = config.place(f"tillstream central {config.worker}")
    if place.kind == "sqlite" and config.share.workers > 1:
        raise UnsafeDatabaseError(
            f"{config.database} is SQLite, where one program writes at a time: worker {config.worker} needs PostgreSQL"
            " (database = postgresql://…); one worker alone is 1/1"
        )
    if place.is_file:
        place.path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(place.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    try:
        return Store(place, make_central_id, approve_tills=config.approve_tills)
    except pw.DatabaseError as problem:
        cause = f"{config.database} cannot be used: {first_cause(problem)}; tillstream central doctor"
        raise (UnsafeDatabaseError if place.kind == "sqlite" else UnreachableError)(cause) from problem


def link_settings(config: CentralConfig, rng: Random) -> LinkSettings:
    """Return where this worker connects, as whom, and what it listens to."""
    brokers, worker = in_own_order(config.broker_urls, rng), config.share.number
    return LinkSettings(
        brokers=brokers,
        client_id=f"central-{worker}",
        token=read_secret(config.token, config.token_file, "token"),
        subscriptions=(
            topics.SALES.of(worker=worker),
            topics.TILL_PRESENCE.of(),
            topics.RECEIPT_CLOSED.of(),
        ),
        subscribe_qos=1,
        will_topic=topics.CENTRAL_PRESENCE.of(worker=worker),
        keepalive_s=config.keepalive_s,
        tls=tls_of(brokers, config.tls_ca_file, config.tls_cert_file, config.tls_key_file),
        reconnect_min_s=config.reconnect_min_s,
        reconnect_max_s=config.reconnect_max_s,
        settled_s=config.reconnect_max_s,
    )


class Pace:
    """Lets receipts that come in quick succession share a commit, and a lone one wait for nothing.

    What comes after a commit is taken ``gather_s`` after that one began, at the earliest. Whoever comes after a pause
    is served at once; in a rush hour a commit takes what came meanwhile. Nobody waits after one that took longer than
    that, nor after one of ``gather_documents`` or more, of a backlog: it gains nothing by being larger.
    """

    def __init__(self, gather_s: float, gather_documents: int) -> None:
        self._gather_s, self._gather_documents, self._next_at = gather_s, gather_documents, 0.0

    def committed(self, documents: int, began: float) -> None:
        """Note that a turn committed so many documents."""
        if 0 < documents < self._gather_documents:
            self._next_at = began + self._gather_s

    def wait_s(self, now: float) -> float:
        """Return how long the next turn is to wait."""
        return max(0.0, self._next_at - now)


def run(config: CentralConfig) -> None:
    """Run one worker until SIGTERM or SIGINT."""
    store = open_store(config)
    inbox: Inbox[Event] = Inbox(config.inbox_messages, config.inbox_bytes)
    rng = SystemRandom()
    link = Link(link_settings(config, rng), lambda _: codec.encode(subscriber.presence(online=False)), inbox.put, rng)
    subscriber = Subscriber(config, store, link, SystemRandom(), wall_clock_ms, time.monotonic())
    stopping: list[bool] = []

    def stop() -> None:
        stopping.append(True)
        inbox.wake()

    on_stop_signal(stop)
    with _shown(config, subscriber, inbox) as turned:
        link.start()
        notify_systemd("READY=1")
        log.info("started", extra={"also": {"central_id": store.central_id, "worker": config.worker}})
        _turn(config, subscriber, inbox, stopping, turned)
    notify_systemd("STOPPING=1")
    subscriber.stop()
    link.stop()
    store.close()
    log.info("stopped")


@contextmanager
def _shown(config: CentralConfig, subscriber: Subscriber, inbox: Inbox[Event]) -> Iterator[Callable[[float], None]]:
    """Answer for metrics and health, if that is configured; yields what is to be called after each turn."""
    if not config.metrics_listen:
        yield lambda _now: None
        return
    try:
        from .metrics.serving import serving
    except ImportError as problem:
        raise ConfigError("metrics_listen needs prometheus-client: pip install 'tillstream[central]'") from problem
    with serving(config, subscriber, inbox) as turned:
        yield turned


def _turn(
    config: CentralConfig,
    subscriber: Subscriber,
    inbox: Inbox[Event],
    stopping: list[bool],
    turned: Callable[[float], None],
) -> None:
    watchdog, pace = Watchdog(os.environ), Pace(config.gather_s, config.gather_documents)
    while not stopping:
        time.sleep(pace.wait_s(time.monotonic()))
        wait_s = max(0.0, subscriber.next_deadline() - time.monotonic())
        events = inbox.take(min(wait_s, watchdog.every_s or wait_s), config.batch_messages, config.batch_bytes)
        if events:
            began, before = time.monotonic(), subscriber.store.ingested.documents
            subscriber.handle_all(events, began)
            pace.committed(subscriber.store.ingested.documents - before, began)
        subscriber.tick(time.monotonic())
        turned(time.monotonic())
        watchdog.turn(time.monotonic())
