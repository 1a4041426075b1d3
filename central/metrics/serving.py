"""Puts a worker's figures and its health before whoever asks, while the worker runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from central.config import CentralConfig
from central.health import Check, WorkerSeen, alive, answer, ready
from central.subscriber import Event, Subscriber
from wire.inbox import Inbox

from .listener import TEXT, Answer, Answers, Listener, as_json
from .worker import WorkerFigures


@contextmanager
def serving(config: CentralConfig, subscriber: Subscriber, inbox: Inbox[Event]) -> Iterator[Callable[[float], None]]:
    """Answer at ``metrics_listen``; yields what the worker calls after each turn. Raises ConfigError."""
    figures = WorkerFigures(subscriber, inbox, time.monotonic())
    listener = Listener(config.metrics_address(), config.metrics_timeout_s, answers(config, figures))
    listener.start()
    try:
        yield figures.turned
    finally:
        listener.stop()


def answers(config: CentralConfig, figures: WorkerFigures) -> Answers:
    """Return what is answered to which path."""

    def told(judge: Callable[[WorkerSeen, float], list[Check]], turn_max_s: float) -> Answer:
        return as_json(answer(judge(figures.seen(time.monotonic()), turn_max_s)))

    return {
        "/metrics": lambda: (200, TEXT, figures.exposition()),
        "/healthz": lambda: told(alive, config.health_turn_max_s),
        "/readyz": lambda: told(ready, config.ready_turn_max_s),
    }
