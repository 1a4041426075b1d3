"""The till's figures for node_exporter: true, whole at any moment, and gone with the agent."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest
from factories import (
    CENTRAL,
    NOW_MS,
    TILL,
    a_confirmation,
    a_sale,
    a_till,
    an_outbox,
    digest_of,
    some_sales,
)
from figures_told import value

from edge.config import EdgeConfig
from edge.events import Handed
from edge.textfile import Figures, FiguresFile, size_bytes, text
from wire import codec, topics
from wire.link import Connected, Received
from wire.program import ConfigError, read_config


@pytest.fixture
def path(tmp_path):
    """Return where node_exporter looks."""
    return tmp_path / "collected" / "tillstream.prom"


@pytest.fixture
def till(tmp_path, path):
    """Return a till that writes its figures every 30 s."""
    path.parent.mkdir()
    made = a_till(tmp_path, an_outbox(tmp_path / "outbox.db"), metrics_file=str(path), metrics_every_s=30)
    yield made
    made.outbox.close()


def told(path, name, **labels):
    return value(path.read_bytes(), f"agent_{name}", **labels)


def test_what_waits_and_what_is_stored_is_told_with_the_time_of_the_word(till, path):
    """Three documents wait; once central has said that two are stored, two are, since then."""
    bodies = some_sales(3)
    for body in bodies:
        till.take_in(body)
    till.agent.handle(Connected(1), 0.0)
    till.agent.tick(0.0)
    assert (told(path, "outbox_receipts", state="unsent"), told(path, "outbox_receipts", state="stored")) == (3, 0)
    assert told(path, "last_ack_timestamp_seconds") is None, "unknown is no 0, which would be 1970"
    assert told(path, "outbox_bytes") == size_bytes(till.agent.config.outbox_path) > 0

    kept = till.outbox.read_after(0, 2, 10**6)
    stream = till.outbox.head().stream
    stored = a_confirmation(2, digest_of(kept, stream), stream, central_id=CENTRAL)
    topic = topics.SALES_STORED.of(till=TILL)
    till.agent.handle(Received(1, 1, topic, codec.encode(stored), False, 30.0), 30.0)
    till.agent.tick(30.0)
    assert (told(path, "outbox_receipts", state="unsent"), told(path, "outbox_receipts", state="stored")) == (1, 2)
    assert told(path, "last_ack_timestamp_seconds") == NOW_MS / 1000


def test_the_file_is_written_in_its_time_also_without_news(till, path):
    """Its age says whether the agent runs; between two times a busy till writes nothing."""
    till.agent.tick(0.0)
    path.unlink()
    till.take_in(a_sale())
    till.agent.tick(29.0)
    assert not path.exists()
    assert till.agent.next_deadline() <= 30.0
    till.agent.tick(30.0)
    assert told(path, "outbox_receipts", state="unsent") == 1


def test_documents_that_were_not_taken_in_are_counted_by_where_they_came_from(till, path, tmp_path):
    """0 from the start, so that the first one is seen; one handed over and one in the spool."""
    till.agent.tick(0.0)
    assert (
        told(path, "intake_errors_total", intake="handed_over"),
        told(path, "intake_errors_total", intake="spool"),
    ) == (
        0,
        0,
    )
    handed = Handed(b"", lambda: "made")
    till.agent.handle(handed, 1.0)
    assert handed.answer.exception()
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / "1.json").write_bytes(b"")
    till.agent.tick(40.0)
    till.agent.tick(80.0)
    assert told(path, "intake_errors_total", intake="handed_over") == 1
    assert told(path, "intake_errors_total", intake="spool") >= 1


def test_a_reader_is_counted_under_its_name():
    """Whatever characters that has."""
    shown = text(Figures(0, 0, 5, None, {'pos "1"\\': 2})).encode()
    assert value(shown, "agent_intake_errors_total", intake='pos "1"\\') == 2


def test_an_agent_that_stops_takes_its_figures_away(till, path):
    """What is not running must not look as if it were."""
    till.agent.tick(0.0)
    assert path.exists()
    till.agent.stop()
    assert list(path.parent.iterdir()) == []


def test_whoever_reads_sees_the_old_file_or_the_new_one(tmp_path):
    """A reader that has the old file open reads it to its end; drafts never end in ``.prom``."""
    path = tmp_path / "tillstream.prom"
    file = FiguresFile(path, 1)
    file.write(Figures(1, 0, None, None), 0.0)
    with path.open() as held:
        file.write(Figures(2, 0, None, None), 1.0)
        assert '{state="unsent"} 1' in held.read()
    assert '{state="unsent"} 2' in path.read_text()
    assert [one.name for one in tmp_path.iterdir()] == ["tillstream.prom"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_folder_that_is_not_there_stops_nothing_and_is_told_once(tmp_path, caplog):
    """Sales go on; when the folder is there again, so are the figures."""
    path = tmp_path / "gone" / "tillstream.prom"
    file = FiguresFile(path, 1)
    with caplog.at_level(logging.WARNING, "tillstream.edge"):
        for second in range(3):
            file.write(Figures(1, 0, None, None), float(second))
    assert [record.getMessage() for record in caplog.records] == ["metrics_file"]
    path.parent.mkdir()
    file.write(Figures(1, 0, None, None), 3.0)
    assert path.exists()


@pytest.mark.parametrize("given", ["tillstream.prom", "/var/lib/tillstream.txt", "relative/x.prom"])
def test_a_place_where_node_exporter_would_not_look_is_refused(given):
    """Absolute, and ending as the collector expects."""
    with pytest.raises(ConfigError, match="metrics_file"):
        read_config(EdgeConfig, "edge", None, {"TILLSTREAM_TILL_ID": "a", "TILLSTREAM_METRICS_FILE": given})


def test_a_till_needs_no_library_for_it():
    """What a till installs has no prometheus-client: nothing that the agent imports asks for it."""
    program = "import sys, edge.service, edge.textfile; sys.exit(any('prometheus' in name for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
