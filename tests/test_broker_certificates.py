"""Certificates at the embedded broker: whom one lets in, what it tells, and the list of revoked ones."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pytest
from factories import wait_until
from hostile import Corpus, Hostile
from pki import Pki

from broker.certificates import RevokedList, Shown, read_revoked, shown_by
from broker.tokens import refusal_of_shown
from wire.files import replace
from wire.program import ConfigError


@pytest.mark.parametrize(
    ("name", "client_id", "user", "reason"),
    [
        ("t1", "t1", "t1", ""), ("t1", "t1", None, ""), ("central-1", "central-1", "central-1", ""),
        ("t1", "t2", "t2", "client_id_is_not_certificate_name"),
        ("t1", "t1", "t2", "user_name_is_not_certificate_name"),
        ("t1", "", None, "client_id_is_not_certificate_name"), ("", "", None, "certificate_names_nobody"),
        ("a.b", "a.b", None, "certificate_names_nobody"), ("central-x", "central-x", None, "certificate_names_nobody"),
        ("+", "+", None, "certificate_names_nobody"), ("t9", "t9", None, "denied"),
    ],
)  # fmt: skip
def test_a_certificate_lets_in_whom_it_names_and_nobody_else(name, client_id, user, reason):
    """Whatever the client says of itself; the log has which rule it was."""
    assert refusal_of_shown(name, False, frozenset({"t9"}), client_id, user) == reason
    if reason in ("", "denied"):
        assert refusal_of_shown(name, True, frozenset({"t9"}), client_id, user) == "certificate_revoked"


class Peer:
    """An SSL object's stand-in: what Python shows of a certificate."""

    def __init__(self, *names):
        self.subject = tuple((("commonName", name),) for name in names)

    def getpeercert(self):
        if not self.subject:
            return {}
        return {"subject": self.subject, "serialNumber": "0A", "notAfter": "Jan  1 00:00:10 1970 GMT"}


def test_one_common_name_is_a_name_and_none_or_two_are_nobodys():
    """A subject with two names could be read either way."""
    assert shown_by(Peer("t1")) == Shown("t1", 10, 10.0)
    assert shown_by(Peer("t1", "t2")).name == ""
    assert shown_by(Peer()) is None
    assert shown_by(None) is None


def test_a_list_of_revoked_ones_counts_only_if_the_authority_signed_it(tmp_path):
    """A stranger's, or a torn one, is an error at the start and changes nothing later."""
    own, stranger = Pki(tmp_path / "own"), Pki(tmp_path / "stranger")
    own.files("t1")
    (serial,) = own.office.revoke("t1", "x")
    crl = Path(own.config.crl_file)
    assert read_revoked(crl.read_bytes(), Path(own.ca_file).read_bytes())[0] == {int(serial, 16)}
    with pytest.raises(ConfigError, match="not signed by the authority"):
        RevokedList(crl, Path(stranger.ca_file)).load()
    with pytest.raises(ConfigError, match=r"none\.pem"):
        RevokedList(tmp_path / "none.pem", Path(own.ca_file)).load()

    revoked = RevokedList(crl, Path(own.ca_file))
    revoked.load()
    for content in (b"torn", Path(stranger.config.crl_file).read_bytes()):
        replace(crl, content)
        assert not revoked.refresh(time.time())
        assert revoked.serials == {int(serial, 16)}
    assert [revoked.is_current(time.time() + ahead_s) for ahead_s in (-3600, 0, 8 * 86_400)] == [False, True, False]
    own.files("t2")
    own.office.revoke("t2", "x")
    assert wait_until(lambda: revoked.refresh(time.time()))
    assert len(revoked.serials) == 2


def test_a_damaged_list_of_revoked_ones_is_an_error_or_proves_itself(tmp_path):
    """Bytes that were cut, turned and filled up never count as a list that nobody signed."""
    own = Pki(tmp_path / "own")
    own.files("t1")
    (serial,) = own.office.revoke("t1", "x")
    good, root = Path(own.config.crl_file).read_bytes(), own.authority.pem
    hostile, corpus = Hostile(4711), Corpus([good, root])
    for _ in range(2000):
        with contextlib.suppress(ValueError):
            assert read_revoked(hostile.damaged(good, corpus), root)[0] == {int(serial, 16)}
