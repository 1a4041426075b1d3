"""Whom central asks, when, and what it answers. Pure: no clock, no IO; ``now`` is in seconds.

Rule 1: a doorbell is a hint; the row in the database is the truth, and what is acknowledged is built from it.
Rule 2: one turn is one request; whoever has more goes to the end of its class. Waiting for an answer that did not
come happens outside the slot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf
from random import Random
from typing import Literal

from wire import versions
from wire.messages import Quarantined, Reason, ReceiptClosed, TillPresence

from .batch import Heard, Mark, NewStream, OpenTask, Outcome, Span
from .commands import Ask, CollectorLimits, Command, Confirm, Note, OpenStream
from .counters import Counters
from .debounce import Debounce
from .heads import Heads, head_of
from .speech import Speech
from .till_state import Task, TillState, even_bell
from .turns import BACKLOG, LIVE, REPEAT, URGENT, Alarms, Turns


class Collector:
    """Central's side of the protocol, for the tills of one worker."""

    def __init__(self, central_id: str, worker: int, task_prefix: str, limits: CollectorLimits, rng: Random) -> None:
        self.limits, self._rng = limits, rng
        self.speech = Speech(central_id, worker, limits)
        self.tills: dict[str, TillState] = {}
        self.counters = Counters()
        self._debounce = Debounce(limits.quiet_s, limits.max_wait_s)
        self.turns = Turns(limits.parallel, limits.parallel_backlog)
        self._sweep = Alarms()
        self._task_prefix, self._tasks_made = task_prefix, 0
        self._heads = Heads(limits)
        self._changed_verified: dict[str, str] = {}
        self._changed_tasks: dict[str, Task] = {}
        self._note_at = 0.0
        self._is_linked = True

    # -- What a start brings ---------------------------------------------------------------------------------------

    def on_started(
        self,
        tills: list[tuple[str, Mark | None, bool | None, int, bool]],
        heads: list[tuple[str, Heard]],
        tasks: list[OpenTask],
        now: float,
    ) -> None:
        """Take up what the database knows: watermarks, heads that were never passed, tasks that were never done."""
        for till, _, online, connection, approved in tills:
            state = self._state(till, now)
            state.is_online, state.connection, state.is_approved = online, connection, approved
        self.on_rows(tills, heads, now)
        for task in tasks:
            self.on_task(task, now)

    def on_rows(
        self, tills: list[tuple[str, Mark | None, bool | None, int, bool]], heads: list[tuple[str, Heard]], now: float
    ) -> None:
        """Take up watermarks and heads as the database has them: another process with this number may write there."""
        for till, mark, *_ in tills:
            state = self._state(till, now)
            if mark and (state.mark is None or state.mark.stream == mark.stream):
                state.mark = mark
                self._heads.lie_below(state, mark.stream, mark.through)
        for till, head in heads:
            self._heads.take_up(self._state(till, now), head, now)

    def on_task(self, given: OpenTask, now: float) -> None:
        """Take up a task that stands in the database: left open by an earlier run, or made by a person.

        The same task may come again until it is noted as taken up.
        """
        state = self._state(given.till, now)
        known = [*state.repeats, *([state.task] if state.task else [])]
        if given.task_id in self._changed_tasks or any(task.task_id == given.task_id for task in known):
            return
        task = Task(
            given.task_id, given.till, given.reason, now, attempts=given.attempts, is_written=True, span=given.span
        )
        if given.span:
            self._plan_repeat(state, task)
        elif state.task and state.task.is_open and not state.is_repeating:
            self._close(task, "done")  # What is under way will bring what this one asks for.
            self._changed_tasks[given.task_id] = task
        else:
            self._set_aside(state)
            state.task = task
            self._enqueue(task)

    # -- What tills say --------------------------------------------------------------------------------------------

    def on_receipt_closed(
        self, till: str, bell: ReceiptClosed, now: float, *, is_live: bool, rang_at: float | None = None
    ) -> list[Command]:
        """Note a doorbell and debounce it; an even one that knows less than we do is told.

        ``rang_at`` is when it came, if not now: its till has been quiet since. ``is_live`` says that it rang just now:
        a retained doorbell tells nothing of its link, nor of what it has closed since.
        """
        self.counters.doorbells += 1
        state = self._state(till, now)
        if state.bell and state.bell.boot_id != bell.boot_id:
            state.bad_digests = 0  # What another life of it sent says nothing of the chain that this one holds.
        state.bell, state.is_bell_live = bell, is_live
        news = None if self._heads.is_late(state, head := head_of(bell)) else head
        if bell.previous:
            state.taken_over = {one.stream: one.newest for one in bell.previous}
        if is_live:
            self._is_back(state)
        if (task := state.task) and task.state == "requested" and task.asked_stream != bell.stream:
            self.turns.leave(till)  # Asked about another stream, or about none, a till answers with its doorbell.
            task.state = "waiting"
            self._set_aside(state)
        # A till that was told of more than we remember heard it of the row: another process has moved that.
        if state.mark is None or state.mark.stream != bell.stream or state.mark.through < bell.stored:
            state.mark = None
            return [OpenStream(NewStream(till, bell.stream, bell.previous, news))]
        if news:
            self._heads.hear(till, state, news, state.mark, now)
        return self._weigh(till, state, now, now if rang_at is None else rang_at)

    def on_stream_opened(
        self,
        till: str,
        mark: Mark,
        now: float,
        *,
        is_new: bool,
        head: Heard | None = None,
        settled: Sequence[Heard] = (),
    ) -> list[Command]:
        """Go on with the doorbell that named the stream, now that its row is known; ``head`` is what it promises.

        ``is_new`` says that the row was made for it: these heads of earlier streams were ``settled`` with it.
        """
        state = self._state(till, now)
        if is_new:
            self._heads.drop_settled(till, state, settled, mark.stream)
        self._heads.lie_below(state, mark.stream, mark.through)
        if is_new and head and head.newest and state.bell and state.bell.previous:
            # Its row was made with the stream's.
            self._heads.take_up(state, replace(head, written=True, after=0, agreed=None), now)
        if head:  # Another doorbell may have come meanwhile, a clone's or a late one: that is asked about first.
            self._heads.hear(till, state, head, mark, now)
        if state.bell is None or state.bell.stream != mark.stream:
            return []
        state.mark = mark
        return self._weigh(till, state, now, rang_at=now)

    def on_presence(self, till: str, presence: TillPresence, now: float) -> bool:
        """Note whether a till is there; False for the late will of a connection that has been replaced since.

        What was asked over an earlier connection is lost, because sessions are clean: the till is asked again.
        """
        state = self._state(till, now)
        if not presence.online and presence.connection < state.connection:
            return False
        if presence.online and presence.connection > state.connection >= 0:
            self._ask_anew(till)
        state.connection = presence.connection
        state.boot_id = presence.boot_id
        is_upgraded, state.protocol = state.version is None, presence.protocol
        if presence.online:
            self._is_back(state, was_away=is_upgraded)
            self._go_on_repeating(state)
        else:
            state.is_online = False
        return True

    def on_clock(self, till: str, shown: tuple[int, int], *, is_right: bool) -> None:
        """Note whether a till's clock is about ours; ``shown`` is its connection and its clock."""
        self.tills[till].show_clock(shown, is_right=is_right)

    def _is_back(self, state: TillState, *, was_away: bool = False) -> None:
        """Ask a till now that was not asked because it was away, or spoke no version of ours."""
        was_away, state.is_online = was_away or state.is_online is False, True
        if was_away and (task := state.task) and task.state == "resting" and task.till not in self.turns.resting:
            self._enqueue(task)

    def on_approvals(self, unapproved: set[str]) -> None:
        """Note which tills still wait for a person; one that was approved is asked for what it rang for."""
        for till, state in self.tills.items():
            was_approved, state.is_approved = state.is_approved, till not in unapproved
            if state.is_approved and not was_approved and (task := state.task) and task.state == "resting":
                self._enqueue(task)

    def on_link_down(self) -> None:
        """Ask nobody until the broker is back; whoever was asked and has not answered is asked again then."""
        self._is_linked = False
        for till in self.turns.asked.tills():
            self._ask_anew(till)

    def on_link_up(self) -> None:
        """Go on asking; what the tills' clocks did meanwhile nobody has heard."""
        self._is_linked = True
        for state in self.tills.values():
            state.is_clock_right = False

    def _ask_anew(self, till: str) -> None:
        if (task := self.tills[till].task) and task.state == "requested":
            task.attempts -= 1
            self._enqueue(task)

    def on_outcome(self, outcome: Outcome, now: float) -> list[Command]:
        """Take what became of an upload: the slot is free, and what is committed is acknowledged."""
        state = self._state(outcome.till, now)
        state.is_silent = False
        self._count(outcome)
        compared_from = outcome.after if outcome.kind == "advanced" else outcome.mark.through
        self._heads.lie_below(state, outcome.mark.stream, compared_from)
        task = state.task if state.task and state.task.is_open else None
        answered = task if task and task.state == "requested" and task.task_id == outcome.task else None
        if answered:
            self.counters.upload_s.observe(now - answered.asked_at)
        if outcome.kind == "unknown_stream":
            state.mark = None  # The database no longer knows it: ask for the doorbell, which opens it again.
        elif state.mark is None or state.mark.stream == outcome.mark.stream:
            state.mark = outcome.mark
        if outcome.kind == "repeated":
            self._on_repeated(outcome, state)
            return []
        if outcome.kind == "advanced" and state.mark == outcome.mark:
            return self._on_advanced(outcome, state, task, answered, now)
        return self._on_refused(outcome, state, task, answered, now)

    def heard(self, tills: set[str]) -> dict[str, tuple[Heard, ...]]:
        """Return the heads of these tills that are not passed yet: ingest compares them with what really comes."""
        return {
            till: tuple(head for head, _ in state.heads.values())
            for till in tills
            if (state := self.tills.get(till)) and state.heads
        }

    # -- What time brings ------------------------------------------------------------------------------------------

    def on_tick(self, now: float) -> list[Command]:
        """Do what has come due: queue, give up waiting, ask again, sweep, admit, and note."""
        for till in self._debounce.due(now):
            if (task := self.tills[till].task) and task.state == "waiting":
                self._enqueue(task)
        for till in self.turns.timed_out(now):
            self._on_timeout(till, now)
        for till in self.turns.resting.due(now):
            if (task := self.tills[till].task) and task.state == "resting":
                self._enqueue(task)
        for till in self._sweep.due(now):
            self._sweep_one(till, self.tills[till], now)
        commands = self._admit(now)
        if now >= self._note_at:
            self._note_at = now + self.limits.note_after_s
            commands += self._take_note(now)
        return commands

    def next_deadline(self) -> float:
        """Return when ``on_tick`` is next needed."""
        due = (self._debounce.next_deadline(), self.turns.next_deadline(), self._sweep.next_deadline())
        has_news = self._heads.has_news or self._changed_verified or self._changed_tasks
        return min([self._note_at if has_news else inf, *(at for at in due if at is not None)])

    # -- Deciding --------------------------------------------------------------------------------------------------

    def _state(self, till: str, now: float) -> TillState:
        state = self.tills.get(till)
        if state is None:
            # Spread out: tills that were first heard of together must not be swept together for ever.
            state = self.tills[till] = TillState(
                checked_at=now - self.limits.sweep_s * self._rng.uniform(0, 0.5),
                is_approved=not self.limits.approve_tills,
            )
            self._sweep.set(till, state.checked_at + self.limits.sweep_s)
        return state

    def _weigh(self, till: str, state: TillState, now: float, rang_at: float) -> list[Command]:
        """Decide what a doorbell asks for, once its stream's watermark is known."""
        bell, mark = state.bell, state.mark
        if bell is None or mark is None:
            return []
        if state.is_even:
            return self._on_even(till, state, now, is_told=bell.stored == mark.through)
        self._set_aside(state)
        task = self._task_for_bell(till, state, now)
        task.is_urgent = task.is_urgent or bell.urgent
        if task.state == "resting":  # It rings, so it is there: no need to sit out the rest.
            self.turns.leave(till)
            task.state, task.attempts = "waiting", 0
        if task.state == "waiting":
            self._debounce.ring(till, rang_at, urgent=task.is_urgent)
        return []

    def _task_for_bell(self, till: str, state: TillState, now: float) -> Task:
        if state.task and state.task.is_open:
            self.counters.coalesced += 1
            return state.task
        return self._make_task(till, "doorbell", now)

    def _on_even(self, till: str, state: TillState, now: float, *, is_told: bool) -> list[Command]:
        self._heads.drop_reached(till, state)
        self._heads.drop_boot(till, state)
        self._verify(till, state, now)
        if state.task and state.task.state == "requested" and not state.is_repeating:
            return []  # Its answer is on the way, and is acknowledged then.
        self._finish(till, state, "done")
        return [] if is_told else [self._confirmation(till, state, ())]

    def _on_advanced(
        self, outcome: Outcome, state: TillState, task: Task | None, answered: Task | None, now: float
    ) -> list[Command]:
        till = outcome.till
        state.bad_digests = 0
        state.taken_over.pop(outcome.mark.stream, None)
        state.is_bell_live = True  # The till itself has spoken: what it rang for, it still holds.
        self._heads.drop_reached(till, state)
        if answered and not outcome.documents:
            self._heads.end(till, state, answered)
            if not state.bell or state.bell.newest <= answered.asked_newest:
                state.bell = even_bell(outcome.mark, state.bell)
        self._verify(till, state, now)
        if not state.backlog:
            self._finish(till, state, "done")
            return [self._confirmation(till, state, outcome.quarantined)]
        if task and task.state == "requested" and not answered:
            return []  # A late answer to an earlier request; the one to this request is still to come.
        if state.is_repeating:
            self._set_aside(state)
            task = None
        task = task or self._make_task(till, "doorbell", now)
        task.attempts = 0
        if outcome.mark.through < task.asked_newest:
            self._enqueue(task)  # It did not fit into one upload; the next request acknowledges this one.
            return []
        self.turns.leave(till)  # It rang again while it was answering: that is a doorbell like any other.
        task.state = "waiting"
        self._debounce.ring(till, now, urgent=task.is_urgent)
        return []

    def _on_refused(
        self, outcome: Outcome, state: TillState, task: Task | None, answered: Task | None, now: float
    ) -> list[Command]:
        if answered is None:
            is_asked = task is not None and task.state == "requested"
            return [] if is_asked or outcome.kind != "not_next" else self._tell(outcome.till, state)
        state.bad_digests += outcome.kind == "bad_digest"
        if outcome.kind in ("bad_digest", "bad_repeat") or answered.attempts >= self.limits.attempts_max:
            self._rest(answered, now)
        else:
            self._enqueue(answered)  # Our memory was behind the row; now it is not.
        return []

    def _tell(self, till: str, state: TillState) -> list[Command]:
        return [self._confirmation(till, state, ())] if state.mark else []

    def _confirmation(self, till: str, state: TillState, quarantined: tuple[Quarantined, ...]) -> Confirm:
        return Confirm(till, self.speech.confirmation(till, state, quarantined))

    # -- What is sent once more -------------------------------------------------------------------------------------

    def _plan_repeat(self, state: TillState, task: Task) -> None:
        if len(state.repeats) < self.limits.repeats_max:
            state.repeats.append(task)
            self._changed_tasks[task.task_id] = task
            self._go_on_repeating(state)

    def _go_on_repeating(self, state: TillState) -> None:
        """Take up the next range that is to be repeated, unless something new is under way: that goes first."""
        if state.repeats and not (state.task and state.task.is_open):
            state.task = state.repeats[0]
            self._enqueue(state.task)

    def _set_aside(self, state: TillState) -> None:
        """Let a repetition wait for what is new, asked for or not: its answer counts whenever it comes."""
        if state.is_repeating and state.task:
            self.turns.leave(state.task.till)
            state.task.state, state.task = "waiting", None

    def _on_repeated(self, outcome: Outcome, state: TillState) -> None:
        """Go on behind what was repeated. An answer that brings its range no further is a late one, or a wrong one."""
        task = next((one for one in state.repeats if one.task_id == outcome.task), None)
        came = outcome.after + outcome.documents
        if not (task and task.span and task.span.stream == outcome.mark.stream and came > task.span.after):
            return
        if outcome.after > task.span.after:
            task.note = f"the till retains nothing up to {outcome.after}"
        task.attempts, task.span = 0, replace(task.span, after=min(came, task.span.through))
        self._changed_tasks[task.task_id] = task
        if state.task is task:
            self._set_aside(state)
        if came >= task.span.through or not outcome.documents:
            self._end_repeat(state, task, "failed" if task.note and not outcome.documents else "done")
        self._go_on_repeating(state)

    def _end_repeat(self, state: TillState, task: Task, how: Literal["done", "failed", "expired"]) -> None:
        if state.task is task:
            self._set_aside(state)
        self._close(task, how)
        state.repeats.remove(task)
        self._changed_tasks[task.task_id] = task

    # -- Tasks and turns -------------------------------------------------------------------------------------------

    def _make_task(self, till: str, reason: Reason, now: float) -> Task:
        self._tasks_made += 1
        task = Task(f"{self._task_prefix}.{self._tasks_made}", till, reason, now)
        self.tills[till].task = task
        self._changed_tasks[task.task_id] = task
        return task

    def _enqueue(self, task: Task) -> None:
        task.state = "queued"
        self._change(task)
        state = self.tills[task.till]
        rank = URGENT if task.is_urgent else LIVE if state.backlog <= self.limits.live_documents else BACKLOG
        self.turns.queue(task.till, REPEAT if task.span or state.is_silent else rank)

    def _change(self, task: Task) -> None:
        """Have a change of state written, if the task stands in the database: people look at it there."""
        if task.is_written:
            self._changed_tasks[task.task_id] = task

    def _admit(self, now: float) -> list[Command]:
        commands: list[Command] = []
        while self._is_linked and (till := self.turns.next()):
            state = self.tills[till]
            if (task := state.task) and task.state == "queued":
                commands += self._request(till, state, task, now)
        return commands

    def _request(self, till: str, state: TillState, task: Task, now: float) -> list[Command]:
        if not state.is_approved or state.is_online is False or state.version is None:
            self.counters.unasked += 1
            task.state = "resting"  # Without an end: it rings when it is back.
            self._change(task)
            return []
        mark, bell = state.mark, state.bell
        if task.span and not self._may_repeat(state, task.span, task.attempts):
            self._give_up_repeat(state, task)
            return []
        if task.first_asked_at is None and not task.attempts and task.task_id.startswith(f"{self._task_prefix}."):
            task.first_asked_at = now  # Attempts begin anew after a rest, and an early answer may come late.
        task.state, task.attempts = "requested", task.attempts + 1
        self._change(task)
        task.asked_at = now
        task.asked_stream, task.asked_newest = (mark.stream if mark else None), (bell.newest if bell else 0)
        self.turns.ask(till, now + self.limits.timeout_s)
        self.counters.requests += 1
        return [Ask(till, self.speech.request(state, task, self._reason(state, task)))]

    def _may_repeat(self, state: TillState, span: Span, attempts: int) -> bool:
        is_same = state.mark is not None and state.mark.stream == span.stream
        return is_same and attempts < self.limits.attempts_max and (state.version or 0) >= versions.REPEATS_SINCE

    def _give_up_repeat(self, state: TillState, task: Task) -> None:
        """Numbers mean nothing in another stream, and an old agent repeats nothing; until both are known it waits."""
        if state.mark is None or not state.protocol:
            self._set_aside(state)
            return
        if (state.version or 0) < versions.REPEATS_SINCE:
            spoken = versions.listed(state.protocol)
            task.note = f"the till speaks wire version {spoken}, which repeats nothing: upgrade its agent"
        if task.span and state.mark.stream != task.span.stream:
            task.note = f"the till went on in stream {state.mark.stream}"
        self._end(state, task, "failed")

    def _reason(self, state: TillState, task: Task) -> Reason:
        if task.span:
            return "repeat"
        if state.bad_digests >= self.limits.bad_digests_max:
            state.bad_digests = 0
            return "new_stream"
        return "retry" if task.attempts > 1 else task.reason

    def _on_timeout(self, till: str, now: float) -> None:
        self.counters.unanswered += 1
        self.tills[till].is_silent = True
        if (task := self.tills[till].task) and task.state == "requested":
            self._rest(task, now)

    def _rest(self, task: Task, now: float) -> None:
        """Wait outside the slot, longer each time; give up after ``attempts_max``, and leave the till to the sweep."""
        self.turns.leave(task.till)
        if task.attempts >= self.limits.attempts_max:
            self._end(self.tills[task.till], task, "failed")
            return
        wait_s = min(self.limits.retry_max_s, self.limits.retry_min_s * 2 ** min(task.attempts - 1, 20))
        task.state = "resting"
        self._change(task)
        self.turns.resting.set(task.till, now + wait_s * self._rng.uniform(0.7, 1.3))

    def _finish(self, till: str, state: TillState, how: Literal["done", "failed", "expired"]) -> None:
        """End the task that asks for what is new, and take up what is to be repeated."""
        self._debounce.cancel(till)
        if (task := state.task) and task.is_open and not task.span:
            self.turns.leave(till)
            self._close(task, how)
            if task.is_written:
                self._changed_tasks[task.task_id] = task
            else:
                self._changed_tasks.pop(task.task_id, None)
        self._go_on_repeating(state)

    def _close(self, task: Task, how: Literal["done", "failed", "expired"]) -> None:
        task.state = how
        self.counters.ended[task.reason, how] += 1

    def _end(self, state: TillState, task: Task, how: Literal["failed", "expired"]) -> None:
        if task.span:
            self._end_repeat(state, task, how)
            self._go_on_repeating(state)
        else:
            self._finish(task.till, state, how)

    def _sweep_one(self, till: str, state: TillState, now: float) -> None:
        """Ask a till that was not found even for ``sweep_s``; end a task that nobody could answer for a day."""
        if state.checked_at + self.limits.sweep_s > now:
            self._sweep.set(till, state.checked_at + self.limits.sweep_s)
            return
        self._sweep.set(till, now + self.limits.sweep_s)
        task = state.task
        if task and task.state == "resting" and now - task.created_at >= self.limits.task_expires_s:
            self._end(state, task, "expired")
        if (not (task and task.is_open) or task.span) and state.is_online is not False:
            self._set_aside(state)
            self._enqueue(self._make_task(till, "sweep", now))

    # -- What is proven, and what is written ------------------------------------------------------------------------

    def _verify(self, till: str, state: TillState, now: float) -> None:
        if state.is_bell_live and state.is_verified and state.mark:
            state.checked_at = now
            self._changed_verified[till] = state.mark.stream

    def _take_note(self, now: float) -> list[Command]:
        """Write what is older than a second and still open: what was settled meanwhile never touches the disk."""
        old = now - self.limits.note_after_s
        heads, (passed, lost, doubted) = self._heads.to_write(self.tills, now), self._heads.to_settle()
        tasks = tuple(task for task in self._changed_tasks.values() if task.is_written or task.created_at <= old)
        for task in tasks:
            task.is_written = True
            del self._changed_tasks[task.task_id]
        verified = tuple(self._changed_verified.items())
        self._changed_verified.clear()
        note = Note(heads, passed, lost, doubted, verified, tasks)
        return [note] if heads or passed or lost or doubted or verified or tasks else []

    def _count(self, outcome: Outcome) -> None:
        self.counters.uploads += 1
        if outcome.kind == "repeated":
            self.counters.repeated += outcome.documents
        else:
            self.counters.documents += outcome.documents
        self.counters.quarantined += len(outcome.quarantined)
        self.counters.not_next += outcome.kind == "not_next"
        self.counters.bad_digests += outcome.kind in ("bad_digest", "bad_repeat")
