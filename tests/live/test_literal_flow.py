"""The manual page's flow, literally: a POS with a database of its own, and nothing of ours in it.

Receipt closed → event → macro → `unloadSales.sh` → doorbell → task at central → request → the agent sends *all* that
it read from the POS's database → committed. Ten tills, two hundred documents each, agents and central killed between.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from random import Random

import pytest
from brokers import ROOT, wait_until
from intake_pos import example
from mariadb import MARIADBD, PASSWORD, install, running
from station import START_MS, Station, tillstream

from edge.automation import TillAutomation
from fleet.baskets import Register
from fleet.catalogue import make_catalogue
from fleet.ledger import Ledger
from fleet.pos_database import PosDatabase, mariadb, sqlite
from wire.automation import FACTORY, with_per_receipt_upload

TILLS, DOCUMENTS, DRAIN_S = 10, 200, 120
HOOK = ROOT / "edge" / "scripts" / "unloadSales.sh"

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: scripts run only from folders that are root's"),
    pytest.mark.timeout(600),
]


class FlowPos:
    """One till's POS: its own database, its own books, and a register that closes documents."""

    def __init__(self, till, engine, books, catalogue):
        self.till = till
        self.database = PosDatabase(engine, Ledger(books, till.till_id, fsync=False))
        self.database.make_tables()
        self._register = Register(till.till_id, Random(till.till_id), catalogue)
        self._now_ms = START_MS

    def close(self):
        """Close one document; it is in the POS's database and nowhere else. Return its type."""
        self._now_ms += 60_000
        document = self._register.close_next(self._now_ms)
        self.database.close(document)
        return document["transaction_type"]


def set_up(station, till, mapping_of, *, url):
    """Install a till as an administrator does: root's script, the six steps, the mapping of the POS's database."""
    scripts, intake = station.folder / "scripts", till.folder / "intake"
    scripts.mkdir(mode=0o755, exist_ok=True)
    shutil.copy(HOOK, scripts / "unloadSales.sh")
    (scripts / "unloadSales.sh").chmod(0o755)
    intake.mkdir(parents=True)
    mapping_of(intake)
    TillAutomation(till.folder / "state").change(lambda _: with_per_receipt_upload(FACTORY, url)[0] if url else FACTORY)
    environment = till.agent._environment
    environment["TILLSTREAM_INTAKE_DIR"] = str(intake)
    environment["TILLSTREAM_SCRIPTS_DIRS"] = str(scripts)
    return f"shell://{scripts}/unloadSales.sh"


def slower(path, **keys):
    """Change how often a mapping's source is looked at."""
    text = path.read_text("utf-8")
    for key, value in keys.items():
        assert f"\n{key} = 5" in text
        text = text.replace(f"\n{key} = 5", f"\n{key} = {value}", 1)
    path.write_text(text, "utf-8")


def run_the_hook(till):
    """Do what the POS's own event does: run the script, which knows nothing but the FIFO."""
    fifo = {"TILLSTREAM_FIFO": str(till.folder / "run" / "ring")}
    subprocess.run([HOOK], env=fifo, check=True)


def prove(station):
    """Hold central's database against the POS's books, to the kopeck; nothing is in quarantine, nothing twice."""
    assert wait_until(station.is_proven, DRAIN_S), (station.closed(), station.stored(), station.central.log()[-3000:])
    assert station.query("SELECT count(*) FROM quarantine") == [(0,)]
    assert station.query("SELECT count(*) - count(DISTINCT till_id || document_id) FROM document") == [(0,)]
    assert station.query("SELECT count(*) FROM document") == [(TILLS * DOCUMENTS,)]


def sell(station, poses, after_close):
    """Close all documents; a third of the agents, and central, are killed while documents are on their way."""
    for number in range(DOCUMENTS):
        for pos in poses:
            pos.close()
            after_close(pos)
        if number in (61, 122):
            assert station.unsent() > 0
            victims = [station.central, *(till.agent for till in station.tills[number % 3 :: 3])]
            for victim in victims:
                victim.kill()
        if number in (75, 135):
            for victim in victims:
                victim.start()
    return [station.central.kills, sum(till.agent.kills for till in station.tills)]


def steps_of(log, till):
    """Return what happened, in order, as a log tells it."""
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    return [line["event"] for line in lines if line.get("till") == till]


@pytest.mark.skipif(MARIADBD is None, reason="MariaDB is not installed")
def test_the_flow_with_a_pos_on_mariadb_whose_event_runs_the_agents_macro(tmp_path_factory):
    """The agent sees a closed receipt in the POS's MariaDB: event, macro, script, doorbell, request, all unsent."""
    folder = tmp_path_factory.mktemp("flow")
    (folder / "db").mkdir()
    install(folder / "db")
    with running(folder / "db") as server:
        station = Station(folder, "embedded", TILLS)
        catalogue, poses = make_catalogue(Random(7)), []
        url = f"shell://{folder}/scripts/unloadSales.sh"
        for number, till in enumerate(station.tills):
            name = f"pos{number}"
            server.new_database(name)
            set_up(station, till, lambda intake, name=name: _mariadb(intake, server, name), url=url)
            engine = mariadb(**server.login, database=name)
            poses.append(FlowPos(till, engine, folder / "books", catalogue))
        with station:
            assert sell(station, poses, lambda _: None) == [2, 6]
            prove(station)
            log = station.tills[1].agent.log()
            assert "script_done" in log
            assert "sales_sent" in log
        for pos in poses:
            pos.database.disconnect()


def _mariadb(intake, server, name):
    (intake / "password").write_text(PASSWORD, "utf-8")
    path = example(
        "mariadb-pos",
        intake,
        database=("tillstream@127.0.0.1:3306/pos", f"{name}@127.0.0.1:{server.port}/{name}"),
        password=("/etc/tillstream/pos.password", str(intake / "password")),
    )
    slower(path, poll_s=0.5)


def test_the_flow_with_a_pos_on_sqlite_whose_own_event_runs_the_script(tmp_path):
    """The POS keeps the vendor's event table: its event runs `unloadSales.sh`, and the agent reads all it has."""
    station = Station(tmp_path, "embedded", TILLS)
    catalogue, poses = make_catalogue(Random(7)), []
    for till in station.tills:
        database = till.folder / "pos.db"
        set_up(station, till, lambda intake, path=database: _sqlite(intake, path), url=None)
        poses.append(FlowPos(till, sqlite(database), tmp_path / "books", catalogue))
    with station:
        assert sell(station, poses, lambda pos: run_the_hook(pos.till)) == [2, 6]
        for pos in poses:  # What was closed while an agent was down was rung for while nobody listened.
            run_the_hook(pos.till)
        prove(station)
        assert "script_done" not in station.tills[1].agent.log()


def _sqlite(intake, database):
    slower(example("sqlite-pos", intake, path=("/var/lib/pos/pos.db", str(database))), poll_s=3600)


def test_each_step_of_the_page_is_there_in_its_order(tmp_path):
    """One receipt: the agent's log and central's say each step; nothing was set up on the server."""
    station = Station(tmp_path, "embedded", 1)
    (till,) = station.tills
    database = till.folder / "pos.db"
    url = f"shell://{tmp_path}/scripts/unloadSales.sh"
    set_up(station, till, lambda intake: _sqlite(intake, database), url=url)
    pos = FlowPos(till, sqlite(database), tmp_path / "books", make_catalogue(Random(7)))
    with station:
        before = len(steps_of(till.agent.log(), till.till_id))
        assert pos.close() == "shift_open"
        pos.close()
        run_the_hook(till)
        assert wait_until(station.is_proven, DRAIN_S)
        assert wait_until(lambda: "sales_sent" in steps_of(till.agent.log(), till.till_id)[before:], DRAIN_S)
        steps = steps_of(till.agent.log(), till.till_id)[before:]

    assert steps.index("script_done") < steps.index("sales_sent")
    assert station.query("SELECT count(*) FROM document") == [(2,)]
    assert "advanced" in steps_of(station.central.log(), till.till_id)


def test_current_sales_go_by_hand_in_an_open_shift_and_a_closed_shift_goes_at_once(tmp_path):
    """Nothing is bound: what was sold waits, until a person runs macro 2, or the shift is closed."""
    station = Station(tmp_path, "embedded", 1)
    (till,) = station.tills
    database = till.folder / "pos.db"
    set_up(station, till, lambda intake: _sqlite(intake, database), url=None)
    pos = FlowPos(till, sqlite(database), tmp_path / "books", make_catalogue(Random(7)))
    with station:
        for _ in range(5):
            assert pos.close() != "shift_close"
        assert station.stored() == {}
        _edge(till, "macros", "run", "2")
        assert wait_until(station.is_proven, DRAIN_S)

        while pos.close() != "shift_close":
            pass
        _edge(till, "ring")  # The vendor's shift close rings as any event does; the document itself makes it urgent.
        assert wait_until(station.is_proven, DRAIN_S)
        assert station.query("SELECT count(*) FROM document WHERE transaction_type = 'shift_close'") == [(1,)]


def _edge(till, *arguments):
    environment = {**os.environ, **till.environment}
    subprocess.run(tillstream("edge", *arguments), cwd=ROOT, env=environment, check=True, capture_output=True)
