"""Bytes to messages: whatever comes in is a message or a WireError, and memory is bounded before it is spent."""

from __future__ import annotations

import tracemalloc
import zlib

import msgspec
import pytest
from factories import a_bell, a_sale, a_stream, an_upload, digest_of, some_baskets
from hypothesis import given, settings
from hypothesis import strategies as st

from wire import codec, messages
from wire.codec import SalesLimits, WireError, pack_sales, unpack_sales
from wire.dictionary import DICTIONARY_1
from wire.messages import Message, ReceiptClosed, Sales

LIMITS = SalesLimits()
SMALL = [kind for kind in vars(messages).values() if isinstance(kind, type) and issubclass(kind, Message)]
repeatable = settings(derandomize=True, deadline=None, max_examples=150)
lines = st.binary(max_size=200).map(lambda text: text.replace(b"\n", b" "))


def deflated(text):
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zdict=DICTIONARY_1)
    return codec.FORMAT_1 + deflate.compress(text) + deflate.flush()


def packed(bodies, **fields):
    upload = an_upload(bodies, **fields)
    return pack_sales(upload.header, upload.bodies)


def code_of(payload, limits=LIMITS):
    with pytest.raises(WireError) as refused:
        unpack_sales(payload, limits)
    return refused.value.code


def only_wire_errors(act, *args):
    """Return whether the input was taken; any error but a WireError fails the test."""
    try:
        act(*args)
    except WireError:
        return False
    return True


# -- Uploads -----------------------------------------------------------------------------------------------------------


@repeatable
@given(st.lists(lines, max_size=30))
def test_an_upload_comes_back_byte_for_byte(bodies):
    """Documents travel as they are, empty ones and bytes that are no text included."""
    upload = an_upload(bodies)

    assert upload == unpack_sales(pack_sales(upload.header, upload.bodies), LIMITS)


def test_generated_receipts_come_back_byte_for_byte():
    """A day of a generated till comes back, digest and all."""
    upload = an_upload(some_baskets(150))

    assert upload == unpack_sales(pack_sales(upload.header, upload.bodies), LIMITS)


def test_an_upload_in_plain_json_is_read_too():
    """A person may write an upload by hand: a header line, then a document a line."""
    upload = an_upload([a_sale("d1"), a_sale("d2")])
    plain = b"\n".join([msgspec.json.encode(upload.header), *upload.bodies])

    assert upload == unpack_sales(plain, LIMITS)


@repeatable
@given(st.binary(max_size=500))
def test_arbitrary_bytes_are_refused_and_nothing_worse(payload):
    """No bytes raise anything but a WireError, with or without a valid first byte."""
    for start in (b"", b"{", codec.FORMAT_1):
        only_wire_errors(unpack_sales, start + payload, LIMITS)
        for kind in SMALL:
            only_wire_errors(codec.decode, kind, start + payload)


@repeatable
@given(st.binary(max_size=500))
def test_arbitrary_text_in_a_valid_envelope_is_refused_and_nothing_worse(text):
    """What was deflated properly may still hold anything."""
    only_wire_errors(unpack_sales, deflated(text), LIMITS)
    only_wire_errors(unpack_sales, deflated(b'{"v":1,' + text), LIMITS)


@repeatable
@given(st.data())
def test_a_damaged_upload_is_refused_or_fails_its_digest(data):
    """A flipped byte never yields other documents under a digest that agrees."""
    upload = an_upload([a_sale(f"d{number}") for number in range(5)])
    payload = bytearray(pack_sales(upload.header, upload.bodies))
    payload[data.draw(st.integers(0, len(payload) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        received = unpack_sales(bytes(payload), LIMITS)
    except WireError:
        return

    assert received.bodies == upload.bodies or digest_of(received.bodies) != received.header.digest


@repeatable
@given(st.integers(0, 10_000))
def test_an_upload_cut_short_is_refused(length):
    """No beginning of an upload passes for the whole."""
    payload = packed([a_sale(f"d{number}") for number in range(5)])

    assert code_of(payload[: length % len(payload)]) in ("unknown_format", "bad_json", "bad_count")


# -- Limits ------------------------------------------------------------------------------------------------------------


def test_a_bomb_is_refused_within_bounded_memory():
    """A payload that would inflate to 200 MB costs no more than the limit, however small it came."""
    bomb = deflated(b"{" + b" " * 200_000_000)
    assert len(bomb) < 256 * 1024

    tracemalloc.start()
    code = code_of(bomb)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert code == "too_large"
    assert peak < 4 * LIMITS.inflated_bytes


def test_an_upload_of_exactly_the_limit_is_taken_and_one_byte_more_is_not():
    """The bound on inflated bytes is inclusive, deflated or plain."""
    upload = an_upload([a_sale()])
    plain = b"\n".join([msgspec.json.encode(upload.header), *upload.bodies])

    for payload in (plain, deflated(plain)):
        assert upload == unpack_sales(payload, SalesLimits(inflated_bytes=len(plain)))
        assert code_of(payload, SalesLimits(inflated_bytes=len(plain) - 1)) == "too_large"


def test_more_documents_than_were_allowed_are_refused():
    """The bound on documents is inclusive."""
    assert len(unpack_sales(packed([b"x"] * 3), SalesLimits(documents=3)).bodies) == 3
    assert code_of(packed([b"x"] * 4), SalesLimits(documents=3)) == "too_large"


def test_a_million_empty_documents_are_refused_without_being_split():
    """Splitting stops at the bound: line breaks alone cannot make a million objects."""
    bomb = deflated(msgspec.json.encode(an_upload([]).header) + b"\n" * 700_000)

    tracemalloc.start()
    code = code_of(bomb)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert code == "too_large"
    assert peak < 4 * LIMITS.inflated_bytes


@pytest.mark.parametrize("claimed", [0, 1, 3, 2**53 - 1])
def test_a_header_that_counts_otherwise_is_refused(claimed):
    """``through - after`` is the number of documents, or the upload is refused."""
    header = msgspec.structs.replace(an_upload([]).header, through=claimed)

    assert code_of(pack_sales(header, [b"a", b"b"])) == "bad_count"


def test_a_header_that_runs_backwards_is_refused():
    """``through`` below ``after`` counts less than nothing."""
    header = msgspec.structs.replace(an_upload([]).header, after=5)

    assert code_of(pack_sales(header, [])) == "bad_count"


def test_a_small_message_over_its_limit_is_refused_unread():
    """Every message but sales is at most 64 KiB."""
    padded = codec.encode(a_bell()) + b" " * codec.SMALL_LIMIT_BYTES

    with pytest.raises(WireError, match="at most 65536"):
        codec.decode(ReceiptClosed, padded)


# -- Versions and formats ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [b"3", b"0", b"-1", b'"1"', b"null", b"[1]", b"1.5", b"9" * 40])
def test_another_wire_version_is_refused_with_a_reason(version):
    """Whoever speaks another version is told which one this program speaks."""
    payload = codec.encode(a_bell()).replace(b'"v":1', b'"v":' + version)

    with pytest.raises(WireError, match="speaks 1, 2") as refused:
        codec.decode(ReceiptClosed, payload)

    assert refused.value.code in ("unknown_version", "bad_message")


def test_a_version_that_no_computer_can_count_is_refused():
    """A version of five thousand digits is a bad message, not an error of ours."""
    payload = codec.encode(a_bell()).replace(b'"v":1', b'"v":' + b"9" * 5000)

    assert not only_wire_errors(codec.decode, ReceiptClosed, payload)


@pytest.mark.parametrize("field", [b"v", b"stream", b"unknown"])
@pytest.mark.parametrize("depth", [200, 480, 500, 900, 980, 990, 1000, 1010, 30_000])
def test_deep_nesting_is_refused_and_nothing_worse(field, depth):
    """However deep a message is nested, it is a message or a WireError."""
    only_wire_errors(codec.decode, ReceiptClosed, b'{"%s":' % field + b"[" * depth + b"]" * depth + b"}")


@pytest.mark.parametrize("payload", [b"", b"\x00", b"\x02rest", b"[]", b" {", b"\xef\xbb\xbf{}", b"\x1f\x8b"])
def test_a_first_byte_that_names_no_format_is_refused(payload):
    """The first byte tells the format, and a format that is not known is named."""
    assert code_of(payload) == "unknown_format"


def test_an_upload_deflated_without_the_dictionary_is_refused():
    """Another preset dictionary gives nonsense or an error, and never documents."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zdict=DICTIONARY_1[::-1])
    upload = an_upload([a_sale()])
    text = b"\n".join([msgspec.json.encode(upload.header), *upload.bodies])

    code_of(codec.FORMAT_1 + deflate.compress(text) + deflate.flush())


def test_what_follows_the_end_of_an_upload_is_refused():
    """Bytes after the deflated stream mean that two messages were mixed up."""
    assert code_of(packed([a_sale()]) + b"more") == "unknown_format"


def test_a_header_over_its_limit_is_refused():
    """A header line is at most 4 KiB: it is parsed before its documents are looked at."""
    upload = an_upload([a_sale()])
    long = msgspec.json.encode(upload.header)[:-1] + b',"x":"' + b"x" * codec.HEADER_LIMIT_BYTES + b'"}'

    code_of(deflated(b"\n".join([long, *upload.bodies])))


def test_the_header_of_an_upload_may_know_more_than_we_do():
    """Unknown fields in the header are ignored, as in every message."""
    upload = an_upload([a_sale()])
    newer = msgspec.json.encode(upload.header)[:-1] + b',"from_the_future":1}'

    assert upload == unpack_sales(deflated(b"\n".join([newer, *upload.bodies])), LIMITS)


def test_a_header_of_another_version_is_refused_by_name():
    """An upload of a later version says so, and is not taken for a broken one."""
    newer = msgspec.json.encode({"v": 3, "stream": a_stream()})

    assert code_of(deflated(newer)) == "unknown_version"
    assert issubclass(Sales, Message)
