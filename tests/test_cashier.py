"""The line for the cashier, and the file that holds it."""

from __future__ import annotations

import logging
import os

import pytest

from edge.cashier import EVERY_S, CashierFile, line


@pytest.mark.parametrize(
    ("unsent", "connected", "russian", "english"),
    [
        (3, True, "Не выгружено: 3, связь есть", "Not uploaded: 3, connected"),
        (1, False, "Не выгружено: 1, связи нет", "Not uploaded: 1, no connection"),
        (0, True, "Всё выгружено, связь есть", "Everything uploaded, connected"),
        (0, False, "Всё выгружено, связи нет", "Everything uploaded, no connection"),
    ],
)
def test_the_line_says_what_is_not_uploaded_and_whether_there_is_a_link(unsent, connected, russian, english):
    """The figure stands after a colon, so it is right for any number."""
    assert line(unsent, connected=connected, language="ru") == russian
    assert line(unsent, connected=connected, language="en") == english


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cashier.txt"


def test_the_file_is_there_for_everybody_and_gone_when_the_agent_stops(path):
    """Mode 0644 whatever the umask; one line; nothing else is left in the folder, and nothing at all after the end."""
    before = os.umask(0o077)
    try:
        file = CashierFile(path, "ru")
        file.show(3, connected=True, now=0.0)
    finally:
        os.umask(before)

    assert path.read_text("utf-8") == "Не выгружено: 3, связь есть\n"
    assert path.stat().st_mode & 0o777 == 0o644
    assert [*path.parent.iterdir()] == [path]

    file.remove()
    file.remove()
    assert [*path.parent.iterdir()] == []


def test_the_file_is_replaced_whole_and_only_when_the_line_changes(path):
    """A reader that has it open keeps the old line; the same line again touches nothing."""
    file = CashierFile(path, "en")
    file.show(1, connected=True, now=0.0)
    inode = path.stat().st_ino
    with path.open("r", encoding="utf-8") as held:
        file.show(1, connected=True, now=10.0)
        assert path.stat().st_ino == inode
        assert file.next_deadline() is None

        file.show(2, connected=True, now=20.0)
        assert held.read() == "Not uploaded: 1, connected\n"
    assert path.read_text("utf-8") == "Not uploaded: 2, connected\n"


def test_a_busy_till_writes_at_most_once_a_second_and_the_last_line_wins(path):
    """What was held back is written as soon as it may be; the deadline says when that is."""
    file = CashierFile(path, "en")
    written = set()
    for step in range(100):  # A tenth of a second each.
        file.show(step, connected=True, now=step / 10)
        written.add(path.read_text("utf-8"))

    assert len(written) == 10
    due = file.next_deadline()
    assert due == pytest.approx(9.0 + EVERY_S)
    file.show(99, connected=True, now=due)
    assert path.read_text("utf-8") == "Not uploaded: 99, connected\n"
    assert file.next_deadline() is None


def test_a_line_that_came_back_before_it_was_written_is_not_written(path):
    """Up and down again within the second: the file says what is so, and nothing is due."""
    file = CashierFile(path, "en")
    file.show(1, connected=True, now=0.0)
    file.show(2, connected=True, now=0.1)
    file.show(1, connected=True, now=0.2)

    assert file.next_deadline() is None


def test_a_file_that_cannot_be_written_stops_nothing(tmp_path, caplog):
    """One warning, not one a second; when the folder is there again, so is the line."""
    path = tmp_path / "gone" / "cashier.txt"
    file = CashierFile(path, "ru")
    with caplog.at_level(logging.WARNING, "tillstream.edge"):
        for second in range(5):
            file.show(second, connected=False, now=float(second))
    assert [record.getMessage() for record in caplog.records] == ["cashier_file"]

    path.parent.mkdir()
    file.show(5, connected=False, now=5.0)
    assert path.read_text("utf-8") == "Не выгружено: 5, связи нет\n"
    file.remove()
