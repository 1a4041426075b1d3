"""The key and what is signed by it: certificates and the list of revoked ones. Knows no clock and no register."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from wire.files import make_folder, replace
from wire.program import ConfigError

KEY_FILE, CERTIFICATE_FILE = "ca.key", "ca.pem"
PURPOSES = {"client": ExtendedKeyUsageOID.CLIENT_AUTH, "server": ExtendedKeyUsageOID.SERVER_AUTH}
CURVES = (ec.SECP256R1, ec.SECP384R1)
UNREADABLE = (
    ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm, x509.InvalidVersion, x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)  # fmt: skip
"""What the library raises at bytes that are no certificate, request or signature."""
BACKDATED_S = 300
"""A till's or a broker's clock may be that far behind and still believe what was signed just now."""
NAME_MAX = 64
"""What a common name may have (RFC 5280)."""
REQUEST_LIMIT_BYTES = 16 * 1024

Kind = Literal["client", "server"]


class RequestError(Exception):
    """A certificate request that cannot be granted; the text says why."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One certificate to be signed; times are epoch seconds."""

    name: str
    kind: Kind
    names: tuple[str, ...]
    serial: int
    not_before_s: float
    not_after_s: float


class Authority:
    """The certificate authority's own key and certificate."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self._key, self.certificate = key, certificate

    @property
    def pem(self) -> bytes:
        """The authority's certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the authority's certificate: by it a new till knows whom to believe."""
        return self.certificate.fingerprint(hashes.SHA256()).hex()

    def sign(self, public_key: ec.EllipticCurvePublicKey, wanted: Wanted) -> x509.Certificate:
        """Return a certificate; it never outlives the authority's own."""
        ends = min(_moment(wanted.not_after_s), self.certificate.not_valid_after_utc)
        builder = _builder(wanted.name, self.certificate.subject, public_key, wanted.serial)
        builder = builder.not_valid_before(_moment(wanted.not_before_s)).not_valid_after(ends)
        for extension, is_critical in self._extensions(public_key, wanted):
            builder = builder.add_extension(extension, is_critical)
        return builder.sign(self._key, hashes.SHA256())

    def _extensions(self, key: ec.EllipticCurvePublicKey, wanted: Wanted) -> Iterable[tuple[x509.ExtensionType, bool]]:
        issuer = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        yield x509.BasicConstraints(ca=False, path_length=None), True
        yield _usage(digital_signature=True), True
        yield x509.ExtendedKeyUsage([PURPOSES[wanted.kind]]), False
        yield x509.SubjectKeyIdentifier.from_public_key(key), False
        yield x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer), False
        if wanted.names:
            yield x509.SubjectAlternativeName([_general_name(name) for name in wanted.names]), False

    def revocation_list(self, revoked: Iterable[tuple[int, float]], now_s: float, next_s: float) -> bytes:
        """Return the list of these serial numbers, each with when it was revoked; due again at ``next_s``."""
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.certificate.subject)
        builder = builder.last_update(_moment(now_s - BACKDATED_S)).next_update(_moment(next_s))
        builder = builder.add_extension(x509.CRLNumber(int(now_s * 1000)), critical=False)
        issuer = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        identifier = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer)
        builder = builder.add_extension(identifier, critical=False)
        for serial, at_s in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(_moment(at_s))
            builder = builder.add_revoked_certificate(entry.build())
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def has_signed(self, certificate: x509.Certificate) -> bool:
        """Say whether a certificate is one of ours."""
        try:
            certificate.verify_directly_issued_by(self.certificate)
        except UNREADABLE:
            return False
        return True


def make_authority(folder: Path, name: str, not_before_s: float, not_after_s: float) -> bool:
    """Make key and certificate; what is there stays as it is, so a run that was killed is completed by the next."""
    make_folder(folder.parent)
    folder.mkdir(0o700, exist_ok=True)
    key_path, path = folder / KEY_FILE, folder / CERTIFICATE_FILE
    if path.exists():
        return False
    if not key_path.exists():
        replace(key_path, pem_of(make_key()), 0o600)
    key = read_key(key_path)
    replace(path, _root(key, name, not_before_s, not_after_s).public_bytes(serialization.Encoding.PEM))
    return True


def read_authority(folder: Path) -> Authority:
    """Return the authority; raises ConfigError that says what to do."""
    key_path, path = folder / KEY_FILE, folder / CERTIFICATE_FILE
    try:
        return Authority(read_key(key_path), x509.load_pem_x509_certificate(path.read_bytes()))
    except FileNotFoundError:
        raise ConfigError(f"no certificate authority in {folder}; `tillstream ca init` makes one") from None
    except (OSError, ValueError) as problem:
        raise ConfigError(f"cannot read the certificate authority in {folder}: {problem}") from problem


def make_key() -> ec.EllipticCurvePrivateKey:
    """Return a new key."""
    return ec.generate_private_key(ec.SECP256R1())


def pem_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a key as a file holds it: in the clear, so the file's mode is its only guard."""
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(encoding, form, serialization.NoEncryption())


def read_request(given: bytes) -> x509.CertificateSigningRequest:
    """Return a request (PEM or DER) that is signed by the key it names; raises RequestError."""
    if len(given) > REQUEST_LIMIT_BYTES:
        raise RequestError(f"longer than {REQUEST_LIMIT_BYTES} bytes")
    load = x509.load_pem_x509_csr if given.lstrip().startswith(b"-----") else x509.load_der_x509_csr
    try:
        request = load(given)
        is_signed = request.is_signature_valid
        name_in(request.subject)  # Read now: what cannot be is an error here and nowhere else.
    except UNREADABLE as problem:
        raise RequestError(f"no certificate request (PKCS #10): {problem}") from problem
    if not is_signed:
        raise RequestError("it is not signed by the key it names")
    return request


def name_in(subject: x509.Name) -> str:
    """Return the one common name; an empty text for none or several."""
    found = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if len(found) == 1 else ""


def usable_key(key: object) -> ec.EllipticCurvePublicKey:
    """Return a key that is signed for: of the curve P-256 or P-384; raises RequestError."""
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, CURVES):
        raise RequestError("the key must be an elliptic one of the curve P-256 or P-384")
    return key


def key_fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    """Return SHA-256 of a public key: by it a request that comes again is known."""
    digest = hashes.Hash(hashes.SHA256())
    digest.update(key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo))
    return digest.finalize().hex()


def read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Return a key that was made here; raises ConfigError, or OSError if it cannot be read."""
    if path.stat().st_mode & 0o077:
        raise ConfigError(f"{path}: others on this machine may read the key; `chmod 0600 {path}` first")
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as problem:
        raise ConfigError(f"{path} holds no key that can be read: {problem}") from problem
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{path} holds no elliptic-curve key")
    return key


def _root(key: ec.EllipticCurvePrivateKey, name: str, not_before_s: float, not_after_s: float) -> x509.Certificate:
    builder = _builder(name, _subject(name), key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(_moment(not_before_s)).not_valid_after(_moment(not_after_s))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return builder.add_extension(identifier, critical=False).sign(key, hashes.SHA256())


def _builder(name: str, issuer: x509.Name, key: ec.EllipticCurvePublicKey, serial: int) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(_subject(name)).issuer_name(issuer)
    return builder.public_key(key).serial_number(serial)


def _subject(name: str) -> x509.Name:
    try:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    except ValueError:
        raise RequestError(f"{name!r} cannot be a name: it has 1 to {NAME_MAX} characters") from None


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        if not name.isascii():
            raise RequestError(f"{name!r}: a host name is given as DNS has it, in ASCII (xn--…)") from None
        return x509.DNSName(name)


def _moment(at_s: float) -> datetime:
    return datetime.fromtimestamp(at_s, UTC)
