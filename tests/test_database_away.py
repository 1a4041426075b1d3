"""PostgreSQL goes away, comes back, only reads, is another one: nothing that it did not commit was ever promised."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading

import psycopg
import pytest
from click.testing import CliRunner
from factories import a_greeting, a_sale, digest_of, some_sales, wait_until
from postgres import PASSWORD, running
from test_subscriber import Central

from central.cli import central as cli
from wire import codec, topics
from wire.link import Connected, Disconnected
from wire.messages import CentralPresence

BODIES = some_sales(6)
REPLICATES = {"wal_level": "replica", "max_wal_senders": "4", "hot_standby": "on"}


@pytest.fixture
def url(postgres):
    """Return a new database of the private server."""
    made = postgres.new_database()
    yield made
    postgres.drop(made)


@pytest.fixture
def central(url):
    """Return a central on PostgreSQL that has committed three documents of a till that holds six."""
    made = Central(url)
    begin(made)
    yield made
    made.store.database.close()


def begin(central):
    central.shell.handle_all([central.bell(6, digest=digest_of(BODIES)), central.sales(BODIES[:3])], 0.0)
    assert central.documents() == 3
    central.link.published.clear()
    central.link.acknowledged.clear()


def send_rest(central, now):
    """Let the till send what follows the third document, as it does when it was asked."""
    central.shell.handle_all([central.sales(BODIES[3:], before=BODIES[:3])], now)


def say_all_again(central, now):
    """Let the broker and the till do what they do after a new connection."""
    again = [Disconnected(1, "anew"), Connected(2), central.bell(6, digest=digest_of(BODIES))]
    central.shell.handle_all(again, now)


def has_promised_nothing(central):
    return not central.link.acknowledged and not central.said_to()[1]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT, signal.SIGKILL], ids=["shutdown", "crash", "kill -9"])
def test_while_the_server_is_away_nothing_is_promised_and_it_goes_on_by_itself(postgres, central, how, caplog):
    """Each attempt waits longer, the log says why, and once the server is back everything is stored once."""
    caplog.set_level("INFO", "tillstream")
    postgres.stop(how)
    send_rest(central, 1.0)
    waits, now = [], 1.0
    for _ in range(8):
        deadline = central.shell.next_deadline()
        waits.append(deadline - now)
        now = deadline
        send_rest(central, now - 0.01)
        central.shell.tick(now)

    assert has_promised_nothing(central)
    assert waits[0] <= 1.0 < waits[3] <= 8.0 < waits[-1] <= 30.0
    away = [record for record in caplog.records if record.message == "database_away"]
    assert len(away) == 9
    assert "connection to server" in away[-1].also["error"]
    assert PASSWORD not in caplog.text

    postgres.start()
    reconnects = len(central.link.reconnects)
    central.shell.tick(central.shell.next_deadline())
    assert len(central.link.reconnects) == reconnects + 1, "so that all is said again"
    assert "database_back" in caplog.messages
    say_all_again(central, now + 60)
    send_rest(central, now + 61)
    assert central.documents() == 6
    assert central.said_to()[1][-1].through == 6


def test_a_connection_that_the_server_ends_is_made_anew_at_once(postgres, central):
    """Idle for hours, or by an administrator: the next commit notices, and the one after it goes through."""
    terminate_all(postgres)
    send_rest(central, 1.0)
    assert has_promised_nothing(central)
    assert central.shell.next_deadline() <= 2.0

    say_all_again(central, 1.5)
    send_rest(central, 2.0)
    assert central.documents() == 6


def terminate_all(postgres):
    ours = "application_name LIKE 'tillstream%' AND pid <> pg_backend_pid()"
    postgres.run(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {ours}")
    assert wait_until(lambda: postgres.run(f"SELECT count(*) FROM pg_stat_activity WHERE {ours}") == [(0,)])


def test_a_database_that_only_reads_is_waited_for(postgres, central, url):
    """By an administrator, or until a failover is over: nothing is promised, on the open connection neither."""
    name = central.store.database.run("SELECT current_database()").fetchone()[0]
    central.store.database.run("SET default_transaction_read_only = on")
    postgres.run(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    send_rest(central, 1.0)
    central.shell.tick(3.0)
    assert has_promised_nothing(central)
    assert central.shell.next_deadline() > 3.0

    postgres.run(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    central.shell.tick(60.0)
    say_all_again(central, 61.0)
    send_rest(central, 62.0)
    assert central.documents() == 6


@pytest.mark.parametrize("waits", [False, True], ids=["unnoticed", "waits for it"])
def test_a_worker_that_is_told_to_stop_while_the_server_is_away_says_goodbye_and_stops(postgres, central, waits):
    """What it could not write is shown again by the tills; the will is not needed, and nothing ends in a traceback."""
    central.shell.handle_all([central.presence(a_greeting())], 0.5)
    postgres.stop()
    try:
        if waits:
            central.shell.tick(1.0)
        assert (central.shell._begin_at is not None) == waits
        central.shell.stop()
        central.store.close()
    finally:
        postgres.start()

    (last,) = central.link.payloads(topics.CENTRAL_PRESENCE.of(worker=1))
    assert not codec.decode(CentralPresence, last).online


# -- A commit of which nobody heard ------------------------------------------------------------------------------------


class CutAtCommit:
    """Carries one connection at a time to the server; once armed it is cut at COMMIT, before it arrives or after."""

    def __init__(self, port: int) -> None:
        self._port, self.armed = port, ""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                with client, socket.create_connection(("127.0.0.1", self._port)) as server:
                    back = threading.Thread(target=self._back, args=(server, client), daemon=True)
                    back.start()
                    self._forward(client, server)
                    back.join()

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while given := client.recv(2**16):
                if b"COMMIT" in given and self.armed:
                    how, self.armed = self.armed, ""
                    if how == "after":
                        client.shutdown(socket.SHUT_RDWR)  # Nothing of what the server says gets through.
                        server.sendall(given)
                    break
                server.sendall(given)
            server.shutdown(socket.SHUT_WR)  # What was sent is carried out; then the server sees the end.
            client.shutdown(socket.SHUT_RDWR)

    def _back(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while given := server.recv(2**16):
                with contextlib.suppress(OSError):
                    client.sendall(given)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)


@pytest.fixture
def cut(postgres):
    """Return what stands between central and the server."""
    made = CutAtCommit(postgres.port)
    yield made
    made.close()


@pytest.mark.fault("F33")
@pytest.mark.parametrize("where", ["before", "after"])
def test_a_commit_of_which_nobody_heard_is_never_acknowledged_and_the_row_decides(
    postgres, url, cut, where, monkeypatch
):
    """Cut before COMMIT arrives, or before its answer does: central cannot tell, so it asks the row."""
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    name = url.split("@")[1].split("?")[0].strip("/")
    central = Central(postgres.tcp_url(name, cut.port))
    begin(central)
    cut.armed = where
    send_rest(central, 1.0)
    assert cut.armed == ""
    assert has_promised_nothing(central)
    assert len(central.link.reconnects) == 1

    committed = 6 if where == "after" else 3
    assert wait_until(lambda: central.documents() == committed)
    say_all_again(central, 2.0)
    send_rest(central, 3.0)
    assert central.documents() == 6
    assert central.said_to()[1][-1].through == 6
    assert central.store.database.run("SELECT count(DISTINCT document_id) FROM document").fetchone() == (6,)
    central.store.close()


# -- Another server takes over -----------------------------------------------------------------------------------------


@pytest.mark.fault("F32")
def test_a_standby_without_the_last_commits_takes_over_and_the_tills_send_them_again():
    """What the dead server had acknowledged and not handed on: the till's doorbell is ahead, it is asked, it sends."""
    with running(**REPLICATES) as first:
        name = first.new_database().split("@")[1].split("?")[0].strip("/")
        with running(copy_of=first, **REPLICATES) as second:
            hosts = f"host={first.folder},{second.folder}&port={first.port},{second.port}"
            central = Central(f"postgresql://tillstream@/{name}?{hosts}")
            begin(central)
            at_second = "SELECT count(*) FROM document"
            assert wait_until(lambda: second.run(at_second, name) == [(3,)])
            second.stop()
            send_rest(central, 1.0)
            assert central.said_to()[1][-1].through == 6
            first.stop(signal.SIGKILL)
            second.start()
            central.shell.tick(2.0)
            central.shell.tick(60.0)
            assert central.shell._begin_at is not None, "a standby that only reads is not taken for the new one"

            second.run("SELECT pg_promote()")
            central.shell.tick(120.0)
            assert central.documents() == 3
            central.link.published.clear()
            say_all_again(central, 121.0)
            central.shell.tick(130.0)
            assert [3] == [one.after for one in central.said_to()[0]]
            send_rest(central, 131.0)
            assert central.documents() == 6
            central.store.close()


def test_days_are_looked_at_anew_after_a_server_that_gives_out_numbers_again(postgres, central):
    """A crash or a failover sets the numbers back: what gets one that was looked at is looked at all the same."""
    central.shell.tick(6.0)
    central.store.database.run("DELETE FROM document WHERE sequence > 1")
    central.store.database.run("UPDATE watermark SET through = 1, digest = ?", (digest_of(BODIES[:1]),))
    central.store.database.run("SELECT setval('document_id_seq', 1)")
    terminate_all(postgres)
    central.shell.tick(12.0)
    other_day = [a_sale("other", business_day="2026-01-02")]
    say_all_again(central, 13.0)
    central.shell.handle_all([central.sales(other_day, before=BODIES[:1])], 14.0)
    central.shell.tick(20.0)
    assert ("2026-01-02",) in central.store.database.run("SELECT business_day FROM day").fetchall()


def test_of_several_servers_the_one_that_is_no_standby_is_asked_whoever_asks(tmp_path):
    """Named last it is still the one that people read, that is dumped, and in which a dump is put in place."""
    with running(**REPLICATES) as first, running(copy_of=first, **REPLICATES) as standby:
        name = first.new_database().split("@")[1].split("?")[0].strip("/")
        hosts = f"host={standby.folder},{first.folder}&port={standby.port},{first.port}"
        central = Central(f"postgresql://tillstream@/{name}?{hosts}")
        begin(central)
        central.store.close()

        def has_come():
            with contextlib.suppress(psycopg.OperationalError):  # The database itself may not have come yet.
                return standby.run("SELECT count(*) FROM document", name) == [(3,)]

        assert wait_until(has_come)

        def run(*arguments):
            return CliRunner().invoke(cli, ["--database", central.store.database.place.url, *arguments])

        for arguments in (["documents", "--after", "0"], ["status"], ["backup", "--to", str(tmp_path)]):
            done = run(*arguments)
            assert done.exit_code == 0, done.output
        done = run("restore", str(*tmp_path.iterdir()))
        assert done.exit_code == 0, done.output
        assert first.run("SELECT incarnation, (SELECT count(*) FROM document) FROM central", name) == [(2, 3)]


def test_a_document_of_another_till_in_the_same_moment_is_not_lost_with_it(postgres, central):
    """Two tills in one transaction that the server ends: neither is promised, both come again."""
    other = [a_sale(till_id="till-2")]
    central.shell.handle_all([central.bell(1, "till-2", digest=digest_of(other))], 0.5)
    terminate_all(postgres)
    both = [central.sales(BODIES[3:], before=BODIES[:3]), central.sales(other, "till-2")]
    central.link.acknowledged.clear()
    central.shell.handle_all(both, 1.0)
    assert central.link.acknowledged == []

    central.shell.handle_all(both, 2.0)
    assert central.documents() == 7
