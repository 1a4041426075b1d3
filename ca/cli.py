"""``tillstream ca``: make the authority, enrol tills, issue, renew and revoke certificates, serve enrolment."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import click

from wire.files import make_folder, replace
from wire.program import (
    EXIT_FINDINGS,
    ConfigError,
    log_to_stderr,
    notify_systemd,
    on_stop_signal,
    read_config,
)

from .authority import NAME_MAX, RequestError, make_key, pem_of, read_key
from .config import CaConfig
from .office import Entry, Office, RefusedError, found_authority, pem, read_certificate

log = logging.getLogger("tillstream.ca")

FILE_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{NAME_MAX - 1}}}")
json_option = click.option("--json", "as_json", is_flag=True, help="Machine-readable.")


class Told(click.Group):
    """Turns what is refused into a message and exit code 1."""

    def invoke(self, context: click.Context) -> object:
        """Run the sub-command."""
        try:
            return super().invoke(context)
        except (ConfigError, RefusedError, RequestError, OSError) as problem:
            raise click.ClickException(str(problem)) from problem


@click.group(cls=Told)
@click.option("--config", "path", type=click.Path(path_type=Path), help="Instead of /etc/tillstream/ca.toml.")
@click.pass_context
def ca(context: click.Context, path: Path | None) -> None:
    """Own certificate authority: one identity for each till, and what was revoked.

    \b
    First steps, on one machine, as root:
      tillstream ca init
      tillstream ca issue broker --server --name broker.example --out /etc/tillstream/tls
      tillstream ca issue central-1 --out /etc/tillstream/central
      tillstream ca serve                         the door that tills enrol and renew at
      tillstream ca enrol-token 042-01            what till 042-01 gets its certificate with
    Then on the till:
      tillstream edge enrol --url https://broker.example:8443 --token-file TOKEN
    """
    context.obj = path


@ca.command()
@click.option("--name", default="tillstream", show_default=True, help="The authority's own name.")
@click.pass_context
def init(context: click.Context, name: str) -> None:
    """Make the authority's key and certificate; leaves those that are there as they are.

    The key is as precious as the fleet key: back it up, and let nobody read it.
    """
    config = _config(context)
    made = found_authority(config, name, time.time())
    office = _office(context)
    click.echo(f"{'made' if made else 'there is'} a certificate authority in {config.state_dir}")
    click.echo(f"its certificate is {config.ca_file}, SHA-256 {office.authority.fingerprint}")


@ca.command("enrol-token")
@click.argument("till")
@click.pass_context
def enrol_token(context: click.Context, till: str) -> None:
    """Print what TILL gets its certificate with: once, for one key, within token_hours. Only its hash is kept.

    The part behind the dot is the authority's fingerprint: the till believes nobody else.

    \b
    Example:
      tillstream ca enrol-token 042-01 | ssh 042-01 tillstream edge enrol --url https://central:8443
    """
    click.echo(_office(context).enrol_token(till))


@ca.command()
@click.argument("name")
@click.option("--csr", type=click.File("rb"), help="The certificate request of NAME, made where its key lies.")
@click.option("--server", is_flag=True, help="For a broker; NAME is then only a label.")
@click.option("--name", "names", multiple=True, help="A host name or address of the server; several times.")
@click.option("--out", type=click.Path(path_type=Path), help="A folder for NAME.key and NAME.pem; with --csr a file.")
@click.pass_context
def issue(
    context: click.Context, name: str, csr: BinaryIO | None, server: bool, names: tuple[str, ...], out: Path | None
) -> None:
    """Issue a certificate: for a request that was carried here, or with a key made here.

    A till's key is made on the till and never leaves it: use --csr, or `enrol-token`.

    \b
    Example:
      tillstream ca issue 042-01 --csr 042-01.csr --out 042-01.pem
      tillstream ca issue broker --server --name broker.example --name 10.0.0.5 --out /etc/tillstream/tls
    """
    if server != bool(names):
        raise click.UsageError("--server and --name go together: a server is checked by the names it is reached under")
    office = _office(context)
    if csr is not None:
        _put(out, pem(office.issue(name, csr.read(), names)))
        return
    if out is None:
        raise click.UsageError("a key made here needs a folder: --out")
    if not FILE_NAME.fullmatch(name):
        raise click.UsageError(f"{name!r} is no NAME: letters, digits, dot, _ and -, at most {NAME_MAX}")
    make_folder(out)
    key_path, path = out / f"{name}.key", out / f"{name}.pem"
    if key_path.exists() and path.exists():
        raise RefusedError(
            f"{key_path} is there; `tillstream ca renew {path} --in-place` renews its certificate. "
            "If it was revoked, move the old key away first"
        )
    key = read_key(key_path) if key_path.exists() else make_key()  # A kill may have left the key alone.
    certificate = office.issue_key(name, "server" if server else "client", names, key.public_key())
    replace(key_path, pem_of(key), 0o600)
    replace(path, pem(certificate))
    click.echo(f"{key_path}\n{path}: valid until {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC")


@ca.command()
@click.argument("certificate", type=click.Path(path_type=Path))
@click.option("--csr", type=click.File("rb"), help="With the key of this request; without it with the same key.")
@click.option("--if-due", is_flag=True, help="Only if no more than renew_left of its life is left.")
@click.option("--in-place", is_flag=True, help="Replace the file.")
@click.option("--out", type=click.Path(path_type=Path), help="Write here instead of to standard output.")
@click.pass_context
def renew(
    context: click.Context, certificate: Path, csr: BinaryIO | None, if_due: bool, in_place: bool, out: Path | None
) -> None:
    """Issue the successor of CERTIFICATE, for those that do not renew by themselves: brokers and central workers.

    \b
    Example, daily:
      tillstream ca renew /etc/tillstream/tls/broker.pem --if-due --in-place
    """
    office, old = _office(context), read_certificate(certificate)
    if if_due and not office.is_due(old):
        click.echo(f"{certificate}: not due before the last {office.config.renew_left:.0%} of its life", err=True)
        return
    _put(certificate if in_place else out, pem(office.renew(old, csr.read() if csr else None, early=True)))


@ca.command()
@click.argument("name")
@click.option("--reason", default="", help="Why; kept in the register.")
@click.pass_context
def revoke(context: click.Context, name: str, reason: str) -> None:
    """Take back every certificate of NAME, and put a till on the deny list, so that its token and session end, too.

    Exit code 3: NAME has no certificate that is valid. If it is not misspelt (a till with a token only), all is done.
    A new machine under the same name: restart Mosquitto, if that is the broker, then take NAME off the deny list, then
    `tillstream ca enrol-token NAME`. Where tokens are let in, give it another name: the old one still has its token.
    """
    office = _office(context)
    serials = office.revoke(name, reason)
    click.echo(f"{name}: {len(serials)} certificates revoked; written to {office.config.crl_file}")
    click.echo(f"tokens and live sessions end by the deny list {office.config.deny_file}", err=True)
    if not serials:
        click.echo(f"{name} has no valid certificate; if it is misspelt, take it off the deny list again", err=True)
        sys.exit(EXIT_FINDINGS)


@ca.command("list")
@click.option("--all", "with_all", is_flag=True, help="Expired and revoked ones, too.")
@click.option("--expiring", type=click.FloatRange(min=0), help="Only those with at most so many days left.")
@json_option
@click.pass_context
def list_(context: click.Context, with_all: bool, expiring: float | None, as_json: bool) -> None:
    """List certificates: name, days left, state, serial number. With --expiring exit code 3 if there are any."""
    now_s = time.time()
    entries = _shown(_office(context).entries(), now_s, with_all=with_all, expiring=expiring)
    if as_json:
        click.echo(json.dumps([_row(entry, now_s) for entry in entries]))
    else:
        for entry in entries:
            row = _row(entry, now_s)
            click.echo(f"{row['name']:<20} {row['days_left']:>8} d  {row['state']:<8} {row['serial']}  {row['by']}")
    if expiring is not None and entries:
        sys.exit(EXIT_FINDINGS)


@ca.command()
@click.pass_context
def crl(context: click.Context) -> None:
    """Write the list of revoked certificates anew. `serve` does so by itself; without it do this daily."""
    office = _office(context)
    office.write_revocation_list()
    click.echo(office.config.crl_file)


@ca.command()
@click.option("--port-file", type=click.Path(path_type=Path), help="Write the port that is really listened on.")
@click.pass_context
def serve(context: click.Context, port_file: Path | None) -> None:
    """Serve enrolment and renewal over HTTPS (RFC 7030), and keep the list of revoked certificates fresh."""
    from .server import serve as serve_door

    office = _office(context)
    log_to_stderr(office.config.log_level)
    stopping: list[bool] = []
    on_stop_signal(lambda: stopping.append(True))

    def on_ready(port: int) -> None:
        if port_file:
            replace(port_file, f"{port}\n".encode())
        log.info("listening", extra={"also": {"host": office.config.address()[0], "port": port}})
        notify_systemd("READY=1")

    serve_door(office, lambda: bool(stopping), on_ready)
    log.info("stopped")


@ca.command()
@json_option
@click.pass_context
def doctor(context: click.Context, as_json: bool) -> None:
    """Check that the authority and its list of revoked certificates do not end unnoticed. Exit code 3: one does."""
    from wire import examine

    from .doctor import examine as judge

    office = _office(context)
    findings, language = judge(office, time.time()), office.config.language
    click.echo(examine.as_json(findings, language) if as_json else "\n".join(examine.told(findings, language)))
    if any(one.level != "ok" for one in findings):
        sys.exit(EXIT_FINDINGS)


def _config(context: click.Context) -> CaConfig:
    return read_config(CaConfig, "ca", context.obj, os.environ)


def _office(context: click.Context) -> Office:
    return Office(_config(context), time.time)


def _put(path: Path | None, content: bytes) -> None:
    if path is None:
        click.echo(content.decode(), nl=False)
    else:
        replace(path, content)


def _shown(entries: list[Entry], now_s: float, *, with_all: bool, expiring: float | None) -> list[Entry]:
    """Return what was asked for. Of what expires, only the newest of each name counts: older ones had successors."""
    if expiring is None:
        return [entry for entry in entries if with_all or entry.state(now_s) == "valid"]
    newest = {(entry.name, entry.kind): entry for entry in entries}.values()
    alive = [entry for entry in newest if entry.state(now_s) != "revoked"]
    return [entry for entry in alive if entry.not_after_s - now_s <= expiring * 86_400]


def _row(entry: Entry, now_s: float) -> dict[str, object]:
    return {
        "name": entry.name,
        "kind": entry.kind,
        "state": entry.state(now_s),
        "days_left": round((entry.not_after_s - now_s) / 86_400, 1),
        "not_after": datetime.fromtimestamp(entry.not_after_s, UTC).isoformat(),
        "serial": entry.serial,
        "by": entry.issued_by,
        "reason": entry.reason,
    }
