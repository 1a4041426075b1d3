"""TLS at a client: whom it believes, what it shows itself, and in words why one of the two refused the other."""

from __future__ import annotations

import re
import ssl
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

from .broker_url import BrokerUrl

OPENSSL_TIMEOUT_S = 20.0
_WHERE = re.compile(r" \(_ssl\.c:\d+\)$")
_NAME = re.compile(r"^subject=.*?\bCN ?= ?([^,\n]*)", re.MULTILINE)
SPEAKS_PLAIN = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNEXPECTED_MESSAGE")
CUT = "cut the connection before it answered"


class TlsError(OSError):
    """A file or program that TLS needs cannot be used; the text names it and says what to do."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """What of a certificate people and programs go by; times are epoch seconds."""

    name: str
    serial: str
    not_before_s: float
    not_after_s: float

    def left_s(self, now_s: float) -> float:
        """Return how long it is valid yet; below 0 once it is not."""
        return self.not_after_s - now_s

    def is_due(self, now_s: float, part_left: float) -> bool:
        """Say whether no more than this part of its life is left."""
        return self.left_s(now_s) <= part_left * (self.not_after_s - self.not_before_s)

    def flaw(self, name: str, now_s: float) -> str:
        """Return why nobody can accept it from ``name`` now; empty if nothing is to be seen."""
        if self.name != name:
            return f"it names {self.name!r}, not {name!r}"
        if now_s < self.not_before_s:
            return f"it is not valid before {when(self.not_before_s)} by this machine's clock"
        return f"it expired at {when(self.not_after_s)}" if now_s > self.not_after_s else ""


@dataclass(frozen=True, slots=True)
class Tls:
    """The files of one client; without ``cert_file`` it shows none, without ``ca_file`` it believes as the system."""

    ca_file: str
    cert_file: str = ""
    key_file: str = ""

    def context(self) -> ssl.SSLContext:
        """Read the files anew, as each connection does: a renewed certificate counts from the next one on.

        Raises TlsError that names the file.
        """
        try:
            changed_at_ns = Path(self.ca_file).stat().st_mtime_ns if self.ca_file else 0
            if not self.cert_file:
                return _shared(self.ca_file, changed_at_ns)
            context = _believing(self.ca_file)
        except OSError as problem:
            raise TlsError(f"tls_ca_file {self.ca_file}: {told(problem)}") from problem
        try:
            context.load_cert_chain(self.cert_file, self.key_file, password=lambda: b"")
        except (OSError, ValueError) as problem:
            files = f"tls_cert_file {self.cert_file} and tls_key_file {self.key_file}"
            raise TlsError(f"{files}: {told(problem)}") from problem
        return context

    def check_name(self, name: str) -> None:
        """Raise TlsError if the own certificate names somebody else.

        Not every broker refuses that: Mosquitto lets in whom the certificate names, and what the till says is dropped.
        """
        if self.cert_file and (found := look_at(Path(self.cert_file))).name != name:
            raise TlsError(f"{self.cert_file} names {found.name!r}, not {name!r}: tillstream edge enrol")

    def flaw(self, name: str, now_s: float) -> str:
        """Return what is wrong with the own certificate, as far as it can be seen here; else an empty text."""
        if not self.cert_file:
            return ""
        try:
            flaw = look_at(Path(self.cert_file)).flaw(name, now_s)
        except TlsError as problem:
            return str(problem)
        return f"{self.cert_file}: {flaw}" if flaw else ""


def _believing(ca_file: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca_file or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


@lru_cache(maxsize=8)
def _shared(ca_file: str, _changed_at_ns: int) -> ssl.SSLContext:
    """Return the one context of all who show no certificate: a fleet in one process has thousands of connections."""
    return _believing(ca_file)


def check_files(ca_file: str | None, cert_file: str | None, key_file: str | None) -> None:
    """Raise ValueError for half of a client's TLS configuration."""
    if bool(cert_file) != bool(key_file):
        raise ValueError("`tls_cert_file` and `tls_key_file` go together: set both or neither")
    if cert_file and not ca_file:
        raise ValueError("`tls_cert_file` needs `tls_ca_file`: who shows a certificate must know whom to show it")


def tls_of(brokers: Iterable[BrokerUrl], ca_file: str, cert_file: str, key_file: str) -> Tls | None:
    """Return what a configuration asks for; None if no broker of its is spoken to by TLS."""
    return Tls(ca_file, cert_file, key_file) if any(broker.is_tls for broker in brokers) else None


def told(problem: BaseException) -> str:
    """Return an error for people: without the place in C where OpenSSL noticed it."""
    text = problem.strerror if isinstance(problem, OSError) and problem.strerror else str(problem)
    return _WHERE.sub("", text)


def is_refusal(problem: BaseException) -> bool:
    """Say whether one of the two does not accept the other, as opposed to a line that is dead or was cut."""
    return isinstance(problem, ssl.SSLError | TlsError) and not is_cut(problem)


def is_cut(problem: BaseException) -> bool:
    """Say whether the other side hung up within a handshake: it refuses and says nothing, or it has just ended."""
    return isinstance(problem, ssl.SSLEOFError | ConnectionResetError)


def explain(problem: BaseException, *, is_tls: bool, flaw: str) -> str:
    """Return what an error in a handshake means; ``flaw`` is what is wrong with the own certificate."""
    text, reason = told(problem), getattr(problem, "reason", None) or ""
    if reason in SPEAKS_PLAIN:
        text = f"no TLS is spoken at this port ({text})"
    elif is_cut(problem) or "ALERT" in reason:
        text = hint(text, is_tls=is_tls)
    return f"{text}; {flaw}" if flaw and not isinstance(problem, TlsError) else text


def hint(text: str, *, is_tls: bool) -> str:
    """Return what is, or may be, behind a broker that hung up before it answered; with TLS it may have said why."""
    if "ALERT" in text:
        return f"the broker does not accept this client: {text}"
    if not is_tls:
        return f"the broker {CUT} ({text}): does it want TLS at this port (mqtts://)?"
    return f"the broker {CUT} ({text}): is TLS spoken at this port, and does it accept this client's certificate?"


def look_at(cert_file: Path) -> Certificate:
    """Return what a certificate says; raises TlsError. Python's ssl shows no certificate of one's own, openssl does."""
    shown = openssl("x509", "-in", str(cert_file), "-noout", "-subject", "-serial", "-startdate", "-enddate").decode()
    values = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
    name = _NAME.search(shown)
    return Certificate(
        name[1].strip() if name else "",
        f"{int(values['serial'], 16):x}",
        ssl.cert_time_to_seconds(values["notBefore"]),
        ssl.cert_time_to_seconds(values["notAfter"]),
    )


def openssl(*arguments: str, given: bytes = b"") -> bytes:
    """Run the program openssl and return what it prints; raises TlsError. No argument may hold a secret: all see it."""
    command = ["openssl", *arguments]
    try:
        done = subprocess.run(command, input=given, capture_output=True, timeout=OPENSSL_TIMEOUT_S, check=False)  # noqa: S603
    except FileNotFoundError:
        raise TlsError("the program openssl is not installed; on Debian: apt-get install openssl") from None
    except subprocess.TimeoutExpired:
        raise TlsError(f"openssl {arguments[0]} did not answer in {OPENSSL_TIMEOUT_S:.0f} s") from None
    if done.returncode:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise TlsError(f"openssl {arguments[0]}: {lines[0] if lines else 'failed'}")
    return done.stdout


def when(at_s: float) -> str:
    """Return a time for people, in UTC."""
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
