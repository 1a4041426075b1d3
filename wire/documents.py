"""The document schema: what a till closes and numbers. Pure: no clock, no IO.

Names come from ARTS POSLog first, the Russian fiscal data format (FFD) second; docs/protocol.md names the source of
each. Money is integer minor units (``*_minor``) of ``currency``, always positive: direction comes from the type.
Quantities, prices and rates are decimal strings. ``extended_minor`` is stored and never recomputed. Times order and
identify nothing. Unknown fields survive end to end, because the bytes are what is kept.
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from msgspec import Meta, Struct

DOCUMENT_ID_MAX = 64
DOCUMENT_LIMIT_MAX_BYTES = 2**20
"""No till may be told to take larger documents whole: central reads what any till may hold, and brokers carry it."""

TransactionType = Literal[
    "sale", "return", "exchange", "post_void", "cancelled", "correction",
    "paid_in", "paid_out", "loan", "pickup", "deposit",
    "shift_open", "shift_close", "x_report", "no_sale",
]  # fmt: skip

TenderType = Literal[
    "cash", "card", "qr", "gift_card", "voucher", "loyalty_points", "prepayment", "credit", "foreign_cash", "other"
]
TRANSACTION_TYPES, TENDER_TYPES = frozenset(get_args(TransactionType)), frozenset(get_args(TenderType))

RECEIPT_TYPES = frozenset({"sale", "return", "exchange", "post_void", "correction"})
"""Documents with lines and tenders whose sums must agree. A cancelled one has lines but was never paid."""

CASH_TYPES = frozenset({"paid_in", "paid_out", "loan", "pickup", "deposit"})
SHIFT_TYPES = frozenset({"shift_open", "shift_close", "x_report"})

Text = Annotated[str, Meta(max_length=1024)]
Code = Annotated[str, Meta(max_length=64)]
Minor = Annotated[int, Meta(ge=0, le=2**53 - 1)]
SignedMinor = Annotated[int, Meta(ge=-(2**53 - 1), le=2**53 - 1)]
Number = Annotated[int, Meta(ge=0, le=2**53 - 1)]
Decimal = Annotated[str, Meta(max_length=23, description=r"a decimal number, -?[0-9]{1,15}(\.[0-9]{1,6})?")]
"""Whether it really is one is checked by the judge, for all of a document at once: a pattern costs a call each."""

Timestamp = Annotated[
    str,
    Meta(
        pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})$(?!\n)"
    ),
]
Date = Annotated[str, Meta(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$(?!\n)")]
Currency = Annotated[str, Meta(pattern=r"^[A-Z]{3}$(?!\n)")]
DocumentId = Annotated[str, Meta(min_length=1, max_length=DOCUMENT_ID_MAX)]
Flag = Literal["training", "offline"]


class Tax(Struct, gc=False, frozen=True, kw_only=True):
    """A tax sum. Rates are text, not an enumeration: they change by law."""

    tax_id: Code
    rate: Decimal | None = None
    included: bool = True
    taxable_minor: Minor = 0
    amount_minor: Minor


class Mark(Struct, gc=False, frozen=True, kw_only=True):
    """A marking code, base64 of its exact bytes (it holds control characters)."""

    code: Text
    gtin: Code = ""
    serial: Code = ""


class Line(Struct, gc=False, frozen=True, kw_only=True):
    """A line of a receipt (ARTS LineItem). A voided line is kept and left out of all sums."""

    line_number: Number
    kind: Literal["sale", "return", "deposit", "fee", "gift_card"] = "sale"
    voided: bool = False
    item_id: Code = ""
    gtin: Code = ""
    entry_method: Code = ""
    name: Text = ""
    department: Code = ""
    quantity: Decimal
    unit_code: Code = ""
    unit_price: Decimal = "0"
    discount_minor: Minor = 0
    extended_minor: Minor
    taxes: tuple[Tax, ...] = ()
    marks: tuple[Mark, ...] = ()


class Discount(Struct, gc=False, frozen=True, kw_only=True):
    """A price modifier (ARTS RetailPriceModifier)."""

    scope: Literal["line", "basket"] = "line"
    line_number: Number | None = None
    kind: Literal["amount", "percent", "price_override", "rounding"] = "amount"
    rate: Decimal | None = None
    amount_minor: Minor
    promotion_id: Code = ""


class Tender(Struct, gc=False, frozen=True, kw_only=True):
    """A payment. ``amount_minor`` is what was applied; tendered and change are what changed hands."""

    tender_number: Number
    tender_type: TenderType
    amount_minor: Minor
    tendered_minor: Minor | None = None
    change_minor: Minor = 0
    voided: bool = False
    masked_pan: Code = ""
    rrn: Code = ""
    auth_code: Code = ""


class Totals(Struct, gc=False, frozen=True, kw_only=True):
    """A receipt's sums. ``total_minor`` is what is paid; the unvoided lines plus rounding make it."""

    gross_minor: Minor = 0
    discount_minor: Minor = 0
    tax_minor: Minor = 0
    rounding_minor: SignedMinor = 0
    total_minor: Minor


class Operator(Struct, gc=False, frozen=True, kw_only=True):
    """Who was at the till (ARTS Operator, FFD 1021)."""

    operator_id: Code
    name: Text = ""


class Original(Struct, gc=False, frozen=True, kw_only=True):
    """The document that a return, post-void or correction refers to."""

    document_id: Code = ""
    till_id: Code = ""
    business_day: Date | None = None
    receipt_number: Number | None = None
    fiscal_sign: Code = ""


class Cash(Struct, gc=False, frozen=True, kw_only=True):
    """A cash movement (ARTS TenderControlTransaction)."""

    amount_minor: Minor
    tender_type: Code = "cash"
    counterparty: Text = ""


class CountedSum(Struct, gc=False, frozen=True, kw_only=True):
    """How many and how much, of one transaction type, tender or tax."""

    count: Number = 0
    amount_minor: Minor = 0


class Shift(Struct, gc=False, frozen=True, kw_only=True):
    """What a shift adds up to; central reconciles its own sums against the closing one (FFD 5, Z-report)."""

    opened_at: Timestamp | None = None
    first_receipt_number: Number | None = None
    last_receipt_number: Number | None = None
    by_type: dict[Code, CountedSum] = {}
    by_tender: dict[Code, CountedSum] = {}
    by_tax: dict[Code, CountedSum] = {}
    opening_float_minor: Minor = 0
    expected_cash_minor: Minor | None = None
    counted_cash_minor: Minor | None = None


class Fiscal(Struct, gc=False, frozen=True, kw_only=True):
    """A fiscal block; its scheme says which country's. Identifiers are text: real files show them both ways."""

    scheme: Code
    ffd_version: Code = ""
    document_code: Number | None = None
    fiscal_drive_number: Code = ""
    fiscal_document_number: Code = ""
    fiscal_sign: Code = ""
    register_reg_number: Code = ""
    register_serial: Code = ""
    inn: Code = ""
    taxation_system: Number | None = None
    operation_type: Number | None = None


class Document(Struct, gc=False, frozen=True, kw_only=True):
    """Anything the till closes and numbers."""

    document_id: DocumentId
    transaction_type: TransactionType
    till_id: Code | None = None
    store_id: Code = ""
    business_day: Date
    shift_number: Number | None = None
    receipt_number: Number | None = None
    opened_at: Timestamp | None = None
    closed_at: Timestamp
    time_zone: Code = ""
    operator: Operator | None = None
    currency: Currency
    flags: tuple[Flag, ...] = ()
    original: Original | None = None
    reason_code: Code = ""
    note: Text = ""
    lines: tuple[Line, ...] = ()
    discounts: tuple[Discount, ...] = ()
    tenders: tuple[Tender, ...] = ()
    taxes: tuple[Tax, ...] = ()
    totals: Totals | None = None
    cash: Cash | None = None
    shift: Shift | None = None
    fiscal: tuple[Fiscal, ...] = ()


class Raw(Struct, gc=False, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What stands in a stream for something that was no JSON object: its exact bytes, base64."""

    document_id: DocumentId
    raw: bytes


class Oversize(Struct, gc=False, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What stands in a stream for a document over ``document_limit_bytes``; the till keeps the bytes aside."""

    document_id: DocumentId
    oversize_bytes: Number
    blake2b: Annotated[str, Meta(pattern=r"^[0-9a-f]{32}$(?!\n)")]
