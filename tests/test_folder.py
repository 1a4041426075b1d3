"""The spool folder: what is visible is whole, oldest first, and bounded."""

from __future__ import annotations

import os

import pytest

from edge.intake import folder


def texts(spool, most=100, limit_bytes=1000):
    return [spooled.read() for spooled in folder.waiting(spool, most, limit_bytes)]


def test_what_was_put_waits_whole_under_its_name(tmp_path):
    """A document is written beside, then renamed: no half of one is ever visible."""
    folder.put(tmp_path, "d1", b"body")

    assert [b"body"] == texts(tmp_path)
    assert ["d1.json"] == [path.name for path in tmp_path.iterdir()]


def test_the_oldest_comes_first_and_only_as_many_as_are_asked_for(tmp_path):
    """Order is by the time of writing, then by name."""
    for age, name in ((2, "c"), (9, "b"), (2, "a")):
        (tmp_path / name).write_bytes(name.encode())
        os.utime(tmp_path / name, (1000 - age, 1000 - age))

    assert [b"b", b"a", b"c"] == texts(tmp_path)
    assert [b"b", b"a"] == texts(tmp_path, most=2)


def test_what_is_unfinished_hidden_or_no_file_is_left_alone(tmp_path):
    """Parts, hidden files, folders, FIFOs and links are none of ours."""
    for name in ("a.part", "b.tmp", ".hidden"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "sub").mkdir()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("/etc/hostname")

    assert texts(tmp_path) == []


def test_a_file_over_the_limit_stays_where_it_is_and_does_not_hold_up_the_rest(tmp_path):
    """A file too large to be read is passed by, also where only one is asked for."""
    (tmp_path / "large").write_bytes(b"x" * 1001)
    os.utime(tmp_path / "large", (1, 1))
    (tmp_path / "small").write_bytes(b"x")

    assert [b"x"] == texts(tmp_path, most=1)
    assert (tmp_path / "large").exists()


def test_a_document_without_an_id_is_named_by_its_file(tmp_path):
    """Taken up twice after a crash it has the same id; another file with the same bytes has another."""
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"{}")
    first, second = folder.waiting(tmp_path, 9, 1000)
    again, _ = folder.waiting(tmp_path, 9, 1000)

    assert first.make_id() == again.make_id() != second.make_id()


def test_syncing_a_folder_that_is_missing_is_an_error(tmp_path):
    """A promise of durability that cannot be kept is not made."""
    with pytest.raises(FileNotFoundError):
        folder.put(tmp_path / "missing", "d1", b"x")


def test_what_a_pos_leaves_may_be_read_by_the_agent_whatever_the_umask(tmp_path):
    """A POS that keeps its own files to itself must not keep its documents from the agent's user."""
    before = os.umask(0o077)
    try:
        folder.put(tmp_path, "d1", b"x")
    finally:
        os.umask(before)

    assert (tmp_path / "d1.json").stat().st_mode & 0o777 == 0o644
