"""Planted bugs: each a change to the product that loses, doubles or hides something, and the faults that bring it out.

A simulator that does not see them proves nothing. Every real bug that it found stands here, too, as the code once was.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import accumulate

import peewee as pw
from faults import Faults
from world import DRAIN_MOST_S, World

from central import batch, share, store, subscriber
from central.batch import Batch, Mark, Outcome
from central.collector import Collector
from central.heads import Heads
from central.judge import Refused
from central.speech import Speech
from central.store import Store
from edge.agent import Agent
from edge.outbox import Appended, Outbox
from edge.syps import MarkStored, Syps
from wire import chain, codec, versions
from wire.messages import NEWEST, SalesStored, UploadRequest

CALM = Faults().calm()
FEW = {"loss": 0.1, "duplicate": 0.1, "late": 0.1}
"""Messages that come many times are dear to simulate, and bring none of these bugs out."""
ALONE = {"workers": 1, "worker_changes": 0, "rollouts": 0}
"""Several workers, and two wire versions, make runs dear too."""
LATE = replace(CALM, loss=0.05, late=0.5, late_most_s=45.0, is_quick=True)
LATE_ANSWERS = replace(CALM, duplicate=0.9, late=0.9, late_most_s=60.0, cut=0.05, flappings=6, is_quick=True)


@dataclass(frozen=True)
class Bug:
    """A bug by its patch, and the runs that must see it: a swarm with these faults forced, or a plain storm."""

    plant: Callable[[object], None]
    faults: dict[str, object] = field(default_factory=dict)
    plain: Faults | None = None
    sizes: dict[str, int] = field(default_factory=dict)
    storm_s: float = 20.0
    drains_within_s: float = DRAIN_MOST_S

    def run(self, seed):
        """Run one seed; raises InvariantError if the bug is seen."""
        if self.plain is None:
            return World.swarm(seed, **{**FEW, **self.faults}).run()
        world = World(seed, self.plain, **self.sizes)
        world.drains_within_s = self.drains_within_s
        return world.run(self.storm_s)


def acknowledge_before_commit(patch):
    """Central answers what it has checked, and commits it with the next upload."""
    real, waiting = Store.ingest, []

    def ingest(self, parcels, heard, at_ms):
        if waiting and waiting[0] is self:
            real(self, *waiting.pop())
        waiting[:] = [self, (parcels, heard, at_ms)]
        self._run("SAVEPOINT early")
        try:
            marks, batch_ = self._marks({one.till for one in parcels}), Batch(at_ms)
            return [
                batch_.take(one, marks.get((one.till, one.upload.header.stream)), (), store.judge) for one in parcels
            ]
        finally:
            self._run("ROLLBACK TO early")
            self._run("RELEASE early")

    patch.setattr(Store, "ingest", ingest)


def watermark_is_the_greatest_number(patch):
    """An upload that begins beyond the watermark moves it all the same."""

    def take(self, parcel, mark, heads, judge):
        header, bodies = parcel.upload.header, parcel.upload.bodies
        if mark and header.before is None and header.after > mark.through:
            mark = Mark(header.stream, header.after, header.digest)
            self._judge_all(parcel, judge)
            moved = Mark(header.stream, header.through, header.digest)
            self.marks[parcel.till, header.stream] = moved
            return Outcome(parcel.till, "advanced", moved, header.after, header.task, len(bodies))
        return real(self, parcel, mark, heads, judge)

    real = Batch.take
    patch.setattr(Batch, "take", take)
    # It needs a till that goes by its own memory of what is stored.
    till_trusts_its_memory(patch)


def till_trusts_its_memory(patch):
    """The till sends what follows its own ``stored``, whatever central asks for."""
    real = Agent.send_sales

    def send_sales(self, request, now):
        after = max(request.after, self.outbox.head().stored)
        real(self, UploadRequest(**{**_fields(request), "after": after}), now)

    patch.setattr(Agent, "send_sales", send_sales)


def numbers_without_digests(patch):
    """Neither end compares digests: numbers alone say what is there."""
    real = Syps.on_upload_request

    def on_upload_request(self, request, held, head, now):
        request = UploadRequest(**{**_fields(request), "digest": held})
        return real(self, request, held, head, now)

    def take(self, parcel, mark, heads, judge):
        header, bodies = parcel.upload.header, parcel.upload.bodies
        if mark and header.before is None and header.after == mark.through:
            digests = list(accumulate(bodies, chain.follow, initial=mark.digest))
            quarantined = self._judge_all(parcel, judge)
            moved = Mark(header.stream, header.through, digests[-1])
            if bodies:
                self.marks[parcel.till, header.stream] = moved
            return Outcome(parcel.till, "advanced", moved, header.after, header.task, len(bodies), quarantined)
        return real_take(self, parcel, mark, heads, judge)

    real_take = Batch.take
    patch.setattr(Syps, "on_upload_request", on_upload_request)
    patch.setattr(Batch, "take", take)


def stored_on_puback(patch):
    """The broker's word that it has an upload counts as central's that it is stored."""
    real = Syps.on_acknowledged

    def on_acknowledged(self, sent, now):
        commands = real(self, sent, now)
        if sent == "sales" and self.own_central:
            return [MarkStored(self.head.newest, self.own_central, None), *commands]
        return commands

    patch.setattr(Syps, "on_acknowledged", on_acknowledged)


def doorbell_is_not_retained(patch):
    """A central that was away learns nothing of who rang meanwhile."""
    real = Agent._publish

    def publish(self, topic, payload, sent, *, retain=False):
        return real(self, topic, payload, sent, retain=retain and sent != "ring")

    patch.setattr(Agent, "_publish", publish)


def stale_acknowledgement_counts(patch):
    """A PUBACK of an earlier connection confirms whatever has its packet id in this one."""

    def on_acknowledged(self, acknowledged, now):
        if sent := self._sent.pop(acknowledged.mid, None):
            self._run(self.syps.on_acknowledged(sent, now), now)

    patch.setattr(Agent, "_on_acknowledged", on_acknowledged)


def answer_before_the_fsync(patch):
    """The POS is answered, and its document is committed with the next one."""
    real = Outbox.append

    def append(self, document_id, body, at_ms, *, card_numbers=0):
        before, self.held = getattr(self, "held", None), (document_id, body, at_ms)
        if before:
            real(self, *before, card_numbers=card_numbers)
        return Appended(self._newest + 1, is_new=True)

    patch.setattr(Outbox, "append", append)


def database_error_is_taken_for_success(patch):
    """What a full disk refused is acknowledged as if it were there."""
    real = Store.ingest

    def ingest(self, parcels, heard, at_ms):
        try:
            return real(self, parcels, heard, at_ms)
        except (sqlite3.OperationalError, pw.OperationalError):
            return [_as_if_stored(parcel) for parcel in parcels]

    patch.setattr(Store, "ingest", ingest)


def _as_if_stored(parcel):
    header = parcel.upload.header
    mark = Mark(header.stream, header.through, header.digest)
    return Outcome(parcel.till, "advanced", mark, header.after, header.task, header.through - header.after)


def conflict_overwrites(patch):
    """A second document with an id that was used takes the first one's place."""
    statement = store._DOCUMENTS.each.replace("INSERT", "INSERT OR REPLACE", 1).replace(" ON CONFLICT DO NOTHING", "")
    patch.setattr(store._DOCUMENTS, "each", statement)


def conflict_is_dropped(patch):
    """A second document with an id that was used is taken for the first one."""
    patch.setattr(Store, "_find_conflicts", lambda self, batch_: [])


def quarantine_without_the_bytes_in_its_key(patch):
    """The second refused document under one id is taken for the first one."""
    real = Batch.quarantine_one

    def quarantine_one(self, till, stream, sequence, refused, body):
        said = real(self, till, stream, sequence, refused, body)
        row = list(self.quarantine[-1])
        row[-2] = b""
        self.quarantine[-1] = tuple(row)
        return said

    patch.setattr(Batch, "quarantine_one", quarantine_one)


def a_number_held_before_is_not_noted(patch):
    """Documents that are here under older numbers leave holes under their new ones."""
    patch.setattr(store, "_HELD", "INSERT INTO held_before SELECT ?, ?, ?, ?, ? WHERE 0")


def heads_are_not_kept(patch):
    """What was rung for is forgotten once the till says something else."""
    patch.setattr(Heads, "hear", lambda *_: None)


def gap_begins_at_the_upload(patch):
    """A head that is passed by another digest leaves a gap of only the upload that passed it."""
    real = Batch._pass_heads

    def pass_heads(self, parcel, digests, heads):
        after = parcel.upload.header.after
        later = [replace(head, after=after, agreed=digests[0]) if head.after < after else head for head in heads]
        real(self, parcel, digests, later)

    patch.setattr(Batch, "_pass_heads", pass_heads)


def gap_begins_at_the_watermark(patch):
    """A head that was not taken over leaves a gap behind today's watermark, whosever documents lie below it."""

    def gap_of(lost, digest_at):
        till, head, reason = lost
        mark = digest_at.__self__._marks({till}).get((till, head.stream))
        after = max(head.after, min(mark.through, head.newest - 1) if mark else 0)
        return till, head.stream, after + 1, head.newest, reason

    patch.setattr(store, "gap_of", gap_of)


def a_tills_belief_counts_as_proof(patch):
    """What a till takes for stored counts as its history being held, though central may have gone back since."""
    real = Heads.hear

    def hear(self, till, state, head, mark, now):
        real(self, till, state, replace(head, after=min(head.after, mark.through), agreed=head.digest), mark, now)

    def gap_of(lost, _digest_at):
        till, head, reason = lost
        return till, head.stream, head.after + 1, head.newest, reason

    patch.setattr(Heads, "hear", hear)
    patch.setattr(store, "gap_of", gap_of)


def only_the_last_doorbell_is_heard(patch):
    """Of several doorbells that open streams at once only the last one's promise is kept."""
    real = Collector.on_stream_opened

    def on_stream_opened(self, till, mark, now, *, is_new, head=None, settled=()):
        return real(self, till, mark, now, is_new=is_new, settled=settled)

    patch.setattr(Collector, "on_stream_opened", on_stream_opened)


def heads_below_the_watermark_are_not_kept(patch):
    """A doorbell that is behind the watermark promises nothing."""
    real = Heads.hear

    def hear(self, till, state, head, mark, now):
        if head.newest > mark.through:
            real(self, till, state, head, mark, now)

    patch.setattr(Heads, "hear", hear)


def a_gap_is_wider_than_its_stream(patch):
    """Whoever goes on in a new stream leaves a gap that covers everything."""
    real = Batch.take_over

    def take_over(self, new, heads, digest_at=batch.unknown_digest):
        real(self, new, heads, digest_at)
        self.gaps += [(new.till, one.stream, 1, 10**6, "to be sure") for one in new.previous]

    patch.setattr(Batch, "take_over", take_over)


def everything_is_quarantined(patch):
    """A judge that likes nothing loses nothing."""
    patch.setattr(store, "judge", lambda _till, _body: Refused("", "totals_mismatch", "no"))


def an_old_answer_ends_a_new_promise(patch):
    """An answer to a question of before counts as one to the question of now."""
    real = Collector._request

    def request(self, till, state, task, now):
        task.first_asked_at = None
        return real(self, till, state, task, now)

    patch.setattr(Collector, "_request", request)


def open_head_stays_open(patch):
    """A till that answers that it holds nothing more leaves open what it rang for before."""
    patch.setattr(Heads, "end", lambda *_: None)


def rows_are_not_looked_at_again(patch):
    """What another process with this number wrote is seen at the next start only."""
    patch.setattr(subscriber.Subscriber, "_take_up_rows", _look_never)


def _look_never(self, now):
    self._rows_at = now + 1e9


def pruned_numbers_count_as_held(patch):
    """What a till has forgotten is taken for what central holds under these numbers."""
    patch.setattr(Store, "_digest_at", lambda self, *_: _Everything())


class _Everything:
    """Equals any digest."""

    def __eq__(self, _other):
        return True

    def __hash__(self):
        return 0


def edited_rows_are_sent_as_they_are(patch):
    """A new stream over an outbox that somebody edited owns up to nothing."""
    real = Outbox.start_stream

    def start_stream(self, asked_after):
        pruned = self._pruned, self._pruned, self._pruned_digest
        real(self, asked_after)
        last = "WHERE id = (SELECT max(id) FROM previous)"
        self._connection.execute(f"UPDATE previous SET pruned = ?, agreed = ?, agreed_digest = ? {last}", pruned)
        self._load()

    patch.setattr(Outbox, "start_stream", start_stream)


def forgets_beyond_the_backup(patch):
    """A till forgets what is stored, whether or not a backup holds it."""
    real = Outbox.mark_stored
    patch.setattr(Outbox, "mark_stored", lambda self, through, central_id, _: real(self, through, central_id, None))


def forgets_on_a_strangers_word(patch):
    """Any central's word counts as the own one's."""
    real = Syps._confirm

    def confirm(self, through, central_id, backed_up, now, *, keeps):
        commands = real(self, through, self.own_central or central_id, backed_up, now, keeps=keeps)
        return [replace(one, central_id=self.own_central) for one in commands]

    patch.setattr(Syps, "_confirm", confirm)


def forgets_by_a_wrong_clock(patch):
    """A till forgets by its own clock, whatever that says."""
    real = Syps._confirm

    def confirm(self, through, central_id, backed_up, now, *, keeps):
        return real(self, through, central_id, backed_up, now, keeps=False)

    patch.setattr(Syps, "_confirm", confirm)
    patch.setattr(Agent, "_watch_clock", lambda *_: None)


def stored_without_a_digest(patch):
    """A number is enough to believe that central has what the till has."""
    real = Syps.on_sales_stored

    def on_sales_stored(self, stored, held, head, now):
        said = held or stored.digest
        return real(self, SalesStored(**{**_fields(stored), "digest": said}), said, head, now)

    patch.setattr(Syps, "on_sales_stored", on_sales_stored)


def slot_is_never_freed(patch):
    """A till that does not answer keeps its turn for ever."""
    patch.setattr(Collector, "_on_timeout", lambda *_: None)


def never_rings_again(patch):
    """A doorbell that nobody heard is not rung again, and nobody is swept."""
    patch.setattr(Syps, "_wait_for_request", lambda *_: None)
    patch.setattr(Collector, "_sweep_one", lambda *_: None)


def two_uploads_at_once(patch):
    """A request is answered while the last answer is still on its way."""
    patch.setattr(Syps, "_must_wait", lambda *_: False)


def shares_leave_tills_out(patch):
    """Workers are counted from 0 on one side and from 1 on the other."""
    real = share.worker_of
    patch.setattr(share, "worker_of", lambda till, workers: real(till, workers) - 1)


def requests_name_the_first_worker(patch):
    """All uploads go to one worker, and most are none of its."""
    real = Speech.request

    def request(self, state, task, reason):
        return replace_fields(real(self, state, task, reason), worker=1)

    patch.setattr(Speech, "request", request)


def watermarks_are_remembered(patch):
    """A worker decides by the watermark it moved itself; another one moves it, too."""
    real, remembered = Store._marks, {}

    def marks(self, tills):
        known = remembered.setdefault(id(self), {})
        for key, mark in real(self, tills).items():
            known.setdefault(key, mark)
        return {key: mark for key, mark in known.items() if key[0] in tills}

    def ingest(self, parcels, heard, at_ms):
        outcomes = real_ingest(self, parcels, heard, at_ms)
        known = remembered.setdefault(id(self), {})
        known.update({(one.till, one.mark.stream): one.mark for one in outcomes if one.kind == "advanced"})
        return outcomes

    real_ingest = Store.ingest
    patch.setattr(Store, "_marks", marks)
    patch.setattr(Store, "ingest", ingest)


def everybody_is_spoken_to_in_the_newest_version(patch):
    """Central takes every till for one of today."""
    patch.setattr(versions, "in_version", lambda message, _: replace_fields(message, v=NEWEST))


def answers_are_in_the_tills_own_version(patch):
    """A till answers as it likes, whoever asked."""
    real = codec.pack_sales
    patch.setattr(codec, "pack_sales", lambda header, bodies: real(replace_fields(header, v=NEWEST), bodies))


def replace_fields(message, **fields):
    return type(message)(**{**_fields(message), **fields})


def _fields(message):
    return {name: getattr(message, name) for name in message.__struct_fields__}


ZOO = (
    Bug(acknowledge_before_commit, plain=Faults()),
    Bug(watermark_is_the_greatest_number, {"central_tails_lost": 2, "backs_up": False}),
    Bug(till_trusts_its_memory, {"central_tails_lost": 2, "backs_up": False}),
    Bug(numbers_without_digests, {"images": 2, "clones": 1}),
    Bug(stored_on_puback, plain=Faults()),
    Bug(doorbell_is_not_retained, plain=replace(CALM, central_crashes=3), drains_within_s=20.0),
    Bug(stale_acknowledgement_counts, plain=LATE_ANSWERS, sizes={"documents": 20, "limit_documents": 1}, storm_s=60.0),
    Bug(answer_before_the_fsync, plain=Faults()),
    Bug(database_error_is_taken_for_success, {"central_disks_full": 3}),
    Bug(conflict_overwrites, {"images": 2, "reuses_ids": True}),
    Bug(conflict_is_dropped, {"images": 2, "reuses_ids": True}),
    Bug(quarantine_without_the_bytes_in_its_key, {"images": 2, "reuses_ids": True}),
    Bug(a_number_held_before_is_not_noted, {"images": 2, "clones": 1}),
    Bug(heads_are_not_kept, {"images": 2, "new_disks": 1}),
    Bug(gap_begins_at_the_upload, {"images": 2}),
    Bug(gap_begins_at_the_watermark, {"images": 2, "clones": 1}),
    Bug(
        a_tills_belief_counts_as_proof,
        {
            "clones": 2,
            "central_restores": 4,
            "central_tails_lost": 4,
            "images": 2,
            "new_disks": 2,
            "backs_up": False,
            "is_quick": True,
            **ALONE,
        },
    ),
    Bug(only_the_last_doorbell_is_heard, {"images": 2, "clones": 2, "slow_centrals": 2}),
    Bug(heads_below_the_watermark_are_not_kept, {"images": 2, "clones": 2}),
    Bug(a_gap_is_wider_than_its_stream, {"images": 2}),
    Bug(everything_is_quarantined, plain=Faults()),
    Bug(an_old_answer_ends_a_new_promise, plain=LATE, sizes={"tills": 2, "documents": 16}, storm_s=500.0),
    Bug(open_head_stays_open, {"images": 2}),
    Bug(rows_are_not_looked_at_again, {"images": 2, "second_processes": 2}),
    Bug(pruned_numbers_count_as_held, {"clones": 1, "central_tails_lost": 2, "retains": False, "backs_up": False}),
    Bug(edited_rows_are_sent_as_they_are, {"edits": 3}),
    Bug(forgets_beyond_the_backup, {"backs_up": True, "retains": False, "central_restores": 2}),
    Bug(forgets_on_a_strangers_word, {"central_emptied": 1, "retains": False, "backs_up": False}),
    Bug(forgets_by_a_wrong_clock, {"clock_jumps": 6, "retains": True, "is_quick": True}),
    Bug(stored_without_a_digest, {"images": 2, "clones": 1, "retains": False, "backs_up": False}),
    Bug(slot_is_never_freed, plain=Faults()),
    Bug(never_rings_again, plain=Faults()),
    Bug(two_uploads_at_once, plain=Faults()),
    Bug(shares_leave_tills_out, {"workers": 2}),
    Bug(requests_name_the_first_worker, {"workers": 2, "worker_changes": 0}),
    Bug(watermarks_are_remembered, {"workers": 2, "worker_changes": 2}),
    Bug(everybody_is_spoken_to_in_the_newest_version, {"rollouts": 3, "retains": True, "clock_jumps": 0}),
    Bug(answers_are_in_the_tills_own_version, {"rollouts": 3, "retains": True, "clock_jumps": 0}),
)
