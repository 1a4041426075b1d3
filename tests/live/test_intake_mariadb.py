"""The reader of a POS's own MariaDB: a real server, transactions that commit late, and a server that goes away."""

from __future__ import annotations

import contextlib
import itertools
import logging

import pymysql
import pytest
from intake_pos import ABOUT, Clock, Taker, a_day, a_pos, added_up, as_meant, example
from mariadb import MARIADBD, PASSWORD, install, running

from edge.intake import database, position
from edge.intake.mapping import read_mapping
from edge.intake.settle import Position
from edge.intake.sql import SqlReader
from edge.intake.taking import IntakeError
from fleet.baskets import encode
from fleet.ledger import Ledger
from fleet.pos_database import PosDatabase, mariadb

pytestmark = pytest.mark.skipif(MARIADBD is None, reason="MariaDB is not installed")
NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mariadb")
    install(folder)
    with running(folder) as server:
        yield server


@pytest.fixture
def name(server):
    """Return the name of a database, and of its reader, that no other test has."""
    name = f"pos{next(NUMBERS)}"
    server.new_database(name)
    return name


@pytest.fixture
def pos(server, name, tmp_path):
    pos = a_pos(tmp_path, mariadb(**server.login, database=name))
    yield pos
    pos.disconnect()


@pytest.fixture
def taker(tmp_path):
    return Taker(tmp_path / "till")


def a_mapping(folder, server, name):
    """Return the documentation's MariaDB example; user, address and the password's file are replaced, nothing else."""
    (folder / "password").write_text(PASSWORD + "\n", "utf-8")
    return example(
        "mariadb-pos",
        folder,
        database=("tillstream@127.0.0.1:3306/pos", f"{name}@127.0.0.1:{server.port}/{name}"),
        password=("/etc/tillstream/pos.password", str(folder / "password")),
    )


def a_reader(folder, server, name, clock=None):
    return SqlReader(read_mapping(a_mapping(folder, server, name)), folder / "intake", ABOUT, clock or Clock())


def test_every_type_comes_out_as_it_was_rung_up(tmp_path, server, name, pos, taker):
    """All documents and blocks, through MariaDB's types and the documented mapping, equal what the register closed."""
    closed = a_day(460, seed=27)
    for document in closed:
        pos.close(document)
    reader = a_reader(tmp_path, server, name)
    reader.read(taker)
    reader.close()

    assert [as_meant(encode(document)) for document in closed] == [as_meant(body) for body in taker.bodies()]
    assert pos.sums() == added_up(taker.bodies())
    assert not reader.problems


def test_a_transaction_that_commits_late_is_not_skipped(tmp_path, server, name, pos, taker):
    """Key 4 commits after 5 and 6 were taken, and over a restart of the agent: it is taken, once."""
    clock, closed = Clock(), a_day(7)
    for document in closed[:3]:
        pos.close(document)
    late = pos.close_late(closed[3])
    keys = [pos.close(document) for document in closed[4:6]]
    assert late.key < min(keys)
    reader = a_reader(tmp_path, server, name, clock)
    assert reader.read(taker) == 5
    reader.close()
    assert position.load(tmp_path / "intake", "mariadb-pos", 0) == Position(3, (5, 6))

    clock.now += 3000
    again = a_reader(tmp_path, server, name, clock)
    assert again.read(taker) == 0
    late.commit()
    pos.close(closed[6])
    assert again.read(taker) == 2
    assert pos.sums() == added_up(taker.bodies())
    again.read(taker)
    again.close()
    assert position.load(tmp_path / "intake", "mariadb-pos", 0) == Position(7)


def test_a_transaction_that_is_rolled_back_is_waited_for_and_then_passed_over(tmp_path, server, name, pos, taker):
    """Its key never comes; after the wait it holds nothing up."""
    clock, closed = Clock(), a_day(3)
    pos.close(closed[0])
    late = pos.close_late(closed[1])
    pos.close(closed[2])
    late.roll_back()
    reader = a_reader(tmp_path, server, name, clock)
    reader.read(taker)
    assert position.load(tmp_path / "intake", "mariadb-pos", 0) == Position(1, (3,))
    clock.now += 3600
    reader.read(taker)
    reader.close()

    assert position.load(tmp_path / "intake", "mariadb-pos", 0) == Position(3)


def test_a_document_and_its_lines_are_of_one_moment(tmp_path, server, name, pos, taker, monkeypatch):
    """What the POS commits between the queries of a page is not seen by any of them."""
    closed = [document for document in a_day(200) if document["transaction_type"] in ("shift_open", "sale")]
    for document in closed[:3]:
        pos.close(document)
    ask = database.MysqlSession.ask

    def ask_and_change(session, query, parameters, most):
        if "receipt_line" in query and parameters["key"] > 0:
            pos.execute("UPDATE receipt_line SET amount = amount + 1")
        return ask(session, query, parameters, most)

    monkeypatch.setattr(database.MysqlSession, "ask", ask_and_change)
    reader = a_reader(tmp_path, server, name)
    reader.read(taker)
    reader.close()

    assert pos.sums() == added_up(taker.bodies())


def test_the_session_cannot_write_even_where_the_user_may(tmp_path, server, name, pos):
    """The server itself refuses: the session is read-only, whatever the user is allowed."""
    server.run(f"GRANT ALL ON {name}.* TO {name}@'%'")
    session = database.connect(read_mapping(a_mapping(tmp_path, server, name)).source)
    for statement in (
        "DELETE FROM receipt",
        "INSERT INTO shift VALUES (1, '2026-03-01', '', '')",
        "DROP TABLE receipt",
    ):
        with pytest.raises(database.DatabaseError, match="READ ONLY"):
            session.ask(statement, {}, 1)
    session.close()


def test_what_mysql_calls_percent_and_backslash_is_left_alone(tmp_path, server, name, pos):
    """Literals keep their bytes; only what stands for a parameter is replaced."""
    session = database.connect(read_mapping(a_mapping(tmp_path, server, name)).source)
    query = r"""SELECT 'a%b :key', "it\"s :key", 10 % :key, ':' -- :key
      FROM dual # :key
      WHERE 'x\':key' LIKE '%' /* :key */"""
    found = session.ask(query, {"key": 4}, 1)
    session.close()

    assert [("a%b :key", 'it"s :key', 2, ":")] == [tuple(row.values()) for row in found.rows]


# -- What goes wrong ---------------------------------------------------------------------------------------------------


def test_errors_name_what_is_wrong_and_never_the_password(tmp_path, server, name, pos, taker, caplog):
    """Access denied, an unknown database, nobody listening, a missing column, a missing password file."""
    caplog.set_level(logging.DEBUG)
    pos.close(a_day(1)[0])
    server.run(f"GRANT SELECT ON no_such_one.* TO {name}@'%'")
    path = a_mapping(tmp_path, server, name)
    good = path.read_text("utf-8")
    (tmp_path / "wrong").write_text("wrong-secret", "utf-8")
    cases = (
        ("Access denied for user", '/password"', '/wrong"'),
        ("password_file: ", '/password"', '/nowhere"'),
        ("Unknown database", f'/{name}"', '/no_such_one"'),
        ("Can't connect", f":{server.port}/", ":1/"),
        ("documents.query: ", "receipt.id >", "receipt.nr >"),
        ("no column `reasn`", 'reason_code = "reason"', 'reason_code = "reasn"'),
    )
    for told, given, instead in cases:
        assert given in good
        path.write_text(good.replace(given, instead), "utf-8")
        reader = SqlReader(read_mapping(path), tmp_path / "intake", ABOUT, Clock())
        with pytest.raises(IntakeError) as raised:
            reader.read(taker)
        assert told in str(raised.value)
        assert str(path) in str(raised.value)
        for secret in (PASSWORD, "wrong-secret"):
            assert secret not in str(raised.value) + repr(raised.value.__context__) + caplog.text


def test_a_server_that_goes_away_and_comes_back_loses_and_doubles_nothing(tmp_path, taker):
    """The reader's connection dies with the server; the error is clear, and the next pass goes on where it was."""
    folder = tmp_path / "server"
    folder.mkdir()
    install(folder)
    closed, clock = a_day(12), Clock()
    with running(folder) as server:
        port = server.port
        server.new_database("pos")
        pos = a_pos(tmp_path, mariadb(**server.login, database="pos"))
        for document in closed[:5]:
            pos.close(document)
        reader = a_reader(tmp_path, server, "pos", clock)
        assert reader.read(taker) == 5
        pos.disconnect()
    for _ in range(2):
        with pytest.raises(IntakeError, match=r"mariadb-pos\.toml: database: pos@127\.0\.0\.1:"):
            reader.read(taker)
    with running(folder, port) as server:
        pos = a_pos_again(tmp_path, server)
        for document in closed[5:]:
            pos.close(document)
        assert reader.read(taker) == 7
        reader.close()
        assert pos.sums() == added_up(taker.bodies())
        pos.disconnect()


def a_pos_again(folder, server):
    """Return the POS over the tables and the books that are there."""
    return PosDatabase(mariadb(**server.login, database="pos"), Ledger(folder, "till-1", fsync=False))


def test_a_connection_that_the_server_cut_is_made_anew(tmp_path, server, name, pos, taker):
    """A restart of the server, or wait_timeout: one error, and the next pass is whole."""
    closed = a_day(4)
    pos.close(closed[0])
    reader = a_reader(tmp_path, server, name)
    reader.read(taker)
    with contextlib.closing(pymysql.connect(**server.login)) as admin:
        cursor = admin.cursor()
        cursor.execute(f"SELECT id FROM information_schema.processlist WHERE user = '{name}'")
        for (thread,) in cursor.fetchall():
            cursor.execute(f"KILL {thread}")
    for document in closed[1:]:
        pos.close(document)
    with pytest.raises(IntakeError):
        reader.read(taker)

    assert reader.read(taker) == 3
    reader.close()
