"""The bytes of every wire version, kept for good: a till that was not upgraded yet is a test case.

Files are added for a new version and never edited. What deflate makes may differ between builds of zlib, so the sales
format is held by what is read from its bytes, the small messages by what is written too.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from old_wire import as_version_1

from wire import chain, codec, topics
from wire.messages import (
    VERSIONS,
    CentralPresence,
    Quarantined,
    ReceiptClosed,
    Sales,
    SalesStored,
    Settings,
    TillPresence,
    UploadRequest,
    said,
)

GOLDEN = Path(__file__).parent / "golden"
STREAM = "8fE5AfTKXGfH6H1EzyLSO7"
BODIES = (
    b'{"document_id":"a","transaction_type":"no_sale"}',
    b'{"document_id":"b","name":"\xd0\x9c\xd0\xbe\xd0\xbb\xd0\xbe\xd0\xba\xd0\xbe"}',
)
DIGEST = chain.follow_all(chain.first(STREAM), BODIES)
HISTORY = {"stream": "0fE5AfTKXGfH6H1EzyLSO7", "pruned": 3, "newest": 9, "digest": DIGEST}

MESSAGES_2 = {
    "till_presence": said(TillPresence, online=True, protocol=VERSIONS, connection=1_000_001, boot_id="b00t"),
    "central_presence": said(CentralPresence, online=True, protocol=VERSIONS, central_id="central", incarnation=3),
    "receipt_closed": said(
        ReceiptClosed,
        stream=STREAM,
        newest=2,
        digest=DIGEST,
        boot_id="b00t",
        previous=[{**HISTORY, "agreed": 2, "agreed_digest": DIGEST}],
    ),
    "upload_request": said(
        UploadRequest,
        v=2,
        stream=STREAM,
        after=1,
        through=2,
        central_id="central",
        worker=2,
        task="2.1.7",
        reason="repeat",
        keep=True,
    ),
    "sales_stored": said(
        SalesStored, v=2, stream=STREAM, through=2, digest=DIGEST, central_id="central", backed_up=1, keep=True
    ),
    "settings": said(Settings, revision=7, limits={"retention_days": 35.0}),
}
"""What version 2 says more. What is retained is of the oldest version, with fields that version 1 passes over."""

MESSAGES = {
    "receipt_closed": said(
        ReceiptClosed,
        stream=STREAM,
        oldest=1,
        newest=2,
        digest=DIGEST,
        boot_id="b00t",
        previous=[HISTORY],
        oldest_unsent_at_ms=1_772_000_000_000,
        urgent=True,
    ),
    "upload_request": said(
        UploadRequest, stream=STREAM, digest=chain.first(STREAM), central_id="central", worker=2, task="2.1.7"
    ),
    "sales_stored": said(
        SalesStored,
        stream=STREAM,
        through=2,
        digest=DIGEST,
        central_id="central",
        quarantined=[Quarantined(2, "bad_schema")],
    ),
    "till_presence": said(
        TillPresence, online=True, connection=1_000_001, store_id="042", boot_id="b00t", findings={"card_number": 1}
    ),
    "central_presence": said(CentralPresence, online=True, central_id="central", incarnation=3),
}
HEADER = said(Sales, stream=STREAM, after=0, through=2, digest=DIGEST, task="2.1.7")
HEADER_2 = said(Sales, v=2, stream=STREAM, after=0, through=2, digest=DIGEST, task="op.1", before=chain.first(STREAM))
GOLDEN_BYTES = [(f"1_{name}", message) for name, message in MESSAGES.items()] + [
    (f"2_{name}", message) for name, message in MESSAGES_2.items()
]


@pytest.mark.parametrize(("name", "message"), GOLDEN_BYTES, ids=[name for name, _ in GOLDEN_BYTES])
def test_a_small_message_is_written_and_read_as_ever(name, message):
    """A version's bytes are what this program writes, and it reads them as the same message."""
    golden = (GOLDEN / f"{name}.json").read_bytes()

    assert golden == codec.encode(message)
    assert message == codec.decode(type(message), golden)


@pytest.mark.parametrize(("name", "header"), [("1_sales", HEADER), ("2_sales", HEADER_2)])
def test_an_upload_is_read_as_ever(name, header):
    """A version's deflated bytes, with the preset dictionary, give the header and the exact documents."""
    upload = codec.unpack_sales((GOLDEN / f"{name}.bin").read_bytes(), codec.SalesLimits())

    assert (header, BODIES) == (upload.header, upload.bodies)


@pytest.mark.parametrize("name", [*MESSAGES, "sales"])
def test_the_frozen_wire_of_version_1_is_the_one_of_its_golden_bytes(name):
    """The codec that makes old ends of new ones, in the simulator's rollouts, is version 1's and no other."""
    topic = next(one for one in topics.TOPICS if one.name == name or one.name == name.removeprefix("till_"))
    golden = next(GOLDEN.glob(f"1_{name}.*")).read_bytes()

    kept = as_version_1(topic.of(till="till-1", worker=1), golden)
    assert kept is not None
    assert name == "sales" or kept == golden


def test_the_preset_dictionary_is_the_one_that_tills_have():
    """A changed dictionary would make every till's upload unreadable: it has a digest, and a new one a new number."""
    assert "742d3e0cc65ea86f0157dde86c975c22" == chain.follow(b"", codec.DICTIONARY_1).hex()
