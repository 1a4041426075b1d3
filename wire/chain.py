"""The digest chain over a stream's documents: two ends that agree on a digest hold the very same documents.

Pure. digest(0) = blake2b-128("tillstream/1" ‖ stream id); digest(n) = blake2b-128(digest(n-1) ‖ body(n)).
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

DIGEST_BYTES = 16


def first(stream: str) -> bytes:
    """Return digest 0 of a stream: the digest before its first document (16 bytes)."""
    return blake2b(b"tillstream/1" + stream.encode("ascii"), digest_size=DIGEST_BYTES).digest()


def follow(digest: bytes, body: bytes) -> bytes:
    """Return the digest after one more document (16 bytes)."""
    return blake2b(digest + body, digest_size=DIGEST_BYTES).digest()


def follow_all(digest: bytes, bodies: Iterable[bytes]) -> bytes:
    """Return the digest after all these documents, in order."""
    for body in bodies:
        digest = follow(digest, body)
    return digest
