"""Two wire versions at once: the highest that both ends speak is used, and an end that speaks none of ours is named."""

from __future__ import annotations

import msgspec
import pytest
from factories import (
    NOW_MS,
    TILL,
    a_bell,
    a_collector,
    a_greeting,
    a_request,
    a_stream,
    a_till,
    digest_of,
    filled,
    some_sales,
)
from old_wire import as_version_1
from test_subscriber import Central

from central import reports
from central.batch import BackedUp, Mark, OpenTask, Span
from central.commands import Ask, Confirm, Note
from central.late import late
from central.models import MODELS
from wire import codec, topics, versions
from wire.link import Connected
from wire.messages import FIRST, VERSIONS, CentralPresence, SalesStored, said

BODIES = some_sales(3)
NEWER = (7, 8)


def test_the_highest_version_that_both_speak_is_used():
    """Nothing in common is nothing: there is no guessing."""
    assert [versions.common(one) for one in ((1,), (2, 1), (1, 2, 3), (3,), ())] == [1, 2, 2, None, None]
    assert versions.differ((8, 7), VERSIONS) == "till 7, 8; central 1, 2"


def asked(core, till=TILL, now=10.0):
    return [one.message for one in core.on_tick(now) if isinstance(one, Ask)]


def rung(protocol, **limits):
    """Return central's rules with one till that showed these versions and is behind."""
    core = a_collector(**limits)
    if protocol:
        core.on_presence(TILL, a_greeting(protocol=protocol), 0.0)
    core.on_receipt_closed(TILL, a_bell(3), 0.0, is_live=True)
    core.on_stream_opened(TILL, Mark(a_stream(), 0, digest_of([])), 0.0, is_new=False)
    return core


@pytest.mark.parametrize(("protocol", "version"), [((), 1), (FIRST, 1), (VERSIONS, 2), ((2, 3), 2)])
def test_a_till_is_asked_in_its_own_version(protocol, version):
    """One that has not shown itself is asked in the oldest: it may be the oldest."""
    (request,) = asked(rung(protocol))

    assert request.v == version


def test_a_till_that_speaks_nothing_of_ours_is_asked_once_it_was_upgraded():
    """It rings in vain until then, and nothing has to be done by hand after it."""
    core = rung(NEWER)
    assert asked(core) == []

    core.on_presence(TILL, a_greeting(2), 20.0)
    (request,) = asked(core, now=21.0)
    assert request.v == 2


def wanted_again():
    """Return central's rules with an even till that has not shown itself, and a range of it that a person wants."""
    core = a_collector()
    core.on_receipt_closed(TILL, a_bell(3, stored=3), 0.0, is_live=True)
    core.on_stream_opened(TILL, Mark(a_stream(), 3, a_bell(3).digest), 0.0, is_new=False)
    core.on_task(OpenTask("again", TILL, "operator", 0, Span(a_stream(), 0, 3)), 0.0)
    return core


def test_a_repetition_is_asked_of_no_till_that_would_refuse_it():
    """A range that a person wants of a till of version 1 fails with the reason; of one still unknown it waits."""
    core = wanted_again()
    assert asked(core) == []

    core.on_presence(TILL, a_greeting(protocol=FIRST), 11.0)
    (note,) = [one for one in core.on_tick(12.0) if isinstance(one, Note)]
    (task,) = note.tasks
    assert (task.state, task.note) == (
        "failed",
        "the till speaks wire version 1, which repeats nothing: upgrade its agent",
    )


def test_a_repetition_that_waited_for_the_tills_version_is_asked():
    """The same task, once the till has shown that it can."""
    core = wanted_again()
    core.on_tick(1.0)

    core.on_presence(TILL, a_greeting(), 11.0)
    (request,) = asked(core, now=12.0)
    assert (request.v, request.reason, request.through) == (2, "repeat", 3)


@pytest.mark.parametrize(
    ("protocol", "backed_up", "is_right", "told"),
    [
        (FIRST, {(TILL, a_stream()): 3}, False, 0),
        (FIRST, {(TILL, a_stream()): 3}, True, 3),
        (VERSIONS, {(TILL, a_stream()): 3}, False, 3),
        (FIRST, None, False, None),
    ],
)
def test_a_till_that_does_not_know_keep_keeps_what_is_not_backed_up(protocol, backed_up, is_right, told):
    """Its clock may be wrong, and it would forget by it: nothing of it counts as backed up until the clock is right."""
    core = rung(protocol)
    core.speech.backed_up = BackedUp(backed_up)
    core.on_clock(TILL, (1, NOW_MS), is_right=is_right)
    (request,) = asked(core)

    assert (request.backed_up, request.keep) == (told, not is_right)
    core.tills[TILL].mark = Mark(a_stream(), 3, a_bell(3).digest)
    core.on_receipt_closed(TILL, a_bell(3), 11.0, is_live=True)
    confirmed = core.on_receipt_closed(TILL, a_bell(3), 11.0, is_live=True)
    assert [one.message.backed_up for one in confirmed if isinstance(one, Confirm)] in ([told], [])


@pytest.mark.parametrize("version", VERSIONS)
def test_a_till_answers_in_the_version_it_is_asked_in(tmp_path, version):
    """An upload is read by whoever asked for it."""
    till = a_till(tmp_path)
    filled(till.outbox, 3)
    till.agent._run(till.agent.syps.on_connected(till.outbox.head(), 0.0), 0.0)
    till.agent._run(till.agent._serve(a_request(v=version), 0.0), 0.0)

    (payload,) = till.link.payloads(topics.SALES.of(till=TILL, worker=1))
    assert codec.unpack_sales(payload, codec.SalesLimits()).header.v == version


def test_what_is_retained_is_read_by_a_program_of_the_first_version(tmp_path):
    """Presence and doorbell stay on the broker: whoever is put back to the version before must read them."""
    till = a_till(tmp_path)
    filled(till.outbox, 3)
    till.agent._run(till.agent.syps.on_connected(till.outbox.head(), 0.0), 0.0)
    central = Central()
    central.shell.handle_all([Connected(1)], 0.0)
    central.store.close()

    retained = [one for link in (till.link, central.link) for one in link.published if one[2]]
    assert [] == [topic for topic, payload, _ in retained if as_version_1(topic, payload) is None]
    assert len(retained) == 3


def test_central_names_a_till_of_another_time(tmp_path):
    """Its presence is read whatever its version; its doorbell is refused with both sides' versions, and it is shown."""
    central = Central(tmp_path / "central.db")
    greeting = msgspec.structs.replace(a_greeting(protocol=NEWER), v=7)
    bell = codec.encode(a_bell(3)).replace(b'"v":1', b'"v":7')
    central.shell.handle_all([Connected(1), central.presence(greeting)], 0.0)
    central.shell.handle_all([central.received(topics.RECEIPT_CLOSED.of(till=TILL), bell)], 0.1)
    central.shell.tick(2.0)
    assert central.shell.refused == 1

    with central.store.database.bind_ctx(MODELS):
        (row,) = reports.tills(TILL, reasons=late(NOW_MS))
    central.store.close()
    assert (row["reason"].code, row["reason"].detail) == ("version_unknown", "till 7, 8; central 1, 2")


def test_a_till_names_a_central_of_another_time(tmp_path):
    """What it sends is refused and it stays behind: the till's status says why."""
    till = a_till(tmp_path)
    shown = said(CentralPresence, v=7, online=True, protocol=NEWER, central_id="c", incarnation=1)
    till.agent.syps.own_central = "c"
    till.agent.standing.is_connected = True
    till.agent.syps.on_central_presence(1, codec.decode(CentralPresence, codec.encode(shown)))

    reason = till.agent.standing.reason()
    assert (reason.code, reason.detail) == ("version_unknown", "till 1, 2; central 7, 8")


def test_a_word_of_another_time_is_refused_with_both_sides_versions():
    """The log line says what was sent and what is spoken here."""
    word = said(SalesStored, stream=a_stream(), through=1, digest=digest_of(BODIES), central_id="c")
    with pytest.raises(codec.WireError, match="unknown_version: version 9; this program speaks 1, 2"):
        codec.decode(SalesStored, codec.encode(word).replace(b'"v":1', b'"v":9'))


def test_a_worker_that_went_is_not_the_one_that_answers(tmp_path):
    """With several workers, the end of another one neither silences the till nor keeps it from forgetting."""
    till = a_till(tmp_path)
    filled(till.outbox, 3)
    syps = till.agent.syps
    syps.on_connected(till.outbox.head(), 0.0)
    for worker in (1, 2):
        syps.on_central_presence(worker, said(CentralPresence, online=True, central_id="c", incarnation=1))
    till.agent._run(till.agent._serve(a_request(central_id="c", worker=2), 0.0), 0.0)
    assert syps.may_prune

    syps.on_central_presence(1, said(CentralPresence, online=False, central_id="c", incarnation=1))
    assert (syps.may_prune, syps.is_central_online) == (True, True)
    syps.on_central_presence(2, said(CentralPresence, online=False, central_id="c", incarnation=1))
    assert (syps.may_prune, syps.is_central_online) == (False, False)
