"""Bytes on the link, as MQTT counts them: topic, headers, PUBACKs and payload, of all messages both ways."""

from __future__ import annotations

import zlib

from figures import Figure
from material import STREAM, bodies, uploads

from wire import chain, codec, topics
from wire.messages import ReceiptClosed, SalesStored, UploadRequest, said

TILL, DOCUMENTS, BACKLOG = "till-0001", 2000, 200
CENTRAL_ID = "aB3dE5fG7hJ9kL1m"


def mqtt_bytes(topic: str, payload: bytes) -> int:
    """Return the bytes of one QoS 1 PUBLISH and its PUBACK (MQTT 3.1.1, 2.2 and 3.3)."""
    remaining = 2 + len(topic) + 2 + len(payload)
    length = 1 if remaining < 128 else 2 if remaining < 16_384 else 3
    return 1 + length + remaining + 4


def live_bytes(number: int, body: bytes, digest: bytes) -> int:
    """Return the bytes of the four messages that one live receipt takes."""
    stream = STREAM.format(0)
    bell = said(
        ReceiptClosed,
        stream=stream,
        newest=number,
        digest=digest,
        stored=number - 1,
        boot_id="b00tb00t",
        oldest_unsent_at_ms=1_772_000_000_000,
    )
    request = said(
        UploadRequest,
        stream=stream,
        after=number - 1,
        digest=digest,
        central_id=CENTRAL_ID,
        worker=1,
        task=f"1.9.1.{number}",
    )
    stored = said(SalesStored, stream=stream, through=number, digest=digest, central_id=CENTRAL_ID)
    return (
        mqtt_bytes(topics.RECEIPT_CLOSED.of(till=TILL), codec.encode(bell))
        + mqtt_bytes(topics.UPLOAD_REQUEST.of(till=TILL), codec.encode(request))
        + mqtt_bytes(topics.SALES.of(till=TILL, worker=1), _sales(number, body, digest, request.task))
        + mqtt_bytes(topics.SALES_STORED.of(till=TILL), codec.encode(stored))
    )


def _sales(number: int, body: bytes, digest: bytes, task: str) -> bytes:
    from wire.messages import Sales

    header = said(Sales, stream=STREAM.format(0), after=number - 1, through=number, digest=digest, task=task)
    return codec.pack_sales(header, [body])


def measure() -> list[Figure]:
    """Return bytes per live receipt and per backlog of 200, each against plain JSON."""
    closed = bodies(TILL, DOCUMENTS)
    digest, ours, plain = chain.first(STREAM.format(0)), [], []
    for number, body in enumerate(closed, 1):
        digest = chain.follow(digest, body)
        if b'"transaction_type":"sale"' in body:
            ours.append(live_bytes(number, body, digest))
            plain.append(mqtt_bytes(f"till/{TILL}/sale", body))
    ratio = sum(ours) / sum(plain)
    live = Figure(
        "link",
        f"bytes per live receipt, four messages both ways (mean of {len(ours):,} receipts)",
        f"{sum(ours) / len(ours):,.0f}",
        f"plain JSON by QoS 1 {sum(plain) / len(plain):,.0f}",
        f"≤ 0.50 of plain: {ratio:.2f}",
        ratio <= 0.5,
    )
    some = closed[:BACKLOG]
    ((_, payload),) = uploads({TILL: some}, BACKLOG)
    best = len(zlib.compress(b"\n".join(some), 9))
    backlog = Figure(
        "link",
        f"bytes of a backlog of {BACKLOG} documents ({sum(map(len, some)):,} plain)",
        f"{len(payload):,}",
        f"zlib -9 of the whole {best:,}",
        f"≤ 1.10 of it: {len(payload) / best:.2f}",
        len(payload) / best <= 1.1,
    )
    return [live, backlog]
