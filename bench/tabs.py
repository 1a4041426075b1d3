"""Twelve open tabs of the console, from a process of their own: ``tabs.py ADDRESS COOKIE``, until its input ends.

Says ``open`` once each tab has had its page. Only the standard library: a browser costs a server no processor time.
"""

from __future__ import annotations

import http.client
import sys
import threading
from urllib.parse import urlsplit

TABS, EVERY_S = 12, 5.0
PATHS = ("/", "/tills", "/days", "/stores")


def main(address: str, cookie: str) -> int:
    """Ask as open tabs do, each in its turn, until nobody needs them any more."""
    ended, opened = threading.Event(), threading.Barrier(TABS + 1)
    tabs = [threading.Thread(target=_be_tab, args=(address, cookie, number, ended, opened)) for number in range(TABS)]
    for tab in tabs:
        tab.start()
    opened.wait(120)
    print("open", flush=True)
    sys.stdin.read()
    ended.set()
    for tab in tabs:
        tab.join()
    return 0


def _be_tab(address: str, cookie: str, number: int, ended: threading.Event, opened: threading.Barrier) -> None:
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
    etag = _ask(connection, cookie, number, "")
    opened.wait(120)
    wait_s = EVERY_S * number / TABS
    while not ended.wait(wait_s):
        etag, wait_s = _ask(connection, cookie, number, etag), EVERY_S
    connection.close()


def _ask(connection: http.client.HTTPConnection, cookie: str, number: int, etag: str) -> str:
    headers = {"Cookie": cookie, "X-Poll": "1", **({"If-None-Match": etag} if etag else {})}
    connection.request("GET", PATHS[number % len(PATHS)], headers=headers)
    answer = connection.getresponse()
    answer.read()
    assert answer.status in (200, 304), answer.status
    return answer.headers.get("ETag", "")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
