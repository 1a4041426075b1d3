"""The broker's configuration: what is refused, and what amqtt is told."""

from __future__ import annotations

import msgspec
import pytest

from broker.settings import BrokerConfig, amqtt_config
from wire.listen import is_loopback
from wire.program import ConfigError, read_config

TLS = {"tls_cert_file": "cert.pem", "tls_key_file": "key.pem"}


def config(**values) -> BrokerConfig:
    return msgspec.convert(values, BrokerConfig)


def test_without_a_file_it_listens_where_only_this_machine_reaches_it():
    """Everything binds loopback until TLS is configured."""
    assert config().address() == ("127.0.0.1", 1883)
    assert is_loopback(config().address()[0])


@pytest.mark.parametrize("listen", ["0.0.0.0:1883", "192.168.1.5:1883", "[::]:1883", "broker.example:1883"])
def test_an_address_others_reach_needs_tls(listen):
    """The error names the two keys to set."""
    with pytest.raises(msgspec.ValidationError, match=r"`tls_cert_file` and `tls_key_file`"):
        config(listen=listen)
    assert config(listen=listen, **TLS).listen == listen


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "127.8.8.8:1883", "localhost:1883", "[::1]:1883"])
def test_loopback_needs_no_tls(listen):
    """All of 127/8, ::1 and localhost."""
    assert is_loopback(config(listen=listen).address()[0])


@pytest.mark.parametrize("listen", ["1883", "127.0.0.1", "127.0.0.1:", ":1883", "127.0.0.1:x", "127.0.0.1:65536", ""])
def test_listen_is_host_and_port(listen):
    """Anything else is refused with an example of what would be right."""
    with pytest.raises(msgspec.ValidationError, match=r"host:port, such as 127\.0\.0\.1:1883"):
        config(listen=listen)


def test_certificate_and_key_go_together_and_a_ca_needs_both():
    """Half a TLS configuration is an error, not plain text."""
    for half in (
        {"tls_cert_file": "c"},
        {"tls_key_file": "k"},
        {"tls_ca_file": "a"},
        {"tls_tokens_too": True},
        {"revocation_list_file": "c"},
    ):
        with pytest.raises(msgspec.ValidationError):
            config(**half)


@pytest.mark.parametrize(
    ("key", "value"),
    [("inflight_max", 0), ("inflight_max", 65_535), ("connections_max", 0), ("connect_timeout_s", 0), ("typo", 1)],
)
def test_a_value_out_of_bounds_and_an_unknown_key_are_errors(key, value):
    """No bound can be switched off."""
    with pytest.raises(msgspec.ValidationError):
        config(**{key: value})


def test_every_number_in_the_configuration_has_a_least_value():
    """A bound of nothing, or less, cannot be configured for any key."""
    for field in msgspec.structs.fields(BrokerConfig):
        if isinstance(field.default, int | float) and not isinstance(field.default, bool):
            with pytest.raises(msgspec.ValidationError):
                config(**{field.name: -1})


def test_the_environment_overrides_and_an_error_of_ours_is_a_configuration_error():
    """TILLSTREAM_LISTEN and the like come last; their errors read like any other."""
    environ = {"TILLSTREAM_LISTEN": "127.0.0.1:0", "TILLSTREAM_INFLIGHT_MAX": "7"}
    read = read_config(BrokerConfig, "no-such-program", None, environ)
    assert (read.listen, read.inflight_max) == ("127.0.0.1:0", 7)
    with pytest.raises(ConfigError, match="can be reached from outside"):
        read_config(BrokerConfig, "no-such-program", None, {"TILLSTREAM_LISTEN": "0.0.0.0:1883"})


def test_amqtt_gets_one_listener_and_explicitly_no_plugins():
    """Its default plugins would let everybody in; TLS is ours."""
    told = amqtt_config(config(listen="0.0.0.0:8883", tls_ca_file="ca.pem", **TLS))
    assert told["plugins"] == {}
    assert told["listeners"] == {
        "default": {
            "type": "tcp",
            "bind": "0.0.0.0:8883",
            "ssl": False,
        }
    }
