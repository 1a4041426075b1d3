"""`tillstream broker`: run the embedded broker, make its key, print tokens and access rules."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path

import click

from broker.access import grants, identity
from broker.keyring import DenyList, make_fleet_key
from broker.recipes.cli import recipe
from broker.settings import BrokerConfig
from wire.program import (
    ConfigError,
    log_to_stderr,
    notify_systemd,
    on_stop_signal,
    read_config,
)
from wire.tokens import read_fleet_key, token_of

log = logging.getLogger("tillstream.broker")

OTHER_FILES = 64
"""Descriptors kept aside for what is not a connection: listener, log, the loop's own."""

config_option = click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    help="Configuration file; /etc/tillstream/broker.toml if left out, defaults if there is none.",
)


@click.group()
def broker() -> None:
    """Embedded MQTT broker: for one server without Mosquitto, for trying out and for tests.

    \b
    First steps:
      tillstream broker key        makes the fleet key
      tillstream broker run        serves on 127.0.0.1:1883
      tillstream broker token T1   prints what till T1 logs in with
    Another broker in its place: tillstream broker recipe --help
    """


@broker.command()
@config_option
@click.option(
    "--port-file",
    type=click.Path(path_type=Path),
    help='Write the port here once it is listened on; useful with `listen = "127.0.0.1:0"`.',
)
def run(config_file: Path | None, port_file: Path | None) -> None:
    """Serve in the foreground until SIGTERM or SIGINT; logs one JSON object a line to standard error.

    \b
    Example:
      TILLSTREAM_LISTEN=127.0.0.1:0 tillstream broker run --port-file /run/tillstream/port
    """
    config = _config(config_file)
    log_to_stderr()
    _log_amqtt_alike()
    try:
        fleet_key = read_fleet_key(Path(config.fleet_key_file)) if config.takes_tokens else b""
        deny_list = DenyList(Path(config.deny_file))
        deny_list.load()
        asyncio.run(_serve(config, fleet_key, deny_list, lambda port: _say_ready(config, port, port_file)))
    except ConfigError as problem:
        raise click.ClickException(str(problem)) from problem


@broker.command()
@config_option
@click.argument("till")
def token(config_file: Path | None, till: str) -> None:
    """Print the token that TILL (or a user central-<worker>) logs in with; its user name is TILL.

    \b
    Example:
      tillstream broker token store12-till3
    """
    if identity(till) is None:
        raise click.UsageError(
            f"{till!r} is no till id: letters, digits, _ and -, at most 64, not beginning with - or _; "
            "names that begin with central- are for central workers (central-1, central-2 …)",
        )
    try:
        click.echo(token_of(read_fleet_key(Path(_config(config_file).fleet_key_file)), till))
    except ConfigError as problem:
        raise click.ClickException(str(problem)) from problem


@broker.command()
@config_option
def key(config_file: Path | None) -> None:
    """Make the fleet key, readable by its owner only; leaves one that is there as it is.

    Every till's token is made from it: copy it to the host that rolls tokens out, and nowhere else.

    \b
    Example:
      tillstream broker key
    """
    path = Path(_config(config_file).fleet_key_file)
    try:
        made = make_fleet_key(path)
        read_fleet_key(path)
    except ConfigError as problem:
        raise click.ClickException(str(problem)) from problem
    click.echo(f"made the fleet key {path}" if made else f"there is a fleet key at {path} already; left as it is")


@broker.command()
def access() -> None:
    """Print who may write and read which topic.

    \b
    Example:
      tillstream broker access
    """
    for grant in grants():
        user = "<till>" if grant.party == "till" else "central-<worker>"
        retained = "  retained" if grant.topic.retained and grant.access == "write" else ""
        click.echo(f"{user:<17} {grant.access:<6} {grant.pattern}{retained}")


broker.add_command(recipe)


async def _serve(config: BrokerConfig, fleet_key: bytes, deny_list: DenyList, on_ready: Callable[[int], None]) -> None:
    # amqtt takes time and memory to load: only `run` needs it.
    from broker.exchange import Exchange
    from broker.server import serve
    from broker.tls import ServerTls

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop_soon() -> None:
        loop.call_soon_threadsafe(stop.set)

    on_stop_signal(stop_soon)
    _allow_connections(config.connections_max)
    tls = ServerTls(config, time.time()) if config.tls_cert_file else None
    exchange = Exchange(config, fleet_key, deny_list, tls.revoked if tls else None)
    await serve(config, tls, exchange, stop, on_ready)
    log.info("stopped")


def _say_ready(config: BrokerConfig, port: int, port_file: Path | None) -> None:
    if port_file:
        draft = port_file.with_name(f".{port_file.name}.draft")
        draft.write_text(f"{port}\n", "utf-8")
        draft.replace(port_file)  # Whoever waits for the file never reads half of it.
    host, _ = config.address()
    log.info("listening", extra={"also": {"host": host, "port": port, "tls": config.tls_cert_file is not None}})
    notify_systemd("READY=1")


def _config(path: Path | None) -> BrokerConfig:
    try:
        return read_config(BrokerConfig, "broker", path, os.environ)
    except ConfigError as problem:
        raise click.ClickException(str(problem)) from problem


def _log_amqtt_alike() -> None:
    """Let amqtt's warnings come out as our JSON lines; its INFO writes two lines for each connection."""
    amqtt = logging.getLogger("amqtt")
    amqtt.handlers[:] = logging.getLogger("tillstream").handlers
    amqtt.setLevel(logging.WARNING)
    amqtt.propagate = False


def _allow_connections(connections_max: int) -> None:
    """Raise our limit of open files as far as the connections need and the system lets us."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections_max + OTHER_FILES
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        log.warning("open_files_limit_is_low", extra={"also": {"limit": allowed, "wanted": wanted}})
