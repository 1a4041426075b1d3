"""Owns a broker of each kind under mutual TLS, with an authority of ours, and how an operator reloads it."""

from __future__ import annotations

import contextlib
import shutil
import signal
import ssl
from pathlib import Path

from brokers import (
    Server,
    embedded,
    embedded_server,
    mosquitto,
    mosquitto_server,
    nats,
    nats_server,
)
from pki import Pki

from fleet.processes import free_port
from wire.tls import Tls

START = {"embedded": embedded, "mosquitto": mosquitto, "nats": nats}
WRITE = {"mosquitto": mosquitto_server, "nats": nats_server}


class Mutual:
    """A broker under mutual TLS, and the authority whose clients it believes; ``server`` is its certificate and key."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind, self.folder, self._place = kind, folder, folder / "broker"
        self.pki = Pki(folder / "ca")
        self.server = self.pki.files("broker", kind="server", names=("localhost",))
        self.crl, self.deny = Path(self.pki.config.crl_file), Path(self.pki.config.deny_file)
        self.deny.touch()
        self._options = {"security": "mutual", "deny": self.deny}
        if kind == "nats":
            self._options["monitor"] = f"127.0.0.1:{free_port()}"
        if kind == "embedded":
            self._options = {
                "tls_cert_file": self.server[0], "tls_key_file": self.server[1], "tls_ca_file": self.pki.ca_file,
                "revocation_list_file": str(self.crl), "deny_file": str(self.deny), "connect_timeout_s": 2.0,
            }  # fmt: skip

    @contextlib.contextmanager
    def running(self):
        """Let it run; yields itself, with ``broker``."""
        self._put()
        with START[self.kind](self._place, **self._options) as self.broker:
            yield self

    def written(self) -> Server:
        """Return how it is started by somebody else."""
        self._put()
        return {**WRITE, "embedded": embedded_server}[self.kind](self._place, free_port(), **self._options)

    def apply(self) -> None:
        """Do what an operator's reload does: nothing at the embedded broker, the recipe and SIGHUP at the others."""
        if self.kind != "embedded":
            self._put()
            WRITE[self.kind](self._place, self.broker.port, **self._options)
            self.broker.process.send_signal(signal.SIGHUP)

    def _put(self) -> None:
        """Put the files where a recipe has them."""
        self._place.mkdir(parents=True, exist_ok=True)
        named = {"ca.crt": self.pki.ca_file, "server.crt": self.server[0], "server.key": self.server[1]}
        for name, path in {**named, "crl.pem": str(self.crl)}.items():
            shutil.copy(path, self._place / name)

    def context(self, files: tuple[str, str]) -> ssl.SSLContext:
        return Tls(self.pki.ca_file, *files).context()

    @contextlib.contextmanager
    def client(self, user: str, files: tuple[str, str] | None = None):
        """Yield a raw client that shows its certificate, and says its name as ours do."""
        with self.broker.raw(self.context(files or self.pki.files(user))) as client:
            assert client.connect(user, user=user) == 0
            yield client
