"""Central's tables as peewee models. Times are epoch milliseconds UTC; the schema itself is made by migrations.py."""

from __future__ import annotations

from typing import Any

import peewee as pw


class Till(pw.Model):
    """A till that the broker let in, with the last presence it showed."""

    till_id = pw.TextField(primary_key=True)
    store_id = pw.TextField(default="")
    is_approved = pw.BooleanField(default=True)
    first_seen_ms = pw.BigIntegerField()
    is_online = pw.BooleanField(null=True)
    connection = pw.BigIntegerField(default=-1)
    presence_at_ms = pw.BigIntegerField(null=True)
    presence = pw.TextField(default="{}")
    clock_skew_ms = pw.BigIntegerField(null=True)
    """How far the till's clock was ahead when it last showed itself; null while it has not since it was registered."""
    parked_at_ms = pw.BigIntegerField(null=True)
    parked_note = pw.TextField(default="")

    class Meta:
        table_name = "till"


class Watermark(pw.Model):
    """Everything up to ``through`` of a stream is committed; moved in the transaction that commits it."""

    id = pw.BigAutoField()
    till_id = pw.TextField()
    stream = pw.TextField()
    through = pw.BigIntegerField(default=0)
    digest = pw.BlobField()
    opened_at_ms = pw.BigIntegerField()
    moved_at_ms = pw.BigIntegerField(null=True)
    verified_at_ms = pw.BigIntegerField(null=True)
    backed_up = pw.BigIntegerField(null=True)
    """Where the stream stood in the newest verified backup; null where that did not know the stream."""

    class Meta:
        table_name = "watermark"


class Document(pw.Model):
    """A document: its exact bytes once, and what people search by."""

    id = pw.BigAutoField()
    till_id = pw.TextField()
    stream = pw.TextField()
    sequence = pw.BigIntegerField()
    document_id = pw.TextField()
    transaction_type = pw.TextField()
    store_id = pw.TextField()
    business_day = pw.TextField()
    shift_number = pw.BigIntegerField(null=True)
    receipt_number = pw.BigIntegerField(null=True)
    closed_at_ms = pw.BigIntegerField()
    currency = pw.TextField()
    total_minor = pw.BigIntegerField(null=True)
    is_training = pw.BooleanField(default=False)
    received_at_ms = pw.BigIntegerField()
    body = pw.BlobField()
    """The exact bytes; once they were forgotten, what of them counts in a day's sums."""
    body_digest = pw.BlobField(null=True)
    """Of the bytes that were forgotten, so that they are known when they come again; null while they are here."""
    chain_digest = pw.BlobField(null=True)
    """Where the bytes were forgotten: the chain's digest after them, so that what follows can still be proven."""

    class Meta:
        table_name = "document"


class Quarantine(pw.Model):
    """A document that central cannot accept: its exact bytes, a code, and a reason that names the field."""

    id = pw.BigAutoField()
    till_id = pw.TextField()
    stream = pw.TextField()
    sequence = pw.BigIntegerField()
    document_id = pw.TextField()
    code = pw.TextField()
    reason = pw.TextField()
    received_at_ms = pw.BigIntegerField()
    body_digest = pw.BlobField()
    body = pw.BlobField()
    discarded_at_ms = pw.BigIntegerField(null=True)
    """When a person decided that nothing more will come of it."""
    note = pw.TextField(default="")

    class Meta:
        table_name = "quarantine"


def still_quarantined() -> Any:
    """Return the condition for what a person still has to look at.

    Not what somebody discarded, nor what came again under its id and was accepted; a conflict waits in any case.
    """
    accepted = Document.select(pw.SQL("1")).where(
        (Document.till_id == Quarantine.till_id) & (Document.document_id == Quarantine.document_id)
    )
    return Quarantine.discarded_at_ms.is_null() & ((Quarantine.code == "conflict") | ~pw.fn.EXISTS(accepted))


class HeardHead(pw.Model):
    """A doorbell's head that is ahead of the watermark: what a till says it holds and central has yet to see."""

    id = pw.BigAutoField()
    till_id = pw.TextField()
    stream = pw.TextField()
    boot_id = pw.TextField()
    newest = pw.BigIntegerField()
    digest = pw.BlobField()
    after = pw.BigIntegerField(default=0)
    """Up to here the till takes its documents for stored."""
    agreed = pw.BlobField(null=True)
    """The till's digest there: where central's is the same, it holds the very history that the head ends."""
    heard_at_ms = pw.BigIntegerField()

    class Meta:
        table_name = "heard_head"


class Gap(pw.Model):
    """A range that a till rang for and can no longer send; shown until a person closes it."""

    id = pw.BigAutoField()
    till_id = pw.TextField()
    stream = pw.TextField()
    first = pw.BigIntegerField()
    last = pw.BigIntegerField()
    reason = pw.TextField()
    found_at_ms = pw.BigIntegerField()
    closed_at_ms = pw.BigIntegerField(null=True)
    note = pw.TextField(default="")

    class Meta:
        table_name = "gap"


class Task(pw.Model):
    """One upload that central wants from one till."""

    task_id = pw.TextField(primary_key=True)
    till_id = pw.TextField()
    worker = pw.IntegerField(null=True)
    state = pw.TextField()
    reason = pw.TextField()
    attempts = pw.IntegerField(default=0)
    created_at_ms = pw.BigIntegerField()
    finished_at_ms = pw.BigIntegerField(null=True)
    note = pw.TextField(default="")
    stream = pw.TextField(null=True)
    after = pw.BigIntegerField(null=True)
    """Set where documents are asked for once more: ``(after, through]`` of ``stream``; after moves with the answers."""
    through = pw.BigIntegerField(null=True)

    class Meta:
        table_name = "task"


class TillTag(pw.Model):
    """A word that groups tills, for settings."""

    till_id = pw.TextField()
    tag = pw.TextField()

    class Meta:
        table_name = "till_tag"
        primary_key = pw.CompositeKey("till_id", "tag")


class StoreRow(pw.Model):
    """What a store's days need: its time zone (IANA) and when its business day ends on the next date (``HH:MM``)."""

    store_id = pw.TextField(primary_key=True)
    time_zone = pw.TextField()
    day_cut_off = pw.TextField()

    class Meta:
        table_name = "store"


class Day(pw.Model):
    """What was last found of a store's business day, and when it was complete or reopened."""

    store_id = pw.TextField()
    business_day = pw.TextField()
    state = pw.TextField()
    since_ms = pw.BigIntegerField()
    completed_at_ms = pw.BigIntegerField(null=True)
    reopened_at_ms = pw.BigIntegerField(null=True)

    class Meta:
        table_name = "day"
        primary_key = pw.CompositeKey("store_id", "business_day")


class HeldBefore(pw.Model):
    """A number of a stream whose document was here already, under another number: no hole."""

    till_id = pw.TextField()
    stream = pw.TextField()
    sequence = pw.BigIntegerField()
    in_stream = pw.TextField(null=True)
    in_sequence = pw.BigIntegerField(null=True)
    """Where the document stands; null for a number that was noted before that was kept."""
    chain_digest = pw.BlobField(null=True)
    """The chain's digest after it, since the bytes were forgotten where they stand."""

    class Meta:
        table_name = "held_before"
        primary_key = pw.CompositeKey("till_id", "stream", "sequence")


class Setting(pw.Model):
    """What a till, a tag or the whole fleet is to do; an empty body was withdrawn."""

    id = pw.BigAutoField()
    scope = pw.TextField()
    name = pw.TextField()
    body = pw.TextField()
    revision = pw.BigIntegerField()
    changed_at_ms = pw.BigIntegerField()
    note = pw.TextField(default="")

    class Meta:
        table_name = "setting"


class Audit(pw.Model):
    """Who did what to what, and why."""

    id = pw.BigAutoField()
    at_ms = pw.BigIntegerField()
    who = pw.TextField()
    action = pw.TextField()
    object = pw.TextField()
    note = pw.TextField(default="")

    class Meta:
        table_name = "audit"


class Backup(pw.Model):
    """A copy of this database that was read back and found whole; tills forget nothing that is in none."""

    id = pw.BigAutoField()
    path = pw.TextField()
    made_at_ms = pw.BigIntegerField()
    verified_at_ms = pw.BigIntegerField()
    size_bytes = pw.BigIntegerField()
    documents = pw.BigIntegerField()

    class Meta:
        table_name = "backup"


class Worker(pw.Model):
    """A process of central's that runs, or ran not long ago; ``process`` counts the starts of all of them."""

    process = pw.BigIntegerField(primary_key=True)
    number = pw.IntegerField()
    workers = pw.IntegerField()
    host = pw.TextField()
    pid = pw.BigIntegerField()
    started_at_ms = pw.BigIntegerField()
    seen_at_ms = pw.BigIntegerField()

    class Meta:
        table_name = "worker"


class Rollout(pw.Model):
    """One attempt to bring tills to a release; while none has ended no second one begins."""

    id = pw.BigAutoField()
    version = pw.TextField()
    kind = pw.TextField()
    who = pw.TextField()
    started_at_ms = pw.BigIntegerField()
    ended_at_ms = pw.BigIntegerField(null=True)
    outcome = pw.TextField(default="")
    in_hours = pw.TextField(default="")
    """When waves may go, such as ``22:00-06:00 Europe/Moscow``; empty is always."""
    note = pw.TextField(default="")
    report = pw.TextField(default="")
    """What whoever rolled out told at the end, as JSON."""

    class Meta:
        table_name = "rollout"


class Release(pw.Model):
    """Which release a till is to run, and what the last rollout said of it."""

    till_id = pw.TextField(primary_key=True)
    wanted = pw.TextField()
    """Empty while no rollout of its release was ever done."""
    before = pw.TextField()
    """What was wanted before that: where a rollback leads."""
    state = pw.TextField()
    why = pw.TextField()
    rollout = pw.BigIntegerField()
    told_at_ms = pw.BigIntegerField()

    class Meta:
        table_name = "till_release"


class Freeze(pw.Model):
    """A time in which nothing is rolled out, unless somebody lifts it."""

    id = pw.BigAutoField()
    from_ms = pw.BigIntegerField()
    until_ms = pw.BigIntegerField()
    note = pw.TextField(default="")
    lifted_at_ms = pw.BigIntegerField(null=True)

    class Meta:
        table_name = "rollout_freeze"


class Account(pw.Model):
    """A person who may log in to the console."""

    name = pw.TextField(primary_key=True)
    role = pw.TextField()
    password_hash = pw.TextField()
    made_at_ms = pw.BigIntegerField()
    language = pw.TextField(default="")
    theme = pw.TextField(default="")
    """What the person chose: ``ru``, ``en``; ``light``, ``dark``; empty is what the browser says."""

    class Meta:
        table_name = "account"


class ConsoleSession(pw.Model):
    """One login of one person; who has the secret of this digest is that person until it expires."""

    digest = pw.TextField(primary_key=True)
    account = pw.TextField()
    csrf = pw.TextField()
    """What a form has to carry, so that no other site can send one in the person's name."""
    made_at_ms = pw.BigIntegerField()
    seen_at_ms = pw.BigIntegerField()
    address = pw.TextField()

    class Meta:
        table_name = "console_session"


class AccessToken(pw.Model):
    """What lets a program use the REST API; the secret itself is nowhere, only its digest."""

    id = pw.BigAutoField()
    name = pw.TextField()
    digest = pw.TextField()
    scopes = pw.TextField()
    """With spaces between."""
    made_at_ms = pw.BigIntegerField()
    expires_at_ms = pw.BigIntegerField(null=True)
    used_at_ms = pw.BigIntegerField(null=True)
    revoked_at_ms = pw.BigIntegerField(null=True)

    class Meta:
        table_name = "access_token"


class Consumer(pw.Model):
    """A program that takes documents over, and up to which number of which incarnation it said it has them."""

    name = pw.TextField(primary_key=True)
    incarnation = pw.BigIntegerField()
    acknowledged = pw.BigIntegerField()
    made_at_ms = pw.BigIntegerField()
    acknowledged_at_ms = pw.BigIntegerField(null=True)
    note = pw.TextField(default="")

    class Meta:
        table_name = "consumer"


class DayHandedOver(pw.Model):
    """A store's complete day whose files were put into the folder that another program takes them from."""

    store_id = pw.TextField()
    business_day = pw.TextField()
    completed_at_ms = pw.BigIntegerField()
    """When the day that was handed over was complete; one that was complete again since is handed over again."""
    handed_over_at_ms = pw.BigIntegerField()

    class Meta:
        table_name = "day_handed_over"
        primary_key = pw.CompositeKey("store_id", "business_day")


class Central(pw.Model):
    """The one row that names this database to the tills."""

    central_id = pw.TextField(primary_key=True)
    incarnation = pw.BigIntegerField(default=1)
    starts = pw.BigIntegerField(default=0)

    class Meta:
        table_name = "central"


MODELS = (
    Till, Watermark, Document, Quarantine, HeardHead, Gap, Task, Central,
    TillTag, StoreRow, Day, HeldBefore, Setting, Audit, Backup, Worker,
    Rollout, Release, Freeze, Account, ConsoleSession, AccessToken, Consumer,
    DayHandedOver,
)  # fmt: skip
