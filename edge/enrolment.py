"""How a till gets its certificate: the key is made here and never leaves; the rest is asked for (RFC 7030).

Every step leaves files that are whole, so a run that was killed is completed by the next one.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import http.client
import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from wire.files import make_folder, replace
from wire.tls import Certificate, TlsError, look_at, openssl, told

from .config import EdgeConfig

EST = "/.well-known/est"
TIMEOUT_S = 20.0
ANSWER_LIMIT_BYTES = 64 * 1024
TOKEN_PATTERN = re.compile(r"([A-Za-z0-9_-]{16,128})\.([0-9a-f]{64})")
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n?", re.DOTALL)


class EnrolmentError(Exception):
    """No certificate was got; the text says why and what to do. It holds no token."""


@dataclass(frozen=True, slots=True)
class Files:
    """Where authority, certificate and key lie on this till."""

    ca: Path
    cert: Path
    key: Path


def files_of(config: EdgeConfig) -> Files:
    """Return where the configuration wants them; raises EnrolmentError if it does not say."""
    if not config.tls_cert_file:
        raise EnrolmentError(
            "set tls_ca_file, tls_cert_file and tls_key_file in edge.toml first: enrolment writes there, for example"
            f" {config.state_dir}/tls/ca.pem, till.pem and till.key"
        )
    return Files(Path(config.tls_ca_file), Path(config.tls_cert_file), Path(config.tls_key_file))


def enrol(config: EdgeConfig, url: str, given: str) -> Certificate:
    """Get this till's first certificate; raises EnrolmentError.

    ``given`` is ``TOKEN.FINGERPRINT``. The token is sent to nobody but a server that the authority of that very
    fingerprint vouches for. Asked again after an answer that got lost, the authority gives the same certificate.
    """
    files, parts = files_of(config), TOKEN_PATTERN.fullmatch(given.strip())
    if parts is None:
        raise EnrolmentError("this is no enrolment token: TOKEN.FINGERPRINT, as `tillstream ca enrol-token` prints it")
    token, fingerprint = parts.groups()
    try:
        for path in (files.ca, files.cert, files.key):
            make_folder(path.parent)
        make_key(files.key)
        authority = _authority(url, fingerprint)
        login = base64.b64encode(f"{config.till_id}:{token}".encode()).decode()
        context = ssl.create_default_context(cadata=authority.decode())
        answer = _ask(url, "simpleenroll", context, request_of(files.key, config.till_id), login)
        return _take(files, config.till_id, answer, _trusted(files.ca, authority))
    except (OSError, http.client.HTTPException) as problem:
        raise EnrolmentError(f"{url}: {_why(problem)}") from problem


def renew(config: EdgeConfig) -> Certificate:
    """Get the successor of this till's certificate, with the same key; raises EnrolmentError.

    Only the certificate's file is replaced, in one step: whoever reads key and certificate finds them fitting.
    """
    files = files_of(config)
    try:
        context = ssl.create_default_context(cafile=str(files.ca))
        context.load_cert_chain(files.cert, files.key, password=lambda: b"")
        answer = _ask(config.enrol_url, "simplereenroll", context, request_of(files.key, config.till_id))
        return _take(files, config.till_id, answer, files.ca.read_bytes())
    except (OSError, http.client.HTTPException) as problem:
        raise EnrolmentError(f"{config.enrol_url}: {_why(problem)}") from problem


def make_key(path: Path) -> None:
    """Make a key that only its owner can read; one that is there stays."""
    if not path.exists():
        replace(path, openssl("ecparam", "-genkey", "-name", "prime256v1", "-noout"), 0o600)


def request_of(key: Path, till_id: str) -> bytes:
    """Return a certificate request (DER) for a till, signed by its key."""
    return openssl("req", "-new", "-key", str(key), "-subj", f"/CN={till_id}", "-outform", "DER")


def _authority(url: str, fingerprint: str) -> bytes:
    """Return the authority's certificate, believed by its fingerprint alone: nothing secret is sent on this way."""
    unproven = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unproven.check_hostname, unproven.verify_mode = False, ssl.CERT_NONE
    for pem in _certificates(_ask(url, "cacerts", unproven)):
        if hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem.decode())).hexdigest() == fingerprint:
            return pem
    raise EnrolmentError(f"{url} belongs to another authority than this token: its fingerprint differs")


def _ask(url: str, what: str, context: ssl.SSLContext, request: bytes | None = None, login: str = "") -> bytes:
    host, port = _address(url)
    connection = http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=context)
    headers = {"Authorization": f"Basic {login}"} if login else {}
    try:
        if request is None:
            connection.request("GET", f"{EST}/{what}", headers=headers)
        else:
            headers |= {"Content-Type": "application/pkcs10", "Content-Transfer-Encoding": "base64"}
            connection.request("POST", f"{EST}/{what}", base64.encodebytes(request), headers)
        answer = connection.getresponse()
        body = answer.read(ANSWER_LIMIT_BYTES)
    finally:
        connection.close()
    if answer.status != 200:
        raise EnrolmentError(f"{url} refused ({answer.status}): {body[:500].decode('utf-8', 'replace').strip()}")
    return body


def _address(url: str) -> tuple[str, int]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or 443
    except ValueError as problem:
        raise EnrolmentError(f"{url!r} is no https:// address: {problem}") from problem
    if parts.scheme != "https" or not host:
        raise EnrolmentError(f"{url!r} is no https:// address")
    return host, port


def _certificates(body: bytes) -> list[bytes]:
    try:
        der = base64.b64decode(b"".join(body.split()), validate=True)
    except binascii.Error as problem:
        raise TlsError(f"the answer is no base64: {problem}") from problem
    return _PEM.findall(openssl("pkcs7", "-inform", "DER", "-print_certs", given=der))


def _trusted(path: Path, authority: bytes) -> bytes:
    """Return the authorities of a file and this one: the broker may still show a certificate of the one before."""
    found = [one.strip() for one in _PEM.findall(path.read_bytes())] if path.exists() else []
    return b"".join(one + b"\n" for one in dict.fromkeys([*found, authority.strip()]))


def _take(files: Files, till_id: str, answer: bytes, trusted: bytes) -> Certificate:
    """Put the certificate and the authorities in their places, once it is known to fit them, the key and this till."""
    pems = _certificates(answer)
    if not pems:
        raise TlsError("the answer holds no certificate")
    wanted = {files.ca: trusted, files.cert: pems[0]}
    drafts = {path: path.with_name(f".{path.name}.new") for path in wanted}
    try:
        for path, content in wanted.items():
            replace(drafts[path], content)
        found = _fitting(files.key, drafts[files.cert], drafts[files.ca], till_id)
        for path, content in wanted.items():
            if not path.exists() or path.read_bytes() != content:
                replace(path, content)
    finally:
        for draft in drafts.values():
            draft.unlink(missing_ok=True)
    return found


def _fitting(key: Path, cert: Path, ca: Path, till_id: str) -> Certificate:
    """Return what a certificate says; raises TlsError or OSError if it is not this key's, authority's and till's."""
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(cert, key, password=lambda: b"")
    openssl("verify", "-no_check_time", "-CAfile", str(ca), str(cert))
    found = look_at(cert)
    if found.name != till_id:
        raise TlsError(f"the certificate that came names {found.name!r}, not {till_id!r}")
    return found


def _why(problem: BaseException) -> str:
    return told(problem) if isinstance(problem, OSError) else str(problem) or type(problem).__name__
