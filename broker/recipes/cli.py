"""`tillstream broker recipe`: write the whole configuration of Mosquitto or NATS."""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import click

from broker.access import identity
from broker.settings import BrokerConfig
from wire.program import EXIT_FINDINGS, ConfigError, read_config
from wire.tokens import read_deny_list, read_fleet_key, token_of

from . import mosquitto, nats
from .folder import Written, compare, options_of, write
from .plan import Files, Plan, Security

USERS_LIMIT_BYTES = 16 * 1024 * 1024
OF_ONE_RUN = ("out", "users", "force", "dry_run", "as_json")
"""Options that the next run does not take over."""
RIGHTS = ("acl", "users.conf", "passwords")


def _take_over(context: click.Context, _: click.Parameter, out: Path) -> Path:
    """Let what is not given be as in the last run: a reload must not make another broker of it."""
    context.default_map = options_of(out)
    return out


@click.group()
def recipe() -> None:
    """Complete configuration of another broker: listener, TLS, limits, access rules, a bound for each address.

    \b
    Without certificates a broker needs to know its tills; a text file names them, one a line:
      tillstream broker key
      tillstream broker recipe mosquitto --out /etc/mosquitto/tillstream --users tills.txt
    What to do next stands in README.md in that folder. Run it again for new tills: files that you changed are kept,
    and options that you do not give are those of the last run.
    """


OPTIONS = (
    click.option(
        "--out",
        type=click.Path(path_type=Path, file_okay=False),
        required=True,
        is_eager=True,
        callback=_take_over,
        help="The folder where the files are to stay; they name each other by it.",
    ),
    click.option("--listen", default="127.0.0.1:1883", show_default=True, help="Address and port of the listener."),
    click.option(
        "--security",
        type=click.Choice(["plain", "tls", "mutual"]),
        default="plain",
        show_default=True,
        help="plain: loopback and tokens. tls: TLS and tokens. mutual: TLS and certificates, CN = the user.",
    ),
    click.option(
        "--users",
        type=click.File("r", encoding="utf-8"),
        help="Till ids, one a line (- reads them from standard input).",
    ),
    click.option(
        "--tills",
        type=click.IntRange(1, 1_000_000),
        default=10_000,
        show_default=True,
        help="How many tills the limits allow for.",
    ),
    click.option(
        "--workers",
        type=click.IntRange(1, 999),
        default=4,
        show_default=True,
        help="How many workers central has, at most.",
    ),
    click.option(
        "--deny", type=click.Path(path_type=Path, dir_okay=False), help="The deny list: these are not let in."
    ),
    click.option(
        "--till-bytes-per-s",
        type=click.IntRange(1024, 2**31),
        default=256 * 1024,
        show_default=True,
        help="What one address may send, for nftables.conf.",
    ),
    click.option(
        "--trusted",
        multiple=True,
        default=("127.0.0.1", "::1"),
        show_default=True,
        help="An address or network without that bound: central's. May be given more than once.",
    ),
    click.option(
        "--config",
        "config_file",
        type=click.Path(path_type=Path),
        help="broker.toml, which names the fleet key; /etc/tillstream/broker.toml if left out.",
    ),
    click.option("--force", is_flag=True, help="Replace files that you changed; yours stay beside them as NAME.old."),
    click.option("--dry-run", is_flag=True, help="Write nothing. Exit code 3: there is something to write."),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
)


def _with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add what all recipes ask for."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


@recipe.command("mosquitto")
@_with_options
@click.option("--account", default="mosquitto", show_default=True, help="The system account Mosquitto runs as.")
def for_mosquitto(account: str, **asked: Any) -> None:
    """Write the configuration of Mosquitto (Debian's 2.0.11 or newer).

    \b
    Examples:
      tillstream broker recipe mosquitto --out /etc/mosquitto/tillstream --users tills.txt
      tillstream broker recipe mosquitto --out /etc/mosquitto/tillstream --security mutual --listen 0.0.0.0:8883
    """
    _write(asked, account, mosquitto.files)


@recipe.command("nats")
@_with_options
@click.option("--account", default="nats", show_default=True, help="The system account the server runs as.")
@click.option(
    "--state-dir", default="/var/lib/nats/tillstream", show_default=True, help="Where JetStream keeps its files."
)
@click.option("--monitor", default="127.0.0.1:8222", show_default=True, help="Where it tells how it is, by HTTP.")
@click.option("--cluster", help="The cluster's name, the same on each node.")
@click.option(
    "--node", type=click.IntRange(1, 99), default=1, show_default=True, help="Which of --routes this node is."
)
@click.option(
    "--routes",
    default="",
    help="All nodes' addresses for each other, host:port with commas between, the same on each node.",
)
def for_nats(
    account: str, state_dir: str, monitor: str, cluster: str | None, node: int, routes: str, **asked: Any
) -> None:
    """Write the configuration of a NATS server with JetStream, alone or as a node of a cluster.

    \b
    Examples:
      tillstream broker recipe nats --out /etc/nats/tillstream --users tills.txt
      tillstream broker recipe nats --out /etc/nats/tillstream --users tills.txt \\
        --security tls --listen 10.0.0.2:8883 --cluster shops --node 2 \\
        --routes 10.0.0.1:6222,10.0.0.2:6222,10.0.0.3:6222
    """
    nodes = _cluster(cluster, node, routes)
    _write(asked, account, lambda plan: nats.files(plan, state_dir, monitor, nodes))


def _cluster(name: str | None, node: int, routes: str) -> nats.Cluster | None:
    if bool(name) != bool(routes):
        raise click.UsageError("--cluster and --routes go together")
    if not name:
        return None
    try:
        parsed = nats.parse_routes(routes)
    except ValueError as problem:
        raise click.UsageError(str(problem)) from problem
    if node > len(parsed):
        raise click.UsageError(f"--node {node}, and --routes names {len(parsed)} nodes")
    return nats.Cluster(name, node, parsed)


def _write(asked: dict[str, Any], account: str, files_of: Callable[[Plan], Files]) -> None:
    try:
        plan = _plan(asked, account)
        if asked["dry_run"]:
            written = compare(asked["out"], files_of(plan), force=asked["force"])
        else:
            written = write(asked["out"], files_of(plan), _options(), account, force=asked["force"])
    except (ConfigError, ValueError) as problem:
        raise click.ClickException(str(problem)) from problem
    _tell(asked["out"], written, as_json=asked["as_json"])
    is_finding = {"made", "updated", "kept", "replaced"} if asked["dry_run"] else {"kept"}
    if any(one.fate in is_finding for one in written):
        raise click.exceptions.Exit(EXIT_FINDINGS)


def _options() -> dict[str, Any]:
    """Return what the next run takes over."""
    given = click.get_current_context().params
    kept = {name: value for name, value in given.items() if name not in OF_ONE_RUN and value is not None}
    return {name: str(value.absolute()) if isinstance(value, Path) else value for name, value in kept.items()}


def _plan(asked: dict[str, Any], account: str) -> Plan:
    security: Security = asked["security"]
    config = read_config(BrokerConfig, "broker", asked["config_file"], os.environ)
    host, port = BrokerConfig(listen=asked["listen"], tls_cert_file="-", tls_key_file="-").address()
    fleet_key = cache(lambda: read_fleet_key(Path(config.fleet_key_file)))  # Certificates need none.
    return Plan(
        folder=str(asked["out"].absolute()),
        host=host,
        port=port,
        security=security,
        tills=asked["tills"],
        workers=asked["workers"],
        till_ids=_till_ids(asked["users"].read(USERS_LIMIT_BYTES) if asked["users"] else ""),
        denied=_denied(asked["deny"]),
        account=account,
        trusted=tuple(str(ipaddress.ip_network(text)) for text in asked["trusted"]),
        till_bytes_per_s=asked["till_bytes_per_s"],
        token=lambda user: token_of(fleet_key(), user),
    )


def _denied(path: Path | None) -> frozenset[str]:
    """Return who is denied; a line that names nobody denies nobody, and is told."""
    names = read_deny_list(path) if path else frozenset()
    for name in sorted(name for name in names if identity(name) is None):
        click.echo(f"{path}: {name!r} is neither a till id nor central-<worker>, and denies nobody", err=True)
    return frozenset(name for name in names if identity(name))


def _till_ids(text: str) -> tuple[str, ...]:
    """Return the ids that a text names, one a line, ``#`` begins a comment; raises ValueError at what is none."""
    found: dict[str, None] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not (name := line.partition("#")[0].strip()):
            continue
        who = identity(name)
        if who is None or who.party != "till":
            raise ValueError(f"line {number} of --users: {name!r} is no till id")
        found[name] = None
    return tuple(found)


def _tell(folder: Path, written: list[Written], *, as_json: bool) -> None:
    for one in written:
        if one.fate == "kept" and one.name in RIGHTS:
            text = (
                f"WARNING: {folder / one.name} was changed by hand and is kept: who was denied since KEEPS HIS RIGHTS"
            )
            click.echo(text, err=True)
    if as_json:
        click.echo(json.dumps({"folder": str(folder), "files": [asdict(one) for one in written]}))
        return
    for one in written:
        click.echo(f"{one.fate:<10} {folder / one.name}")
        for line in one.changes:
            click.echo(f"             {line}")
    if any(one.fate == "kept" for one in written):
        click.echo("Files that you changed were kept as they are: --force replaces them and keeps yours as NAME.old.")
    click.echo(f"Next: {folder / 'README.md'}")
