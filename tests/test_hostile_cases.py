"""Named hostile inputs, each at every door it could come in by: refused or taken, in bounded memory and time.

What becomes of single bad documents on their whole way stands in test_bad_input.py; here it is about size and shape.
"""

from __future__ import annotations

import contextlib
import time
import tracemalloc

import msgspec
import pytest
from factories import TILL, a_document, a_request, a_sale, a_stream, an_upload, as_json
from hypothesis import given
from hypothesis import strategies as st

from central.judge import REASON_MAX, Accepted, Refused, judge
from edge.intake.prepare import NotADocumentError, prepare
from wire import automation, codec, topics
from wire.codec import SalesLimits, WireError, pack_sales, unpack_sales
from wire.documents import DOCUMENT_LIMIT_MAX_BYTES
from wire.messages import ReceiptClosed, UploadRequest

MIB = 2**20
LIMITS = SalesLimits()
SIZE = MIB // 4
CPU_S = 8.0
"""Far more than the second that it takes while memory is traced; what grows with the square takes minutes."""
MEMORY_BYTES = 40 * MIB
"""A quarter of a megabyte of the smallest values makes some hundred thousand objects of about 100 bytes, read twice."""

SHAPES = {
    "opening brackets": b"[" * SIZE,
    "opening braces": b'{"a":' * (SIZE // 5),
    "closing brackets": b"]" * SIZE,
    "quotation marks": b'"' * SIZE,
    "backslashes": b'"' + b"\\" * SIZE,
    "escapes": b'"' + b"\\u0041" * (SIZE // 6) + b'"',
    "commas": b"[" + b"," * SIZE,
    "digits": b"9" * SIZE,
    "digits behind a point": b"0." + b"1" * SIZE,
    "digits of an exponent": b"1e" + b"9" * SIZE,
    "a minus": b"-" * SIZE,
    "blanks": b" " * SIZE,
    "line breaks": b"\n" * SIZE,
    "NULs": b"\0" * SIZE,
    "no UTF-8": b'"' + b"\xff" * SIZE + b'"',
    "half pairs": b'"' + b"\\ud800" * (SIZE // 6) + b'"',
    "small numbers": b"[" + b"1," * (SIZE // 2) + b"1]",
    "empty objects": b"[" + b"{}," * (SIZE // 3) + b"{}]",
    "many keys": b"{" + b",".join(b'"%d":1' % number for number in range(25_000)) + b"}",
    "one key, again and again": b"{" + b'"a":1,' * (SIZE // 6) + b'"a":1}',
    "one long key": b'{"' + b"k" * SIZE + b'":1}',
    "blanks between digits": b'"' + b"4 " * (SIZE // 2) + b'"',
    "a long name before a long list": b'{"%s":["\\u0041",%s1]}' % (b"k" * (SIZE // 2), b"1," * (SIZE // 4)),
}
"""About a quarter of a megabyte each."""

AROUND = {
    "alone": b"%s",
    "in an unknown field": as_json(a_document())[:-1] + b',"from_pos":%s}',
    "in a known field": as_json(a_document())[:-1] + b',"note":%s}',
    "as tenders": as_json(a_document())[:-1] + b',"tenders":%s}',
    "as a shift": as_json(a_document("d1", "x_report", shift_number=1))[:-1] + b',"shift":{"by_type":%s}}',
}


@contextlib.contextmanager
def bounded(cpu_s=CPU_S, memory_bytes=MEMORY_BYTES):
    """Hold what is done inside to a bound on this thread's processor time and on Python's memory."""
    tracemalloc.start()
    begun = time.thread_time()
    try:
        yield
        spent_s, (_, peak) = time.thread_time() - begun, tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert spent_s < cpu_s
    assert peak < memory_bytes


@pytest.mark.fault("F22", "F23", "F44")
@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_quarter_of_a_megabyte_of_any_shape_costs_bounded_time_and_memory_at_every_door(shape, around):
    """The till's intake and central's judge answer; what the one hands on the other takes."""
    given_bytes = AROUND[around].replace(b"%s", SHAPES[shape])
    with bounded():
        verdict = judge(TILL, given_bytes)
        with contextlib.suppress(NotADocumentError):
            prepared = prepare(given_bytes, 2 * MIB, lambda: "made")
            assert isinstance(judge(TILL, prepared.body), Accepted | Refused)

    assert isinstance(verdict, Accepted) or 0 < len(verdict.reason) <= REASON_MAX


@pytest.mark.fault("F22", "F44")
@pytest.mark.parametrize("shape", SHAPES)
def test_a_quarter_of_a_megabyte_of_any_shape_is_refused_as_a_message_and_an_upload(shape):
    """A small message is refused by its size alone, an upload by its header, an automation by its size."""
    text = SHAPES[shape]
    upload = an_upload([text], digest=b"\0" * 16)
    with bounded():
        for refuses in (
            lambda: codec.decode(ReceiptClosed, text),
            lambda: unpack_sales(text, LIMITS),
            lambda: unpack_sales(b"{" + text, LIMITS),
        ):
            with pytest.raises(WireError) as refused:
                refuses()
            assert len(str(refused.value)) < codec.TEXT_MAX + 30
        with pytest.raises(automation.AutomationError):
            automation.decode(text)
        carried = unpack_sales(pack_sales(upload.header, upload.bodies), LIMITS) if b"\n" not in text else upload

    assert carried == upload


@pytest.mark.fault("F44")
def test_a_document_cannot_make_central_remember_its_names_once_for_each_value():
    """Half of it one name and half of it a list, looked through for NUL: no name is copied for a value."""
    body = AROUND["in an unknown field"].replace(b"%s", SHAPES["a long name before a long list"])

    with bounded(memory_bytes=25 * MIB):
        assert isinstance(judge(TILL, body), Accepted)


@pytest.mark.fault("F22")
@pytest.mark.parametrize(
    ("body", "code"),
    [
        pytest.param(b'"\xff\xfe"', "bad_json", id="no UTF-8"),
        pytest.param(b'"\xc0\xaf"', "bad_json", id="a slash in two bytes"),
        pytest.param(b'"\xed\xa0\x80"', "bad_json", id="half a pair, as bytes"),
        pytest.param(b'{"\xff":1}', "bad_json", id="no UTF-8 in a name"),
        pytest.param(b'"\xf4\x90\x80\x80"', "bad_json", id="beyond Unicode"),
        pytest.param(b'{"%s":{"%s":"\\u0000"}}' % (b"k" * 100_000, b"k" * 100_000), "bad_schema", id="NUL far down"),
        pytest.param(b"[" * 900 + b'"\\u0000"' + b"]" * 900, "bad_schema", id="NUL deep down"),
    ],
)
def test_a_field_that_nobody_reads_is_judged_all_the_same(body, code):
    """What is passed over unread is stored with the rest; a till that did not prepare it may have sent anything."""
    verdict = judge(TILL, AROUND["in an unknown field"].replace(b"%s", body))

    assert (verdict.code, 0 < len(verdict.reason) <= REASON_MAX) == (code, True)


@pytest.mark.fault("F22")
def test_a_refusal_that_quotes_what_was_received_stays_short():
    """A word of 60,000 letters where one of a few is expected: the log and quarantine get the beginning of it."""
    word = "x" * 60_000
    request = codec.encode(a_request())[:-1] + b',"reason":"%s"}' % word.encode()
    with pytest.raises(WireError) as refused:
        codec.decode(UploadRequest, request)
    with pytest.raises(automation.AutomationError) as unusable:
        automation.decode(msgspec.json.encode({"events": {word: 1}}))
    verdict = judge(TILL, as_json(a_document("d1", word)))

    assert (verdict.code, len(verdict.reason)) == ("bad_schema", REASON_MAX)
    assert len(str(refused.value)) < codec.TEXT_MAX + 30
    assert len(str(unusable.value)) <= automation.QUOTED_MAX


@pytest.mark.parametrize(
    "topic",
    [
        pytest.param("till/" + "a" * 65_530, id="one long word"),
        pytest.param("/" * 65_535, id="only slashes"),
        pytest.param("till/till-1/sales/" + "9" * 65_517, id="a long number"),
        pytest.param("till/" + "a" * 65_513 + "/receipt_closed", id="a long till id"),
        pytest.param("central/" + "1" * 65_518 + "/presence", id="a long worker"),
        pytest.param("till/till-1/" + "+" * 65_523, id="wildcards"),
        pytest.param("till/\ud800/presence", id="half a pair"),
        pytest.param("till/till-1\0/presence", id="NUL"),
    ],
)
def test_a_topic_of_the_greatest_length_is_none_of_ours(topic):
    """MQTT allows 65,535 bytes; none of them makes a till, a worker or a number of ours."""
    with bounded(cpu_s=0.5, memory_bytes=8 * MIB):
        assert topics.parse(topic) is None


@pytest.mark.fault("F44")
@pytest.mark.parametrize("times", [1, 2, 50])
def test_what_was_deflated_more_than_once_is_inflated_once(times):
    """A bomb in a bomb is looked at as the bytes it is."""
    packed = pack_sales(an_upload([]).header, [b"0" * 500_000])
    for _ in range(times):
        packed = pack_sales(an_upload([]).header, [packed.replace(b"\n", b" ")])
    with bounded(memory_bytes=16 * MIB), pytest.raises(WireError):
        unpack_sales(packed, LIMITS)


@pytest.mark.fault("F44")
def test_no_size_of_limit_lets_more_be_inflated_than_it_says():
    """A bomb of fifty megabytes against limits of a byte to a megabyte: the memory spent follows the limit."""
    bomb = pack_sales(an_upload([]).header, [b"0" * 50_000_000])
    for limit_bytes in (1, 1000, 65_536, MIB):
        with bounded(memory_bytes=4 * limit_bytes + 256 * 1024), pytest.raises(WireError, match="too_large"):
            unpack_sales(bomb, SalesLimits(inflated_bytes=limit_bytes))


# -- Drawn by hypothesis -----------------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
known = st.sampled_from(sorted(a_document("d1", "sale", lines=[], tenders=[], totals={}, shift={}, cash={}, note="")))


@pytest.mark.fault("F22")
@given(st.dictionaries(known | st.text(max_size=8), json_values, max_size=8))
def test_any_field_with_any_value_is_judged(fields):
    """Whatever stands in whatever field: accepted with columns that fit, or refused with a reason."""
    body = msgspec.json.encode({**a_document(), **fields})
    verdict = judge(TILL, body)

    if isinstance(verdict, Accepted):
        assert all("\0" not in value for value in msgspec.structs.astuple(verdict) if isinstance(value, str))
    else:
        assert 0 < len(verdict.reason) <= REASON_MAX


@pytest.mark.fault("F22", "F23")
@given(st.binary(max_size=300), st.integers(1, 600))
def test_whatever_is_handed_over_keeps_to_any_limit_or_is_a_stub(body, limit_bytes):
    """Under the limit, or a stub that names the bytes kept aside; either is taken by the judge."""
    try:
        prepared = prepare(body, limit_bytes, lambda: "made")
    except NotADocumentError:
        return

    assert len(prepared.body) <= limit_bytes or prepared.aside is not None
    assert b"\n" not in prepared.body
    assert isinstance(judge(TILL, prepared.body), Accepted | Refused)


@pytest.mark.fault("F13", "F14")
@given(st.lists(st.binary(max_size=80).map(lambda body: body.replace(b"\n", b" ")), max_size=8), st.data())
def test_an_upload_whose_lines_were_lost_doubled_or_reordered_is_refused_or_fails_its_digest(bodies, data):
    """The header counts the documents and the digest chains them: no other lines pass for these."""
    upload = an_upload(bodies)
    other = data.draw(st.lists(st.sampled_from(bodies or [b""]), max_size=10))
    try:
        received = unpack_sales(pack_sales(upload.header, other), LIMITS)
    except WireError:
        return

    digest = an_upload(received.bodies, stream=a_stream()).header.digest
    assert (digest == upload.header.digest) == (list(received.bodies) == bodies)


@given(st.text(max_size=80))
def test_any_topic_parses_to_one_that_is_built_the_same_or_to_nothing(text):
    """There is one way to write each topic."""
    for topic in (text, f"till/{text}/presence", f"till/till-1/sales/{text}", f"central/{text}/presence"):
        if (address := topics.parse(topic)) is not None:
            words = {"till": address.till, "worker": address.worker}
            assert address.topic.of(**{name: word for name, word in words.items() if word is not None}) == topic


def test_a_document_of_exactly_what_central_reads_comes_through():
    """The largest document that any till may be told to hold fits an upload."""
    body = a_sale("large")[:-1] + b',"from_pos":"%s"}'
    body = body.replace(b"%s", b"x" * (DOCUMENT_LIMIT_MAX_BYTES - len(body) + 2))
    upload = an_upload([body])

    assert len(body) == DOCUMENT_LIMIT_MAX_BYTES
    assert unpack_sales(pack_sales(upload.header, upload.bodies), LIMITS) == upload
    assert isinstance(judge(TILL, body), Accepted)
