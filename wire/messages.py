"""The messages of the protocol: their fields, bounds and promises. Pure: no clock, no IO.

These structs are the one definition: they validate what arrives, and the schemas in docs/ are generated from them.
Fields at their default are not sent. Unknown fields are ignored, so that either side may be upgraded first.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from .automation import Automation

VERSIONS = (1, 2)
"""The wire versions this code speaks, oldest first; a message of another version is refused with a reason.

What a till and central say to each other is in the highest that both speak (``wire.versions``). What is retained is
said in the oldest: nobody knows who will read it.
"""

OLDEST, NEWEST = VERSIONS[0], VERSIONS[-1]
FIRST = (1,)
"""What a program speaks that says nothing of versions."""

HISTORIES_MAX = 16

StreamId = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9]{22}$(?!\n)", description="128 random bits, made with the outbox file")
]
ShortId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,40}$(?!\n)")]
Digest = Annotated[bytes, Meta(min_length=16, max_length=16, description="blake2b-128 over the chain of documents")]
Sequence = Annotated[int, Meta(ge=0, le=2**53 - 1)]
EpochMs = Annotated[int, Meta(ge=0, le=2**53 - 1, description="milliseconds since 1970-01-01 UTC")]
Count = Annotated[int, Meta(ge=0, le=2**53 - 1)]
Worker = Annotated[int, Meta(ge=1, le=999)]
Reason = Literal["doorbell", "sweep", "operator", "retry", "new_stream", "repeat"]
Seconds = Annotated[float, Meta(gt=0, le=7 * 86_400)]


Protocol = Annotated[tuple[Annotated[int, Meta(ge=1, le=999)], ...], Meta(min_length=1, max_length=32)]


class Message(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Whatever travels."""


class Versioned(Message, frozen=True, kw_only=True, omit_defaults=True):
    """What every message but the two presences carries: its wire version, one of ``VERSIONS``."""

    v: Literal[1, 2]


class Presence(Message, frozen=True, kw_only=True, omit_defaults=True):
    """What the two ends greet each other with. It is read in whatever version it is: its fields only ever grow."""

    v: Annotated[int, Meta(ge=1, le=999)]
    online: bool
    protocol: Protocol = FIRST
    """The wire versions that the sender speaks."""


SomeMessage = TypeVar("SomeMessage", bound=Message)


class History(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A stream that the till's present one took over: what it cannot send any more, and where it ended.

    Up to ``pruned`` nothing is sent again: it was forgotten, or is damaged. ``agreed`` is a number up to there, with
    the chain's digest at it, by which central sees whether what it holds is this history.
    """

    stream: StreamId
    pruned: Sequence = 0
    newest: Sequence
    digest: Digest
    agreed: Sequence = 0
    agreed_digest: Digest | None = None


class ReceiptClosed(Versioned, frozen=True, kw_only=True, omit_defaults=True):
    """Till → central, retained: the doorbell. I hold documents ``oldest..newest``; the chain's digest is at newest.

    ``stored`` is what the till believes central has, ``stored_digest`` its own chain's digest there: left out at 0 and
    at newest, and where it is no longer held. May be lost, repeated or late: the next one says it all again.
    """

    stream: StreamId
    oldest: Sequence = 1
    newest: Sequence
    digest: Digest
    stored: Sequence = 0
    stored_digest: Digest | None = None
    boot_id: ShortId
    previous: Annotated[tuple[History, ...], Meta(max_length=HISTORIES_MAX)] = ()
    oldest_unsent_at_ms: EpochMs | None = None
    urgent: bool = False


class UploadRequest(Versioned, frozen=True, kw_only=True, omit_defaults=True):
    """Central → till: I have everything up to ``after`` with this digest; send what follows.

    It is the cumulative acknowledgement too. ``stream`` is None when central knows no stream of this till yet.
    With ``reason`` repeat, since version 2, it asks for ``(after, through]`` once more, acknowledges nothing and
    carries no digest.
    """

    stream: StreamId | None = None
    after: Sequence = 0
    through: Sequence | None = None
    digest: Digest | None = None
    central_id: ShortId
    backed_up: Sequence | None = None
    limit_documents: Annotated[int, Meta(ge=1, le=10_000)] = 200
    limit_bytes: Annotated[int, Meta(ge=1, le=16 * 2**20)] = 512 * 1024
    worker: Worker
    task: ShortId
    reason: Reason = "doorbell"
    keep: bool = False
    """Forget nothing: the till's clock, by which it would, is not known to be right. Since version 2."""


class Sales(Versioned, frozen=True, kw_only=True, omit_defaults=True):
    """Till → central: the header of one upload: *all* documents in ``(after, through]``; the digest is at through.

    The documents follow it, one a line, byte for byte as the outbox holds them. ``before``, the digest at ``after``,
    is given only where a request asked to repeat: such an upload fills holes and moves no watermark.
    """

    stream: StreamId
    after: Sequence
    through: Sequence
    digest: Digest
    task: ShortId
    before: Digest | None = None


class Quarantined(Struct, frozen=True, array_like=True):
    """A document that central holds in quarantine: its sequence and why."""

    sequence: Sequence
    code: ShortId


class SalesStored(Versioned, frozen=True, kw_only=True, omit_defaults=True):
    """Central → till: everything up to ``through`` is committed in the database named ``central_id``."""

    stream: StreamId
    through: Sequence
    digest: Digest
    central_id: ShortId
    backed_up: Sequence | None = None
    keep: bool = False
    """As in a request."""
    quarantined: Annotated[tuple[Quarantined, ...], Meta(max_length=10_000)] = ()


class TillPresence(Presence, frozen=True, kw_only=True, omit_defaults=True):
    """Till → central, retained, and the till's will.

    ``connection`` counts up: an offline with an older number is the late will of a connection since replaced.
    """

    connection: Count
    store_id: Annotated[str, Meta(max_length=64, pattern=r"^[^\x00-\x1f]*$(?!\n)")] = ""
    agent_version: Annotated[str, Meta(max_length=64)] = ""
    boot_id: ShortId
    started_at_ms: EpochMs = 0
    clock_ms: EpochMs = 0
    disk_free_bytes: Count | None = None
    unsent: Count = 0
    settings_revision: Count = 0
    settings_refused: Count = 0
    """The revision that could not be used, if any; the one before it stays in force."""
    settings_error: Annotated[str, Meta(max_length=300)] = ""
    """Why it could not be used."""
    troubles: Annotated[dict[ShortId, EpochMs], Meta(max_length=32)] = {}
    """What keeps the till from working as it should, by reason code, and since when."""
    findings: Annotated[dict[ShortId, Count], Meta(max_length=32)] = {}
    """What the till had to mend since its outbox was made, by code, such as ``card_number``: the POS needs a look."""


class TillLimits(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The limits of a till that central may set; what is left out stays as the till's own file has it."""

    ring_again_s: Seconds | None = None
    ring_again_max_s: Seconds | None = None
    presence_every_s: Seconds | None = None
    retention_days: Annotated[float, Meta(gt=0, le=3650)] | None = None


class Settings(Versioned, frozen=True, kw_only=True, omit_defaults=True):
    """Central → till, retained: what this till is to do, as a whole; an empty payload gives the till back to itself."""

    revision: Annotated[int, Meta(ge=1, le=2**53 - 1)]
    automation: Automation | None = None
    limits: TillLimits | None = None


class CentralPresence(Presence, frozen=True, kw_only=True, omit_defaults=True):
    """Central → tills, retained, and central's will: who serves, which versions it accepts, how far backups reach."""

    central_id: ShortId
    incarnation: Count
    verified_backup_at_ms: EpochMs | None = None


def said(message_type: type[SomeMessage], **fields: object) -> SomeMessage:
    """Build a message of the oldest wire version, or of ``v``, validating its fields as if it had been received.

    Raises msgspec.ValidationError that names the field.
    """
    return msgspec.convert({"v": OLDEST, **fields}, message_type)
