"""A server's endpoint: insert each receipt that is posted. ``take_posts.py PORT DATABASE [HOST CERT KEY]``."""

from __future__ import annotations

import sys

import uvicorn
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool

from other_ways.table import Table


def main(port: str, database: str, host: str = "127.0.0.1", cert: str = "", key: str = "") -> None:
    """Serve; the answer comes after the commit."""
    table, app = Table(database), FastAPI()

    @app.post("/receipts", status_code=204)
    async def take(request: Request) -> None:
        await run_in_threadpool(table.insert, await request.body())

    tls = {"ssl_certfile": cert, "ssl_keyfile": key} if cert else {}
    uvicorn.run(app, host=host, port=int(port), log_level="error", **tls)


main(*sys.argv[1:])
