"""Short ways to what prometheus-client calls metric families; every name begins with ``tillstream_``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from central.counters import Histogram
from wire.program import installed_version

PREFIX = "tillstream_"
Labelled = Iterable[tuple[tuple[str, ...], float | None]]
"""Values of the labels, and the figure; None where it is not known, which is no series and never 0."""


def gauge(name: str, about: str, value: float | None) -> Metric:
    """Return one figure; without a series where it is not known."""
    return gauges(name, about, (), [((), value)])


def gauges(name: str, about: str, labels: tuple[str, ...], rows: Labelled) -> Metric:
    """Return a figure for each set of labels."""
    family = GaugeMetricFamily(PREFIX + name, about, labels=labels)
    for values, value in rows:
        if value is not None:
            family.add_metric(values, value)
    return family


def counter(name: str, about: str, value: float) -> Metric:
    """Return one count since the start; ``_total`` is added to its name."""
    return counters(name, about, (), [((), value)])


def counters(name: str, about: str, labels: tuple[str, ...], rows: Labelled) -> Metric:
    """Return a count since the start for each set of labels."""
    family = CounterMetricFamily(PREFIX + name, about, labels=labels)
    for values, value in rows:
        if value is not None:
            family.add_metric(values, value)
    return family


def histogram(name: str, about: str, seen: Histogram) -> Metric:
    """Return how a duration is spread."""
    counts, total = list(seen.counts), seen.total
    bounds = [*map(str, seen.bounds), "+Inf"]
    buckets = [(bound, float(sum(counts[: place + 1]))) for place, bound in enumerate(bounds)]
    return HistogramMetricFamily(PREFIX + name, about, buckets=buckets, sum_value=total)


def build_info(component: str) -> Metric:
    """Return which version runs."""
    rows = [((installed_version(), component), 1.0)]
    return gauges("build_info", "Which version runs, as a label.", ("version", "component"), rows)


def seconds(at_ms: float | None) -> float | None:
    """Return epoch milliseconds as the seconds that Prometheus counts in."""
    return None if at_ms is None else at_ms / 1000


def in_order(counts: Mapping[tuple[str, str], int]) -> Labelled:
    """Return counts by labels, in a fixed order; the mapping may grow meanwhile."""
    return [(key, float(value)) for key, value in sorted(dict(counts).items())]
