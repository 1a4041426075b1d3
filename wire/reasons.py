"""Why a till is late: every reason there is, in one list for till and central. Pure: no clock, no IO.

The order of the list is the order in which reasons explain: of all that hold at once, the first one is shown. What
people decided comes first, then what keeps everything from coming, then what keeps it from coming now, then what needs
a look although everything came. The English texts are the keys of the translations; codes never change their meaning.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Severity = Literal["fine", "wait", "act"]
"""Whether nothing is owed, time will mend it, or a person should do something."""

Code = Literal[
    "parked", "revoked", "not_approved", "never_seen",
    "login_refused", "version_unknown", "identity_shared", "link_down", "agent_silent", "disk_full", "outbox_full",
    "intake_failing", "history_forked", "central_away", "unanswered", "waiting_for_admission", "uploading",
    "gap_open", "outbox_damaged", "certificate_not_renewed", "quarantined", "settings_refused", "automation_refused",
    "clock_skew", "other_trouble", "unproven", "offline", "up_to_date",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Kind:
    """What a reason means: a title, and what a person does next. ``{detail}`` stands for the reason's detail."""

    code: Code
    severity: Severity
    title: str
    next_step: str


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a till is as it is; ``since_ms`` is epoch milliseconds, None where nobody saw it begin.

    ``detail`` is a figure or a name that the texts show; it is never translated.
    """

    code: Code
    since_ms: int | None = None
    detail: str = ""

    @property
    def kind(self) -> Kind:
        """What this reason means."""
        return KINDS[self.code]


_KINDS = (
    # -- What people decided --
    Kind(
        "parked", "fine",
        "Parked: it is not expected to report",
        "Nothing to do. Unpark the till when it goes back into service.",
    ),
    Kind(
        "revoked", "act",
        "Revoked: the till's identity is on the deny list",
        "If the till is to work again, take its id off the deny list; otherwise park it.",
    ),
    Kind(
        "not_approved", "act",
        "New till: waits for approval",
        "Check that the till is yours and approve it; until then nothing is asked of it.",
    ),
    Kind(
        "never_seen", "act",
        "Known by name only: the till has never connected",
        "Check that the agent is installed and running on the till, and which till id and broker address it has.",
    ),
    # -- What keeps everything from coming --
    Kind(
        "login_refused", "act",
        "Till and broker do not accept each other: {detail}",
        "Check the token or the till's certificate, the deny list, the broker's certificate and tls_ca_file. Sales go"
        " on: the documents are on the till, and go by themselves when it is mended.",
    ),
    Kind(
        "version_unknown", "act",
        "Till and central have no wire version in common: {detail}",
        "Upgrade the older of the two. Nothing is lost: the documents are on the till, and go by themselves then.",
    ),
    Kind(
        "identity_shared", "act",
        "Connections end soon after they begin: another machine may use this till id: {detail}",
        "Look for a second machine with this till id (its edge status says the same) and give each its own; if there is"
        " none, the link breaks again and again.",
    ),
    Kind(
        "link_down", "act",
        "No link, and documents are owed",
        "Nothing is lost: the documents are on the till. Check its power, network and broker address; if the link stays"
        " dead, carry them by file (edge export).",
    ),
    Kind(
        "agent_silent", "act",
        "The agent on the till does not answer",
        "Look at the agent on the till (systemctl status, journal) and restart it; the documents are kept.",
    ),
    Kind(
        "disk_full", "act",
        "The till's disk is nearly full, bytes free: {detail}",
        "Make room on the till's disk: without it new documents cannot be kept.",
    ),
    Kind(
        "outbox_full", "act",
        "The outbox is full: new documents wait in the spool",
        "Restore the link so that documents can be sent and forgotten, or raise outbox_limit_bytes.",
    ),
    Kind(
        "intake_failing", "act",
        "Documents do not come in from the POS software: {detail}",
        "On the till run edge intake test: it names the file, table or field that cannot be read.",
    ),
    Kind(
        "history_forked", "act",
        "The till's history was started anew (disk image, clone or repair)",
        "It sends again what it retains. Check that no two machines share this till id, and look at the open gaps.",
    ),
    # -- What keeps it from coming now --
    Kind(
        "central_away", "act",
        "Central does not take up what the till rang for",
        "Check that central is running; nothing is lost, it goes on where it stopped.",
    ),
    Kind(
        "unanswered", "act",
        "No answer, attempts: {detail}",
        "Compare the access rules of the broker and the versions on both sides; look for refused in both logs.",
    ),
    Kind(
        "waiting_for_admission", "wait",
        "Waits for admission: central is busy with other tills",
        "Wait for its turn. If this lasts, raise parallel_backlog at central.",
    ),
    Kind(
        "uploading", "wait",
        "Uploading, documents left: {detail}",
        "Wait: it goes on by itself.",
    ),
    # -- What needs a look although everything came --
    Kind(
        "gap_open", "act",
        "Documents are missing that the till can no longer send: {detail}",
        "Look for them on the till and in the shift's report, then close the gap with a note.",
    ),
    Kind(
        "outbox_damaged", "act",
        "The till's outbox was damaged; what could be read goes on in a new stream",
        "Look at the open gaps. Copy outbox.damaged-*.db off the till, look at its disk, then remove the file there.",
    ),
    Kind(
        "certificate_not_renewed", "act",
        "The till's certificate is not renewed; days left: {detail}",
        "Check enrol_url, and that tillstream ca serve runs there. One that has expired, or was revoked, needs a new"
        " token: tillstream edge enrol.",
    ),
    Kind(
        "quarantined", "act",
        "Documents in quarantine: {detail}",
        "Look at the reason of each; it names the field that the POS software fills in wrongly.",
    ),
    Kind(
        "settings_refused", "act",
        "The till refused its settings: {detail}",
        "Correct the settings; the ones before them stay in force.",
    ),
    Kind(
        "automation_refused", "act",
        "An action of the till does not run: {detail}",
        "On the till run edge actions list, and correct the action or its script.",
    ),
    Kind(
        "clock_skew", "act",
        "The till's clock is wrong by seconds: {detail}",
        "Set the clock and switch time synchronisation on: business days and shifts are named by this clock.",
    ),
    Kind(
        "other_trouble", "act",
        "The till reports a trouble that this version does not know: {detail}",
        "Upgrade central to at least the till's version, or look at the status on the till.",
    ),
    Kind(
        "unproven", "wait",
        "It is not proven yet that nothing is missing",
        "Wait: the till is asked at the next sweep.",
    ),
    Kind(
        "offline", "wait",
        "Not connected; nothing is known to be owed",
        "Nothing to do if the store is closed; otherwise check the till's power and network.",
    ),
    Kind(
        "up_to_date", "fine",
        "Everything is uploaded",
        "Nothing to do.",
    ),
)  # fmt: skip

KINDS: dict[Code, Kind] = {kind.code: kind for kind in _KINDS}
"""All reasons, the one that explains most first."""

RANKS: dict[Code, int] = {code: rank for rank, code in enumerate(KINDS)}

TILL_TROUBLES: tuple[Code, ...] = (
    "identity_shared", "disk_full", "outbox_full", "intake_failing", "history_forked", "outbox_damaged",
    "certificate_not_renewed", "settings_refused", "automation_refused",
)  # fmt: skip
"""What only the till itself can know; it tells central in its presence."""


def foremost(reasons: Iterable[Reason]) -> Reason:
    """Return the reason that explains most; of two with one code, the one that has lasted longer."""
    return min(reasons, key=lambda reason: (RANKS[reason.code], _since(reason)), default=Reason("up_to_date"))


def _since(reason: Reason) -> float:
    return float("inf") if reason.since_ms is None else reason.since_ms
