"""Judges whether the authority itself, and its list of revoked certificates, are about to end."""

from __future__ import annotations

from pathlib import Path

from wire.doctor import Finding, Level

from .office import DAY_S, Office, revocation_list_ends_s

ROOT_LEFT_MIN_DAYS = 365
"""A fleet that is to be enrolled anew takes its time."""


def examine(office: Office, now_s: float) -> list[Finding]:
    """Return what was found, in the order of the list."""
    left_days = (office.authority.certificate.not_valid_after_utc.timestamp() - now_s) / DAY_S
    level: Level = "ok" if left_days > ROOT_LEFT_MIN_DAYS else "warning" if left_days > 0 else "error"
    return [Finding("authority", level, f"{left_days:.0f}"), _revocation_list(office, now_s)]


def _revocation_list(office: Office, now_s: float) -> Finding:
    path = Path(office.config.crl_file)
    ends_s = revocation_list_ends_s(path)
    if ends_s is None:
        return Finding("revocation_list", "error", f"{path}: ?")
    left_days = (ends_s - now_s) / DAY_S
    level: Level = "ok" if left_days > office.config.crl_days / 3 else "warning" if left_days > 0 else "error"
    return Finding("revocation_list", level, f"{path}: {left_days:.1f} d")
