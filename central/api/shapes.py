"""What the REST API takes and gives, field by field. Times are epoch milliseconds UTC, money is minor units.

A field that nobody knows is null, never 0.
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from fastapi import Path, Query
from pydantic import BaseModel, ConfigDict, Field

from central import store_clock
from central.accounts import NAME
from central.audit import NOTE_MAX
from central.cli_base import NUMBER_MAX
from central.completeness import State
from wire.reasons import Code as ReasonCode
from wire.reasons import Severity
from wire.topics import TILL_ID_PATTERN

LIMIT_MAX = 1_000
NUMBERS_MAX = 100
"""So many documents in quarantine are decided about at once."""
DAYS_MAX = 92

_PLAIN = r"^[^\x00-\x1f\x7f]*$"
CURSOR = r"^(0|(0|[1-9][0-9]{0,8})-(0|[1-9][0-9]{0,17}))$"
PLACE = r"^(0|[1-9][0-9]{0,8})-(0|[1-9][0-9]{0,17})$"

Note = Annotated[str, Field(max_length=NOTE_MAX, pattern=_PLAIN, description="Why; it is kept in the audit.")]
NeededNote = Annotated[str, Field(min_length=1, max_length=NOTE_MAX, pattern=r"^[^\x00-\x20\x7f][^\x00-\x1f\x7f]*$")]
TillId = Annotated[str, Field(pattern=f"^{TILL_ID_PATTERN}$")]
StoreId = Annotated[str, Field(max_length=64, pattern=_PLAIN)]
BusinessDay = Annotated[str, Field(pattern=r"^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])$")]
Number = Annotated[int, Field(ge=1, le=NUMBER_MAX)]
CursorText = Annotated[str, Field(pattern=CURSOR, description="As the last page gave it; 0 is the beginning.")]
ConsumerName = Annotated[str, Field(pattern=f"^{NAME.pattern}$")]

TillPath = Annotated[str, Path(pattern=f"^{TILL_ID_PATTERN}$")]
ConsumerPath = Annotated[str, Path(pattern=f"^{NAME.pattern}$")]
DayPath = Annotated[str, Path(pattern=r"^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])$")]
NumberPath = Annotated[int, Path(ge=1, le=NUMBER_MAX)]
Limit = Annotated[int, Query(ge=1, le=LIMIT_MAX)]
TillQuery = Annotated[str | None, Query(pattern=f"^{TILL_ID_PATTERN}$")]
StoreQuery = Annotated[str | None, Query(max_length=64, pattern=_PLAIN)]
DayQuery = Annotated[str | None, Query(pattern=r"^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])$")]
PlainQuery = Annotated[str | None, Query(max_length=256, pattern=_PLAIN)]
CursorQuery = Annotated[str, Query(pattern=CURSOR, description="As the last page gave it; 0 is the beginning.")]


def a_day(text: str | None) -> str | None:
    """Return a business day as documents have it; raises ClockError for one that no calendar has."""
    return None if text is None else store_clock.a_day(text)


class Given(BaseModel):
    """A body that is sent to us: a field that is not known is an error."""

    model_config = ConfigDict(extra="forbid")


# -- Tills -------------------------------------------------------------------------------------------------------------


class ReasonShape(BaseModel):
    """Why a till is as it is; docs/reasons.md has the codes."""

    code: Literal[get_args(ReasonCode)]  # type: ignore[valid-type]
    severity: Literal[get_args(Severity)]  # type: ignore[valid-type]
    since_ms: int | None
    detail: str


class TillShape(BaseModel):
    """A till as it stands."""

    till_id: str
    store_id: str
    is_online: bool | None
    is_approved: bool
    is_parked: bool
    parked_note: str
    stream: str | None
    through: int | None = Field(description="Everything up to this number of the stream is stored.")
    behind: int | None = Field(description="Documents that are known to be missing; null where nobody knows.")
    is_verified: bool = Field(description="Whether the till's last digest was central's, and nothing is open.")
    verified_at_ms: int | None
    presence_at_ms: int | None
    quarantined: int
    missing: int = Field(description="Documents in open gaps.")
    agent_version: str | None
    reason: ReasonShape


class Tills(BaseModel):
    """Tills by id; ``next`` continues, null at the end."""

    tills: list[TillShape]
    next: str | None
    as_of_ms: int


class StoreShape(BaseModel):
    """A store, summed up over the tills that show themselves in it."""

    store_id: str
    tills: int
    tills_parked: int
    tills_online: int
    tills_in_trouble: int
    behind: int | None = Field(description="Null where of some till nobody knows.")


class Stores(BaseModel):
    """All stores by id."""

    stores: list[StoreShape]
    as_of_ms: int


class Status(BaseModel):
    """The first screen in figures."""

    central_id: str
    incarnation: int
    version: str
    tills: int
    tills_parked: int
    tills_online: int
    tills_verified: int
    tills_in_trouble: int
    open_tasks: int
    open_gaps: int
    quarantined: int
    newest_document: int | None = Field(description="The number of the newest document; null where none is stored.")
    newest_received_at_ms: int | None
    verified_backup_at_ms: int | None
    as_of_ms: int


class Decision(Given):
    """A decision that needs a note."""

    note: NeededNote


class Remark(Given):
    """A decision that may have a note."""

    note: Note = ""


class Tagged(Given):
    """A word that groups tills, put on one or taken off."""

    tag: Annotated[str, Field(pattern=f"^{TILL_ID_PATTERN}$")]
    remove: bool = False
    note: Note = ""


class Decided(BaseModel):
    """Whether something changed; deciding the same again changes nothing."""

    changed: bool


# -- Requests and tasks ------------------------------------------------------------------------------------------------


class Asked(Given):
    """What tills are asked for. A till alone: all that is new. With day, shift, range or everything: once more."""

    till: TillId | None = None
    store: StoreId | None = None
    day: BusinessDay | None = None
    shift: Annotated[int, Field(ge=0, le=NUMBER_MAX)] | None = None
    first: Number | None = None
    last: Number | None = None
    everything: bool = False
    note: Note = ""


class Requested(BaseModel):
    """The tasks that will bring it, new or already open."""

    task_ids: list[str]


class TaskShape(BaseModel):
    """One upload that central wants from one till; with a span, documents once more."""

    task_id: str
    till_id: str
    worker: int | None
    state: str
    reason: str
    attempts: int
    created_at_ms: int
    finished_at_ms: int | None
    note: str
    stream: str | None
    after: int | None
    through: int | None


class Tasks(BaseModel):
    """Tasks, newest first; one that was done within a second was never written down."""

    tasks: list[TaskShape]


# -- Days --------------------------------------------------------------------------------------------------------------


class DayNoted(BaseModel):
    """What was last found of a store's business day; a worker looks at days that are over."""

    store_id: str
    business_day: str
    state: str = Field(description="As a day that is judged now; a later version may have more.")
    since_ms: int
    completed_at_ms: int | None
    reopened_at_ms: int | None


class Days(BaseModel):
    """Days of stores, newest first; ``more`` where the limit cut some off."""

    days: list[DayNoted]
    more: bool


class ProofsShape(BaseModel):
    """Three proofs; null is unknown."""

    verified: bool | None
    numbered: bool | None
    reconciled: bool | None


class MissingShape(BaseModel):
    """Documents that are known of and are not stored."""

    kind: str
    first: int
    last: int
    stream: str | None
    shift_number: int | None
    code: str
    reason: str
    count: int


class DifferenceShape(BaseModel):
    """Where the shift's close and the stored documents do not agree."""

    block: str
    key: str
    said_count: int
    stored_count: int
    said_minor: int
    stored_minor: int
    difference_count: int
    difference_minor: int


class ShiftShape(BaseModel):
    """A shift of a till."""

    number: int
    documents: int
    is_closed: bool
    proofs: ProofsShape
    differences: list[DifferenceShape]
    note: str


class TillDayShape(BaseModel):
    """A till's business day."""

    till_id: str
    state: Literal[get_args(State)]  # type: ignore[valid-type]
    proofs: ProofsShape
    documents: int
    missing_at_least: int
    missing: list[MissingShape]
    shifts: list[ShiftShape]
    notes: list[str]
    next: list[str]


class DayExplained(BaseModel):
    """A store's business day, judged now by what is stored."""

    store_id: str
    business_day: str
    state: Literal[get_args(State)]  # type: ignore[valid-type]
    is_over: bool
    ends_at_ms: int
    tills_complete: int
    tills_not_expected: int
    documents: int
    missing: int
    totals_minor: dict[str, dict[str, int]]
    completed_at_ms: int | None
    reopened_at_ms: int | None
    tills: list[TillDayShape]


class GapShape(BaseModel):
    """A range that a till rang for and can no longer send."""

    id: int
    till_id: str
    stream: str
    first: int
    last: int
    reason: str
    found_at_ms: int
    closed_at_ms: int | None
    note: str


class Gaps(BaseModel):
    """Gaps that nobody has closed."""

    gaps: list[GapShape]


# -- Quarantine --------------------------------------------------------------------------------------------------------


class QuarantinedShape(BaseModel):
    """A document that central could not accept."""

    id: int
    till_id: str
    stream: str
    sequence: int
    document_id: str
    code: str = Field(description="docs/protocol.md has the codes; a later version may have more.")
    reason: str
    received_at_ms: int
    discarded_at_ms: int | None
    note: str


class Quarantined(BaseModel):
    """Documents in quarantine, newest first."""

    quarantine: list[QuarantinedShape]


class Numbers(Given):
    """Which documents in quarantine are meant."""

    numbers: Annotated[list[Number], Field(min_length=1, max_length=NUMBERS_MAX)]
    note: Note = ""


class NumbersNoted(Given):
    """Which documents in quarantine are meant, and why."""

    numbers: Annotated[list[Number], Field(min_length=1, max_length=NUMBERS_MAX)]
    note: NeededNote


class TriedShape(BaseModel):
    """What became of one document that was judged again."""

    number: int
    till_id: str
    document_id: str
    verdict: Literal["accepted", "known", "refused"]
    code: str
    reason: str


class Retried(BaseModel):
    """What became of each."""

    documents: list[TriedShape]


class Discarded(BaseModel):
    """Those that were not discarded before."""

    discarded: list[int]


# -- Documents and consumers -------------------------------------------------------------------------------------------


class DocumentShape(BaseModel):
    """A stored document. ``body`` is its exact text; null once it was forgotten."""

    id: int
    till_id: str
    stream: str
    sequence: int
    document_id: str
    transaction_type: str
    store_id: str
    business_day: str
    received_at_ms: int
    body: str | None


class Documents(BaseModel):
    """A page in the order in which documents were stored: behind ``after``; ``cursor`` goes on behind it."""

    documents: list[DocumentShape]
    after: str = Field(description="Where the page begins; acknowledge it together with the cursor.")
    cursor: str


class FoundShape(BaseModel):
    """A stored document without its text."""

    id: int
    till_id: str
    stream: str
    sequence: int
    document_id: str
    transaction_type: str
    store_id: str
    business_day: str
    shift_number: int | None
    receipt_number: int | None
    closed_at_ms: int
    currency: str
    total_minor: int | None
    is_training: bool
    received_at_ms: int


class Found(BaseModel):
    """What a search found, newest first."""

    documents: list[FoundShape]


class ConsumerShape(BaseModel):
    """A program that takes documents over."""

    name: str
    cursor: str = Field(description="What it has acknowledged.")
    behind: int | None = Field(description="Documents it has not; null where nobody knows.")
    is_further_behind: bool = Field(description="Whether it is further behind than is counted.")
    waiting_since_ms: int | None
    must_rewind: bool = Field(description="The database was put back to an earlier state since.")
    acknowledged_at_ms: int | None
    made_at_ms: int
    note: str


class Consumers(BaseModel):
    """All consumers by name."""

    consumers: list[ConsumerShape]


class NewConsumer(Given):
    """A consumer to be."""

    name: ConsumerName
    begin: Literal["beginning", "now"] = "beginning"
    note: Note = ""


class Acknowledged(Given):
    """Up to where a consumer has everything."""

    cursor: Annotated[str, Field(pattern=PLACE, description="As the page gave it.")]
    after: Annotated[str, Field(pattern=PLACE)] | None = Field(
        None, description="As the page gave it: refused if the consumer was rewound since, which would be lost."
    )


class Rewound(Given):
    """Where a consumer reads on."""

    cursor: CursorText
    note: Note = ""


class AuditShape(BaseModel):
    """Who did what to what, and why."""

    id: int
    at_ms: int
    who: str
    action: str
    object: str
    note: str


class AuditRows(BaseModel):
    """The newest rows."""

    audit: list[AuditShape]
