"""What ``completeness`` says of a day in English, as texts that can be translated: the figures are taken out first."""

from __future__ import annotations

import re

from .words import Speak, say

_KNOWN = (
    (r"shift (?P<shift>\d+): not closed yet", say("shift {shift}: not closed yet")),
    (
        r"shift (?P<shift>\d+): closed (?P<times>\d+) times: which documents belong to which close cannot be told",
        say("shift {shift}: closed {times} times: which documents belong to which close cannot be told"),
    ),
    (r"shift (?P<shift>\d+): shift_close carries no sums", say("shift {shift}: its close carries no sums")),
    (r"parked: (?P<note>.*)", say("parked: {note}")),
    (r"first seen after the day had ended", say("first seen after the day had ended")),
    (r"nothing was heard", say("nothing was heard")),
    (
        r"not verified: the till has not confirmed that this is all",
        say("not verified: the till has not confirmed that this is all"),
    ),
    (
        r"no document names a shift: there is nothing to reconcile with",
        say("no document names a shift: there is nothing to reconcile with"),
    ),
    (
        r"(?P<documents>\d+) documents that move money name no shift",
        say("{documents} documents that move money name no shift"),
    ),
    (r"the day is not over", say("the day is not over")),
)
_PATTERNS = [(re.compile(pattern, re.DOTALL), text) for pattern, text in _KNOWN]


def translated(note: str, speak: Speak) -> str:
    """Return a note in a language; one that is not known stays as it is."""
    for pattern, text in _PATTERNS:
        if match := pattern.fullmatch(note):
            return speak(text).format(**match.groupdict())
    return note
