"""Several central processes over one PostgreSQL: the same documents as one would have stored, each once."""

from __future__ import annotations

import contextlib
import json
import subprocess
from random import Random

import pytest
from brokers import MOSQUITTO, ROOT, wait_until
from station import Program, Station, tillstream

from central import consumer
from central.database import Place
from central.share import Share, worker_of
from wire.program import EXIT_FINDINGS

DRAIN_S = 90
SETS = [
    ("embedded", 2),
    pytest.param("mosquitto", 4, marks=pytest.mark.skipif(not MOSQUITTO, reason="Mosquitto is not installed")),
]


class Workers(Station):
    """A shop whose central is as many processes as one likes."""

    def __init__(self, folder, kind, tills, url):
        super().__init__(folder, kind, tills)
        self.database = url
        self.central = Program(folder / "nobody.log", ["true"], {})  # What runs as central the test says.
        self.programs = []

    def worker(self, share, **also):
        """Start a worker: a new process, wherever the one before it ran."""
        user = f"central-{Share.parse(share).number}"
        keys = {
            "RECONNECT_MIN_S": "0.2",
            "RECONNECT_MAX_S": "1",
            "TIMEOUT_S": "3",
            "RETRY_MIN_S": "1",
            "SWEEP_S": "5",
            **also,
        }
        log = self.folder / f"worker-{len(self.programs)}.log"
        program = Program(log, tillstream("central", "run", "--worker", share), self.environment(user, **keys))
        self.programs.append(program)
        program.start()
        return program

    def __exit__(self, *_):
        for program in self.programs:
            program.stop()
        super().__exit__()

    def query(self, statement):
        with contextlib.closing(Place(self.database).look(to_write=False)) as database:
            return database.run(statement).fetchall()

    def close_some(self, rng):
        for till in self.tills:
            till.close_documents(rng.randint(1, 6))

    def told_workers(self):
        done = subprocess.run(
            tillstream("central", "--database", self.database, "workers", "--json"),
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, [row["worker"] for row in json.loads(done.stdout)], done.stderr

    def prove(self):
        """Assert that what was closed is stored, each document once, and that nothing is called missing."""
        assert wait_until(self.is_proven, DRAIN_S), (self.closed(), self.stored(), self.programs[-1].log()[-2000:])
        assert self.query("SELECT count(*) - count(DISTINCT till_id || document_id) FROM document") == [(0,)]
        assert self.query("SELECT count(*) FROM quarantine") == self.query("SELECT count(*) FROM gap") == [(0,)]
        assert not [program for program in self.programs if "Traceback" in program.log()]


@pytest.fixture
def url(postgres):
    """Return a database of the private server."""
    made = postgres.new_database()
    yield made
    postgres.drop(made)


def stored_by(program):
    """Return the tills whose documents a process has committed."""
    lines = (json.loads(line) for line in program.log().splitlines() if '"event": "advanced"' in line)
    return {line["till"] for line in lines if line["count"]}


@pytest.mark.parametrize(("kind", "workers"), SETS)
def test_several_workers_store_what_one_would_and_one_that_died_is_replaced(kind, workers, tmp_path, url):
    """Each stores its own tills' documents; a killed one's wait until the same k/n is started elsewhere."""
    with Workers(tmp_path, kind, 8, url) as shop:
        programs = {k: shop.worker(f"{k}/{workers}") for k in range(1, workers + 1)}
        for till in shop.tills:
            till.close_documents(20)
        shop.prove()
        for k, program in programs.items():
            mine = {till.till_id for till in shop.tills if worker_of(till.till_id, workers) == k}
            assert stored_by(program) == mine

        victim = worker_of(shop.tills[0].till_id, workers)
        programs[victim].kill()
        for till in shop.tills:
            till.close_documents(10)
        others = {till.till_id for till in shop.tills if worker_of(till.till_id, workers) != victim}
        closed = shop.closed()
        assert wait_until(lambda: all(shop.stored()[till] == closed[till] for till in others), DRAIN_S)
        assert shop.unsent() > 0
        replacement = shop.worker(f"{victim}/{workers}")
        shop.prove()
        assert shop.tills[0].till_id in stored_by(replacement)


def test_the_number_of_workers_changes_under_load_and_a_consumer_misses_nothing(tmp_path, url):
    """2 → 4 → 1, old and new at once, while documents come and a consumer reads on: all there, all read, each once."""
    rng, seen, cursor = Random(1), [], None

    def read():
        nonlocal cursor
        with contextlib.closing(Place(url).look(to_write=False)) as database:
            page = consumer.read(database, cursor, 1000, 5.0)
        seen.extend((one["till_id"], one["document_id"]) for one in page.documents)
        cursor = page.cursor

    def go_on():
        shop.close_some(rng)
        read()

    with Workers(tmp_path, "embedded", 6, url) as shop:
        running = [shop.worker(f"{k}/2") for k in (1, 2)]
        assert wait_until(lambda: shop.query("SELECT count(*) FROM central") == [(1,)], DRAIN_S)
        for workers in (4, 1):
            old, running = running, []
            changes = [("start", f"{k}/{workers}") for k in range(1, workers + 1)] + [("stop", one) for one in old]
            rng.shuffle(changes)
            for what, which in changes:
                go_on()
                if what == "start":
                    running.append(shop.worker(which))
                elif rng.random() < 0.5:
                    which.kill()
                else:
                    which.stop()
            go_on()
        shop.prove()
        read()
        assert len(seen) == len(set(seen))
        assert set(seen) == set(shop.query("SELECT till_id, document_id FROM document"))


def test_two_processes_with_one_number_do_no_harm_and_are_told(tmp_path, url):
    """The broker lets one in at a time; everything comes, and log and command say what is wrong."""
    with Workers(tmp_path, "embedded", 2, url) as shop:
        first, second = shop.worker("1/1"), shop.worker("1/1")
        assert wait_until(lambda: "identity_shared" in first.log() + second.log(), DRAIN_S)
        for till in shop.tills:
            till.close_documents(10)
        shop.prove()
        assert wait_until(lambda: "two have one number" in first.log() + second.log(), DRAIN_S)
        code, running, told = shop.told_workers()
        assert (code, running.count("1/1")) == (EXIT_FINDINGS, 2)
        assert "throw each other out" in told
        assert second.stop() == 0
        assert shop.told_workers()[0] in (0, EXIT_FINDINGS)


def test_workers_that_count_differently_say_so(tmp_path, url):
    """1/1 and 1/2 at once: harmless, in the log of the later one, and a finding of the command."""
    with Workers(tmp_path, "embedded", 2, url) as shop:
        shop.worker("1/1")
        assert wait_until(lambda: '"started"' in shop.programs[0].log(), DRAIN_S)
        other = shop.worker("2/2")
        for till in shop.tills:
            till.close_documents(5)
        shop.prove()
        assert wait_until(lambda: "told different numbers of workers" in other.log(), DRAIN_S)
