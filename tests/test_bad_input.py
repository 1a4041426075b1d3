"""What is closed is never refused: whatever a POS hands over is numbered, and stored or quarantined with a code.

Each bad document travels between good ones: through the agent, the outbox, one packed upload and one transaction.
"""

from __future__ import annotations

import json
import zlib
from hashlib import blake2b

import pytest
from factories import (
    CARD_NUMBER,
    CENTRAL,
    NOW_MS,
    TILL,
    a_document,
    a_parcel,
    a_receipt,
    a_sale,
    a_store,
    a_stream,
    a_till,
    as_json,
    digest_of,
)

from central.batch import NewStream, Parcel
from edge.intake.prepare import NotADocumentError
from wire import codec, topics
from wire.codec import SalesLimits, WireError
from wire.messages import TillPresence, UploadRequest, said

GOOD_BEFORE, GOOD_AFTER = a_sale("before"), a_sale("after")


@pytest.fixture
def till(tmp_path):
    """Return a till with an empty outbox."""
    made = a_till(tmp_path, central_id=CENTRAL)
    yield made
    made.outbox.database.close()


@pytest.fixture
def store():
    """Return an empty central database."""
    made = a_store()
    yield made
    made.close()


def upload(till, store):
    """Carry everything that the till holds to central in one upload, as the wire would; return the outcome."""
    stream = till.outbox.head().stream
    ((_, (mark, _)),) = store.open_streams([NewStream(TILL, stream, ())], {}, NOW_MS).items()
    digest = till.outbox.digest_at(mark.through)
    till.agent.send_sales(
        said(
            UploadRequest,
            stream=stream,
            after=mark.through,
            digest=digest,
            central_id=CENTRAL,
            limit_bytes=16 * 2**20,
            worker=1,
            task="t1",
        ),
        now=0.0,
    )
    payload = till.link.payloads(topics.SALES.of(till=TILL, worker=1))[-1]
    received = codec.unpack_sales(payload, SalesLimits(inflated_bytes=16 * 2**20))
    return store.ingest([Parcel(TILL, received)], {}, NOW_MS)[0]


def carry(till, store, *bad):
    """Hand over bad documents between good ones and carry all to central; the good ones must be stored."""
    taken = [till.take_in(given) for given in (GOOD_BEFORE, *bad, GOOD_AFTER)]
    assert [one.appended.sequence for one in taken] == list(range(1, len(bad) + 3))

    outcome = upload(till, store)

    assert (outcome.kind, outcome.mark.through) == ("advanced", len(bad) + 2)
    assert outcome.mark.digest == till.outbox.head().digest
    rows = store.database.execute_sql("SELECT sequence, body FROM document").fetchall()
    assert {(1, GOOD_BEFORE), (len(bad) + 2, GOOD_AFTER)} <= set(rows)
    is_numbered_once(store, len(bad) + 2)
    return outcome


def is_numbered_once(store, through):
    rows = store.database.execute_sql("SELECT sequence FROM document UNION ALL SELECT sequence FROM quarantine")
    assert sorted(row[0] for row in rows) == list(range(1, through + 1))


def quarantined(store):
    return store.database.execute_sql("SELECT sequence, code, document_id, reason, body FROM quarantine").fetchall()


def stored(store, sequence):
    row = store.database.execute_sql("SELECT body FROM document WHERE sequence = ?", (sequence,)).fetchone()
    return row and row[0]


def nested(depth, innermost=b"1"):
    return b"[" * depth + innermost + b"]" * depth


def with_field(name, value):
    """Return a good sale whose field ``name`` is given as bytes, so that it may be anything."""
    return a_sale("bad")[:-1] + b',"%s":%s}' % (name.encode(), value)


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        pytest.param(b"this is no JSON", "bad_json", id="not JSON"),
        pytest.param(b'["an","array"]', "bad_json", id="no object"),
        pytest.param(as_json(a_document("bad", "teleport")), "bad_schema", id="unknown type"),
        pytest.param(as_json(a_receipt("bad", totals={"total_minor": 1})), "totals_mismatch", id="wrong total"),
        pytest.param(as_json(a_receipt("bad", tenders=[])), "tenders_mismatch", id="not paid"),
        pytest.param(with_field("note", b'"a\\u0000b"'), "bad_schema", id="NUL in a field"),
        pytest.param(with_field("from_pos", b'["a\\u0000b"]'), "bad_schema", id="NUL in an unknown field"),
        pytest.param(with_field("note", b'"a\x00b"'), "bad_json", id="NUL as a byte"),
        pytest.param(with_field("note", b'"\\ud800"'), "bad_json", id="half a surrogate pair"),
        pytest.param(with_field("from_pos", b'"\\udc00"'), "bad_json", id="the other half, unknown field"),
        pytest.param(with_field("note", b'"\xff\xfe"'), "bad_json", id="no UTF-8"),
        pytest.param(with_field("from_pos", b"NaN"), "bad_json", id="NaN"),
        pytest.param(with_field("from_pos", b"-Infinity"), "bad_json", id="infinity"),
        pytest.param(with_field("receipt_number", b"18446744073709551616"), "bad_schema", id="65 bits in a field"),
        pytest.param(with_field("receipt_number", b"9" * 5000), "bad_json", id="5,000 digits"),
        pytest.param(with_field("from_pos", nested(5000)), "bad_json", id="nested 5,000 deep"),
        pytest.param(with_field("from_pos", nested(480, b'"\\u0041"')), "stored", id="nested 480 deep with an escape"),
        pytest.param(with_field("from_pos", nested(600, b'"\\u0041"')), "stored", id="nested 600 deep with an escape"),
        pytest.param(with_field("from_pos", nested(900)), "stored", id="nested 900 deep"),
        pytest.param(with_field("tenders", nested(600)), "bad_json", id="tenders nested 600 deep"),
        pytest.param(with_field("from_pos", b"18446744073709551616"), "stored", id="65 bits in an unknown field"),
        pytest.param(with_field("from_pos", b"1e400"), "bad_json", id="a number beyond all doubles"),
        pytest.param(b"\xef\xbb\xbf" + a_sale("bad"), "stored", id="byte order mark"),
        pytest.param(json.dumps(a_receipt("bad"), indent=1).encode(), "stored", id="on many lines"),
        pytest.param(as_json(a_receipt("bad", till_id="till-2")), "wrong_till", id="another till"),
        pytest.param(as_json(a_receipt("bad", till_id="a/+/#")), "wrong_till", id="a till id with a wildcard"),
        pytest.param(as_json(a_receipt("x" * 65)), "bad_schema", id="an id too long"),
        pytest.param(as_json(a_receipt(["no", "id"])), "bad_schema", id="an id that is none"),
        pytest.param(as_json(a_receipt("bad", closed_at="2026-02-30T10:00:00Z")), "bad_schema", id="30 February"),
        pytest.param(b"{}", "bad_schema", id="an empty object"),
    ],
)
def test_a_bad_document_is_stored_or_quarantined_with_a_code_and_stops_nothing(till, store, bad, code):
    """It gets its number, the good ones beside it are stored, and the watermark passes them all."""
    outcome = carry(till, store, bad)

    if code == "stored":
        assert outcome.quarantined == ()
        assert json.loads(stored(store, 2)) == json.loads(bad.removeprefix(b"\xef\xbb\xbf"))
    else:
        assert [(2, code)] == [(one.sequence, one.code) for one in outcome.quarantined]
        ((sequence, quarantine_code, _, reason, body),) = quarantined(store)
        assert (2, code) == (sequence, quarantine_code)
        assert reason
        assert body == till.outbox.read_after(1, 1, 1)[0]


def test_all_bad_documents_of_a_day_stop_nothing_together(till, store):
    """Fifty different bad ones in one upload: each quarantined on its own."""
    bad = [b"no json %d" % number for number in range(50)]

    assert len(carry(till, store, *bad).quarantined) == 50


def test_a_document_of_five_megabytes_leaves_a_numbered_stub_and_its_bytes_aside(till, store, tmp_path):
    """The stub is quarantined ``too_large``; the till keeps the exact bytes under the digest that the stub names."""
    large = a_sale("large", note="x" * 5_000_000)

    outcome = carry(till, store, large)

    assert ["too_large"] == [one.code for one in outcome.quarantined]
    (_, _, document_id, reason, _) = quarantined(store)[0]
    name = blake2b(large, digest_size=16).hexdigest()
    assert document_id == "large"
    assert name in reason
    assert (tmp_path / "aside" / f"{name}.json").read_bytes() == large


def test_a_card_number_in_a_tender_is_masked_before_it_is_written_and_counted(till, store):
    """The document is stored in its masked form, the digest is of that form, and the presence names the finding."""
    tender = {"tender_number": 1, "tender_type": "card", "amount_minor": 12_300, "masked_pan": CARD_NUMBER}
    masked = as_json(a_receipt("card", tenders=[tender | {"masked_pan": "411111******1111"}]))

    outcome = carry(till, store, as_json(a_receipt("card", tenders=[tender])))

    assert outcome.quarantined == ()
    assert stored(store, 2) == masked
    assert till.outbox.head().digest == digest_of([GOOD_BEFORE, masked, GOOD_AFTER])
    assert codec.decode(TillPresence, till.agent.presence(1, online=True)).findings == {"card_number": 1}
    for database in (till.outbox.database, store.database):
        assert CARD_NUMBER not in "\n".join(map(str, database.connection().iterdump()))
        assert CARD_NUMBER.encode().hex().upper() not in "\n".join(map(str, database.connection().iterdump())).upper()


def test_a_document_handed_over_again_with_a_card_number_is_the_same_document(till, store):
    """The repeat is masked alike, known again, and counted once."""
    body = as_json(a_receipt("card", tenders=[{"pan": CARD_NUMBER}]))

    assert [till.take_in(body).appended.is_new for _ in range(2)] == [True, False]
    assert till.outbox.card_numbers_masked == 1


def test_a_repeated_id_with_other_bytes_is_quarantined_and_the_original_untouched(till, store):
    """Within one upload and across two: ``conflict``, never overwritten, never dropped."""
    first = carry(till, store, a_sale("twice"), a_sale("twice", total_minor=1))
    assert [(3, "conflict")] == [(one.sequence, one.code) for one in first.quarantined]
    till.take_in(a_sale("twice", total_minor=2))
    till.take_in(a_sale("last"))

    outcome = upload(till, store)

    assert (outcome.kind, outcome.mark.through) == ("advanced", 6)
    assert [(5, "conflict")] == [(one.sequence, one.code) for one in outcome.quarantined]
    assert stored(store, 2) == a_sale("twice")
    assert {a_sale("twice", total_minor=1), a_sale("twice", total_minor=2)} == {row[4] for row in quarantined(store)}
    is_numbered_once(store, 6)


def test_an_empty_body_is_no_document_and_takes_no_number(till, store):
    """There is nothing that could have been closed: whoever handed it over is told."""
    for nothing in (b"", b" \n", b"\xef\xbb\xbf"):
        with pytest.raises(NotADocumentError, match="empty"):
            till.take_in(nothing)

    carry(till, store)


def test_keys_that_come_twice_are_judged_and_searched_alike(till, store):
    """Whichever of two keys counts, it is the same one for the sums that are judged and for those that are shown."""
    twice = a_sale("bad")[:-1] + b',"lines":[{"line_number":1,"quantity":"1","extended_minor":5}],'
    twice += b'"tenders":[{"tender_number":1,"tender_type":"cash","amount_minor":5}],"totals":{"total_minor":5}}'

    outcome = carry(till, store, twice)

    if not outcome.quarantined:
        total, lines = (
            store.database.execute_sql(f"SELECT sum({what}) FROM {table} WHERE document_id = 'bad'").fetchone()[0]
            for what, table in (("total_minor", "document"), ("extended_minor", "document_line"))
        )
        assert total == lines


def test_a_bomb_among_good_uploads_is_refused_and_stores_nothing(till, store):
    """A payload that inflates without end is no upload; the next good one goes on where the watermark is."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15, 9)
    bomb = codec.FORMAT_1 + deflate.compress(b"{" * 50_000_000) + deflate.flush()

    with pytest.raises(WireError) as refused:
        codec.unpack_sales(bomb, SalesLimits())

    assert refused.value.code == "too_large"
    carry(till, store)


def test_an_upload_of_an_unknown_wire_version_is_refused_with_a_reason(till, store):
    """Nothing of it is stored, and its documents come again in a version that is known."""
    header = b'{"v":7,"stream":"%s","after":0,"through":1}' % a_stream().encode()

    with pytest.raises(WireError, match="version 7; this program speaks 1") as refused:
        codec.unpack_sales(header + b"\n" + GOOD_BEFORE, SalesLimits())

    assert refused.value.code == "unknown_version"
    carry(till, store)


@pytest.mark.parametrize("till_id", ["a/b", "+", "till/+", "#", "a+b", "a.b"])
def test_a_till_id_that_would_widen_a_filter_is_nobodys_topic(till_id):
    """Whatever it publishes under, it parses to no till of ours: nothing is registered, nothing stored."""
    assert topics.parse(f"till/{till_id}/sales/1") is None
    assert topics.parse(f"till/{till_id}/receipt_closed") is None


def test_one_bad_till_does_not_stop_the_others(store):
    """An upload that cannot be stored as a whole is taken apart; those of other tills in the transaction are stored."""
    store.database.execute_sql(
        "CREATE TRIGGER picky BEFORE INSERT ON document WHEN new.document_id = 'unbearable'"
        " BEGIN SELECT RAISE(ABORT, 'the database will not have it'); END"
    )
    tills = ("till-1", "till-2", "till-3")
    store.open_streams([NewStream(till, a_stream(), ()) for till in tills], {}, NOW_MS)
    uploads = {till: [a_sale(name, till_id=till) for name in ("first", "unbearable", "last")] for till in tills}
    uploads["till-3"] = [a_sale("good", till_id="till-3")]

    outcomes = store.ingest([a_parcel(bodies, till) for till, bodies in uploads.items()], {}, NOW_MS)

    assert [("advanced", 3), ("advanced", 3), ("advanced", 1)] == [(one.kind, one.mark.through) for one in outcomes]
    assert [["unstorable"], ["unstorable"], []] == [[one.code for one in outcome.quarantined] for outcome in outcomes]
    assert store.database.execute_sql("SELECT count(*) FROM document").fetchone()[0] == 5
    assert [("till-1", 2), ("till-2", 2)] == store.database.execute_sql(
        "SELECT till_id, sequence FROM quarantine ORDER BY 1"
    ).fetchall()
