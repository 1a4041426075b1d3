"""What tests do with an answer to ``/metrics``: read it as Prometheus does."""

from __future__ import annotations

import http.client
import json

from prometheus_client.parser import text_string_to_metric_families


def series(text: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return each series' value by its name and sorted labels."""
    families = text_string_to_metric_families(text.decode())
    return {(one.name, tuple(sorted(one.labels.items()))): one.value for family in families for one in family.samples}


def value(text: bytes, name: str, **labels: str) -> float | None:
    """Return one series' value, None where there is no such series."""
    return series(text).get((f"tillstream_{name}", tuple(sorted(labels.items()))))


def names(text: bytes) -> set[str]:
    """Return the names of all series."""
    return {name for name, _ in series(text)}


def fetch(port: int, path: str, timeout_s: float = 10) -> tuple[int, bytes]:
    """Ask a program on this machine; return status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def told(port: int, path: str) -> tuple[int, dict]:
    """Ask for something that is answered as JSON."""
    status, body = fetch(port, path)
    return status, json.loads(body)
