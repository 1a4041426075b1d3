"""Who is who, by one key: a till's token is made from the fleet key, so the server keeps a key and no list of tokens.

A till logs in at the broker with its token, and seals with it what is carried by file. What revokes a token is a line
in the deny list, which broker and central read alike.
"""

from __future__ import annotations

import base64
import hmac
import stat
from pathlib import Path

from .program import ConfigError

FLEET_KEY_FILE = "/etc/tillstream/fleet.key"
FLEET_KEY_MIN_BYTES = 32
DENY_LIST_LIMIT_BYTES = 16 * 1024 * 1024


def token_of(fleet_key: bytes, user: str) -> str:
    """Return a user's token: base64url of HMAC-SHA256(fleet key, user name) without padding.

    The server holds one key and no list; ``printf %s TILL | openssl dgst -sha256 -hmac KEY`` gives the same digest.
    """
    digest = hmac.digest(fleet_key, user.encode(), "sha256")
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def read_fleet_key(path: Path) -> bytes:
    """Return the fleet key; an error says what to do about it."""
    try:
        if path.stat().st_mode & stat.S_IRWXO:
            raise ConfigError(f"{path}: everybody on this machine may read the fleet key; `chmod o= {path}` first")
        key = path.read_bytes().strip()
    except FileNotFoundError:
        raise ConfigError(f"no fleet key at {path}; `tillstream broker key` makes one") from None
    except OSError as problem:
        raise ConfigError(f"cannot read the fleet key {path}: {problem.strerror}") from problem
    if len(key) < FLEET_KEY_MIN_BYTES:
        raise ConfigError(f"{path}: a fleet key has at least {FLEET_KEY_MIN_BYTES} characters, this one {len(key)}")
    return key


def denied_names(text: str) -> frozenset[str]:
    """Return the names in a deny list: one a line, ``#`` begins a comment."""
    return frozenset(name for line in text.splitlines() if (name := line.partition("#")[0].strip()))


def read_deny_list(path: Path) -> frozenset[str]:
    """Return the names in a deny list file; no file denies nobody, one that cannot be read is an error."""
    try:
        if path.stat().st_size > DENY_LIST_LIMIT_BYTES:
            raise ConfigError(f"the deny list {path} is longer than {DENY_LIST_LIMIT_BYTES} bytes")
        return denied_names(path.read_text("utf-8"))
    except FileNotFoundError:
        return frozenset()
    except (OSError, UnicodeDecodeError) as problem:
        raise ConfigError(f"cannot read the deny list {path}: {problem}") from problem
