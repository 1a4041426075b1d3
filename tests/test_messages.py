"""The messages validate what arrives, ignore what they do not know, and send nothing that goes without saying."""

from __future__ import annotations

import msgspec
import pytest
from factories import a_bell, a_confirmation, a_request, a_stream

from wire import codec
from wire.messages import CentralPresence, History, Quarantined, ReceiptClosed, Sales, TillPresence, UploadRequest, said


def messages():
    history = History(stream=a_stream(), pruned=3, newest=9, digest=b"h" * 16)
    return [
        a_bell(7, stored=2, previous=(history,), oldest_unsent_at_ms=5, urgent=True),
        a_request(7, b"d" * 16, reason="retry", backed_up=3, limit_documents=9, limit_bytes=99),
        said(UploadRequest, central_id="c", worker=1, task="t"),
        a_confirmation(7, b"d" * 16, backed_up=0, quarantined=(Quarantined(3, "bad_json"),)),
        said(Sales, stream=a_stream(), after=1, through=2, digest=b"d" * 16, task="t"),
        said(TillPresence, online=True, connection=4, boot_id="b", findings={"card_number": 2}),
        said(CentralPresence, online=False, central_id="c", incarnation=2, verified_backup_at_ms=9),
    ]


@pytest.mark.parametrize("message", messages(), ids=lambda message: type(message).__name__)
def test_a_message_comes_back_as_it_was_said(message):
    """Encoding and decoding a message gives an equal one."""
    assert message == codec.decode(type(message), codec.encode(message))


@pytest.mark.parametrize("message", messages(), ids=lambda message: type(message).__name__)
def test_fields_that_are_not_known_are_ignored(message):
    """A newer neighbour may say more, so that either side may be upgraded first."""
    newer = codec.encode(message)[:-1] + b',"from_the_future":{"a":[1]}}'

    assert message == codec.decode(type(message), newer)


def test_a_plain_doorbell_says_only_what_it_must():
    """Fields at their default are not sent: a doorbell is rung for each receipt."""
    fields = msgspec.json.decode(codec.encode(a_bell(7)))

    assert set(fields) == {"v", "stream", "newest", "digest", "boot_id"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"stream": "short"},
        {"stream": "x" * 23},
        {"stream": "x" * 21 + "/"},
        {"newest": -1},
        {"newest": 2**53},
        {"newest": "7"},
        {"digest": b"15 bytes long.."},
        {"boot_id": ""},
        {"boot_id": "x" * 41},
        {"boot_id": "a b"},
        {"previous": tuple({"stream": a_stream(), "newest": 1, "digest": b"h" * 16} for _ in range(17))},
    ],
)
def test_a_field_out_of_bounds_is_refused_by_name(wrong):
    """Each bound is checked when a message is received, and the refusal names the field."""
    fields = {"v": 1, **msgspec.structs.asdict(a_bell(7)), **wrong}

    with pytest.raises(codec.WireError, match=next(iter(wrong))) as refused:
        codec.decode(ReceiptClosed, msgspec.json.encode(fields))

    assert refused.value.code == "bad_message"


@pytest.mark.parametrize("field", ["stream", "boot_id"])
def test_a_name_with_a_line_break_at_its_end_is_refused(field):
    """A pattern's ``$`` also matches before a last line break: a name that is written to logs must not carry one."""
    fields = msgspec.structs.asdict(a_bell(7))
    fields[field] += "\n"

    with pytest.raises(codec.WireError):
        codec.decode(ReceiptClosed, msgspec.json.encode(fields))


def test_saying_something_out_of_bounds_is_an_error_here_and_not_there():
    """What is sent is validated as if it had been received."""
    with pytest.raises(msgspec.ValidationError, match="newest"):
        a_bell(-1, b"d" * 16)
