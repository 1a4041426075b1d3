"""The fuzz targets: what each is fed, and what must hold of whatever comes out; ``prove`` runs as many cases as asked.

A failure is any exception but the room's own, or a promise that a case breaks; it is told with the bytes that did it.
"""

from __future__ import annotations

import hmac
import io
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec
from factories import TILL, a_bell, a_sale, a_store, a_stream, an_upload, digest_of, some_sales
from hostile import Corpus, Hostile, documents

from broker.packets import (
    PUBACK,
    PUBLISH,
    Message,
    ProtocolViolationError,
    Published,
    Splitter,
    publish_packet,
    read_puback,
    read_publish,
)
from central.batch import NewStream, Parcel
from central.judge import Accepted, Refused, judge
from edge.intake import prepare as prepare_module
from edge.intake.http_socket import Answer, SocketLimits, _Connection
from edge.intake.prepare import NotADocumentError, Prepared, _stub, prepare
from wire import automation, carriage, codec, topics
from wire.asyncapi import MESSAGES
from wire.carriage import CarriageError, CarriageHeader, Packing, ReplyHeader
from wire.codec import SalesLimits, Upload, WireError, pack_sales, unpack_sales
from wire.documents import DOCUMENT_ID_MAX
from wire.messages import Sales, Settings, TillPresence, said

GOLDEN = Path(__file__).parent / "golden"
ERROR_MAX = 800
"""How long an error's text may be: it is written to a log once for each message that is refused."""

LIMITS = SalesLimits(documents=50, inflated_bytes=64 * 1024)
DOCUMENT_LIMIT_BYTES = 2048
TOKEN = "a-token-for-tests-only"

Given = bytes | str | list[bytes]
Feed = Callable[[Hostile], Given]
Check = Callable[[Given], None]


@dataclass(frozen=True, slots=True)
class Target:
    """One thing that is fed: ``make`` returns what makes its cases and what runs one and checks it."""

    name: str
    weight: float
    """Its share of the cases."""
    make: Callable[[], tuple[Feed, Check]]


class BrokenPromiseError(AssertionError):
    """A case whose outcome is not what was promised."""


def must(is_so: bool, promise: str) -> None:
    if not is_so:
        raise BrokenPromiseError(promise)


def _said_shortly(problem: Exception) -> None:
    must(0 < len(str(problem)) <= ERROR_MAX, "an error's text is there and is bounded")


# -- The wire ----------------------------------------------------------------------------------------------------------


_FULL = {
    "receipt_closed": a_bell(7, previous=[{"stream": a_stream(2), "newest": 3, "digest": b"\1" * 16}]),
    "till_presence": said(TillPresence, online=True, connection=3, boot_id="b", troubles={"disk_full": 1}),
    "settings": said(Settings, revision=2, automation=automation.FACTORY, limits={"ring_again_s": 5}),
    "sales": said(Sales, stream=a_stream(), after=0, through=1, digest=b"\1" * 16, task="t1", before=b"\2" * 16),
}
"""Messages with the fields that the golden ones lack."""


def _messages(topic: topics.Topic) -> Corpus:
    """Return the golden bytes of a message, and one with fields that those lack."""
    name = "till_presence" if topic is topics.TILL_PRESENCE else topic.name
    kept = [path.read_bytes().strip() for path in sorted(GOLDEN.glob(f"*_{name}.json"))]
    return Corpus([*kept, *([codec.encode(_FULL[name])] if name in _FULL else [])])


def _decode(topic: topics.Topic, kind: type) -> tuple[Feed, Check]:
    corpus = _messages(topic)

    def check(given: bytes) -> None:
        try:
            message = codec.decode(kind, given)
        except WireError as problem:
            _said_shortly(problem)
        else:
            must(codec.decode(kind, codec.encode(message)) == message, "what was decoded comes back when encoded")

    return lambda hostile: hostile.mutated(corpus), check


def _unpack() -> tuple[Feed, Check]:
    plain = [b"\n".join([msgspec.json.encode(one.header), *one.bodies]) for one in _uploads()]
    lines, packed = Corpus(plain), Corpus([pack_sales(one.header, one.bodies) for one in _uploads()])

    def check(given: bytes) -> None:
        try:
            upload = unpack_sales(given, LIMITS)
        except WireError as problem:
            _said_shortly(problem)
            return
        must(len(upload.bodies) <= LIMITS.documents, "no more documents than were allowed")
        must(sum(map(len, upload.bodies)) <= LIMITS.inflated_bytes, "no more bytes than were allowed")
        must(b"\n" not in b"".join(upload.bodies), "a document is one line")

    return lambda hostile: _upload_bytes(hostile, lines, packed), check


def _uploads() -> list[Upload]:
    return [an_upload([]), an_upload([a_sale()]), an_upload(some_sales(3)), an_upload([b"", b"{}"])]


def _upload_bytes(hostile: Hostile, lines: Corpus, packed: Corpus) -> bytes:
    """Damage the deflated bytes, or what they inflate to: as plain JSON, or in a stored block, which costs nothing."""
    match hostile.below(4):
        case 0:
            return codec.FORMAT_1 + hostile.mutated(packed)[1:]
        case 1:
            text = hostile.mutated(lines)[:65_535]
            size = len(text).to_bytes(2, "little")
            return codec.FORMAT_1 + b"\1" + size + bytes(255 - one for one in size) + text
    return hostile.mutated(lines)


def _pack() -> tuple[Feed, Check]:
    """Whatever the documents' bytes are, they come back as they were."""
    corpus = documents()

    def feed(hostile: Hostile) -> list[bytes]:
        return [hostile.mutated(corpus).replace(b"\n", b" ") for _ in range(hostile.below(4))]

    def check(given: list[bytes]) -> None:
        upload = an_upload(given, digest=b"\0" * 16)
        must(unpack_sales(pack_sales(upload.header, upload.bodies), LIMITS) == upload, "an upload comes back as it was")

    return feed, check


def _topic() -> tuple[Feed, Check]:
    def check(given: str) -> None:
        address = topics.parse(given)
        if address is not None:
            worker = {} if address.worker is None else {"worker": address.worker}
            till = {} if address.till is None else {"till": address.till}
            must(address.topic.of(**till, **worker) == given, "what is parsed is built the same")
            must(not set(given) & set("+#\0\n"), "no address is a wildcard")

    return Hostile.topic, check


def _automation() -> tuple[Feed, Check]:
    after, _ = automation.with_per_receipt_upload(automation.FACTORY, "shell:///linuxcash/cash/unloadSales.sh")
    corpus = Corpus([msgspec.json.encode(one) for one in (automation.FACTORY, after)])

    def check(given: bytes) -> None:
        try:
            taken = automation.decode(given)
        except automation.AutomationError as problem:
            _said_shortly(problem)
            return
        must(automation.decode(automation.encode(taken)) == taken, "what was taken comes back")
        for macro in taken.macros:
            automation.steps(taken, macro.code)

    return lambda hostile: hostile.mutated(corpus), check


# -- Carried by file ---------------------------------------------------------------------------------------------------


def _carried() -> Corpus:
    named = {"till": TILL, "nonce": "0" * 32}
    digests = {"before": digest_of([]), "digest": digest_of([a_sale()])}
    header = CarriageHeader(**named, **digests, stream=a_stream(), after=0, through=1, made_at_ms=1)
    upload = an_upload([a_sale()])
    frames = (codec.encode(a_bell()), pack_sales(upload.header, upload.bodies))
    return Corpus([_sealed(header, frames), _sealed(ReplyHeader(**named), frames[:1])])


def _sealed(header: carriage.Header, frames: tuple[bytes, ...]) -> bytes:
    file = io.BytesIO()
    packing = Packing(file, TOKEN)
    for frame in frames:
        packing.add(frame)
    packing.seal(header)
    return file.getvalue()


def _carriage() -> tuple[Feed, Check]:
    corpus = _carried()

    def feed(hostile: Hostile) -> bytes:
        given = hostile.mutated(corpus)
        return _sealed_anew(given) if hostile.below(4) else given  # A liar who has the token: the seal always fits.

    def check(given: bytes) -> None:
        kind = ReplyHeader if b"_reply" in given[: carriage.HEADER_BYTES] else CarriageHeader
        try:
            sealed = carriage.unseal(io.BytesIO(given), kind, lambda _: TOKEN, 2**20)
            frames = list(sealed.frames)
        except CarriageError as problem:
            _said_shortly(problem)
            return
        must(len(frames) == sealed.header.frames, "as many frames as the header names")
        around = carriage.HEADER_BYTES + carriage.SEAL_BYTES + carriage.LENGTH_BYTES * len(frames)
        must(sum(map(len, frames)) + around == len(given), "nothing is made up, and nothing is passed over")

    return feed, check


_SIZE = re.compile(rb'"size_bytes":[0-9]*')


def _sealed_anew(given: bytes) -> bytes:
    """Write the size that the file has into its header, and seal it."""
    body = given[: -carriage.SEAL_BYTES]
    head, tail = body[: carriage.HEADER_BYTES], body[carriage.HEADER_BYTES :]
    head = _SIZE.sub(b'"size_bytes":%d' % len(given), head).rstrip().ljust(carriage.HEADER_BYTES)
    body = head + tail
    return body + hmac.digest(TOKEN.encode(), body, "sha256")


# -- Documents ---------------------------------------------------------------------------------------------------------


def _prepare() -> tuple[Feed, Check]:
    corpus = documents()

    def feed(hostile: Hostile) -> bytes:
        chance = hostile.below(10)
        return hostile.mutated(corpus) if chance < 6 else hostile.document() if chance < 9 else hostile.value()

    def check(given: bytes) -> None:
        try:
            prepared = prepare(given, DOCUMENT_LIMIT_BYTES, lambda: "made")
        except NotADocumentError:
            must(not given.removeprefix(b"\xef\xbb\xbf").strip(), "only what is empty is no document")
            return
        _is_one_object_on_one_line(prepared.body)
        must(0 < len(prepared.document_id), "it has a key")
        prepared.document_id.encode()
        _check_verdict(prepared.body, judge(TILL, prepared.body))

    return feed, check


def _skim() -> tuple[Feed, Check]:
    """Skim what no till may hold whole: the same is read of it as would be otherwise."""
    corpus = documents()

    def check(given: bytes) -> None:
        skimmed = _stub(prepare_module._skim(given, lambda: "made"), given)
        _is_one_object_on_one_line(skimmed.body)
        must(getattr(judge(TILL, skimmed.body), "code", "") == "too_large", "central takes the stub for what it is")
        whole = prepare_module._prepare_object(given, lambda: "made")
        if whole and b"\n" not in given and b"\r" not in given:
            must(_read_of(skimmed) == _read_of(whole), "as if read whole")

    def feed(hostile: Hostile) -> bytes:
        return (hostile.mutated(corpus) if hostile.below(2) else hostile.document()).strip()

    return feed, check


def _read_of(prepared: Prepared) -> tuple[str, int, str]:
    """Return what must agree; a type that is longer than any may be skimmed as none."""
    kind = prepared.transaction_type
    return prepared.document_id, prepared.card_numbers, kind if len(kind) <= DOCUMENT_ID_MAX else ""


def _is_one_object_on_one_line(body: bytes) -> None:
    must(b"\n" not in body and b"\r" not in body, "one line")
    must(len(body) <= DOCUMENT_LIMIT_BYTES, "within the limit")
    must(isinstance(msgspec.json.decode(body), dict), "one JSON object")


def _judge() -> tuple[Feed, Check]:
    corpus = documents()

    def feed(hostile: Hostile) -> bytes:
        return hostile.mutated(corpus) if hostile.below(2) else hostile.document()

    return feed, lambda given: _check_verdict(given, judge(TILL, given))


_COLUMNS_MAX = 2**63


def _check_verdict(body: bytes, verdict: Accepted | Refused) -> None:
    """Whatever is judged is storable as it stands, and says why where it is refused."""
    if isinstance(verdict, Refused):
        must(bool(verdict.code), "a refusal has a code")
        must(0 < len(verdict.reason) <= 4 * ERROR_MAX, "a refusal's reason is bounded")
        must("\0" not in verdict.document_id + verdict.reason, "no NUL reaches a column")
        (verdict.document_id + verdict.reason).encode()
        return
    must(isinstance(verdict, Accepted), "nothing but accepted or refused")
    for value in msgspec.structs.astuple(verdict):
        if isinstance(value, str):
            must("\0" not in value, "no NUL reaches a column")
            value.encode()
        elif value is not None:
            must(-_COLUMNS_MAX <= value < _COLUMNS_MAX, "a number fits its column")
    text = body.decode()
    must(not ("NaN" in text or "Infinity" in text) or _is_strict(text), "no NaN is stored")


def _is_strict(text: str) -> bool:
    """Say whether the words stand inside texts only."""
    found = []
    json.loads(text, parse_constant=found.append)
    return not found


# -- The till's socket -------------------------------------------------------------------------------------------------


class _Wire:
    """Both directions of a connection in memory: what a client has sent before it stopped, and what it is told."""

    def __init__(self, sent: bytes) -> None:
        self._sent, self.told = sent, bytearray()

    def settimeout(self, _: float) -> None:
        pass

    def makefile(self, *_: object) -> io.BufferedReader:
        return io.BufferedReader(io.BytesIO(self._sent))

    def sendall(self, some: bytes) -> None:
        self.told += some


@dataclass
class _Server:
    """What a connection needs of its server; takes whatever is handed over."""

    limits: SocketLimits = field(default_factory=lambda: SocketLimits(connections=1, timeout_s=1, body_bytes=20))
    taken: list[bytes] = field(default_factory=list)

    def ask(self, _method: str, path: str, body: bytes) -> Answer:
        self.taken.append(body)
        return Answer(200 if path == "/documents" else 404, {"path": path})


_REQUEST = b"POST /documents HTTP/1.1\r\nHost: till\r\nContent-Length: %d\r\n\r\n%s"
_HTTP = Corpus(
    [
        _REQUEST % (17, b'{"document_id":1}'),
        _REQUEST % (21, b'{"document_id":12345}'),
        _REQUEST % (2, b"{}") + _REQUEST % (3, b"{ }"),
        b"GET /status HTTP/1.1\r\nHost: till\r\nConnection: close\r\n\r\n",
        b"POST /documents HTTP/1.0\r\nContent-Length: 2\r\nExpect: 100-continue\r\nX: y\r\n z\r\n\r\n{}",
        b"POST /documents HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    ]
)


def _http() -> tuple[Feed, Check]:
    def feed(hostile: Hostile) -> bytes:
        given = hostile.damaged(hostile.one_of(_HTTP.valid), _HTTP)
        return hostile.damaged(given, _HTTP) if hostile.below(2) else given

    def check(given: bytes) -> None:
        server, connection = _Server(), _Wire(given)
        _Connection(connection, ("", 0), server)
        must(all(body in given for body in server.taken), "a body is what was sent")
        must(all(len(body) <= server.limits.body_bytes for body in server.taken), "a body is within its limit")
        must(len(connection.told) <= 2000 + 40 * len(given), "an answer is bounded")

    return feed, check


# -- The embedded broker -----------------------------------------------------------------------------------------------

_PUBLISHED = Message("till/till-1/receipt_closed", codec.encode(a_bell()), 1)
_PACKETS = Corpus(
    [
        publish_packet(_PUBLISHED, 1, 7, retain=True) + b"\xc0\0" + publish_packet(_PUBLISHED, 0, 0, retain=False),
        b"\x40\2\0\7\xe0\0" + publish_packet(Message("till/till-1/presence", b"", 1), 1, 65_535, retain=True),
        b"\x40\2\0\1" * 40,
    ]
)


def _broker() -> tuple[Feed, Check]:
    def feed(hostile: Hostile) -> bytes:
        return hostile.damaged(hostile.damaged(hostile.one_of(_PACKETS.valid), _PACKETS), _PACKETS)

    def check(given: bytes) -> None:
        whole, cut = _read_packets(given), _read_packets(given[: len(given) // 2], given[len(given) // 2 :])
        must(whole == cut, "where the bytes are cut makes no difference")
        for one in whole:
            if isinstance(one, Published):
                again = publish_packet(one.message, one.message.qos, one.packet_id, retain=one.retain)
                must(_read_packets(again) == [one], "what was published is passed on as it is")

    return feed, check


def _read_packets(*chunks: bytes) -> list[Published | int | str]:
    """Return what a connection takes from these bytes; the last one is why it ends, if it does."""
    splitter, read = Splitter(2048), []
    try:
        for chunk in chunks:
            for first, body in splitter.feed(chunk):
                if first >> 4 == PUBLISH:
                    read.append(read_publish(first, body, 256))
                elif first >> 4 == PUBACK:
                    read.append(read_puback(body))
    except ProtocolViolationError as problem:
        read.append(str(problem))
    return read


# -- Running them ------------------------------------------------------------------------------------------------------

TARGETS = (
    *(Target(f"decode {topic.name}", 3, partial(_decode, topic, kind)) for topic, kind in MESSAGES.items()),
    Target("unpack", 4, _unpack),
    Target("pack", 1, _pack),
    Target("topic", 4, _topic),
    Target("automation", 3, _automation),
    Target("carriage", 1.5, _carriage),
    Target("prepare", 2, _prepare),
    Target("skim", 1, _skim),
    Target("judge", 4, _judge),
    Target("http", 1, _http),
    Target("broker", 1, _broker),
)
"""Of 22 million cases the least has half a million."""


def share(target: Target, cases: int) -> int:
    """Return how many of so many cases a target has."""
    return round(cases * target.weight / sum(one.weight for one in TARGETS))


@dataclass(frozen=True, slots=True)
class Found:
    """What a run of one target found: ``told`` is empty if every case held."""

    cases: int
    failures: int
    told: str
    seconds: float


def run(target: Target, cases: int, seed: object) -> Found:
    """Run so many cases of one target; the same seed runs the same ones."""
    (feed, check), hostile = target.make(), Hostile(f"{seed}/{target.name}")
    failures, told, begun = 0, "", time.perf_counter()
    for number in range(cases):
        given = feed(hostile)
        try:
            check(given)
        except Exception as problem:  # noqa: BLE001 -- whatever it is, it is what is being looked for
            failures += 1
            told = told or f"{target.name}, seed {seed}, case {number}: {problem!r} with {given!r}"
    return Found(cases, failures, told, time.perf_counter() - begun)


def prove(cases: int, seed: int) -> dict[str, int]:
    """Run so many cases over all targets; return how many each had, and ``failures``; the first of each is printed."""
    counts, failures = {}, 0
    for target in TARGETS:
        found = run(target, share(target, cases), seed)
        counts[target.name] = found.cases
        failures += found.failures
        if found.told:
            print(found.told)
    return {**counts, "failures": failures}


def storable(cases: int, seed: object, where: str = ":memory:") -> tuple[int, int, dict[str, list]]:
    """Put what the judge accepts into a real database.

    Return how many went in, how many it would not have, and what it then shows of them.
    """
    hostile, store, corpus = Hostile(seed), a_store(where), documents()
    bodies = [hostile.mutated(corpus) if hostile.below(2) else hostile.document() for _ in range(cases)]
    accepted = [body for body in bodies if isinstance(judge(TILL, body), Accepted) and b"\n" not in body]
    store.open_streams([NewStream(TILL, a_stream(), ())], {}, 1)
    outcome = store.ingest([Parcel(TILL, an_upload(accepted))], {}, 1)[0]
    must(outcome.kind == "advanced", "what is accepted is stored")
    shown = {}
    for view in ("document_line", "document_tender", "document_tax"):
        rows = store.database.run(f"SELECT * FROM {view}").fetchall()
        shown[view] = sorted(
            (tuple(int(one) if one in (True, False) else one for one in row) for row in rows), key=repr
        )
    columns = "sequence, document_id, transaction_type, business_day, closed_at_ms, currency, total_minor, is_training"
    shown["document"] = store.database.run(f"SELECT {columns}, body FROM document ORDER BY sequence").fetchall()
    store.close()
    return len(accepted), sum(one.code == "unstorable" for one in outcome.quarantined), shown


def _figures(cases: int = 20_000) -> None:
    """Print cases a second, target by target."""
    for target in TARGETS:
        found = run(target, cases, 1)
        print(f"{target.name:28} {found.cases / found.seconds:>9,.0f}/s  {found.failures} {found.told[:600]}")


if __name__ == "__main__":
    _figures()
