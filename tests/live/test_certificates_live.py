"""A till's certificate from its first day to its last, with real processes: enrolled, renewed, revoked."""

from __future__ import annotations

import re
import subprocess
import threading
import time
from pathlib import Path

import pytest
from brokers import FLEET_KEY, ROOT, wait_until
from mutual import Mutual
from nursery import Nursery
from pki import DAY_S, Pki
from processes import command_lines
from station import Station, tillstream
from yard import Yard, is_in_order

from wire.tls import look_at
from wire.tokens import token_of

SEED = 20261128
LIFE_S, RENEW_LEFT = 30.0, 0.06
"""A certificate begins 300 s before it is made, so of 330 s in all the last 20 are those in which it is due."""
REVOKED_WITHIN_S = 60


class Chain:
    """A shop whose tills have certificates of a few seconds' life; broker and central have long ones."""

    def __init__(self, folder: Path, nursery: Nursery, tills: int) -> None:
        self.folder, self.pki = folder, Pki(folder / "ca")
        short = {"certificate_days": LIFE_S / DAY_S, "renew_left": RENEW_LEFT, "log_level": "debug"}
        self.short = Pki(folder / "ca", **short)
        settings = {"tls_ca_file": self.pki.ca_file, "log_level": "debug", "reconnect_max_s": 0.3}
        own = dict(zip(("tls_cert_file", "tls_key_file"), self.pki.files("central-1"), strict=True))
        self.yard = Yard(
            folder / "site", nursery, tills, SEED, broker="embedded", broker_at="mqtts://localhost", unsent_most=3,
            agent_settings=settings, central_settings={**settings, **own, "deny_file": self.pki.config.deny_file},
        )  # fmt: skip
        server = self.pki.files("broker", kind="server")
        lines = {
            "tls_cert_file": server[0], "tls_key_file": server[1], "tls_ca_file": self.pki.ca_file,
            "revocation_list_file": self.pki.config.crl_file,
        }  # fmt: skip
        config = self.yard.site.folder / "broker.toml"
        text = re.sub(r'deny_file = ".*"', f'deny_file = "{self.pki.config.deny_file}"', config.read_text("utf-8"))
        config.write_text(text + "".join(f'{key} = "{value}"\n' for key, value in lines.items()), "utf-8")
        self.door: subprocess.Popen[bytes] | None = None
        self.log = folder / "door.log"
        self.url = ""

    def open_door(self) -> None:
        """Start `ca serve`; the second time at the same port."""
        port_file = self.folder / "door.port"
        port_file.unlink(missing_ok=True)
        toml = self.short.toml()
        if self.url:
            toml.write_text(re.sub(r'listen = ".*"', f'listen = "127.0.0.1:{self.url[-5:]}"', toml.read_text("utf-8")))
        command = tillstream("ca", "--config", str(toml), "serve", "--port-file", str(port_file))
        with self.log.open("ab") as log:
            self.door = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        assert wait_until(port_file.exists), self.log.read_text("utf-8")
        self.url = f"https://localhost:{port_file.read_text('ascii').strip()}"

    def close_door(self) -> None:
        if self.door:
            self.door.terminate()
            assert self.door.wait(10) == 0
            self.door = None

    def config_of(self, till) -> Path:
        return self.yard.site.folder / "tills" / till.till_id / "edge.toml"

    def certificate_of(self, till):
        return look_at(till.state_dir / "tls" / "till.pem")

    def enrol(self, till) -> str:
        """Enrol a till by its own command; returns the token, which went by standard input."""
        tls = till.state_dir / "tls"
        lines = {
            "tls_cert_file": f'"{tls}/till.pem"',
            "tls_key_file": f'"{tls}/till.key"',
            "enrol_url": f'"{self.url}"',
        }
        numbers = {"renew_left": RENEW_LEFT, "renew_again_s": 0.5}
        config = self.config_of(till)
        config.write_text(config.read_text("utf-8") + "".join(f"{k} = {v}\n" for k, v in {**lines, **numbers}.items()))
        token = self.short.office.enrol_token(till.till_id)
        command = tillstream("edge", "--config", str(config), "enrol")
        done = subprocess.run(command, cwd=ROOT, input=token.encode(), capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return token


@pytest.fixture
def chain(tmp_path):
    with Nursery() as nursery:
        running = Chain(tmp_path, nursery, 2)
        running.open_door()
        try:
            yield running
        finally:
            running.close_door()


def is_through(running, till):
    """Say whether a till was renewed twice; looking lets the POS go on, for it waits while much is unsent."""
    running.look()
    return till.agent.log().count("certificate_renewed") >= 2


class Spy:
    """Reads every process's command line, again and again, and all that can be seen of its environment."""

    def __init__(self) -> None:
        self.seen: set[bytes] = set()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stopping.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stopping.is_set():
            self.seen.update(line for _, line in command_lines())


def secrets_of(chain, tokens) -> dict[str, bytes]:
    """Return everything that nobody may see, by name: keys without their frames, tokens, the fleet key."""
    keys = [*chain.folder.rglob("*.key")]
    assert {path.name for path in keys} >= {"ca.key", "serve.key", "till.key", "fleet.key", "central-1.key"}
    found = {str(path): _bare(path.read_bytes()) for path in keys}
    for number, token in enumerate(tokens):
        found[f"enrolment token {number}"] = token.split(".")[0].encode()
    for user in ("central-1", *(till.till_id for till in chain.yard.tills)):
        found[f"token of {user}"] = token_of(FLEET_KEY, user).encode()
    return found


def _bare(key: bytes) -> bytes:
    lines = [line for line in key.splitlines() if line and not line.startswith(b"-----")]
    return max(lines, key=len)


def test_tills_enrol_renew_while_they_sell_and_lose_nothing(chain, capsys):
    """Each with a certificate of 30 seconds' life: renewed again and again, one reconnect each, every document once.

    And no key and no token is in a log, all at debug, or in any process's command line, meanwhile.
    """
    with Spy() as spy:
        tokens = [chain.enrol(till) for till in chain.yard.tills]
        first = [chain.certificate_of(till).serial for till in chain.yard.tills]
        with chain.yard as running:
            for till in running.tills:
                till.open()
            for till in running.tills:
                assert wait_until(lambda till=till: is_through(running, till), 90), till.agent.log()[-3000:]
            figures = running.settle()
            assert is_in_order(figures), running.logs()
            assert "certificate_expired" not in running.broker.log()  # Each went on with the new one before the end.
            for till in running.tills:
                assert "certificate_not_renewed" not in till.agent.log()
                assert till.status()["certificate"]["problem"] == ""
            logs = "".join(program.log() for program in running.programs) + chain.log.read_text("utf-8")
    assert [chain.certificate_of(till).serial for till in chain.yard.tills] != first
    for name, secret in secrets_of(chain, tokens).items():
        assert secret.decode() not in logs, f"{name} is in a log"
        assert not [line for line in spy.seen if secret in line], f"{name} is in a command line"
    assert [line for line in spy.seen if b"openssl" in line]  # The spy was quick enough to see what is short.
    with capsys.disabled():
        print(f"\nsold through {logs.count('certificate_renewed')} renewals: {figures}")


def test_a_renewal_that_fails_is_told_and_a_revoked_till_is_out_within_the_minute(chain, capsys):
    """The door is shut: log and status say so, with the days left; opened again, it passes. Revoked: out, and told."""
    (till, other) = chain.yard.tills
    for one in chain.yard.tills:
        chain.enrol(one)
    with chain.yard as running:
        chain.close_door()
        assert wait_until(lambda: "certificate_not_renewed" in till.agent.log(), 30)
        assert wait_until(lambda: till.status()["reason"]["code"] == "certificate_not_renewed", 10), till.status()
        told = till.status()
        assert "Connection refused" in told["certificate"]["problem"]
        assert told["certificate"]["days_left"] == pytest.approx(0, abs=0.001)
        assert "certificate_not_renewed" in told["troubles"]
        chain.open_door()
        assert wait_until(lambda: till.status()["certificate"]["problem"] == "", 20), till.agent.log()[-2000:]
        # It is about to reconnect with the new one: revoked meanwhile it would be refused, and no session would end.
        back = f'"event": "connected", "till": "{till.till_id}"'
        assert wait_until(lambda: running.broker.log().count(back) >= 2 and till.is_connected(), 20)

        began = time.monotonic()
        chain.pki.office.revoke(till.till_id, "stolen")
        assert wait_until(lambda: not till.is_connected(), REVOKED_WITHIN_S)
        out_s = time.monotonic() - began
        assert wait_until(lambda: till.status()["reason"]["code"] == "login_refused", 30), till.status()
        till.close_documents(3)
        assert running.unsent(till) == 3
        assert '"reason": "denied"' in running.broker.log()
        assert wait_until(other.is_connected)
        other.close_documents(3)
        assert wait_until(lambda: running.unsent(other) == 0, 30)
    with capsys.disabled():
        print(f"\na revoked till's live session ended after {out_s:.2f} s")


class Certified(Station):
    """A station whose agents and central show certificates, at a broker that demands them."""

    def __init__(self, folder: Path, kind: str, tills: int) -> None:
        self.mutual = Mutual(kind, folder / "mutual")
        super().__init__(folder, kind, tills)

    def _brokers(self):
        self.servers = [self.mutual.written()]
        return super()._brokers()

    @property
    def broker_urls(self) -> str:
        return f"mqtts://localhost:{self.port}"

    def environment(self, user: str, **keys: str) -> dict[str, str]:
        names = ("TLS_CERT_FILE", "TLS_KEY_FILE")
        files = dict(zip(names, self.mutual.pki.files(user), strict=True))
        return super().environment(user, TLS_CA_FILE=self.mutual.pki.ca_file, **files, **keys)


@pytest.mark.parametrize("kind", ["embedded", "mosquitto", "nats"])
def test_documents_take_the_whole_way_under_mutual_tls(kind, tmp_path):
    """Real agents and a real central, each with its certificate, at each broker; the broker is killed once."""
    with Certified(tmp_path, kind, 3) as station:
        for till in station.tills:
            till.close_documents(20)
        station.broker.kill()
        for till in station.tills:
            till.close_documents(20)
        station.broker.start()

        assert wait_until(station.is_proven, 60), (station.stored(), station.broker.log()[-2000:])
        assert station.query("SELECT count(*), count(DISTINCT till_id || document_id) FROM document") == [(120, 120)]
