"""What every command of the till's command line needs: the configuration, the agent's answer, an end with a code."""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from wire.program import EXIT_FAILED, EXIT_NOT_REACHABLE, ConfigError, read_config

from .config import EdgeConfig

if TYPE_CHECKING:
    from .outbox import Outbox


class AgentDownError(Exception):
    """Nobody answers on the agent's socket."""


def fail(text: str, code: int = EXIT_FAILED) -> click.exceptions.Exit:
    """Say what went wrong; raise what is returned, and the program ends with that code."""
    click.echo(f"tillstream edge: {text}", err=True)
    return click.exceptions.Exit(code)


def configured(context: click.Context) -> EdgeConfig:
    """Read the configuration when a command runs, and not before: its --help needs none."""
    try:
        return read_config(EdgeConfig, "edge", context.obj, os.environ)
    except ConfigError as problem:
        raise fail(str(problem)) from problem


def ask(config: EdgeConfig, method: str, target: str, body: bytes | None = None) -> tuple[int, dict[str, Any]]:
    """Ask the agent over its socket; returns status and answer, and raises AgentDownError."""
    from .intake.http_socket import UnixConnection

    connection = UnixConnection(config.socket_path, config.intake_timeout_s + 1)
    try:
        connection.request(method, target, body)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    except (OSError, http.client.HTTPException) as problem:
        raise AgentDownError(why(problem, config)) from problem
    finally:
        connection.close()


def why(problem: Exception, config: EdgeConfig) -> str:
    """Return an error's text; of one that is about rights also who has them."""
    advice = f"; run it as root, or as a member of group {config.pos_group} while the agent runs"
    return f"{problem}{advice if isinstance(problem, PermissionError) else ''}"


@contextmanager
def own_outbox(config: EdgeConfig) -> Iterator[Outbox]:
    """Open the outbox for a command; its lock proves that no agent has it open."""
    from .outbox import OutboxBusyError, OutboxUnsafeError
    from .service import open_outbox

    try:
        if not config.outbox_path.exists():
            raise fail(f"no agent runs, and there is no outbox at {config.outbox_path}", EXIT_NOT_REACHABLE)
        outbox = open_outbox(config)
    except PermissionError as problem:
        raise fail(why(problem, config)) from problem
    except OutboxUnsafeError as problem:
        raise fail(str(problem)) from problem
    except OutboxBusyError as problem:
        raise fail(f"the agent runs but does not answer: {problem}", EXIT_NOT_REACHABLE) from problem
    try:
        yield outbox
    finally:
        outbox.close()
