"""The figures of one worker, from its memory: nothing here asks the database, nor waits for the worker's thread."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from central.health import WorkerSeen
from central.subscriber import Event, Subscriber
from wire.inbox import Inbox
from wire.tls import TlsError, look_at

from . import families as of

LOOK_AT_CERTIFICATE_EVERY_S = 3600.0


class WorkerFigures(Collector):
    """What a worker shows of itself. ``turned`` is called by the worker's thread, all else by the listener's."""

    def __init__(self, subscriber: Subscriber, inbox: Inbox[Event], now: float) -> None:
        self._subscriber, self._inbox, self._turned_at = subscriber, inbox, now
        self._expiry_s: float | None = None
        self._look_at = 0.0
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._registry.register(self)

    def turned(self, now: float) -> None:
        """Note that the worker has finished what waited."""
        self._turned_at = now

    def seen(self, now: float) -> WorkerSeen:
        """Return what its health is judged by."""
        waiting, _ = self._inbox.waiting()
        traffic = self._subscriber.traffic
        link_error = "" if traffic.is_linked else traffic.why_not
        return WorkerSeen(now - self._turned_at, waiting, self._subscriber.database_error, link_error)

    def exposition(self) -> bytes:
        """Return all figures as Prometheus reads them (text format 0.0.4)."""
        return generate_latest(self._registry)

    def describe(self) -> Iterator[Metric]:
        """Return nothing: asked at registration, when there is nothing to tell yet."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Return the figures as they are now."""
        yield of.build_info(f"worker-{self._subscriber.config.share.number}")
        yield from self._stored()
        yield from self._asked()
        yield from self._carried()

    def _stored(self) -> Iterator[Metric]:
        seen = self._subscriber.store.ingested
        yield of.counter(
            "receipts_ingested", "Documents that were committed and were not there before.", seen.documents
        )
        yield of.counter(
            "receipts_duplicate",
            "Documents that came and were there already: nothing was stored twice.",
            seen.duplicates,
        )
        codes = [((code,), float(count)) for code, count in sorted(dict(seen.quarantined).items())]
        yield of.counters("receipts_rejected", "Documents that were put into quarantine.", ("code",), codes)
        delay = "From the closing of a document, by the till's clock, to its commit."
        yield of.histogram("receipt_ingest_delay_seconds", delay, seen.delay_s)
        yield of.histogram(
            "ingest_commit_seconds", "One transaction for all that waited, from begin to end.", seen.commit_s
        )

    def _asked(self) -> Iterator[Metric]:
        counts, turns = self._subscriber.counters, self._subscriber.collector.turns
        yield of.counter("bells_received", "Doorbells (receipt_closed) that were taken up.", counts.doorbells)
        yield of.counter("bells_coalesced", "Doorbells that needed no upload of their own.", counts.coalesced)
        yield of.counters("upload_tasks", "Tasks that ended.", ("cause", "result"), of.in_order(counts.ended))
        yield of.counter("upload_requests", "Requests that went out to tills.", counts.requests)
        yield of.counter("upload_requests_unanswered", "Requests that no answer followed.", counts.unanswered)
        yield of.histogram("upload_duration_seconds", "From a request to its answer, committed.", counts.upload_s)
        yield of.gauge("admission_queue_length", "Tills that wait for a slot.", turns.waiting)
        yield of.gauge("admission_slots", "Tills that may be asked at once.", turns.parallel)
        yield of.gauge("admission_slots_taken", "Tills that were asked and have not answered.", len(turns.asked))
        yield of.gauge("admission_backlog_slots", "Slots for who owes much, or was silent.", turns.parallel_backlog)
        yield of.gauge("admission_backlog_slots_taken", "Such tills that were asked.", turns.asked_slow)

    def _carried(self) -> Iterator[Metric]:
        traffic, (messages, size_bytes) = self._subscriber.traffic, self._inbox.waiting()
        yield of.gauge("ingest_queue_messages", "Messages that wait for the worker.", messages)
        yield of.gauge("ingest_queue_bytes", "Bytes of the messages that wait for the worker.", size_bytes)
        yield of.counter("ingest_queue_refused", "Messages for which there was no room.", self._inbox.refused)
        linked = [(("central",), float(traffic.is_linked))]
        yield of.gauges("mqtt_connected", "Whether the connection to the broker stands.", ("component",), linked)
        ends = [(("central", why), float(count)) for why, count in sorted(dict(traffic.ended).items())]
        ended = "Connections that ended or could not be made; each is followed by another try."
        yield of.counters("mqtt_reconnects", ended, ("component", "reason"), ends)
        yield of.counters(
            "mqtt_messages", "Messages by kind of topic.", ("direction", "topic_kind"), of.in_order(traffic.messages)
        )
        expiry = "Until when this program's certificate is valid."
        rows = [(("central",), self._certificate_expiry_s())]
        yield of.gauges("tls_certificate_expiry_timestamp_seconds", expiry, ("component",), rows)

    def _certificate_expiry_s(self) -> float | None:
        """Return when the certificate in the file ends; None without one, or if it cannot be read."""
        cert_file, now = self._subscriber.config.tls_cert_file, time.monotonic()
        if cert_file and now >= self._look_at:
            self._look_at = now + LOOK_AT_CERTIFICATE_EVERY_S
            try:
                self._expiry_s = look_at(Path(cert_file)).not_after_s
            except TlsError:
                self._expiry_s = None
        return self._expiry_s
