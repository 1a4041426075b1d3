"""Tokens, the fleet key and the deny list."""

from __future__ import annotations

import base64
import hashlib
import hmac
import stat

import pytest

from broker.keyring import DenyList, make_fleet_key
from broker.tokens import is_token_of, parse_deny_list, refusal
from wire.program import ConfigError
from wire.tokens import read_fleet_key, token_of

KEY = b"k" * 32


def test_a_token_is_the_keyed_digest_of_the_user_name_in_base64url_without_padding():
    """Other tools can compute it: the formula is part of the interface."""
    expected = base64.urlsafe_b64encode(hmac.new(KEY, b"till-1", hashlib.sha256).digest()).decode().rstrip("=")
    assert token_of(KEY, "till-1") == expected
    assert len(expected) == 43


def test_a_token_is_good_for_its_user_and_key_only():
    """Another user's token, another key's, a shortened one, a lengthened one: all wrong."""
    token = token_of(KEY, "till-1")
    assert is_token_of(KEY, "till-1", token)
    for user, password in (("till-2", token), ("till-1", token[:-1]), ("till-1", token + "="), ("till-1", "")):
        assert not is_token_of(KEY, user, password)
    assert not is_token_of(b"other" * 8, "till-1", token)
    assert not is_token_of(KEY, "till-1", "пароль")


@pytest.mark.parametrize("user", ["till-1", "central-1", "central-999"])
def test_tills_and_central_workers_get_in_with_their_token(user):
    """The same formula for both."""
    assert refusal(KEY, frozenset(), user, user, token_of(KEY, user)) == ""


@pytest.mark.parametrize(
    ("client_id", "user", "token_for", "reason"),
    [
        ("till-1", None, "till-1", "no_token"),
        ("till-1", "till-1", None, "no_token"),
        ("till-2", "till-1", "till-1", "client_id_is_not_user_name"),
        ("", "till-1", "till-1", "client_id_is_not_user_name"),
        ("till-1", "till-1", "till-2", "bad_token"),
        ("central-0", "central-0", "central-0", "bad_user_name"),
        ("central-till", "central-till", "central-till", "bad_user_name"),
        ("a/b", "a/b", "a/b", "bad_user_name"),
        ("+", "+", "+", "bad_user_name"),
        ("till-9", "till-9", "till-9", "denied"),
    ],
)
def test_each_refusal_has_its_reason(client_id, user, token_for, reason):
    """The log says which of the rules it was; the client learns only that it is not authorised."""
    password = token_for and token_of(KEY, token_for)
    assert refusal(KEY, frozenset({"till-9"}), client_id, user, password) == reason


def test_a_stranger_does_not_learn_who_is_denied():
    """The token is looked at before the deny list."""
    assert refusal(KEY, frozenset({"till-9"}), "till-9", "till-9", "guess") == "bad_token"


def test_a_deny_list_is_one_name_a_line_with_comments():
    """Lines that can name nobody are told apart, so that a slip shows."""
    names, unknown = parse_deny_list("# stolen\ntill-1\n\n  till-2  # store 12\ntill 3\n")
    assert names == {"till-1", "till-2", "till 3"}
    assert unknown == ("till 3",)


def test_the_fleet_key_is_made_once_and_for_its_owner_only(tmp_path):
    """The second run changes nothing and leaves nothing lying about."""
    path = tmp_path / "etc" / "fleet.key"
    assert make_fleet_key(path)
    key = read_fleet_key(path)
    assert len(key) >= 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not make_fleet_key(path)
    assert read_fleet_key(path) == key
    assert [entry.name for entry in path.parent.iterdir()] == ["fleet.key"]


def test_a_missing_fleet_key_says_what_to_do(tmp_path):
    """The command that makes one is named."""
    with pytest.raises(ConfigError, match="tillstream broker key"):
        read_fleet_key(tmp_path / "none")


def test_a_short_fleet_key_and_one_everybody_reads_are_refused(tmp_path):
    """Both are as good as none."""
    path = tmp_path / "key"
    path.write_bytes(b"short\n")
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="at least 32"):
        read_fleet_key(path)
    path.write_bytes(KEY)
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod o="):
        read_fleet_key(path)


def test_the_deny_list_follows_its_file(tmp_path):
    """New names, no file, a file again: each change is noticed once."""
    path = tmp_path / "deny"
    deny = DenyList(path)
    deny.load()
    assert not deny.refresh()
    path.write_text("till-1\n", "utf-8")
    assert deny.refresh()
    assert deny.names == {"till-1"}
    assert not deny.refresh()
    path.unlink()
    assert deny.refresh()
    assert deny.names == frozenset()


def test_a_deny_list_that_cannot_be_read_lets_nobody_in_again(tmp_path):
    """While running the names stay as they were; at the start it is an error."""
    path = tmp_path / "deny"
    path.write_text("till-1\n", "utf-8")
    deny = DenyList(path)
    deny.load()
    path.write_bytes(b"\xff\xfe not text")
    assert not deny.refresh()
    assert deny.names == {"till-1"}
    with pytest.raises(ConfigError, match="deny list"):
        DenyList(path).load()
    path.write_text("till-2\n", "utf-8")
    assert deny.refresh()
    assert deny.names == {"till-2"}
