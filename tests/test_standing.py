"""How a till stands: what it tells central and the cashier, and what has the POS's own records read."""

from __future__ import annotations

from random import Random

import pytest
from factories import BOOT, CENTRAL, NOW_MS, TILL, RecordingLink, a_request, a_sale, an_outbox

from edge.agent import Agent
from edge.automation import TillAutomation
from edge.cashier import CashierFile
from edge.config import EdgeConfig
from edge.events import MacroAsked, RingAsked
from edge.outbox import OutboxFullError
from edge.syps import Syps, SypsLimits
from fleet.loop import PER_RECEIPT
from wire import codec, topics
from wire.link import Connected, Disconnected
from wire.messages import CentralPresence, TillPresence, said


class Intake:
    """Readers that count how often they were woken, and stand as they are told."""

    def __init__(self):
        self.woken, self.failing = 0, {}

    def wake(self):
        self.woken += 1

    def troubles(self):
        return self.failing

    def status(self):
        return [{"name": name, "taken": 0, "errors": 1, "last_error": "no such table"} for name in self.failing]


class Stand:
    """One till with a link that records, readers that count, and a cashier's line."""

    def __init__(self, folder):
        self.clock_ms = NOW_MS
        self.outbox, self.link, self.intake = an_outbox(), RecordingLink(), Intake()
        self.line = folder / "cashier.txt"
        config = EdgeConfig(till_id=TILL, state_dir=str(folder), spool_dir=str(folder / "spool"), run_dir=str(folder))
        core = Syps(self.outbox.head(), BOOT, CENTRAL, SypsLimits(), Random(1))
        kept, cashier = TillAutomation(None, PER_RECEIPT), CashierFile(self.line, "ru")
        self.agent = Agent(
            config, self.outbox, core, self.link, lambda: self.clock_ms, kept, lambda _: None, self.intake, cashier
        )

    def at(self, now, *events):
        for event in events:
            self.agent.handle(event, now)
        self.agent.tick(now)

    def shown(self):
        payloads = self.link.payloads(topics.TILL_PRESENCE.of(till=TILL))
        return [codec.decode(TillPresence, payload).troubles for payload in payloads]

    def code(self):
        return self.agent.standing.status()["reason"]["code"]


@pytest.fixture
def stand(tmp_path):
    return Stand(tmp_path)


def test_the_cashier_reads_how_many_are_not_uploaded_and_whether_there_is_a_link(stand):
    """The line follows within a second, in the till's language, and goes when the agent does."""
    stand.at(0.0, Connected(1))
    assert stand.line.read_text("utf-8") == "Всё выгружено, связь есть\n"
    for number in range(3):
        stand.agent.take_in(a_sale(f"d{number}"), str, 1.5)
    stand.at(1.5)
    assert stand.line.read_text("utf-8") == "Не выгружено: 3, связь есть\n"
    stand.at(2.0, Disconnected(1, "cut"))
    assert stand.agent.next_deadline() <= 2.5
    stand.at(2.6)
    assert stand.line.read_text("utf-8") == "Не выгружено: 3, связи нет\n"
    stand.agent.stop()
    assert not stand.line.exists()


def test_a_trouble_is_told_when_it_comes_and_when_it_goes_and_not_between(stand):
    """A source that cannot be read: central hears of it once, with the time since when, and once that it is over."""
    stand.at(0.0, Connected(1))
    told = len(stand.shown())
    stand.intake.failing = {"pos": NOW_MS}
    stand.at(2.0, RingAsked())
    stand.clock_ms += 60_000
    stand.at(4.0, RingAsked())
    assert stand.shown()[told:] == [{"intake_failing": NOW_MS}]
    assert stand.agent.standing.status()["intake"][0]["last_error"] == "no such table"

    stand.intake.failing = {}
    stand.at(6.0, RingAsked())
    assert stand.shown()[told:] == [{"intake_failing": NOW_MS}, {}]


def test_a_full_outbox_is_a_trouble_until_something_fits_again(stand):
    """The POS is told with each document; central by the presence."""
    stand.at(0.0, Connected(1))
    append, stand.outbox.append = stand.outbox.append, _full
    with pytest.raises(OutboxFullError):
        stand.agent.take_in(a_sale("d1"), str, 1.0)
    stand.at(2.0)
    stand.at(3.0, RingAsked())
    assert stand.shown()[-1] == {"outbox_full": NOW_MS}

    stand.outbox.append = append
    stand.agent.take_in(a_sale("d1"), str, 4.0)
    stand.at(5.0, RingAsked())
    assert stand.shown()[-1] == {}


def _full(*_, **__):
    raise OutboxFullError("no room")


def test_whoever_rings_has_the_poss_own_records_read_but_the_readers_themselves_do_not(stand):
    """The hook, the socket, a macro by hand; a ring of the readers would otherwise wake them for ever."""
    stand.at(0.0, RingAsked(), RingAsked(urgent=True), MacroAsked(2))
    assert stand.intake.woken == 3
    stand.at(1.0, RingAsked(wakes=False))
    assert stand.intake.woken == 3


@pytest.mark.parametrize(("reason", "woken"), [("operator", 1), ("sweep", 1), ("doorbell", 0), ("retry", 0)])
def test_a_request_of_a_person_or_a_sweep_has_the_records_read(stand, reason, woken):
    """They look for what no ring has told of; a request that follows a ring does not read everything again."""
    stand.at(0.0, Connected(1))
    stand.agent._serve(a_request(reason=reason), 0.0)
    assert stand.intake.woken == woken


def test_the_one_reason_follows_what_holds_everything_up(stand):
    """Not connected, no central, uploading, not answered, all there: one code at a time."""
    stand.agent.take_in(a_sale("d1"), str, 0.0)
    assert stand.code() == "link_down"
    stand.at(1.0, Connected(1))
    assert stand.code() == "central_away"
    present = said(CentralPresence, online=True, central_id=CENTRAL, incarnation=1)
    stand.agent.syps.on_central_presence(1, present)
    assert stand.code() == "uploading"
    stand.agent.syps.on_acknowledged("ring", 1.0)
    stand.at(200.0)
    assert stand.code() == "unanswered"
    stand.agent._serve(a_request(), 201.0)
    assert stand.code() == "uploading"
    stand.outbox.mark_stored(1, CENTRAL, None)
    stand.agent.syps.head = stand.outbox.head()
    assert stand.code() == "up_to_date"
