"""Owns one run of the demo, from the first process to the proof."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from . import journey, look
from .crews import AgentCrew, Crew, FleetCrew
from .figures import Figures, Stored, percentile
from .processes import NotReadyError, Site, listens, wait_until
from .proof import Proof, expect_total, prove
from .replay import Spec
from .view import LineView, LiveView

AGENTS_MAX = 40
START_S = 30.0
DRAIN_S = 90.0
VERIFY_S = 30.0
LOOK_EVERY_S = 0.2


@dataclass(frozen=True, slots=True)
class Plan:
    """What the command line asks for, with every default filled in."""

    baskets: Literal["generated", "journey"]
    tills: int
    receipts: int
    rate: float
    chaos: bool
    seed: int
    stay: bool

    @property
    def uses_agents(self) -> bool:
        """Say whether each till is a process of its own."""
        return self.baskets == "generated" and self.tills <= AGENTS_MAX

    @property
    def quiet_s(self) -> float:
        """Return central's ``quiet_s``: these tills are busier than real ones, and the default would wait for them."""
        return 0.05 if self.baskets == "journey" else 0.2

    @property
    def lag_title(self) -> str:
        """Return which lag is measured."""
        ends = "committed at central" if self.uses_agents else "the till knows it is stored"
        return f"close → {ends}; central waits quiet_s = {self.quiet_s} s of it"

    @property
    def is_whole_journey(self) -> bool:
        """Say whether every basket of the data set is replayed."""
        return self.baskets == "journey" and not self.tills and not self.receipts


class Run:
    """One demo, from the first process to the proof."""

    def __init__(self, plan: Plan, site: Site, view: LiveView | LineView) -> None:
        self._plan, self._site, self._view = plan, site, view
        self._broker = site.broker()
        self._central = site.central(**_central_settings(plan))
        self._console = site.console() if look.can_be_shown() else None
        self._crew = _make_crew(plan, site)
        self._stored = Stored(site.database)
        self._started_at = time.monotonic()
        self._figures = Figures(tills=plan.tills)
        self._findings: list[str] = []

    def go(self) -> tuple[Proof, Figures, list[str]]:
        """Run it; returns the proof, the last figures, and what else the run failed to do."""
        site, view = self._site, self._view
        view.say(f"folder     {site.folder}")
        view.say(f"tills      {self._crew.title}")
        self._broker.start()
        wait_until(lambda: listens(site.port), START_S, "the broker does not listen", site.check)
        self._central.start()
        wait_until(site.database.exists, START_S, "central made no database", site.check)
        self._show_console()
        try:
            self._crew.start(self._broker, self._central)
            if isinstance(self._crew, AgentCrew):
                self._stored.closed_at_ms = self._crew.closed_at_ms
            self._wait(self._crew.is_closed, None, "the tills did not close their documents")
            self._wait(self._is_drained, DRAIN_S, "not every document came to central")
            self._wait(self._is_verified, VERIFY_S, "central did not verify every till")
        except NotReadyError as problem:
            self._findings.append(str(problem))  # The proof will say what is missing.
        self._crew.rest()
        return self._prove(), self._look(), [*self._findings, *self._crew.findings()]

    def _show_console(self) -> None:
        """Start the console, and say once how to get in; without its libraries, say what they are."""
        site = self._site
        if self._console is None:
            self._view.say("console    not installed: pip install 'tillstream[console]'")
            return
        wait_until(lambda: look.is_ready(site.database), START_S, "central made no tables", site.check)
        password = look.let_in(site.database)
        self._console.start()
        wait_until(lambda: listens(site.console_port), START_S, "the console does not listen", site.check)
        self._view.say(f"console    {site.console_url}  name {look.NAME}, password {password}")

    def close(self) -> None:
        """End everything; a till that were cut off first would leave its will instead of a goodbye."""
        self._crew.rest()
        self._site.close()
        self._crew.stop()

    def stay(self) -> None:
        """Leave broker, central and tills running until Ctrl-C."""
        self._view.say("staying up until Ctrl-C; the shop is closed, so nothing new comes by itself")
        if self._console:
            self._view.say(f"console    {self._site.console_url}")
        while True:
            self._site.check()
            time.sleep(LOOK_EVERY_S)

    def _wait(self, condition: Callable[[], bool], most_s: float | None, what: str) -> None:
        """Look and show until a condition holds; the time is counted anew whenever something more was stored."""
        progress, since = -1, time.monotonic()
        while not condition():
            figures = self._look()
            self._view.show(figures)
            self._site.check()
            if figures.stored != progress:
                progress, since = figures.stored, time.monotonic()
            if time.monotonic() - since > (most_s or DRAIN_S):
                raise NotReadyError(f"{what}: nothing moved for {most_s or DRAIN_S:.0f} s")
            time.sleep(LOOK_EVERY_S)
        self._view.show(self._look())

    def _look(self) -> Figures:
        figures, stored = self._figures, self._stored
        stored.look()
        self._crew.fill(figures)
        figures.stored, figures.verified = stored.total, stored.verified()
        figures.closed = max(figures.closed, figures.stored)  # The fleet's own figures are a moment old.
        figures.seconds = time.monotonic() - self._started_at
        if isinstance(self._crew, AgentCrew):
            lags_s = tuple(stored.lags_s)
            figures.lag_p50_s, figures.lag_p99_s = percentile(lags_s, 0.5), percentile(lags_s, 0.99)
        return figures

    def _is_drained(self) -> bool:
        if self._figures.stored < self._figures.closed:
            self._crew.remind(self._stored)
            return False
        return True

    def _is_verified(self) -> bool:
        return self._look().verified >= self._figures.tills

    def _prove(self) -> Proof:
        proof = prove(self._site.books, self._site.database)
        if self._plan.is_whole_journey:
            totals = journey.till_totals(journey.read_rows()).values()
            money_minor = journey.expected_total_minor()
            expect_total(proof, sum(number for number, _ in totals), money_minor, "the data set")
        return proof


def _make_crew(plan: Plan, site: Site) -> Crew:
    if plan.uses_agents:
        return AgentCrew(site, plan.tills, plan.receipts, plan.rate, plan.seed, chaos=plan.chaos)
    spec = Spec(
        baskets=plan.baskets,
        port=site.port,
        fleet_key_file=str(site.folder / "fleet.key"),
        books=str(site.books),
        status=str(site.folder / "fleet-status.json"),
        tills=plan.tills,
        receipts=plan.receipts,
        rate=plan.rate,
        seed=plan.seed,
    )
    return FleetCrew(site, spec)


def _central_settings(plan: Plan) -> dict[str, str | float]:
    """Return what differs from the defaults: a run of a minute cannot wait half a minute for a killed till."""
    settings: dict[str, str | float] = {"reconnect_min_s": 0.2, "reconnect_max_s": 2, "timeout_s": 5, "retry_min_s": 1}
    if plan.baskets == "journey":  # Tills that come back with a backlog are not asked in vain.
        settings |= {"timeout_s": 30, "log_level": "warning"}
    return settings | {"quiet_s": plan.quiet_s}
