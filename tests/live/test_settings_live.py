"""Settings from central, with real processes: the switch is thrown for the fleet, and tills say what they run."""

from __future__ import annotations

import json
import os
import subprocess

from brokers import ROOT, wait_until
from station import Station, tillstream

from edge.automation import TillAutomation
from wire.automation import FACTORY

WITHIN_S = 60


def run(station, till, *arguments, code=0):
    """Run a command of central, or of a till."""
    environment = {**os.environ, **(till.environment if till else {})}
    command = ["edge"] if till else ["central", "--database", str(station.database)]
    done = subprocess.run(
        tillstream(*command, *arguments), cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout) if "--json" in arguments else done.stdout + done.stderr


def standing(station):
    return {row["till_id"]: (row["wanted"], row["runs"]) for row in run(station, None, "settings", "list", "--json")}


def test_central_throws_the_switch_for_the_fleet_and_gives_the_tills_back_to_themselves(tmp_path):
    """New tills keep what they close; enabled at central they send it, also one that was away; withdrawn, they keep it.

    A till whose automation central sets cannot be edited by hand; a broken one is refused before it leaves.
    """
    station = Station(tmp_path, "embedded", 2)
    first, second = station.tills
    for till in station.tills:
        TillAutomation(till.folder / "state").change(lambda _: FACTORY)
        till.pos._after_close = None  # A POS that only hands over: whether it rings is the till's automation.
    with station:
        assert wait_until(lambda: standing(station) == {"till-1": (0, 0), "till-2": (0, 0)}, WITHIN_S)
        first.close_documents(3)
        second.agent.kill()
        assert run(station, first, "status", "--json")["unsent"] == 3

        told = run(station, None, "settings", "enable", "per-receipt-upload", "--fleet", "--note", "pilot is over")
        assert "Действия после закрытия документа" in told
        assert wait_until(lambda: standing(station)["till-1"] == (1, 1), WITHIN_S), station.central.log()[-2000:]
        first.close_documents(1)
        assert wait_until(lambda: station.stored() == station.closed(), WITHIN_S)
        second.start()
        assert wait_until(lambda: standing(station)["till-2"] == (1, 1), WITHIN_S)
        second.close_documents(2)
        assert wait_until(lambda: station.stored() == station.closed(), WITHIN_S)

        assert "central" in run(station, first, "events", "remove", "document_closed", code=1)
        broken = tmp_path / "broken.json"
        broken.write_text('{"automation": {"events": {"document_closed": 9}}}', "utf-8")
        assert "document_closed" in run(station, None, "settings", "set", "--fleet", str(broken), code=1)

        run(station, None, "settings", "withdraw", "--fleet", "--note", "back to shift close")
        assert wait_until(lambda: standing(station) == {"till-1": (0, 0), "till-2": (0, 0)}, WITHIN_S)
        stored = station.stored()
        first.close_documents(2)
        assert run(station, first, "status", "--json")["unsent"] == 2
        assert station.stored() == stored
        run(station, first, "events", "list", "--json")
