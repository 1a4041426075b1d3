"""Which wire version a till and central use with each other, and how an older one says what a newer one can. Pure.

Each end shows in its presence which versions it speaks; the highest that both speak is used. How to introduce a
version is told in docs/protocol.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from msgspec import structs

from .messages import VERSIONS, SalesStored, UploadRequest

REPEATS_SINCE = 2
"""The first version in which a request may name a range that is to be sent once more."""

KEEPS_SINCE = 2
"""The first version in which tills know the word ``keep``; older ones pass it over."""

Said = TypeVar("Said", UploadRequest, SalesStored)


def common(theirs: Iterable[int]) -> int | None:
    """Return the version to use with a program that speaks these; None if there is none."""
    return max(set(VERSIONS) & set(theirs), default=None)


def listed(versions: Iterable[int]) -> str:
    """Return versions as people read them."""
    return ", ".join(map(str, sorted(versions)))


def differ(till: Iterable[int], central: Iterable[int]) -> str:
    """Say what till and central speak, where that has nothing in common."""
    return f"till {listed(till)}; central {listed(central)}"


def in_version(message: Said, version: int) -> Said:
    """Say a message in a version. A till that does not know ``keep`` keeps what is not backed up, where backups are."""
    if version >= KEEPS_SINCE or not message.keep or message.backed_up is None:
        return structs.replace(message, v=version)
    return structs.replace(message, v=version, backed_up=0)
