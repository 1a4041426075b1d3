"""A till's script: POST each receipt of a file, three attempts for each. ``post_each.py PORT FILE``."""

from __future__ import annotations

import http.client
import sys
import time
from pathlib import Path

ATTEMPTS, WAIT_S, TIMEOUT_S = 3, 1.0, 10.0


def main(port: str, receipts: str) -> None:
    """Post over one kept connection; a receipt whose attempts all failed is named and left."""
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=TIMEOUT_S)
    for number, line in enumerate(Path(receipts).read_bytes().splitlines()):
        if not any(_posted(connection, line, attempt) for attempt in range(ATTEMPTS)):
            print(f"receipt {number} was not taken", file=sys.stderr)


def _posted(connection: http.client.HTTPConnection, body: bytes, attempt: int) -> bool:
    if attempt:
        time.sleep(WAIT_S)
    try:
        connection.request("POST", "/receipts", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
    except (OSError, http.client.HTTPException):
        connection.close()
        return False
    return answer.status == http.HTTPStatus.NO_CONTENT


main(*sys.argv[1:])
