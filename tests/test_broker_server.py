"""What the embedded broker leans on inside amqtt 0.12.1, named, so that another version fails here first.

The subclass replaces amqtt's sessions, protocol classes and message loop, because these lose, leak and hang
(each defect is named in ``broker/``). It can retire when stock amqtt, with an authentication and a topic plugin, passes
``tests/live/test_broker_contract.py`` as it stands. Until then amqtt is pinned to exactly this version.
"""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
from importlib.metadata import version

import pytest
from amqtt.adapters import BufferReader
from amqtt.broker import Broker
from amqtt.contexts import BrokerConfig as AmqttConfig
from amqtt.mqtt.connect import ConnectPayload, ConnectVariableHeader
from amqtt.mqtt.packet import MQTTFixedHeader
from click.testing import CliRunner

from broker.cli import broker
from broker.codec import UnsupportedVersionError, read_connect, read_subscribe, read_unsubscribe
from broker.packets import ProtocolViolationError
from broker.server import TillBroker
from broker.settings import BrokerConfig, amqtt_config


def parameters(function):
    return [name for name in inspect.signature(function).parameters if name != "self"]


def test_amqtt_is_exactly_the_version_that_was_read():
    """Any other may have other private parts."""
    assert version("amqtt") == "0.12.1"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("_create_server_instance", ["listener_name", "listener_type", "address", "port", "ssl_context"]),
        ("stream_connected", ["reader", "writer", "listener_name"]),
        ("start", []),
        ("shutdown", []),
    ],
)
def test_the_methods_that_are_overridden_exist_with_their_parameters(name, expected):
    """An override of a method that is gone would silently do nothing."""
    original, override = getattr(Broker, name), getattr(TillBroker, name)
    assert override is not original
    assert parameters(original) == expected
    assert [parameter.lstrip("_") for parameter in parameters(override)] == expected
    assert inspect.iscoroutinefunction(original)


def test_amqtt_calls_the_overridden_listener_and_keeps_it_where_the_port_is_read():
    """`_start_listeners` calls `_create_server_instance`, and `_servers` holds an `instance`."""
    source = inspect.getsource(Broker._start_listeners)
    assert "self._create_server_instance(listener_name, listener.type, address, port, ssl_context)" in source
    assert "self._servers[listener_name] = Server(listener_name, instance" in source
    assert "self._create_ssl_context(listener)" in source


def test_amqtt_accepts_our_configuration_and_loads_no_plugin():
    """With its defaults, everybody would be let in."""
    accepted = AmqttConfig.from_dict(amqtt_config(BrokerConfig()))
    assert accepted.plugins == {}
    assert accepted.listeners["default"].bind == "127.0.0.1:1883"


@pytest.mark.parametrize(
    ("owner", "names"),
    [
        (ConnectVariableHeader, ["proto_name", "proto_level", "flags", "keep_alive"]),
        (
            ConnectPayload,
            ["client_id", "client_id_is_random", "will_topic", "will_message", "username", "password"],
        ),
        (MQTTFixedHeader, ["packet_type", "flags", "remaining_length"]),
    ],
)
def test_the_codec_classes_have_the_fields_that_are_read(owner, names):
    """Read by ``broker/codec.py``."""
    assert set(names) <= set(owner.__slots__)
    assert parameters(BufferReader.__init__) == ["buffer"]


def test_broken_rare_packets_are_violations_and_nothing_else():
    """Every truncation of a good packet is refused, never half taken."""
    connect = b"\0\4MQTT\4\xc6\0\x3c\0\2t1\0\1w\0\1x\0\2t1\0\1p"
    assert asyncio.run(read_connect(0x10, connect)).user == "t1"
    subscribe, unsubscribe = b"\0\1\0\1a\1\0\1b\0", b"\0\1\0\1a\0\1b"
    assert asyncio.run(read_subscribe(0x82, subscribe)) == (1, [("a", 1), ("b", 0)])
    assert asyncio.run(read_unsubscribe(0xA2, unsubscribe)) == (1, ["a", "b"])
    for read, first, body, whole in (
        (read_connect, 0x10, connect, set()),
        (read_subscribe, 0x82, subscribe, {6}),
        (read_unsubscribe, 0xA2, unsubscribe, {5}),
    ):
        for length in set(range(len(body))) - whole:
            with pytest.raises(ProtocolViolationError):
                asyncio.run(read(first, body[:length]))


@pytest.mark.parametrize("body", [b"\0\4MQTT\5\2\0\0\0\0\1a", b"\0\6MQIsdp\3\2\0\0\0\1a"])
def test_other_versions_of_mqtt_are_told_apart_from_garbage(body):
    """They get a CONNACK that says so."""
    with pytest.raises(UnsupportedVersionError):
        asyncio.run(read_connect(0x10, body))


def test_a_subscription_with_quality_of_service_3_is_a_violation():
    """Stock amqtt grants it."""
    with pytest.raises(ProtocolViolationError):
        asyncio.run(read_subscribe(0x82, b"\0\1\0\1a\3"))


# --- the command -------------------------------------------------------------------------------------------------


def test_the_command_does_not_load_amqtt_before_it_runs_the_broker():
    """`token` and `access` answer at once, and on a machine without amqtt."""
    code = "import sys, broker.cli; sys.exit(any(name.split('.')[0] == 'amqtt' for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def invoke(tmp_path, *arguments):
    config = tmp_path / "broker.toml"
    config.write_text(f'fleet_key_file = "{tmp_path}/fleet.key"\ndeny_file = "{tmp_path}/deny"\n', "utf-8")
    return CliRunner().invoke(broker, [*arguments, "--config", str(config)])


def test_key_then_token_in_two_commands(tmp_path):
    """And `key` a second time says that it left the key alone."""
    assert "broker key" in invoke(tmp_path, "token", "till-1").output
    assert invoke(tmp_path, "token", "till-1").exit_code == 1
    assert invoke(tmp_path, "key").output.startswith("made the fleet key")
    assert "left as it is" in invoke(tmp_path, "key").output
    first, again = invoke(tmp_path, "token", "till-1"), invoke(tmp_path, "token", "till-1")
    assert (first.exit_code, len(first.output.strip())) == (0, 43)
    assert first.output == again.output
    assert invoke(tmp_path, "token", "central-till").exit_code == 2


def test_a_configuration_error_is_one_sentence_and_exit_code_1(tmp_path):
    """No traceback for a misspelt key."""
    (tmp_path / "bad.toml").write_text("inflight_maxx = 3\n", "utf-8")
    result = CliRunner().invoke(broker, ["run", "--config", str(tmp_path / "bad.toml")])
    assert (result.exit_code, "did you mean `inflight_max`?" in result.output) == (1, True)


@pytest.mark.parametrize("command", ["run", "token", "key", "access"])
def test_every_help_text_teaches_with_an_example(command):
    """One line that can be copied."""
    assert "Example:\n  " in CliRunner().invoke(broker, [command, "--help"]).output


def test_the_access_table_is_printed():
    """For people; other brokers' rules are in their recipes."""
    assert "till/<till>/receipt_closed  retained" in CliRunner().invoke(broker, ["access"]).output


def test_amqtt_makes_no_tls_context_of_its_own():
    """Its own would ask for a certificate and let in who shows none."""
    assert "self._create_ssl_context(listener) if listener.get" in inspect.getsource(Broker._start_listeners)
    assert amqtt_config(BrokerConfig())["listeners"]["default"]["ssl"] is False
