"""What a client's certificate says, and the list of revoked ones as a file."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wire.program import ConfigError
from wire.tls import when

log = logging.getLogger("tillstream.broker")

CRL_LIMIT_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Shown:
    """A certificate that was believed in the handshake; ``not_after_s`` in epoch seconds."""

    name: str
    serial: int
    not_after_s: float


def shown_by(ssl_object: ssl.SSLObject | None) -> Shown | None:
    """Return what a client has shown; its one common name, or an empty text."""
    peer: Mapping[str, Any] | None = ssl_object.getpeercert() if ssl_object else None
    if not peer:
        return None
    names = [value for part in peer["subject"] for kind, value in part if kind == "commonName"]
    name = names[0] if len(names) == 1 else ""
    return Shown(name, int(peer["serialNumber"], 16), ssl.cert_time_to_seconds(peer["notAfter"]))


class RevokedList:
    """The file of revoked certificates, read again when it changes; only the authority's own word counts.

    One that is out of date still counts: shutting out a whole fleet because nobody renewed a list is the greater harm.
    """

    def __init__(self, path: Path, ca_file: Path) -> None:
        self._path, self._ca_file = path, ca_file
        self._seen: tuple[int, int, int] | None = None
        self._complained = ""
        self.serials: frozenset[int] = frozenset()
        self.begins_s = self.ends_s = 0.0

    def is_current(self, now_s: float) -> bool:
        """Say whether OpenSSL can go by it: by one that is out of date, or not valid yet, it would refuse everybody."""
        return self.begins_s <= now_s < self.ends_s

    def load(self) -> None:
        """Read it for the first time; one that is configured and cannot be read must not let everybody in."""
        try:
            self._look()
        except (OSError, ValueError) as problem:
            raise ConfigError(f"cannot read revocation_list_file {self._path}: {problem}") from problem

    def refresh(self, now_s: float) -> bool:
        """Read it if it changed; return whether it did. One that cannot be read leaves everything as it was."""
        try:
            changed = self._look()
        except (OSError, ValueError) as problem:
            self._complain("crl_unreadable", str(problem))
            return False
        if now_s > self.ends_s:
            self._complain("crl_expired", f"was due again at {when(self.ends_s)}; it is still gone by")
        else:
            self._complained = ""
        return changed

    def _look(self) -> bool:
        state = self._path.stat()
        seen = (state.st_mtime_ns, state.st_size, state.st_ino)
        if seen == self._seen:
            return False
        if state.st_size > CRL_LIMIT_BYTES:
            raise ValueError(f"longer than {CRL_LIMIT_BYTES} bytes")
        self.serials, self.begins_s, self.ends_s = read_revoked(self._path.read_bytes(), self._ca_file.read_bytes())
        self._seen = seen
        return True

    def _complain(self, event: str, problem: str) -> None:
        if self._complained != event:
            log.error(event, extra={"also": {"path": str(self._path), "problem": problem}})
        self._complained = event


def read_revoked(crl: bytes, authorities: bytes) -> tuple[frozenset[int], float, float]:
    """Return the serial numbers in a list (PEM), when it was made and is due again; ValueError if it proves nothing."""
    try:  # Takes time and memory to load, and is needed by those with such a list only.
        from cryptography import x509
    except ModuleNotFoundError:
        raise ConfigError("revocation_list_file needs cryptography: pip install 'tillstream[ca]'") from None
    try:
        found = x509.load_pem_x509_crl(crl)
    except x509.InvalidVersion as problem:
        raise ValueError(str(problem)) from problem
    issuers = x509.load_pem_x509_certificates(authorities)
    if not any(_is_signed(found, issuer) for issuer in issuers):
        raise ValueError("it is not signed by the authority in tls_ca_file")
    ends = found.next_update_utc
    serials = frozenset(one.serial_number for one in found)
    return serials, found.last_update_utc.timestamp(), ends.timestamp() if ends else float("inf")


def _is_signed(crl: Any, issuer: Any) -> bool:
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        return bool(crl.is_signature_valid(issuer.public_key()))
    except (TypeError, UnsupportedAlgorithm):  # A key of another kind.
        return False
