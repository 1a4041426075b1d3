"""Which keys of a POS's table count as taken: none is taken twice, and one that commits late is not skipped."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.intake import position
from edge.intake.settle import Anchor, Footing, Position, Settling, WentBack, anchor_of, start

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
    footing = Footing(Anchor(12, "d12", "ab", ("number", "total")), WentBack(9, 1_700_000_000_000))
    position.save(tmp_path / "new", "pos", Position(7, (9, 12)), footing)

    assert position.load(tmp_path / "new", "pos", 0) == Position(7, (9, 12))
    assert position.load_footing(tmp_path / "new", "pos") == footing
    assert position.names(tmp_path / "new") == ["pos"]
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
        b'{"v":1,"through":5,"footing":{"anchor":{"key":9223372036854775808,"document_id":"d"}}}',
        b'{"v":1,"through":5,"footing":{"went_back":{"key":5,"since_ms":253402300800000}}}',
        b'{"v":1,"through":5,"x":' + b"[" * 100_000,
    ],
    ids=len,
)
def test_a_position_that_cannot_be_read_means_the_beginning(tmp_path, junk):
    """Reading again is harmless: what was taken is known again by its id."""
    position.path_of(tmp_path, "pos").write_bytes(junk)

    assert position.load(tmp_path, "pos", 3) == Position(3)
    assert position.load_footing(tmp_path, "pos") == Footing()


def test_a_position_of_an_older_version_is_read(tmp_path):
    """It has no anchor; the next pass makes one."""
    position.path_of(tmp_path, "pos").write_bytes(b'{"v":1,"through":7,"taken":[9]}')

    assert position.load(tmp_path, "pos", 0) == Position(7, (9,))
    assert position.load_footing(tmp_path, "pos") == Footing()


# -- The anchor --------------------------------------------------------------------------------------------------------


def test_an_id_that_is_mapped_is_all_that_is_compared():
    """The POS may write into the row after it closed it."""
    before = anchor_of(8, "d8", {"uuid": "d8", "total": 1}, ())

    assert before.is_same(anchor_of(8, "d8", {"uuid": "d8", "total": 2}, ()))
    assert not before.is_same(anchor_of(8, "e8", {"uuid": "e8", "total": 1}, ()))


def test_of_an_id_made_from_the_key_the_mapped_columns_are_compared():
    """The next table's row has the same id; a column that is not mapped, or not yet, does not count."""
    before = anchor_of(8, "made", {"number": 3, "total": "9.50", "printed": 0}, ("number", "total"))

    assert before.is_same(anchor_of(8, "made", {"number": 3, "total": "9.50", "printed": 1}, before.columns))
    assert not before.is_same(anchor_of(8, "made", {"number": 4, "total": "9.50", "printed": 0}, before.columns))
    assert not before.is_same(anchor_of(8, "made", {"number": 3}, before.columns))


def test_an_anchor_can_be_written_whatever_the_pos_calls_its_documents(tmp_path):
    """Half of a UTF-16 pair, or an id as long as a book."""
    anchor = anchor_of(8, "\ud800" + "x" * 5000, {}, ())
    position.save(tmp_path, "pos", Position(8), Footing(anchor))

    assert position.load_footing(tmp_path, "pos").anchor == anchor
    assert len(anchor.document_id) == 200


def test_that_the_numbers_went_back_stays():
    """Neither a look, nor what is taken later, nor the same row again clears it; since when is the first time."""
    anchor = Anchor(8, "d8")
    back = Footing(anchor).on_looked(8, Anchor(8, "e8"), lambda: True, 5)

    assert back.went_back == WentBack(8, 5)
    assert back.on_taken(Anchor(9, "e9")).on_looked(9, None, lambda: None, 6).went_back == back.went_back
    assert back.on_looked(8, anchor, lambda: None, 7) == back


class Table:
    """A POS's table: rows by key, each a document of its own, and what housekeeping and disaster make of it."""

    def __init__(self):
        self.rows, self.counter, self.closed = {}, 0, 0

    def close(self, how_many, reuses):
        """Close documents; SQLite without AUTOINCREMENT hands out the highest key that is there, and one more."""
        for _ in range(how_many):
            self.counter = max(self.rows, default=0) + 1 if reuses else self.counter + 1
            self.closed += 1
            self.rows[self.counter] = f"d{self.closed}"

    def tidy_up(self, kept):
        """Delete all but the newest."""
        self.rows = dict(sorted(self.rows.items())[len(self.rows) - min(kept, len(self.rows)) :])

    def delete_newest(self):
        self.rows.pop(max(self.rows, default=0), None)

    def begin_anew(self):
        self.rows, self.counter = {}, 0

    def is_older(self, key):
        return any(there < key for there in self.rows)


class Reading:
    """What the reader does in one pass, over the pure parts."""

    def __init__(self, table, is_mapped):
        self.table, self.is_mapped = table, is_mapped
        self.settling, self.footing, self.taken, self.now = a_settling(), Footing(), set(), 0.0

    def anchor(self, key):
        row = {"uuid": self.table.rows[key]}
        return anchor_of(key, row["uuid"], row, ()) if self.is_mapped else anchor_of(key, str(key), row, ("uuid",))

    def restart(self):
        self.settling = a_settling(*_parts(self.settling.position()), now=self.now)

    def read(self):
        self.now += 25.0
        anchor = self.footing.anchor
        if anchor is not None:
            found = self.anchor(anchor.key) if anchor.key in self.table.rows else None
            self.footing = self.footing.on_looked(
                anchor.key, found, lambda: any(key < anchor.key for key in self.table.rows), 1
            )
        for key in sorted(self.table.rows):
            if not self.settling.is_taken(key):
                self.settling.take(key, self.now)
                self.footing = self.footing.on_taken(self.anchor(key))
                self.taken.add(self.table.rows[key])
        self.settling.settle(self.now)

    def settle(self):
        """Do what the operator says."""
        if self.footing.went_back:
            self.settling.go_back(0)
            self.footing = Footing()


closing = st.tuples(st.just("close"), st.integers(1, 6), st.booleans())
tidying = st.tuples(st.just("tidy_up"), st.integers(0, 4))
reading = st.sampled_from([("read",), ("read",), ("restart",)])
disasters = st.sampled_from([("delete_newest",), ("begin_anew",)])


def run(steps, reader):
    """Yield the name of each step after it was made; the last one reads."""
    for name, *arguments in (*steps, ("read",)):
        getattr(reader if hasattr(reader, name) else reader.table, name)(*arguments)
        yield name


@given(st.lists(st.one_of(closing, tidying, reading, disasters), max_size=25), st.booleans())
def test_what_stands_in_the_table_was_read_or_it_is_told(steps, is_mapped):
    """Whatever becomes of the table, after each pass: no row of it was passed by in silence, and what is told stays."""
    was_told, table = False, Table()
    reader = Reading(table, is_mapped)
    for name in run(steps, reader):
        assert not was_told or reader.footing.went_back
        was_told = reader.footing.went_back is not None
        if name == "read":
            assert was_told or set(table.rows.values()) <= reader.taken


@given(st.lists(st.one_of(closing.map(lambda step: (*step[:2], False)), tidying, reading), max_size=25), st.booleans())
def test_a_pos_that_closes_and_tidies_up_is_never_told(steps, is_mapped):
    """Housekeeping deletes old rows, or all of them; the numbers go on."""
    reader = Reading(Table(), is_mapped)
    for _ in run(steps, reader):
        assert reader.footing.went_back is None


@given(st.lists(st.one_of(closing, tidying, reading), max_size=12), st.integers(0, 5), st.booleans())
def test_after_the_newest_was_deleted_and_settled_the_rest_is_read(later, deleted, is_mapped):
    """Also where the POS hands the deleted numbers out once more, before the operator says that it is harmless."""
    table = Table()
    table.close(6, reuses=False)
    reader = Reading(table, is_mapped)
    reader.read()
    for _ in range(deleted):
        table.delete_newest()
    reader.read()
    assert bool(reader.footing.went_back) == bool(deleted)
    for name in run([*later, ("settle",)], reader):
        if name == "read":
            assert reader.footing.went_back or set(table.rows.values()) <= reader.taken
