"""Putting the till's parts together."""

from __future__ import annotations

import fcntl
import threading

import pytest

from edge.config import EdgeConfig
from edge.outbox import OutboxBusyError
from edge.service import open_outbox_patiently


def test_a_starting_agent_waits_for_whoever_looks_into_the_outbox(tmp_path):
    """A status asked for while the agent starts holds the lock for a moment, and must not keep it from starting."""
    config = EdgeConfig(till_id="till-1", state_dir=str(tmp_path))
    with (tmp_path / "outbox.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(OutboxBusyError):
            open_outbox_patiently(config, within_s=0)
        release = threading.Timer(0.3, lambda: fcntl.flock(lock, fcntl.LOCK_UN))
        release.start()
        open_outbox_patiently(config).close()
        release.join()
