"""Who has yet to be sent settings: decided by what tills say they run, never by what was sent."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from central.post import Post


def a_post(**till_runs):
    """Return a post that has heard which revision each till runs."""
    post = Post()
    for till, revision in till_runs.items():
        post.on_presence(till, revision, 0, 0.0, online=True)
    return post


def test_a_till_that_runs_something_else_is_sent_to_and_one_that_runs_it_is_not():
    """Three tills, one of them behind."""
    post = a_post(a=7, b=6, c=7)
    post.on_wanted({"a": 7, "b": 7, "c": 7}, 1.0)

    assert post.due(1.0) == ["b"]
    post.on_presence("b", 7, 0, 2.0, online=True)
    assert post.due(100.0) == []


def test_a_till_that_does_not_take_it_up_is_sent_to_again_after_a_while():
    """The message may have been lost; what counts is what the till says."""
    post = a_post(a=6)
    post.on_wanted({"a": 7}, 0.0)

    assert [post.due(now) for now in (0.0, 59.0, 60.0, 61.0)] == [["a"], [], ["a"], []]


def test_a_till_that_is_away_is_sent_to_once_and_again_when_it_is_back():
    """The broker keeps the message; a till that comes back with another revision did not get it."""
    post = Post()
    post.on_presence("a", 6, 0, 0.0, online=False)
    post.on_wanted({"a": 7}, 0.0)

    assert [post.due(now) for now in (0.0, 1e6)] == [["a"], []]
    post.on_presence("a", 6, 0, 1e6, online=True)
    assert post.due(1e6) == ["a"]


def test_a_refused_revision_is_not_pushed_again_but_a_newer_one_is():
    """The till has said why; sending the same once more would not change its mind."""
    post = a_post(a=6)
    post.on_wanted({"a": 7}, 0.0)
    post.due(0.0)
    post.on_presence("a", 6, 7, 1.0, online=True)

    assert post.due(1000.0) == []
    post.on_wanted({"a": 8}, 1000.0)
    assert post.due(1000.0) == ["a"]


def test_a_newer_revision_goes_out_at_once_even_to_a_till_that_is_away():
    """What the broker keeps is to be the newest."""
    post = Post()
    post.on_presence("a", 6, 0, 0.0, online=False)
    post.on_wanted({"a": 7}, 0.0)
    post.due(0.0)

    post.on_wanted({"a": 8}, 5.0)
    assert post.due(5.0) == ["a"]


def test_a_till_is_given_back_to_itself_when_nothing_is_set_for_it_any_more():
    """It runs revision 7 and is wanted to run nothing of ours: it is sent to until it says so."""
    post = a_post(a=7)
    post.on_wanted({}, 0.0)

    assert post.due(0.0) == ["a"]
    post.on_presence("a", 0, 0, 1.0, online=True)
    assert post.due(1e6) == []


def test_after_a_reconnect_everything_open_is_sent_anew_and_a_turn_is_bounded():
    """What was published over the old connection may be lost; a thousand tills are not sent to in one turn."""
    post = Post(most=2)
    for till in "abc":
        post.on_presence(till, 0, 0, 0.0, online=True)
    post.on_wanted(dict.fromkeys("abc", 1), 0.0)

    assert (post.due(0.0), post.due(0.0)) == (["a", "b"], ["c"])
    post.on_link_up(1.0)
    assert post.due(1.0) == ["a", "b"]


def test_tills_that_are_away_cost_nothing_until_they_are_back():
    """Thousands may be, and the post is looked at in every turn; after a reconnect each is sent to once more."""
    post = Post(most=10_000)
    for number in range(1000):
        post.on_presence(f"till-{number}", 0, 0, 0.0, online=False)
    post.on_wanted({f"till-{number}": 1 for number in range(1000)}, 0.0)
    assert len(post.due(0.0)) == 1000
    assert len(post._due) == 0

    post.on_link_up(1.0)
    assert len(post.due(1.0)) == 1000
    assert post.due(1e6) == []


SAID = st.tuples(st.sampled_from("ab"), st.integers(0, 3), st.integers(0, 3), st.booleans())


@given(st.lists(st.one_of(SAID, st.dictionaries(st.sampled_from("ab"), st.integers(1, 3)))))
def test_whoever_is_there_and_differs_is_sent_to_and_nobody_else(steps):
    """Whatever came before: after a while exactly the tills that run, and refused, something else are due."""
    post, shown, wanted = Post(), {}, {}
    for now, step in enumerate(steps):
        if isinstance(step, dict):
            wanted = step
            post.on_wanted(step, float(now))
        else:
            till, revision, refused, online = step
            shown[till] = step
            post.on_presence(till, revision, refused, float(now), online=online)
        post.due(float(now))

    def differs(till, revision, refused, online):
        want = wanted.get(till, 0)
        return online and want != revision and (want == 0 or want != refused)

    differing = {till for till, *said in shown.values() if differs(till, *said)}
    assert differing == {till for till in post.due(1e6) if shown[till][3]}
