"""The documents that are measured with: seeded, so that every run has the same."""

from __future__ import annotations

from itertools import islice
from random import Random

from fleet.baskets import Register, documents, encode
from fleet.catalogue import make_catalogue
from wire import chain, codec
from wire.messages import Sales, said

START_MS = 1_772_000_000_000
STREAM = "{:022d}"


def bodies(till: str, count: int, seed: int = 1) -> list[bytes]:
    """Return what one till closes, in order."""
    register = Register(till, Random(f"{seed}-{till}"), make_catalogue(Random(7)), "store-001")
    return [encode(document) for document in islice(documents(register, START_MS), count)]


def uploads(tills: dict[str, list[bytes]], size: int) -> list[tuple[str, bytes]]:
    """Return the uploads of all tills, taking turns: (till, payload)."""
    made: list[list[tuple[str, bytes]]] = []
    for number, (till, closed) in enumerate(tills.items()):
        stream = STREAM.format(number)
        digest = chain.first(stream)
        made.append([])
        for start in range(0, len(closed), size):
            some = closed[start : start + size]
            digest = chain.follow_all(digest, some)
            header = said(Sales, stream=stream, after=start, through=start + len(some), digest=digest, task="1.1.1")
            made[-1].append((till, codec.pack_sales(header, some)))
    return [upload for turn in zip(*made, strict=True) for upload in turn]
