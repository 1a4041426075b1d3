"""``tillstream central console``: the web pages and the REST API."""

from __future__ import annotations

import logging

import click

from wire.program import EXIT_NOT_REACHABLE, log_to_stderr

from . import reports
from .cli_base import configured, fail


@click.group()
def console() -> None:
    """Serve the console, which people open in a browser, and the REST API.

    \b
    Example:
      tillstream central users add anna --role administrator
      tillstream central console run
    """


def _log_alike(library: str) -> None:
    """Have a library's warnings come as lines of JSON, as ours do."""
    logger = logging.getLogger(library)
    logger.handlers[:] = logging.getLogger("tillstream").handlers
    logger.setLevel(logging.WARNING)
    logger.propagate = False


@console.command()
@click.pass_context
def run(context: click.Context) -> None:
    """Run the console until SIGTERM, as a process of its own beside the workers; systemd is told when it is ready.

    It listens on 127.0.0.1:8080 unless `console_listen` says otherwise, anywhere else only with TLS or a proxy.

    \b
    Example:
      tillstream central console run
      TILLSTREAM_CONSOLE_LISTEN=127.0.0.1:9000 tillstream central console run
    """
    config = configured(context)
    try:
        from .console.process import run as run_console
    except ModuleNotFoundError as missing:
        raise fail(f"the console needs {missing.name}; install it with: pip install 'tillstream[console]'") from missing
    log_to_stderr(config.log_level)
    _log_alike("uvicorn")
    try:
        run_console(config)
    except reports.UnreachableError as problem:
        raise fail(str(problem), EXIT_NOT_REACHABLE) from problem
    except (reports.NoDatabaseError, OSError) as problem:
        raise fail(str(problem)) from problem
