"""The browser tests' own tools: what a page does unasked is seen, and what people cannot read is found."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import harness
import pytest
import retail_chain as chain

from central import reports

POLICY = "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'"
HEAD = '<!doctype html><html lang="ru"><head><title>Кассы</title><link rel="icon" href="data:,"></head><body><main>'
PAGES = {
    "/fine": HEAD + "<h1>Все кассы выгружены</h1><button>Запросить</button></main>",
    "/elsewhere": HEAD + '<h1>Кассы</h1><img alt="" src="http://fonts.example/logo.png"></main>',
    "/inline": HEAD + "<h1>Кассы</h1><script>document.title = 'x'</script></main>",
    "/broken": HEAD + '<h1>Кассы</h1><script src="/broken.js"></script></main>',
    "/pale": HEAD + '<h1>Кассы</h1><input></main><link rel="stylesheet" href="/pale.css">',
    "/broken.js": "throw new Error('broken');",
    "/pale.css": "h1 { color: #999; background: #aaa }",
}


class _Pages(BaseHTTPRequestHandler):
    def do_GET(self):
        page = PAGES.get(self.path)
        self.send_response(200 if page else 500)
        kind = {"js": "text/javascript", "css": "text/css"}.get(self.path.rpartition(".")[2], "text/html")
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Security-Policy", POLICY)
        self.end_headers()
        self.wfile.write((page or "out of order").encode())

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def base():
    """Return where pages are served that do what pages must not."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Pages)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def visitor(chromium, base):
    made = harness.Visitor(chromium, base, harness.Watch(base))
    yield made
    made.leave()


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        ("/fine", None),
        ("/elsewhere", "left the host: GET http://fonts.example/logo.png"),
        ("/inline", "console: Executing inline script violates"),
        ("/broken", "script: "),
        ("/missing", "500: GET "),
    ],
)
def test_what_a_page_does_unasked_is_seen(visitor, path, fault):
    """Another host, an inline script under the policy, an error in a script and an answer of 500 are each a fault."""
    visitor.anonymous().goto(path)

    faults = visitor.watch.faults
    assert any(found.startswith(fault) for found in faults) if fault else faults == []


def test_nothing_leaves_this_machine(visitor):
    """A name is not even looked up: the browser of a test cannot reach the world."""
    page = visitor.anonymous()

    with pytest.raises(Exception, match="ERR_NAME_NOT_RESOLVED"):
        page.goto("http://fonts.example/")


def test_what_people_cannot_read_or_use_is_found(visitor):
    """A pale heading and a field without a name are found, a page in order passes."""
    page = visitor.anonymous()
    page.goto("/fine")
    assert harness.violations(page) == []

    page.goto("/pale")
    found = " ".join(harness.violations(page))
    assert "color-contrast" in found
    assert "label" in found


def test_the_shops_have_something_of_everything(tmp_path):
    """Each page of the console has something to show: tills of each kind, open days, tasks, quarantine, a gap."""
    shops = chain.furnish(str(tmp_path / "central.db"))

    with reports.reading(shops.url):
        assert len(chain.TILLS) == len(reports.tills())
        assert {"waiting", "resting", "failed", "expired", "done"} == {row["state"] for row in reports.tasks(100)}
        codes = {row["document_id"]: row["code"] for row in reports.quarantine(100)}
        assert {"bad_json", "wrong_till", "totals_mismatch", "bad_schema"} == set(codes.values())
        assert {"bad_schema"} == {codes[name] for name in chain.ACCEPTED_TODAY}
        assert [(chain.WITH_GAP, 3)] == [(row["till_id"], 1 + row["last"] - row["first"]) for row in reports.gaps()]
