"""Editing automation on the till: what people type, with and without a running agent, and the recipe for Yuki."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time

import msgspec
import pytest
from click.testing import CliRunner
from factories import a_sale, a_till, wait_until

from edge.automation import TillAutomation
from edge.intake import fifo, http_socket
from edge.intake.http_socket import SocketLimits
from edge.scripts_runner import ScriptLimits, ScriptsRunner
from edge.service import Door, _run_last_macro
from tillstream import main
from wire import codec
from wire.automation import PER_RECEIPT_NAME, Ring, with_per_receipt_upload
from wire.inbox import Inbox
from wire.messages import Settings, said

LIMITS = SocketLimits(connections=2, timeout_s=5, body_bytes=100_000)


@pytest.fixture
def edge(tmp_path):
    """Return a function that runs `tillstream edge …` on a till whose agent does not run."""
    keys = {"TILL_ID": "till-1", "STATE_DIR": tmp_path, "RUN_DIR": tmp_path, "SPOOL_DIR": tmp_path / "spool"}
    environment = {f"TILLSTREAM_{key}": str(value) for key, value in keys.items()}
    return lambda *arguments: CliRunner().invoke(main, ["edge", *arguments], env=environment)


@pytest.fixture
def agent(tmp_path, monkeypatch):
    """Run an agent in a thread, behind its socket; its one thread alone touches its outbox."""
    monkeypatch.setattr(http_socket, "STOP_WITHIN_S", 0.01)
    inbox, stopping, made = Inbox(), threading.Event(), []

    def turn():
        till = a_till(tmp_path, automation=TillAutomation(tmp_path))
        till.agent.start(0.0)
        made.append(till)
        while not stopping.is_set():
            for event in inbox.take(None):
                till.agent.handle(event, time.monotonic())
        till.outbox.database.close()

    thread = threading.Thread(target=turn)
    thread.start()
    stop = http_socket.listen(tmp_path / "edge.sock", Door(inbox, 5).ask, LIMITS, None)
    assert wait_until(lambda: made)
    yield made[0].agent
    stop()
    stopping.set()
    inbox.wake()
    thread.join(5)


def listed(edge, what):
    return json.loads(edge(what, "list", "--json").output)


# -- Editing -----------------------------------------------------------------------------------------------------------


def test_the_pages_three_steps_by_hand(edge, tmp_path):
    """An action, a macro, an event: the same as `enable`, one after the other."""
    for arguments in (
        ("actions", "add", "3", PER_RECEIPT_NAME, "--parameter", "url=tillstream://ring"),
        ("macros", "add", "3", PER_RECEIPT_NAME, "3"),
        ("events", "set", "document_closed", "3"),
    ):
        told = edge(*arguments)
        assert (told.exit_code, told.output) == (0, "kept; the agent does not run, and goes by it when it starts\n")

    kept = TillAutomation(tmp_path)
    assert kept.steps_on("document_closed") == (Ring(),)
    assert [action["code"] for action in listed(edge, "actions")] == [1, 2, 3]
    assert listed(edge, "macros")[-1] == {"code": 3, "name": PER_RECEIPT_NAME, "actions": [3]}
    assert {"event": "document_closed", "title": "Действия после закрытия документа", "macro": 3} in listed(
        edge, "events"
    )
    assert "macro 3 «Почечковая выгрузка»" in edge("events", "list").output


def test_what_was_made_can_be_changed_and_removed(edge, tmp_path):
    """Unbind, remove the macro, remove the action: in this order, and only in this."""
    edge("enable", "per-receipt-upload")
    assert edge("actions", "set", "3", "--name", "x", "--parameter", "url=tillstream://upload").exit_code == 0
    assert edge("macros", "set", "3", "--name", "y", "--action", "3", "--action", "2").exit_code == 0
    assert TillAutomation(tmp_path).steps_on("document_closed") == (Ring(urgent=True), Ring())
    assert edge("actions", "set", "3", "--command", "COMMAND_UPLOAD_SALES").exit_code == 0
    assert "parameters" not in listed(edge, "actions")[-1]

    assert "macro 3 «y»: action 3 does not exist" in edge("actions", "remove", "3").output
    assert "event document_closed: macro 3 does not exist" in edge("macros", "remove", "3").output
    for arguments in (("events", "remove", "document_closed"), ("macros", "remove", "3"), ("actions", "remove", "3")):
        assert edge(*arguments).exit_code == 0
    assert [len(listed(edge, what)) for what in ("actions", "macros")] == [2, 2]


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("actions", "add", "3", "x", "--parameter", "url"), 2, "'url' is not NAME=VALUE"),
        (("actions", "add", "3", "x"), 1, "COMMAND_OPERATION takes exactly one parameter, url; it has none"),
        (("actions", "add", "3", "x", "--parameter", "url=shell:///a/../b"), 1, "without `.`, `..`"),
        (("actions", "add", "1", "x", "--command", "COMMAND_UPLOAD_SALES"), 1, "action 1: the code is used twice"),
        (("actions", "add", "10000", "x"), 2, "1<=x<=9999"),
        (("actions", "set", "9", "--name", "x"), 1, "action 9 does not exist; there are 1, 2"),
        (("actions", "set", "1", "--name", ""), 1, "actions[0].name"),
        (("macros", "add", "3", "x", "9"), 1, "action 9 does not exist"),
        (("macros", "remove", "9"), 1, "macro 9 does not exist"),
        (("macros", "run", "2"), 7, "the agent does not answer"),
        (("events", "set", "payday", "1"), 2, "payday"),
        (("events", "set", "shift_closed", "9"), 1, "event shift_closed: macro 9 does not exist"),
        (("events", "remove", "shift_closed"), 1, "event shift_closed is bound to no macro"),
        (("enable", "per-receipt-upload", "--url", "http://x"), 1, "known are tillstream://ring"),
    ],
)
def test_a_wrong_edit_changes_nothing_and_says_what_would_be_right(edge, tmp_path, arguments, code, text):
    """Exit code 2 for usage, 1 for what was refused, 7 where the agent would be needed."""
    told = edge(*arguments)

    assert (told.exit_code, text in told.output) == (code, True), told.output
    assert not (tmp_path / "automation.json").exists()


def test_a_file_that_is_broken_is_shown_as_such(edge, tmp_path):
    """The list is what is in force, and says why the file is not."""
    (tmp_path / "automation.json").write_bytes(b"{")

    assert "not used: " in edge("actions", "list").stderr
    assert "mend it or remove it first" in edge("enable", "per-receipt-upload").output


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize(
    ("command", "code", "text"),
    [
        ("status", 1, "outbox.db'; run it as root, or as a member of group pos while the agent runs"),
        ("pending", 1, "outbox.db'; run it as root"),
        ("ring", 7, "ring'; run it as root, or as a member of group pos"),
        ("macros run 2", 7, "Permission denied; run it as root, or as a member of group pos"),
        ("actions list", 1, "settings.json'; run it as root, or as the agent's user"),
        ("events list", 1, "settings.json'; run it as root, or as the agent's user"),
        ("enable per-receipt-upload", 1, "nothing was changed: [Errno 13] Permission denied"),
        ("export --to /tmp/tillstream-never", 1, "outbox.db'; run it as root"),
    ],
)
def test_who_has_no_rights_is_told_who_has(edge, tmp_path, command, code, text):
    """No traceback, no «the agent does not run», and no list of nothing: who may not look does not know."""
    edge("status")  # What is imported when it is needed may not be readable for the other user.
    tmp_path.chmod(0o700)
    os.seteuid(12_345)
    try:
        told = edge(*command.split())
    finally:
        os.seteuid(0)

    assert (told.exit_code, text in told.stderr) == (code, True), (told.output, told.exception)


def test_while_central_owns_the_automation_lists_show_it_and_edits_are_refused(edge, tmp_path):
    """Who owns it, and which revision."""
    automation = msgspec.to_builtins(with_per_receipt_upload(TillAutomation(None).automation)[0])
    TillAutomation(tmp_path).take(codec.encode(said(Settings, revision=7, automation=automation)))

    assert edge("macros", "list").output.startswith("automation: central's, settings revision 7\n")
    refused = edge("enable", "per-receipt-upload")
    assert (refused.exit_code, "central owns this till's automation (settings revision 7)" in refused.output) == (
        1,
        True,
    )


# -- Enable ------------------------------------------------------------------------------------------------------------


def test_enable_does_the_six_steps_and_shows_which_were_new(edge):
    """The second time none is; with another url one is, if it may be replaced."""
    first, second = (edge("enable", "per-receipt-upload", "--lang", "ru").output.splitlines() for _ in range(2))
    assert [line[:4] for line in first[:6]] == [f"+ {number}." for number in range(1, 7)]
    assert [line[:4] for line in second[:6]] == [f"= {number}." for number in range(1, 7)]
    assert first[2] == "+ 3. Добавить параметр действия 3: url = tillstream://ring"

    assert "runs macro 3 already" in edge("enable", "per-receipt-upload", "--url", "tillstream://upload").output
    third = edge("enable", "per-receipt-upload", "--url", "tillstream://upload", "--replace").output.splitlines()
    assert [number for number, line in enumerate(third[:6], 1) if line.startswith("+")] == [3]


# -- With an agent -----------------------------------------------------------------------------------------------------


def test_a_running_agent_goes_by_an_edit_at_once(edge, agent):
    """The command says so, and it is so when it returns."""
    assert agent.automation.steps_on("document_closed") == ()
    told = edge("enable", "per-receipt-upload")

    assert told.output.endswith("kept, and the agent goes by it now\n")
    assert agent.automation.steps_on("document_closed") == (Ring(),)


def test_a_macro_is_run_by_hand_through_the_socket(edge, agent):
    """«Выгрузка текущих продаж»; one that does not exist is a clear error."""
    edge("macros", "add", "4", "Статус")
    assert edge("macros", "run", "2").output == "macro 2 was started\n"
    unknown = edge("macros", "run", "9")

    assert (unknown.exit_code, unknown.output) == (
        1, "tillstream edge: No such macro: macro 9 does not exist; macros are 1, 2, 4\n",
    )  # fmt: skip


def test_the_status_tells_what_of_the_automation_does_not_run(edge, agent, tmp_path):
    """A person who looks sees it without the log."""
    (tmp_path / "automation.json").write_bytes(b'{"events":{"document_closed":9}}')
    connection = http_socket.UnixConnection(tmp_path / "edge.sock", 5)
    connection.request("POST", "/automation/reload")
    assert json.loads(connection.getresponse().read())["source"] == "factory"
    connection.close()

    assert "trouble  event document_closed: macro 9 does not exist" in edge("status").output


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_till_that_stops_runs_its_last_macro_and_hears_it_ring(tmp_path):
    """The script of ``till_stopping`` gets its time, and the ring it sends is still rung."""
    folder = tmp_path / "scripts"
    folder.mkdir(mode=0o755)
    script = folder / "last.sh"
    script.write_text('#!/bin/sh\nprintf r 1<>"$TILLSTREAM_FIFO"\n')
    script.chmod(0o755)
    rung, inbox = [], Inbox()
    fifo.listen(tmp_path / "ring", rung.append, None)
    runner = ScriptsRunner("till-1", (str(folder),), ScriptLimits(), tmp_path / "ring", inbox.put)
    kept = TillAutomation(tmp_path)
    kept.change(lambda was: with_per_receipt_upload(was, f"shell://{script}")[0])
    kept.change(lambda was: msgspec.structs.replace(was, events={"till_stopping": 3}))
    till = a_till(tmp_path, automation=kept)
    till.agent._run_script = runner.ask
    till.take_in(a_sale())
    _run_last_macro(till.agent, inbox, runner)

    assert wait_until(lambda: rung == [False])
    assert till.agent.standing.troubles() == {}
    assert not runner.ask(str(script)), "nothing is started any more"
    till.outbox.database.close()


def test_a_ring_into_a_full_fifo_is_rung_already(edge, tmp_path):
    """An agent that hangs has rings enough to read: one more neither waits nor fails."""
    os.mkfifo(tmp_path / "ring")
    reader = os.open(tmp_path / "ring", os.O_RDWR | os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(reader, b"r" * 4096)

    assert (edge("ring").exit_code, edge("ring").output) == (0, "")
    os.close(reader)


# -- The recipe --------------------------------------------------------------------------------------------------------


def test_the_recipe_prints_the_pages_six_steps_and_needs_no_configuration():
    """In Russian, with the page's literal url, and the one command that puts our script there."""
    told = CliRunner().invoke(main, ["hook", "recipe", "yuki"], env={"TILLSTREAM_TILL_ID": None}).output.splitlines()

    assert len(told) == 9
    assert told[3] == ("  3. Добавить параметр действия 3: url = shell:///linuxcash/cash/sync/scripts/unloadSales.sh")
    assert told[6] == "  6. Назначить событию «Действия после закрытия документа» макрос 3"
    link, option, script, place = told[8].split()
    assert (link, option, place) == ("ln", "-s", "/linuxcash/cash/sync/scripts/unloadSales.sh")
    assert os.access(script, os.X_OK)


def test_the_recipe_takes_another_place_and_another_language():
    """A script is all that the vendor's tool can run: our own urls are refused."""
    told = CliRunner().invoke(main, ["hook", "recipe", "yuki", "--lang", "en", "--url", "shell:///pos/hook.sh"])
    assert "Add a parameter to action 3: url = shell:///pos/hook.sh" in told.output
    assert told.output.endswith(" /pos/hook.sh\n")

    refused = CliRunner().invoke(main, ["hook", "recipe", "yuki", "--url", "tillstream://ring"])
    assert (refused.exit_code, "Yuki runs scripts only" in refused.output) == (2, True)
