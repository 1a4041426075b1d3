"""``tillstream wire``: read what travels."""

from __future__ import annotations

import json
from typing import BinaryIO

import click

from . import codec
from .program import EXIT_FAILED


@click.group()
def wire() -> None:
    """Read what travels between tills and central.

    \b
    Example:
      mosquitto_sub -t 'till/+/sales/+' -C 1 -N | tillstream wire decode
    """


@wire.command()
@click.argument("file", type=click.File("rb"), default="-")
def decode(file: BinaryIO) -> None:
    """Print a payload as JSON lines: small messages as they are, sales as the header and one document a line.

    \b
    Example:
      mosquitto_sub -t 'till/+/sales/+' -C 1 -N | tillstream wire decode
    """
    payload = file.read()
    if payload[:1] == b"{":
        click.echo(payload.decode("utf-8", "replace"))
        return
    try:
        upload = codec.unpack_sales(payload, codec.SalesLimits(documents=10_000, inflated_bytes=64 * 2**20))
    except codec.WireError as problem:
        click.echo(f"tillstream wire: {problem}", err=True)
        raise click.exceptions.Exit(EXIT_FAILED) from problem
    click.echo(codec.encode(upload.header).decode())
    for body in upload.bodies:
        click.echo(body.decode("utf-8", "replace"))


@wire.command()
def schema() -> None:
    """Print the AsyncAPI document with the JSON Schemas of all messages and of the document.

    \b
    Example:
      tillstream wire schema > docs/asyncapi.json
    """
    from .asyncapi import asyncapi

    click.echo(json.dumps(asyncapi(), indent=1, ensure_ascii=False))
