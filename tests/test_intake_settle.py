"""Which keys of a POS's table count as taken: none is taken twice, and one that commits late is not skipped."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.intake import position
from edge.intake.settle import Position, Settling, start

LATE_S = 60.0


def a_settling(through=0, taken=(), late_commit_s=LATE_S, now=0.0, **options):
    return Settling(start(through, taken), late_commit_s, now, **options)


def take_all(settling, keys, now=0.0):
    for key in keys:
        settling.take(key, now)


def test_keys_without_a_gap_are_settled_at_once():
    """An ordinary table needs no memory but one number."""
    settling = a_settling()
    take_all(settling, (1, 2, 3))

    assert settling.settle(0.0) == 0
    assert settling.position() == Position(3)


def test_a_missing_key_is_waited_for_and_taken_when_it_commits():
    """Key 2 commits after 3 was taken: it is not skipped, and 3 is not taken again."""
    settling = a_settling()
    take_all(settling, (1, 3))
    settling.settle(LATE_S - 1)

    assert [settling.is_taken(key) for key in (1, 2, 3)] == [True, False, True]
    settling.take(2, LATE_S)
    settling.settle(LATE_S)
    assert settling.position() == Position(3)


def test_a_key_that_never_comes_is_passed_over_when_a_higher_one_was_seen_for_long_enough():
    """A rolled-back transaction's key never comes; how many were passed over is told."""
    settling = a_settling()
    take_all(settling, (1, 4))

    assert settling.settle(LATE_S) == 2
    assert settling.position() == Position(4)


def test_a_pass_settles_by_when_it_began():
    """What commits while a pass runs is seen by the next one only."""
    settling = a_settling()
    settling.take(2, 0.0)

    assert settling.settle(LATE_S - 0.001) == 0
    assert not settling.is_taken(1)


def test_a_restart_waits_anew():
    """How long the keys were seen before is not known: the careful answer is not at all."""
    settling = a_settling(1, (3,), now=1000.0)

    assert settling.settle(1000.0 + LATE_S - 1) == 0
    assert settling.settle(1000.0 + LATE_S) == 1


def test_what_is_remembered_is_bounded():
    """Beyond the limit the lowest keys are settled by force, and it is told how many were given up."""
    settling = a_settling(taken_max=3)
    take_all(settling, (2, 4, 6, 8, 10))

    assert settling.make_room() == 2
    assert settling.position() == Position(4, (6, 8, 10))


@st.composite
def histories(draw):
    """Return when each key commits (None: never), and when passes begin, how long they take, and who restarts."""
    delays = draw(st.lists(st.one_of(st.none(), st.floats(0, LATE_S)), min_size=1, max_size=12))
    passes = draw(
        st.lists(st.tuples(st.floats(0.1, 50), st.floats(0, 20), st.booleans()), min_size=1, max_size=25),
    )
    gaps = draw(st.lists(st.floats(0, 30), min_size=len(delays), max_size=len(delays)))
    begun, commits = 0.0, {}
    for key, (gap, delay) in enumerate(zip(gaps, delays, strict=True), 1):
        begun += gap
        if delay is not None:
            commits[key] = begun + delay
    return commits, passes


@given(histories())
def test_whatever_commits_within_the_wait_is_taken_exactly_once(history):
    """Keys handed out in order commit in any order, at most ``late_commit_s`` after they were handed out.

    Passes begin at any time and take any time, and the agent restarts between them; each sees what had committed when
    it began. In the end all that committed was taken, once.
    """
    commits, passes = history
    settling, taken, now = a_settling(), [], 0.0
    end = (max([*commits.values(), 0]) + 1, 0.0, False)
    for wait_s, lasts_s, restarts in (*passes, end):
        began_at, now = now + wait_s, now + wait_s + lasts_s
        if restarts:
            settling = a_settling(*_parts(settling.position()), now=began_at)
        for key in sorted(key for key, at in commits.items() if at <= began_at and key > settling.through):
            if not settling.is_taken(key):
                taken.append(key)
                settling.take(key, now)
        settling.settle(began_at)

    assert sorted(commits) == sorted(taken)


def _parts(where):
    return where.through, where.taken


def test_a_position_is_kept_whole(tmp_path):
    """What was saved is what is loaded; nothing saved means the beginning that the mapping names."""
    assert position.load(tmp_path, "pos", 41) == Position(41)
    position.save(tmp_path / "new", "pos", Position(7, (9, 12)))

    assert position.load(tmp_path / "new", "pos", 0) == Position(7, (9, 12))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["pos.json"]


@pytest.mark.parametrize(
    "junk",
    [
        b"",
        b"{",
        b'{"v":1}',
        b'{"v":2,"through":5}',
        b"\xff",
        b'{"v":1,"through":9223372036854775808}',
        b'{"v":1,"through":5,"x":' + b"[" * 100_000,
    ],
    ids=len,
)
def test_a_position_that_cannot_be_read_means_the_beginning(tmp_path, junk):
    """Reading again is harmless: what was taken is known again by its id."""
    position.path_of(tmp_path, "pos").write_bytes(junk)

    assert position.load(tmp_path, "pos", 3) == Position(3)
