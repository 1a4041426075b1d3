"""One search follows a receipt through the logs of real processes: till, stream and number say which lines are its."""

from __future__ import annotations

import json

import pytest
from brokers import wait_until
from station import Station

from fleet.pos import Socket
from wire.program import LOG_KEYS

WAY = ["appended", "rung", "asked", "sales_sent", "advanced", "stored"]


def lines_of(*programs) -> list[dict]:
    """Return what programs logged, each line one JSON object."""
    return [json.loads(line) for program in programs for line in program.log().splitlines() if line.startswith("{")]


def search(lines, till, stream, number) -> list[dict]:
    """Return the lines that speak of one document: the search that docs/metrics.md gives."""
    return [
        line
        for line in lines
        if line.get("till") == till
        and line.get("stream") == stream
        and line.get("after", number) < number <= line.get("through", number)
    ]


@pytest.fixture
def station(tmp_path):
    """Return a shop with two tills."""
    with Station(tmp_path, "embedded", tills=2) as made:
        yield made


def test_a_receipt_is_followed_from_the_till_to_the_database_and_back(station):
    """Appended, rung for, asked for, sent, committed, confirmed: in this order, in the same keys at both ends."""
    for till in station.tills:
        till.close_documents(5)
    assert wait_until(station.is_proven, 60)
    assert wait_until(lambda: all(till.is_confirmed() for till in station.tills), 60)
    till = station.tills[0]
    lines = lines_of(till.agent, station.tills[1].agent, station.central)
    ((stream, number, document_id),) = station.query(
        f"SELECT stream, sequence, document_id FROM document WHERE till_id = '{till.till_id}' AND sequence = 3"
    )

    found = search(lines, till.till_id, stream, number)
    events = [line["event"] for line in sorted(found, key=lambda line: line["ts"])]
    first = [events.index(event) for event in WAY]
    assert first == sorted(first), events
    assert found[0]["document_id"] == document_id
    for line in found:
        assert {"ts", "level", "program", "event", "till", "stream", "after"} <= line.keys()
        assert "through" not in line or line["event"] == "asked" or line["count"] == line["through"] - line["after"]
    tasks = {line["task"] for line in found if "task" in line}
    sent = next(line for line in found if line["event"] == "sales_sent")
    assert sent["task"] in tasks
    assert {line["program"] for line in found} == {"tillstream.edge", "tillstream.central"}
    assert set(LOG_KEYS) <= sent.keys()


def test_a_document_that_is_put_aside_says_so_under_the_same_search(station):
    """The till's POS handed over what central cannot accept: the search ends in quarantine, with the code."""
    till = station.tills[0]
    Socket(till.socket)(b'{"document_id": "odd", "transaction_type": "nonsense"}')
    assert wait_until(lambda: station.query("SELECT count(*) FROM quarantine") == [(1,)], 60)
    ((stream, number, code),) = station.query("SELECT stream, sequence, code FROM quarantine")
    found = search(lines_of(till.agent, station.central), till.till_id, stream, number)
    aside = [line for line in found if line["event"] == "quarantined"]
    assert [line["codes"] for line in aside] == [{code: 1}]
