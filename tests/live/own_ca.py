"""Owns a certificate authority for tests, made with the program openssl: a server's files, and clients with a CN."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

OPENSSL = shutil.which("openssl")
CURVE = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]


class OwnCa:
    """In its folder lie ca.crt, ca.key, crl.pem, server.crt and server.key, and what `client` makes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in (("index", ""), ("serial", "01\n"), ("crlnumber", "01\n")):
            (folder / name).write_text(content, "ascii")
        lines = ["[ca]", "default_ca=own", "[own]", f"database={folder / 'index'}", f"serial={folder / 'serial'}"]
        lines += [f"crlnumber={folder / 'crlnumber'}", f"new_certs_dir={folder}", f"certificate={folder / 'ca.crt'}"]
        lines += [
            f"private_key={folder / 'ca.key'}",
            "default_md=sha256",
            "policy=any",
            "unique_subject=no",
            "copy_extensions=copy",
        ]
        lines += ["default_days=2", "default_crl_days=2", "[any]", "commonName=supplied"]
        (folder / "ca.cnf").write_text("\n".join(lines) + "\n", "ascii")
        _openssl("req", "-x509", *CURVE, "-subj", "/CN=own", "-keyout", folder / "ca.key", "-out", folder / "ca.crt")
        self._issue("server", "subjectAltName=IP:127.0.0.1,DNS:localhost", "extendedKeyUsage=serverAuth,clientAuth")
        self._write_crl()

    def client(self, name: str) -> ssl.SSLContext:
        """Return what a client of this name connects with."""
        if not (self.folder / f"{name}.crt").exists():
            self._issue(name, "extendedKeyUsage=clientAuth")
        context = self.nobody()
        context.load_cert_chain(self.folder / f"{name}.crt", self.folder / f"{name}.key")
        return context

    def nobody(self) -> ssl.SSLContext:
        """Return what a client without a certificate connects with."""
        return ssl.create_default_context(cafile=self.folder / "ca.crt")

    def revoke(self, name: str) -> None:
        self._ca("-revoke", self.folder / f"{name}.crt")
        self._write_crl()

    def serve_from(self, folder: Path) -> None:
        """Put a server's files where a recipe looks for them."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("ca.crt", "crl.pem", "server.crt", "server.key"):
            shutil.copy(self.folder / name, folder / name)

    def _issue(self, name: str, *extensions: str) -> None:
        added = [word for extension in extensions for word in ("-addext", extension)]
        key, request = self.folder / f"{name}.key", self.folder / f"{name}.csr"
        _openssl("req", *CURVE, "-subj", f"/CN={name}", *added, "-keyout", key, "-out", request)
        self._ca("-in", request, "-out", self.folder / f"{name}.crt", "-notext")

    def _write_crl(self) -> None:
        self._ca("-gencrl", "-out", self.folder / "crl.pem")

    def _ca(self, *arguments: object) -> None:
        _openssl("ca", "-batch", "-config", self.folder / "ca.cnf", *arguments)


def _openssl(*arguments: object) -> None:
    done = subprocess.run([OPENSSL, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
