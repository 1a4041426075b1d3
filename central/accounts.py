"""Who may log in, who is logged in, and which programs have a token. Secrets themselves are kept nowhere.

Passwords are kept as argon2 hashes; a session's and a token's secret are 256 random bits, kept as SHA-256. Models must
be bound in a transaction; hashing a password takes 50 ms and 64 MiB, so it is done outside of one.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from . import audit
from .models import AccessToken, Account, ConsoleSession
from .rights import ROLES, SCOPES, covers, may

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
"""What a person, a token or a consumer may be called."""
PASSWORD_CHARS_MAX = 256
TOKEN_PREFIX = "ts_"  # noqa: S105 -- what secrets begin with, so that scanners know them
SEEN_EVERY_MS = 60_000
"""So often is written down at most that a session or a token is in use."""
SESSIONS_MAX = 20
"""Of one person; one more ends the oldest."""
TOKENS_MAX = 1_000


class AccountError(ValueError):
    """Nothing of the kind can be done; the text names the field and what is right."""


def a_name(what: str, name: str) -> str:
    """Return a name that can be one; raises AccountError."""
    if not NAME.fullmatch(name):
        raise AccountError(
            f"{what} {name[:70]!r}: 1 to 64 letters A-Z a-z, digits and . _ @ - are right, a letter or digit first"
        )
    return name


# -- Passwords ---------------------------------------------------------------------------------------------------------


@cache
def _hasher() -> Any:
    from pwdlib import PasswordHash

    return PasswordHash.recommended()


@cache
def _nobodys() -> str:
    return str(_hasher().hash(secrets.token_hex()))


def hash_password(password: str, chars_min: int) -> str:
    """Return what is kept of a password; raises AccountError that names the limit."""
    if not chars_min <= len(password) <= PASSWORD_CHARS_MAX:
        raise AccountError(
            f"password: {chars_min} to {PASSWORD_CHARS_MAX} characters are right, this one has {len(password)}"
        )
    return str(_hasher().hash(password))


def is_password(password: str, kept: str | None) -> bool:
    """Say whether it is the one; without anything kept it takes as long: nobody learns which names there are."""
    if len(password) > PASSWORD_CHARS_MAX:
        return False
    return bool(_hasher().verify(password, kept or _nobodys())) and kept is not None


# -- People ------------------------------------------------------------------------------------------------------------


def add(name: str, role: str, password_hash: str, at_ms: int, note: str = "") -> None:
    """Let a person log in."""
    a_name("user", name)
    if Account.get_or_none(Account.name == name):
        raise AccountError(f"user {name} is there already; see: tillstream central users set-role|set-password")
    Account.insert(name=name, role=_a_role(role), password_hash=password_hash, made_at_ms=at_ms).execute()
    audit.record("add user", f"user {name}: {role}", note, at_ms)


def set_role(name: str, role: str, at_ms: int, note: str = "") -> bool:
    """Give a person another role, from the next click on; False if it is the one. An administrator stays."""
    found = _account(name)
    if found.role == _a_role(role):
        return False
    _keep_an_administrator(found)
    Account.update(role=role).where(Account.name == name).execute()
    audit.record("set role", f"user {name}: {found.role} to {role}", note, at_ms)
    return True


def set_password(name: str, password_hash: str, at_ms: int, note: str = "") -> None:
    """Give a person another password, and end all sessions of it."""
    _account(name)
    Account.update(password_hash=password_hash).where(Account.name == name).execute()
    end_sessions(name)
    audit.record("set password", f"user {name}", note, at_ms)


def remove(name: str, at_ms: int, note: str = "") -> None:
    """Let a person in no more, at once. An administrator stays."""
    _keep_an_administrator(_account(name))
    Account.delete().where(Account.name == name).execute()
    end_sessions(name)
    audit.record("remove user", f"user {name}", note, at_ms)


def choose(name: str, language: str | None = None, theme: str | None = None) -> None:
    """Keep how a person wants to see the console; None leaves it as it is, empty is what the browser says."""
    chosen = {"language": (language, ("", "ru", "en")), "theme": (theme, ("", "light", "dark"))}
    for field, (value, known) in chosen.items():
        if value is not None and value not in known:
            raise AccountError(f"{field} {value[:20]!r}: one of {', '.join(filter(None, known))} or nothing is right")
    values = {field: value for field, (value, _) in chosen.items() if value is not None}
    if values:
        Account.update(values).where(Account.name == name).execute()


def listed() -> list[dict[str, Any]]:
    """Return the people, by name, and when each was last seen; None for one without a session."""
    sessions: Any = ConsoleSession.select(ConsoleSession.account, ConsoleSession.seen_at_ms).tuples()
    seen: dict[str, int] = {}
    for account, seen_at_ms in sessions:
        seen[account] = max(seen_at_ms, seen.get(account, 0))
    return [
        {"name": one.name, "role": one.role, "made_at_ms": one.made_at_ms, "seen_at_ms": seen.get(one.name)}
        for one in Account.select().order_by(Account.name)
    ]


def password_hash_of(name: str) -> str | None:
    """Return what is kept of a person's password; None where there is no such person."""
    if not NAME.fullmatch(name):
        return None  # Nobody is called so, and what a database cannot hold is not asked of it.
    found = Account.get_or_none(Account.name == name)
    return found.password_hash if found else None


def _account(name: str) -> Account:
    found: Account | None = Account.get_or_none(Account.name == name)
    if found is None:
        raise AccountError(f"there is no user {name[:70]!r}; see: tillstream central users list")
    return found


def _a_role(role: str) -> str:
    if role not in ROLES:
        raise AccountError(f"role {role[:20]!r}: one of {', '.join(ROLES)} is right")
    return role


def _keep_an_administrator(without: Account) -> None:
    others = Account.select().where((Account.role == ROLES[-1]) & (Account.name != without.name))
    if without.role == ROLES[-1] and not others.exists():
        raise AccountError(f"user {without.name} is the only administrator: make another one first")


# -- Sessions ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class User:
    """Who is logged in, and in which session."""

    name: str
    role: str
    language: str
    theme: str
    csrf: str
    digest: str
    seen_at_ms: int

    def may(self, action: str) -> bool:
        """Say whether this person may."""
        return may(self.role, action)


def open_session(name: str, address: str, at_ms: int, age_max_ms: int) -> str:
    """Let a person whose password was right in, and return the secret of the session."""
    _account(name)
    secret = secrets.token_urlsafe(32)
    mine = (ConsoleSession.account == name) & (ConsoleSession.digest.in_(_beyond(name)))
    ConsoleSession.delete().where(mine | (ConsoleSession.made_at_ms < at_ms - age_max_ms)).execute()
    ConsoleSession.insert(
        digest=_digest(secret),
        account=name,
        csrf=secrets.token_urlsafe(32),
        made_at_ms=at_ms,
        seen_at_ms=at_ms,
        address=address,
    ).execute()
    return secret


def _beyond(name: str) -> list[str]:
    newest = ConsoleSession.select().where(ConsoleSession.account == name).order_by(ConsoleSession.made_at_ms.desc())
    return [one.digest for one in newest.offset(SESSIONS_MAX - 1).limit(10_000)]


def user_of(secret: str, now_ms: int, age_max_ms: int, idle_max_ms: int) -> User | None:
    """Return who has this session; None if there is none, or it is over."""
    found: Any = (
        ConsoleSession.select(ConsoleSession, Account.role, Account.language, Account.theme)
        .join(Account, on=(Account.name == ConsoleSession.account), attr="person")
        .where(ConsoleSession.digest == _digest(secret))
        .get_or_none()
    )
    if found is None or now_ms - found.made_at_ms > age_max_ms or now_ms - found.seen_at_ms > idle_max_ms:
        return None
    who = found.person
    return User(found.account, who.role, who.language, who.theme, found.csrf, found.digest, found.seen_at_ms)


def is_due(seen_at_ms: int | None, now_ms: int) -> bool:
    """Say whether it is time to write down that something is in use."""
    return seen_at_ms is None or now_ms - seen_at_ms >= SEEN_EVERY_MS


def saw_session(digest: str, now_ms: int) -> None:
    """Write down that a session is in use."""
    ConsoleSession.update(seen_at_ms=now_ms).where(ConsoleSession.digest == digest).execute()


def end_session(digest: str) -> None:
    """Log out."""
    ConsoleSession.delete().where(ConsoleSession.digest == digest).execute()


def end_sessions(name: str) -> None:
    """Log a person out everywhere."""
    ConsoleSession.delete().where(ConsoleSession.account == name).execute()


# -- Tokens ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Token:
    """A program that showed its token."""

    number: int
    name: str
    scopes: frozenset[str]
    used_at_ms: int | None

    def covers(self, action: str) -> bool:
        """Say whether this token is for that."""
        return covers(self.scopes, action)


def issue(name: str, scopes: Sequence[str], expires_at_ms: int | None, at_ms: int, note: str = "") -> str:
    """Make a token and return its secret, which is shown this once."""
    a_name("token", name)
    wanted = [scope for scope in SCOPES if scope in scopes]
    if not wanted or (unknown := sorted(set(scopes) - set(SCOPES))):
        named = repr(unknown[0][:20]) if wanted else "none"
        raise AccountError(f"scope {named}: some of {', '.join(SCOPES)} are right")
    if expires_at_ms is not None and expires_at_ms <= at_ms:
        raise AccountError("expires: a time to come is right")
    if AccessToken.get_or_none(AccessToken.name == name):
        raise AccountError(f"token {name} is there, or was: a name is given once; see: tillstream central tokens list")
    if AccessToken.select().count() >= TOKENS_MAX:
        raise AccountError(f"there are {TOKENS_MAX} tokens, and no more can be made")
    secret = TOKEN_PREFIX + secrets.token_urlsafe(32)
    digest, said = _digest(secret), " ".join(wanted)
    AccessToken.insert(name=name, digest=digest, scopes=said, made_at_ms=at_ms, expires_at_ms=expires_at_ms).execute()
    audit.record("issue token", f"token {name}: {said}", note, at_ms)
    return secret


def revoke(name: str, at_ms: int, note: str = "") -> bool:
    """Take a token back, at once; False if it was before."""
    found = AccessToken.get_or_none(AccessToken.name == name)
    if found is None:
        raise AccountError(f"there is no token {name[:70]!r}; see: tillstream central tokens list")
    if found.revoked_at_ms is not None:
        return False
    AccessToken.update(revoked_at_ms=at_ms).where(AccessToken.name == name).execute()
    audit.record("revoke token", f"token {name}", note, at_ms)
    return True


def tokens() -> list[dict[str, Any]]:
    """Return the tokens without their digests, by name."""
    return [
        {
            "name": one.name,
            "scopes": one.scopes,
            "made_at_ms": one.made_at_ms,
            "expires_at_ms": one.expires_at_ms,
            "used_at_ms": one.used_at_ms,
            "revoked_at_ms": one.revoked_at_ms,
        }
        for one in AccessToken.select().order_by(AccessToken.name)
    ]


def token_of(secret: str, now_ms: int) -> Token | None:
    """Return whose token this is; None if nobody's, or it is over."""
    found = AccessToken.get_or_none(AccessToken.digest == _digest(secret))
    if found is None or found.revoked_at_ms is not None:
        return None
    if found.expires_at_ms is not None and found.expires_at_ms <= now_ms:
        return None
    return Token(found.id, found.name, frozenset(found.scopes.split()), found.used_at_ms)


def saw_token(number: int, now_ms: int) -> None:
    """Write down that a token is in use."""
    AccessToken.update(used_at_ms=now_ms).where(AccessToken.id == number).execute()


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
