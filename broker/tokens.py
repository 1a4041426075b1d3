"""Tokens and deny lists as values: what a user's token is, whether one is right, who is denied."""

from __future__ import annotations

import base64
import hmac

from broker.access import identity

FLEET_KEY_MIN_BYTES = 32


def token_of(fleet_key: bytes, user: str) -> str:
    """Return a user's token: base64url of HMAC-SHA256(fleet key, user name) without padding.

    The server holds one key and no list; ``printf %s TILL | openssl dgst -sha256 -hmac KEY`` gives the same digest.
    """
    digest = hmac.digest(fleet_key, user.encode(), "sha256")
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def is_token_of(fleet_key: bytes, user: str, password: str) -> bool:
    """Say whether a password is the user's token, in the same time however much of it is right."""
    return hmac.compare_digest(token_of(fleet_key, user).encode(), password.encode())


def refusal(fleet_key: bytes, denied: frozenset[str], client_id: str, user: str | None, password: str | None) -> str:
    """Return why a client is not let in, as a slug for the log, or an empty text if it is."""
    if user is None or password is None:
        return "no_token"
    if identity(user) is None:
        return "bad_user_name"
    if client_id != user:
        return "client_id_is_not_user_name"
    if not is_token_of(fleet_key, user, password):
        return "bad_token"
    return "denied" if user in denied else ""


def parse_deny_list(text: str) -> tuple[frozenset[str], tuple[str, ...]]:
    """Return the denied user names, and the lines that name nobody (one name a line, ``#`` begins a comment)."""
    names = [name for line in text.splitlines() if (name := line.partition("#")[0].strip())]
    return frozenset(names), tuple(name for name in names if identity(name) is None)
