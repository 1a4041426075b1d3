"""Writes what became of each till: report.json, and the names of those that were not reached or did not switch.

Ansible's own exit code says too little: 0 with every till unreachable, 4 with one of a thousand. So this keeps count,
and `bin/rollout` makes the exit code of it.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: rollout_report
type: aggregate
short_description: report.json and limit files of a rollout
description:
  - Writes report.json, unreached.limit and failed.limit into the folder that TILLSTREAM_REPORT_DIR names.
  - Written anew after each step, so that a run that was killed leaves what it had come to.
requirements:
  - enabled in ansible.cfg
"""

FOLDER = "TILLSTREAM_REPORT_DIR"
ASKED_CENTRAL = ("rollout_begun", "rollout_missing", "rollout_gate")
"""Where an unreachable host is central, and not the till in whose name it was asked."""
STAGING = ("till_agent_asked", "till_agent_sent", "till_agent_staged")
"""Where what fails concerns one till only."""
CHECKED = "rollout_checked"
"""Where the files of a release are compared with their checksums."""


class Report:
    """What is known of a rollout so far; fed by what the role's registered tasks brought."""

    def __init__(self, kind: str, version: str, now: float) -> None:
        self.kind, self.version, self.started_at = kind, version, now
        self.number: int | None = None
        self.stopped_by = ""
        self.is_complete = False
        self.tills: dict[str, dict[str, str]] = {}
        self._switched = False
        """Whether any till was told to switch."""

    def heard(self, host: str, step: str, result: Mapping[str, Any]) -> None:
        """Take what one registered task brought from one host."""
        told = _said(result)
        if step == "rollout_begun":
            self.number = int(result["stdout"])
        elif hear := getattr(self, f"_on_{step}", None):
            hear(host, told, _words(result))

    def lost(self, host: str, step: str, words: str) -> None:
        """Take that a host was not reached."""
        if step in ASKED_CENTRAL:
            self.stop(f"central is not reached: {words}")
        elif step == "rollout_undone":
            self._note(host, "failed", why="it was lost while it was to go back")
        else:
            self._note(host, "unreached", why="its link was lost while it switched" if self._on(step) else words)

    def failed(self, host: str, step: str, result: Mapping[str, Any]) -> None:
        """Take that something failed: one till could not be staged and is left out, or the run ends."""
        why = str(_said(result).get("why") or _words(result) or result.get("msg") or "a task failed").strip()[-1000:]
        if step == CHECKED:
            self.stop(f"the release is not what make-release made: {_damage(result)}")
        elif step in STAGING:
            self._note(host, "failed", why=f"not staged: {why}")
        else:
            self.stop(why)

    def stop(self, why: str) -> None:
        """Take that the run ends here; the first reason counts."""
        self.stopped_by = self.stopped_by or why

    def end(self) -> None:
        """Take that the run went through to its end."""
        self.is_complete = True

    def _on(self, step: str) -> bool:
        self._switched |= step == "rollout_activated"
        return step == "rollout_activated"

    def _note(self, host: str, state: str, version: str = "", why: str = "") -> None:
        there = self.tills.get(host, {})
        version = version or there.get("version", "")
        self.tills[host] = {
            "state": state,
            **({"version": version} if version else {}),
            **({"why": why} if why else {}),
        }

    def _on_rollout_knock(self, host: str, told: Mapping[str, Any], words: str) -> None:
        if not told:
            self._note(host, "failed", why=f"till-release gave no answer: {words}")
            return
        runs = str(told.get("release") or "")
        is_same = runs != self.version if self.kind == "rollback" else runs == self.version == told.get("agent")
        self._note(host, "same" if is_same else "not_tried", runs)

    def _on_till_agent_staged(self, host: str, _told: Mapping[str, Any], _words: str) -> None:
        if self.kind == "stage":
            self._note(host, "staged")

    def _on_rollout_activated(self, host: str, told: Mapping[str, Any], words: str) -> None:
        self._switched = True
        runs = str(told.get("release") or "")
        if told.get("ok"):
            arrived = "returned" if self.kind == "rollback" else "upgraded"
            self._note(host, arrived if told.get("changed") else "same", runs)
            return
        is_back = bool(told.get("bad") and told.get("healthy"))
        self._note(host, "rolled_back" if is_back else "failed", runs, str(told.get("why") or words))

    def _on_rollout_undone(self, host: str, told: Mapping[str, Any], words: str) -> None:
        runs = str(told.get("release") or "")
        why = "the gate was not passed" if told.get("ok") else f"it did not go back: {told.get('why') or words}"
        self._note(host, "rolled_back" if told.get("ok") else "failed", runs, why)

    @property
    def outcome(self) -> str:
        """Say how the whole ended: all, some, stopped or nothing."""
        if self.stopped_by or not self.is_complete:
            return "stopped" if self._switched else "nothing"
        states = {one["state"] for one in self.tills.values()}
        return "all" if states <= {"upgraded", "returned", "same", "staged"} else "some"

    def as_json(self, now: float) -> dict[str, Any]:
        """Return the report."""
        return {
            "kind": self.kind,
            "version": self.version,
            "rollout": self.number,
            "outcome": self.outcome,
            "stopped_by": self.stopped_by,
            "started_at": _time(self.started_at),
            "ended_at": _time(now),
            "counts": dict(sorted(Counter(one["state"] for one in self.tills.values()).items())),
            "tills": dict(sorted(self.tills.items())),
        }

    def named(self, *states: str) -> list[str]:
        """Return the tills in these states."""
        return sorted(name for name, one in self.tills.items() if one["state"] in states)


def _said(result: Mapping[str, Any]) -> dict[str, Any]:
    lines = str(result.get("stdout") or "").strip().splitlines()
    try:
        told = json.loads(lines[-1]) if lines else {}
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _words(result: Mapping[str, Any]) -> str:
    """Return what a program said of its failure; nothing of one that did not fail."""
    if not result.get("rc"):
        return ""
    return (str(result.get("stderr") or "").strip() or str(result.get("stdout") or "").strip() or "no words")[-500:]


def _damage(result: Mapping[str, Any]) -> str:
    """Return what sha256sum found wrong, file by file, without its own sums of that."""
    lines = f"{result.get('stdout') or ''}\n{result.get('stderr') or result.get('msg') or ''}".splitlines()
    found = [line.removeprefix("sha256sum: ").strip() for line in lines if "WARNING" not in line]
    return "; ".join(filter(None, found))[-1000:]


def _time(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))


def _write(path: Path, text: str) -> None:
    scratch = path.with_name(f".{path.name}.new")
    scratch.write_text(text, "utf-8")
    scratch.replace(path)


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """Feeds the report from Ansible's events."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "rollout_report"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        folder = os.environ.get(FOLDER)
        self.disabled = folder is None
        self._folder = Path(folder or ".")
        kind, version = (os.environ.get(f"TILLSTREAM_{name}", "") for name in ("ROLLOUT_KIND", "ROLLOUT_VERSION"))
        self._report = Report(kind, version, time.time())

    def v2_runner_on_ok(self, result: Any) -> None:
        """Hear a result; a program that failed and may fail comes here, too."""
        if step := result.task.register:
            self._report.heard(result.host.get_name(), str(step), result.result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Hear what ends the run."""
        if not ignore_errors:
            self._report.failed(result.host.get_name(), str(result.task.register or ""), result.result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """Hear that a host, or central in its place, was not reached."""
        step = str(result.task.register or "")
        if not step.startswith(("rollout_", "till_agent_")):
            self._report.stop(f"{result.host.get_name()} was not reached: {result.task.get_name()}")
        else:
            self._report.lost(result.host.get_name(), step, str(result.result.get("msg") or "").strip()[-300:])

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:  # noqa: ARG002 -- Ansible's names
        """Write what is known: the run may be killed in what follows."""
        self._put()

    def v2_playbook_on_stats(self, _stats: Any) -> None:
        """Write the end."""
        self._report.end()
        self._put()

    def _put(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        report = self._report
        _write(
            self._folder / "report.json", json.dumps(report.as_json(time.time()), indent=1, ensure_ascii=False) + "\n"
        )
        for name, states in (("unreached", ("unreached",)), ("failed", ("failed", "rolled_back"))):
            _write(self._folder / f"{name}.limit", "".join(f"{till}\n" for till in report.named(*states)))
