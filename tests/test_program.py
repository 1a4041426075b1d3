"""What every program of ours does alike: configuration, log lines, telling systemd."""

from __future__ import annotations

import json
import logging
import socket
import sqlite3
import sys

import peewee as pw
import pytest
from msgspec.structs import fields

from broker.settings import BrokerConfig
from ca.config import CaConfig
from central.config import CentralConfig
from edge.config import EdgeConfig
from wire.broker_url import parse_broker_url
from wire.program import (
    ConfigError,
    JsonLines,
    Watchdog,
    _from_environment,
    is_disk_failure,
    notify_systemd,
    read_config,
    read_secret,
)


def read_edge(tmp_path, text, **environ):
    path = tmp_path / "edge.toml"
    path.write_text(text, "utf-8")
    return read_config(EdgeConfig, "edge", path, {f"TILLSTREAM_{key.upper()}": value for key, value in environ.items()})


def test_the_file_and_over_it_the_environment(tmp_path):
    """A key in the environment wins over the file, the file over the default."""
    config = read_edge(tmp_path, 'till_id = "till-1"\nretention_days = 7', retention_days="9.5", scripts_dirs="/a, /b")

    assert (config.till_id, config.retention_days, config.scripts_dirs) == ("till-1", 9.5, ("/a", "/b"))
    assert config.ring_again_s == EdgeConfig(till_id="x").ring_again_s


def test_an_unknown_key_is_an_error_that_names_the_nearest_one(tmp_path):
    """A typing error in a key must not silently mean the default."""
    with pytest.raises(ConfigError, match="unknown key `retention_day`; did you mean `retention_days`"):
        read_edge(tmp_path, 'till_id = "till-1"\nretention_day = 7')


@pytest.mark.parametrize("till", ["", "a/b", "+", "#", "a.b", "-a", "a" * 65])
def test_a_till_id_that_could_widen_a_filter_is_no_configuration(tmp_path, till):
    """A till that is named with a slash or a wildcard does not start."""
    with pytest.raises(ConfigError, match="till_id"):
        read_edge(tmp_path, f"till_id = {json.dumps(till)}")


def test_a_till_id_with_a_line_break_at_its_end_is_no_configuration(tmp_path):
    """The configuration takes no id that topics would not parse back: central would ignore all of its messages."""
    with pytest.raises(ConfigError, match="till_id"):
        read_edge(tmp_path, 'till_id = "till-1\\n"')


@pytest.mark.parametrize(
    "text",
    [
        "till_id = 7",
        "",
        'till_id = "t"\nbroker_urls = ["http://x"]',
        'till_id = "t"\nretention_days = "many"',
        "no toml",
        "a = \0",
    ],
)
def test_a_value_out_of_bounds_is_an_error(tmp_path, text):
    """What is missing, out of bounds, of the wrong type or no TOML ends the program with a text for people."""
    with pytest.raises(ConfigError):
        read_edge(tmp_path, text)


@pytest.mark.parametrize(
    ("urls", "right"),
    [
        ("http://a", "mqtt://host:port"),
        ("a:1883", "mqtt://host:port"),
        ("mqtt://till-1:secret@a", "mqtt://host:port"),
        ("mqtt://a:0", "mqtt://host:port"),
        ("mqtt://a:70000", "mqtt://host:port"),
        ("mqtt://a/b", "mqtt://host:port"),
        ("mqtt://", "mqtt://host:port"),
        ("", "one to 16"),
        ("mqtt://a,mqtt://a:1883", "twice"),
    ],
)
def test_what_is_no_broker_url_is_an_error_that_says_what_would_be(tmp_path, urls, right):
    """Neither another scheme nor a path, a password or no port at all; nor none, nor the same one twice."""
    with pytest.raises(ConfigError, match=right):
        read_edge(tmp_path, 'till_id = "t"', broker_urls=urls)


def test_a_certificate_authority_without_tls_is_an_error(tmp_path):
    """Whoever set it believes that the token is sent over TLS."""
    with pytest.raises(ConfigError, match="mqtts://"):
        read_edge(tmp_path, 'till_id = "t"', tls_ca_file="/etc/ca.pem")


def test_broker_urls_stand_in_the_environment_with_commas_between(tmp_path):
    """A port that is left out is that of its scheme; an address of IPv6 keeps its brackets."""
    config = read_edge(tmp_path, 'till_id = "t"', broker_urls="mqtt://a, mqtts://b,mqtt://[::1]:7")

    brokers = [parse_broker_url(text) for text in config.broker_urls]
    assert [str(one) for one in brokers] == ["mqtt://a:1883", "mqtts://b:8883", "mqtt://[::1]:7"]
    assert [one.host for one in brokers] == ["a", "b", "::1"]


def test_a_misspelt_variable_in_the_environment_is_an_error_that_names_the_nearest_one(tmp_path):
    """It must not silently mean the default; what is unlike all keys may be another program's."""
    with pytest.raises(ConfigError, match=r"TILLSTREAM_RETENTION_DAY .* did you mean TILLSTREAM_RETENTION_DAYS"):
        read_edge(tmp_path, 'till_id = "t"', retention_day="3")
    assert read_edge(tmp_path, 'till_id = "t"', all="1", quiet_s="3").till_id == "t"


@pytest.mark.parametrize("config", [EdgeConfig, CentralConfig, BrokerConfig, CaConfig])
def test_no_programs_own_variables_are_taken_for_misspelt_ones_of_another(config):
    """All may be set up in one environment."""
    every = {field.name for one in (EdgeConfig, CentralConfig, BrokerConfig, CaConfig) for field in fields(one)}
    own = {field.name: field for field in fields(config)}

    assert _from_environment({f"TILLSTREAM_{key.upper()}": "x" for key in every}, own).keys() == own.keys()


def test_a_missing_default_file_means_defaults_and_a_missing_named_file_is_an_error(tmp_path):
    """Central runs with no file at all; one that was named must be there."""
    assert read_config(CentralConfig, "no-such-name", None, {}) == CentralConfig()
    with pytest.raises(ConfigError, match="no configuration file"):
        read_config(CentralConfig, "central", tmp_path / "missing.toml", {})


def test_the_core_gets_the_limits_that_were_configured():
    """Each limit of the collector that is a key of the configuration is taken from it."""
    limits = CentralConfig(quiet_s=3, parallel=7).collector_limits()

    assert (limits.quiet_s, limits.parallel, limits.bad_digests_max) == (3, 7, 3)


def test_a_log_line_is_one_json_object_with_the_same_keys_everywhere():
    """A line holds the event, the keys of the till and what the caller added; a line break stays inside a string."""
    record = logging.LogRecord("tillstream.edge", logging.WARNING, "f", 1, "refused", (), None)
    record.till, record.also = "till-1", {"error": "bad\nline"}

    line = JsonLines().format(record)

    assert "\n" not in line
    fields = json.loads(line)
    assert fields.pop("ts").endswith("Z")
    expected = {"level": "warning", "program": "tillstream.edge", "event": "refused", "till": "till-1"}
    assert {**expected, "error": "bad\nline"} == fields


def test_an_exception_is_told_in_its_log_line():
    """An error carries its traceback in the same line."""
    try:
        raise ValueError("why")  # noqa: TRY301 -- an exception that is being handled is what is needed
    except ValueError:
        record = logging.LogRecord("tillstream.edge", logging.ERROR, "f", 1, "failed", (), sys.exc_info())

    assert "ValueError: why" in json.loads(JsonLines().format(record))["error"]


@pytest.fixture
def systemd(tmp_path, request):
    """Listen where systemd would, and set the variable for this test; an abstract address if the test asks for one."""
    import os

    address = str(tmp_path / "notify") if request.param == "path" else "@tillstream-test-notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(address.replace("@", "\0"))
        listening.settimeout(5)
        before = os.environ.get("NOTIFY_SOCKET")
        os.environ["NOTIFY_SOCKET"] = address
        yield listening
        os.environ.pop("NOTIFY_SOCKET")
        if before is not None:
            os.environ["NOTIFY_SOCKET"] = before


@pytest.mark.parametrize("systemd", ["path", "abstract"], indirect=True)
def test_systemd_is_told_the_state(systemd):
    """A datagram goes to the socket that systemd named, a path or an abstract one."""
    notify_systemd("READY=1")

    assert systemd.recv(100) == b"READY=1"


@pytest.mark.parametrize("systemd", ["path"], indirect=True)
def test_the_watchdog_is_told_at_half_of_the_time_that_systemd_allows(systemd):
    """Not with each turn, and not too late: twice within the time after which systemd would act."""
    watchdog = Watchdog({"WATCHDOG_USEC": "10000000"})
    for now in (100.0, 100.1, 104.9, 105.0, 105.1):
        watchdog.turn(now)

    assert watchdog.every_s == 5.0
    assert [systemd.recv(100), systemd.recv(100)] == [b"WATCHDOG=1"] * 2
    systemd.setblocking(False)
    with pytest.raises(BlockingIOError):
        systemd.recv(100)


def test_without_systemd_nothing_is_told():
    """A program started by hand says nothing and does not fail."""
    notify_systemd("READY=1")
    Watchdog({}).turn(1.0)

    assert Watchdog({}).every_s is None


def test_a_secret_comes_from_its_file(tmp_path):
    """A value wins; otherwise the file's text without its line break; a file that is missing is an error."""
    (tmp_path / "token").write_text("secret\n")

    assert read_secret("", str(tmp_path / "token"), "token") == "secret"
    assert read_secret("given", str(tmp_path / "token"), "token") == "given"
    with pytest.raises(ConfigError, match="token_file"):
        read_secret("", str(tmp_path / "missing"), "token")
    (tmp_path / "key").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="token_file"):
        read_secret("", str(tmp_path / "key"), "token")


def failing(code):
    problem = sqlite3.OperationalError("told by SQLite")
    problem.sqlite_errorcode = code
    return problem


def wrapped(problem):
    with pytest.raises(pw.OperationalError) as seen, pw.__exception_wrapper__:
        raise problem
    return seen.value


def masked(problem):
    def roll_back():
        try:
            raise problem
        finally:
            raise sqlite3.OperationalError("cannot rollback - no transaction is active")

    with pytest.raises(sqlite3.OperationalError, match="cannot rollback") as seen:
        roll_back()
    return seen.value


@pytest.mark.fault("F26")
@pytest.mark.parametrize(
    ("code", "failed"),
    [
        (sqlite3.SQLITE_IOERR_FSYNC, True),
        (sqlite3.SQLITE_IOERR_WRITE, True),
        (sqlite3.SQLITE_CORRUPT, True),
        (sqlite3.SQLITE_NOTADB, True),
        (sqlite3.SQLITE_FULL, False),
        (sqlite3.SQLITE_BUSY, False),
    ],
)
def test_a_disk_that_failed_is_told_from_one_that_is_full_or_locked(code, failed):
    """By SQLite's own code, through peewee's wrapping, and behind a rollback that found nothing to do."""
    problem = failing(code)

    for seen in (problem, wrapped(problem), masked(problem)):
        assert failed == is_disk_failure(seen)
    assert not is_disk_failure(OSError(5, "Input/output error"))
