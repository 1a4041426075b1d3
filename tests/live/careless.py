"""Owns programs that are wrong on purpose: a harness that cannot see their losses proves nothing by seeing none.

Each is the real program with one promise broken. They are named by the first argument, for `nursery`.
"""

from __future__ import annotations

import tillstream
from central.store import Store
from central.subscriber import Subscriber
from edge.agent import Agent
from edge.events import Handed
from edge.intake.http_socket import Answer, problem
from edge.outbox import Outbox
from edge.service import Door, make_document_id

NEVER_MS = 2**62


def answer_before_commit() -> None:
    """Let the agent's socket say 201 as soon as a document waits in memory."""

    def hand_over(self: Door, body: bytes) -> Answer:
        if not self._inbox.put(Handed(body, make_document_id), len(body) + 64):
            return problem(503, "Busy", "too much waits to be taken in")
        return Answer(201, {"sequence": 0})

    Door._hand_over = hand_over


def believe_puback() -> None:
    """Let the agent take the broker's PUBACK of an upload for proof that central has it, and forget it."""
    sent_through: list[int] = []
    send_sales, on_acknowledged = Agent.send_sales, Agent._on_acknowledged

    def send(self: Agent, request, now: float) -> None:
        send_sales(self, request, now)
        most = min(request.after + request.limit_documents, self.outbox.head().newest)
        sent_through[:] = [most]

    def acknowledged(self: Agent, event, now: float) -> None:
        sent = self._sent.get(event.mid)
        on_acknowledged(self, event, now)
        if sent == "sales" and sent_through:
            self.outbox.mark_stored(sent_through.pop(), self.outbox.central_id or "", None)
            self.outbox.prune(NEVER_MS)

    Agent.send_sales, Agent._on_acknowledged = send, acknowledged


def confirm_before_commit() -> None:
    """Let central answer at once, and commit when the next uploads come."""
    ingest, open_ones = Subscriber._ingest, []

    def ingest_and_answer(self: Subscriber, parcels, now: float) -> list:
        if not parcels:
            return []
        if open_ones:
            open_ones.pop().__exit__(None, None, None)
        open_ones.append(self.store.database.atomic("IMMEDIATE"))
        open_ones[0].__enter__()
        self._run(ingest(self, parcels, now), now)
        return []

    Subscriber._ingest = ingest_and_answer


def sync_normally() -> None:
    """Let the outbox and central's database commit without waiting for the disk."""
    pragmas, make_store = Outbox._pragmas, Store._count_start

    def careless_pragmas(self: Outbox) -> dict:
        return {**pragmas(self), "synchronous": "normal"}

    def count_start(self: Store) -> tuple:
        self.database.run("PRAGMA synchronous = normal")
        return make_store(self)

    Outbox._pragmas, Outbox._refuse_unsafe, Store._count_start = careless_pragmas, lambda _self: None, count_start


def main(arguments: list[str]) -> None:
    globals()[arguments[0]]()
    tillstream.main(arguments[1:])
