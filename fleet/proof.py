"""Owns the proof at the end of a run: the POS's own books against central's database, and nothing else.

What the tills, the agents and the programs' own counters say is not asked: the ledgers say what was closed, the
database says what is there. Equal means the same documents, byte for byte, and the same money, by till and by type.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote

from central import reports
from fleet.ledger import SUFFIX, Entry, Sums, add_up, fingerprint, read

SHOWN_DIFFERENCES = 20
_DOCUMENTS = "SELECT document_id, transaction_type, coalesce(total_minor, 0), body FROM document WHERE till_id = ?"
_SUMS = (
    "SELECT till_id, transaction_type, count(*), sum(coalesce(total_minor, 0)) FROM document"
    " GROUP BY till_id, transaction_type"
)


@dataclass(slots=True)
class Proof:
    """What was compared, and each difference in a sentence of its own."""

    tills: int = 0
    closed: Sums = field(default_factory=dict)
    stored: Sums = field(default_factory=dict)
    verified: int = 0
    against: str = ""
    """What else it was held against, in a sentence."""
    differences: list[str] = field(default_factory=list)

    @property
    def is_equal(self) -> bool:
        """Say whether nothing differs."""
        return not self.differences

    @property
    def documents(self) -> tuple[int, int]:
        """Return how many documents were closed and how many are stored."""
        return sum(number for number, _ in self.closed.values()), sum(number for number, _ in self.stored.values())

    @property
    def money_minor(self) -> tuple[int, int]:
        """Return the money of what was closed and of what is stored."""
        return sum(minor for _, minor in self.closed.values()), sum(minor for _, minor in self.stored.values())


def prove(ledgers: Path, database: Path) -> Proof:
    """Compare every ledger in the folder with the database, which is opened for reading only."""
    proof = Proof()
    books = {path.name.removesuffix(SUFFIX): list(read(path)) for path in sorted(ledgers.glob(f"*{SUFFIX}"))}
    proof.tills = len(books)
    if not books:
        proof.differences.append(f"there is no ledger in {ledgers}: nothing was closed, so nothing is proved")
    with closing(open_to_read(database)) as connection:
        stored = _stored_sums(connection)
        for till, entries in books.items():
            _compare_sums(proof, till, add_up(entries), stored.get(till, {}))
            _compare_documents(proof, till, entries, connection)
        for till in sorted(stored.keys() - books.keys()):
            proof.differences.append(f"{till}: central has documents of it, and no POS ever closed one there")
    _compare_standing(proof, set(books), database)
    return proof


def open_to_read(database: Path) -> sqlite3.Connection:
    """Open central's database so that nothing can be written to it."""
    return sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True, timeout=10)


def expect_total(proof: Proof, documents: int, money_minor: int, source: str) -> None:
    """Hold what is stored against a figure that neither POS nor till has touched."""
    (_, stored), (_, stored_minor) = proof.documents, proof.money_minor
    proof.against = f"{source} has {documents:,} baskets of {money(money_minor)}"
    if (stored, stored_minor) != (documents, money_minor):
        proof.differences.append(f"{proof.against}, central {stored:,} documents of {money(stored_minor)}")


def _stored_sums(connection: sqlite3.Connection) -> dict[str, Sums]:
    sums: dict[str, Sums] = {}
    for till, kind, number, minor in connection.execute(_SUMS):
        sums.setdefault(till, {})[kind] = (number, minor)
    return sums


def _compare_sums(proof: Proof, till: str, closed: Sums, stored: Sums) -> None:
    for kind in sorted(closed.keys() | stored.keys()):
        here, there = closed.get(kind, (0, 0)), stored.get(kind, (0, 0))
        _add(proof.closed, kind, here)
        _add(proof.stored, kind, there)
        if here != there:
            text = f"{till}, {kind}: closed {here[0]} of {here[1]} in all, central has {there[0]} of {there[1]}"
            proof.differences.append(text)


def _add(sums: Sums, kind: str, more: tuple[int, int]) -> None:
    number, minor = sums.get(kind, (0, 0))
    sums[kind] = (number + more[0], minor + more[1])


def _compare_documents(proof: Proof, till: str, entries: list[Entry], connection: sqlite3.Connection) -> None:
    """Compare one by one: two errors that cancel out in the sums are still two."""
    closed = {entry.document_id: entry for entry in entries}
    if len(closed) < len(entries):
        proof.differences.append(f"{till}: its ledger has {len(entries) - len(closed)} documents twice")
    for document_id, kind, minor, body in connection.execute(_DOCUMENTS, (till,)):
        entry = closed.pop(document_id, None)
        if entry is None:
            proof.differences.append(f"{till}: central has {document_id}, and the POS never closed it")
        elif entry != Entry(document_id, kind, minor, fingerprint(bytes(body))):
            proof.differences.append(f"{till}: {document_id} at central is not what the POS closed")
    proof.differences += [f"{till}: {document_id} was closed and is not at central" for document_id in closed]


def _compare_standing(proof: Proof, tills: set[str], database: Path) -> None:
    """Ask central's own reports whether it, too, holds everything for complete."""
    with reports.reading(str(database)):
        rows, refused, gaps = reports.tills(), reports.quarantine(SHOWN_DIFFERENCES), reports.gaps()
    verified = {row["till_id"] for row in rows if row["verified"]}
    proof.verified = len(tills & verified)
    proof.differences += [f"{till}: central has not verified it" for till in sorted(tills - verified)]
    proof.differences += [
        f"{row['till_id']}: {row['document_id']} is in quarantine: {row['reason']}" for row in refused
    ]
    proof.differences += [
        f"{row['till_id']}: {row['first']} to {row['last']} is a gap: {row['reason']}" for row in gaps
    ]


def tell(proof: Proof) -> list[str]:
    """Return the proof as lines for a person: the sums by type, the verdict, and what differs."""
    lines = [f"{'type':<14} {'closed':>9} {'stored':>9} {'money closed':>16} {'money stored':>16}"]
    for kind in sorted(proof.closed.keys() | proof.stored.keys()):
        (closed, closed_minor), (stored, stored_minor) = proof.closed.get(kind, (0, 0)), proof.stored.get(kind, (0, 0))
        lines.append(f"{kind:<14} {closed:>9,} {stored:>9,} {money(closed_minor):>16} {money(stored_minor):>16}")
    (closed, stored), (closed_minor, stored_minor) = proof.documents, proof.money_minor
    lines.append(f"{'all':<14} {closed:>9,} {stored:>9,} {money(closed_minor):>16} {money(stored_minor):>16}")
    lines.append(_verdict(proof))
    if proof.against:
        lines.append(proof.against)
    lines += [f"  {text}" for text in proof.differences[:SHOWN_DIFFERENCES]]
    if (more := len(proof.differences) - SHOWN_DIFFERENCES) > 0:
        lines.append(f"  and {more} more")
    return lines


def _verdict(proof: Proof) -> str:
    if not proof.is_equal:
        return f"NOT EQUAL: {len(proof.differences)} differences between the POS's ledgers and central's database"
    return (
        f"EQUAL: each document of {proof.tills} tills is at central once, byte for byte; "
        f"{proof.verified} of {proof.tills} verified, no gap, nothing in quarantine"
    )


def tell_where(database: Path, till: str) -> list[str]:
    """Return where to look oneself: two commands that can be pasted as they stand."""
    path = quote(str(database.resolve()))
    query = (
        "SELECT name, sum(extended_minor) / 100.0 AS sold FROM document_line"
        " WHERE transaction_type = 'sale' AND NOT is_voided GROUP BY name ORDER BY sold DESC LIMIT 10"
    )
    return [
        f"database   {database.resolve()}",
        f"look       tillstream central --database {path} documents --till {quote(till)} --most 10",
        f'or         sqlite3 -readonly {path} "{query}"',
    ]


def money(minor: int) -> str:
    """Return minor units as people write money."""
    return f"{'-' if minor < 0 else ''}{abs(minor) // 100:,}.{abs(minor) % 100:02d}"
