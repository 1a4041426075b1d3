"""What is shipped for Prometheus and Grafana: rules that fire when they must, and no name that nobody tells."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from factories import NOW_MS, a_sale, a_store
from figures_told import value
from test_console_monitoring import issued
from test_fleet_metrics import shows, stores
from test_subscriber import Central
from test_worker_metrics import figures_of, upload
from web import a_browser, a_console

from central.models import MODELS, Consumer
from edge.textfile import Figures, text
from wire.reasons import KINDS

SHIPPED = Path(__file__).parent.parent / "docs" / "monitoring"
PROMTOOL = shutil.which("promtool")
NAME = re.compile(r"\btillstream_[a-z0-9_]+")
PARTS = ("_bucket", "_sum", "_count")

needs_promtool = pytest.mark.skipif(not PROMTOOL, reason="promtool is not installed")


def rules() -> str:
    return (SHIPPED / "alerts.yml").read_text("utf-8")


def expressions() -> list[str]:
    """Return what the dashboard asks Prometheus."""
    panels = json.loads((SHIPPED / "grafana.json").read_text("utf-8"))["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", ())]


def told_by(*texts: bytes) -> set[str]:
    """Return the names of all series that answers declare."""
    found = set()
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", b"\n".join(texts).decode(), re.MULTILINE):
        found |= {name + part for part in PARTS} if kind == "histogram" else {name}
    return found


def promtool(*arguments: str) -> str:
    done = subprocess.run([PROMTOOL, *arguments], cwd=SHIPPED, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_promtool
def test_prometheus_takes_the_rules():
    """Every expression and every template of a text is well-formed."""
    assert "SUCCESS" in promtool("check", "rules", "alerts.yml")


@needs_promtool
def test_each_alert_fires_when_it_must_and_not_otherwise():
    """The rules' own tests: one alert for a store, none for each till when all figures stand still, and so on."""
    assert "SUCCESS" in promtool("test", "rules", "alerts_test.yml")


def test_no_alert_is_without_a_test():
    """Once where it fires and once where it does not; every alert says what to do."""
    cases = (SHIPPED / "alerts_test.yml").read_text("utf-8")
    alerts = re.findall(r"- alert: (\w+)", rules())
    for alert in alerts:
        expected = re.findall(rf'alertname="{alert}".*\n.*eval_time.*\n\s+exp_samples:( \[\])?', cases)
        assert {"", " []"} == set(expected), alert
    assert len(alerts) == rules().count("summary:") == rules().count("action:")
    assert len(alerts) == len(set(alerts)) >= 15


@pytest.fixture
def answers(tmp_path):
    """Return what a worker and a console with the series of each till really answer."""
    url = str(tmp_path / "central.db")
    store = a_store(url)
    shows(store, "a")
    stores(store, "a", 3)
    with store.database.bind_ctx(MODELS):
        Consumer.create(name="erp", incarnation=1, acknowledged=0, made_at_ms=NOW_MS, note="")
    store.close()
    with a_console(url, metrics_per_till=True) as app, a_browser(app) as client:
        fleet = client.get("/metrics", headers=issued(app, "prometheus", ["read"])).content
    central = Central(url)
    upload(central, [a_sale("b")])
    worker = figures_of(central).exposition()
    central.store.close()
    return fleet, worker


def test_every_figure_that_rules_and_dashboard_name_is_really_told(answers):
    """A name that is misspelt, or was changed, would be an alert that never fires and a panel without data."""
    told = told_by(*answers)
    named = set(NAME.findall(rules())) | {name for text in expressions() for name in NAME.findall(text)}
    assert len(named) > 40
    assert named - told == set()


def test_every_state_that_rules_name_is_one(answers):
    """The reasons' codes are words of the wire; a rule that names another one never fires."""
    states = {one for text in re.findall(r'state=~"([^"]+)"', rules()) for one in text.split("|")}
    assert states
    assert states <= set(KINDS)


def test_console_and_worker_tell_no_figure_twice(answers):
    """Whoever adds up over all that is scraped gets the truth, with however many workers."""
    fleet, worker = (told_by(one) for one in answers)
    ours = {name for name in fleet & worker if name.startswith("tillstream_")}
    assert ours == {"tillstream_build_info"}
    assert value(answers[0], "till_up", store="s-1", till="a") == 1


def test_every_figure_is_explained(answers):
    """The page names each, and none that is not told."""
    page = (SHIPPED.parent / "metrics.md").read_text("utf-8")
    told = {re.sub(r"_(bucket|sum|count)$", "", name) for name in told_by(*answers) if name.startswith("tillstream_")}
    named = set(re.findall(r"^\| `(tillstream_[a-z0-9_]+)` \|", page, re.MULTILINE))
    agents = {name for name in named if name.startswith("tillstream_agent_") and name != "tillstream_agent_info"}
    assert told - named == set()
    assert named - agents - told == set()
    assert agents == told_by(text(Figures(1, 1, 1, NOW_MS, {"spool": 1})).encode())


def test_the_dashboard_asks_nothing_of_another_host():
    """It names no address, and its panels do not overlap."""
    text = (SHIPPED / "grafana.json").read_text("utf-8")
    assert "http" not in text
    taken = set()
    for panel in json.loads(text)["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
