"""Decides who gets a certificate and whose is taken back, enters it in the register, writes the list for brokers."""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from wire import topics
from wire.files import make_folder, replace
from wire.program import ConfigError
from wire.tokens import denied_names, read_deny_list

from .authority import (
    BACKDATED_S,
    Authority,
    Kind,
    RequestError,
    Wanted,
    key_fingerprint,
    make_authority,
    name_in,
    read_authority,
    read_request,
    usable_key,
)
from .config import CaConfig
from .register import EnrolToken, Issued, Register

log = logging.getLogger("tillstream.ca")

DAY_S = 86_400


class RefusedError(Exception):
    """What was asked for is not granted; the text says why and is meant for whoever asked."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A certificate as the register has it; times are epoch seconds."""

    serial: str
    name: str
    kind: Kind
    not_after_s: float
    issued_by: str
    revoked_at_s: float | None
    reason: str

    def state(self, now_s: float) -> str:
        """Return ``valid``, ``expired`` or ``revoked``."""
        if self.revoked_at_s is not None:
            return "revoked"
        return "valid" if now_s <= self.not_after_s else "expired"


class Office:
    """The certificate authority at work; ``clock`` gives epoch seconds."""

    def __init__(self, config: CaConfig, clock: Callable[[], float]) -> None:
        self.config, self._clock = config, clock
        self.authority: Authority = read_authority(config.folder)
        self._register = Register(config.folder)

    # -- Enrolment ---------------------------------------------------------------------------------------------------

    def enrol_token(self, name: str) -> str:
        """Make a token by which one till, once, gets its first certificate; only its hash is kept.

        What is returned also holds the authority's fingerprint: a new till knows by it whom to believe.
        """
        self._check_user(name)
        token = secrets.token_urlsafe(24)
        expires_s = self._clock() + self.config.token_hours * 3600
        with self._register.transaction():
            EnrolToken.insert(digest=_hash(token), name=name, expires_at_ms=_ms(expires_s)).execute()
        return f"{token}.{self.authority.fingerprint}"

    def enrol(self, name: str, token: str, given: bytes) -> x509.Certificate:
        """Return a till's first certificate. The same token with the same key gives the same one again.

        A till that was killed before it had the answer asks once more; nobody else can, for nobody has its key.
        """
        request = read_request(given)
        key = usable_key(request.public_key())
        self._check_subject(request, name)
        self._check_user(name)
        with self._register.transaction():
            row = self._usable_token(name, token, key_fingerprint(key))
            if row.serial:
                return self._again(row.serial)
            certificate = self._issue(key, name, "client", (), f"token {row.digest[:8]}")
            row.serial, row.key_fingerprint = _hex(certificate.serial_number), key_fingerprint(key)
            row.save()
        return certificate

    def _usable_token(self, name: str, token: str, fingerprint: str) -> EnrolToken:
        row = EnrolToken.get_or_none(EnrolToken.digest == _hash(token))
        if row is None:
            raise RefusedError("the enrolment token is unknown: mistyped, or of another authority")
        if row.name != name:
            raise RefusedError("the enrolment token was made for another till")
        if row.serial and row.key_fingerprint != fingerprint:
            raise RefusedError("the enrolment token was used already, with another key; ask for a new one")
        if _ms(self._clock()) > row.expires_at_ms:
            raise RefusedError("the enrolment token has expired; ask for a new one")
        return row

    def _again(self, serial: str) -> x509.Certificate:
        row = Issued.get_by_id(serial)
        if row.revoked_at_ms is not None:
            raise RefusedError("the certificate that this token gave was revoked; ask for a new token")
        return x509.load_pem_x509_certificate(row.pem.encode())

    # -- Issuing -----------------------------------------------------------------------------------------------------

    def issue(self, name: str, given: bytes, names: tuple[str, ...] = ()) -> x509.Certificate:
        """Sign the request that a person, or Ansible, carried here: of a server by its names, else of a user."""
        request = read_request(given)
        key = usable_key(request.public_key())
        self._check_subject(request, name)
        if not names:
            self._check_user(name)
        with self._register.transaction():
            return self._issue(key, name, "server" if names else "client", names, "request")

    def issue_key(
        self, name: str, kind: Kind, names: tuple[str, ...], key: ec.EllipticCurvePublicKey
    ) -> x509.Certificate:
        """Sign a key that was made on this machine: of a central worker or of a server, never of a till."""
        if kind == "client":
            if topics.worker_of(name) is None:
                raise RefusedError(
                    f"a till's key is made on the till and never leaves it: `tillstream ca enrol-token {name}`, "
                    "or bring the till's certificate request: --csr FILE"
                )
            self._check_user(name)
        with self._register.transaction():
            return self._issue(key, name, kind, names, "key made here")

    def renew(self, old: x509.Certificate, given: bytes | None = None, *, early: bool = False) -> x509.Certificate:
        """Return a successor with the same name and key, or with the key of a request that names the same.

        Unless a person wants it ``early``, a key whose newest certificate is not due gets that one again: who asks all
        day fills neither the register nor, once revoked, the list that all brokers read.
        """
        name, kind = name_in(old.subject), _kind_of(old)
        key = usable_key(old.public_key())
        if given is not None:
            request = read_request(given)
            self._check_subject(request, name)
            key = usable_key(request.public_key())
        if kind == "client":
            self._check_user(name)
        with self._register.transaction():
            self._check_renewable(old)
            newest = None if early else self._newest(name, kind, key)
            if newest is not None and not self.is_due(newest):
                return newest
            return self._issue(key, name, kind, _names_of(old), f"renewal of {_hex(old.serial_number)[:8]}")

    def _newest(self, name: str, kind: Kind, key: ec.EllipticCurvePublicKey) -> x509.Certificate | None:
        is_its = (Issued.name == name) & (Issued.kind == kind) & (Issued.key_fingerprint == key_fingerprint(key))
        query = Issued.select().where(is_its & Issued.revoked_at_ms.is_null())
        row = query.order_by(Issued.not_after_ms.desc()).first()
        return None if row is None else x509.load_pem_x509_certificate(row.pem.encode())

    def _check_renewable(self, old: x509.Certificate) -> None:
        if not self.authority.has_signed(old):
            raise RefusedError("the certificate is not of this authority")
        row = Issued.get_or_none(Issued.serial == _hex(old.serial_number))
        if row is None:
            raise RefusedError("the certificate is not in the register of this authority")
        if row.revoked_at_ms is not None:
            raise RefusedError("the certificate was revoked")
        if _ms(self._clock()) > row.not_after_ms:
            raise RefusedError("the certificate has expired: it needs a new enrolment token")

    def _issue(
        self, key: ec.EllipticCurvePublicKey, name: str, kind: Kind, names: tuple[str, ...], issued_by: str
    ) -> x509.Certificate:
        now_s = self._clock()
        ends_s = now_s + self.config.certificate_days * DAY_S
        wanted = Wanted(name, kind, names, x509.random_serial_number(), now_s - BACKDATED_S, ends_s)
        certificate = self.authority.sign(key, wanted)
        Issued.insert(
            serial=_hex(certificate.serial_number),
            name=name,
            kind=kind,
            not_before_ms=_ms(certificate.not_valid_before_utc.timestamp()),
            not_after_ms=_ms(certificate.not_valid_after_utc.timestamp()),
            issued_at_ms=_ms(now_s),
            issued_by=issued_by,
            key_fingerprint=key_fingerprint(key),
            pem=pem(certificate).decode(),
        ).execute()
        log.info("issued", extra={"till": name, "also": {"serial": _hex(certificate.serial_number), "by": issued_by}})
        return certificate

    def _check_subject(self, request: x509.CertificateSigningRequest, name: str) -> None:
        found = name_in(request.subject)
        if found != name:
            raise RequestError(f"the request names {found!r}, not {name!r}")

    def _check_user(self, name: str) -> None:
        if not _is_user(name):
            raise RefusedError(
                f"{name!r} is neither a till id (letters, digits, _ and -, at most 64) nor central-<worker>"
            )
        if name in read_deny_list(Path(self.config.deny_file)):
            raise RefusedError(f"{name} is on the deny list {self.config.deny_file}; take it out there first")

    # -- Revocation --------------------------------------------------------------------------------------------------

    def revoke(self, name: str, reason: str) -> tuple[str, ...]:
        """Take back every certificate of a name, and put a till or worker on the deny list; returns the serials.

        Raises RefusedError at a name that nobody has and nobody can have. The deny list first: it ends live sessions
        and tokens, and if this dies between the two the next run does both.
        """
        now_ms = _ms(self._clock())
        with self._register.transaction():
            if _is_user(name):
                self._deny(name)
            elif not Issued.select().where(Issued.name == name).exists():
                raise RefusedError(f"{name!r} has no certificate, and is neither a till id nor central-<worker>")
            is_alive = (Issued.name == name) & (Issued.not_after_ms >= now_ms) & Issued.revoked_at_ms.is_null()
            serials = tuple(row.serial for row in Issued.select(Issued.serial).where(is_alive))
            Issued.update(revoked_at_ms=now_ms, reason=reason).where(is_alive).execute()
            EnrolToken.delete().where((EnrolToken.name == name) & (EnrolToken.serial == "")).execute()
            self._write_revocation_list()
        log.warning("revoked", extra={"till": name, "also": {"serials": serials, "reason": reason}})
        return serials

    def _deny(self, name: str) -> None:
        path = Path(self.config.deny_file).resolve()  # Or a link to where the broker reads would become a file.
        make_folder(path.parent)
        text = path.read_text("utf-8") if path.exists() else ""
        if name in denied_names(text):
            return
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
        lines = text if text.endswith("\n") or not text else f"{text}\n"
        replace(path, f"{lines}{name}\n".encode(), mode)

    def _write_revocation_list(self) -> None:
        """Write what brokers read, inside the transaction: of two that write, the later one knows of both."""
        now_s = self._clock()
        alive = Issued.revoked_at_ms.is_null(False) & (Issued.not_after_ms >= _ms(now_s))
        revoked = [(int(row.serial, 16), (row.revoked_at_ms or 0) / 1000) for row in Issued.select().where(alive)]
        path = Path(self.config.crl_file)
        make_folder(path.parent)
        replace(path, self.authority.revocation_list(revoked, now_s, now_s + self.config.crl_days * DAY_S))

    def write_revocation_list(self) -> None:
        """Write what brokers read anew."""
        with self._register.transaction():
            self._write_revocation_list()

    def keep_revocation_list(self) -> bool:
        """Write the list anew if half of its time has passed, or if it cannot be read; say whether it was written."""
        path, half_s = Path(self.config.crl_file), self.config.crl_days * DAY_S / 2
        ends_s = revocation_list_ends_s(path)
        if ends_s is not None and ends_s - self._clock() > half_s:
            return False
        self.write_revocation_list()
        return True

    # -- What is there -----------------------------------------------------------------------------------------------

    def entries(self) -> list[Entry]:
        """Return all certificates, the name's newest last."""
        with self._register.transaction():
            rows = list(Issued.select().order_by(Issued.name, Issued.issued_at_ms))
        return [_entry(row) for row in rows]

    def names_of(self, certificate: x509.Certificate) -> set[str]:
        """Return the host names and addresses that a certificate names."""
        return set(_names_of(certificate))

    def is_due(self, certificate: x509.Certificate) -> bool:
        """Say whether a certificate should be renewed now."""
        begins_s, ends_s = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
        return ends_s - self._clock() <= self.config.renew_left * (ends_s - begins_s)


def found_authority(config: CaConfig, name: str, now_s: float) -> bool:
    """Make the authority, put its certificate where brokers read it, and write a first list; False if it was there."""
    made = make_authority(config.folder, name, now_s - BACKDATED_S, now_s + config.root_days * DAY_S)
    office = Office(config, lambda: now_s)
    ca_file = Path(config.ca_file)
    make_folder(ca_file.parent)
    if not ca_file.exists() or ca_file.read_bytes() != office.authority.pem:
        replace(ca_file, office.authority.pem)
    office.keep_revocation_list()
    return made


def revocation_list_ends_s(path: Path) -> float | None:
    """Return when a list is due again, in epoch seconds; None if there is none that can be read."""
    try:
        ends = x509.load_pem_x509_crl(path.read_bytes()).next_update_utc
    except (OSError, ValueError):
        return None
    return ends.timestamp() if ends else None


def read_certificate(path: Path) -> x509.Certificate:
    """Return a certificate of a file; raises ConfigError."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as problem:
        raise ConfigError(f"cannot read the certificate {path}: {problem}") from problem


def pem(certificate: x509.Certificate) -> bytes:
    """Return a certificate as a file holds it."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def _is_user(name: str) -> bool:
    return topics.worker_of(name) is not None or topics.is_till_user(name)


def _kind_of(certificate: x509.Certificate) -> Kind:
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    return "server" if ExtendedKeyUsageOID.SERVER_AUTH in usage else "client"


def _names_of(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return (*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress)))


def _entry(row: Issued) -> Entry:
    revoked_at_s = None if row.revoked_at_ms is None else row.revoked_at_ms / 1000
    kind: Kind = "server" if row.kind == "server" else "client"
    return Entry(row.serial, row.name, kind, row.not_after_ms / 1000, row.issued_by, revoked_at_s, row.reason)


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _hex(serial: int) -> str:
    return f"{serial:x}"


def _ms(at_s: float) -> int:
    return int(at_s * 1000)
