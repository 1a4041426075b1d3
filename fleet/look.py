"""Owns the console of a demo: where it is, and the one administrator who may log in to it."""

from __future__ import annotations

import secrets
import time
from importlib.util import find_spec
from pathlib import Path

from central import accounts, reports
from central.config import CentralConfig

NAME, ROLE = "admin", "administrator"
NEEDS = ("fastapi", "jinja2", "pwdlib", "uvicorn")
"""What the console is made of; a demo without it shows no pages."""


def can_be_shown() -> bool:
    """Say whether the console is installed."""
    return all(find_spec(name) for name in NEEDS)


def is_ready(database: Path) -> bool:
    """Say whether central has made its tables: the console makes none."""
    try:
        with reports.reading(str(database)):
            return True
    except reports.NoDatabaseError:
        return False


def let_in(database: Path) -> str:
    """Make the administrator with a password that nobody else knows, and return it; it is kept nowhere."""
    password = secrets.token_urlsafe(12)
    kept = accounts.hash_password(password, CentralConfig().console_password_chars_min)
    with reports.writing(str(database)):
        accounts.add(NAME, ROLE, kept, round(time.time() * 1000))
    return password
