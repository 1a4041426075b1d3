"""Central's rules: whom it asks, when, and what it answers."""

from __future__ import annotations

import pytest
from factories import CENTRAL, TILL, a_bell, a_collector, a_stream

from central.batch import Heard, Mark, NewStream, OpenTask, Outcome
from central.commands import Ask, Confirm, Note, OpenStream
from wire import chain
from wire.messages import History, Quarantined, TillPresence, said


def digest(number):
    """Return the digest that the tills of these tests have at a number."""
    return bytes([number % 256]) * 16


def mark(through, stream=None, at=None):
    return Mark(stream or a_stream(), through, at or digest(through))


def asks(commands):
    return [command.message for command in commands if isinstance(command, Ask)]


def confirms(commands):
    return [command.message for command in commands if isinstance(command, Confirm)]


def notes(commands):
    return [command for command in commands if isinstance(command, Note)]


def ring(core, newest, now=0.0, till=TILL, *, is_live=True, **fields):
    return core.on_receipt_closed(till, a_bell(newest, **fields), now, is_live=is_live)


def known(core, through=0, now=0.0, till=TILL):
    """Let central know the stream's row, with a first doorbell that is even."""
    ring(core, through, now, till, digest=digest(through), stored=through)
    core.on_stream_opened(till, mark(through), now, is_new=False)
    return core


def outcome(kind="advanced", through=5, after=0, task="1.1.1.1", documents=None, till=TILL, **fields):
    count = through - after if documents is None else documents
    return Outcome(till, kind, mark(through), after, task, count if kind == "advanced" else 0, **fields)


def asked(core=None, newest=5, now=0.0, through=0, till=TILL, **fields):
    """Return a core that has asked a till, and its request."""
    core = known(core or a_collector(), through, now, till)
    ring(core, newest, now, till, **fields)
    (request,) = asks(core.on_tick(now + 0.5))
    return core, request


# -- Doorbells ---------------------------------------------------------------------------------------------------------


def test_a_doorbell_of_a_stream_that_is_not_known_opens_it():
    """Whether the database knows the stream, and how far, is read from its row."""
    core = a_collector()

    assert ring(core, 3) == [OpenStream(NewStream(TILL, a_stream(), (), Heard(a_stream(), "boot-1", 3, digest(3))))]
    assert asks(core.on_tick(10)) == []
    core.on_stream_opened(TILL, mark(1), 10, is_new=True)
    (request,) = asks(core.on_tick(10.5))
    assert (a_stream(), 1, digest(1)) == (request.stream, request.after, request.digest)


def test_an_even_doorbell_fetches_nothing():
    """The till knows what central knows: there is nothing to say."""
    core = known(a_collector(), 5)

    assert ring(core, 5, stored=5) == []
    assert asks(core.on_tick(10)) == []


def test_an_even_doorbell_that_knows_less_is_told():
    """``stored`` behind the watermark: the last confirmation was lost."""
    core = known(a_collector(), 5)

    (told,) = confirms(ring(core, 5, stored=3))

    assert (a_stream(), 5, digest(5), CENTRAL) == (told.stream, told.through, told.digest, told.central_id)


def test_a_till_that_is_behind_is_asked_once_it_is_quiet():
    """The request names the row's watermark, the limits, the worker and the task."""
    core = known(a_collector(limit_documents=9, limit_bytes=99), 2)
    for tenth in range(3):
        ring(core, 3 + tenth, tenth / 10)

    assert asks(core.on_tick(0.69)) == []
    (request,) = asks(core.on_tick(0.7))
    assert (a_stream(), 2, digest(2), CENTRAL) == (request.stream, request.after, request.digest, request.central_id)
    assert (9, 99, 1, "1.1.1.1", "doorbell") == (
        request.limit_documents, request.limit_bytes, request.worker, request.task, request.reason,
    )  # fmt: skip


def test_a_busy_till_is_asked_at_the_cap_and_an_urgent_one_at_once():
    """At latest ``max_wait_s`` after the first doorbell; without any wait on ``urgent``."""
    core = known(a_collector())
    for tenth in range(50):
        ring(core, 1 + tenth, tenth / 10)
        assert asks(core.on_tick(tenth / 10)) == []
    assert asks(core.on_tick(5.0))

    core = known(a_collector())
    ring(core, 1, 0, urgent=True)
    ring(core, 2, 0)
    assert asks(core.on_tick(0))


@pytest.mark.parametrize(("newest", "at"), [(3, digest(3)), (5, b"x" * 16)], ids=["less", "other digest"])
def test_a_doorbell_that_disagrees_leads_to_a_request(newest, at):
    """A disk image restored, a machine cloned: the till sorts it out."""
    core = known(a_collector(), 5)
    ring(core, newest, digest=at)

    (request,) = asks(core.on_tick(0.5))
    assert (5, digest(5)) == (request.after, request.digest)


def test_one_task_at_a_time_whatever_rings():
    """A hundred doorbells while an answer is awaited ask nothing more."""
    core, _ = asked()
    for number in range(100):
        ring(core, 6 + number, 1 + number / 100)

    assert asks(core.on_tick(20)) == []


# -- Answers -----------------------------------------------------------------------------------------------------------


def test_an_upload_that_brings_all_is_confirmed():
    """Nothing is left: the confirmation is built from the row, and names what was quarantined."""
    core, _ = asked()

    (told,) = confirms(core.on_outcome(outcome(quarantined=(Quarantined(2, "bad_json"),)), 1))

    assert (5, digest(5), (Quarantined(2, "bad_json"),)) == (told.through, told.digest, told.quarantined)
    assert asks(core.on_tick(600)) == []


def test_an_upload_that_did_not_bring_all_is_acknowledged_by_the_next_request():
    """No confirmation: the next turn's ``after`` says it, and asks on with the same task."""
    core, request = asked()

    assert core.on_outcome(outcome(through=3), 1) == []
    (then,) = asks(core.on_tick(1))
    assert (3, digest(3), request.task) == (then.after, then.digest, then.task)


def test_what_was_closed_while_the_till_answered_is_debounced_like_any_other():
    """An answer that brought all it was asked for, and a doorbell since: quiet time again."""
    core, _ = asked()
    ring(core, 7, 0.8)

    assert core.on_outcome(outcome(), 1) == []
    assert asks(core.on_tick(1.4)) == []
    assert [5] == [request.after for request in asks(core.on_tick(1.5))]


def test_an_empty_answer_says_that_the_till_has_nothing_more():
    """It is even: confirmed, and not asked again."""
    core, _ = asked(newest=5)

    (told,) = confirms(core.on_outcome(outcome(through=0, documents=0), 1))

    assert told.through == 0
    assert asks(core.on_tick(100)) == []


def test_a_repeated_empty_answer_does_not_silence_a_later_doorbell():
    """A late copy of an old answer knows nothing of what was closed since: the till is asked all the same."""
    core, _ = asked(newest=5)
    core.on_outcome(outcome(through=5), 1)
    ring(core, 7, 2, stored=5)
    core.on_outcome(outcome(through=5, after=5, task="an old one"), 2.1)

    assert [5] == [request.after for request in asks(core.on_tick(10))]


def test_a_doorbell_of_another_stream_answers_a_request():
    """Its slot is free at once, and the new stream is opened and asked."""
    core, _ = asked()

    assert ring(core, 4, 1, stream=a_stream(2)) == [
        OpenStream(NewStream(TILL, a_stream(2), (), Heard(a_stream(2), "boot-1", 4, digest(4))))
    ]
    assert len(core.turns.asked) == 0
    core.on_stream_opened(TILL, mark(0, a_stream(2), chain.first(a_stream(2))), 1, is_new=True)
    (request,) = asks(core.on_tick(1.5))
    assert (a_stream(2), 0) == (request.stream, request.after)


def test_a_late_answer_is_taken_and_the_one_to_this_request_still_awaited():
    """What an earlier request brought is committed; the slot stays taken until its own answer comes."""
    core, _ = asked(newest=9)

    assert core.on_outcome(outcome(through=5, task="an old one"), 1) == []
    assert len(core.turns.asked) == 1
    (told,) = confirms(core.on_outcome(outcome(through=9, after=5), 2))
    assert told.through == 9


def test_a_late_answer_that_brings_all_ends_the_task():
    """Nothing is left to ask for."""
    core, _ = asked(newest=5)

    assert confirms(core.on_outcome(outcome(through=5, task="an old one"), 1))
    assert len(core.turns.asked) == 0
    assert asks(core.on_tick(100)) == []


def test_an_upload_that_was_not_next_is_asked_again_from_the_row():
    """Our memory was behind the row; the next request is built from the row."""
    core, _ = asked(newest=9)

    assert core.on_outcome(outcome("not_next", through=4), 1) == []
    (request,) = asks(core.on_tick(1))
    assert (4, digest(4), "retry") == (request.after, request.digest, request.reason)


def test_an_upload_that_nobody_asked_for_and_was_not_next_is_told_the_watermark():
    """A repeat after a lost acknowledgement: the till learns where central stands."""
    core = known(a_collector(), 5)

    (told,) = confirms(core.on_outcome(outcome("not_next", through=5, task="an old one"), 1))
    assert told.through == 5

    core, _ = asked()
    assert core.on_outcome(outcome("not_next", through=0, task="an old one"), 1) == []


def test_three_bad_digests_ask_for_a_new_stream():
    """The till's chain is not what it holds: after three times it shall rebuild it, and the rest flows."""
    core, request = asked()
    reasons, now = [request.reason], 0.5
    for _ in range(3):
        assert core.on_outcome(outcome("bad_digest", through=0, task=request.task), now) == []
        assert asks(core.on_tick(now)) == []
        now = core.turns.resting.next_deadline()
        (request,) = asks(core.on_tick(now))
        reasons.append(request.reason)

    assert ["doorbell", "retry", "retry", "new_stream"] == reasons


def test_a_good_upload_forgets_bad_digests():
    """Two and one, with a good one between, are no three."""
    core, _ = asked(newest=9)
    core.on_outcome(outcome("bad_digest", through=0), 1)
    core.on_outcome(outcome("bad_digest", through=0, task="late"), 1)
    core.on_outcome(outcome(through=5, task="late"), 1)
    core.on_outcome(outcome("bad_digest", through=5, task="late"), 1)

    assert [request.reason for request in asks(core.on_tick(30))] == ["doorbell"]


def test_a_stream_that_the_database_no_longer_knows_is_asked_for_its_doorbell():
    """A database that was emptied: the request names no stream, and the doorbell opens it again."""
    core, request = asked()
    core.on_outcome(outcome("unknown_stream", through=0, task=request.task), 1)

    (then,) = asks(core.on_tick(1))
    assert (None, 0, None) == (then.stream, then.after, then.digest)
    assert isinstance(ring(core, 5, 2)[0], OpenStream)


# -- Waiting -----------------------------------------------------------------------------------------------------------


def test_no_answer_is_asked_again_outside_the_slot_with_growing_delay():
    """5 s, doubling to 10 minutes, each with 30 % of jitter; after ``attempts_max`` it is left to the sweep."""
    core, _ = asked(a_collector(sweep_s=10**6, attempts_max=10, parallel=1))
    now, waits = 0.5, []
    for _ in range(9):
        now += 30
        assert asks(core.on_tick(now)) == []
        assert len(core.turns.asked) == 0
        rest = core.turns.resting.next_deadline()
        waits.append(rest - now)
        now = rest
        assert [request.reason for request in asks(core.on_tick(now))] == ["retry"]

    for wait, expected in zip(waits, [5, 10, 20, 40, 80, 160, 320, 600, 600], strict=True):
        assert expected * 0.7 <= wait <= expected * 1.3
    core.on_tick(now + 30)
    assert core.tills[TILL].task.state == "failed"
    assert core.turns.resting.next_deadline() is None
    assert core.counters.unanswered == 10


def test_a_till_that_rests_is_asked_when_it_rings():
    """It rings, so it is there: no need to sit out the rest, and its delay begins anew."""
    core, _ = asked()
    core.on_tick(30.5)
    ring(core, 6, 31)

    assert len(asks(core.on_tick(31.5))) == 1
    assert core.tills[TILL].task.attempts == 1


def test_a_till_that_is_offline_is_not_asked_until_it_rings():
    """Its slot is for others; a live doorbell proves that it is there, a retained one does not."""
    core = known(a_collector())
    core.on_presence(TILL, said(TillPresence, online=False, connection=3, boot_id="b"), 0)

    ring(core, 5, 0, is_live=False)
    assert asks(core.on_tick(100)) == []
    assert len(core.turns.asked) == 0
    ring(core, 5, 200)
    assert len(asks(core.on_tick(200.5))) == 1


def test_a_late_will_of_an_older_connection_is_ignored():
    """The connection that replaced it has a higher number."""
    core = known(a_collector())

    def presence(online, connection):
        return core.on_presence(TILL, said(TillPresence, online=online, connection=connection, boot_id="b"), 0)

    assert presence(online=True, connection=5)
    assert not presence(online=False, connection=4)
    assert core.tills[TILL].is_online
    assert presence(online=False, connection=5)
    assert core.tills[TILL].is_online is False


def test_a_till_that_is_not_approved_is_not_asked():
    """Its doorbells are noted, and it waits for a person."""
    core = a_collector()
    core.on_started([(TILL, mark(0), True, 1, False)], [], [], 0)
    ring(core, 5)

    assert asks(core.on_tick(100)) == []
    assert core.counters.unasked == 1


def test_at_most_so_many_tills_are_asked_at_once_urgent_and_live_before_backlog():
    """A lone receipt does not wait for a store that was away for a week, nor for one whose backlog fits one request."""
    core = a_collector(parallel=1, live_documents=2, limit_documents=10)
    tills = (("a", 500, False), ("b", 500, False), ("e", 9, False), ("c", 1, False), ("d", 500, True))
    for till, newest, urgent in tills:
        known(core, 0, 0, till)
        ring(core, newest, 0, till, urgent=urgent)
    order, now = [], 0.5
    while commands := [command for command in core.on_tick(now) if isinstance(command, Ask)]:
        assert len(commands) == 1
        order.append(commands[0].till)
        newest = core.tills[order[-1]].bell.newest
        core.on_outcome(outcome(through=newest, till=order[-1], task=commands[0].message.task), now)

    assert order == ["d", "c", "a", "b", "e"]


def test_a_till_with_more_goes_to_the_end_of_its_class():
    """Two tills with a backlog take turns, request by request."""
    core = a_collector(parallel=1, limit_documents=10)
    for till in "ab":
        known(core, 0, 0, till)
        ring(core, 200, 0, till)
    order = []
    for turn in range(6):
        (command,) = (one for one in core.on_tick(0.5) if isinstance(one, Ask))
        order.append(command.till)
        through = 10 * (turn // 2 + 1)
        core.on_outcome(outcome(through=through, after=through - 10, till=command.till, task=command.message.task), 0.5)

    assert order == list("ababab")


# -- Sweep, tasks, starting --------------------------------------------------------------------------------------------


def test_a_till_that_was_not_found_even_for_long_is_swept():
    """Its doorbell may have been lost: asked about what central knows, or about nothing."""
    core = a_collector()
    core.on_presence(TILL, said(TillPresence, online=True, connection=1, boot_id="b"), 0)

    assert asks(core.on_tick(299)) == []
    swept = [request for now in range(300, 601) for request in asks(core.on_tick(float(now)))]
    assert (None, "sweep") == (swept[0].stream, swept[0].reason)


def test_a_till_that_is_verified_is_not_swept_until_it_is_not_any_more():
    """An even doorbell counts as a proof for ``sweep_s``."""
    core = known(a_collector(), 5)
    for now in range(0, 2000, 100):
        ring(core, 5, float(now), stored=5)
        assert asks(core.on_tick(float(now))) == []

    assert asks(core.on_tick(1900 + 601.0))


def test_tills_that_were_first_heard_of_together_are_not_swept_together():
    """A central that starts spreads its sweeps, or ten thousand tills would be asked in the same moment for ever."""
    core = a_collector(parallel=1000)
    core.on_started([(f"till-{number}", mark(0), True, 1, True) for number in range(100)], [], [], 0)
    most = max(len(asks(core.on_tick(tenth / 10))) for tenth in range(6100))

    assert sum(state.task is not None for state in core.tills.values()) == 100
    assert most <= 20


def test_a_till_that_is_known_to_be_offline_is_not_swept():
    """It rings when it is back."""
    core = known(a_collector(), 5)
    core.on_presence(TILL, said(TillPresence, online=False, connection=1, boot_id="b"), 0)

    assert [] == [request for now in range(0, 5000, 10) for request in asks(core.on_tick(float(now)))]


def test_a_task_that_nobody_could_answer_for_a_day_expires():
    """It is shown as expired; the till is swept like any other."""
    core = known(a_collector(), 0)
    core.on_presence(TILL, said(TillPresence, online=False, connection=1, boot_id="b"), 0)
    ring(core, 5, 0, is_live=False)
    task = None
    for now in range(0, 90_000, 100):
        core.on_tick(float(now))
        task = task or core.tills[TILL].task

    assert task.state == "expired"


def test_a_task_from_the_database_is_asked_and_closed_there():
    """A person's wish is taken up once, under its own name, and written when it is done."""
    core = known(a_collector(), 5)
    core.on_tick(0)
    core.on_task(OpenTask("wish", TILL, "operator"), 1)
    core.on_task(OpenTask("wish", TILL, "operator"), 1)

    (request,) = asks(core.on_tick(1))
    assert ("wish", "operator", 5) == (request.task, request.reason, request.after)
    core.on_outcome(outcome(through=5, after=5, task="wish"), 2)
    states = [
        (task.task_id, task.state) for now in (2, 3.5) for note in notes(core.on_tick(now)) for task in note.tasks
    ]
    assert states[-1] == ("wish", "done")
    assert asks(core.on_tick(100)) == []


def test_a_wish_for_a_till_that_is_being_asked_is_granted_by_what_is_under_way():
    """One task at a time: the second is closed, and nothing is asked twice."""
    core, _ = asked()
    core.on_task(OpenTask("wish", TILL, "operator"), 1)

    written = [task for note in notes(core.on_tick(2)) for task in note.tasks]
    assert ("wish", "done") in [(task.task_id, task.state) for task in written]
    assert asks(core.on_tick(3)) == []


def test_a_start_takes_up_watermarks_heads_and_tasks():
    """What the database knows is enough to go on: a task left open is asked at once, a head left open still counts."""
    core = a_collector()
    head = Heard(a_stream(), "boot-1", 9, digest(9), written=True)
    core.on_started([(TILL, mark(5), None, 3, True)], [(TILL, head)], [OpenTask("old", TILL, "sweep", 2)], 0)

    (request,) = asks(core.on_tick(0))
    assert (5, "old", "retry") == (request.after, request.task, request.reason)
    assert {TILL: (head,)} == core.heard({TILL, "other"})
    core.on_outcome(outcome(through=5, after=5, task="old"), 1)
    assert not core.tills[TILL].is_verified


# -- Heads and proofs --------------------------------------------------------------------------------------------------


def test_a_head_is_written_only_when_it_stays_open_for_a_second():
    """What is satisfied meanwhile never touches the disk."""
    core, _ = asked()
    core.on_outcome(outcome(), 0.9)
    assert [note.heads for now in (1, 2, 3) for note in notes(core.on_tick(now)) if note.heads] == []

    ring(core, 8, 10)
    assert [note.heads for note in notes(core.on_tick(10.9)) if note.heads] == []
    written = [one for now in (11.1, 12.2, 13.3) for note in notes(core.on_tick(now)) for one in note.heads]
    assert [(TILL, 8)] == [(till, head.newest) for till, head in written]


def test_a_head_that_was_written_is_taken_back_when_it_is_passed():
    """Its row is deleted with the next note."""
    core, _ = asked()
    for now in (1.0, 2.1):
        core.on_tick(now)
    core.on_outcome(outcome(), 3)

    assert [(TILL, a_stream(), "boot-1", 5)] == [one for note in notes(core.on_tick(4)) for one in note.passed]
    assert core.heard({TILL}) == {}


def test_a_late_doorbell_does_not_lower_what_was_heard():
    """The till rang for twenty: an older doorbell that comes late takes none of them back."""
    core = known(a_collector())
    ring(core, 20, 0)
    ring(core, 10, 0.1)

    assert [20] == [head.newest for head in core.heard({TILL})[TILL]]


def test_a_till_is_verified_when_it_is_even_and_no_head_is_open():
    """A restored disk image looks even: a head of another boot keeps it from counting as complete."""
    core = a_collector()
    head = Heard(a_stream(), "before", 9, digest(9), written=True)
    core.on_started([(TILL, mark(5), None, 3, True)], [(TILL, head)], [], 0)
    ring(core, 5, 0, stored=5)
    assert [note.verified for note in notes(core.on_tick(2)) if note.verified] == []
    assert not core.tills[TILL].is_verified

    core = known(a_collector(), 5)
    assert [((TILL, a_stream()),)] == [note.verified for note in notes(core.on_tick(2))]


def test_heads_are_bounded():
    """A till that invents a boot a second keeps its first heads open, and stays unverified."""
    core = known(a_collector(heads_max=3))
    for number in range(10):
        ring(core, 5 + number, float(number), boot_id=f"boot-{number}")

    assert ["boot-0", "boot-1", "boot-2"] == [head.boot_id for head in core.heard({TILL})[TILL]]


def test_the_next_deadline_is_never_late():
    """Whoever ticks only at deadlines asks as early as one who ticks all the time."""
    often, seldom = (known(a_collector()) for _ in range(2))
    for core in (often, seldom):
        ring(core, 5, 0)
    first = next(now / 100 for now in range(10_000) if asks(often.on_tick(now / 100)))
    now = 0.0
    while not asks(seldom.on_tick(now)):
        now = max(seldom.next_deadline(), now + 1e-6)

    assert abs(first - now) < 0.011


# -- The broker goes away ----------------------------------------------------------------------------------------------


def test_while_the_broker_is_away_nobody_is_asked_and_who_was_asked_is_asked_again():
    """What was asked over the connection that ended is lost: its slot is not kept until a timeout runs out."""
    core, request = asked()
    core.on_link_down()

    assert asks(core.on_tick(1)) == []
    core.on_link_up()
    (again,) = asks(core.on_tick(2))
    assert (request.task, request.after) == (again.task, again.after)


def test_a_till_that_has_connected_anew_is_asked_again():
    """Its session was clean: a request that was on its way to the connection before is lost."""
    core = known(a_collector())
    core.on_presence(TILL, said(TillPresence, online=True, connection=1, boot_id="b"), 0)
    ring(core, 5, 0)
    assert len(asks(core.on_tick(0.5))) == 1

    core.on_presence(TILL, said(TillPresence, online=True, connection=1, boot_id="b"), 1)
    assert asks(core.on_tick(1)) == []
    core.on_presence(TILL, said(TillPresence, online=True, connection=2, boot_id="b"), 2)
    assert len(asks(core.on_tick(2))) == 1


# -- What a doorbell proves --------------------------------------------------------------------------------------------


def verified(core, now):
    return [till for note in notes(core.on_tick(now)) for till, _ in note.verified]


def test_a_retained_doorbell_verifies_nothing():
    """The broker kept it, perhaps for days: what the till has closed since, nobody knows. Its own word verifies."""
    core = a_collector()
    core.on_started([(TILL, mark(5), True, 1, True)], [], [], 0)
    ring(core, 5, 1, is_live=False)
    assert verified(core, 2) == []

    ring(core, 5, 3)
    assert verified(core, 4) == [TILL]


def test_an_answer_verifies_what_a_retained_doorbell_said():
    """Asked by the sweep, the till says that it has nothing more."""
    core = a_collector(sweep_s=600)
    core.on_started([(TILL, mark(5), True, 1, True)], [], [], 0)
    ring(core, 5, 1, is_live=False)
    (request,) = asks(core.on_tick(700))
    core.on_outcome(outcome(through=5, after=5, task=request.task, documents=0), 701)

    assert verified(core, 702) == [TILL]


def test_a_till_that_was_told_of_more_makes_central_look_at_the_row():
    """A file was imported beside the worker: what it remembers of the till is not what the database has."""
    core = a_collector()
    core.on_started([(TILL, mark(5), True, 1, True)], [], [], 0)

    (opened,) = ring(core, 9, 1, stored=9)
    assert isinstance(opened, OpenStream)
    assert core.on_stream_opened(TILL, mark(9), 1, is_new=False) == []
    assert asks(core.on_tick(10)) == []


def test_a_till_that_is_new_waits_for_its_approval_where_that_is_asked_for():
    """It is not asked although it rings, until a person has approved it."""
    core = known(a_collector(approve_tills=True))
    ring(core, 5)
    assert asks(core.on_tick(0.5)) == []

    core.on_approvals(set())
    assert len(asks(core.on_tick(1.0))) == 1


@pytest.mark.fault("F43")
def test_tills_that_ring_and_never_answer_leave_half_the_slots_to_the_others():
    """Three times as many as there are slots, all urgent, all silent: one that answers is asked as soon as it rings."""
    core, now, waits = a_collector(parallel=4, timeout_s=30), 0.0, []
    mad = [f"mad-{number}" for number in range(12)]
    for till in (*mad, TILL):
        known(core, till=till)
    rang_at = None
    while len(waits) < 20 and now < 1000:
        now += 0.5
        for till in mad:
            ring(core, 9, now, till, urgent=True)
        if now > 100 and rang_at is None:
            rang_at, newest = now, len(waits) + 1
            ring(core, newest, now, digest=digest(newest))
        commands = core.on_tick(now)
        if rang_at and (mine := [one for one in commands if isinstance(one, Ask) and one.till == TILL]):
            waits.append(now - rang_at)
            core.on_outcome(outcome(through=newest, after=newest - 1, task=mine[0].message.task), now)
            rang_at = None

    assert len(waits) == 20, "without the rule it is never asked"
    assert max(waits) <= 1.0


@pytest.mark.fault("F43")
def test_only_answers_of_this_life_of_a_till_make_central_ask_for_a_new_stream():
    """Wrong digests that nobody asked for do not count, nor those of an agent that ran before, or of a stranger."""
    core, request = asked(now=0.0)
    for _ in range(5):
        core.on_outcome(outcome("bad_digest", through=0, task="nobody-asked"), 1.0)
    assert core.tills[TILL].bad_digests == 0
    core.tills[TILL].bad_digests = 3

    core.on_outcome(outcome("advanced", through=5, task=request.task), 2.0)
    core.tills[TILL].bad_digests = 3
    ring(core, 9, 3.0, boot_id="another-life")

    assert [one.reason for one in asks(core.on_tick(4.0))] == ["doorbell"]


@pytest.mark.fault("F17", "F18")
def test_a_till_is_told_to_keep_all_until_its_clock_was_seen_and_again_when_it_counts_anew():
    """What comes late of before a jump vouches for nothing; nor does a connection of a disk that went back."""
    core, request = asked()
    assert request.keep
    for shown, is_right, keeps in (((2, 100), True, False), ((2, 200), False, True), ((2, 150), True, True),
                                   ((3, 300), True, False), ((1, 400), True, True)):  # fmt: skip
        core.on_clock(TILL, shown, is_right=is_right)
        assert core.tills[TILL].is_clock_right is not keeps


@pytest.mark.fault("F19", "F20")
def test_a_doorbell_that_came_before_its_stream_was_taken_over_is_a_promise():
    """Losing order: life A rings, its clone rings for the stream that took A's over, and then both are looked up."""
    core = a_collector()
    (opened,) = ring(core, 4, boot_id="life-a")
    ring(
        core, 4, boot_id="clone", stream=a_stream(2), previous=(History(stream=a_stream(), newest=4, digest=b"c" * 16),)
    )
    (late,) = ring(core, 3, 1.0, boot_id="life-a")
    core.on_stream_opened(TILL, mark(3), 1.0, is_new=False, head=opened.stream.head)
    core.on_stream_opened(TILL, mark(3), 1.0, is_new=False, head=late.stream.head)

    assert [4] == [head.newest for head in core.heard({TILL})[TILL]]
    assert late.stream.head is None


@pytest.mark.fault("F18")
def test_what_a_clock_did_while_central_was_cut_off_is_not_known():
    """Losing order: the clock is right, central's link breaks, the clock jumps, the link is back, `sales_stored`."""
    core, _ = asked()
    core.on_clock(TILL, (2, 100), is_right=True)
    core.on_link_down()
    core.on_link_up()

    assert not core.tills[TILL].is_clock_right
