"""Fetches what the tests on booted machines start from, so that none of them needs a network: `make machines`.

Debian's base systems, the server's packages, and the wheels of a release; what is there already is left alone.
"""

from __future__ import annotations

import sys

from machines import base, packages, why_not
from releases import release
from whole_chain import DEBIAN

SUITES = ("bullseye", "bookworm", "trixie")


def main() -> None:
    """Fetch it all, or say why no machine can be booted here."""
    if lack := why_not():
        sys.stdout.write(f"no machines: {lack}\n")
        return
    for suite in SUITES:
        base(suite)
    packages("bookworm", *DEBIAN)
    release()


if __name__ == "__main__":
    main()
