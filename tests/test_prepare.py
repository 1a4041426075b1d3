"""What is done to a document on its way into the outbox: one JSON object on one line, and never a refusal."""

from __future__ import annotations

import base64
import json
import tracemalloc
from hashlib import blake2b

import msgspec
import pytest
from factories import CARD_NUMBER, a_receipt, a_sale, as_json, some_baskets
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.intake.prepare import NotADocumentError, id_from, prepare
from wire.documents import DOCUMENT_LIMIT_MAX_BYTES, Oversize, Raw

LIMIT = 256 * 1024
MASKED = "411111******1111"
repeatable = settings(derandomize=True, deadline=None, max_examples=200)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def prepared(text, limit=LIMIT):
    return prepare(text, limit, lambda: "made")


def a_card_sale(**tender):
    line = {"tender_number": 1, "tender_type": "card", "amount_minor": 12_300, **tender}
    return as_json(a_receipt(tenders=[line]))


# -- What keeps its bytes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [a_sale(), *some_baskets(40)])
def test_a_valid_document_keeps_its_bytes(body):
    """A document on one line with an id of its own is stored as it came."""
    assert body == prepared(body).body


def test_line_breaks_outside_strings_become_spaces():
    """A document written over many lines is the same document on one."""
    pretty = json.dumps(a_receipt(name="a\nb"), indent=2).replace("\n", "\r\n").encode()
    body = prepared(pretty).body

    assert b"\n" not in body
    assert b"\r" not in body
    assert len(body) == len(pretty)
    assert json.loads(body) == a_receipt(name="a\nb")


def test_a_byte_order_mark_and_blanks_around_are_taken_off():
    """What stands before and after the object is no part of it."""
    assert a_sale() == prepared(b"\xef\xbb\xbf \r\n" + a_sale() + b"\n\t ").body


def test_a_missing_id_is_put_in_front_and_the_rest_keeps_its_bytes():
    """A document without an id gets one; without it, it could not be recognised again."""
    for given_text, expected in (
        (b'{"a":1}', b'{"document_id":"made","a":1}'),
        (b'{ "a" : 1 }', b'{"document_id":"made","a" : 1 }'),
        (b"{}", b'{"document_id":"made"}'),
        (b"{\n}", b'{"document_id":"made"}'),
    ):
        assert expected == prepared(given_text).body
        assert prepared(given_text).document_id == "made"


@pytest.mark.parametrize("odd", ["", "x" * 65, "a\0b", 7, None, [1], {"a": 1}, True])
def test_an_id_that_cannot_be_a_key_is_kept_in_the_bytes_and_replaced_as_a_key(odd):
    """Central will judge it; until then its bytes identify it, so that a repeat is recognised."""
    body = as_json(a_receipt(odd))

    assert body == prepared(body).body
    assert id_from(body) == prepared(body).document_id
    assert prepared(body).document_id != prepared(body + b" ,").document_id


def test_a_closed_shift_is_urgent():
    """Whoever reconciles is waiting for it."""
    assert prepared(as_json(a_receipt(transaction_type="shift_close"))).is_urgent
    assert not prepared(a_sale()).is_urgent


# -- What is wrapped ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        b"not json", b"<xml/>", b"[]", b"null", b'"text"', b"1", b"{", b'{"a":NaN}', b'{"a":Infinity}', b'{"a":1e999}',
        b'{"a":"\x00"}', b'{"a":"\\ud800"}', b'{"a":"\\udc00"}', b'{"a":"\xff"}', b"\xff\xfe{\x00}\x00",
        b'{"a":1}{"b":2}',
        b"{'a':1}", b'{"a":1,}', b'{"a":"\n"}', b"\x00", b'{"a":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
        b'{"a":' + b"9" * 5000 + b"}",
    ],
)  # fmt: skip
def test_what_is_no_json_object_is_wrapped_with_its_exact_bytes(text):
    """Anything else than a JSON object gets a number too: its bytes stand in it as base64."""
    made = prepared(text)
    raw = msgspec.json.decode(made.body, type=Raw)

    assert ("made", text) == (raw.document_id, raw.raw)
    assert made.document_id == "made"


@pytest.mark.parametrize("text", [b"", b" ", b"\n\t\r ", b"\xef\xbb\xbf", b"\xef\xbb\xbf \n"])
def test_what_is_empty_is_no_document(text):
    """There is nothing that could have been closed."""
    with pytest.raises(NotADocumentError, match="empty"):
        prepared(text)


@repeatable
@given(st.binary(max_size=300))
def test_any_bytes_become_one_object_on_one_line(text):
    """Whatever is handed over, the outbox holds one JSON object on one line that names itself, or it was empty."""
    try:
        made = prepared(text)
    except NotADocumentError:
        return

    assert b"\n" not in made.body
    assert "document_id" in json.loads(made.body)


@repeatable
@given(st.dictionaries(st.text(), anything, max_size=5), anything)
def test_any_object_keeps_its_meaning(fields, tenders):
    """A JSON object with anything in it is stored with everything in it."""
    fields = {**fields, "tenders": tenders}
    made = prepared(json.dumps(fields).encode())
    held = json.loads(made.body)

    assert b"\n" not in made.body
    if "raw" in held and "raw" not in fields:
        assert fields_as_given(base64.b64decode(held["raw"])) == fields_as_given(json.dumps(fields).encode())
    elif not made.card_numbers:
        assert held == {"document_id": "made", **fields}


def fields_as_given(text):
    return repr(json.loads(text))


@pytest.mark.parametrize("depth", [100, 300, 450, 490, 500, 600, 900, 980, 995, 5000])
@pytest.mark.parametrize("field", ["tenders", "note"])
def test_deep_nesting_never_stops_a_till(field, depth):
    """However deep something is nested, wherever it stands, it is appended: as it is, or wrapped."""
    text = b'{"document_id":"d1","%s":' % field.encode() + b"[" * depth + b'"x"' + b"]" * depth + b"}"

    assert prepared(text).document_id in ("d1", "made")


# -- What is too large -------------------------------------------------------------------------------------------------


def test_what_is_over_the_limit_is_replaced_by_a_stub_that_names_its_bytes():
    """The stub holds the id, the size and the digest; the exact bytes are to be kept aside."""
    large = a_sale("d7", note="x" * 5_000_000)
    made = prepared(large)
    stub = msgspec.json.decode(made.body, type=Oversize)

    assert ("d7", len(large)) == (stub.document_id, stub.oversize_bytes)
    assert blake2b(large, digest_size=16).hexdigest() == stub.blake2b
    assert made.aside == large
    assert made.document_id == "d7"


def test_the_limit_is_inclusive():
    """A document of exactly the limit is stored as it is."""
    assert prepared(a_sale(), len(a_sale())).aside is None
    assert prepared(a_sale(), len(a_sale()) - 1).aside == a_sale()


def test_what_is_too_large_once_wrapped_is_a_stub_of_the_bytes_that_were_handed_over():
    """Five megabytes of no JSON are kept aside as they came, not as base64."""
    junk = b"\xff" * 5_000_000

    assert prepared(junk).aside == junk


# -- Card numbers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "masked"),
    [
        (CARD_NUMBER, MASKED),
        ("4111 1111 1111 1111", MASKED),
        ("4111-1111-1111-1111", MASKED),
        (f"card {CARD_NUMBER}.", f"card {MASKED}."),
        (int(CARD_NUMBER), MASKED),
        ("378282246310005", "378282*****0005"),
        ("4222222222222", "422222***2222"),
    ],
)
def test_a_card_number_in_a_tender_is_masked(written, masked):
    """First six and last four digits stay (PCI DSS 3.4); the rest of the document keeps its bytes."""
    made = prepared(a_card_sale(masked_pan=written))
    tender = json.loads(made.body)["tenders"][0]

    assert (masked, 1) == (tender["masked_pan"], made.card_numbers)
    assert {"tender_number": 1, "tender_type": "card", "amount_minor": 12_300, "masked_pan": masked} == tender
    assert a_receipt()["lines"] == json.loads(made.body)["lines"]


@pytest.mark.parametrize(
    "harmless",
    ["4111111111111112", MASKED, "411111", "12345678901234567890", 4111111111111112, True, 1.5, "rrn 123456789012"],
)
def test_what_is_no_card_number_keeps_its_bytes(harmless):
    """A wrong check digit, another length, or a masked number are left alone."""
    body = a_card_sale(masked_pan=harmless)

    assert body == prepared(body).body
    assert prepared(body).card_numbers == 0


def test_a_number_outside_the_tenders_is_left_alone():
    """Marking codes and other fields pass the check digit by chance."""
    fields = a_receipt(note=CARD_NUMBER)
    fields["lines"][0]["marks"] = [{"code": CARD_NUMBER}]

    assert as_json(fields) == prepared(as_json(fields)).body


def test_masking_a_tender_leaves_the_same_text_elsewhere_alone():
    """Only the tenders are rewritten, also where what stands in them stands in another field too."""
    body = as_json({"document_id": "d1", "mark": CARD_NUMBER, "tenders": CARD_NUMBER})

    assert {"document_id": "d1", "mark": CARD_NUMBER, "tenders": MASKED} == json.loads(prepared(body).body)


def test_every_card_number_is_masked_and_counted():
    """Two tenders, nested fields and two numbers in one text: all of them."""
    tenders = [{"pan": CARD_NUMBER}, {"slip": {"lines": [f"{CARD_NUMBER} and 4222222222222"]}}]
    made = prepared(as_json(a_receipt(tenders=tenders)))

    assert made.card_numbers == 3
    assert CARD_NUMBER.encode() not in made.body
    assert b"4222222222222" not in made.body


@pytest.mark.parametrize(
    "body",
    [
        b'{"document_id":"d1","tenders":[{"pan":"%s","pan":"x"}]}',
        b'{"document_id":"d1","tenders":[{"pan":"%s"}],"tenders":[]}',
    ],
)
def test_a_card_number_behind_a_key_that_comes_twice_is_masked_too(body):
    """The bytes are what is stored: a number that a later key of the same name hides must not stand in them."""
    assert CARD_NUMBER.encode() not in prepared(body % CARD_NUMBER.encode()).body


def test_a_card_number_spelt_with_escapes_is_masked():
    """An escape does not hide a number."""
    spelt = CARD_NUMBER.replace("4", "\\u0034").encode()

    assert prepared(b'{"document_id":"d1","tenders":[{"pan":"%s"}]}' % spelt).card_numbers == 1


def test_what_is_kept_aside_is_masked_too():
    """An oversize document with a card number lies aside in its masked form, and the stub's digest is of that."""
    made = prepared(as_json(a_receipt(tenders=[{"pan": CARD_NUMBER}], note="x" * LIMIT)))
    stub = msgspec.json.decode(made.body, type=Oversize)

    assert CARD_NUMBER.encode() not in made.aside
    assert (blake2b(made.aside, digest_size=16).hexdigest(), len(made.aside)) == (stub.blake2b, stub.oversize_bytes)


# -- What no till may hold whole ---------------------------------------------------------------------------------------

HUGE = "x" * DOCUMENT_LIMIT_MAX_BYTES


@pytest.mark.fault("F23")
@pytest.mark.parametrize(
    ("body", "document_id"),
    [
        pytest.param(a_sale("d7", note=HUGE), "d7", id="a sale"),
        pytest.param(a_sale("d7", note=HUGE).replace(b'"document_id":"d7",', b""), "made", id="no id"),
        pytest.param(b"[" + a_sale("d7", note=HUGE) + b"]", "made", id="no object"),
        pytest.param(HUGE.encode(), "made", id="no JSON"),
        pytest.param(a_sale("d7", note=HUGE)[:-1], "made", id="cut short"),
        pytest.param(a_sale("d7", tenders=1, from_pos=[HUGE]), "d7", id="odd tenders"),
        pytest.param(b'{"document_id":"d7","tenders":' + b"[" * 2_000_000, "made", id="too deep"),
    ],
)
def test_of_a_document_that_no_till_may_hold_the_stub_names_id_size_and_digest(body, document_id):
    """It is not read whole, and comes out as if it had been."""
    made = prepared(body)
    stub = msgspec.json.decode(made.body, type=Oversize)

    assert (made.document_id, stub.document_id, stub.oversize_bytes) == (document_id, document_id, len(body))
    assert (made.aside, stub.blake2b) == (body, blake2b(body, digest_size=16).hexdigest())


def test_an_id_that_cannot_be_a_key_is_known_again_by_its_bytes_however_large_it_is():
    """A repeat is recognised; other bytes are another document."""
    one, other = (b'{"document_id":["%s"],"from_pos":%d}' % (HUGE.encode(), number) for number in (1, 2))

    assert prepared(one).document_id == prepared(one).document_id != prepared(other).document_id


@pytest.mark.parametrize("field", ["document_id", "transaction_type", "tenders"])
def test_a_shift_that_is_closed_is_urgent_however_large_it_is(field):
    """What stands beside the type does not matter."""
    body = a_sale("d7", transaction_type="shift_close", from_pos={field: HUGE})

    assert prepared(body).is_urgent


@pytest.mark.parametrize("tenders", [[{"pan": CARD_NUMBER}], [{"pan": CARD_NUMBER, "from_pos": HUGE}]])
def test_card_numbers_are_masked_in_what_no_till_may_hold(tenders):
    """In a few tenders and in a megabyte of them; what stands around keeps its bytes."""
    body = as_json(a_receipt(tenders=tenders, note=HUGE, from_pos=1.10))
    made = prepared(body)

    assert made.card_numbers == 1
    assert made.aside == body.replace(CARD_NUMBER.encode(), MASKED.encode())


@pytest.mark.fault("F23", "F44")
@pytest.mark.parametrize("value", [b"{},", b"1,", b'"",', b"[[],1],"])
@pytest.mark.parametrize("field", [b"from_pos", b"document_id", b"tenders"])
def test_three_megabytes_of_small_values_are_not_made_into_objects(field, value):
    """A till with little memory takes the largest body that its socket does: a few copies of it, no more."""
    body = a_sale()[:-1] + b',"%s":[%s1]}' % (field, value * (3 * 2**20 // len(value)))
    tracemalloc.start()
    made = prepared(body)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert made.aside == body
    assert peak < 5 * len(body)
