"""The till's shell: one thread takes what happened, asks ``syps`` what to do, and does it with outbox and link."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import msgspec

from wire import automation, codec, topics
from wire.automation import EventName, Step
from wire.carriage import CarriageError
from wire.link import Acknowledged, Connected, Disconnected, Received
from wire.messages import CentralPresence, Sales, SalesStored, UploadRequest, said
from wire.program import ConfigError, is_disk_failure, read_secret

from . import carriage, syps
from .automation import TillAutomation, events_of
from .carriage import ExportAsked, ReplyHanded
from .cashier import CashierFile
from .config import EdgeConfig
from .events import Asked, Event, Handed, MacroAsked, ReloadAsked, RingAsked, StatusAsked, TakenIn
from .intake import folder
from .intake.prepare import NotADocumentError, Prepared, prepare
from .outbox import Appended, Outbox, OutboxFullError
from .renewal import CertificateSeen
from .scripts_runner import ScriptEnded
from .standing import Intake, Standing
from .syps import Command, Sent, Syps

log = logging.getLogger("tillstream.edge")

STATUS_EVERY_S = 1.0
"""A macro that shows the status does so at most this often, however often its event happens."""


CLOCK_JUMP_MAX_S = 3600.0
"""A time of day that runs away from the monotonic clock by more than this has jumped."""


class AsideFullError(Exception):
    """The oversize documents kept aside have reached their limit."""


class Carrier(Protocol):
    """What the agent needs of a link."""

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> int | None:
        """Publish by QoS 1; return the packet id, or None if nothing was sent."""

    def acknowledge(self, received: Received) -> None:
        """Send PUBACK."""


class Agent:
    """Carries out the till's part of the protocol. Used by one thread only."""

    def __init__(
        self,
        config: EdgeConfig,
        outbox: Outbox,
        core: Syps,
        link: Carrier,
        clock_ms: Callable[[], int],
        till_automation: TillAutomation,
        run_script: Callable[[str], object],
        intake: Intake | None = None,
        cashier: CashierFile | None = None,
    ) -> None:
        """``run_script`` lets a script run when its turn comes, and does not wait for it."""
        self.config, self.outbox, self.syps, self._link, self._clock_ms = config, outbox, core, link, clock_ms
        self.automation, self._run_script, self._intake = till_automation, run_script, intake
        self.standing = Standing(config, outbox, core, till_automation, clock_ms, intake, cashier)
        self._own_limits = core.limits
        self._generation = 0
        self._sent: dict[int, Sent] = {}
        self._was_cut = False
        self._started_at, self._clock_jumped_at = 0.0, float("-inf")
        self._clock_ahead_ms: float | None = None
        self._status_shown_at = float("-inf")
        self._spool_at = 0.0
        self._spool_dir = Path(config.spool_dir)
        self._passed_by: dict[str, float] = {}
        """Files in the spool that found no room, and when each is tried again: they must not hold up the rest."""

    def start(self, now: float) -> None:
        """Begin: what is in force is looked at, and the macro of the till's start runs."""
        self._started_at = now
        self._apply_automation(now)
        self.happen("till_started", now)

    # -- What happens ----------------------------------------------------------------------------------------------

    def handle(self, event: Event, now: float) -> None:
        """Take one event; ``now`` is a monotonic clock in seconds."""
        self.standing.on_news()
        match event:
            case Received():
                self._on_received(event, now)
            case Acknowledged():
                self._on_acknowledged(event, now)
            case Handed():
                self._on_handed(event, now)
            case RingAsked(urgent=urgent, wakes=wakes):
                self._on_ring_asked(now, urgent=urgent)
                if wakes:
                    self._wake_intake()
            case ScriptEnded() | CertificateSeen():
                self._on_told(event)
            case StatusAsked() | MacroAsked() | ReloadAsked() | ExportAsked() | ReplyHanded():
                self._answer(event, now)
            case Connected(generation=generation):
                self._on_connected(generation, now)
            case Disconnected():
                self._on_disconnected(event, now)

    def tick(self, now: float) -> None:
        """Do what has come due."""
        if now >= self._spool_at:
            self._spool_at = now + self.config.spool_every_s
            self._empty_spool(now)
        self._run(self.syps.on_tick(now), now)
        if self.standing.look(now):
            self._show_presence()

    def next_deadline(self) -> float:
        """Return when ``tick`` is next needed."""
        due = (self.syps.next_deadline(), self.standing.next_deadline())
        return min([self._spool_at, *(at for at in due if at is not None)])

    def _on_connected(self, generation: int, now: float) -> None:
        self._generation = generation
        self.standing.on_connected(now)
        self._sent.clear()
        self._run(self.syps.on_connected(self.outbox.head(), now), now)
        if self._was_cut:
            self._was_cut = False
            self.happen("link_restored", now)

    def _on_disconnected(self, event: Disconnected, now: float) -> None:
        self._was_cut = True
        self.standing.on_disconnected(event.reason, now, is_refused=event.is_refused)
        log.info("disconnected", extra={"till": self.config.till_id, "also": {"reason": event.reason}})
        self._run(self.syps.on_disconnected(), now)

    def _on_acknowledged(self, acknowledged: Acknowledged, now: float) -> None:
        if acknowledged.generation == self._generation and (sent := self._sent.pop(acknowledged.mid, None)):
            self._run(self.syps.on_acknowledged(sent, now), now)

    def _on_ring_asked(self, now: float, *, urgent: bool) -> None:
        """Ring for everything that waits, the spool included: whoever rings closed its document before."""
        self._empty_spool(now)
        self._run(self.syps.on_ring_asked(now, urgent=urgent), now)

    def _on_received(self, received: Received, now: float) -> None:
        address = topics.parse(received.topic)
        try:
            if address and (address.till == self.config.till_id or address.topic is topics.CENTRAL_PRESENCE):
                self._run(self._decide(address, received.payload, now), now)
        except codec.WireError as problem:
            log.warning("refused", extra={"till": self.config.till_id, "also": {"error": str(problem)}})
        finally:
            self._link.acknowledge(received)

    def _decide(self, address: topics.Address, payload: bytes, now: float) -> list[Command]:
        topic, worker = address.topic, address.worker
        if topic is topics.UPLOAD_REQUEST:
            return self._serve(codec.decode(UploadRequest, payload), now)
        if topic is topics.SALES_STORED:
            stored = codec.decode(SalesStored, payload)
            return self.syps.on_sales_stored(stored, self.outbox.digest_at(stored.through), self.outbox.head(), now)
        if topic is topics.CENTRAL_PRESENCE and payload:
            return self.syps.on_central_presence(worker or 0, codec.decode(CentralPresence, payload))
        if topic is topics.SETTINGS and self.automation.take(payload):
            return self._apply_automation(now)
        return []

    def _serve(self, request: UploadRequest, now: float) -> list[Command]:
        if request.reason in ("operator", "sweep"):  # Somebody looks for what no ring has told of.
            self._wake_intake()
        held = self.outbox.digest_at(request.after)
        return self.syps.on_upload_request(request, held, self.outbox.head(), now)

    # -- Documents come in -----------------------------------------------------------------------------------------

    def _on_handed(self, handed: Handed, now: float) -> None:
        try:
            handed.answer.set_result(self.take_in(handed.given, handed.make_id, now))
        except Exception as problem:
            self.standing.intake_errors["handed_over"] += 1
            handed.answer.set_exception(problem)
            if is_disk_failure(problem):
                raise

    def take_in(self, given: bytes, make_id: Callable[[], str], now: float) -> TakenIn:
        """Make one document durable, then ring for it; returns its number.

        Raises NotADocumentError, OutboxFullError or AsideFullError; nothing was appended then.
        """
        prepared = prepare(given, self.config.document_limit_bytes, make_id)
        if prepared.aside is not None:
            self._keep_aside(prepared)
        appended = self._append(prepared, now)
        if appended.is_new:
            self._log("appended", appended.sequence - 1, appended.sequence, document_id=prepared.document_id)
            self._on_appended(prepared, now)
        return TakenIn(prepared.document_id, appended, prepared.aside is not None)

    def _on_appended(self, prepared: Prepared, now: float) -> None:
        """Ring at once if a macro of this document's events rings; whatever else they do follows."""
        steps = [step for event in events_of(prepared.transaction_type) for step in self.automation.steps_on(event)]
        rings = [step.urgent for step in steps if isinstance(step, automation.Ring)]
        urgent = prepared.is_urgent or any(rings)
        self._run(self.syps.on_appended(self.outbox.head(), now, rings=bool(rings), urgent=urgent), now)
        self._do((step for step in steps if not isinstance(step, automation.Ring)), now)

    def _append(self, prepared: Prepared, now: float) -> Appended:
        def append() -> Appended:
            return self.outbox.append(
                prepared.document_id, prepared.body, self._clock_ms(), card_numbers=prepared.card_numbers
            )

        self.standing.is_outbox_full, was_full = False, self.standing.is_outbox_full
        try:
            return append()
        except OutboxFullError:
            self.standing.is_outbox_full = True
            if not was_full:
                log.warning("outbox_full", extra={"till": self.config.till_id})
            self.outbox.make_room()
            if self.syps.may_prune and self._is_clock_settled(now):
                self._forget()
            appended = append()
        self.standing.is_outbox_full = False
        return appended

    def _keep_aside(self, prepared: Prepared) -> None:
        """Write the bytes under their digest, before the stub that names it."""
        aside = self.config.aside_dir
        aside.mkdir(0o700, parents=True, exist_ok=True)
        given = prepared.aside or b""
        name = prepared.body.rpartition(b'"blake2b":"')[2][:32].decode()
        if (aside / f"{name}.json").exists():
            return
        if sum(file.stat().st_size for file in aside.iterdir()) + len(given) > self.config.aside_limit_bytes:
            raise AsideFullError(f"{aside} would pass aside_limit_bytes = {self.config.aside_limit_bytes}")
        folder.put(aside, name, given)

    def _empty_spool(self, now: float) -> None:
        if not self._spool_dir.is_dir():
            return
        taken = 0
        limit = self.config.intake_limit_bytes
        self._passed_by = {name: until for name, until in self._passed_by.items() if until > now}
        for spooled in folder.waiting(self._spool_dir, self.config.spool_batch_documents, limit, self._passed_by):
            try:
                self.take_in(spooled.read(), spooled.make_id, now)
                spooled.path.unlink()
                taken += 1
            except FileNotFoundError:
                continue  # Somebody tidied up by hand.
            except (ValueError, OSError, OutboxFullError, AsideFullError) as problem:
                self._leave_in_spool(spooled, problem)
                self._passed_by[spooled.path.name] = now + self.config.spool_retry_s
        if taken:
            self._spool_at = now  # More may wait; look again at once, after the other events.
            log.info("spool_taken", extra={"till": self.config.till_id, "count": taken})

    def _leave_in_spool(self, spooled: folder.Spooled, problem: Exception) -> None:
        self.standing.intake_errors["spool"] += 1
        log.error("spool_refused", extra={"till": self.config.till_id, "also": {"error": str(problem)}})
        if isinstance(problem, NotADocumentError):
            with suppress(OSError):
                spooled.path.rename(spooled.path.with_suffix(".empty.tmp"))  # It will never be a document.

    # -- Automation ------------------------------------------------------------------------------------------------

    def happen(self, event: EventName, now: float) -> None:
        """Run the macro that this event is bound to, if it is."""
        self._do(self.automation.steps_on(event), now)

    def _do(self, steps: Iterable[Step], now: float) -> None:
        for step in steps:
            match step:
                case automation.Ring(urgent=urgent):
                    self._on_ring_asked(now, urgent=urgent)
                case automation.RunScript(path=path):
                    self._run_script(path)
                case automation.ShowStatus():
                    self._show_status(now)

    def _on_told(self, told: ScriptEnded | CertificateSeen) -> None:
        """Note what another thread found out: it changes how the till stands and nothing else."""
        if isinstance(told, CertificateSeen):
            self.standing.certificate = told
        else:
            self._on_script_ended(told)

    def _on_script_ended(self, ended: ScriptEnded) -> None:
        self.standing.script_errors.pop(ended.path, None)
        if ended.error:
            self.standing.script_errors[ended.path] = ended.error

    def _wake_intake(self) -> None:
        """Have the POS's own records read: whoever asks means everything that was closed."""
        if self._intake:
            self._intake.wake()

    def _show_status(self, now: float) -> None:
        if now - self._status_shown_at < STATUS_EVERY_S:
            return
        self._status_shown_at = now
        log.info("status", extra={"till": self.config.till_id, "also": self.standing.status()})
        self._show_presence()

    def _answer(self, asked: Asked, now: float) -> None:
        try:
            match asked:
                case StatusAsked(pending=pending):
                    told = self.standing.status(pending)
                case ReloadAsked():
                    self.automation.load()
                    self._run(self._apply_automation(now), now)
                    told = self.automation.told()
                case MacroAsked(code=code):
                    told = self._run_macro(code, now)
                case ExportAsked(after=after, through=through):
                    chunk = carriage.export_chunk(self.outbox, self.syps.boot_id, after, through)
                    told = msgspec.to_builtins(chunk)
                case ReplyHanded(sealed=sealed):
                    told = self._take_reply(sealed, now)
        except (automation.AutomationError, CarriageError, ConfigError) as problem:
            asked.answer.set_exception(problem)
        else:
            asked.answer.set_result(told)

    def _take_reply(self, sealed: bytes, now: float) -> dict[str, Any]:
        """Believe what was carried back by file as if the link had brought it, and keep it at once."""
        till, token = self.config.till_id, read_secret(self.config.token, self.config.token_file, "token")
        stored = carriage.believable(self.outbox, self.syps.own_central, sealed, till, token)
        held = self.outbox.digest_at(stored.through)
        self._run(self.syps.on_sales_stored(stored, held, self.outbox.head(), now), now)
        self.outbox.save()
        return carriage.tell(stored, self.outbox.head())

    def _run_macro(self, code: int, now: float) -> dict[str, Any]:
        steps = automation.steps(self.automation.automation, code)
        log.info("macro_asked", extra={"till": self.config.till_id, "also": {"macro": code}})
        self._do(steps, now)
        self._wake_intake()
        return {"macro": code}

    def _apply_automation(self, now: float) -> list[Command]:
        """Go by what is in force now, and say so; scripts that failed may not belong to it any more."""
        told = self.automation.told()
        level = logging.WARNING if told["settings_error"] else logging.INFO
        log.log(level, "automation_in_force", extra={"till": self.config.till_id, "also": told})
        if self.automation.local_error:
            also = {"error": self.automation.local_error}
            log.error("automation_refused", extra={"till": self.config.till_id, "also": also})
        self.standing.script_errors.clear()
        self.standing.on_news()
        return self.syps.on_limits(self.automation.over(self._own_limits), now)

    # -- Commands --------------------------------------------------------------------------------------------------

    def _run(self, commands: Iterable[Command], now: float) -> None:
        for command in commands:
            match command:
                case syps.Ring(message=message):
                    topic = topics.RECEIPT_CLOSED.of(till=self.config.till_id)
                    self._publish(topic, codec.encode(message), "ring", retain=True)
                    self._log("rung", message.stored, message.newest)
                case syps.SendSales(request=request):
                    self.send_sales(request, now)
                case syps.Serve(request=request):
                    self._run(self._serve(request, now), now)
                case syps.MarkStored(through=through, central_id=central_id, backed_up=backed_up):
                    self._mark_stored(through, central_id, backed_up)
                case syps.StartStream(reason=reason, asked_after=asked_after):
                    self._start_stream(reason, asked_after, now)
                case syps.ShowPresence():
                    self._watch_clock(now)
                    self.standing.on_news()
                    self._show_presence()
                case syps.Prune():
                    self._prune(now)

    def _mark_stored(self, through: int, central_id: str, backed_up: int | None) -> None:
        before = self.outbox.head().stored
        self.outbox.mark_stored(through, central_id, backed_up)
        self.standing.last_ack_ms = self._clock_ms()
        self.syps.head = self.outbox.head()
        if through > before:
            self._log("stored", before, through)

    def _log(self, event: str, after: int, through: int, **also: object) -> None:
        """Say what happened to the documents ``(after, through]`` of the present stream, in the keys that all use."""
        about = {"till": self.config.till_id, "stream": self.outbox.head().stream}
        span = {"after": after, "through": through, "count": through - after}
        log.info(event, extra={**about, **span, **({"also": also} if also else {})})

    def send_sales(self, request: UploadRequest, now: float) -> None:
        """Read what follows ``request.after`` within its limits, pack it and publish it."""
        most = request.limit_documents
        if request.through is not None:
            most = min(most, max(0, request.through - request.after))
        bodies = self.outbox.read_after(request.after, most, request.limit_bytes)
        through = request.after + len(bodies)
        if not bodies and most and request.after < self.syps.head.newest:
            self._run(self.syps.on_hole(request, now), now)
            return
        header = said(
            Sales,
            v=request.v,
            stream=request.stream,
            after=request.after,
            through=through,
            digest=self.outbox.digest_at(through),
            task=request.task,
            before=self.outbox.digest_at(request.after) if request.reason == "repeat" else None,
        )
        topic = topics.SALES.of(till=self.config.till_id, worker=request.worker)
        self._publish(topic, codec.pack_sales(header, bodies), "sales")
        self._log("sales_sent", request.after, through, task=request.task)

    def _publish(self, topic: str, payload: bytes, sent: Sent | None, *, retain: bool = False) -> None:
        mid = self._link.publish(topic, payload, retain=retain)
        if mid is not None and sent:
            self._sent[mid] = sent

    def _start_stream(self, reason: str, asked_after: int, now: float) -> None:
        before = self.outbox.head()
        self.outbox.start_stream(asked_after)
        log.warning(
            "stream_started",
            extra={
                "till": self.config.till_id,
                "stream": before.stream,
                "through": before.newest,
                "also": {"why": reason},
            },
        )
        self._run(self.syps.on_stream_started(self.outbox.head(), now), now)

    def _prune(self, now: float) -> None:
        """Forget what is old, unless the clock has jumped, or may have: what central said of it may be of before."""
        if self._is_clock_settled(now) and now >= self._started_at + self.config.clock_settles_s:
            self._forget()

    def _forget(self) -> None:
        retention_days = self.automation.limits.retention_days or self.config.retention_days
        now_ms = self._clock_ms()
        before_ms = now_ms - int(retention_days * 86_400_000)
        while count := self.outbox.prune(before_ms, now_ms=now_ms):
            log.info("pruned", extra={"till": self.config.till_id, "count": count})
        self._prune_aside(before_ms)

    def _is_clock_settled(self, now: float) -> bool:
        self._watch_clock(now)
        return now >= self._clock_jumped_at + self.config.clock_settles_s

    def _watch_clock(self, now: float) -> None:
        """Notice a jump of the time of day."""
        ahead_ms = self._clock_ms() - now * 1000
        if self._clock_ahead_ms is not None and abs(ahead_ms - self._clock_ahead_ms) > CLOCK_JUMP_MAX_S * 1000:
            self._clock_jumped_at = now
        self._clock_ahead_ms = ahead_ms

    def _prune_aside(self, before_ms: int) -> None:
        """Forget the bytes of oversize documents whose stubs are forgotten."""
        aside = self.config.aside_dir
        for file in aside.iterdir() if aside.is_dir() else ():
            if file.stat().st_mtime * 1000 < before_ms and not self.outbox.mentions(file.stem):
                file.unlink()

    # -- What others are told --------------------------------------------------------------------------------------

    def presence(self, generation: int, *, online: bool) -> bytes:
        """Return the presence message of one connection; it is the link's will, too."""
        return self.standing.presence(generation, online=online)

    def _show_presence(self) -> None:
        self.outbox.save()
        topic = topics.TILL_PRESENCE.of(till=self.config.till_id)
        self._publish(topic, self.presence(self._generation, online=True), None, retain=True)

    def stop(self) -> None:
        """Say goodbye and save; the link may be stopped after it."""
        topic = topics.TILL_PRESENCE.of(till=self.config.till_id)
        self._publish(topic, self.presence(self._generation, online=False), None, retain=True)
        self.outbox.save()
        self.standing.stop()
