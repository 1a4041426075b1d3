"""Topics are built and parsed in one place, and an id can never widen a filter."""

from __future__ import annotations

import pytest

from wire import topics
from wire.topics import TOPICS, Address, is_till_id, parse

NO_TILL_IDS = [
    "", "a/b", "+", "#", "a+", "a#", "a.b", "a b", "-a", "_a", "касса", "a\n", "a\0", "a" * 65, "$SYS", "a\ud800",
]  # fmt: skip


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
def test_what_is_built_is_parsed_back(topic):
    """A topic that was built names its row, its till and its worker again."""
    address = parse(topic.of(till="till-1", worker=12))

    assert address is not None
    assert address.topic is topic
    assert address.till == (None if topic is topics.CENTRAL_PRESENCE else "till-1")
    assert address.worker == (12 if "{worker}" in topic.shape else None)


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
def test_what_is_left_out_becomes_a_wildcard_and_a_wildcard_is_no_address(topic):
    """A filter is built by leaving out the till; nobody can publish under it."""
    assert "+" in topic.of()
    assert parse(topic.of()) is None


@pytest.mark.parametrize("till", NO_TILL_IDS)
def test_an_id_with_another_character_names_no_till(till):
    """An id with a slash, a wildcard, a dot, a line break or a space is no till id, and its topics are none of ours."""
    assert not is_till_id(till)
    assert parse(f"till/{till}/receipt_closed") is None
    assert parse(f"till/{till}/sales/1") is None


@pytest.mark.parametrize("till", ["1", "till-1", "A_b-9", "a" * 64])
def test_an_id_of_letters_digits_dash_and_underscore_names_a_till(till):
    """Up to 64 such characters, the first a letter or a digit."""
    assert is_till_id(till)
    assert Address(topics.SALES, till, 999) == parse(f"till/{till}/sales/999")


@pytest.mark.parametrize(
    "topic",
    [
        "", "/", "till", "till/", "till/t1", "till/t1/unknown", "till/t1/receipt_closed/", "till/t1/receipt_closed/1",
        "till/t1/sales", "till/t1/sales/", "till/t1/sales/0", "till/t1/sales/01", "till/t1/sales/1000",
        "till/t1/sales/-1", "till/t1/sales/1/2", "till/t1/sales/١", "Till/t1/sales/1", "/till/t1/sales/1",
        "central/1", "central/1/other", "central/0/presence", "central/x/presence", "central/1/presence/", "$SYS/x",
    ],
)  # fmt: skip
def test_any_other_topic_is_none_of_ours(topic):
    """A topic of the wrong length, word or worker number parses to nothing."""
    assert parse(topic) is None


def test_retained_are_the_facts_that_a_newcomer_needs():
    """Doorbells, presences and settings are kept by the broker; requests, uploads and confirmations are not."""
    retained = {topic.name for topic in TOPICS if topic.retained}

    assert retained == {"receipt_closed", "presence", "settings", "central_presence"}
