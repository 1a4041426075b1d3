"""What tests do to a database of either kind: listen to its statements, and have it refuse rows."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from central.database import Place


@contextlib.contextmanager
def listening(database, hear: Callable[[str], None]) -> Iterator[None]:
    """Hear each statement that reaches the database, of many rows at once PostgreSQL's once."""
    connection = database.connection()
    if database.kind == "sqlite":
        connection.set_trace_callback(hear)
        yield
        connection.set_trace_callback(None)
        return
    plain = connection.cursor_factory

    class Heard(plain):
        def execute(self, query, *arguments, **options):
            hear(query)
            return super().execute(query, *arguments, **options)

        def executemany(self, query, *arguments, **options):
            hear(query)
            return super().executemany(query, *arguments, **options)

    connection.cursor_factory = Heard
    yield
    connection.cursor_factory = plain


def look(url: str, statement: str) -> list[tuple]:
    """Run one statement beside whatever else runs, and return its rows."""
    with contextlib.closing(Place(url).look(to_write=True)) as database:
        cursor = database.run(statement)
        return cursor.fetchall() if cursor.description else []


def refuse(database, table: str, when: str, condition: str) -> Callable[[], None]:
    """Have the database refuse rows as if a rule of its own forbade them; returns what takes that back."""
    if database.kind == "sqlite":
        database.run(
            f"CREATE TRIGGER refusing BEFORE {when} ON {table} WHEN {condition}"
            " BEGIN SELECT RAISE(ABORT, 'refused by a rule'); END"
        )
        return lambda: database.run("DROP TRIGGER refusing")
    database.run(
        "CREATE FUNCTION refusing() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE check_violation USING MESSAGE = 'refused by a rule'; END $$"
    )
    database.run(
        f"CREATE TRIGGER refusing BEFORE {when} ON {table} FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION refusing()"
    )
    return lambda: database.run(f"DROP TRIGGER refusing ON {table}")
