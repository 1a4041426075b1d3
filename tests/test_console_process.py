"""``tillstream central console run`` as a process: where it listens, how it ends, and what it refuses to do."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from factories import a_store
from pki import Pki

from central.config import CentralConfig
from wire.program import EXIT_FAILED, EXIT_NOT_REACHABLE, ConfigError, read_config

ROOT = Path(__file__).parent.parent


def command(url, **config):
    environ = {f"TILLSTREAM_{key.upper()}": str(value) for key, value in config.items()}
    arguments = [sys.executable, "-m", "tillstream", "central", "--database", str(url), "console", "run"]
    return arguments, {**os.environ, "TILLSTREAM_CONSOLE_LISTEN": "127.0.0.1:0", **environ}


@contextmanager
def running(url, **config):
    """Run a console; yields the process and the address that its log names."""
    arguments, environ = command(url, **config)
    with subprocess.Popen(arguments, cwd=ROOT, env=environ, stderr=subprocess.PIPE, text=True) as process:
        try:
            told = iter(process.stderr.readline, "")
            started = next(line for line in map(json.loads, told) if line["event"] == "started")
            yield process, started["address"]
        finally:
            process.kill()


def test_it_serves_where_it_says_and_ends_when_told(central_url):
    """The log names the address once it answers there; SIGTERM ends it with 0."""
    a_store(central_url).close()
    with running(central_url) as (process, address):
        with urllib.request.urlopen(f"{address}login", timeout=20) as answer:
            assert (answer.status, "<form" in answer.read().decode()) == (200, True)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_a_restore_and_a_worker_are_not_in_its_way_once_it_ended(central_url):
    """A console that was killed leaves nothing that holds anybody up."""
    a_store(central_url).close()
    with running(central_url) as (process, _address):
        process.kill()
        process.wait(20)
    store = a_store(central_url)
    assert store.starts == 2
    store.close()


@pytest.mark.parametrize(
    "begun",
    [
        b"",
        b"GET /login HTTP/1.1\r\nHost: a\r\nX-Slow: ",
        b"POST /login HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\nContent-Length: 9\r\n\r\na",
        b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\nGET /hea",
    ],
    ids=["nothing", "half a head", "half a body", "a second one"],
)
def test_a_client_that_does_not_end_its_request_is_let_go(tmp_path, begun):
    """A few hundred of them would keep everybody else out; one that asks again and again stays connected."""
    url = tmp_path / "central.db"
    a_store(str(url)).close()
    with running(url, console_request_s=1) as (_process, address):
        place = (urlsplit(address).hostname, urlsplit(address).port)
        with closing(http.client.HTTPConnection(*place, timeout=20)) as busy, socket.create_connection(place) as slow:
            busy.request("GET", "/healthz")
            assert busy.getresponse().read()
            slow.settimeout(20)
            slow.sendall(begun)
            while slow.recv(4096):
                pass  # What is answered to a request that came whole; then the end.
            kept = busy.sock
            busy.request("GET", "/healthz")
            assert busy.getresponse().status == 200
            assert busy.sock is kept


@pytest.mark.parametrize(
    ("database", "code", "named"),
    [
        ("/nowhere/central.db", EXIT_FAILED, "central run"),
        ("postgresql://nobody@127.0.0.1:1/none", EXIT_NOT_REACHABLE, "does not answer"),
    ],
)
def test_without_a_database_it_ends_and_says_why(database, code, named):
    """It makes none, and waits for none: systemd starts it again."""
    arguments, environ = command(database)
    done = subprocess.run(arguments, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=False)

    assert (done.returncode, named in done.stderr) == (code, True), done.stderr


@pytest.mark.parametrize("listen", ["0.0.0.0:8080", "[::]:8080", "192.0.2.1:8080", "console.example:8080"])
def test_it_is_reached_from_outside_only_by_tls_or_behind_a_proxy(listen, tmp_path):
    """Passwords would cross the network readable otherwise; the text says what to set."""
    given = {"TILLSTREAM_CONSOLE_LISTEN": listen}
    with pytest.raises(ConfigError, match="console_behind_proxy"):
        read_config(CentralConfig, "central", None, given)

    assert read_config(CentralConfig, "central", None, {**given, "TILLSTREAM_CONSOLE_BEHIND_PROXY": "true"})
    tls = {"TILLSTREAM_CONSOLE_TLS_CERT_FILE": "/c", "TILLSTREAM_CONSOLE_TLS_KEY_FILE": "/k"}
    assert read_config(CentralConfig, "central", None, {**given, **tls}).console_over_tls
    with pytest.raises(ConfigError, match="go together"):
        read_config(CentralConfig, "central", None, {"TILLSTREAM_CONSOLE_TLS_CERT_FILE": "/c"})


def test_over_tls_it_shows_its_certificate_and_speaks_nothing_else(tmp_path):
    """With the two files set it may be reached from elsewhere; the cookie is bound to TLS."""
    url, pki = str(tmp_path / "central.db"), Pki(tmp_path / "ca")
    a_store(url).close()
    cert, key = pki.files("console", kind="server")
    with running(url, console_tls_cert_file=cert, console_tls_key_file=key) as (_process, address):
        assert address.startswith("https://127.0.0.1:")
        trusted = ssl.create_default_context(cafile=pki.ca_file)
        with urllib.request.urlopen(f"{address}login", context=trusted, timeout=20) as answer:
            assert "Secure" in answer.headers["Set-Cookie"]
            assert "max-age" in answer.headers["Strict-Transport-Security"]
        with pytest.raises(OSError, match=r".+"):
            urllib.request.urlopen(address.replace("https", "http"), timeout=20)


@pytest.mark.parametrize(("proxies", "seen"), [("127.0.0.1", "192.0.2.9"), ("192.0.2.1", "127.0.0.1")])
def test_a_proxy_says_who_asks_and_nobody_else_does(tmp_path, proxies, seen):
    """Otherwise whoever guesses passwords would have a new address each time."""
    url = str(tmp_path / "central.db")
    a_store(url).close()
    with running(url, console_behind_proxy="true", console_proxies=proxies) as (process, address):
        with urllib.request.urlopen(f"{address}login", timeout=20) as answer:
            cookie = answer.headers["Set-Cookie"].split(";")[0]
        form = f"name=anna&password=wrong&csrf={cookie.partition('=')[2]}".encode()
        headers = {"Cookie": cookie, "X-Forwarded-For": "192.0.2.9", "X-Forwarded-Proto": "https"}
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(urllib.request.Request(f"{address}login", form, headers), timeout=20)
        failed = next(line for line in map(json.loads, process.stderr) if line["event"] == "login_failed")
    assert failed["address"] == seen
