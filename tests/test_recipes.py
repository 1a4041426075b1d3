"""The recipes of other brokers: what they allow, what they refuse to write, and what a second run leaves alone."""

from __future__ import annotations

import itertools
import json
import os
import pwd
import re

import pytest
from click.testing import CliRunner

from broker.access import may
from broker.recipes import nats
from broker.recipes.cli import recipe
from broker.recipes.mosquitto import password_line
from broker.recipes.plan import Plan
from wire.topics import TOPICS

KEY = "k" * 40
A, B, CENTRAL, OTHER = "till-a", "till-b", "central-1", "central-2"


@pytest.fixture
def run(tmp_path):
    """Return a function that runs a recipe into `tmp_path/out` and gives its exit code and output."""
    (tmp_path / "fleet.key").touch(0o600)
    (tmp_path / "fleet.key").write_text(KEY, "ascii")
    (tmp_path / "broker.toml").write_text(f'fleet_key_file = "{tmp_path / "fleet.key"}"\n', "utf-8")

    def make(kind, *options, users="till-a\ntill-b  # the second\n"):
        given = ["--users", "-"] if users is not None else []
        always = [
            kind,
            "--out",
            str(tmp_path / "out"),
            "--config",
            str(tmp_path / "broker.toml"),
            "--account",
            "nobody",
        ]
        done = CliRunner().invoke(recipe, [*always, *given, *options], input=users)
        return done.exit_code, done.output

    return make


def fates(output):
    return {file["name"]: file["fate"] for file in json.loads(output)["files"]}


# -- What is allowed ---------------------------------------------------------------------------------------------------


def a_plan(**changed):
    values = {
        "folder": "/etc/x",
        "host": "127.0.0.1",
        "port": 1883,
        "security": "plain",
        "tills": 10,
        "workers": 2,
        "till_ids": (A, B),
        "denied": frozenset(),
        "account": "nats",
        "trusted": ("127.0.0.1/32",),
        "till_bytes_per_s": 1000,
        "token": lambda user: f"token of {user}",
    }
    return Plan(**values | changed)


def nats_users(plan):
    text = nats.files(plan, "/state", "127.0.0.1:8222", None)["users.conf"]
    return [json.loads(line) for line in text.splitlines() if line.strip().startswith('{"user"')]


def _covers(subjects, subject):
    parts = subject.split(".")
    return any(
        len(parts) == len(wanted) and all(one in ("*", part) for one, part in zip(wanted, parts, strict=True))
        for wanted in (pattern.split(".") for pattern in subjects)
    )


def test_the_rights_in_nats_say_the_same_as_the_table():
    """Each user, each topic of two tills and two workers, both ways; and nobody may use another protocol."""
    users = {user["user"]: user for user in nats_users(a_plan())}
    names = {topic.of(till=till, worker=worker) for topic in TOPICS for till in (A, B) for worker in (1, 2)}
    assert users.keys() == {A, B, CENTRAL, OTHER}
    for (user, entry), name in itertools.product(users.items(), names):
        rights, subject = entry["permissions"], name.replace("/", ".")
        assert _covers(rights["publish"]["allow"], subject) == may(user, "publish", name), (user, name)
        assert _covers(rights["subscribe"]["allow"], subject) == may(user, "receive", name), (user, name)
        assert entry["allowed_connection_types"] == ["MQTT"]


def test_a_denied_till_is_in_no_list(run, tmp_path):
    """Neither broker lets it in, and Mosquitto takes its rights from a live connection at the next reload."""
    (tmp_path / "deny").write_text("till-a\n", "utf-8")
    assert [user["user"] for user in nats_users(a_plan(denied=frozenset({A})))] == [CENTRAL, OTHER, B]

    assert [user["user"] for user in nats_users(a_plan(denied=frozenset({A, CENTRAL})))] == [OTHER, B]

    assert run("mosquitto", "--deny", str(tmp_path / "deny"))[0] == 0
    passwords = (tmp_path / "out" / "passwords").read_text("utf-8")
    assert re.findall("^till-.", passwords, re.MULTILINE) == ["till-b"]
    assert "user till-a\ntopic deny #\n" in (tmp_path / "out" / "acl").read_text("utf-8")


def test_a_line_of_the_deny_list_that_names_nobody_is_told(run, tmp_path):
    """A dot for a dash leaves a stolen till its rights."""
    (tmp_path / "deny").write_text("till.a\ntill-b\n", "utf-8")

    code, output = run("mosquitto", "--deny", str(tmp_path / "deny"))

    assert (code, "'till.a' is neither a till id nor central-<worker>" in output) == (0, True)
    assert "till.a" not in (tmp_path / "out" / "acl").read_text("utf-8")


def test_a_line_of_the_password_file_holds_no_token_and_is_the_same_the_next_time():
    """As mosquitto_passwd writes it; two users with one token (which there are not) would have one hash."""
    line = password_line("till-a", "secret")

    assert re.fullmatch(r"till-a:\$7\$101\$[A-Za-z0-9+/]{16}\$[A-Za-z0-9+/]{86}==\n", line)
    assert "secret" not in line
    assert line == password_line("till-a", "secret") != password_line("till-a", "other")


def test_the_queue_of_mosquitto_holds_what_all_tills_have_retained(run, tmp_path):
    """A doorbell and a presence of each till wait for central when it subscribes."""
    run("mosquitto", "--tills", "50000")

    text = (tmp_path / "out" / "mosquitto.conf").read_text("utf-8")
    assert int(re.search(r"^max_queued_messages (\d+)$", text, re.MULTILINE)[1]) >= 100_000


def test_with_certificates_mosquitto_needs_no_list_of_tills(run, tmp_path):
    """The CN is the user name; there is no password file."""
    code, output = run("mosquitto", "--security", "mutual", "--listen", "0.0.0.0:8883", users=None)

    assert code == 0, output
    assert not (tmp_path / "out" / "passwords").exists()
    text = (tmp_path / "out" / "mosquitto.conf").read_text("utf-8")
    for line in ("require_certificate true", "use_identity_as_username true", "use_username_as_clientid true"):
        assert line in text.splitlines()


@pytest.mark.parametrize("kind", ["mosquitto", "nats"])
def test_with_certificates_there_need_be_no_fleet_key(run, tmp_path, kind):
    """Where no token is let in, none is made; where one is, the message says how the key is made."""
    (tmp_path / "fleet.key").unlink()

    code, output = run(kind, "--security", "tls")
    assert (code, "tillstream broker key" in output) == (1, True)
    assert run(kind, "--security", "mutual", "--listen", "0.0.0.0:8883")[0] == 0


# -- What is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options", "users", "says"),
    [
        ("mosquitto", ["--listen", "0.0.0.0:1883"], "till-a", "--security tls"),
        ("nats", ["--listen", "nowhere"], "till-a", "host:port"),
        ("nats", [], None, "--users"),
        ("mosquitto", [], None, "--users"),
        ("mosquitto", ["--tills", "1"], "till-a\ntill-b", "--tills"),
        ("mosquitto", [], "till-a\ntill/b", "line 2"),
        ("mosquitto", [], "central-1", "line 1"),
        ("mosquitto", ["--trusted", "central"], "till-a", "central"),
        ("nats", ["--cluster", "c"], "till-a", "--routes"),
        ("nats", ["--cluster", "c", "--routes", "a:1,b"], "till-a", "'b' is no route"),
        ("nats", ["--cluster", "c", "--node", "3", "--routes", "a:1,b:2"], "till-a", "--node 3"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_nothing_is_written(run, tmp_path, kind, options, users, says):
    """The message names what is wrong and what would be right."""
    code, output = run(kind, *options, users=users)

    assert code in (1, 2)
    assert says in output
    assert not (tmp_path / "out").exists()


# -- The second run ----------------------------------------------------------------------------------------------------


def test_a_second_run_changes_nothing_or_says_what(run, tmp_path):
    """The same again is unchanged; another number is updated, with the lines that differ."""
    assert set(fates(run("mosquitto", "--json")[1]).values()) == {"made"}
    assert set(fates(run("mosquitto", "--json")[1]).values()) == {"unchanged"}

    code, output = run("mosquitto", "--tills", "20")

    assert code == 0
    assert f"updated    {tmp_path / 'out' / 'mosquitto.conf'}" in output
    assert "+max_connections 88" in output
    assert run("mosquitto", "--tills", "20", "--json")[1].count("unchanged") == 6


def test_options_that_are_not_given_are_those_of_the_last_run(run, tmp_path):
    """A reload by systemd names the folder and nothing else; who is denied stays denied."""
    deny, out = tmp_path / "deny", tmp_path / "out"
    given = ["--security", "mutual", "--listen", "10.0.0.1:8883", "--tills", "20", "--workers", "2"]
    given += ["--trusted", "10.0.0.0/8", "--trusted", "::1", "--deny", str(deny)]
    assert run("mosquitto", *given, users=None)[0] == 0
    assert set(fates(run("mosquitto", "--json", users=None)[1]).values()) == {"unchanged"}

    deny.write_text("till-a\n", "utf-8")
    changed = fates(run("mosquitto", "--json", users=None)[1])

    assert {name for name, fate in changed.items() if fate != "unchanged"} == {"acl"}
    assert "user till-a\ntopic deny #\n" in (out / "acl").read_text("utf-8")
    assert run("mosquitto", "--workers", "3", users=None)[0] == 0
    assert "user central-3\n" in (out / "acl").read_text("utf-8")
    assert run("nats", "--tills", "0")[0] == 2


@pytest.mark.parametrize("content", ["torn", "[]", '{"options": 1}', '{"options": {"tills": "many", "else": 1}}'])
def test_a_record_that_is_none_is_no_reason_to_fail_without_a_word(run, tmp_path, content):
    """A torn one is as none; a value in it that cannot be is told like one that was given."""
    run("mosquitto")
    (tmp_path / "out" / ".written.json").write_text(content, "utf-8")

    code, output = run("mosquitto")

    assert (code, "--tills" in output) == ((2, True) if "many" in content else (0, False))


def test_access_rules_that_were_changed_by_hand_are_kept_loudly(run, tmp_path):
    """Whoever is denied meanwhile keeps all rights."""
    run("mosquitto")
    acl = tmp_path / "out" / "acl"
    acl.write_text(acl.read_text("utf-8") + "# mine\n", "utf-8")
    assert "KEEPS HIS RIGHTS" not in run("mosquitto", "--tills", "20", "--force")[1]
    acl.write_text(acl.read_text("utf-8") + "# mine\n", "utf-8")

    code, output = run("mosquitto")

    assert (code, "acl was changed by hand" in output) == (3, True)


def test_a_file_that_somebody_changed_is_kept_until_it_is_forced(run, tmp_path):
    """Exit code 3 and what the recipe has instead; with --force the changed one stays beside it."""
    run("mosquitto")
    config = tmp_path / "out" / "mosquitto.conf"
    mine = config.read_text("utf-8") + "# mine\n"
    config.write_text(mine, "utf-8")

    code, output = run("mosquitto", "--tills", "20")
    assert (code, config.read_text("utf-8")) == (3, mine)
    assert "kept " in output
    assert "-# mine" in output
    code, output = run("mosquitto", "--tills", "20", "--force", "--json")
    assert (code, fates(output)["mosquitto.conf"]) == (0, "replaced")
    assert (tmp_path / "out" / "mosquitto.conf.old").read_text("utf-8") == mine
    assert "# mine" not in config.read_text("utf-8")


def test_a_dry_run_tells_what_would_be_written_and_writes_nothing(run, tmp_path):
    """Exit code 3 while there is something to write, 0 when all is as it should be; the folder stays as it was."""
    assert run("mosquitto", "--dry-run")[0] == 3
    assert not (tmp_path / "out").exists()
    run("mosquitto")
    assert run("mosquitto", "--dry-run")[0] == 0
    (tmp_path / "out" / "acl").write_text("# mine\n", "utf-8")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    code, output = run("mosquitto", "--dry-run", "--force", "--tills", "20", "--json")

    assert (code, fates(output)["acl"], fates(output)["mosquitto.conf"]) == (3, "replaced", "updated")
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_what_root_runs_only_root_may_write(run, tmp_path):
    """`nft -f` and the unit are root's: the broker's account reads them; a folder of somebody else's is refused."""
    assert run("mosquitto")[0] == 0
    group = pwd.getpwnam("nobody").pw_gid
    for path in (tmp_path / "out", *(tmp_path / "out").iterdir()):
        assert (path.stat().st_uid, path.stat().st_gid) == (0, group), path

    os.chown(tmp_path / "out", pwd.getpwnam("nobody").pw_uid, group)
    code, output = run("mosquitto", "--tills", "20")
    assert (code, "chown -R root" in output) == (1, True)


def test_a_link_in_the_folder_is_neither_read_nor_followed(run, tmp_path):
    """What it leads to would be shown as a difference."""
    run("mosquitto")
    (tmp_path / "treasure").write_text("treasure", "utf-8")
    (tmp_path / "out" / "acl").unlink()
    (tmp_path / "out" / "acl").symlink_to(tmp_path / "treasure")

    code, output = run("mosquitto", "--force")

    assert (code, "acl is a link" in output, "-treasure" in output) == (1, True, False)
    assert (tmp_path / "treasure").read_text("utf-8") == "treasure"


@pytest.mark.parametrize("kind", ["mosquitto", "nats"])
def test_what_holds_secrets_others_may_not_read_and_no_message_shows(run, tmp_path, kind):
    """Passwords are not in the output, not even as a difference."""
    run(kind, *(["--cluster", "c", "--routes", "a:1,b:2"] if kind == "nats" else []))
    (tmp_path / "fleet.key").write_text("K" * 40, "ascii")
    _, output = run(kind, *(["--cluster", "c", "--routes", "a:1,b:2"] if kind == "nats" else []))

    secret = {"passwords"} if kind == "mosquitto" else {"nats.conf", "users.conf"}
    for path in (tmp_path / "out", *(tmp_path / "out").iterdir()):
        assert not path.stat().st_mode & 0o027, path
    for name in secret:
        assert f"updated    {tmp_path / 'out' / name}\n" in output
        for word in re.findall(r"[A-Za-z0-9_/+-]{40,}", (tmp_path / "out" / name).read_text("utf-8")):
            assert word not in output
