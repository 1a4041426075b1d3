"""What tills rang for and central has not seen: kept until it has come, is taken over, or can no longer come. Pure.

Rule 1: a head goes only for a reason: its digest was reached, a new stream names exactly it, or it becomes a gap.
Rule 2: what was settled within ``note_after_s`` never touches the disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from wire.messages import ReceiptClosed

from .batch import Heard, Lost, Mark
from .commands import CollectorLimits
from .till_state import Task, TillState

Passed = tuple[tuple[str, str, str, int], ...]
Key = tuple[str, str]
"""A stream and a boot: between them a till's history only grows."""


def head_of(bell: ReceiptClosed) -> Heard:
    """Return what a doorbell promises; up to ``after`` the till itself takes for stored."""
    return Heard(bell.stream, bell.boot_id, bell.newest, bell.digest, after=bell.stored, agreed=bell.stored_digest)


@dataclass(slots=True)
class Heads:
    """The heads of all tills; each till's own stand in its state. Times in seconds."""

    limits: CollectorLimits
    _changed: set[tuple[str, Key]] = field(default_factory=set)
    _passed: list[tuple[str, str, str, int]] = field(default_factory=list)
    _lost: list[Lost] = field(default_factory=list)
    _doubted: list[tuple[str, Heard]] = field(default_factory=list)

    def take_up(self, state: TillState, head: Heard, now: float) -> None:
        """Take up a head that stands in the database: of an earlier run, or of another process with this number."""
        state.heads.setdefault((head.stream, head.boot_id), (replace(head, heard_at=now), now))

    def hear(self, till: str, state: TillState, head: Heard, mark: Mark, now: float) -> None:
        """Remember what a doorbell promises, unless it is exactly what is held.

        One that is behind the watermark may be of another history: a clone's, or of before its disk went back.
        """
        key = head.stream, head.boot_id
        if not head.newest or (head.newest, head.digest) == (mark.through, mark.digest):
            return  # Nothing is promised, or nothing is missing.
        if key not in state.heads and len(state.heads) >= self.limits.heads_max:
            return  # Bounded: a till that lies about its boots keeps its first heads open, and stays unverified.
        before, since = state.heads.get(key, (None, now))
        if before is not None and before.newest > head.newest:
            return  # An older doorbell that comes late takes nothing back.
        # What a till takes for stored may be what this database has lost since: then nothing is known of what is below.
        agreed = (0, b"") if head.after > mark.through else (head.after, head.agreed or b"")
        if before is not None:
            agreed = max(agreed, (before.after, before.agreed or b""))
        after, written = agreed[0] if agreed[1] else 0, before is not None and before.written
        below = head.newest <= mark.through
        told = replace(head, written=written, after=after, agreed=agreed[1] or None, heard_at=now, below=below)
        state.heads[key] = (told, since)
        self._changed.add((till, key))

    @staticmethod
    def is_late(state: TillState, head: Heard) -> bool:
        """Say whether a doorbell came after the one that took its stream over, and lies within: it is no news.

        What it holds comes in the newer stream; if it still lives in the old one, it answers there. To be asked when
        the doorbell comes: of several that come at once the last may be the one that takes over.
        """
        return head.newest <= state.taken_over.get(head.stream, -1)

    def drop(self, till: str, state: TillState, key: Key) -> None:
        """Forget a head that is settled."""
        head, _ = state.heads.pop(key)
        if head.written:
            self._passed.append((till, head.stream, head.boot_id, head.newest))
        self._changed.discard((till, key))

    def lie_below(self, state: TillState, stream: str, through: int) -> None:
        """Note that the watermark came past these heads without this process comparing their digests."""
        for key, (head, since) in state.heads.items():
            if head.stream == stream and head.newest <= through and not head.below:
                state.heads[key] = replace(head, below=True), since

    def drop_reached(self, till: str, state: TillState) -> None:
        """Drop the heads that uploads have reached; ingest has compared their digests."""
        mark = state.mark
        for key, (head, _) in list(state.heads.items()):
            if mark and head.stream == mark.stream and head.newest <= mark.through and not head.below:
                self.drop(till, state, key)

    def drop_boot(self, till: str, state: TillState) -> None:
        """Drop the head of the boot whose doorbell is exactly the watermark: what it rang for before is in that."""
        bell = state.bell
        if bell and (key := (bell.stream, bell.boot_id)) in state.heads and state.heads[key][0].newest <= bell.newest:
            self.drop(till, state, key)  # A late doorbell of this boot says nothing of what it rang for since.

    def drop_settled(self, till: str, state: TillState, heads: Sequence[Heard], stream: str) -> None:
        """Drop these heads of other streams than this one: the database settled them when it opened it."""
        for head in heads:
            key = head.stream, head.boot_id
            if head.stream != stream and key in state.heads and state.heads[key][0] == head:
                self.drop(till, state, key)

    def end(self, till: str, state: TillState, answered: Task) -> None:
        """Make gaps of what was rung for before a till was asked, and answered that it holds nothing more."""
        bell = state.bell
        ended = {(one.stream, one.newest, one.digest) for one in bell.previous} if bell else set()
        for key, (head, _) in list(state.heads.items()):
            if answered.first_asked_at is None or head.heard_at > answered.first_asked_at:
                continue
            if state.mark and head.stream == state.mark.stream and head.newest <= state.mark.through:
                if head.boot_id != state.boot_id:
                    self._doubted.append((till, head))
            elif (head.stream, head.newest, head.digest) not in ended:
                reason = f"rung for up to {head.newest} by boot {head.boot_id}; asked later, the till held no more"
                self._lost.append((till, head, reason))
            self.drop(till, state, key)

    @property
    def has_news(self) -> bool:
        """Say whether there is anything to write or to settle."""
        return bool(self._changed or self._passed or self._lost or self._doubted)

    def to_write(self, tills: dict[str, TillState], now: float) -> tuple[tuple[str, Heard], ...]:
        """Return the heads that are older than ``note_after_s`` and still open; they count as written."""
        old = now - self.limits.note_after_s
        heads = []
        for till, key in sorted(self._changed):
            head, since = tills[till].heads[key]
            if since <= old:
                heads.append((till, head))
                tills[till].heads[key] = (replace(head, written=True), since)
                self._changed.discard((till, key))
        return tuple(heads)

    def to_settle(self) -> tuple[Passed, tuple[Lost, ...], tuple[tuple[str, Heard], ...]]:
        """Return the written heads that are settled, those that are lost, and those to be looked into; once."""
        settled = tuple(self._passed), tuple(self._lost), tuple(self._doubted)
        self._passed.clear()
        self._lost.clear()
        self._doubted.clear()
        return settled
