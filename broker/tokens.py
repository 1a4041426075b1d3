"""Whom the broker lets in: whether token or certificate is right, who is denied, what in a deny list names nobody."""

from __future__ import annotations

import hmac

from broker.access import identity
from wire.tokens import denied_names, token_of


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


def refusal_of_shown(name: str, is_revoked: bool, denied: frozenset[str], client_id: str, user: str | None) -> str:
    """Return why a client with a certificate is not let in: its one common name is who it is, whatever it says."""
    if identity(name) is None:
        return "certificate_names_nobody"
    if client_id != name:
        return "client_id_is_not_certificate_name"
    if user not in (None, name):
        return "user_name_is_not_certificate_name"
    if is_revoked:
        return "certificate_revoked"
    return "denied" if name in denied else ""


def parse_deny_list(text: str) -> tuple[frozenset[str], tuple[str, ...]]:
    """Return the denied user names, and the lines that name nobody (one name a line, ``#`` begins a comment)."""
    names = denied_names(text)
    return names, tuple(sorted(name for name in names if identity(name) is None))
