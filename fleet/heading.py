"""Owns what stands at the head of each of a till's documents, and its counters: shift, receipt, fiscal document."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from random import Random
from typing import Any
from uuid import UUID

OFFSET_MINUTES, TIME_ZONE, CURRENCY = 180, "Europe/Moscow", "RUB"
LOCAL = timezone(timedelta(minutes=OFFSET_MINUTES))
RUNG_UP_MS, LINE_RUNG_UP_MS = 8_000, 3_000
OPERATORS = ("Иванова А. С.", "Петрова М. И.", "Ким О. В.", "Сафин Р. Т.", "Orlova E.", "Гусев Н. П.", "Мельник Д. А.")

INCOME, INCOME_REFUND = 1, 2
FISCAL_OPEN, FISCAL_RECEIPT, FISCAL_CLOSE, FISCAL_CORRECTION = 2, 3, 5, 31


def time_text(now_ms: int) -> str:
    """Return RFC 3339 text with milliseconds and the store's offset; from whole numbers, so that none is rounded."""
    whole = datetime.fromtimestamp(now_ms // 1000, LOCAL).isoformat()
    return f"{whole[:19]}.{now_ms % 1000:03d}{whole[19:]}"


class Heading:
    """One till's identity and counters; a shift keeps the business day of its opening past midnight."""

    def __init__(self, till_id: str, store_id: str, rng: Random) -> None:
        self.till_id, self.store_id, self._rng = till_id, store_id, rng
        self.business_day, self.opened_at, self.opened_ms = "", "", 0
        self._shift_number, self._receipt_number = rng.randint(1, 400), 0
        self._fiscal_number = rng.randint(1, 90_000)
        self._fiscal_device = _draw_fiscal_device(rng)
        self._operator: dict[str, str] = {}
        self._last_ms = 0

    def open_shift(self, now_ms: int) -> None:
        """Begin the next shift: receipts count from 1 again."""
        self._shift_number += 1
        self._receipt_number = 0
        self.opened_ms, self.opened_at = now_ms, time_text(now_ms)
        self.business_day = self.opened_at[:10]
        operator = self._rng.randrange(len(OPERATORS))
        self._operator = {"operator_id": str(operator + 1), "name": OPERATORS[operator]}

    def head(self, kind: str, now_ms: int) -> dict[str, Any]:
        """Return the head of a document without a receipt number."""
        self._last_ms = now_ms
        return self._place(kind) | self._close(now_ms)

    def receipt(self, kind: str, now_ms: int, lines: int) -> dict[str, Any]:
        """Return the head of a document with lines: it has a number, and a time when its first line was rung up."""
        self._receipt_number += 1
        rung_up_ms = max(self._last_ms, now_ms - RUNG_UP_MS - lines * LINE_RUNG_UP_MS)
        self._last_ms = now_ms
        numbered = {"receipt_number": self._receipt_number, "opened_at": time_text(rung_up_ms)}
        return self._place(kind) | numbered | self._close(now_ms)

    def fiscal(self, document_code: int, operation_type: int | None = None) -> dict[str, Any]:
        """Return the next fiscal document's block; identifiers are text, the law's tables are numbers."""
        self._fiscal_number += 1
        block: dict[str, Any] = {
            "scheme": "ru.ffd",
            "ffd_version": "1.2",
            "document_code": document_code,
            "fiscal_document_number": str(self._fiscal_number),
            "fiscal_sign": f"{self._rng.randrange(2**32):010d}",
            **self._fiscal_device,
        }
        return block if operation_type is None else block | {"operation_type": operation_type}

    def _place(self, kind: str) -> dict[str, Any]:
        return {
            "document_id": str(UUID(int=self._rng.getrandbits(128), version=4)),
            "transaction_type": kind,
            "till_id": self.till_id,
            "store_id": self.store_id,
            "business_day": self.business_day,
            "shift_number": self._shift_number,
        }

    def _close(self, now_ms: int) -> dict[str, Any]:
        return {
            "closed_at": time_text(now_ms),
            "time_zone": TIME_ZONE,
            "operator": self._operator,
            "currency": CURRENCY,
        }


def _draw_fiscal_device(rng: Random) -> dict[str, Any]:
    return {
        "fiscal_drive_number": f"99{rng.randrange(10**14):014d}",
        "register_reg_number": f"{rng.randrange(10**16):016d}",
        "register_serial": f"{rng.randrange(10**10):010d}",
        "inn": f"{rng.randrange(10**10):010d}",
        "taxation_system": 1,
    }
