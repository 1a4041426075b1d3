"""Which tills a worker answers for: a stable share, worked out from the till's id and nothing else. Pure.

Workers share the database and no memory: whoever runs as ``k/n`` has these tills, wherever it was started.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import blake2b

WORKERS_MAX = 999

_SHAPE = re.compile(r"([1-9][0-9]{0,2})/([1-9][0-9]{0,2})")


def worker_of(till: str, workers: int) -> int:
    """Return which of so many workers answers for a till, from 1: blake2b-64 of its id, big-endian, modulo."""
    return int.from_bytes(blake2b(till.encode(), digest_size=8).digest(), "big") % workers + 1


@dataclass(frozen=True, slots=True)
class Share:
    """Worker ``number`` of so many workers."""

    number: int = 1
    workers: int = 1

    @classmethod
    def parse(cls, text: str) -> Share:
        """Return the share that ``k/n`` names; raises ValueError that says what would be right."""
        shape = _SHAPE.fullmatch(text)
        if not shape:
            raise ValueError(f"worker = {text}: write k/n, such as 2/4: the second of four, at most {WORKERS_MAX}")
        number, workers = map(int, shape.groups())
        if number > workers:
            raise ValueError(f"worker = {text}: there is no worker {number} among {workers}; they count from 1")
        return cls(number, workers)

    def holds(self, till: str) -> bool:
        """Say whether this worker answers for a till."""
        return self.workers == 1 or worker_of(till, self.workers) == self.number

    def __str__(self) -> str:
        return f"{self.number}/{self.workers}"
