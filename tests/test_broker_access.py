"""The access rules, held against the table they are made from."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.access import filters, grants, identity, may, mosquitto_acl
from broker.routing import can_route
from wire.topics import CENTRAL_PRESENCE, SALES, TOPICS

A, B, CENTRAL, OTHER = "till-a", "till-b", "central-1", "central-2"
ACTIONS = ("publish", "retain", "subscribe", "receive")


def allowed(user):
    """Return all (action, topic name) a user may do with topics of till A and worker 1."""
    return {
        (action, topic.name) for action in ACTIONS for topic in TOPICS if may(user, action, topic.of(till=A, worker=1))
    }


READS_TILL = {(action, name) for action in ("subscribe", "receive") for name in ("receipt_closed", "sales", "presence")}
READS_CENTRAL = {
    (action, name) for action in ("subscribe", "receive") for name in ("upload_request", "sales_stored", "settings")
}
READS_PRESENCE = {("subscribe", "central_presence"), ("receive", "central_presence")}
WRITES_TILL = {("publish", name) for name in ("receipt_closed", "sales", "presence")} | {
    ("retain", "receipt_closed"),
    ("retain", "presence"),
}
WRITES_CENTRAL = {("publish", name) for name in ("upload_request", "sales_stored", "settings")} | {
    ("retain", "settings")
}
OWN_PRESENCE = {("publish", "central_presence"), ("retain", "central_presence")}


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        (A, WRITES_TILL | READS_CENTRAL | READS_PRESENCE),
        (B, READS_PRESENCE),
        (CENTRAL, READS_TILL | WRITES_CENTRAL | READS_PRESENCE | OWN_PRESENCE),
        (OTHER, (READS_TILL | WRITES_CENTRAL | READS_PRESENCE) - {("subscribe", "sales"), ("receive", "sales")}),
        ("central-0", set()),
        ("central-", set()),
        ("central-till", set()),
        ("", set()),
    ],
)
def test_each_user_may_do_exactly_this_with_the_topics_of_till_a_and_worker_1(user, expected):
    """The whole matrix; a right that is added or lost anywhere shows here."""
    assert allowed(user) == expected


def test_filters_with_wildcards_are_exactly_those_of_the_table():
    """A till has one, central four."""
    assert {name for name in filters(identity(A)) if "+" in name} == {"central/+/presence"}
    assert filters(identity(CENTRAL)) == {
        "till/+/receipt_closed",
        "till/+/sales/1",
        "till/+/presence",
        "central/+/presence",
    }


@pytest.mark.parametrize("user", [A, CENTRAL])
@pytest.mark.parametrize(
    "topic_filter",
    [
        *(
            "#",
            "+",
            "+/+",
            "+/+/#",
            "till/#",
            "till/+/#",
            "till/till-a/#",
            "till/till-a/+",
            "till/+/+",
            "till/+/settings",
        ),
        *("till/+/upload_request", "till/+/sales/+", "till/+/sales/2", "till/till-b/sales/+", "$SYS/#", "$SYS/broker"),
        *("$share/g/till/+/presence", "$share/g/till/till-a/settings", "central/#", "", "/", "till//presence"),
    ],
)
def test_no_other_wildcard_no_share_and_no_system_topic_may_be_subscribed_to(user, topic_filter):
    """Not even one that would cover only what the user may receive."""
    assert not may(user, "subscribe", topic_filter)


def test_a_till_may_not_widen_its_own_topics():
    """Wildcards in place of its id or the worker give it nothing."""
    for topic in TOPICS:
        if topic is not CENTRAL_PRESENCE:
            assert not may(A, "subscribe", topic.of())


def test_a_name_that_begins_with_central_is_never_a_tills():
    """One rule, in one place: otherwise a till's name could make it a central worker."""
    assert identity("central-1").worker == 1
    assert identity("till-1").party == "till"
    assert identity("centralia").party == "till"
    for name in ("central-", "central-0", "central-01", "central-1000", "central-x", "till.1", "-x", "x" * 65, "a\n"):
        assert identity(name) is None


@given(st.text("tilcenra/+#$-1AB_.\n\0", max_size=24), st.sampled_from(ACTIONS), st.sampled_from([A, CENTRAL]))
def test_whatever_the_text_nobody_writes_or_reads_outside_the_table(text, action, user):
    """Rights come from the table alone."""
    if may(user, action, text):
        assert can_route(text)
        parts = text.split("/")
        assert parts[0] in ("till", "central")
        if user == A and parts[0] == "till":
            assert parts[1] == A


def test_every_filter_of_the_table_can_be_routed():
    """The router finds readers by a topic's name and shape; a filter of another kind would hear nothing."""
    for user in (A, CENTRAL, OTHER):
        assert all(can_route(name) for name in filters(identity(user)))


def _mosquitto_allows(acl: str, user: str, access: str, topic: str) -> bool:
    """Read an acl_file as mosquitto.conf(5) describes it: the user's own lines, and patterns for all."""
    current = None
    for line in acl.splitlines():
        words = line.split()
        if not words or words[0] == "#":
            continue
        if words[0] == "user":
            current = words[1]
        elif words[1] == access and (words[0] == "pattern" or current == user):
            levels = words[2].replace("%u", user).split("/")
            if len(levels) == topic.count("/") + 1 and all(
                wanted in ("+", level) for wanted, level in zip(levels, topic.split("/"), strict=True)
            ):
                return True
    return False


def test_the_rules_for_mosquitto_say_the_same():
    """Each user, each topic of two tills and two workers, both ways; retain is what its rules cannot say."""
    acl = mosquitto_acl(workers=2)
    names = {topic.of(till=till, worker=worker) for topic in TOPICS for till in (A, B) for worker in (1, 2)}
    for user, name in itertools.product((A, B, CENTRAL, OTHER), names):
        assert _mosquitto_allows(acl, user, "write", name) == may(user, "publish", name), (user, name)
        assert _mosquitto_allows(acl, user, "read", name) == may(user, "receive", name), (user, name)
    without = mosquitto_acl(2, frozenset({CENTRAL, A})).split("\n\n")
    assert [block.splitlines()[1:] for block in without if f"user {CENTRAL}\n" in block] == [["topic deny #"]]
    assert [block.splitlines()[1:] for block in without if f"user {A}\n" in block] == [["topic deny #"]]
    assert [block in acl for block in without if f"user {OTHER}\n" in block] == [True]


def test_the_printed_table_has_a_writer_and_a_reader_for_every_topic():
    """No row of the topic table is left out."""
    table = list(grants())
    for topic in TOPICS:
        assert {grant.access for grant in table if grant.topic is topic} == {"write", "read"}
    assert [grant.pattern for grant in table if grant.topic is SALES] == [
        "till/<till>/sales/+",
        "till/+/sales/<worker>",
    ]
