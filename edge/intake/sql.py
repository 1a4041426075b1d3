"""The reader of a POS's database: takes over, page by page, each document whose key is over the position."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from . import position
from .database import DatabaseError, Found, Session, connect
from .fields import Row
from .mapping import Mapping as MappingFile
from .mapping import SqlPart, SqlSource
from .plan import Plan, leaves_of, nearest
from .prepare import id_from
from .queries import ABOUT
from .rows import Built, Problem, add_part, begin, finish
from .settle import Anchor, Footing, Settling, anchor_of
from .taking import NUMBERS_WENT_BACK, PASS_DOCUMENTS, IntakeError, NotDurableError, Take

log = logging.getLogger("tillstream.edge")

PART_ROWS_MAX = 10_000
"""More lines than any receipt has; what is over is left out, and central finds that the sums do not agree."""
NAMES_SHOWN = 20
NO_KEY = -1


def _wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class Page:
    """Documents that are not taken yet, and where the next page begins."""

    documents: list[tuple[Anchor, Built]]
    last_key: int
    is_last: bool


@dataclass(slots=True)
class Waiting:
    """What a test of a mapping found."""

    count: int = 0
    is_all: bool = True
    documents: list[Built] = field(default_factory=list)


class SqlReader:
    """Reads one database by one mapping."""

    def __init__(
        self,
        mapping: MappingFile,
        positions: Path,
        about: Mapping[str, str],
        clock: Callable[[], float] = time.monotonic,
        clock_ms: Callable[[], int] = _wall_clock_ms,
    ) -> None:
        assert isinstance(mapping.source, SqlSource)  # noqa: S101 -- whoever makes readers chose by it
        self._mapping, self._source, self._positions = mapping, mapping.source, positions
        self._about = {"time_zone": self._source.time_zone, "currency": self._source.currency, **about}
        self._asked: dict[str, int | str] = {name: about.get(name, "") for name in ABOUT}
        self.name, self.poll_s = mapping.name, self._source.poll_s
        self.problems: Counter[str] = Counter()
        self._clock, self._clock_ms = clock, clock_ms
        start = position.load(positions, self.name, self._source.start_after)
        self._settling = Settling(start, self._source.late_commit_s, clock())
        self._footing = position.load_footing(positions, self.name)
        self._saved = (start, self._footing)
        self._session: Session | None = None
        mapped = {column for leaf in leaves_of(mapping.documents) for column in leaf.field.columns}
        self._columns = tuple(sorted(mapped))
        self._is_probed = False
        self._checked: set[tuple[str, tuple[str, ...]]] = set()

    # -- Reading ---------------------------------------------------------------------------------------------------

    def read(self, take: Take) -> int:
        """Take over everything that is new; see ``Reader.read``."""
        if position.is_asked_to_settle(self._positions, self.name):
            self._settle()
        began_at, taken = self._clock(), 0
        with closing(self._pages()) as pages:
            for page in pages:
                taken += self._take_page(page, take)
                if taken >= PASS_DOCUMENTS:
                    return taken
        passed_over = self._settling.settle(began_at)
        if passed_over:
            log.info("intake_keys_passed_over", extra={"count": passed_over, "also": {"intake": self.name}})
        self._save()
        return taken

    def waiting(self, most: int, count_most: int) -> Waiting:
        """Return what would be taken, at most so many of them built; nothing is taken and no position moves."""
        found = Waiting()
        with closing(self._pages()) as pages:
            for page in pages:
                found.count += len(page.documents)
                found.documents += [built for _, built in page.documents[: most - len(found.documents)]]
                found.is_all = page.is_last
                if found.count >= count_most:
                    break
        return found

    def findings(self) -> dict[str, str]:
        """Tell when the POS's numbers went back: what it closes under used numbers would not be read."""
        if (back := self._footing.went_back) is None:
            return {}
        since = datetime.fromtimestamp(back.since_ms / 1000, UTC).isoformat(timespec="seconds")
        text = f"the POS's numbers went back: {back.key} was read and is gone, or is another document (seen {since})"
        advice = f"give the mapping a new `name`, or, if nothing is missing: tillstream edge intake settle {self.name}"
        return {NUMBERS_WENT_BACK: f"{self._mapping.path}: {text}; {advice}"}

    def went_back_at_ms(self) -> int | None:
        """Return since when the POS's numbers are known to have gone back; a restart does not change it."""
        return self._footing.went_back.since_ms if self._footing.went_back else None

    def close(self) -> None:
        """Let go of the database; the next pass connects anew."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def _take_page(self, page: Page, take: Take) -> int:
        try:
            for anchor, built in page.documents:
                take(built.body, built.make_id)
                self._settling.take(anchor.key, self._clock())
                self._footing = self._footing.on_taken(anchor)
                self._note(anchor.key, built.problems)
        except NotDurableError:
            self._save()
            raise
        self._settling.advance()
        if forced := self._settling.make_room():
            log.warning("intake_keys_forced", extra={"count": forced, "also": {"intake": self.name}})
        self._save()
        return len(page.documents)

    def _save(self) -> None:
        """Write the position, only after what it says is durable, and only if it moved."""
        now = (self._settling.position(), self._footing)
        if now != self._saved:
            try:
                position.save(self._positions, self.name, *now)
            except OSError as problem:
                raise NotDurableError(f"how far {self.name} was read: {problem}") from problem
            self._saved = now

    def _note(self, key: int, problems: tuple[Problem, ...]) -> None:
        for problem in problems:
            self.problems[problem.path] += 1
        if problems:
            first = problems[0]
            also = {"intake": self.name, "key": key, "field": first.path, "error": first.text}
            log.warning("intake_value_kept_as_it_is", extra={"count": len(problems), "also": also})

    # -- Asking the database ---------------------------------------------------------------------------------------

    def _pages(self) -> Generator[Page]:
        """Yield page after page, each of one moment; the transaction is over before the page is given out."""
        try:
            session = self._session = self._session or connect(self._source)
            yield from self._pages_of(session)
        except DatabaseError as problem:
            self.close()
            raise self._mapping.fail("database", problem) from None
        except IntakeError:
            self.close()
            raise
        finally:
            if self._source.database.startswith("sqlite"):
                self.close()  # The POS may put another file in its place.

    def _pages_of(self, session: Session) -> Generator[Page]:
        after, is_last = self._settling.through, False
        while not is_last:
            with session.snapshot():
                self._probe(session)
                self._look_back(session)
                rows = self._keyed(session, after, self._source.limit_documents)
                documents = [self._build(session, key, row) for key, row in rows if not self._settling.is_taken(key)]
            after, is_last = rows[-1][0] if rows else after, len(rows) < self._source.limit_documents
            yield Page(documents, after, is_last)

    def _keyed(self, session: Session, after: int, limit: int) -> list[tuple[int, Row]]:
        """Return the next rows by key, after checking that the query keeps what it must."""
        documents = self._source.documents
        parameters: dict[str, int | str] = {"after": after, "limit": limit, **self._asked}
        found = self._ask(session, "documents", documents.query, parameters, limit, self._mapping.documents)
        if documents.key not in found.columns:
            raise self._no_column("documents.key", documents.key, found.columns)
        keyed = [(self._as_key(row[documents.key]), row) for row in found.rows]
        for (before, _), (key, _) in pairwise([(after, {}), *keyed]):
            if key <= before:
                text = f"gives key {key} after {before}; it must give one row for each document, with keys over :after,"
                raise self._mapping.fail("documents.query", f"{text} ORDER BY {documents.key}")
        return keyed

    def _as_key(self, given: Any) -> int:
        if isinstance(given, int) and not isinstance(given, bool):
            return given
        text = f"`{self._source.documents.key}` must be a whole number, not {given!r}; CAST it in the query"
        raise self._mapping.fail("documents.key", text)

    def _build(self, session: Session, key: int, row: Row) -> tuple[Anchor, Built]:
        draft = begin(self._mapping.documents, row, self._mapping.notation)
        for name, plan in self._mapping.parts.items():
            if draft.takes(name):
                add_part(draft, name, plan, self._part(session, name, key, PART_ROWS_MAX))
        built = finish(draft, self._derived_id(key), self._about)
        return self._anchor(key, row, built), built

    def _derived_id(self, key: int) -> str:
        return id_from(self.name.encode(), str(key).encode())

    def _part(self, session: Session, name: str, key: int, most: int) -> list[Row]:
        part: SqlPart = getattr(self._source, name)
        parameters: dict[str, int | str] = {"key": key, **self._asked}
        return self._ask(session, name, part.query, parameters, most, self._mapping.parts[name]).rows

    def _probe(self, session: Session) -> None:
        """Ask each part's query once, of no document: a wrong one shows at once and not with the first return."""
        if not self._is_probed:
            for name in self._mapping.parts:
                self._part(session, name, NO_KEY, 1)
            self._is_probed = True

    def _ask(
        self, session: Session, where: str, query: str, parameters: dict[str, int | str], most: int, plan: Plan
    ) -> Found:
        try:
            found = session.ask(query, parameters, most)
        except DatabaseError as problem:
            raise self._mapping.fail(f"{where}.query", problem) from None
        if (where, found.columns) not in self._checked:
            self._check_columns(where, plan, found.columns)
            self._checked = {seen for seen in self._checked if seen[0] != where} | {(where, found.columns)}
        return found

    def _check_columns(self, where: str, plan: Plan, columns: tuple[str, ...]) -> None:
        for leaf in leaves_of(plan):
            for column in leaf.field.columns:
                if column not in columns:
                    raise self._no_column(f"{where}.fields: {leaf.path}", column, columns)
                if columns.count(column) > 1:
                    text = f"the query gives two columns `{column}`; name them apart with AS"
                    raise self._mapping.fail(f"{where}.fields: {leaf.path}", text)

    def _no_column(self, where: str, column: str, columns: tuple[str, ...]) -> IntakeError:
        given = ", ".join(columns[:NAMES_SHOWN])
        return self._mapping.fail(
            where, f"no column `{column}` in the query; it gives {given}{nearest(column, columns)}"
        )

    # -- Numbers that went back ------------------------------------------------------------------------------------

    def _look_back(self, session: Session) -> None:
        """Look, in the moment of the page, whether the newest row that was taken is still there.

        If not, the POS's database was put back or begins its numbers anew: what it closes under numbers that were used
        is not read, and a person has to know.
        """
        anchor = self._footing.anchor
        key = anchor.key if anchor else self._settling.newest()
        if self._footing.went_back or (anchor is None and key <= self._source.start_after):
            return
        found = self._anchor_at(session, key, anchor.columns if anchor else None)
        self._footing = self._footing.on_looked(key, found, lambda: self._is_older(session, key), self._clock_ms())
        if self._footing.went_back:
            log.warning("intake_numbers_went_back", extra={"also": {"intake": self.name, "key": key}})

    def _settle(self) -> None:
        """Follow the operator's word: read the table from its beginning, where what was read is known again."""
        if self._footing.went_back:
            self._settling.go_back(self._source.start_after)
            self._footing = Footing()
            self._save()
            log.info("intake_settled", extra={"also": {"intake": self.name, "key": self._settling.through}})
        try:
            position.forget_to_settle(self._positions, self.name)
        except OSError as problem:
            raise NotDurableError(f"that {self.name} was settled: {problem}") from problem

    def _is_older(self, session: Session, key: int) -> bool:
        """Say whether the table holds rows below this key."""
        return any(found < key for found, _ in self._keyed(session, NO_KEY, 1))

    def _anchor_at(self, session: Session, key: int, columns: tuple[str, ...] | None) -> Anchor | None:
        """Return what stands under this key now; its parts are not asked for."""
        for found, row in self._keyed(session, key - 1, 1):
            if found == key:
                head = finish(begin(self._mapping.documents, row, self._mapping.notation), self._derived_id(key), {})
                return self._anchor(key, row, head, columns)
        return None

    def _anchor(self, key: int, row: Row, built: Built, columns: tuple[str, ...] | None = None) -> Anchor:
        if columns is None:
            columns = self._columns if built.document_id == self._derived_id(key) else ()
        return anchor_of(key, built.document_id, row, columns)
