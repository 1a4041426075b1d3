"""A till that floods and lies, beside honest ones: real brokers, real central; the others are served as before."""

from __future__ import annotations

import json
import os
import statistics
import threading
import time
import zlib
from itertools import count, cycle, islice
from pathlib import Path

import netns
import pytest
from brokers import FLEET_KEY, MOSQUITTO, TILLS, wait_until
from factories import a_bell, a_sale, a_stream, an_upload
from netns import OneHost
from raw_mqtt import PINGRESP, ClosedError, RawClient, publish_packet
from station import Station

from central.config import CentralConfig
from wire import codec, topics
from wire.codec import pack_sales
from wire.messages import TillPresence, UploadRequest, said
from wire.tokens import token_of

BROKERS = [
    "embedded",
    pytest.param("mosquitto", marks=pytest.mark.skipif(not MOSQUITTO, reason="Mosquitto is not installed")),
]
HONEST, LIAR = TILLS[0], TILLS[1]
DOCUMENTS = 40
DRAIN_S = 60
WHY_NOT = netns.why_not() or ("" if MOSQUITTO else "Mosquitto is not installed")
QUIET_S = 0.05
FLOOR_S = 0.25
"""What the median may grow by beside being doubled: one turn of a busy machine's scheduler and one fsync."""
MIB = 2**20
CENTRAL_MAY_GROW, BROKER_MAY_GROW = 96 * MIB, 64 * MIB
MOSQUITTO_PER_S = 1000
"""Mosquitto has no bound of its own on what one client publishes: so much a limit before it would let through."""


def rss_bytes(program):
    pages = Path(f"/proc/{program.process.pid}/statm").read_text("ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def bomb():
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    return codec.FORMAT_1 + deflate.compress(b"{" * 50_000_000) + deflate.flush()


def lies():
    """Return what a till may send that is nothing but lies, as topics and payloads."""
    lie = {"pruned": 10**9, "newest": 10**9 + 1, "digest": b"\7" * 16}
    names = (f"lie{number:019d}" for number in count())
    histories = ([{"stream": next(names), **lie} for _ in range(16)] for _ in count())
    bells = [a_bell(number, stream=a_stream(7), urgent=True, boot_id=f"b{number}") for number in range(1, 60)]
    bells += [a_bell(5, stream=a_stream(100 + number), previous=next(histories)) for number in range(60)]
    bells += [a_bell(2**53 - 1, stream=a_stream(7)), a_bell(0, stream=a_stream(7), stored=2**53 - 1)]
    uploads = [an_upload([a_sale(f"lie-{number}")], stream=a_stream(7), digest=b"\0" * 16) for number in range(20)]
    uploads += [an_upload([a_sale("lie")], before=[b"x"] * number, stream=a_stream(100)) for number in range(20)]
    shown = ({"online": number % 2 == 1, "connection": number, "boot_id": "b"} for number in range(20))
    sales, bell, presence = (
        topic.of(till=LIAR, worker=1) for topic in (topics.SALES, topics.RECEIPT_CLOSED, topics.TILL_PRESENCE)
    )
    return [
        *((bell, codec.encode(one)) for one in bells),
        *((sales, pack_sales(one.header, one.bodies)) for one in uploads),
        *((presence, codec.encode(said(TillPresence, **one))) for one in shown),
        (sales, bomb()),
        (sales, b"\1\xff\xff"),
        (sales, b"{" + b"[" * 60_000),
        (bell, b'{"v":1,"stream":"' + b"x" * 60_000 + b'"}'),
        (presence, b"\0" * 100),
    ]


class Liar:
    """A client with a till's name and token that lies as fast as it is let; answers each request with a lie too."""

    def __init__(self, port, per_s=None, source="127.0.0.1"):
        self._client, self._per_s = RawClient(port, source=source), per_s
        assert self._client.connect(LIAR, user=LIAR, password=token_of(FLEET_KEY, LIAR)) == 0
        self._client.subscribe(topics.UPLOAD_REQUEST.of(till=LIAR))
        self.sent, self.answered, self._stopping = 0, 0, threading.Event()
        self._thread = threading.Thread(target=self._lie)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stopping.set()
        self._thread.join()
        self._client.drop()

    def _lie(self):
        packets = cycle([publish_packet(topic, payload, packet_id=1) for topic, payload in lies()])
        begun = time.monotonic()
        while not self._stopping.is_set():
            some = list(islice(packets, 100))
            try:
                self._client.send(b"".join(some))
                self._answer()
            except (ClosedError, TimeoutError):
                return
            self.sent += len(some)
            if self._per_s:
                self._stopping.wait(max(0.0, begun + self.sent / self._per_s - time.monotonic()))

    def _answer(self):
        """Read all that has come, and answer what is asked with documents that do not make their digest."""
        self._client.send(b"\xc0\0")
        deadline = time.monotonic() + DRAIN_S
        while self._client._read_one(deadline)[0] != PINGRESP:
            pass
        asked, self._client.messages = self._client.messages, []
        for message in asked:
            request = codec.decode(UploadRequest, message.payload)
            upload = an_upload([a_sale("lie")], stream=a_stream(7), digest=b"\0" * 16, task=request.task)
            payload = pack_sales(upload.header, upload.bodies)
            self._client.send(publish_packet(topics.SALES.of(till=LIAR, worker=1), payload, packet_id=2))
            self.answered += 1


def station_of(folder, kind, tills, inside=()):
    station = Station(folder, kind, tills, inside=inside)
    station.central._environment["TILLSTREAM_QUIET_S"] = str(QUIET_S)
    return station


def lag_s(station, till):
    """Return the time from a document's close to its row."""
    (before,) = station.query(f"SELECT count(*) FROM document WHERE till_id = '{till.till_id}'")[0]
    begun = time.monotonic()
    till.close_documents(1)
    statement = f"SELECT count(*) > {before} FROM document WHERE till_id = '{till.till_id}'"
    assert wait_until(lambda: station.query(statement) == [(1,)], DRAIN_S), station.central.log()[-2000:]
    return time.monotonic() - begun


def median_lag_s(station, till):
    return statistics.median(lag_s(station, till) for _ in range(DOCUMENTS))


def log_lines(program, till):
    lines = (json.loads(line) for line in program.log().splitlines() if line.startswith("{"))
    return [line for line in lines if line.get("till") == till]


@pytest.mark.fault("F43", "F44", "F22")
@pytest.mark.parametrize("kind", BROKERS)
def test_a_till_that_floods_and_lies_costs_the_others_nothing(kind, tmp_path):
    """Others are stored as fast as before, memory stays bounded, the liar gets its few rows and its few turns."""
    with station_of(tmp_path, kind, tills=1) as station:
        (honest,) = station.tills
        calm_s = median_lag_s(station, honest)
        with Liar(station.port, MOSQUITTO_PER_S if kind == "mosquitto" else None) as liar:
            assert wait_until(lambda: "too_many" in station.central.log(), DRAIN_S)
            before = rss_bytes(station.central), rss_bytes(station.broker)
            begun, sent = time.monotonic(), liar.sent
            flooded_s = median_lag_s(station, honest)
            flood_s = time.monotonic() - begun
            after = rss_bytes(station.central), rss_bytes(station.broker)
        print(
            f"{kind}: {calm_s * 1000:.0f} ms calm, {flooded_s * 1000:.0f} ms with {(liar.sent - sent) / flood_s:.0f}/s"
        )

        assert wait_until(station.is_proven, DRAIN_S)
        assert flooded_s <= 2 * calm_s + FLOOR_S
        assert after[0] - before[0] < CENTRAL_MAY_GROW
        assert after[1] - before[1] < BROKER_MAY_GROW
        assert liar.answered > 0
        _liar_got_its_share(station, flood_s)


@pytest.mark.fault("F43", "F44")
@pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)
@pytest.mark.parametrize("kind", ["mosquitto", "nats"])
def test_the_rules_of_the_recipe_bound_a_till_that_floods(kind, tmp_path):
    """Each address may send so many bytes a second: who sends as fast as it can leaves the others as they were."""
    with OneHost() as host, station_of(tmp_path, kind, 1, host.command) as station:
        host.load(tmp_path / "broker" / "nftables.conf")
        (honest,) = station.tills
        calm_s = median_lag_s(station, honest)
        with host.inside():
            liar = Liar(station.port, source="127.0.0.2")
        with liar:
            assert wait_until(lambda: "too_many" in station.central.log(), DRAIN_S)
            begun, sent = time.monotonic(), liar.sent
            flooded_s = median_lag_s(station, honest)
            per_s = (liar.sent - sent) / (time.monotonic() - begun)
        print(f"{kind}: {calm_s * 1000:.0f} ms calm, {flooded_s * 1000:.0f} ms with {per_s:.0f}/s through the rules")

        assert host.dropped() > 0
        assert flooded_s <= 2 * calm_s + FLOOR_S
        assert wait_until(station.is_proven, DRAIN_S)


def _liar_got_its_share(station, flood_s):
    """Check what does not depend on the machine: rows, and how many of its messages were taken."""
    config = CentralConfig()
    (streams,) = station.query(f"SELECT count(*) FROM watermark WHERE till_id = '{LIAR}'")[0]
    (gaps,) = station.query(f"SELECT count(*) FROM gap WHERE till_id = '{LIAR}'")[0]
    assert 0 < streams <= config.till_streams_per_hour
    assert gaps <= config.till_streams_per_hour * 32
    taken = [line for line in log_lines(station.central, LIAR) if line["event"] != "too_many"]
    most = 3 * (config.till_messages_burst + config.till_messages_per_s * (flood_s + 30))
    assert len(taken) <= most
    assert station.query(f"SELECT count(*) FROM document WHERE till_id = '{LIAR}'") == [(0,)]


@pytest.mark.fault("F43")
@pytest.mark.parametrize("kind", BROKERS)
def test_a_till_whose_name_was_used_for_lies_goes_on_where_it_was(kind, tmp_path):
    """What it had stored stays, and what it closed meanwhile comes: the lies took nothing from its true history."""
    with station_of(tmp_path, kind, tills=2) as station:
        victim = station.tills[1]
        assert victim.till_id == LIAR
        victim.close_documents(10)
        assert wait_until(station.is_proven, DRAIN_S)
        victim.agent.stop()
        victim.close_documents(5)
        with Liar(station.port, MOSQUITTO_PER_S if kind == "mosquitto" else None):
            assert wait_until(lambda: "too_many" in station.central.log(), DRAIN_S)

        victim.start()

        assert wait_until(station.is_proven, DRAIN_S), (station.closed(), station.stored())
        ((stream,),) = station.query(f"SELECT DISTINCT stream FROM document WHERE till_id = '{LIAR}'")
        assert station.query(f"SELECT count(*) FROM quarantine WHERE stream = '{stream}'") == [(0,)]
        assert station.query(f"SELECT through FROM watermark WHERE stream = '{stream}'") == [(15,)]
