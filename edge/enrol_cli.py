"""``tillstream edge enrol``: get this till's certificate with a token of one use."""

from __future__ import annotations

from typing import TextIO

import click

from .asking import configured, fail
from .config import EdgeConfig


@click.command()
@click.option("--url", help="Where `tillstream ca serve` listens, https://host:port; enrol_url if left out.")
@click.option(
    "--token-file",
    "token_file",
    type=click.File("r"),
    default="-",
    help="The file that holds TOKEN.FINGERPRINT; standard input if left out. Not an argument: all would see it.",
)
@click.option("--csr", "only_request", is_flag=True, help="Make the key and print the request (PEM) to be carried.")
@click.pass_context
def enrol(context: click.Context, url: str | None, token_file: TextIO, only_request: bool) -> None:
    """Make this till's key, which never leaves it, and get a certificate for it.

    It may be run again after whatever went wrong: it goes on where it was, and the same token still counts for the
    same key. To get a new key, delete the file of the old one first.

    \b
    Example:
      tillstream ca enrol-token 042-01                                   at central: prints the token
      tillstream edge enrol --url https://central.example:8443           on the till: asks for it
      tillstream edge enrol --csr > 042-01.csr                           where the way is by hand, or by Ansible
    """
    from wire.tls import TlsError, when

    from .enrolment import EnrolmentError
    from .enrolment import enrol as enrol_till

    config = configured(context)
    try:
        if only_request:
            click.echo(_request(config), nl=False)
            return
        if not (url or config.enrol_url):
            raise fail("where to? --url https://host:8443, or enrol_url in edge.toml")
        found = enrol_till(config, url or config.enrol_url, _token(token_file))
    except (EnrolmentError, TlsError, OSError) as problem:
        raise fail(str(problem)) from problem
    click.echo(f"{config.tls_cert_file}: {found.name}, valid until {when(found.not_after_s)}")


def _request(config: EdgeConfig) -> bytes:
    from wire.files import make_folder
    from wire.tls import openssl

    from .enrolment import files_of, make_key, request_of

    key = files_of(config).key
    make_folder(key.parent)
    make_key(key)
    return openssl("req", "-inform", "DER", given=request_of(key, config.till_id))


def _token(file: TextIO) -> str:
    """Read the token; from a person without showing it."""
    if file.isatty():
        return str(click.prompt("Enrolment token", hide_input=True, err=True))
    return file.read(1024)
