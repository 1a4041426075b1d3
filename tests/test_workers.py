"""Several workers over one database: each answers for its share, and nobody's memory counts."""

from __future__ import annotations

import json
import logging
from collections import Counter
from contextlib import closing
from random import Random

import pytest
from click.testing import CliRunner
from factories import NOW_MS, TILL, a_greeting, a_store, a_stream, an_upload, digest_of, some_sales
from test_subscriber import Central

from central import roll
from central.batch import NewStream, Parcel
from central.cli import central as central_command
from central.config import CentralConfig
from central.database import UnsafeDatabaseError
from central.service import link_settings, open_store, wall_clock_ms
from central.share import Share, worker_of
from wire.link import Connected, Disconnected
from wire.program import EXIT_FAILED, EXIT_FINDINGS, ConfigError, read_config

# -- Whose a till is ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("till", "of_2", "of_4", "of_999"),
    [("till-1", 1, 3, 14), ("042-03", 2, 4, 815), ("A", 1, 3, 854)],
)
def test_the_share_of_a_till_never_changes(till, of_2, of_4, of_999):
    """Another release that shared the tills out in another way would leave some to nobody while both run."""
    assert [worker_of(till, workers) for workers in (2, 4, 999)] == [of_2, of_4, of_999]


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 10])
def test_shares_are_about_equal_and_each_till_is_in_exactly_one(workers):
    """Ten thousand tills, as chains name them: store and number."""
    tills = [f"{store:04}-{number:02}" for store in range(1000) for number in range(10)]
    counts = Counter(worker_of(till, workers) for till in tills)

    assert sorted(counts) == list(range(1, workers + 1))
    assert max(counts.values()) < 1.15 * len(tills) / workers
    for till in tills[:50]:
        assert [Share(k, workers).holds(till) for k in range(1, workers + 1)].count(True) == 1


@pytest.mark.parametrize("worker", ["5/4", "0/4", "4", "1/1000", "a/b", "1/0", "-1/2", "1/2/3", ""])
def test_a_worker_that_cannot_be_is_refused_with_the_reason(worker):
    """The text names the key and what would be right."""
    with pytest.raises(ConfigError, match="worker = "):
        read_config(CentralConfig, "central", None, {"TILLSTREAM_WORKER": worker})


def test_the_command_line_says_which_worker_before_the_environment():
    """``central run --worker 5/4`` is refused before anything is opened."""
    done = CliRunner().invoke(central_command, ["run", "--worker", "5/4"], env={"TILLSTREAM_WORKER": "1/2"})

    assert (done.exit_code, "there is no worker 5 among 4" in done.output) == (EXIT_FAILED, True)


def test_a_worker_connects_as_itself_and_reads_what_is_sent_to_it():
    """Its number is in its name, in the topic of uploads and in its presence's."""
    settings = link_settings(CentralConfig(worker="3/4"), Random(1))

    assert (settings.client_id, settings.will_topic) == ("central-3", "central/3/presence")
    assert settings.subscriptions == ("till/+/sales/3", "till/+/presence", "till/+/receipt_closed")


# -- What a worker hears and does --------------------------------------------------------------------------------------

OTHER = next(f"till-{number}" for number in range(2, 100) if worker_of(f"till-{number}", 2) != worker_of(TILL, 2))
MINE = f"{worker_of(TILL, 2)}/2"


@pytest.fixture
def worker():
    """Return the worker of two that answers for TILL."""
    made = Central(worker=MINE)
    yield made
    made.store.close()


def test_a_till_of_another_share_is_not_heard(worker):
    """Neither rate nor memory nor row is spent on it; it is not asked, not even by the sweep."""
    bodies = some_sales(2)
    worker.shell.handle_all(
        [
            Connected(1),
            worker.presence(a_greeting(), OTHER),
            worker.bell(2, OTHER, digest=digest_of(bodies)),
            worker.sales(bodies, OTHER),
        ],
        0.0,
    )
    worker.shell.tick(5.0)
    worker.shell.tick(5000.0)

    assert worker.said_to(OTHER) == ([], [])
    assert (worker.store.tills(), worker.documents(), worker.shell.collector.tills) == ([], 0, {})


def test_its_own_tills_are_asked_to_answer_this_worker(worker):
    """The request names the number that the worker reads."""
    worker.shell.handle_all([Connected(1), worker.bell(2)], 0.0)
    worker.shell.tick(5.0)

    (request,) = worker.said_to()[0]
    assert request.worker == worker_of(TILL, 2)


def test_a_start_takes_up_its_own_share_only(tmp_path):
    """Tills, heads, tasks and wishes of the others stay in the rows."""
    path = tmp_path / "central.db"
    store = a_store(path)
    run = store.database.execute_sql
    for till in (TILL, OTHER):
        store.open_streams([NewStream(till, a_stream(), ())], {}, NOW_MS)
        for name, taken in (("left", 1), ("wish", None)):
            run(
                "INSERT INTO task (task_id, till_id, worker, state, reason, attempts, created_at_ms, note)"
                " VALUES (?, ?, ?, 'waiting', 'operator', 0, 0, '')",
                (f"{name}-{till}", till, taken),
            )
    store.close()

    worker = Central(path, worker=MINE)
    worker.shell.handle_all([Connected(1)], 0.0)
    worker.shell.tick(2.0)
    worker.shell.tick(4.0)
    taken = dict(worker.store.database.execute_sql("SELECT task_id, finished_at_ms FROM task WHERE worker > 0"))
    worker.store.close()
    assert list(worker.shell.collector.tills) == [TILL]
    assert sorted(taken) == sorted({f"left-{TILL}", f"wish-{TILL}", f"left-{OTHER}"})


def test_wishes_of_a_share_that_nobody_has_hold_up_no_other_share(tmp_path):
    """A thousand old wishes for a dead worker's tills: this worker's newest is found all the same."""
    store = a_store(tmp_path / "central.db")
    rows = [(f"w{number}", OTHER, number) for number in range(2000)] + [("mine", TILL, 9000)]
    for row in rows:
        store.database.execute_sql(
            "INSERT INTO task (task_id, till_id, state, reason, attempts, created_at_ms, note)"
            " VALUES (?, ?, 'waiting', 'operator', 0, ?, '')",
            row,
        )
    found = [task.task_id for task in store.wishes(holds=Share.parse(MINE).holds)]
    store.close()
    assert found == ["mine"]


def test_a_task_that_another_worker_left_behind_is_taken_up_without_a_restart(worker):
    """It was made after this worker's start, by one that answered for the till while there were others."""
    worker.shell.handle_all([Connected(1), worker.bell(0, digest=digest_of([]))], 0.0)
    worker.store.database.execute_sql(
        "INSERT INTO task (task_id, till_id, worker, state, reason, attempts, created_at_ms, note)"
        " VALUES ('left', ?, 1, 'requested', 'operator', 1, 0, '')",
        (TILL,),
    )
    worker.shell.tick(700.0)
    worker.shell.tick(702.0)

    assert [request.task for request in worker.said_to()[0]] == ["left"]
    worker.shell.tick(1400.0)  # It is looked at again, and is the one that is known.
    assert {request.task for request in worker.said_to()[0]} == {"left"}


def test_what_an_old_request_brings_of_a_till_that_went_to_another_worker_is_let_go(worker):
    """The number of workers changed while the till answered: whoever has it now asks for it again."""
    upload = an_upload(some_sales(2))
    worker.store.open_streams([NewStream(OTHER, a_stream(), ())], {}, NOW_MS)
    worker.shell.handle_all([Connected(1), worker.sales(some_sales(2), OTHER)], 0.0)

    assert (worker.documents(), len(worker.link.acknowledged)) == (0, 1)
    (outcome,) = worker.store.ingest([Parcel(OTHER, upload)], {}, NOW_MS)
    assert outcome.kind == "advanced"


def test_two_processes_with_one_number_are_told_what_it_looks_like(worker, caplog):
    """A broker only says that the connection ended: after four short ones the log names the likely cause."""
    with caplog.at_level(logging.ERROR, "tillstream.central"):
        for number in range(5):
            worker.shell.handle_all([Connected(number), Disconnected(number, "closed")], number * 10.0)

    told = [record for record in caplog.records if record.getMessage() == "identity_shared"]
    assert len(told) == 2
    assert f"central-{worker_of(TILL, 2)}" in told[0].also["likely"]


def test_connections_that_the_worker_itself_made_anew_are_no_sign_of_another_one(worker, caplog):
    """Its database refused again and again: it is told everything anew each time."""
    for number in range(6):
        worker.shell.handle_all([Connected(number), Disconnected(number, "refused", is_asked=True)], number * 10.0)

    assert "identity_shared" not in caplog.messages


# -- Whether they agree ------------------------------------------------------------------------------------------------


def running(number, workers, process=1, seen_at_ms=NOW_MS):
    return roll.Seen(process, number, workers, "host-a", 40 + process, 0, seen_at_ms)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([], []),
        ([running(1, 1)], []),
        ([running(1, 2), running(2, 2, 2)], []),
        ([running(1, 2)], ["nobody answers for the tills of 2/2"]),
        (
            [running(1, 2), running(2, 2, 2), running(2, 2, 3)],
            ["two have one number, and throw each other out: 2/2 (host-a, process 42), 2/2 (host-a, process 43)"],
        ),
        (
            [running(1, 1), running(1, 2, 2), running(2, 2, 3)],
            [
                f"they were told different numbers of workers: {running(1, 1)}, {running(1, 2, 2)}, {running(2, 2, 3)}",
                f"two have one number, and throw each other out: {running(1, 1)}, {running(1, 2, 2)}",
            ],
        ),
    ],
)
def test_what_is_wrong_among_workers_is_said_with_who(rows, told):
    """A share without anybody, a number that two have, and workers that count differently."""
    assert list(roll.disagreements(rows)) == told


def test_who_was_not_seen_for_long_does_not_run():
    """A killed worker's row stays for a day, and counts for a minute and a half."""
    rows = [running(1, 2), running(2, 2, 2, NOW_MS - roll.LIVE_MS - 1)]

    assert [one.number for one in roll.live(rows, NOW_MS)] == [1]


CALL_MS = roll.CALL_EVERY_S * 1000


def test_a_killed_worker_does_not_run_beside_the_one_that_took_its_number():
    """Its row says nothing new; one that goes on calling beside the newer one does run, and that is told."""
    newer = roll.Seen(2, 1, 1, "host-a", 50, NOW_MS + 2000, NOW_MS + 2000)
    killed, alive = (running(1, 1, seen_at_ms=NOW_MS + late_ms) for late_ms in (0, 2001 + CALL_MS))

    assert roll.live([killed, newer], NOW_MS + 2000) == [newer]
    assert roll.live([alive, newer], NOW_MS + 2001 + CALL_MS) == [alive, newer]


def called(url, worker, process, late_ms=0):
    with closing(a_store(url)) as store:
        return roll.Roll(store.database, Share.parse(worker), process, NOW_MS).call(NOW_MS + late_ms)


def test_each_worker_is_told_what_is_wrong_once(central_url):
    """Two on two databases' kinds: the second one with another n hears of the first."""
    assert called(central_url, "1/1", 1, 1 + CALL_MS) == ()
    told = called(central_url, "1/2", 2, 1 + CALL_MS)
    assert [one.split(":")[0] for one in told] == [
        "they were told different numbers of workers",
        "two have one number, and throw each other out",
        "nobody answers for the tills of 2/2",
    ]

    with closing(a_store(central_url)) as store:
        one = roll.Roll(store.database, Share(2, 2), 3, NOW_MS)
        assert len(one.call(NOW_MS)) == 2
        assert one.call(NOW_MS) == ()
        one.leave()
        assert [row.process for row in roll.seen(store.database)] == [1, 2]


def test_the_command_lists_who_runs_and_what_is_wrong(central_url):
    """Exit code 3 while a share has nobody; 0 when all are there."""
    with closing(a_store(central_url)) as store:

        def asked():
            done = CliRunner().invoke(central_command, ["--database", str(central_url), "workers", "--json"])
            return done.exit_code, done.stderr.strip(), json.loads(done.stdout)

        def call(number):
            roll.Roll(store.database, Share(number, 2), number, NOW_MS).call(wall_clock_ms())

        assert asked() == (EXIT_FINDINGS, "no worker runs", [])
        call(1)
        code, wrong, rows = asked()
        assert (code, wrong) == (EXIT_FINDINGS, "nobody answers for the tills of 2/2")
        call(2)
        code, wrong, rows = asked()
        assert (code, wrong, [row["worker"] for row in rows]) == (0, "", ["1/2", "2/2"])


def test_a_running_worker_is_on_the_roll_until_it_stops(worker):
    """It says so at its first turn and every half minute, and takes its row away when it ends."""
    worker.shell.tick(0.0)
    assert [str(one.number) for one in roll.seen(worker.store.database)] == [MINE[0]]
    worker.shell.stop()
    assert roll.seen(worker.store.database) == []


@pytest.mark.parametrize("worker", ["1/2", "2/2"])
def test_a_worker_that_has_nothing_to_do_sleeps(worker):
    """Each has a next turn that is still to come, also one that notes no days."""
    made = Central(worker=worker, days_every_s=1.0)
    for number in range(1, 4):
        made.shell.tick(number * 50.0)
        assert made.shell.next_deadline() > number * 50.0
    made.store.close()


def test_several_workers_on_sqlite_are_refused(tmp_path):
    """One program writes there at a time; the text says what several need."""
    with pytest.raises(UnsafeDatabaseError, match="worker 1/2 needs PostgreSQL"):
        open_store(CentralConfig(database=str(tmp_path / "central.db"), worker="1/2"))
    assert list(tmp_path.iterdir()) == []
