"""Puts the till's parts together and runs them until told to stop."""

from __future__ import annotations

import grp
import logging
import os
import re
import sqlite3
import stat
import time
from collections.abc import Callable
from concurrent.futures import TimeoutError as AnswerTimeoutError
from pathlib import Path
from random import Random, SystemRandom
from string import ascii_letters, digits
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import peewee as pw

from wire import topics
from wire.automation import AutomationError
from wire.broker_url import in_own_order
from wire.carriage import CarriageError
from wire.inbox import Inbox
from wire.link import Link, LinkSettings
from wire.program import ConfigError, Watchdog, notify_systemd, on_stop_signal, read_secret
from wire.tls import tls_of

from . import carriage, salvage
from .agent import Agent, AsideFullError
from .automation import TillAutomation
from .cashier import CashierFile
from .config import EdgeConfig
from .events import Asked, Event, Handed, MacroAsked, ReloadAsked, RingAsked, StatusAsked
from .intake import fifo, http_socket
from .intake.http_socket import Answer, SocketLimits, problem
from .intake.mapping import MappingError
from .intake.prepare import NotADocumentError
from .intake.readers import Readers, mappings_in
from .intake.taking import NotDurableError
from .outbox import Outbox, OutboxBusyError, OutboxFullError, OutboxLimits, OutboxUnsafeError
from .renewal import Renewal
from .scripts_runner import ScriptLimits, ScriptsRunner
from .standing import wall_clock_ms
from .syps import Syps, SypsLimits

log = logging.getLogger("tillstream.edge")

EVENTS_A_TURN = 100
SOCKET_PATH_MAX_BYTES = 107
PENDING_DEFAULT, PENDING_MAX = 100, 10_000
"""How many unsent documents ``GET /pending`` lists."""
SERVED = (
    "POST /documents, POST /ring, GET /status, GET /pending, POST /macros/<code>/run, POST /automation/reload,"
    " GET /export and POST /stored are served"
)
_RUN_MACRO = re.compile(r"/macros/([0-9]{1,9})/run")


def random_name(length: int = 22) -> str:
    """Return a random name; 22 characters hold 130 bits."""
    return "".join(SystemRandom().choices(ascii_letters + digits, k=length))


def make_document_id() -> str:
    """Name a document that came without an id of its own."""
    return str(uuid4())


def open_outbox(config: EdgeConfig) -> Outbox:
    """Open the till's outbox, making its folder first; raises OutboxUnsafeError, or OutboxBusyError."""
    Path(config.state_dir).mkdir(parents=True, exist_ok=True)
    try:
        return Outbox(config.outbox_path, outbox_limits(config), random_name)
    except (sqlite3.DatabaseError, pw.DatabaseError) as problem:
        raise OutboxUnsafeError(f"{config.outbox_path} cannot be used: {problem}; tillstream edge repair") from problem


def outbox_limits(config: EdgeConfig) -> OutboxLimits:
    """Return the bounds of the outbox on disk."""
    return OutboxLimits(config.outbox_limit_bytes, config.ballast_bytes)


def mend_outbox(config: EdgeConfig) -> None:
    """Salvage the outbox if it is damaged, before the agent opens it."""
    Path(config.state_dir).mkdir(parents=True, exist_ok=True)
    try:
        salvage.mend(config.outbox_path, outbox_limits(config), random_name, config.outbox_check_limit_bytes)
    except (sqlite3.DatabaseError, pw.DatabaseError) as problem:
        raise OutboxUnsafeError(f"{config.outbox_path} cannot be looked at: {problem}") from problem


def open_outbox_patiently(config: EdgeConfig, within_s: float = 10.0) -> Outbox:
    """Open the outbox for the agent; `tillstream edge status` may be looking into it at the very moment of a start."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            mend_outbox(config)
            return open_outbox(config)
        except OutboxBusyError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.1)


def make_core(config: EdgeConfig, outbox: Outbox) -> Syps:
    """Return the till's protocol over what the outbox holds."""
    return Syps(
        head=outbox.head(),
        boot_id=random_name(8),
        own_central=config.central_id or outbox.central_id,
        limits=SypsLimits(
            ring_again_s=config.ring_again_s,
            ring_again_max_s=config.ring_again_max_s,
            presence_every_s=config.presence_every_s,
            prune_every_s=config.prune_every_s,
            new_streams_per_hour=config.new_streams_per_hour,
        ),
        rng=SystemRandom(),
    )


def link_settings(config: EdgeConfig, rng: Random) -> LinkSettings:
    """Return where this till connects, as whom, and what it listens to."""
    till, brokers = config.till_id, in_own_order(config.broker_urls, rng)
    return LinkSettings(
        brokers=brokers,
        client_id=till,
        token=read_secret(config.token, config.token_file, "token"),
        subscriptions=(
            topics.UPLOAD_REQUEST.of(till=till),
            topics.SALES_STORED.of(till=till),
            topics.SETTINGS.of(till=till),
            topics.CENTRAL_PRESENCE.of(),
        ),
        # By QoS 1 NATS keeps a durable consumer for each subscription of each till: 60 tills took 16 s to connect to a
        # cluster, and some were refused when a node was lost. What is lost here central says again by itself.
        subscribe_qos=0,
        will_topic=topics.TILL_PRESENCE.of(till=till),
        keepalive_s=config.keepalive_s,
        tls=tls_of(brokers, config.tls_ca_file, config.tls_cert_file, config.tls_key_file),
        reconnect_min_s=config.reconnect_min_s,
        reconnect_max_s=config.reconnect_max_s,
    )


def run(config: EdgeConfig) -> None:
    """Run the agent until SIGTERM or SIGINT; documents are taken whether or not the broker can be reached."""
    outbox = open_outbox_patiently(config)
    inbox: Inbox[Event] = Inbox(config.inbox_messages, config.inbox_bytes)
    rng = SystemRandom()
    link = Link(link_settings(config, rng), lambda number: agent.presence(number, online=False), inbox.put, rng)
    scripts = make_scripts_runner(config, inbox)
    intake = make_intake(config, inbox)
    kept, cashier = TillAutomation(Path(config.state_dir)), CashierFile(config.cashier_path, config.language)
    core = make_core(config, outbox)
    agent = Agent(config, outbox, core, link, wall_clock_ms, kept, scripts.ask, intake, cashier)
    stopping: list[bool] = []

    def stop() -> None:
        stopping.append(True)
        inbox.wake()

    on_stop_signal(stop)
    stop_socket = _open_doors(config, inbox)
    _connect(config, link, inbox)
    notify_systemd("READY=1")
    log.info("started", extra={"till": config.till_id, "stream": outbox.head().stream, "through": outbox.head().newest})
    agent.start(time.monotonic())
    intake.start()
    _turn(agent, inbox, stopping)
    notify_systemd("STOPPING=1")
    stop_socket()
    _stop_intake(intake, agent, inbox)
    _run_last_macro(agent, inbox, scripts)
    agent.stop()
    link.stop()
    outbox.close()
    log.info("stopped", extra={"till": config.till_id})


def _connect(config: EdgeConfig, link: Link, inbox: Inbox[Event]) -> None:
    """Keep connected, and with a certificate that is valid: a renewed one counts from the next connection on."""
    link.start()
    Renewal(config, inbox.put, lambda: link.reconnect("certificate renewed"), SystemRandom()).start()


def make_intake(config: EdgeConfig, inbox: Inbox[Event]) -> Readers:
    """Return the readers of the POS's own records; they hand over to the agent's one thread."""

    def take(given: bytes, make_id: Callable[[], str]) -> None:
        handed = Handed(given, make_id)
        if not inbox.put(handed, len(given) + 64):
            raise NotDurableError("too much waits to be taken in")
        try:
            handed.answer.result(config.intake_timeout_s)
        except (OutboxFullError, AsideFullError, OSError, sqlite3.Error) as problem:  # A timeout is an OSError, too.
            raise NotDurableError(str(problem) or "not durable yet") from problem

    def on_taken(_count: int, was_rung: bool) -> None:
        if was_rung:  # The POS rang when it closed them, which was before they could be read.
            inbox.put(RingAsked(wakes=False), 1)

    folder = Path(config.intake_dir)
    about = {"till_id": config.till_id, "store_id": config.store_id}
    try:
        paths = mappings_in(folder)
    except MappingError as problem:
        raise ConfigError(str(problem)) from problem
    return Readers(paths, config.positions_dir, about, take, on_taken, wall_clock_ms)


def _stop_intake(intake: Readers, agent: Agent, inbox: Inbox[Event]) -> None:
    """End the readers; one that has just handed a document over still gets its answer."""
    for _ in range(50):
        if intake.stop(0.1):
            return
        for event in inbox.take(0.0, EVENTS_A_TURN):
            agent.handle(event, time.monotonic())


def make_scripts_runner(config: EdgeConfig, inbox: Inbox[Event]) -> ScriptsRunner:
    """Return what runs the scripts of macros; how each ended comes back as an event."""
    limits = ScriptLimits(config.script_timeout_s, config.script_output_limit_bytes, config.scripts_waiting_max)
    return ScriptsRunner(config.till_id, config.scripts_dirs, limits, config.fifo_path, inbox.put)


def _run_last_macro(agent: Agent, inbox: Inbox[Event], scripts: ScriptsRunner) -> None:
    """Run the macro of the till's end while there is still a link; its scripts may ring."""
    agent.happen("till_stopping", time.monotonic())
    scripts.stop(agent.config.script_timeout_s)
    for event in inbox.take(0.0, EVENTS_A_TURN):
        agent.handle(event, time.monotonic())


def _turn(agent: Agent, inbox: Inbox[Event], stopping: list[bool]) -> None:
    watchdog = Watchdog(os.environ)
    while not stopping:
        wait_s = max(0.0, agent.next_deadline() - time.monotonic())
        for event in inbox.take(min(wait_s, watchdog.every_s or wait_s), EVENTS_A_TURN):
            agent.handle(event, time.monotonic())
        agent.tick(time.monotonic())
        watchdog.turn(time.monotonic())


def _open_doors(config: EdgeConfig, inbox: Inbox[Event]) -> http_socket.Stop:
    for folder in (config.run_dir, config.spool_dir):
        Path(folder).mkdir(parents=True, exist_ok=True)
    group_id = _group_id(config.pos_group)
    if group_id is not None:
        _open_spool(Path(config.spool_dir), group_id)
    if len(os.fsencode(config.socket_path)) > SOCKET_PATH_MAX_BYTES:
        raise ConfigError(f"run_dir is too deep: {config.socket_path} is over {SOCKET_PATH_MAX_BYTES} bytes (unix(7))")
    fifo.listen(config.fifo_path, lambda urgent: inbox.put(RingAsked(urgent=urgent), 1), group_id)
    limits = SocketLimits(config.intake_connections, config.intake_timeout_s, config.intake_limit_bytes)
    door = Door(inbox, config.intake_timeout_s)
    return http_socket.listen(config.socket_path, door.ask, limits, group_id)


def _open_spool(folder: Path, group_id: int) -> None:
    """Let the POS's hook leave documents in the spool while the agent is down; a confined agent finds it done."""
    found = folder.stat()
    if (found.st_gid, stat.S_IMODE(found.st_mode)) != (group_id, 0o2770):
        os.chown(folder, -1, group_id)
        folder.chmod(0o2770)


def _group_id(name: str) -> int | None:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None


class Door:
    """What the socket's threads may ask of the agent's one thread."""

    def __init__(self, inbox: Inbox[Event], timeout_s: float) -> None:
        self._inbox, self._timeout_s = inbox, timeout_s

    def ask(self, method: str, target: str, body: bytes) -> Answer:
        """Answer one HTTP request; a document's answer comes after its commit."""
        url = urlsplit(target)
        query = parse_qs(url.query)
        if (method, url.path) == ("POST", "/documents"):
            return self._hand_over(body)
        if (method, url.path) == ("POST", "/ring"):
            if self._inbox.put(RingAsked(urgent=query.get("urgent") == ["1"]), 1):
                return Answer(202, {"rung": True})
            return problem(503, "Busy", "too much waits to be taken in; ring again")
        try:
            asked = _asked(method, url.path, query) or carriage.asked_for(method, url.path, query, body)
        except CarriageError as refused:
            return problem(400, "Bad parameter", str(refused))
        return self._answer(asked) if asked else problem(404, "Not found", SERVED)

    def _hand_over(self, body: bytes) -> Answer:
        handed = Handed(body, make_document_id)
        if not self._inbox.put(handed, len(body) + 64):
            return problem(503, "Busy", "too much waits to be taken in; repeat with the same document_id")
        try:
            taken = handed.answer.result(self._timeout_s)
        except NotADocumentError as refused:
            return problem(400, "Not a document", str(refused))
        except AnswerTimeoutError:
            return problem(503, "Busy", "not durable yet; repeat with the same document_id")
        except (OutboxFullError, AsideFullError, OSError, sqlite3.Error) as refused:
            return problem(507, "Not kept", str(refused))
        answer = {"sequence": taken.appended.sequence, "document_id": taken.document_id}
        if taken.is_oversize:
            return Answer(202, {**answer, "detail": "over document_limit_bytes: kept aside, a stub takes its number"})
        return Answer(201 if taken.appended.is_new else 200, answer)

    def _answer(self, asked: Asked) -> Answer:
        self._inbox.put(asked)
        try:
            return Answer(200, asked.answer.result(self._timeout_s))
        except AutomationError as unknown:
            return problem(404, "No such macro", str(unknown))
        except (CarriageError, ConfigError) as refused:
            return problem(409, "Refused", str(refused))
        except AnswerTimeoutError:
            return problem(503, "Busy", "the agent did not answer in time")


def _asked(method: str, path: str, query: dict[str, list[str]]) -> Asked | None:
    match method, path:
        case "GET", "/status":
            return StatusAsked()
        case "GET", "/pending":
            return StatusAsked(min(carriage.number(query, "most") or PENDING_DEFAULT, PENDING_MAX))
        case "POST", "/automation/reload":
            return ReloadAsked()
    macro = _RUN_MACRO.fullmatch(path) if method == "POST" else None
    return MacroAsked(int(macro[1])) if macro else None
