"""``tillstream central inventory``: the tills as an inventory of Ansible's."""

from __future__ import annotations

import json

import click

from .cli_base import fail, read
from .inventory import inventory as all_tills


@click.command()
@click.option("--list", "whole", is_flag=True, help="Everything, with the variables of all tills; what Ansible asks.")
@click.option("--host", metavar="TILL", help="The variables of one till.")
@click.option("--address", default="", metavar="PATTERN", help="Where tills are reached, such as {till}.tills.example.")
@click.pass_context
def inventory(context: click.Context, whole: bool, host: str | None, address: str) -> None:
    """Print the tills that this central knows, for Ansible: JSON, as an inventory script does.

    Groups: tills; canary, early and main by tag (main without one); store_<id>; parked, who are in no other group.

    \b
    Example:
      tillstream central inventory --list
      tillstream central tills tag 042-01 canary
    As a script that ansible-playbook -i takes:
      #!/bin/sh
      exec ssh central tillstream central inventory --address '{till}.tills.example' "$@"
    """
    if whole == (host is not None):
        raise click.UsageError("either --list or --host TILL")
    told = read(context, lambda: all_tills(address))
    if host is None:
        click.echo(json.dumps(told))
        return
    if host not in told["_meta"]["hostvars"]:
        raise fail(f"no till {host} is known, or it is not approved: tillstream central tills")
    click.echo(json.dumps(told["_meta"]["hostvars"][host]))
