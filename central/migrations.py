"""Numbered steps from an empty database to today's schema; each is applied once, in a transaction, under a lock.

The words in which databases differ are filled in, so that a second database needs no second schema.
"""

from __future__ import annotations

import logging
import time

import peewee as pw

from .database import Kind, Postgres, Sqlite, is_held_up

log = logging.getLogger("tillstream.central")

REST_S = 5.0
"""So long others have the tables to themselves after a change of the schema was held up."""

_TABLES_1 = """
CREATE TABLE central (central_id TEXT PRIMARY KEY, incarnation BIGINT NOT NULL, starts BIGINT NOT NULL);
CREATE TABLE till (
  till_id TEXT PRIMARY KEY, store_id TEXT NOT NULL, is_approved BOOLEAN NOT NULL, first_seen_ms BIGINT NOT NULL,
  is_online BOOLEAN, connection BIGINT NOT NULL, presence_at_ms BIGINT, presence TEXT NOT NULL);
CREATE TABLE watermark (
  id {ID}, till_id TEXT NOT NULL, stream TEXT NOT NULL, through BIGINT NOT NULL, digest {BYTES} NOT NULL,
  opened_at_ms BIGINT NOT NULL, moved_at_ms BIGINT, verified_at_ms BIGINT, UNIQUE (till_id, stream));
CREATE TABLE document (
  id {ID}, till_id TEXT NOT NULL, stream TEXT NOT NULL, sequence BIGINT NOT NULL, document_id TEXT NOT NULL,
  transaction_type TEXT NOT NULL, store_id TEXT NOT NULL, business_day TEXT NOT NULL, shift_number BIGINT,
  receipt_number BIGINT, closed_at_ms BIGINT NOT NULL, currency TEXT NOT NULL, total_minor BIGINT,
  is_training BOOLEAN NOT NULL, received_at_ms BIGINT NOT NULL, body {BYTES} NOT NULL, UNIQUE (till_id, document_id));
CREATE INDEX document_by_day ON document (business_day, store_id);
CREATE TABLE quarantine (
  id {ID}, till_id TEXT NOT NULL, stream TEXT NOT NULL, sequence BIGINT NOT NULL, document_id TEXT NOT NULL,
  code TEXT NOT NULL, reason TEXT NOT NULL, received_at_ms BIGINT NOT NULL, body_digest {BYTES} NOT NULL,
  body {BYTES} NOT NULL, UNIQUE (till_id, document_id, body_digest));
CREATE TABLE heard_head (
  id {ID}, till_id TEXT NOT NULL, stream TEXT NOT NULL, boot_id TEXT NOT NULL, newest BIGINT NOT NULL,
  digest {BYTES} NOT NULL, heard_at_ms BIGINT NOT NULL, UNIQUE (till_id, stream, boot_id));
CREATE TABLE gap (
  id {ID}, till_id TEXT NOT NULL, stream TEXT NOT NULL, first BIGINT NOT NULL, last BIGINT NOT NULL,
  reason TEXT NOT NULL, found_at_ms BIGINT NOT NULL, closed_at_ms BIGINT, note TEXT NOT NULL,
  UNIQUE (till_id, stream, first, last));
CREATE TABLE task (
  task_id TEXT PRIMARY KEY, till_id TEXT NOT NULL, worker INTEGER, state TEXT NOT NULL, reason TEXT NOT NULL,
  attempts INTEGER NOT NULL, created_at_ms BIGINT NOT NULL, finished_at_ms BIGINT, note TEXT NOT NULL);
CREATE INDEX task_open ON task (state) WHERE finished_at_ms IS NULL;
"""

_VIEWS_SQLITE = """
CREATE VIEW document_line AS
  SELECT d.id, d.till_id, d.document_id, d.business_day, d.store_id, d.transaction_type,
    l.value ->> 'line_number' AS line_number, coalesce(l.value ->> 'kind', 'sale') AS kind,
    coalesce(l.value ->> 'voided', 0) AS is_voided, l.value ->> 'item_id' AS item_id, l.value ->> 'name' AS name,
    l.value ->> 'quantity' AS quantity, l.value ->> 'unit_price' AS unit_price,
    coalesce(l.value ->> 'discount_minor', 0) AS discount_minor, l.value ->> 'extended_minor' AS extended_minor
  FROM document d, json_each(CAST(d.body AS TEXT), '$.lines') l;
CREATE VIEW document_tender AS
  SELECT d.id, d.till_id, d.document_id, d.business_day, d.store_id, d.transaction_type,
    t.value ->> 'tender_number' AS tender_number, t.value ->> 'tender_type' AS tender_type,
    coalesce(t.value ->> 'voided', 0) AS is_voided, t.value ->> 'amount_minor' AS amount_minor,
    coalesce(t.value ->> 'change_minor', 0) AS change_minor
  FROM document d, json_each(CAST(d.body AS TEXT), '$.tenders') t;
CREATE VIEW document_tax AS
  SELECT d.id, d.till_id, d.document_id, d.business_day, d.store_id, d.transaction_type,
    t.value ->> 'tax_id' AS tax_id, t.value ->> 'rate' AS rate,
    coalesce(t.value ->> 'taxable_minor', 0) AS taxable_minor, t.value ->> 'amount_minor' AS amount_minor
  FROM document d, json_each(CAST(d.body AS TEXT), '$.taxes') t;
"""

_COMPRESSION = """
DO $$ BEGIN ALTER TABLE document ALTER body SET COMPRESSION lz4; EXCEPTION WHEN feature_not_supported THEN NULL; END $$;
"""
"""The server spends half of its time on the default compression, for 7 % less disk; a build may lack lz4."""

_VIEWS_POSTGRES = """
CREATE VIEW document_line AS
  SELECT d.id, d.till_id, d.document_id, d.business_day, d.store_id, d.transaction_type,
    (l.value ->> 'line_number')::bigint AS line_number, coalesce(l.value ->> 'kind', 'sale') AS kind,
    coalesce((l.value ->> 'voided')::boolean, false) AS is_voided, l.value ->> 'item_id' AS item_id,
    l.value ->> 'name' AS name, l.value ->> 'quantity' AS quantity, l.value ->> 'unit_price' AS unit_price,
    coalesce((l.value ->> 'discount_minor')::bigint, 0) AS discount_minor,
    (l.value ->> 'extended_minor')::bigint AS extended_minor
  FROM document d, json_array_elements(convert_from(d.body, 'UTF8')::json -> 'lines') AS l(value);
CREATE VIEW document_tender AS
  SELECT d.id, d.till_id, d.document_id, d.business_day, d.store_id, d.transaction_type,
    (t.value ->> 'tender_number')::bigint AS tender_number, t.value ->> 'tender_type' AS tender_type,
    coalesce((t.value ->> 'voided')::boolean, false) AS is_voided, (t.value ->> 'amount_minor')::bigint AS amount_minor,
    coalesce((t.value ->> 'change_minor')::bigint, 0) AS change_minor
  FROM document d, json_array_elements(convert_from(d.body, 'UTF8')::json -> 'tenders') AS t(value);
CREATE VIEW document_tax AS
  SELECT d.id, d.till_id, d.document_id, d.business_day, d.store_id, d.transaction_type,
    t.value ->> 'tax_id' AS tax_id, t.value ->> 'rate' AS rate,
    coalesce((t.value ->> 'taxable_minor')::bigint, 0) AS taxable_minor,
    (t.value ->> 'amount_minor')::bigint AS amount_minor
  FROM document d, json_array_elements(convert_from(d.body, 'UTF8')::json -> 'taxes') AS t(value);
"""

_TABLES_3 = """
ALTER TABLE till ADD COLUMN clock_skew_ms BIGINT;
ALTER TABLE till ADD COLUMN parked_at_ms BIGINT;
ALTER TABLE till ADD COLUMN parked_note TEXT NOT NULL DEFAULT '';
ALTER TABLE quarantine ADD COLUMN settled_at_ms BIGINT;
ALTER TABLE quarantine ADD COLUMN note TEXT NOT NULL DEFAULT '';
ALTER TABLE task ADD COLUMN stream TEXT;
ALTER TABLE task ADD COLUMN after BIGINT;
ALTER TABLE task ADD COLUMN through BIGINT;
CREATE TABLE till_tag (till_id TEXT NOT NULL, tag TEXT NOT NULL, PRIMARY KEY (till_id, tag));
CREATE TABLE store (store_id TEXT PRIMARY KEY, time_zone TEXT NOT NULL, day_cut_off TEXT NOT NULL);
CREATE TABLE day (
  store_id TEXT NOT NULL, business_day TEXT NOT NULL, state TEXT NOT NULL, since_ms BIGINT NOT NULL,
  completed_at_ms BIGINT, reopened_at_ms BIGINT, PRIMARY KEY (store_id, business_day));
CREATE TABLE held_before (
  till_id TEXT NOT NULL, stream TEXT NOT NULL, sequence BIGINT NOT NULL, PRIMARY KEY (till_id, stream, sequence));
CREATE TABLE setting (
  id {ID}, scope TEXT NOT NULL, name TEXT NOT NULL, body TEXT NOT NULL, revision BIGINT NOT NULL,
  changed_at_ms BIGINT NOT NULL, note TEXT NOT NULL, UNIQUE (scope, name));
CREATE TABLE audit (
  id {ID}, at_ms BIGINT NOT NULL, who TEXT NOT NULL, action TEXT NOT NULL, object TEXT NOT NULL, note TEXT NOT NULL);
CREATE INDEX document_by_sequence ON document (till_id, stream, sequence);
"""

_TABLES_4 = """
ALTER TABLE watermark ADD COLUMN backed_up BIGINT;
ALTER TABLE quarantine RENAME COLUMN settled_at_ms TO discarded_at_ms;
CREATE TABLE backup (
  id {ID}, path TEXT NOT NULL, made_at_ms BIGINT NOT NULL, verified_at_ms BIGINT NOT NULL, size_bytes BIGINT NOT NULL,
  documents BIGINT NOT NULL);
"""

_TABLES_5 = """
ALTER TABLE heard_head ADD COLUMN after BIGINT NOT NULL DEFAULT 0;
ALTER TABLE held_before ADD COLUMN in_stream TEXT;
ALTER TABLE held_before ADD COLUMN in_sequence BIGINT;
CREATE INDEX quarantine_by_sequence ON quarantine (till_id, stream, sequence);
"""


def _last(name: str, of: str) -> str:
    """Return what SQLite says for the field of an object: its last value, by its name however that is written.

    So do the judge and PostgreSQL; ``->>`` takes the first one, and does not know a name that is escaped.
    """
    return f"(SELECT value FROM json_each({of}) WHERE key = '{name}' ORDER BY id DESC LIMIT 1)"


def _view_of(view: str, array: str, columns: str) -> str:
    """Return a view of an array; ``columns`` are fields of its elements, with a default where one may be left out."""
    named = []
    for column in columns.split(", "):
        name, field, default = (*column.split(" "), "", "")[:3]
        value = _last(field or name, "e.value")
        named.append(f"coalesce({value}, {default}) AS {name}" if default else f"{value} AS {name}")
    return (
        f"DROP VIEW {view};\nCREATE VIEW {view} AS SELECT d.id, d.till_id, d.document_id, d.business_day, d.store_id,"
        f" d.transaction_type, {', '.join(named)}"
        f" FROM document d, json_each({_last(array, 'CAST(d.body AS TEXT)')}) e;\n"
    )


_VIEWS_SQLITE_7 = (
    _view_of(
        "document_line",
        "lines",
        "line_number, kind kind 'sale', is_voided voided 0, item_id, name, quantity, unit_price,"
        " discount_minor discount_minor 0, extended_minor",
    )
    + _view_of(
        "document_tender",
        "tenders",
        "tender_number, tender_type, is_voided voided 0, amount_minor, change_minor change_minor 0",
    )
    + _view_of("document_tax", "taxes", "tax_id, rate, taxable_minor taxable_minor 0, amount_minor")
)

_TABLES_6 = """
CREATE TABLE worker (
  process BIGINT PRIMARY KEY, number INTEGER NOT NULL, workers INTEGER NOT NULL, host TEXT NOT NULL,
  pid BIGINT NOT NULL, started_at_ms BIGINT NOT NULL, seen_at_ms BIGINT NOT NULL);
"""


_TABLES_8 = """
ALTER TABLE heard_head ADD COLUMN agreed {BYTES};
"""


_TABLES_9 = """
ALTER TABLE document ADD COLUMN body_digest {BYTES};
ALTER TABLE document ADD COLUMN chain_digest {BYTES};
ALTER TABLE held_before ADD COLUMN chain_digest {BYTES};
"""

_TABLES_10 = """
CREATE INDEX watermark_by_till ON watermark (till_id, id);
"""

_TABLES_11 = """
CREATE TABLE rollout (
  id {ID}, version TEXT NOT NULL, kind TEXT NOT NULL, who TEXT NOT NULL, started_at_ms BIGINT NOT NULL,
  ended_at_ms BIGINT, outcome TEXT NOT NULL, in_hours TEXT NOT NULL, note TEXT NOT NULL, report TEXT NOT NULL);
CREATE UNIQUE INDEX rollout_open ON rollout ((ended_at_ms IS NULL)) WHERE ended_at_ms IS NULL;
CREATE TABLE till_release (
  till_id TEXT PRIMARY KEY, wanted TEXT NOT NULL, before TEXT NOT NULL, state TEXT NOT NULL, why TEXT NOT NULL,
  rollout BIGINT NOT NULL, told_at_ms BIGINT NOT NULL);
CREATE TABLE rollout_freeze (
  id {ID}, from_ms BIGINT NOT NULL, until_ms BIGINT NOT NULL, note TEXT NOT NULL, lifted_at_ms BIGINT);
"""

_TABLES_12 = """
CREATE TABLE account (
  name TEXT PRIMARY KEY, role TEXT NOT NULL, password_hash TEXT NOT NULL, made_at_ms BIGINT NOT NULL,
  language TEXT NOT NULL, theme TEXT NOT NULL);
CREATE TABLE console_session (
  digest TEXT PRIMARY KEY, account TEXT NOT NULL, csrf TEXT NOT NULL, made_at_ms BIGINT NOT NULL,
  seen_at_ms BIGINT NOT NULL, address TEXT NOT NULL);
CREATE INDEX console_session_by_account ON console_session (account);
CREATE TABLE access_token (
  id {ID}, name TEXT NOT NULL UNIQUE, digest TEXT NOT NULL UNIQUE, scopes TEXT NOT NULL, made_at_ms BIGINT NOT NULL,
  expires_at_ms BIGINT, used_at_ms BIGINT, revoked_at_ms BIGINT);
CREATE TABLE consumer (
  name TEXT PRIMARY KEY, incarnation BIGINT NOT NULL, acknowledged BIGINT NOT NULL, made_at_ms BIGINT NOT NULL,
  acknowledged_at_ms BIGINT, note TEXT NOT NULL);
CREATE TABLE day_handed_over (
  store_id TEXT NOT NULL, business_day TEXT NOT NULL, completed_at_ms BIGINT NOT NULL,
  handed_over_at_ms BIGINT NOT NULL, PRIMARY KEY (store_id, business_day));
"""


_TABLES_13 = """
CREATE INDEX document_by_number ON document (receipt_number, business_day) WHERE receipt_number IS NOT NULL;
CREATE INDEX day_by_day ON day (business_day, store_id);
CREATE INDEX task_by_till ON task (till_id, created_at_ms);
CREATE INDEX gap_by_till ON gap (till_id) WHERE closed_at_ms IS NULL;
"""
"""What the console's pages search by: a receipt's number, the newest days, one till's tasks and gaps."""

_TABLES_14 = """
CREATE INDEX task_by_age ON task (created_at_ms, task_id);
CREATE INDEX task_by_state ON task (state, created_at_ms, task_id);
"""
"""The order of the list of tasks: of all, and of those in one state."""


def _everywhere(statements: str) -> dict[Kind, str]:
    return {"sqlite": statements, "postgresql": statements}


MIGRATIONS: tuple[dict[Kind, str], ...] = (
    _everywhere(_TABLES_1),
    {"sqlite": _VIEWS_SQLITE, "postgresql": _COMPRESSION + _VIEWS_POSTGRES},
    _everywhere(_TABLES_3),
    _everywhere(_TABLES_4),
    _everywhere(_TABLES_5),
    _everywhere(_TABLES_6),
    {"sqlite": _VIEWS_SQLITE_7, "postgresql": ""},
    _everywhere(_TABLES_8),
    _everywhere(_TABLES_9),
    _everywhere(_TABLES_10),
    _everywhere(_TABLES_11),
    _everywhere(_TABLES_12),
    _everywhere(_TABLES_13),
    _everywhere(_TABLES_14),
)
"""Migration n is the n-th, counted from 1. One that was released is never changed; a new one is added."""


class NewerSchemaError(Exception):
    """The database was migrated by a newer version than this one."""


def migrate(database: Sqlite | Postgres) -> int:
    """Apply what is missing and return how many were applied; safe to run twice, and from two processes at once.

    Whoever reads a table for long is waited for, with rests in which workers go on: one that waits for the whole of a
    table keeps everybody else from it. Raises NewerSchemaError, having changed nothing, if the database is ahead of
    this program.
    """
    while True:
        try:
            return _migrate(database)
        except pw.OperationalError as problem:
            if not is_held_up(problem):
                raise
        log.warning("migration_held_up", extra={"also": {"again_s": REST_S}})
        time.sleep(REST_S)


def _migrate(database: Sqlite | Postgres) -> int:
    with database.alone():  # The second process waits, then finds all done.
        if "migration" not in database.get_tables():  # Asked, not told: whoever only works there may make no tables.
            database.run("CREATE TABLE migration (number INTEGER PRIMARY KEY)")
        done = applied(database)
        if done > len(MIGRATIONS):
            raise NewerSchemaError(
                f"the database has migration {done}, this version knows {len(MIGRATIONS)}: upgrade it"
            )
        for number, step in enumerate(MIGRATIONS[done:], done + 1):
            database.run_all(step[database.kind])
            database.run("INSERT INTO migration (number) VALUES (?)", (number,))
    return len(MIGRATIONS) - done


def applied(database: Sqlite | Postgres) -> int:
    """Return how many migrations a database has; peewee.DatabaseError if it is none of ours."""
    done: int = database.run("SELECT coalesce(max(number), 0) FROM migration").fetchone()[0]
    return done
