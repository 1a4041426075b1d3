"""Actions, macros, events: what is accepted, where it is kept, and what the till does on it."""

from __future__ import annotations

import fcntl
import os
import re
import stat
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from factories import NOW_MS, TILL, a_document, a_sale, a_till, as_json

from edge.automation import ERROR_MAX, NotEditableError, TillAutomation
from edge.config import EdgeConfig
from edge.events import MacroAsked, ReloadAsked, RingAsked
from edge.scripts_runner import ScriptEnded
from fleet.loop import PER_RECEIPT
from wire import codec, topics
from wire.automation import (
    EVENT_TITLES,
    FACTORY,
    Action,
    Automation,
    AutomationError,
    CommandName,
    EventName,
    Macro,
    Parameter,
    Ring,
    RunScript,
    ShowStatus,
    check,
    decode,
    encode,
    per_receipt_upload,
    step_of,
    steps,
    with_per_receipt_upload,
)
from wire.link import Acknowledged, Connected, Disconnected, Received
from wire.messages import ReceiptClosed, Settings, TillPresence, said

PAGE = Path(__file__).parent.parent / "docs" / "automation.md"
SCRIPT_URL = "shell:///linuxcash/cash/sync/scripts/unloadSales.sh"


def an_action(code=3, url="tillstream://ring", **fields):
    parameters = (Parameter(name="url", value=url),)
    return Action(**{"code": code, "name": "a", "command": "COMMAND_OPERATION", "parameters": parameters, **fields})


def an_automation(*urls, event="document_closed", **fields):
    """Return an automation whose one macro does these things, bound to an event."""
    actions = tuple(an_action(code, url) for code, url in enumerate(urls, 1))
    macro = Macro(code=1, name="m", actions=tuple(action.code for action in actions))
    return Automation(**{"actions": actions, "macros": (macro,), "events": {event: 1}, **fields})


def settings(revision, automation=None, **fields):
    """Return what central publishes."""
    if automation is not None:
        fields["automation"] = msgspec.to_builtins(automation)
    return codec.encode(said(Settings, revision=revision, **fields))


# -- What is accepted --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "step"),
    [
        ("tillstream://ring", Ring()),
        ("tillstream://upload", Ring(urgent=True)),
        ("tillstream://status", ShowStatus()),
        (SCRIPT_URL, RunScript("/linuxcash/cash/sync/scripts/unloadSales.sh")),
    ],
)
def test_each_url_does_one_thing(url, step):
    """Two schemes: our own words, and a script by its absolute path."""
    assert step == step_of(url)


@pytest.mark.parametrize(
    "url",
    [
        "", "ring", "tillstream://", "tillstream://ring?urgent=1", "tillstream://ring/", "TILLSTREAM://ring",
        "file:///a/b.sh", "http://central/a.sh", "shell://", "shell:///", "shell://a/b.sh", "shell:///a/../b.sh",
        "shell:///a/./b.sh", "shell:///a//b.sh", "shell:///a/b.sh/", "shell:///a/b.sh?x=1", "shell:///a/b.sh x",
        "shell:///a/b.sh;id", "shell:///a/$(id)", "shell:///a/b.sh\n", "shell:///а/б.sh", "shell:///..",
    ],
)  # fmt: skip
def test_no_other_url_is_an_action(url):
    """No arguments, no way up, no other scheme: what is refused is named."""
    with pytest.raises(AutomationError, match=re.escape(repr(url))):
        step_of(url)


@pytest.mark.parametrize(
    ("automation", "text"),
    [
        (Automation(actions=(an_action(), an_action())), "action 3: the code is used twice"),
        (Automation(macros=(Macro(code=1, name="m"), Macro(code=1, name="n"))), "macro 1: the code is used twice"),
        (Automation(actions=(an_action(parameters=()),)), "action 3 «a»: COMMAND_OPERATION takes .* url; it has none"),
        (
            Automation(actions=(an_action(parameters=(*an_action().parameters, Parameter(name="x", value="y"))),)),
            "it has url, x",
        ),
        (Automation(actions=(an_action(command="COMMAND_CLOSE_SHIFT"),)), "COMMAND_CLOSE_SHIFT takes no parameters"),
        (Automation(actions=(an_action(url="shell:///a/../b"),)), "action 3 «a»: url"),
        (Automation(macros=(Macro(code=4, name="m", actions=(9,)),)), "macro 4 «m»: action 9 .* actions are none"),
        (an_automation("tillstream://ring", events={"shift_closed": 2}), "event shift_closed: macro 2 .* macros are 1"),
        (Automation(actions=(an_action(code=0),)), r"actions\[0\].code"),
        (Automation(actions=(an_action(name="a\nb"),)), r"actions\[0\].name"),
        (Automation(actions=tuple(an_action(code) for code in range(1, 102))), r"actions"),
        (Automation(macros=(Macro(code=1, name="m", actions=(1,) * 17),)), r"macros\[0\].actions"),
        (Automation(events={"payday": 1}), "payday"),
    ],
)
def test_an_automation_with_one_wrong_line_is_refused_as_a_whole(automation, text):
    """The text names the action, macro or event, and what would be right."""
    with pytest.raises(AutomationError, match=text):
        check(automation)


@pytest.mark.parametrize("given", [b"", b"[]", b'{"macro":[]}', b"\xff", b"[" * 5000, b" " * 70_000])
def test_what_is_no_automation_is_refused(given):
    """Bad JSON, an unknown field, or too much of it."""
    with pytest.raises(AutomationError):
        decode(given)


def test_what_is_written_is_read_again_the_same():
    """JSON that a person can read and edit."""
    assert decode(encode(PER_RECEIPT)) == PER_RECEIPT
    assert "Почечковая выгрузка" in encode(PER_RECEIPT).decode()


def test_a_new_till_has_the_pages_two_macros_and_no_event_bound():
    """«Закрытие смены» rings urgently, «Выгрузка текущих продаж» rings."""
    check(FACTORY)

    assert [(macro.code, macro.name) for macro in FACTORY.macros] == [
        (1, "Закрытие смены"),
        (2, "Выгрузка текущих продаж"),
    ]
    assert (steps(FACTORY, 1), steps(FACTORY, 2), FACTORY.events) == ((Ring(urgent=True),), (Ring(),), {})
    with pytest.raises(AutomationError, match="macro 3 does not exist; macros are 1, 2"):
        steps(FACTORY, 3)


def test_a_macro_does_its_actions_in_order():
    """Also the same action twice."""
    automation = an_automation("tillstream://status", SCRIPT_URL, "tillstream://ring")
    macro = Macro(code=1, name="m", actions=(2, 1, 2, 3))

    script = RunScript("/linuxcash/cash/sync/scripts/unloadSales.sh")
    assert (script, ShowStatus(), script, Ring()) == steps(msgspec.structs.replace(automation, macros=(macro,)), 1)


# -- Per-receipt upload ------------------------------------------------------------------------------------------------


def test_per_receipt_upload_is_the_pages_six_steps_and_doing_them_twice_changes_nothing():
    """Action 3, macro 3, the event; the second time there is nothing to do."""
    after, changes = with_per_receipt_upload(FACTORY, SCRIPT_URL, language="ru")

    assert len(changes) == 6
    assert changes[2] == f"Добавить параметр действия 3: url = {SCRIPT_URL}"
    assert changes[5] == "Назначить событию «Действия после закрытия документа» макрос 3"
    assert ({"document_closed": 3}, "Почечковая выгрузка") == (after.events, after.macros[-1].name)
    assert steps(after, 3) == (RunScript("/linuxcash/cash/sync/scripts/unloadSales.sh"),)
    assert with_per_receipt_upload(after, SCRIPT_URL) == (after, ())


def test_per_receipt_upload_takes_the_next_free_codes_and_leaves_the_rest_alone():
    """What an administrator has made under code 3 is his."""
    own = Automation(actions=(an_action(3, "tillstream://status"), an_action(4, "tillstream://upload")))
    after, _ = with_per_receipt_upload(msgspec.structs.replace(own, macros=(Macro(code=3, name="x", actions=(3,)),)))

    assert ([3, 4, 5], [3, 4], {"document_closed": 4}) == (
        [one.code for one in after.actions], [one.code for one in after.macros], after.events,
    )  # fmt: skip
    assert (steps(after, 3), steps(after, 4)) == ((ShowStatus(),), (Ring(),))


def test_an_event_that_runs_another_macro_is_not_taken_over_in_silence():
    """Only where asked to replace it; the other macro stays, unbound."""
    other = an_automation("tillstream://status")
    with pytest.raises(AutomationError, match="document_closed runs macro 1 already"):
        with_per_receipt_upload(other)
    after, changes = with_per_receipt_upload(other, replace=True)

    assert (after.events, len(after.macros), len(changes)) == ({"document_closed": 3}, 2, 6)


def test_another_url_replaces_that_of_the_pages_action():
    """From the agent's own ring to the script: one step of six is new, and no second action is made."""
    with pytest.raises(AutomationError, match="already"):
        with_per_receipt_upload(PER_RECEIPT, SCRIPT_URL)
    after, told = per_receipt_upload(PER_RECEIPT, SCRIPT_URL, replace=True)

    assert [False, False, True, False, False, False] == [is_new for _, is_new in told]
    assert len(after.actions) == len(PER_RECEIPT.actions)


def test_a_macro_that_does_more_than_ringing_is_good_enough():
    """An event whose macro holds the action among others is bound already."""
    automation = an_automation("tillstream://status", "tillstream://ring")

    assert with_per_receipt_upload(automation) == (automation, ())


def test_the_page_for_administrators_names_every_event_command_url_and_limit():
    """What can be set is found in docs/automation.md."""
    page = PAGE.read_text("utf-8")
    names = [*get_args(EventName), *get_args(CommandName), *EVENT_TITLES.values(), "tillstream://ring", "shell://"]
    names += ["tillstream://upload", "tillstream://status", SCRIPT_URL]
    names += [field.name for field in msgspec.structs.fields(EdgeConfig) if field.name.startswith("script")]

    assert set(EVENT_TITLES) == set(get_args(EventName))
    assert [] == [name for name in names if name not in page]


# -- Where it is kept --------------------------------------------------------------------------------------------------


def bind(event, macro):
    return lambda was: msgspec.structs.replace(was, events={**was.events, event: macro})


def test_a_till_goes_by_central_else_by_its_own_file_else_as_it_came(tmp_path):
    """And each survives a restart."""
    kept = TillAutomation(tmp_path)
    assert (kept.source, kept.automation) == ("factory", FACTORY)
    kept.change(bind("document_closed", 2))
    assert (kept.source, kept.steps_on("document_closed")) == ("till", (Ring(),))

    assert kept.take(settings(7, an_automation("tillstream://upload")))
    for one in (kept, TillAutomation(tmp_path)):
        assert (one.source, one.revision, one.steps_on("document_closed")) == ("central", 7, (Ring(urgent=True),))

    assert kept.take(b"")
    for one in (kept, TillAutomation(tmp_path)):
        assert (one.source, one.revision, one.steps_on("document_closed")) == ("till", 0, (Ring(),))
    assert [file.name for file in tmp_path.iterdir()] == ["automation.json"]


def test_files_are_readable_for_the_agent_whoever_edits(tmp_path):
    """An administrator's umask must not lock the agent out of what he wrote."""
    before = os.umask(0o077)
    try:
        TillAutomation(tmp_path / "new").change(lambda was: was)
    finally:
        os.umask(before)

    assert stat.S_IMODE((tmp_path / "new" / "automation.json").stat().st_mode) == 0o644


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        (settings(8, an_automation("shell:///a/../b")), "revision 8: action 1"),
        (settings(8, Automation(events={"document_closed": 5})), "revision 8: event document_closed: macro 5"),
        (b'{"v":1,"revision":8,"limits":{"ring_again_s":0}}', "revision 8: bad_message: .*ring_again_s"),
        (b'{"v":1,"revision":8,"automation":{"actoins":[]}}', "revision 8: bad_message: .*actoins"),
        (b'{"v":3,"revision":8}', "revision 8: unknown_version"),
        (b'{"v":1,"revision":"' + b"9" * 70_000 + b'"}', "revision 0: too_large"),
        (b"{", "revision 0: bad_json"),
    ],
)
def test_a_broken_revision_is_refused_as_a_whole_and_the_one_before_stays_over_a_restart(tmp_path, payload, error):
    """The reason is told; the last good word is what is on the disk."""
    kept = TillAutomation(tmp_path)
    kept.take(settings(7, an_automation("tillstream://upload"), limits={"retention_days": 9}))

    assert kept.take(payload)
    assert re.match(error, kept.settings_error)
    assert len(kept.settings_error) <= ERROR_MAX
    for one in (kept, TillAutomation(tmp_path)):
        assert (one.revision, one.limits.retention_days) == (7, 9)
        assert one.steps_on("document_closed") == (Ring(urgent=True),)
    assert not kept.take(payload), "heard, and nothing new about it"

    assert kept.take(settings(7, an_automation("tillstream://upload"), limits={"retention_days": 9}))
    assert kept.settings_error == ""


def test_a_first_revision_that_is_broken_leaves_the_till_its_own_automation(tmp_path):
    """Nothing of it is used: not the actions that would have been right, not the limits."""
    kept = TillAutomation(tmp_path, PER_RECEIPT)
    kept.take(b'{"v":1,"revision":1,"limits":{"retention_days":9},"automation":{"events":{"document_closed":5}}}')

    assert (kept.source, kept.revision, kept.limits.retention_days) == ("factory", 0, None)
    assert kept.steps_on("document_closed") == (Ring(),)
    assert list(tmp_path.iterdir()) == []


def test_settings_that_cannot_be_kept_are_not_in_force_and_are_taken_when_they_come_again(tmp_path):
    """Durable first: a till must not run what it would have forgotten after a restart."""
    (tmp_path / "settings.json").mkdir()
    kept = TillAutomation(tmp_path)
    payload = settings(7, PER_RECEIPT)

    assert kept.take(payload)
    assert (kept.revision, "cannot be kept" in kept.settings_error) == (0, True)
    (tmp_path / "settings.json").rmdir()
    assert kept.take(payload)
    assert (kept.revision, kept.settings_error) == (7, "")
    assert not kept.take(payload)


def test_settings_that_were_spoilt_on_the_disk_are_told_and_come_again(tmp_path):
    """The retained message repairs the file."""
    TillAutomation(tmp_path).take(settings(7, PER_RECEIPT))
    (tmp_path / "settings.json").write_bytes(b'{"v":1,"rev')
    kept = TillAutomation(tmp_path)

    assert (kept.source, "settings.json: bad_json" in kept.settings_error) == ("factory", True)
    assert kept.take(settings(7, PER_RECEIPT))
    assert (TillAutomation(tmp_path).revision, kept.settings_error) == (7, "")


def test_while_central_owns_the_automation_the_till_is_not_edited(tmp_path):
    """The refusal says who owns it and which revision; with limits alone, the automation stays the till's."""
    kept = TillAutomation(tmp_path)
    kept.take(settings(7, FACTORY))
    with pytest.raises(NotEditableError, match=r"central owns .* \(settings revision 7\)"):
        TillAutomation(tmp_path).change(bind("document_closed", 2))
    assert not (tmp_path / "automation.json").exists()

    kept.take(settings(8, limits={"retention_days": 9}))
    TillAutomation(tmp_path).change(bind("document_closed", 2))
    kept.load()
    assert (kept.source, kept.revision, kept.steps_on("document_closed")) == ("till", 8, (Ring(),))


def test_an_edit_that_is_wrong_changes_nothing(tmp_path):
    """It is checked as a whole before it is written."""
    kept = TillAutomation(tmp_path)
    kept.change(bind("document_closed", 2))
    before = (tmp_path / "automation.json").read_bytes()
    with pytest.raises(AutomationError, match="macro 9 does not exist"):
        kept.change(bind("shift_closed", 9))

    assert before == (tmp_path / "automation.json").read_bytes()


def test_two_edits_at_once_do_not_lose_one(tmp_path):
    """The second is told to come again."""
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(NotEditableError, match="another edit"):
            TillAutomation(tmp_path).change(bind("document_closed", 2))
    finally:
        os.close(descriptor)
    TillAutomation(tmp_path).change(bind("document_closed", 2))


def test_a_link_in_the_place_of_the_draft_is_not_followed(tmp_path):
    """Root may edit in a folder that is the agent's: what lies there must not choose which file root overwrites."""
    victim = tmp_path / "victim"
    victim.write_text("whole")
    (tmp_path / "automation.json.part").symlink_to(victim)
    TillAutomation(tmp_path).change(lambda was: was)

    assert victim.read_text() == "whole"


@pytest.mark.parametrize("content", [b"{", b'{"events":{"document_closed":9}}', b" " * 70_000])
def test_a_file_that_cannot_be_used_is_told_and_the_till_does_what_a_new_one_does(tmp_path, content):
    """And it is not overwritten by the next edit: somebody meant something by it."""
    (tmp_path / "automation.json").write_bytes(content)
    kept = TillAutomation(tmp_path)

    assert (kept.source, kept.automation, bool(kept.local_error)) == ("factory", FACTORY, True)
    with pytest.raises(NotEditableError, match="mend it or remove it"):
        kept.change(bind("document_closed", 2))


# -- What the till does ------------------------------------------------------------------------------------------------


@pytest.fixture
def make(tmp_path):
    """Return a function that makes a connected till with an automation, its first doorbell acknowledged."""
    made = []

    def make_till(automation=FACTORY, folder=None, **config):
        till = a_till(tmp_path, automation=TillAutomation(folder, automation), **config)
        till.agent.start(0.0)
        till.agent.handle(Connected(1), 0.0)
        acknowledge_rings(till)
        made.append(till)
        return till

    (tmp_path / "spool").mkdir()
    yield make_till
    for till in made:
        till.outbox.database.close()


def acknowledge_rings(till):
    for mid, sent in enumerate(till.link.published, 1):
        if sent[0].endswith("receipt_closed"):
            till.agent.handle(Acknowledged(till.agent._generation, mid), 0.0)


def bells(till):
    return [codec.decode(ReceiptClosed, one) for one in till.link.payloads(topics.RECEIPT_CLOSED.of(till=TILL))]


def presences(till):
    return [codec.decode(TillPresence, one) for one in till.link.payloads(topics.TILL_PRESENCE.of(till=TILL))]


def deliver(till, payload, now=0.0):
    till.agent.handle(Received(1, 7, topics.SETTINGS.of(till=TILL), payload, retained=True, at=now), now)


def a_shift(kind, number=1):
    return as_json(a_document(f"{kind}-{number}", kind))


def test_a_new_till_does_not_ring_when_a_document_is_closed(make):
    """Nothing is bound: it waits for a person, a closed shift or central's sweep."""
    till = make()
    till.take_in(a_sale())
    assert len(bells(till)) == 1

    till.agent.handle(RingAsked(), 1.0)
    assert bells(till)[-1].newest == 1


def test_with_per_receipt_upload_each_document_rings_and_many_at_once_ring_twice(make):
    """One doorbell in flight: whatever is closed meanwhile becomes one more."""
    till = make(PER_RECEIPT)
    for number in range(50):
        till.take_in(a_sale(f"d{number}"))
    assert [0, 1] == [bell.newest for bell in bells(till)]
    acknowledge_rings(till)

    assert [0, 1, 50] == [bell.newest for bell in bells(till)]


def test_unbinding_the_event_stops_ringing_and_a_closed_shift_rings_all_the_same(make, tmp_path):
    """The page's switch really switches, at once."""
    till = make(folder=tmp_path)
    TillAutomation(tmp_path).change(lambda was: with_per_receipt_upload(was)[0])
    till.agent.handle(ReloadAsked(), 1.0)
    till.take_in(a_sale("d1"))
    assert [0, 1] == [bell.newest for bell in bells(till)]
    acknowledge_rings(till)

    TillAutomation(tmp_path).change(lambda was: msgspec.structs.replace(was, events={}))
    till.agent.handle(ReloadAsked(), 2.0)
    till.take_in(a_sale("d2"))
    assert [0, 1] == [bell.newest for bell in bells(till)]
    till.take_in(a_shift("shift_close"))
    assert [(0, False), (1, False), (3, True)] == [(bell.newest, bell.urgent) for bell in bells(till)]


def test_a_bound_script_is_handed_on_and_does_not_ring_by_itself(make):
    """It rings by the FIFO when it has run."""
    till = make(an_automation(SCRIPT_URL))
    till.take_in(a_sale("d1"))
    till.take_in(a_sale("d1"))

    assert till.scripts == ["/linuxcash/cash/sync/scripts/unloadSales.sh"]
    assert len(bells(till)) == 1


@pytest.mark.parametrize(("event", "kind"), [("shift_opened", "shift_open"), ("shift_closed", "shift_close")])
def test_shifts_have_events_of_their_own(make, event, kind):
    """Only their own documents run them; the event of every document runs for a shift's too."""
    till = make(an_automation("shell:///a/shift.sh", event=event))
    for given in (a_sale("d1"), a_shift("shift_open"), a_shift("shift_close")):
        till.take_in(given)
    assert till.scripts == ["/a/shift.sh"]

    both = an_automation("shell:///a/any.sh", events={"document_closed": 1, event: 1})
    till = make(both)
    till.take_in(a_shift(kind, 2))
    assert till.scripts == ["/a/any.sh"] * 2


def test_the_tills_start_and_stop_and_a_restored_link_are_events(make):
    """A link is restored when it was cut before: the first connect is none."""
    macros = tuple(Macro(code=number, name="m", actions=(number,)) for number in (1, 2, 3))
    actions = tuple(an_action(number, f"shell:///a/{number}.sh") for number in (1, 2, 3))
    events = {"till_started": 1, "till_stopping": 2, "link_restored": 3}
    till = make(Automation(actions=actions, macros=macros, events=events))
    assert till.scripts == ["/a/1.sh"]
    till.agent.handle(Disconnected(1, "cable"), 1.0)
    till.agent.handle(Connected(2), 2.0)
    till.agent.handle(Connected(3), 3.0)
    assert till.scripts == ["/a/1.sh", "/a/3.sh"]
    till.agent.happen("till_stopping", 4.0)

    assert till.scripts == ["/a/1.sh", "/a/3.sh", "/a/2.sh"]


def test_documents_from_the_spool_are_closed_documents_too(make, tmp_path):
    """They ring if the event does, and wait if it does not."""
    for automation, newest in ((PER_RECEIPT, 1), (FACTORY, 0)):
        till = make(automation)
        (tmp_path / "spool" / "a.json").write_bytes(a_sale())
        till.agent.tick(5.0)
        assert till.outbox.head().newest == 1
        assert bells(till)[-1].newest == newest


def test_whoever_rings_rings_for_what_lies_in_the_spool_as_well(make, tmp_path):
    """A hook that rings after it left a document there means that document."""
    till = make()
    (tmp_path / "spool" / "a.json").write_bytes(a_sale())
    till.agent.handle(RingAsked(), 1.0)

    assert [0, 1] == [bell.newest for bell in bells(till)]


def test_a_macro_can_be_started_by_hand(make):
    """«Выгрузка текущих продаж» rings now; an unknown one is told by name."""
    till = make()
    till.take_in(a_sale())
    asked = MacroAsked(2)
    till.agent.handle(asked, 1.0)
    assert asked.answer.result(0) == {"macro": 2}
    assert bells(till)[-1].newest == 1

    unknown = MacroAsked(9)
    till.agent.handle(unknown, 1.0)
    with pytest.raises(AutomationError, match="macro 9 does not exist; macros are 1, 2"):
        unknown.answer.result(0)


def test_a_macro_shows_the_status_once_a_second_at_most(make):
    """However often its event happens: presence is for central to see, not to drown in."""
    till = make(an_automation("tillstream://status"))
    before = len(presences(till))
    for number in range(20):
        till.take_in(a_sale(f"d{number}"), now=number / 10)

    assert len(presences(till)) - before == 2


# -- What central sends ------------------------------------------------------------------------------------------------


def test_settings_of_central_are_in_force_and_reported_at_once(make, tmp_path):
    """The presence shows the revision; the same message again, as after each connect, does nothing."""
    till = make(folder=tmp_path)
    deliver(till, settings(7, PER_RECEIPT))
    assert presences(till)[-1].settings_revision == 7
    count = len(till.link.published)
    deliver(till, settings(7, PER_RECEIPT))
    assert len(till.link.published) == count
    till.take_in(a_sale())
    assert bells(till)[-1].newest == 1

    deliver(till, b"")
    assert presences(till)[-1].settings_revision == 0
    acknowledge_rings(till)
    till.take_in(a_sale("d2"))
    assert bells(till)[-1].newest == 1
    assert len(till.link.acknowledged) == 3


def test_a_refused_revision_is_reported_with_its_reason_and_the_old_one_runs_on(make):
    """The presence says which revision runs, which was refused, and why."""
    till = make()
    deliver(till, settings(7, PER_RECEIPT))
    deliver(till, settings(8, Automation(events={"document_closed": 5})))

    shown = presences(till)[-1]
    assert shown.settings_refused == 8
    assert (shown.settings_revision, shown.settings_error[:32]) == (7, "revision 8: event document_close")
    till.take_in(a_sale())
    assert bells(till)[-1].newest == 1
    deliver(till, settings(9, FACTORY))
    assert (presences(till)[-1].settings_revision, presences(till)[-1].settings_error) == (9, "")
    assert presences(till)[-1].settings_refused == 0


def test_settings_for_another_till_are_none_of_its_business(make):
    """A broker without access rules must not hand one till another's orders."""
    till = make()
    till.agent.handle(
        Received(1, 7, topics.SETTINGS.of(till="till-2"), settings(7, PER_RECEIPT), retained=True, at=0.0), 0.0
    )

    assert till.agent.automation.source == "factory"


def test_central_may_set_limits_and_what_it_takes_back_is_the_tills_own_again(make):
    """Waits change at once, also those that are running; the rest stays as the till's file has it."""
    till = make(presence_every_s=3600, retention_days=35)
    own = till.agent.syps.limits
    deliver(till, settings(7, limits={"presence_every_s": 5, "ring_again_s": 1, "retention_days": 1}), now=10.0)
    limits = till.agent.syps.limits
    assert (limits.presence_every_s, limits.ring_again_s, limits.ring_again_max_s) == (5, 1, own.ring_again_max_s)
    assert till.agent.syps.next_deadline() <= 15.0

    till.take_in(a_sale())
    till.outbox.mark_stored(1, "central", None)
    till.agent._clock_ms = lambda: NOW_MS + 2 * 86_400_000
    till.agent._prune(0.0)
    till.agent._prune(900.0)
    assert till.outbox.head().oldest == 2
    deliver(till, b"")
    assert till.agent.syps.limits == own


# -- What does not run is seen -----------------------------------------------------------------------------------------


def test_a_file_that_was_refused_is_a_trouble_until_it_is_mended(make, tmp_path):
    """The till runs as a new one does, and its presence and status say that this is not what was meant."""
    (tmp_path / "automation.json").write_bytes(b"{")
    till = make(folder=tmp_path)
    assert presences(till)[-1].troubles == {"automation_refused": NOW_MS}
    assert till.agent.standing.status()["automation"]["error"]

    (tmp_path / "automation.json").unlink()
    reload = ReloadAsked()
    till.agent.handle(reload, 1.0)
    assert reload.answer.result(0)["source"] == "factory"
    till.agent.tick(1.0)
    assert presences(till)[-1].troubles == {}


def test_a_script_that_does_not_run_is_a_trouble_until_it_does(make):
    """Each script for itself: one that runs does not hide another that is refused."""
    till = make()
    till.agent.handle(ScriptEnded("/a.sh", "refused", "/a.sh is writable"), 1.0)
    till.agent.tick(1.0)
    assert presences(till)[-1].troubles == {"automation_refused": NOW_MS}
    assert till.agent.standing.status()["automation"]["error"] == "/a.sh is writable"
    count = len(presences(till))
    till.agent.handle(ScriptEnded("/b.sh", "done"), 2.0)
    till.agent.tick(2.0)
    till.agent.handle(ScriptEnded("/a.sh", "failed", "/a.sh: exit code 1"), 3.0)
    till.agent.tick(3.0)
    assert len(presences(till)) == count

    till.agent.handle(ScriptEnded("/a.sh", "done"), 4.0)
    till.agent.tick(4.0)
    assert presences(till)[-1].troubles == {}
