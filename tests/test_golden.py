"""The bytes of every wire version, kept for good: a till that was not upgraded yet is a test case.

Files are added for a new version and never edited. What deflate makes may differ between builds of zlib, so the sales
format is held by what is read from its bytes, the small messages by what is written too.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from wire import chain, codec
from wire.messages import (
    CentralPresence,
    Quarantined,
    ReceiptClosed,
    Sales,
    SalesStored,
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


@pytest.mark.parametrize("name", MESSAGES)
def test_a_small_message_is_written_and_read_as_ever(name):
    """Version 1's bytes are what this program writes, and it reads them as the same message."""
    golden = (GOLDEN / f"1_{name}.json").read_bytes()

    assert golden == codec.encode(MESSAGES[name])
    assert MESSAGES[name] == codec.decode(type(MESSAGES[name]), golden)


def test_an_upload_of_version_1_is_read_as_ever():
    """The deflated bytes of version 1, with its preset dictionary, give the header and the exact documents."""
    upload = codec.unpack_sales((GOLDEN / "1_sales.bin").read_bytes(), codec.SalesLimits())

    assert (HEADER, BODIES) == (upload.header, upload.bodies)


def test_the_preset_dictionary_is_the_one_that_tills_have():
    """A changed dictionary would make every till's upload unreadable: it has a digest, and a new one a new number."""
    assert "742d3e0cc65ea86f0157dde86c975c22" == chain.follow(b"", codec.DICTIONARY_1).hex()
