"""A consumer over HTTP, while many write and the console is killed again and again: in order, and no hole."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from contextlib import closing
from random import Random

from factories import NOW_MS, a_sale, a_store, a_stream, an_upload
from test_console_process import running

from central import accounts, consumers
from central.batch import NewStream, Parcel
from central.consumer import Cursor
from central.database import Place
from central.pool import Pool
from central.service import wall_clock_ms

TILLS, UPLOADS, EACH, LIMIT, KILLS = 3, 40, 3, 20, 3


def write(url, till, number):
    """Store one till's documents, upload by upload, each in a transaction beside those of the others."""
    with closing(a_store(url)) as store:
        store.open_streams([NewStream(till, a_stream(number), ())], {}, NOW_MS)
        before = []
        for upload in range(UPLOADS):
            bodies = [a_sale(f"{till}-{upload}-{one}", till_id=till) for one in range(EACH)]
            store.ingest([Parcel(till, an_upload(bodies, before, stream=a_stream(number)))], {}, NOW_MS)
            before += bodies


class Reader:
    """Reads pages and acknowledges them; what it has kept stands in ``kept``."""

    def __init__(self, secret):
        self.kept, self._secret = [], secret

    def call(self, address, path, given=None):
        headers = {"Authorization": f"Bearer {self._secret}", "Content-Type": "application/json"}
        data = None if given is None else json.dumps(given).encode()
        asked = urllib.request.Request(f"{address}api/v1/consumers/erp/{path}", data, headers)
        with urllib.request.urlopen(asked, timeout=30) as answer:
            return json.load(answer)

    def turn(self, address):
        """Take one page; returns whether there was anything."""
        page = self.call(address, f"documents?limit={LIMIT}")
        self.kept.append([(one["id"], one["till_id"], one["document_id"]) for one in page["documents"]])
        self.call(address, "acknowledge", {"cursor": page["cursor"]})
        return bool(page["documents"])


def test_no_document_is_skipped_whatever_is_killed(postgres):
    """Pages may come twice, where the kill came before the acknowledgement; none is missing, none out of order."""
    url, rng = postgres.new_database(), Random(4711)
    a_store(url).close()
    with Pool(Place(url)) as pool, pool.changing("root"):
        reader = Reader(accounts.issue("erp", ["export"], None, wall_clock_ms()))
        consumers.create("erp", Cursor(1, 0), NOW_MS)
    writers = [threading.Thread(target=write, args=(url, f"till-{number}", number)) for number in range(1, TILLS + 1)]
    for writer in writers:
        writer.start()
    for _ in range(KILLS):
        with running(url) as (process, address):
            killer = threading.Timer(rng.uniform(0.05, 0.5), process.kill)
            killer.start()
            try:
                while reader.turn(address) or any(writer.is_alive() for writer in writers):
                    pass
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                pass  # It was killed, wherever that was.
            finally:
                killer.cancel()
                killer.join()
    for writer in writers:
        writer.join()
    with running(url) as (_process, address):
        while reader.turn(address):
            pass
    postgres.drop(url)

    for page in reader.kept:
        assert page == sorted(page)
    ids = {document for page in reader.kept for _, _, document in page}
    wanted = {
        f"till-{till}-{upload}-{one}"
        for till in range(1, TILLS + 1)
        for upload in range(UPLOADS)
        for one in range(EACH)
    }
    assert ids == wanted
