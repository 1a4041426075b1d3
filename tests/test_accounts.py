"""People, sessions and tokens: no default password, no secret that is kept, an end to each of them."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from databases import look
from factories import NOW_MS, a_store

from central import accounts, backup
from central.accounts import AccountError
from central.cli import central
from central.database import Place
from central.models import AccessToken, Account, Audit, ConsoleSession
from central.pool import Pool
from central.rights import ACTIONS, ROLES, SCOPES, covers, may

HOUR_MS = 3_600_000
LONG_ENOUGH = "correct horse battery"


@pytest.fixture
def pool(central_url):
    """Return the database, with one administrator."""
    a_store(central_url).close()
    with Pool(Place(central_url)) as opened:
        with opened.changing("root"):
            accounts.add("anna", "administrator", "a hash", NOW_MS)
        yield opened


def run(url, *arguments, given=None):
    return CliRunner().invoke(central, ["--database", url, *arguments], input=given)


# -- Passwords ---------------------------------------------------------------------------------------------------------


def test_a_password_is_kept_as_argon2_and_known_again():
    """What is kept says nothing; a wrong one, or one for nobody, is wrong."""
    kept = accounts.hash_password(LONG_ENOUGH, 12)

    assert kept.startswith("$argon2id$")
    assert accounts.is_password(LONG_ENOUGH, kept)
    assert not accounts.is_password("wrong", kept)
    assert not accounts.is_password(LONG_ENOUGH, None)
    assert not accounts.is_password("x" * 1_000_000, kept)


@pytest.mark.parametrize("password", ["", "short", "x" * 257])
def test_a_password_beyond_the_limits_is_refused_with_them(password):
    """Both limits are named."""
    with pytest.raises(AccountError, match="password: 12 to 256 characters"):
        accounts.hash_password(password, 12)


# -- People ------------------------------------------------------------------------------------------------------------


def test_there_is_nobody_at_first(central_url):
    """No default user and no default password: the first administrator is made by a command."""
    a_store(central_url).close()

    assert json.loads(run(central_url, "users", "list", "--json").stdout) == []


def test_people_are_added_changed_and_removed_with_an_audit(pool):
    """Each of it leaves a row that names who did it."""
    with pool.changing("root"):
        accounts.add("boris", "viewer", "a hash", NOW_MS, "night shift")
        assert accounts.set_role("boris", "operator", NOW_MS)
        assert not accounts.set_role("boris", "operator", NOW_MS)
        accounts.set_password("boris", "another", NOW_MS)
        accounts.remove("boris", NOW_MS)
    with pool.reading():
        assert [one["name"] for one in accounts.listed()] == ["anna"]
        rows = [(one.who, one.action, one.object) for one in Audit.select().order_by(Audit.id)]
    assert rows[1:] == [
        ("root", "add user", "user boris: viewer"),
        ("root", "set role", "user boris: viewer to operator"),
        ("root", "set password", "user boris"),
        ("root", "remove user", "user boris"),
    ]


@pytest.mark.parametrize(
    ("act", "named"),
    [
        (lambda: accounts.add("anna", "viewer", "h", NOW_MS), "there already"),
        (lambda: accounts.add("a b", "viewer", "h", NOW_MS), "letters A-Z"),
        (lambda: accounts.add("x" * 65, "viewer", "h", NOW_MS), "64"),
        (lambda: accounts.add("boris", "god", "h", NOW_MS), "one of viewer, operator, administrator"),
        (lambda: accounts.set_role("nobody", "viewer", NOW_MS), "no user 'nobody'"),
        (lambda: accounts.set_role("anna", "viewer", NOW_MS), "only administrator"),
        (lambda: accounts.remove("anna", NOW_MS), "only administrator"),
        (lambda: accounts.choose("anna", language="de"), "language 'de'"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(pool, act, named):
    """The text names the field and what is right; the last administrator stays."""
    with pytest.raises(AccountError, match=named), pool.changing("root"):
        act()
    with pool.reading():
        assert [(one.name, one.role) for one in Account.select()] == [("anna", "administrator")]


# -- Sessions ----------------------------------------------------------------------------------------------------------


def session(pool, name="anna", at_ms=NOW_MS, address="192.0.2.1"):
    with pool.noting():
        return accounts.open_session(name, address, at_ms, 12 * HOUR_MS)


def who(pool, secret, now_ms):
    with pool.looking():
        found = accounts.user_of(secret, now_ms, 12 * HOUR_MS, HOUR_MS)
    return found and found.name


def test_a_session_ends_by_age_by_idleness_and_by_logging_out(pool):
    """Whichever comes first; a secret that nobody was given is nobody's."""
    secret = session(pool)

    assert who(pool, secret, NOW_MS + HOUR_MS) == "anna"
    assert who(pool, secret, NOW_MS + HOUR_MS + 1) is None
    assert who(pool, "guessed", NOW_MS) is None
    for hour in range(1, 13):
        with pool.noting():
            accounts.saw_session(accounts._digest(secret), NOW_MS + hour * HOUR_MS)
    assert who(pool, secret, NOW_MS + 12 * HOUR_MS) == "anna"
    assert who(pool, secret, NOW_MS + 12 * HOUR_MS + 1) is None
    with pool.noting():
        accounts.end_session(accounts._digest(secret))
    assert who(pool, secret, NOW_MS) is None


def test_a_database_that_is_read_gives_nobody_a_session_or_a_token(pool, central_url):
    """Only digests stand there."""
    secret = session(pool)
    with pool.changing("anna"):
        token = accounts.issue("erp", ["read"], None, NOW_MS)
    everything = str(look(central_url, "SELECT * FROM console_session")) + str(
        look(central_url, "SELECT * FROM access_token")
    )

    assert secret not in everything
    assert token not in everything


@pytest.mark.parametrize("change", ["set_password", "remove"])
def test_another_password_or_a_removal_logs_out_everywhere(pool, change):
    """At once, in each session of that person and in no other."""
    with pool.changing("root"):
        accounts.add("boris", "viewer", "a hash", NOW_MS)
    mine, others = [session(pool, "boris") for _ in range(2)], session(pool)
    with pool.changing("root"):
        accounts.remove("boris", NOW_MS) if change == "remove" else accounts.set_password("boris", "new", NOW_MS)

    assert [who(pool, one, NOW_MS) for one in mine] == [None, None]
    assert who(pool, others, NOW_MS) == "anna"


def test_a_person_has_so_many_sessions_and_old_ones_go(pool):
    """One more ends the oldest; those that are over are forgotten when somebody logs in."""
    secrets = [session(pool, at_ms=NOW_MS + number) for number in range(accounts.SESSIONS_MAX + 3)]

    assert [who(pool, one, NOW_MS + 100) for one in secrets[:4]] == [None, None, None, "anna"]
    session(pool, at_ms=NOW_MS + 13 * HOUR_MS)
    with pool.reading():
        assert ConsoleSession.select().count() == 1


# -- Tokens ------------------------------------------------------------------------------------------------------------


def scopes(pool, secret, now_ms=NOW_MS):
    with pool.looking():
        found = accounts.token_of(secret, now_ms)
    return found and sorted(found.scopes)


def test_a_token_counts_until_it_expires_or_is_revoked(pool):
    """From the next request on; it has the scopes it was issued with."""
    with pool.changing("anna"):
        secret = accounts.issue("erp", ["export", "read"], NOW_MS + HOUR_MS, NOW_MS)
        lasting = accounts.issue("wall", ["read"], None, NOW_MS)

    assert secret.startswith("ts_")
    assert scopes(pool, secret) == ["export", "read"]
    assert scopes(pool, secret, NOW_MS + HOUR_MS) is None
    assert scopes(pool, lasting, NOW_MS + 10**12) == ["read"]
    with pool.changing("anna"):
        assert accounts.revoke("wall", NOW_MS)
        assert not accounts.revoke("wall", NOW_MS)
    assert scopes(pool, lasting) is None


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("erp", ["everything"], None, NOW_MS), "some of read, operate, export, admin"),
        (("erp", ["read", "rule"], None, NOW_MS), "'rule'"),
        (("erp", [], None, NOW_MS), "some of read"),
        (("", ["read"], None, NOW_MS), "letters"),
        (("erp", ["read"], NOW_MS, NOW_MS), "expires"),
    ],
)
def test_a_token_that_cannot_be_is_refused(pool, arguments, named):
    """The text names the field and what is right."""
    with pytest.raises(AccountError, match=named), pool.changing("anna"):
        accounts.issue(*arguments)
    with pool.reading():
        assert AccessToken.select().count() == 0


def test_a_name_is_given_once_so_that_the_audit_is_clear(pool):
    """A token that was revoked keeps its name."""
    with pool.changing("anna"):
        accounts.issue("erp", ["read"], None, NOW_MS)
        accounts.revoke("erp", NOW_MS)
    with pytest.raises(AccountError, match="given once"), pool.changing("anna"):
        accounts.issue("erp", ["read"], None, NOW_MS)


# -- Rights ------------------------------------------------------------------------------------------------------------


def test_each_role_may_all_that_the_one_before_may():
    """And the last one may everything; somebody without a role nothing."""
    for action in ACTIONS:
        allowed = [may(role, action) for role in ROLES]
        assert allowed == sorted(allowed), action
        assert allowed[-1], action
        assert not may("", action)


def test_a_token_has_its_scopes_and_no_others():
    """No scope holds another one; each is needed by something."""
    assert {right.scope for right in ACTIONS.values()} == set(SCOPES)
    for action, right in ACTIONS.items():
        assert [scope for scope in SCOPES if covers([scope], action)] == [right.scope]


# -- Commands ----------------------------------------------------------------------------------------------------------


def test_the_first_administrator_is_made_by_a_command(central_url, tmp_path):
    """The password comes from a prompt, a file or standard input; never from the command line."""
    a_store(central_url).close()
    (tmp_path / "password").write_text(LONG_ENOUGH + "\n")

    typed = run(central_url, "users", "add", "anna", "--role", "administrator", given=f"{LONG_ENOUGH}\n{LONG_ENOUGH}\n")
    filed = run(central_url, "users", "add", "boris", "--role", "viewer", "--password-file", str(tmp_path / "password"))
    piped = run(central_url, "users", "set-password", "boris", "--password-file", "-", given="another password")

    assert [one.exit_code for one in (typed, filed, piped)] == [0, 0, 0], (typed.output, filed.output, piped.output)
    assert LONG_ENOUGH not in typed.output
    listed = json.loads(run(central_url, "users", "list", "--json").stdout)
    assert [(one["name"], one["role"]) for one in listed] == [("anna", "administrator"), ("boris", "viewer")]
    ((kept,),) = look(central_url, "SELECT password_hash FROM account WHERE name = 'boris'")
    assert accounts.is_password("another password", kept)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("users", "remove", "anna"), "no user"),
        (("users", "add", "anna", "--role", "viewer", "--password-file", "/nowhere"), "/nowhere"),
        (("tokens", "revoke", "erp"), "no token"),
    ],
)
def test_a_command_that_cannot_be_done_says_why(central_url, arguments, named):
    """In one line, with exit code 1."""
    a_store(central_url).close()
    told = run(central_url, *arguments)

    assert (told.exit_code, named in told.output) == (1, True), told.output


def test_a_token_is_printed_once_and_listed_without_its_secret(central_url):
    """Whoever lost it issues another one."""
    a_store(central_url).close()
    told = run(central_url, "tokens", "issue", "erp", "--scope", "read", "--days", "30", "--json")
    secret = json.loads(told.stdout)["token"]
    listed = run(central_url, "tokens", "list", "--json").stdout

    assert secret.startswith("ts_")
    assert secret not in listed
    assert json.loads(listed)[0]["scopes"] == "read"
    assert run(central_url, "tokens", "revoke", "erp").exit_code == 0


def test_a_restore_logs_everybody_out_and_brings_people_and_tokens_back(central_url, tmp_path):
    """Whoever logged out after the backup must not be logged in again by it."""
    a_store(central_url).close()
    with Pool(Place(central_url)) as pool:
        with pool.changing("root"):
            accounts.add("anna", "administrator", "a hash", NOW_MS)
            token = accounts.issue("erp", ["read"], None, NOW_MS)
        secret = session(pool)
        made = backup.make(central_url, tmp_path, 1, "", lambda: NOW_MS, lambda *_: None)
    told = run(central_url, "restore", str(made.path))
    assert told.exit_code == 0, told.output

    a_store(central_url).close()
    with Pool(Place(central_url)) as pool:
        assert who(pool, secret, NOW_MS) is None
        assert scopes(pool, token) == ["read"]
        with pool.reading():
            assert [one["name"] for one in accounts.listed()] == ["anna"]
