"""What the POS closed and every outbox ever held, and whether central's rows agree; the books of a simulated run.

Digests make it exact: each names one history, so what a head promises is known to the document.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from wire import chain


class InvariantError(AssertionError):
    """Something was promised that is not so."""


@dataclass
class Lineage:
    """What one outbox file has gone through: copied with a disk image, lost with a disk."""

    stream: str = ""
    pruned: int = 0
    newest: int = 0
    bodies: dict[int, bytes] = field(default_factory=dict)
    digest: bytes = b""
    forgotten: frozenset[bytes] = frozenset()
    """Documents it pruned, in all its streams."""

    def copy(self):
        return replace(self, bodies=dict(self.bodies))


@dataclass
class Ledger:
    """Everything that was closed, and every place in every history where it ever stood."""

    closed: set[bytes] = field(default_factory=set)
    unowed: set[bytes] = field(default_factory=set)
    """What may come to central without a promise: never answered for, or written into an outbox by hand."""
    wrong: set[bytes] = field(default_factory=set)
    """Documents whose totals do not add up: these, and nothing else, are refused for that."""
    ends: dict[tuple[str, str], int] = field(default_factory=dict)
    """The greatest number that a till ever gave out in a stream."""
    nodes: dict[bytes, tuple[bytes, str, str, int, bytes]] = field(default_factory=dict)
    """digest → previous digest, till, stream, number, document."""
    places: dict[bytes, list[tuple[str, str, int]]] = field(default_factory=dict)
    appended_at: dict[bytes, float] = field(default_factory=dict)
    """When a document first stood in an outbox, in true seconds; earlier if its till's clock was behind."""
    confirmed: dict[str, set[bytes]] = field(default_factory=dict)
    """What a database of this name has ever committed, by central_id."""

    def grow(self, till, lineage, body, now):
        self.appended_at.setdefault(body, now)
        digest = chain.follow(lineage.digest, body)
        number = lineage.newest = lineage.newest + 1
        key = till, lineage.stream
        self.ends[key] = max(self.ends.get(key, 0), number)
        self.nodes[digest] = (lineage.digest, till, lineage.stream, number, body)
        self.places.setdefault(body, []).append((till, lineage.stream, number))
        lineage.bodies[number] = body
        lineage.digest = digest

    def documents_of(self, digest):
        """Yield all documents of the history that ends with this digest."""
        while digest in self.nodes:
            digest, _, _, _, body = self.nodes[digest]
            yield body


class OutboxWatch:
    """Follows one outbox from step to step."""

    def __init__(self, ledger, till):
        self.ledger, self.till, self.lineage = ledger, till, Lineage()
        self.believed = None

    def look(self, outbox, backed_up, now, retention_s, clock_ahead_s):
        """Take in what a step did to the outbox; ``backed_up`` is what pruning must be covered by, if anything."""
        self.labelled_at = now + min(0.0, clock_ahead_s)
        line = self.lineage
        if outbox._stream != line.stream:
            self._start(outbox)
        elif outbox._newest != line.newest:
            self._grow(outbox)
        belief = outbox._stored, outbox.central_id, outbox._stream, outbox._newest
        if belief != self.believed:
            self.believed = belief
            self._check_belief(outbox._stored, outbox.central_id)
        if outbox._pruned != line.pruned:
            self._prune(outbox._pruned, outbox.central_id, backed_up, now - retention_s)
        if outbox._digest != line.digest:
            raise InvariantError(f"{self.till}: the outbox's digest is not the chain's")

    def _check_belief(self, stored, central_id):
        """Stored, for a till, is what its central has committed: at some time, for that may have lost it since."""
        known = self.ledger.confirmed.get(central_id, set())
        for number, body in self.lineage.bodies.items():
            if number <= stored and body not in known and body not in self.ledger.unowed:
                raise InvariantError(f"{self.till} believes {number} stored, {central_id} never committed it")

    def edited(self, keeper, place, body):
        """Believe what the file holds now, after somebody edited it: a document changed, or one is gone (None)."""
        line = self.lineage
        start = keeper.execute("SELECT pruned, pruned_digest, stream FROM stream").fetchone()
        rows = keeper.execute("SELECT sequence, digest, body FROM document ORDER BY sequence").fetchall()
        line.bodies = {number: body for number, _, body in rows}
        line.pruned, line.stream = start[0], start[2]
        line.newest, line.digest = rows[-1][:2] if rows else start[:2]
        if body:
            self.ledger.unowed.add(body)
            self.ledger.places.setdefault(body, []).append((self.till, line.stream, place))

    def _start(self, outbox):
        line = self.lineage
        line.stream, line.pruned, line.newest, line.bodies = outbox._stream, 0, 0, {}
        line.digest = chain.first(outbox._stream)
        self._grow(outbox)

    def _grow(self, outbox):
        line = self.lineage
        for (body,) in outbox._connection.execute(
            "SELECT body FROM document WHERE sequence > ? ORDER BY sequence", (line.newest,)
        ):
            self.ledger.grow(self.till, line, body, self.labelled_at)

    def _prune(self, pruned, confirmed_by, backed_up, before):
        line = self.lineage
        gone = [line.bodies.pop(number) for number in sorted(line.bodies) if number <= pruned]
        line.pruned = pruned
        line.forgotten |= set(gone)
        gone = [body for body in gone if body not in self.ledger.unowed]
        if any(self.ledger.appended_at.get(body, before) > before + 1 for body in gone):
            raise InvariantError(f"{self.till} pruned what was too young")
        known = self.ledger.confirmed.get(confirmed_by, set())
        if any(body not in known for body in gone):
            raise InvariantError(f"{self.till} pruned what {confirmed_by} never committed")
        if backed_up is not None and any(body not in backed_up for body in gone):
            raise InvariantError(f"{self.till} pruned what no backup holds")


class DatabaseWatch:
    """Follows central's database from transaction to transaction."""

    def __init__(self, ledger, keeper):
        self.ledger, self._run = ledger, keeper.execute
        self.loses_rows = False
        """Whether rows may vanish from the database, and come back later: numbers are then no proof of order."""
        self.heard: set[bytes] = set()
        self.reset()

    def reset(self, heard=frozenset()):
        """Begin with what the database holds now: a backup was put in its place, with what it had heard."""
        self.heard = set(heard)
        self.bodies: set[bytes] = set()
        self.numbers: dict[tuple[str, str], set[int]] = {}
        self.marks: dict[tuple[str, str], tuple[int, bytes]] = {}
        self.last = {"document": 0, "quarantine": 0, "held_before": 0}
        self._judged = 0
        self.codes: set[str] = set()
        self.central_id = self._run("SELECT coalesce(max(central_id), '') FROM central").fetchone()[0]
        self.look(is_first=True)

    def look(self, *, is_first=False):
        """Check what was committed since the last look: no invention, no double, no hole, in order."""
        if not self.central_id:
            self.central_id = self._run("SELECT coalesce(max(central_id), '') FROM central").fetchone()[0]
        for table in ("document", "quarantine"):
            self._look_at(table, is_first=is_first)
        held = self._run("SELECT rowid, till_id, stream, sequence FROM held_before WHERE rowid > ?",
                         (self.last["held_before"],))  # fmt: skip
        for rowid, till, stream, number in held:
            self.last["held_before"] = rowid
            self.numbers.setdefault((till, stream), set()).add(number)
        self._look_at_marks()
        for body, code in self._run("SELECT body, code FROM quarantine WHERE id > ?", (self._judged,)):
            if code not in ("conflict", "totals_mismatch") or (code == "totals_mismatch") > (body in self.ledger.wrong):
                raise InvariantError(f"central refused {body[:60]!r}: {code}")
            self.codes.add(code)
        self._judged = self.last["quarantine"]
        open_heads = self._run("SELECT digest FROM heard_head").fetchall()
        self.open_heads = len(open_heads)
        self.heard.update(digest for (digest,) in open_heads)

    def _look_at(self, table, *, is_first):
        rows = self._run(
            f"SELECT id, till_id, stream, sequence, body FROM {table} WHERE id > ? ORDER BY id", (self.last[table],)
        )
        before: dict[tuple[str, str], int] = {}
        for number, till, stream, sequence, body in rows:
            self.last[table] = number
            if body not in self.ledger.closed and body not in self.ledger.unowed:
                raise InvariantError(f"central holds {body[:60]!r}, which nobody closed")
            if body in self.bodies:
                raise InvariantError(f"central holds {body[:60]!r} twice")
            if body in self.ledger.wrong and table == "document":
                raise InvariantError(f"central accepted {body[:60]!r}, whose totals are wrong")
            if (
                table == "document"
                and not is_first
                and not self.loses_rows
                and before.get((till, stream), 0) >= sequence
            ):
                raise InvariantError(f"{till} {stream}: {sequence} was stored after {before[till, stream]}")
            before[till, stream] = sequence
            self.bodies.add(body)
            self.numbers.setdefault((till, stream), set()).add(sequence)
            self.ledger.confirmed.setdefault(self.central_id, set()).add(body)

    def _look_at_marks(self):
        for till, stream, through, digest in self._run("SELECT till_id, stream, through, digest FROM watermark"):
            key = till, stream
            before = self.marks.get(key)
            if before == (through, digest):
                continue
            if before and before[0] > through:
                raise InvariantError(f"{till} {stream}: the watermark went back from {before[0]} to {through}")
            self.marks[key] = through, digest
            numbers = self.numbers.get(key, set())
            if not self.loses_rows and (
                missing := [one for one in range((before[0] if before else 0) + 1, through + 1) if one not in numbers]
            ):
                raise InvariantError(f"{till} {stream}: the watermark is {through}, {missing} are not there")
            node = self.ledger.nodes.get(digest)
            if through and (node is None or node[1:4] != (till, stream, through)):
                raise InvariantError(f"{till} {stream}: no outbox ever had this digest at {through}")


def _is_idle(gap, ledger, database):
    """Say whether everything that ever stood in a gap is at central all the same."""
    till, stream, first, last = gap
    held = (body for body, places in ledger.places.items()
            for where in places if where[:2] == (till, stream) and first <= where[2] <= last)  # fmt: skip
    return all(body in database.bodies for body in held)


def judge_end(ledger, database, gaps, machines, *, may_miss):
    """Say what became of each document at the end; raises if one is missing and no gap shows it.

    ``gaps`` are rows of (till, stream, first, last); ``machines`` are the outboxes that are left.
    """
    shown = {}
    for till, stream, first, last in gaps:
        if not 1 <= first <= last <= ledger.ends.get((till, stream), 0):
            raise InvariantError(f"a gap {first}..{last} of {till} {stream}, which never had so many")
        shown.setdefault((till, stream), []).append((first, last))
    retained = {body for machine in machines for body in machine.lineage.bodies.values()}
    forgotten = {body for machine in machines for body in machine.lineage.forgotten}
    known = {body for digest in database.heard for body in ledger.documents_of(digest)}
    idle = [gap for gap in gaps if _is_idle(gap, ledger, database)]
    found = dict.fromkeys(("stored", "shown as gaps", "destroyed before anyone heard"), 0)
    found |= {"gaps": len(gaps), "gaps of what is there": len(idle)}
    for body in ledger.closed:
        if body in database.bodies:
            found["stored"] += 1
            continue
        if body in retained:
            raise InvariantError(f"{body[:60]!r} is in an outbox and not at central")
        if any(a <= number <= b for till, stream, number in ledger.places.get(body, ())
               for a, b in shown.get((till, stream), ())):  # fmt: skip
            found["shown as gaps"] += 1
            continue
        if body in known:
            raise InvariantError(f"{body[:60]!r} was rung for, is lost, and no gap shows it: {ledger.places[body]}")
        if body in forgotten:
            raise InvariantError(f"{body[:60]!r} was pruned, is lost, and no gap shows it: {ledger.places[body]}")
        found["destroyed before anyone heard"] += 1
    if not may_miss and (gaps or found["stored"] != len(ledger.closed)):
        raise InvariantError(f"nothing was destroyed, and yet: {found}, gaps {gaps}")
    return found
