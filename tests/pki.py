"""A certificate authority for tests: ours, with short paths, a clock that tests set, and certificates of every flaw."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from ca.authority import PURPOSES, Authority, Kind, make_key, pem_of, read_authority
from ca.config import CaConfig
from ca.office import Office, found_authority, pem
from ca.server import serve

DAY_S = 86_400


class Clock:
    """Epoch seconds that stand where a test puts them; as time goes by if it puts them nowhere."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_s


class Pki:
    """An authority in a folder; ``files`` makes a certificate and its key as files."""

    def __init__(self, folder: Path, **settings) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.clock = folder, Clock()
        paths = {"state_dir": "state", "ca_file": "ca.pem", "crl_file": "crl.pem", "deny_file": "deny"}
        values = {key: str(folder / name) for key, name in paths.items()}
        self.config = CaConfig(**{**values, "listen": "127.0.0.1:0", **settings})
        found_authority(self.config, "test authority", time.time())
        self.office = Office(self.config, self.clock)

    @property
    def authority(self) -> Authority:
        return read_authority(self.config.folder)

    @property
    def ca_file(self) -> str:
        return self.config.ca_file

    def toml(self) -> Path:
        """Write what ``tillstream ca --config`` reads."""
        values = {name: getattr(self.config, name) for name in self.config.__struct_fields__}
        path = self.folder / "ca.toml"
        path.write_text("".join(f"{key} = {_toml(value)}\n" for key, value in values.items()), "utf-8")
        return path

    def files(
        self, name: str, *, label: str = "", kind: Kind = "client", begins_s: float = -300, ends_s: float = DAY_S,
        names: tuple[str, ...] = (),
    ) -> tuple[str, str]:  # fmt: skip
        """Make key and certificate as files, of the register too; times are seconds from now. Returns their paths."""
        key = make_key()
        if kind == "server":
            certificate = self.office.issue_key(name, "server", names or ("localhost", "127.0.0.1"), key.public_key())
        else:
            certificate = self.office.issue(name, request(name, key))
        if (begins_s, ends_s) != (-300, DAY_S):
            certificate = with_times(self.authority, certificate, begins_s, ends_s)
        cert_file, key_file = (self.folder / f"{label or name}.{suffix}" for suffix in ("pem", "key"))
        cert_file.write_bytes(pem(certificate))
        key_file.touch(0o600)
        key_file.write_bytes(pem_of(key))
        return str(cert_file), str(key_file)

    @contextmanager
    def serving(self):
        """Serve enrolment from a thread; yields its address."""
        ready, stopping, port = threading.Event(), threading.Event(), []

        def on_ready(number: int) -> None:
            port.append(number)
            ready.set()

        thread = threading.Thread(target=serve, args=(self.office, stopping.is_set, on_ready))
        thread.start()
        try:
            assert ready.wait(10)
            yield f"https://localhost:{port[0]}"
        finally:
            stopping.set()
            thread.join()


def request(name: str, key, **attributes: str) -> bytes:
    """Return a certificate request (PEM)."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    signed = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM)


def with_times(authority: Authority, certificate: x509.Certificate, begins_s: float, ends_s: float) -> x509.Certificate:
    """Return the same certificate with other times, in seconds from now."""
    from datetime import UTC, datetime

    def moment(seconds: float) -> datetime:
        return datetime.fromtimestamp(time.time() + seconds, UTC)

    builder = x509.CertificateBuilder().subject_name(certificate.subject).issuer_name(certificate.issuer)
    builder = builder.public_key(certificate.public_key()).serial_number(certificate.serial_number)
    for extension in certificate.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    builder = builder.not_valid_before(moment(begins_s)).not_valid_after(moment(ends_s))
    return builder.sign(authority._key, hashes.SHA256())


def purposes(certificate: x509.Certificate) -> set[str]:
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    return {kind for kind, oid in PURPOSES.items() if oid in usage}


def _toml(value) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(f'"{one}"' for one in value) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)
