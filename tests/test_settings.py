"""Settings at central: the nearest counts as a whole, a revision for each change, and what tills said of them."""

from __future__ import annotations

from random import Random

import msgspec
import pytest
from click.testing import CliRunner
from factories import NOW_MS, RecordingLink, a_bell, a_store

from central import settings
from central.batch import NewStream
from central.cli import central as central_command
from central.config import CentralConfig
from central.models import MODELS, Audit
from central.settings import Body, SettingsError
from central.subscriber import Subscriber
from wire import automation, codec, topics
from wire.automation import FACTORY
from wire.link import Connected, Received
from wire.messages import Settings, TillLimits, TillPresence, said

PER_RECEIPT, _ = automation.with_per_receipt_upload(FACTORY, "tillstream://ring")
OURS = Body(automation=PER_RECEIPT)
SLOW = Body(limits=TillLimits(ring_again_s=300))


@pytest.fixture
def store(central_url):
    """Return central's database with two tills."""
    made = a_store(central_url)
    made.open_streams([NewStream(till, f"{till:0>22}", ()) for till in ("a", "b")], {}, NOW_MS)
    with made.database.bind_ctx(MODELS):
        yield made
    made.close()


def put(scope, name, body):
    return settings.put(scope, name, body, NOW_MS, "why")


def revisions():
    return {till: one.revision for till, one in settings.wanted().items()}


def test_the_nearest_counts_and_as_a_whole(store):
    """A till's own goes before its tag's, and that before the fleet's; nothing is mixed."""
    fleet, pilot, own = put("fleet", "", OURS), put("tag", "pilot", SLOW), put("till", "b", OURS)
    settings.tag("a", "pilot", NOW_MS, "")
    settings.tag("b", "pilot", NOW_MS, "")

    assert revisions() == {"a": pilot, "b": own}
    message = codec.decode(Settings, settings.wanted()["a"].payload)
    assert (message.revision, message.automation, message.limits) == (pilot, None, SLOW.limits)
    put("till", "b", None)
    assert revisions() == {"a": pilot, "b": pilot}
    settings.tag("a", "pilot", NOW_MS, "", remove=True)
    assert revisions() == {"a": fleet, "b": pilot}


def test_of_several_tags_the_one_changed_last_counts(store):
    """There is one answer, and it does not depend on names."""
    put("tag", "z", OURS)
    newer = put("tag", "a", SLOW)
    for name in ("a", "z"):
        settings.tag("a", name, NOW_MS, "")

    assert revisions() == {"a": newer}


def test_the_same_settings_once_more_change_nothing(store):
    """They keep their revision, and the audit has one row for each real change."""
    assert put("fleet", "", OURS) == put("fleet", "", OURS) == 1
    assert put("fleet", "", None) == 2
    assert put("fleet", "", None) == 2
    assert put("fleet", "", OURS) == 3
    assert [row.action for row in Audit.select().order_by(Audit.id)] == [
        "settings",
        "settings withdrawn",
        "settings",
    ]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (b"{}", "nothing is set"),
        (b'{"limit": {}}', "limit"),
        (b'{"limits": {"ring_again_s": 0}}', "ring_again_s"),
        (b'{"automation": {"events": {"document_closed": 9}}}', "9"),
        (b"not json", "malformed"),
    ],
)
def test_settings_that_no_till_could_use_are_refused_before_anything_changes(given, named):
    """The text names the field."""
    with pytest.raises(SettingsError, match=named):
        settings.read(given)


def test_settings_over_the_size_of_a_message_are_refused():
    """A till reads no more than the limit; the text names it."""
    actions = [
        {"code": code, "name": "x" * 100, "command": "COMMAND_OPERATION"}
        | {"parameters": [{"name": "url", "value": "shell:///" + "s" * 900}]}
        for code in range(1, 100)
    ]
    with pytest.raises(SettingsError, match="65536"):
        settings.read(msgspec.json.encode({"automation": {"actions": actions}}))


def test_after_a_restore_a_number_never_names_other_settings(store):
    """A till runs revision 7, which the backup does not know: what is set next is a revision that no till has."""
    for till, shown in (("a", {"settings_revision": 7}), ("b", {"settings_revision": 2**52, "settings_refused": 9})):
        presence = said(TillPresence, online=True, connection=1, boot_id="b", **shown)
        row = ("", True, 1, NOW_MS, msgspec.json.encode(presence).decode(), None, till)
        store.note(NOW_MS, presences=[row])

    assert put("fleet", "", OURS) == 8  # What no central can have sent is not believed.


def test_a_tag_needs_a_till_that_is_known(store):
    """A misspelt till is told at once."""
    with pytest.raises(LookupError, match="nobody"):
        settings.tag("nobody", "pilot", NOW_MS, "")


@pytest.mark.parametrize(
    ("arguments", "body", "said"),
    [
        (["--till", "a"], {"limits": {"ring_again_s": 30}}, ["count as a whole"]),
        (["--till", "misspelt"], {"automation": {}, "limits": {"ring_again_s": 30}}, ["no till named misspelt"]),
        (["--tag", "pilot"], {"automation": {}, "limits": {"ring_again_s": 30}}, ["no till has the tag pilot"]),
        (["--fleet"], {"limits": {"ring_again_s": 30}}, []),
    ],
)
def test_settings_that_hide_others_or_are_for_nobody_yet_are_pointed_out(tmp_path, arguments, body, said, central_url):
    """They are set all the same: a till may be prepared before it connects."""
    path = central_url
    made = a_store(path)
    made.open_streams([NewStream("a", f"{'a':0>22}", ())], {}, NOW_MS)
    made.close()
    (tmp_path / "body.json").write_bytes(msgspec.json.encode(body))
    given = ["--database", str(path), "settings", "set", *arguments, str(tmp_path / "body.json")]
    done = CliRunner().invoke(central_command, given)

    assert done.exit_code == 0
    assert [text in done.stderr for text in said] == [True] * len(said)
    assert done.stderr.count("note:") == len(said)


# -- On their way ------------------------------------------------------------------------------------------------------


class Central:
    """A worker over a database in memory, with a link that records."""

    def __init__(self, store):
        self.store, self.link = store, RecordingLink()
        self.shell = Subscriber(CentralConfig(), store, self.link, Random(1), lambda: NOW_MS, 0.0)
        self.shell.handle_all([Connected(1)], 0.0)

    def shows(self, till, now, revision=0, *, retained=False, **fields):
        fields = {"online": True, "connection": 1, "boot_id": "b", "settings_revision": revision, **fields}
        payload = codec.encode(said(TillPresence, **fields))
        topic = topics.TILL_PRESENCE.of(till=till)
        self.shell.handle_all([Received(1, 1, topic, payload, retained, now)], now)

    def sent(self, till):
        return self.link.payloads(topics.SETTINGS.of(till=till))


@pytest.fixture
def central(store):
    return Central(store)


def test_a_change_reaches_the_tills_within_a_second_and_no_till_twice(central):
    """Retained, with the revision; a till that runs it is left alone."""
    central.shows("a", 0.0)
    central.shows("b", 0.0)
    central.shell.tick(1.0)
    assert central.sent("a") == []

    revision = put("fleet", "", OURS)
    central.shell.tick(2.0)
    assert [codec.decode(Settings, payload).revision for payload in central.sent("a")] == [revision]
    assert central.link.published[-1][2] is True

    central.shows("a", 3.0, revision)
    central.shell.tick(70.0)
    assert (len(central.sent("a")), len(central.sent("b"))) == (1, 2)


def test_a_till_that_is_new_gets_what_is_set_for_the_fleet(central):
    """Nothing has to be done for it: its first presence is enough."""
    put("fleet", "", OURS)
    central.shell.tick(1.0)
    central.shows("fresh", 2.0)
    central.shell.tick(3.0)
    central.shell.tick(4.0)

    assert len(central.sent("fresh")) == 1


def test_a_till_for_which_nothing_is_set_any_more_is_given_back_to_itself(central):
    """An empty retained message: the till's own file counts again."""
    central.shows("a", 0.0, 7)
    central.shell.tick(1.0)

    assert central.sent("a") == [b""]


def test_an_approval_takes_effect_without_a_restart(store):
    """A till that waited for a person is asked for what it rang for."""
    store.database.run("UPDATE till SET is_approved = false WHERE till_id = 'a'")
    central = Central(store)
    bell = codec.encode(a_bell(3, stream=f"{'a':0>22}"))
    central.shell.handle_all([Received(1, 1, topics.RECEIPT_CLOSED.of(till="a"), bell, False, 0.0)], 0.0)
    central.shell.tick(1.0)
    request = topics.UPLOAD_REQUEST.of(till="a")
    assert central.link.payloads(request) == []

    store.database.run("UPDATE till SET is_approved = true")
    Audit.create(at_ms=NOW_MS, who="x", action="approve", object="till a")
    central.shell.tick(2.0)
    central.shell.tick(2.0)
    assert len(central.link.payloads(request)) == 1


def test_a_presence_that_the_broker_kept_says_nothing_of_the_clock(central, store):
    """Only a live one tells how far a till's clock is off, and when it was last heard."""
    central.shows("a", 0.0, clock_ms=NOW_MS - 90_000, retained=True)
    central.shell.tick(1.0)
    row = "SELECT presence_at_ms, clock_skew_ms FROM till WHERE till_id = 'a'"
    assert store.database.run(row).fetchall() == [(NOW_MS - 90_000, None)]

    central.shows("a", 2.0, clock_ms=NOW_MS + 5_000)
    central.shell.tick(3.0)
    assert store.database.run(row).fetchall() == [(NOW_MS, 5_000)]
