"""The simulated POS: it never loses a closed document, whatever the agent, the socket or a kill does."""

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from itertools import islice
from random import Random
from socketserver import UnixStreamServer

import pytest

from fleet.baskets import Register, documents, encode
from fleet.catalogue import make_catalogue
from fleet.ledger import Ledger, fingerprint
from fleet.pos import FirstThat, Journal, NotTakenError, Pos, Socket, SpoolFolder, identity_of, not_yet_closed, ring

PRODUCTS = make_catalogue(Random(7), 50)

DIES_WHILE_HANDING_OVER = """
import os, signal, sys
from pathlib import Path
from random import Random
from fleet.baskets import Register, documents
from fleet.catalogue import make_catalogue
from fleet.ledger import Ledger
from fleet.pos import Journal, Pos, SpoolFolder
folder = Path(sys.argv[1])
spool, taken = SpoolFolder(folder), []
def hand_over(body):
    taken.append(body)
    if len(taken) == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    spool(body)
pos = Pos(Ledger(folder, "till-1"), Journal(folder, "till-1"), hand_over)
for document in documents(Register("till-1", Random(5), make_catalogue(Random(7), 50)), 0):
    pos.close(document)
"""


def stream():
    return documents(Register("till-1", Random(5), PRODUCTS), 0)


def some(count):
    return list(islice(stream(), count))


class Agent:
    """A till's agent as a POS sees it: a Unix socket that answers what the test says."""

    def __init__(self, path):
        self.path, self.status, self.posts = path, 201, []

        class Intake(BaseHTTPRequestHandler):
            def do_POST(intake):  # noqa: N805
                body = intake.rfile.read(int(intake.headers["Content-Length"]))
                self.posts.append((intake.path, intake.headers["Content-Type"], body))
                if self.status is None:
                    return
                intake.send_response(self.status)
                intake.end_headers()

            def log_message(intake, *_):  # noqa: N805
                pass

        self._server = UnixStreamServer(str(path), Intake)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def stop(self):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self.path.unlink()

    @property
    def bodies(self):
        return [body for _, _, body in self.posts]


@pytest.fixture
def agent(tmp_path):
    running = Agent(tmp_path / "agent.sock")
    yield running
    running.stop()


@pytest.fixture
def spool(tmp_path):
    folder = tmp_path / "spool"
    folder.mkdir()
    return folder


def make_pos(folder, hand_over, after_close=None):
    return Pos(Ledger(folder, "till-1"), Journal(folder, "till-1"), hand_over, after_close)


def journal_of(folder):
    return Journal(folder, "till-1").bodies()


def test_documents_are_posted_as_they_are(tmp_path, agent):
    """The agent gets the exact bytes, in the order of closing, as JSON; the books hold the same bytes' prints."""
    pos = make_pos(tmp_path, Socket(agent.path))
    closed = some(20)
    assert all(pos.close(document) for document in closed)
    assert agent.posts == [("/documents", "application/json", encode(document)) for document in closed]
    entered = [(entry.document_id, entry.blake2b) for entry in Ledger(tmp_path, "till-1").entries()]
    assert entered == [(identity_of(body), fingerprint(body)) for body in agent.bodies]
    assert journal_of(tmp_path) == []


@pytest.mark.parametrize("status", [200, 201, 202])
def test_each_success_ends_the_matter(tmp_path, agent, status):
    """New, already held and accepted although oversize all mean: the agent has it."""
    agent.status = status
    assert make_pos(tmp_path, Socket(agent.path)).close(some(1)[0])


@pytest.mark.parametrize("status", [None, 400, 413, 500, 503, 507])
def test_anything_else_goes_to_the_spool(tmp_path, agent, spool, status):
    """An answer that is an error, or none at all, puts the document into the spool folder, whole and under its id."""
    agent.status = status
    document = some(1)[0]
    assert make_pos(tmp_path, FirstThat(Socket(agent.path), SpoolFolder(spool))).close(document)
    assert [path.name for path in spool.iterdir()] == [f"{document['document_id']}.json"]
    assert next(spool.iterdir()).read_bytes() == encode(document)


def test_an_agent_that_is_down_costs_nothing(tmp_path, spool):
    """Without a socket, and with a socket that nobody listens on, the spool folder takes every document."""
    pos = make_pos(tmp_path, FirstThat(Socket(tmp_path / "agent.sock"), SpoolFolder(spool)))
    first, second = some(2)
    assert pos.close(first)
    dead = UnixStreamServer(str(tmp_path / "agent.sock"), BaseHTTPRequestHandler)
    dead.server_close()
    assert pos.close(second)
    assert len(list(spool.iterdir())) == 2


def test_an_agent_that_hangs_is_not_waited_for(tmp_path, spool):
    """A socket that takes the connection and never answers is given up after the time limit."""
    hanging = UnixStreamServer(str(tmp_path / "agent.sock"), BaseHTTPRequestHandler)
    try:
        way = FirstThat(Socket(tmp_path / "agent.sock", timeout_s=0.05), SpoolFolder(spool))
        assert make_pos(tmp_path, way).close(some(1)[0])
    finally:
        hanging.server_close()
    assert len(list(spool.iterdir())) == 1


def test_what_nobody_takes_is_kept_and_repeated(tmp_path, agent):
    """With neither agent nor spool, documents wait in the journal, and go in order once the agent is back."""
    gone = Socket(tmp_path / "nowhere.sock")
    pos = make_pos(tmp_path, gone)
    closed = some(3)
    assert [pos.close(document) for document in closed] == [False, False, False]
    assert pos.unconfirmed == 3
    restarted = make_pos(tmp_path, Socket(agent.path))
    assert restarted.unconfirmed == 3
    assert restarted.repeat()
    assert agent.bodies == [encode(document) for document in closed]
    assert journal_of(tmp_path) == []


def test_an_answer_that_was_lost_leads_to_the_same_bytes_again(tmp_path, agent):
    """Taken but not heard: the document comes again, byte for byte, and stands once in the books."""
    agent.status = None
    pos = make_pos(tmp_path, Socket(agent.path))
    assert not pos.close(some(1)[0])
    agent.status = 200
    assert pos.repeat()
    assert len(agent.bodies) == 2
    assert len(set(agent.bodies)) == 1
    assert len(list(Ledger(tmp_path, "till-1").entries())) == 1


def test_a_killed_pos_hands_over_again_at_restart(tmp_path, spool):
    """Killed between its books and the agent, it repeats the document and goes on in the stream where it stopped."""
    killed = subprocess.run([sys.executable, "-c", DIES_WHILE_HANDING_OVER, spool], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(list(spool.glob("*.json"))) == 4
    pos = make_pos(spool, SpoolFolder(spool))
    assert pos.repeat()
    for document in islice(not_yet_closed(stream(), Ledger(spool, "till-1")), 3):
        pos.close(document)
    closed = [encode(document) for document in some(8)]
    assert {path.read_bytes() for path in spool.glob("*.json")} == set(closed)
    assert [entry.blake2b for entry in Ledger(spool, "till-1").entries()] == list(map(fingerprint, closed))


def test_a_document_killed_before_its_entry_is_entered_at_restart(tmp_path):
    """What stands in the journal was closed: the books are made to say so, once."""
    body = encode(some(1)[0])
    Journal(tmp_path, "till-1").append(body)
    taken = []
    for _ in range(2):
        make_pos(tmp_path, taken.append).repeat()
    assert taken == [body]
    assert [entry.blake2b for entry in Ledger(tmp_path, "till-1").entries()] == [fingerprint(body)]


def test_a_torn_journal_line_was_never_closed(tmp_path):
    """Half a document at the journal's end is neither entered nor handed over, nor glued to the next."""
    (tmp_path / "till-1.unconfirmed.jsonl").write_bytes(b'{"document_id":"a"')
    taken = []
    pos = make_pos(tmp_path, taken.append)
    assert pos.close(some(1)[0])
    assert taken == [encode(some(1)[0])]


def test_a_function_in_the_same_process_is_a_way_too(tmp_path):
    """A fleet in one process hands over by a call; one that raises is repeated with the next document."""
    taken, refuse = [], [True]

    def hand_over(body):
        if refuse:
            refuse.pop()
            raise NotTakenError
        taken.append(body)

    pos = make_pos(tmp_path, hand_over)
    closed = some(2)
    assert [pos.close(document) for document in closed] == [False, True]
    assert taken == [encode(document) for document in closed]


def test_the_event_comes_after_the_hand_over(tmp_path):
    """After-close fires once something was taken, and not when nothing was."""
    happened, refuse = [], []

    def hand_over(_body):
        if refuse:
            raise NotTakenError
        happened.append("taken")

    pos = make_pos(tmp_path, hand_over, lambda: happened.append("event"))
    pos.close(some(1)[0])
    refuse.append(True)
    pos.close(some(2)[1])
    assert happened == ["taken", "event"]


def test_ring_writes_one_byte(tmp_path):
    """The agent, waiting at the FIFO, reads one r for each ring."""
    fifo = tmp_path / "ring"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert ring(fifo)
        assert ring(fifo)
        assert os.read(reader, 10) == b"rr"
    finally:
        os.close(reader)


def test_ring_never_blocks(tmp_path):
    """No FIFO, a plain file, a FIFO nobody reads and one that is full: the till goes on at once."""
    plain, fifo = tmp_path / "plain", tmp_path / "ring"
    plain.write_bytes(b"")
    os.mkfifo(fifo)
    assert not ring(tmp_path / "nowhere")
    assert not ring(plain)
    assert plain.read_bytes() == b""
    assert ring(fifo)
    held = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
    try:
        with suppress(BlockingIOError):
            while os.write(held, b"r" * 4096):
                pass
        assert not ring(fifo)
    finally:
        os.close(held)
