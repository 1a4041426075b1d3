"""Hostile bytes from a seed: damaged copies of what is valid, and JSON built from a grammar that knows what hurts.

Fast rather than clever: a case costs a few microseconds, so that the long run tries tens of millions of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random

from factories import TILL, a_document, a_receipt, a_sale, as_json, some_baskets

from wire.topics import TOPICS

POISON = (
    b'"\\ud800"', b'"\\udc00\\ud800"', b'"\\u0000"', b'"a\x00b"', b'"\xff\xfe"', b'"\xed\xa0\x80"', b'"\xc0\xaf"',
    b"NaN", b"-Infinity", b"1e999", b"-1e999", b"1E400", b"-0", b"-0.0", b"1e-400", b"01", b"+1", b".5", b"5.", b"0x10",
    b"18446744073709551616", b"9223372036854775808", b"-9223372036854775809", b"9007199254740992", b"9007199254740991",
    b"-1", b"0", b"1", b"1.0", b"1.5", b"true", b"false", b"null", b'""', b'"1"', b"[]", b"{}", b"[[[[[[[[]]]]]]]]",
    b'{"":{"":{}}}', b"[1,", b"{", b'"', b"\\", b'"\\u12', b'"\n"', b'"\r\n"', b'"\x1f"', b'"\\n"', b'"a\\nb"',
    b"9" * 30, b"9" * 400, b"0." + b"1" * 400, b"1e" + b"9" * 30, b'"' + b"x" * 70 + b'"', b'"' + b"x" * 1100 + b'"',
    b'"4111111111111111"', b"4111111111111111", b'"4111 1111 1111 1111"', b'"\xd9\xa4111111111111111"',
    b'{"a":1,"a":2}', b'"2026-02-30"', b'"2026-03-01\\n"', b'"0001-01-01T00:00:00+23:59"',
    b'"9999-12-31T23:59:60Z"', b'"9999-12-31T23:59:59-23:59"', b'"2026-03-01T10:00:00+99:99"', b'"2026-03-01T24:00Z"',
    b'"\xf0\x9f\x92\xa9"', b'"\xe2\x80\xa8"', b'"\xef\xbb\xbf"', b'"../../etc/passwd"', b'"; DROP TABLE till"',
)  # fmt: skip
"""What has broken a parser, a database or a report somewhere; each stands where a JSON value may stand."""

BYTES = tuple(bytes((one,)) for one in range(256)) + (b"\n", b'"', b"\\", b"{", b"}", b"[", b"]", b":", b",", b"\0") * 8

LOADS = (b"[", b'{"a":', b"[" * 40, b"9" * 40, b"\0" * 3, b"[" * 2000, b'{"a":' * 1200)
"""What is put in somewhere, whatever that makes of it."""

_VALUE = re.compile(rb'"(?:[^"\\]|\\.)*"(?!\s*:)|-?[0-9][0-9.eE+-]*|true|false|null')


class Corpus:
    """Valid inputs, each with the places where a JSON value stands in it."""

    def __init__(self, valid: Sequence[bytes]) -> None:
        self.valid = tuple(valid)
        self.spots = [(one, [match.span() for match in _VALUE.finditer(one)] or [(0, 0)]) for one in self.valid]


class Hostile:
    """A source of hostile inputs; the same seed gives the same ones."""

    def __init__(self, seed: object) -> None:
        rng = Random(str(seed))
        self._random = rng.random

    def below(self, limit: int) -> int:
        """Return a number in ``[0, limit)``."""
        return int(self._random() * limit)

    def one_of(self, some: Sequence):
        """Return one of some things."""
        return some[int(self._random() * len(some))]

    def mutated(self, corpus: Corpus) -> bytes:
        """Return a valid input after one to three changes; nearly always the first puts poison where a value stood."""
        random = self._random
        given, spots = corpus.spots[int(random() * len(corpus.spots))]
        chance = random()
        if chance < 0.6:
            begin, end = spots[int(random() * len(spots))]
            given = given[:begin] + POISON[int(random() * len(POISON))] + given[end:]
            if chance < 0.4:
                return given
        given = self.damaged(given, corpus)
        return self.damaged(given, corpus) if chance > 0.9 else given

    def damaged(self, given: bytes, corpus: Corpus) -> bytes:
        """Return the bytes after one change that knows nothing of what they mean."""
        random = self._random
        at = int(random() * (len(given) + 1))
        there, rest = given[:at], given[at:]
        match int(random() * 8):
            case 0:
                rest = BYTES[int(random() * len(BYTES))] + rest[1:]
            case 1:
                rest = BYTES[int(random() * len(BYTES))] + rest
            case 2:
                rest = rest[1 + int(random() * 20) :]
            case 3:
                rest = rest[:40] + rest
            case 4:
                rest = POISON[int(random() * len(POISON))] + rest
            case 5:
                rest = b""
            case 6:
                other = corpus.valid[int(random() * len(corpus.valid))]
                rest = other[int(random() * (len(other) + 1)) :]
            case 7:
                rest = LOADS[int(random() * len(LOADS))] + rest
        return there + rest

    def value(self, depth: int = 0) -> bytes:
        """Return a JSON value, or what nearly is one."""
        chance = self._random()
        if depth > 4 or chance < 0.6:
            return POISON[int(self._random() * len(POISON))]
        inner = [self.value(depth + 1) for _ in range(int(self._random() * 4))]
        if chance < 0.8:
            return b"[" + b",".join(inner) + b"]"
        return b"{" + b",".join(b'"%s":%s' % (self.one_of(_NAMES), one) for one in inner) + b"}"

    def object(self, fields: dict[bytes, Sequence[bytes]], poison: float = 0.04) -> bytes:
        """Return an object that has most of these fields with one of their good values, and now and then poison."""
        random, pairs = self._random, []
        for name, good in fields.items():
            chance = random()
            if chance < poison:
                pairs.append(b'"%s":%s' % (name, self.value() if chance < poison / 2 else self.one_of(POISON)))
            elif chance > 0.03:
                pairs.append(b'"%s":%s' % (name, good[int(random() * len(good))]))
        if random() < 0.1:
            pairs.append(b'"%s":%s' % (self.one_of(_NAMES), self.value()))
        return b"{" + b",".join(pairs) + b"}"

    def document(self) -> bytes:
        """Return a document from the grammar: about every third one is good."""
        return self.object(self.one_of(_DOCUMENTS))

    def topic(self) -> str:
        """Return a topic: mostly words of the table, some of them damaged or strange."""
        if self._random() < 0.5:
            topic = self.one_of(TOPICS).of(till=self.one_of(_TOPIC_WORDS), worker=self.one_of(_TOPIC_WORDS))
        else:
            topic = "/".join(self.one_of(_TOPIC_WORDS) for _ in range(1 + int(self._random() * 5)))
        if self._random() < 0.3:
            at = int(self._random() * (len(topic) + 1))
            topic = topic[:at] + self.one_of(_TOPIC_CHARACTERS) + topic[at + int(self._random() * 3) :]
        return topic


_TOPIC_CHARACTERS = ("+", "#", "/", "\0", "\n", "\ud800", "١", "ß", ".", " ", "-", "_", "%", "a" * 65, "9" * 400)
_TOPIC_WORDS = (
    "till", "central", "till-1", "042-01", "1", "999", "1000", "0", "01", "presence", "receipt_closed", "sales",
    "sales_stored", "upload_request", "settings", "", "+", "#", "$SYS", "a" * 64, "a" * 65, "Till", "sales\0", "1\n",
)  # fmt: skip
_NAMES = (
    b"document_id",
    b"lines",
    b"tenders",
    b"raw",
    b"oversize_bytes",
    b"v",
    b"kind",
    b"a",
    b"",
    b"\\u0041",
    b"name",
)

_SUMS = (
    b'[{"line_number":1,"quantity":"1","extended_minor":500}]',
    b'[{"line_number":1,"quantity":"0.5","extended_minor":500,"taxes":[{"tax_id":"a","rate":"20","amount_minor":83}]}]',
    b'[{"line_number":1,"quantity":"1","extended_minor":400},{"line_number":2,"quantity":"-1","extended_minor":100}]',
    b'[{"line_number":1,"quantity":"1","extended_minor":500,"from_pos":{"a":[1,2,{"b":null}]}}]',
)
_PAID = (
    b'[{"tender_number":1,"tender_type":"cash","amount_minor":500}]',
    b'[{"tender_number":1,"tender_type":"card","amount_minor":500},{"tender_number":2,"tender_type":"qr","amount_minor":0}]',
    b'[{"tender_number":1,"tender_type":"card","amount_minor":500,"masked_pan":"4111111111111111"}]',
)
_EVERY: dict[bytes, Sequence[bytes]] = {
    b"till_id": (b'"%s"' % TILL.encode(), b"null"),
    b"store_id": (b'"042"', b'""', b'"\xd0\x9c"'),
    b"business_day": (b'"2026-03-01"', b'"2024-02-29"', b'"0001-01-01"', b'"9999-12-31"'),
    b"closed_at": (b'"2026-03-01T10:00:00+03:00"', b'"2026-03-01T10:00:00.123456789Z"', b'"0001-01-01T00:00:00Z"'),
    b"currency": (b'"RUB"', b'"EUR"'),
    b"shift_number": (b"1", b"9007199254740991"),
    b"receipt_number": (b"0", b"12"),
    b"flags": (b"[]", b'["training"]', b'["training","offline"]'),
    b"note": (b'""', b'"\\u041c\\u0430"', b'"\\ud83d\\ude00"', b'"\xd0\x9c\\n"'),
    b"from_pos": (b"1", b"[[[]]]", b'{"a":{"b":[1.5,-1e3]}}', b'"\\u00e9"', b"18446744073709551616"),
}
_IDS = tuple(b'"d%d"' % number for number in range(2000))
_RECEIPT = {
    b"document_id": _IDS, b"transaction_type": (b'"sale"', b'"return"', b'"exchange"', b'"correction"'), **_EVERY,
    b"lines": _SUMS, b"tenders": _PAID, b"totals": (b'{"total_minor":500}',),
}  # fmt: skip
_CASH = {
    b"document_id": _IDS, b"transaction_type": (b'"paid_in"', b'"loan"', b'"deposit"'), **_EVERY,
    b"cash": (b'{"amount_minor":500}', b'{"amount_minor":9007199254740991,"counterparty":"\xd0\x9c"}'),
}  # fmt: skip
_SHIFT = {
    b"document_id": _IDS, b"transaction_type": (b'"shift_close"', b'"shift_open"', b'"x_report"'), **_EVERY,
    b"shift": (b'{"by_type":{"sale":{"count":1,"amount_minor":500}},"by_tender":{"sale.cash":{}}}', b"{}"),
}  # fmt: skip
_STAND_IN = {
    b"document_id": _IDS,
    b"raw": (b'"AAEC"', b'""'),
    b"oversize_bytes": (b"300000",),
    b"blake2b": (b'"' + b"a" * 32 + b'"',),
}
_DOCUMENTS = (_RECEIPT, _RECEIPT, _RECEIPT, _CASH, _SHIFT, _STAND_IN)


def documents() -> Corpus:
    """Return valid documents of all kinds: small ones, and some of a generated till's day."""
    shift = {"by_type": {"sale": {"count": 1, "amount_minor": 12_300}}, "by_tender": {"sale.cash": {"count": 1}}}
    return Corpus(
        [
            a_sale(),
            a_sale("d2", note="Молоко", from_pos={"a": [1, {"b": None}]}),
            as_json(a_receipt("d3", "exchange", discounts=[{"amount_minor": 0, "rate": "10"}])),
            as_json(a_receipt("d4", tenders=[{"tender_number": 1, "tender_type": "card", "amount_minor": 12_300}])),
            as_json(a_document("d5")),
            as_json(a_document("d6", "paid_in", cash={"amount_minor": 1})),
            as_json(a_document("d7", "shift_close", shift_number=1, shift=shift)),
            b'{"document_id":"d8","raw":"AAEC"}',
            b'{"document_id":"d9","oversize_bytes":300000,"blake2b":"%s"}' % (b"a" * 32),
            *some_baskets(6),
        ]
    )
