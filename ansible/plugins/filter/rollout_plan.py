"""In which order tills get a release: canaries one by one, then waves, and never all tills of a store at once. Pure."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

RINGS = ("canary", "early", "main")
"""Who gets a release first; a till without a ring is of the last one."""


@dataclass(frozen=True)
class Till:
    """One till that answered: where it stands, and in which ring."""

    name: str
    store: str = ""
    lane: int = 0
    ring: str = RINGS[-1]
    is_done: bool = False
    """It has the release already."""


@dataclass(frozen=True)
class Plan:
    """Who is brought to the release, in order; ``sizes`` cut ``waves`` into what goes at once."""

    canaries: list[str] = field(default_factory=list)
    """All that answered, also those that have the release: the gate asks for them, too."""
    waves: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    to_do: list[str] = field(default_factory=list)
    online: int = 0


def plan(tills: Iterable[Till], steps: Sequence[int | str], *, by_rings: bool = True) -> Plan:
    """Plan the waves; each step is a number of tills, or the percentage of all (``5%``) that is reached by its end.

    ``by_rings``: canaries first, then early ones, then the rest; without it all are alike.
    """
    there = sorted(tills, key=lambda one: (one.store, one.lane, one.name))
    canaries = [one.name for one in there if by_rings and one.ring == RINGS[0]]
    rest = [one for one in _in_order(there, by_rings=by_rings) if not one.is_done and one.name not in canaries]
    waves = list(_waves(rest, Counter(one.store for one in there), steps))
    return Plan(
        canaries=canaries,
        waves=[one.name for wave in waves for one in wave],
        sizes=[len(wave) for wave in waves],
        to_do=[one.name for one in there if not one.is_done],
        online=len(there),
    )


def _in_order(tills: Sequence[Till], *, by_rings: bool) -> list[Till]:
    """Return tills ring by ring, of each store even lanes before odd ones: so the halves of a store lie far apart."""
    rank = {ring: place if by_rings else 0 for place, ring in enumerate(RINGS)}
    return sorted(tills, key=lambda one: (rank.get(one.ring, len(RINGS)), one.lane % 2))


def _waves(rest: Sequence[Till], in_store: Mapping[str, int], steps: Sequence[int | str]) -> Iterator[list[Till]]:
    """Cut the order into waves: where a step is full, and where the last till of a store would go with all others."""
    ends = _ends(len(rest), steps)
    wave: list[Till] = []
    going: Counter[str] = Counter()
    for place, till in enumerate(rest):
        is_whole = going[till.store] + 1 == in_store[till.store] > 1  # The only till of a store is no store's whole.
        if wave and (place in ends or is_whole):
            yield wave
            wave, going = [], Counter()
        wave.append(till)
        going[till.store] += 1
    if wave:
        yield wave


def _ends(count: int, steps: Sequence[int | str]) -> set[int]:
    """Return after how many tills each step ends: a number counts from the step before, a percentage from the start."""
    ends, end = set(), 0
    for step in steps:
        end = math.ceil(count * float(step[:-1]) / 100) if str(step).endswith("%") else end + int(step)
        ends.add(end)
    return ends


# -- What the playbooks ask --------------------------------------------------------------------------------------------


def said(result: Any) -> dict[str, Any]:
    """Return what a till's or central's program said in a task's result: its last line, as JSON; {} if it said none."""
    lines = str(result.get("stdout") or "").strip().splitlines() if isinstance(result, Mapping) else []
    try:
        told = json.loads(lines[-1]) if lines else {}
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def rollout_plan(
    names: Sequence[str], hostvars: Mapping[str, Any], version: str, steps: Sequence[int | str], kind: str
) -> dict[str, Any]:
    """Return the plan for the tills that answered the knock and have the tool; canaries go first in a rollout only."""
    tills = [_till(name, hostvars[name], version, kind) for name in names if said(hostvars[name].get("rollout_knock"))]
    return asdict(plan(tills, steps, by_rings=kind == "rollout"))


def _till(name: str, known: Mapping[str, Any], version: str, kind: str) -> Till:
    status = said(known.get("rollout_knock"))
    return Till(
        name=name,
        store=str(known.get("store_id") or name),
        lane=int(known.get("lane") or 0),
        ring=str(known.get("ring") or RINGS[-1]),
        is_done=status.get("release") != version if kind == "rollback" else is_done(status, version),
    )


def is_done(status: Mapping[str, Any], version: str) -> bool:
    """Say whether a till has the release, it is the one that runs, and no activation is under way."""
    return status.get("release") == version == status.get("agent") and not status.get("activation")


def rollout_lost(names: Sequence[str], hostvars: Mapping[str, Any]) -> list[str]:
    """Return the tills of a wave whose link was lost before they told what came of the switch."""
    return [name for name in names if _activation(hostvars[name]).get("unreachable")]


def rollout_refused(names: Sequence[str], hostvars: Mapping[str, Any]) -> list[str]:
    """Return the tills of a wave that were told to switch and did not, or went back."""
    told = {name: _activation(hostvars[name]) for name in names}
    return [
        name for name, one in told.items() if "rc" in one and not one.get("unreachable") and not said(one).get("ok")
    ]


def _activation(known: Mapping[str, Any]) -> Mapping[str, Any]:
    return known.get("rollout_activated") or {}


def rollout_why_stop(
    names: Sequence[str], hostvars: Mapping[str, Any], tolerate: float, gate: Mapping[str, Any] | None = None
) -> str:
    """Return why no further wave may go after this one, or an empty text.

    As many as are tolerated may have gone back or been lost, and one may always be lost: tills are switched off at any
    time. ``gate`` is what central was asked, if it was.
    """
    bearable = len(names) * float(tolerate) / 100
    refused, lost = rollout_refused(names, hostvars), rollout_lost(names, hostvars)
    if len(refused) > bearable:
        return "; ".join(f"{name}: {_why(_activation(hostvars[name]))}" for name in refused)
    if len(lost) > max(1, bearable):
        return f"{len(lost)} of {len(names)} tills were lost while they switched: {', '.join(lost)}"
    return "" if gate is None or gate.get("rc") == 0 else _what_central_said(gate)


def _why(activation: Mapping[str, Any]) -> str:
    told = said(activation).get("why") or activation.get("stderr") or activation.get("stdout") or "it said nothing"
    return str(told).strip()


def _what_central_said(gate: Mapping[str, Any]) -> str:
    failing = said(gate).get("failing", {})
    told = "; ".join(f"{name}: {why}" for name, why in failing.items())
    words = str(gate.get("stderr") or gate.get("msg") or "it did not answer").strip()
    return f"central: {told or words}"


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by name."""
        asked = (rollout_plan, rollout_lost, rollout_refused, rollout_why_stop)
        return {one.__name__: one for one in asked} | {"rollout_said": said}
