"""Putting the till's parts together."""

from __future__ import annotations

import fcntl
import sqlite3
import threading

import pytest
from factories import a_sale, wait_until

from central.service import Pace
from edge.config import EdgeConfig
from edge.outbox import OutboxBusyError
from edge.service import Door, make_intake, open_outbox_patiently
from wire.inbox import Inbox


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


def a_door(**limits):
    """Return the socket's side, what it puts into the inbox, and the inbox."""
    inbox = Inbox(**limits)
    return Door(inbox, 5), inbox


def test_a_ring_that_finds_no_room_is_not_said_to_be_rung():
    """Who rings must know that it was for nothing."""
    door, _inbox = a_door(limit_messages=1)

    assert [202, 503] == [door.ask("POST", "/ring", b"").status for _ in range(2)]


@pytest.mark.parametrize("most", ["%C2%B2", "9" * 5000, "many"])
def test_a_count_that_is_none_is_refused_by_name(most):
    """An answer, and not a connection that closes."""
    door, _inbox = a_door()
    refused = door.ask("GET", f"/pending?most={most}", b"")

    assert (refused.status, refused.body["detail"].startswith("most is ")) == (400, True)


@pytest.mark.parametrize("broken", [OSError(28, "No space left on device"), sqlite3.OperationalError("disk I/O error")])
def test_a_document_that_could_not_be_kept_is_answered(broken):
    """Whoever handed it over hears why, and leaves it in the spool."""
    door, inbox = a_door()
    agent = threading.Thread(target=lambda: inbox.take(5)[0].answer.set_exception(broken))
    agent.start()
    refused = door.ask("POST", "/documents", b"{}")
    agent.join()

    assert (refused.status, refused.body["detail"]) == (507, str(broken))


def test_a_reader_tells_a_disk_that_is_full_from_a_folder_that_cannot_be_read(tmp_path):
    """The till's own disk is not the POS's folder: whoever looks for the fault must not look there."""
    for name in ("intake", "out", "state"):
        (tmp_path / name).mkdir()
    text = f'kind = "folder"\nname = "drop"\nfolder = "{tmp_path / "out"}"\nformat = "json"\n'
    (tmp_path / "intake" / "drop.toml").write_text(text, "utf-8")
    (tmp_path / "out" / "a.json").write_bytes(a_sale())
    inbox = Inbox()
    config = EdgeConfig(till_id="till-1", state_dir=str(tmp_path / "state"), intake_dir=str(tmp_path / "intake"))
    readers = make_intake(config, inbox)
    readers.start()
    inbox.take(5)[0].answer.set_exception(OSError(28, "No space left on device"))
    assert wait_until(lambda: readers.troubles() != {})

    assert [("not_taken", "[Errno 28] No space left on device")] == [
        (one["trouble"], one["last_error"]) for one in readers.status()
    ]
    assert readers.stop()


def test_a_lone_receipt_waits_for_nothing_and_quick_ones_share_a_commit():
    """20 ms after the commit before began, and no later; what commits nothing, or a backlog, holds nobody up."""
    pace = Pace(0.02, 50)
    pace.committed(0, 100.0)
    assert pace.wait_s(100.0) == 0.0
    pace.committed(1, 100.0)
    assert pace.wait_s(100.005) == pytest.approx(0.015)
    assert pace.wait_s(100.05) == 0.0
    pace.committed(50, 200.0)
    assert pace.wait_s(200.0) == 0.0
