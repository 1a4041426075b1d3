"""The readers' threads: read when woken or in time, go on trying, say how they stand, and stop at once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from factories import NOW_MS, a_sale, wait_until
from intake_pos import ABOUT, Taker, a_day, a_pos, added_up, sqlite_example

from edge.intake import position, readers
from edge.intake.mapping import MappingError
from edge.intake.readers import Readers, mappings_in
from edge.intake.taking import NotDurableError


class Agent:
    """The agent's side: one thread of its own that holds the outbox and answers when a document is durable."""

    def __init__(self, folder):
        self.thread = ThreadPoolExecutor(1)
        self.taker = self.thread.submit(Taker, folder).result()
        self.is_full = False
        self.passes = []

    def take(self, given, make_id):
        if self.is_full:
            raise NotDurableError("no room")
        self.thread.submit(self.taker, given, make_id).result(5)

    def on_taken(self, count, was_rung):
        self.passes.append((count, was_rung))

    def bodies(self):
        return self.thread.submit(self.taker.bodies).result()

    def count(self):
        return len(self.bodies())

    def close(self):
        self.thread.submit(self.taker.till.outbox.close).result()
        self.thread.shutdown()


@pytest.fixture
def agent(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "RETRY_MIN_S", 0.01)
    agent = Agent(tmp_path / "till")
    yield agent
    agent.close()


@pytest.fixture
def running(tmp_path, agent):
    """Return a function that runs the readers of some mappings; all are stopped in the end."""
    started = []

    def run(*paths, clock_ms=NOW_MS):
        made = Readers(paths, tmp_path / "intake", ABOUT, agent.take, agent.on_taken, lambda: clock_ms)
        started.append(made)
        made.start()
        return made

    yield run
    assert all(made.stop() for made in started)


@pytest.fixture
def pos(tmp_path):
    pos = a_pos(tmp_path)
    yield pos
    pos.disconnect()


def slow(path):
    """Let a mapping be read only when its reader is woken."""
    path.write_text(path.read_text("utf-8").replace("poll_s = 5 ", "poll_s = 3600 "), "utf-8")
    return path


def a_drop(folder, name="drop", poll_s=3600):
    (folder / name).mkdir(exist_ok=True)
    path = folder / f"{name}.toml"
    text = f'kind = "folder"\nname = "{name}"\nfolder = "{folder / name}"\nformat = "json"\npoll_s = {poll_s}\n'
    path.write_text(text, "utf-8")
    return path


def test_what_waits_is_taken_at_the_start_and_what_comes_when_woken(tmp_path, agent, pos, running):
    """The POS rings after it closed something: that pass says that it was rung for."""
    closed = a_day(9)
    for document in closed[:4]:
        pos.close(document)
    made = running(slow(sqlite_example(tmp_path)))
    assert wait_until(lambda: agent.passes == [(4, False)])
    for document in closed[4:]:
        pos.close(document)
    made.wake()

    assert wait_until(lambda: agent.passes == [(4, False), (5, True)])
    assert pos.sums() == added_up(agent.bodies())


def test_what_comes_without_a_ring_is_taken_in_time(tmp_path, agent, running):
    """A POS that rings nobody is looked at every ``poll_s``."""
    running(a_drop(tmp_path, poll_s=0.1))
    (tmp_path / "drop" / "a.json").write_bytes(a_sale())

    assert wait_until(lambda: agent.passes == [(1, False)])


def test_one_that_cannot_read_stops_no_other_and_heals_by_itself(tmp_path, agent, running):
    """The trouble names the source and since when, the status the error; both go when the POS's database is there."""
    made = running(slow(sqlite_example(tmp_path)), a_drop(tmp_path, poll_s=0.1))
    (tmp_path / "drop" / "a.json").write_bytes(a_sale("d1"))
    assert wait_until(lambda: agent.count() == 1)
    assert wait_until(lambda: made.troubles() == {"sqlite-pos": NOW_MS})
    (one,) = [status for status in made.status() if status["name"] == "sqlite-pos"]
    assert ("unreadable", "no such file" in one["last_error"]) == (one["trouble"], True)

    (tmp_path / "new").mkdir()
    pos = a_pos(tmp_path / "new")
    pos.close(a_day(1)[0])
    pos.disconnect()
    (tmp_path / "new" / "pos.db").rename(tmp_path / "pos.db")
    assert wait_until(lambda: agent.count() == 2)
    assert wait_until(lambda: made.troubles() == {})
    (one,) = [status for status in made.status() if status["name"] == "sqlite-pos"]
    assert (1, "", NOW_MS) == (one["taken"], one["last_error"], one["last_read_at_ms"])


def test_numbers_that_went_back_are_a_trouble_until_they_are_settled(tmp_path, agent, pos, running):
    """Since when is what the position remembers, not when the agent was started; the word needs no restart."""
    for document in a_day(5):
        pos.close(document)
    made = running(slow(sqlite_example(tmp_path)))
    assert wait_until(lambda: agent.count() == 5)
    pos.execute("DELETE FROM receipt WHERE id = 5")
    made.wake()
    assert wait_until(lambda: made.troubles() == {"sqlite-pos": NOW_MS})
    assert made.stop()

    made = running(slow(sqlite_example(tmp_path)), clock_ms=NOW_MS + 60_000)
    assert wait_until(lambda: made.status()[0]["last_read_at_ms"] == NOW_MS + 60_000)
    assert made.troubles() == {"sqlite-pos": NOW_MS}
    assert [one["trouble"] for one in made.status()] == ["numbers_went_back"]
    position.ask_to_settle(tmp_path / "intake", "sqlite-pos")
    made.wake()
    assert wait_until(lambda: made.troubles() == {})
    assert made.status()[0]["findings"] == {}


def test_a_full_outbox_is_a_trouble_of_its_own_and_nothing_is_skipped(tmp_path, agent, pos, running):
    """Reading goes on when there is room."""
    for document in a_day(5):
        pos.close(document)
    agent.is_full = True
    made = running(slow(sqlite_example(tmp_path)))
    assert wait_until(lambda: [one["trouble"] for one in made.status()] == ["not_taken"])
    agent.is_full = False

    assert wait_until(lambda: agent.count() == 5)
    assert wait_until(lambda: made.troubles() == {})


def test_a_ring_is_owed_until_something_could_be_read(tmp_path, agent, running):
    """The POS rang while its database was away: what is taken later was rung for."""
    made = running(slow(sqlite_example(tmp_path)))
    assert wait_until(lambda: made.troubles() != {})
    made.wake()
    (tmp_path / "new").mkdir()
    pos = a_pos(tmp_path / "new")
    pos.close(a_day(1)[0])
    pos.disconnect()
    (tmp_path / "new" / "pos.db").rename(tmp_path / "pos.db")

    assert wait_until(lambda: agent.passes == [(1, True)])


def test_a_broken_mapping_is_read_again_when_it_was_mended(tmp_path, agent, running):
    """The agent starts all the same, and needs no restart."""
    path = a_drop(tmp_path)
    good = path.read_text("utf-8")
    path.write_text(good.replace("folder =", "foldr =", 1), "utf-8")
    made = running(path)
    assert wait_until(lambda: "unknown key `foldr`" in made.status()[0]["last_error"])
    (tmp_path / "drop" / "a.json").write_bytes(a_sale())
    path.write_text(good, "utf-8")

    assert wait_until(lambda: agent.count() == 1)


def test_two_mappings_of_one_name_are_an_error(tmp_path, agent, running):
    """They would take each other's position; the first one reads."""
    first = a_drop(tmp_path)
    second = tmp_path / "second.toml"
    second.write_text(first.read_text("utf-8"), "utf-8")
    made = running(first)
    assert wait_until(lambda: made.status()[0]["last_read_at_ms"] is not None)
    both = running(first, second)

    def told():
        return [status["last_error"] for status in both.status() if "each needs its own" in status["last_error"]]

    assert wait_until(lambda: len(told()) == 1)
    assert "'drop' is the name of" in told()[0]


def test_a_stop_does_not_wait_for_a_long_history(tmp_path, agent, pos, running):
    """The reader stops between two documents; the next start goes on where it was."""
    closed = a_day(40)
    for document in closed:
        pos.close(document)
    began, go_on = threading.Event(), threading.Event()
    take = agent.take

    def slowly(given, make_id):
        take(given, make_id)
        began.set()
        go_on.wait(5)

    agent.take = slowly
    made = running(slow(sqlite_example(tmp_path)))
    assert began.wait(5)
    threading.Timer(0.02, go_on.set).start()
    assert made.stop()
    assert agent.count() < 40

    agent.take = take
    running(slow(sqlite_example(tmp_path)))
    assert wait_until(lambda: agent.count() == 40)
    assert pos.sums() == added_up(agent.bodies())


def test_an_error_nobody_thought_of_does_not_end_the_thread(tmp_path, agent, pos, running, monkeypatch):
    """It is told like any other, and tried again."""
    path = slow(sqlite_example(tmp_path))
    with monkeypatch.context() as patched:
        patched.setattr("edge.intake.sql.SqlReader.read", lambda *_: 1 / 0)
        made = running(path)
        assert wait_until(lambda: "division" in made.status()[0]["last_error"])
    pos.close(a_day(1)[0])

    assert wait_until(lambda: agent.count() == 1)


def test_a_folder_that_cannot_be_looked_into_does_not_end_the_thread(tmp_path, agent, running, monkeypatch):
    """What stands in ``failed`` may not be readable: that is told, and files are taken all the same."""
    (tmp_path / "drop" / "failed").mkdir(parents=True)
    (tmp_path / "drop" / "a.json").write_bytes(a_sale("d1"))
    real = Path.iterdir
    with monkeypatch.context() as patched:
        patched.setattr(Path, "iterdir", lambda path: _refuse(path) if path.name == "failed" else real(path))
        made = running(a_drop(tmp_path, poll_s=0.1))
        assert wait_until(lambda: "failed: Permission denied" in made.status()[0]["last_error"])
        assert agent.count() == 1
        (tmp_path / "drop" / "b.json").write_bytes(a_sale("d2"))
        assert wait_until(lambda: agent.count() == 2)
    assert wait_until(lambda: made.troubles() == {})


def _refuse(path):
    raise PermissionError(13, "Permission denied", str(path))


def test_one_file_that_is_held_up_is_a_trouble_and_slows_down_no_other(tmp_path, agent, running, monkeypatch):
    """The folder is looked at as often as before, and the till says that not everything comes in."""
    real, path = Path.read_bytes, a_drop(tmp_path, poll_s=0.1)
    (tmp_path / "drop" / "bad.json").write_bytes(a_sale("bad"))
    monkeypatch.setattr(readers, "RETRY_MIN_S", 3600.0)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", lambda path: _refuse(path) if path.name == "bad.json" else real(path))
        made = running(path)
        assert wait_until(lambda: [one["trouble"] for one in made.status()] == ["unreadable"])
        (tmp_path / "drop" / "good.json").write_bytes(a_sale("good"))
        assert wait_until(lambda: agent.count() == 1)
        assert made.troubles() == {"drop": NOW_MS}
    assert wait_until(lambda: agent.count() == 2)
    assert wait_until(lambda: made.troubles() == {})


def test_the_waits_between_tries_grow_up_to_a_bound(tmp_path, monkeypatch):
    """A database that stays away is not asked all the time."""
    monkeypatch.setattr(readers, "RETRY_MIN_S", 1.0)
    turn = readers._Turn(tmp_path / "x.toml", lambda _: 1 / 0, None, None, lambda: NOW_MS, threading.Event())

    assert [1, 2, 4, 8] == [turn._fail("unreadable", ValueError("x")) for _ in range(4)]
    assert [readers.RETRY_MAX_S] * 2 == [turn._fail("unreadable", ValueError("x")) for _ in range(20)][-2:]


def test_the_mappings_of_a_till_are_bounded(tmp_path):
    """By name, and not more than are meant."""
    for number in range(readers.MAPPINGS_MAX):
        (tmp_path / f"{number:02}.toml").touch()
    assert len(mappings_in(tmp_path)) == readers.MAPPINGS_MAX
    assert mappings_in(tmp_path / "none") == []
    (tmp_path / "one-more.toml").touch()
    with pytest.raises(MappingError, match="at most 32"):
        mappings_in(tmp_path)


def test_mappings_that_cannot_be_listed_are_an_error(tmp_path):
    """A till must not run without its intake because of a folder's mode, and nobody know."""
    (tmp_path / "intake").touch()
    with pytest.raises(MappingError, match="must be able to list it"):
        mappings_in(tmp_path / "intake")
