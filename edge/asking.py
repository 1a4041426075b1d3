"""What every command of the till's command line needs: the configuration, the agent's answer, an end with a code."""

from __future__ import annotations

import http.client
import json
import os
from typing import Any

import click

from wire.program import EXIT_FAILED, ConfigError, read_config

from .config import EdgeConfig


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
        raise AgentDownError(str(problem)) from problem
    finally:
        connection.close()
