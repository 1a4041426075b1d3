"""The socket that takes documents: any client that speaks HTTP on a Unix socket, and bounded whatever it does."""

from __future__ import annotations

import http.client
import json
import socket
import stat
import threading

import pytest
from factories import wait_until

from edge.intake.http_socket import Answer, SocketLimits, listen

LIMITS = SocketLimits(connections=2, timeout_s=5, body_bytes=1000)


class Client(http.client.HTTPConnection):
    """An HTTP connection over a Unix socket."""

    def __init__(self, path):
        super().__init__("localhost", timeout=5)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(5)
        self.sock.connect(str(self.path))

    def ask(self, method, path, body=None, **headers):
        self.request(method, path, body, headers)
        answer = self.getresponse()
        return answer.status, answer.headers, answer.read()


def echo(method, path, body):
    if path == "/refuse":
        return Answer(507, {"title": "No room"})
    return Answer(200, {"method": method, "path": path, "size": len(body), "text": "касса"})


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Serve the echo on a socket for all tests that only ask it something."""
    path = tmp_path_factory.mktemp("run") / "edge.sock"
    stop = listen(path, echo, LIMITS, None)
    yield path
    stop()


@pytest.fixture
def client(path):
    """Return a client that is closed after the test."""
    made = Client(path)
    yield made
    made.close()


def test_a_body_is_handed_over_and_answered(client):
    """A POST reaches whoever answers, with its path and its body, and the answer is JSON."""
    status, headers, body = client.ask("POST", "/documents?x=1", b"x" * 1000)

    assert (200, "application/json") == (status, headers["Content-Type"])
    assert json.loads(body) == {"method": "POST", "path": "/documents?x=1", "size": 1000, "text": "касса"}


def test_one_connection_takes_many_documents(client):
    """A POS may keep its connection open."""
    answers = [client.ask("POST", "/documents", b"x" * size)[2] for size in range(20)]

    assert list(range(20)) == [json.loads(body)["size"] for body in answers]


def test_an_error_is_a_problem_in_json(client):
    """Errors are ``application/problem+json`` (RFC 9457)."""
    status, headers, _ = client.ask("GET", "/refuse")

    assert (507, "application/problem+json") == (status, headers["Content-Type"])


def test_a_body_over_the_limit_is_refused_unread(client):
    """The refusal names the limit, and the connection ends: what would follow on it is that body."""
    status, _, body = client.ask("POST", "/documents", b"x" * 1001)

    assert status == 413
    assert "intake_limit_bytes is 1000" in json.loads(body)["detail"]


@pytest.mark.parametrize("length", ["-1", "1e3", "١", "", "0x10"])
def test_a_length_that_is_no_number_is_refused(client, length):
    """Only a plain number of bytes is a length; chunked bodies are not read."""
    client.putrequest("POST", "/documents")
    client.putheader("Content-Length", length.encode("utf-8"))
    client.endheaders()

    assert client.getresponse().status == 411


@pytest.mark.parametrize("digits", [400, 5000])
def test_a_length_of_very_many_digits_is_refused(client, digits):
    """A length that no body can have is too large, however many digits it takes to say so."""
    client.putrequest("POST", "/documents")
    client.putheader("Content-Length", "9" * digits)
    client.endheaders()

    assert client.getresponse().status == 413


def test_a_body_that_was_cut_off_is_not_handed_over(tmp_path):
    """A client that dies in the middle of a document has closed nothing: half of its bytes must not be numbered."""
    asked = []

    def ask(*what):
        asked.append(what)
        return Answer(200, {})

    stop = listen(tmp_path / "edge.sock", ask, LIMITS, None)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.connect(str(tmp_path / "edge.sock"))
            client.sendall(b'POST /documents HTTP/1.1\r\nContent-Length: 100\r\n\r\n{"document_id": "ha')
            client.shutdown(socket.SHUT_WR)
            client.settimeout(5)
            while client.recv(1000):
                pass
    finally:
        stop()

    assert asked == []


def test_more_clients_than_there_is_room_for_wait_and_are_all_served(tmp_path):
    """Further clients wait in the backlog, not in threads of ours, and get their answer in the end."""
    go_on, inside = threading.Event(), []

    def ask(_method, _path, _body):
        inside.append(1)
        go_on.wait(5)
        return Answer(200, {})

    stop = listen(tmp_path / "edge.sock", ask, LIMITS, None)
    statuses = []

    def post():
        client = Client(tmp_path / "edge.sock")
        statuses.append(client.ask("POST", "/documents", b"x", Connection="close")[0])
        client.close()

    clients = [threading.Thread(target=post) for _ in range(6)]
    for one in clients:
        one.start()
    try:
        assert wait_until(lambda: len(inside) == 2)
        assert not wait_until(lambda: len(inside) > 2, most_s=0.1)
        go_on.set()
        for one in clients:
            one.join(5)
    finally:
        go_on.set()
        stop()

    assert statuses == [200] * 6


def test_only_the_pos_and_its_group_may_hand_over(path):
    """The socket is 0660."""
    assert stat.S_IMODE(path.stat().st_mode) == 0o660


def test_a_socket_of_a_dead_agent_is_replaced_and_a_stopped_one_is_gone(tmp_path):
    """An agent that was killed leaves its socket behind; the next one takes its place."""
    path = tmp_path / "edge.sock"
    path.write_bytes(b"")
    stop = listen(path, echo, LIMITS, None)
    client = Client(path)
    assert client.ask("GET", "/status")[0] == 200
    client.close()
    stop()

    assert not path.exists()


def test_a_name_that_is_no_text_is_told_all_the_same(tmp_path):
    """A status names files, and a file's name may be no UTF-8."""
    stop = listen(tmp_path / "edge.sock", lambda *_: Answer(200, {"file": "\udcff.json"}), LIMITS, None)
    client = Client(tmp_path / "edge.sock")
    told = client.ask("GET", "/status")
    client.close()
    stop()

    assert json.loads(told[2]) == {"file": "\udcff.json"}
