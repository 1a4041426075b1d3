"""The FIFO that the POS's hook writes to: one letter rings."""

from __future__ import annotations

import os
import stat

import pytest
from factories import wait_until

from edge.intake import fifo


@pytest.fixture
def rung(tmp_path):
    """Listen on a FIFO and return what was rung."""
    heard = []
    fifo.listen(tmp_path / "ring", heard.append, None)
    return heard


def write(path, text):
    descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    try:
        os.write(descriptor, text)
    finally:
        os.close(descriptor)


def test_a_letter_rings_and_u_rings_urgently(tmp_path, rung):
    """``r`` rings, ``u`` rings urgently; the FIFO goes on after each writer has closed it."""
    for text in (b"r", b"u", b"r"):
        before = len(rung)
        write(tmp_path / "ring", text)
        assert wait_until(lambda before=before: len(rung) > before)

    assert rung == [False, True, False]


def test_many_rings_at_once_need_not_ring_many_times(tmp_path, rung):
    """What piles up is read together; an urgent ring among them keeps its urgency."""
    write(tmp_path / "ring", b"r" * 500 + b"u" + b"r" * 500)

    assert wait_until(lambda: any(rung))
    assert len(rung) <= 2


def test_only_the_pos_and_its_group_may_ring(tmp_path, rung):
    """The FIFO is 0660, whatever the umask."""
    mode = (tmp_path / "ring").stat().st_mode

    assert stat.S_ISFIFO(mode)
    assert stat.S_IMODE(mode) == 0o660


def test_a_file_that_stands_in_its_place_is_replaced(tmp_path):
    """A hook that wrote before the agent ever ran left a plain file: it must not stop the agent."""
    (tmp_path / "ring").write_bytes(b"r")
    heard = []
    fifo.listen(tmp_path / "ring", heard.append, None)
    write(tmp_path / "ring", b"u")

    assert wait_until(lambda: heard == [True])


def test_a_fifo_of_an_earlier_run_is_used_again(tmp_path):
    """An agent that starts again listens on the FIFO that is there: a hook that holds it open goes on ringing."""
    os.mkfifo(tmp_path / "ring")
    number = (tmp_path / "ring").stat().st_ino
    fifo.listen(tmp_path / "ring", lambda urgent: None, None)

    assert (tmp_path / "ring").stat().st_ino == number
