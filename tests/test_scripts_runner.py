"""Scripts of macros: only what root has placed runs, with nothing from outside, within its limits."""

from __future__ import annotations

import logging
import os
import shutil
import stat
import time
from pathlib import Path

import pytest
from factories import wait_until

from edge import scripts_runner
from edge.intake import fifo
from edge.scripts_runner import ScriptLimits, ScriptRefusedError, ScriptsRunner, permitted

HOOK = Path(__file__).parent.parent / "edge" / "scripts" / "unloadSales.sh"
SOMEBODY = 12_345
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def scripts(tmp_path):
    """Return a folder of scripts as root would make it."""
    folder = tmp_path / "scripts"
    folder.mkdir()
    folder.chmod(0o755)
    return folder


@pytest.fixture
def told():
    """Return the log lines of the runner: event and facts."""
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append((record.getMessage(), record.also))
    log = logging.getLogger("tillstream.edge")
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    yield lines
    log.removeHandler(handler)
    log.setLevel(level)


def a_script(folder, text="exit 0", name="script.sh"):
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n", "utf-8")
    path.chmod(0o755)
    return path


def running(folder, fifo_path=Path("/nonexistent"), **limits):
    """Return a runner, and what it reports."""
    ended = []
    return ScriptsRunner("till-1", (str(folder),), ScriptLimits(**limits), fifo_path, ended.append), ended


def run(path, folder, **limits):
    """Run one script to its end and return what was reported."""
    runner, ended = running(folder, **limits)
    assert runner.ask(str(path))
    assert wait_until(lambda: ended, 10)
    runner.stop(0)
    return ended[0]


def is_alive(pid):
    """Say whether a process still runs; one that nobody has reaped yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# -- Which scripts may run ---------------------------------------------------------------------------------------------


def test_what_root_has_placed_may_run_also_below_a_sticky_folder(scripts):
    """The folder itself is root's alone; above it a sticky folder such as /tmp does no harm."""
    path = a_script(scripts)
    assert any(parent.stat().st_mode & stat.S_ISVTX for parent in path.parents), "pytest's folder lies in /tmp"

    assert permitted(str(path), (str(scripts),)) == path.resolve()


def make_group_writable(scripts):
    path = a_script(scripts)
    path.chmod(0o775)
    return path


def make_folder_writable(scripts):
    scripts.chmod(0o777)
    return a_script(scripts)


def make_folder_sticky(scripts):
    scripts.chmod(0o1777)
    return a_script(scripts)


def make_ancestor_writable(scripts):
    scripts.parent.chmod(0o770)
    return a_script(scripts)


def make_somebodys(scripts):
    path = a_script(scripts)
    os.chown(path, SOMEBODY, 0)
    return path


def make_folder_somebodys(scripts):
    os.chown(scripts, SOMEBODY, 0)
    return a_script(scripts)


def make_link_out(scripts):
    (scripts.parent / "elsewhere").mkdir()
    path = scripts / "link.sh"
    path.symlink_to(a_script(scripts.parent / "elsewhere"))
    return path


def make_link_round(scripts):
    path = scripts / "round.sh"
    path.symlink_to(path)
    return path


def make_below(scripts):
    (scripts / "below").mkdir()
    return a_script(scripts / "below")


def make_dots(scripts):
    a_script(scripts.parent, name="above.sh")
    return scripts / ".." / "above.sh"


def make_inexecutable(scripts):
    path = a_script(scripts)
    path.chmod(0o644)
    return path


def make_fifo(scripts):
    os.mkfifo(scripts / "fifo", 0o755)
    return scripts / "fifo"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (make_group_writable, r"script.sh is writable for others than root \(mode 0775\)"),
        (make_folder_writable, r"scripts is writable for others"),
        (make_folder_sticky, r"scripts is writable for others"),
        (make_ancestor_writable, "is writable for others"),
        (make_somebodys, f"script.sh belongs to user {SOMEBODY}"),
        (make_folder_somebodys, f"scripts belongs to user {SOMEBODY}"),
        (make_link_out, "elsewhere/script.sh does not lie directly in one of scripts_dirs"),
        (make_link_round, "round.sh: "),
        (make_below, "does not lie directly"),
        (make_dots, "above.sh does not lie directly"),
        (make_inexecutable, "is not executable"),
        (make_fifo, "is no regular file"),
        (lambda scripts: scripts / "missing.sh", "No such file"),
    ],
)
def test_what_others_than_root_could_have_placed_is_refused_with_the_exact_reason(scripts, make, reason):
    """Script, folder and every folder above: owned by root, writable for root alone, and no way out of the folder."""
    with pytest.raises(ScriptRefusedError, match=reason):
        permitted(str(make(scripts)), (str(scripts),))


def test_a_refused_script_does_not_run_and_the_reason_is_told(scripts, tmp_path, told):
    """The check is made before each run, not once: a script that was opened up later is refused from then on."""
    path = a_script(scripts, f"echo ran >> {tmp_path}/ran")
    assert run(path, scripts).outcome == "done"
    path.chmod(0o777)
    ended = run(path, scripts)

    assert (ended.outcome, "mode 0777" in ended.error) == ("refused", True)
    assert (tmp_path / "ran").read_text() == "ran\n"
    assert [event for event, _ in told] == ["script_done", "script_refused"]


def test_the_pages_literal_path_works_by_a_link_from_one_folder_to_the_other(scripts, tmp_path):
    """unloadSales.sh, linked where the vendor's page has it, rings the agent's FIFO."""
    page = tmp_path / "linuxcash"
    page.mkdir(mode=0o755)
    shutil.copy(HOOK, scripts)
    (page / "unloadSales.sh").symlink_to(scripts / "unloadSales.sh")
    rung, ended = [], []
    fifo.listen(tmp_path / "ring", rung.append, None)
    runner = ScriptsRunner("till-1", (str(scripts), str(page)), ScriptLimits(), tmp_path / "ring", ended.append)
    runner.ask(str(page / "unloadSales.sh"))

    assert wait_until(lambda: rung == [False])
    assert wait_until(lambda: ended)
    assert ended[0].outcome == "done"
    runner.stop(0)


# -- What a script gets, and what it may cost --------------------------------------------------------------------------


def test_a_script_gets_no_argument_no_input_and_none_of_our_secrets(scripts, told, monkeypatch):
    """A fixed environment with the FIFO's path, the root folder, and nothing to read."""
    monkeypatch.setenv("TILLSTREAM_TOKEN", "secret-token")
    path = a_script(scripts, 'echo "$# $(pwd) [$(cat)]"; env')
    assert run(path, scripts, fifo_path=Path("/run/ring")).outcome == "done"

    first, *environment = told[-1][1]["output"].splitlines()
    assert first == "0 / []"
    names = {line.partition("=")[0] for line in environment}
    assert names - {"PWD", "SHLVL", "_", "OLDPWD"} == {"PATH", "LANG", "TILLSTREAM_FIFO"}
    assert "TILLSTREAM_FIFO=/run/ring" in environment


def test_the_outcome_is_logged_with_exit_code_time_and_output(scripts, told):
    """What a script prints on either output is found in the log, and its failure in what is reported."""
    ended = run(a_script(scripts, "echo out; echo err >&2; exit 7"), scripts)

    event, facts = told[-1]
    assert (event, facts["exit_code"], facts["output"]) == ("script_failed", 7, "out\nerr\n")
    assert facts["duration_ms"] >= 0
    assert (ended.outcome, "exit code 7" in ended.error) == ("failed", True)


def test_a_file_that_cannot_be_executed_fails_and_ends_nothing(scripts, told):
    """No interpreter, no binary: the next script runs all the same."""
    path = scripts / "junk"
    path.write_bytes(b"\0\1\2")
    path.chmod(0o755)

    assert run(path, scripts).outcome == "failed"
    assert run(a_script(scripts), scripts).outcome == "done"


def test_a_flood_of_output_neither_blocks_the_script_nor_grows_in_memory(scripts, tmp_path, told):
    """The first ``output_bytes`` are kept, the rest is read and dropped."""
    path = a_script(scripts, f"head -c 3000000 /dev/zero | tr '\\0' x; echo through > {tmp_path}/through")
    ended = run(path, scripts, output_bytes=1000)

    assert ended.outcome == "done"
    assert (tmp_path / "through").exists()
    assert told[-1][1]["output"] == "x" * 1000


def test_a_script_that_sleeps_is_killed_with_its_children(scripts, tmp_path, told):
    """After ``timeout_s`` the whole group gets SIGKILL: a script that starts others leaves none behind."""
    path = a_script(scripts, f"sleep 100 & echo $! > {tmp_path}/child; trap '' TERM; sleep 100")
    started = time.monotonic()
    ended = run(path, scripts, timeout_s=0.3)

    assert (ended.outcome, "script_timeout_s = 0.3" in ended.error) == ("timed_out", True)
    assert time.monotonic() - started < 5
    child = int((tmp_path / "child").read_text())
    assert wait_until(lambda: not is_alive(child))
    assert (told[-1][0], told[-1][1]["exit_code"]) == ("script_timed_out", -9)


def test_what_a_script_leaves_behind_in_its_group_ends_with_it(scripts, tmp_path):
    """A child that lets go of the output keeps nobody waiting, and does not outlive its script."""
    path = a_script(scripts, f"sleep 100 >/dev/null 2>&1 & echo $! > {tmp_path}/child; exit 0")
    started = time.monotonic()

    assert run(path, scripts, timeout_s=5).outcome == "done"
    assert time.monotonic() - started < 4
    assert wait_until(lambda: not is_alive(int((tmp_path / "child").read_text())))


def test_a_script_that_closes_its_output_is_still_bounded_in_time(scripts):
    """Silence is not the end: the limit counts until the process has ended."""
    assert run(a_script(scripts, "exec >/dev/null 2>&1; sleep 100"), scripts, timeout_s=0.3).outcome == "timed_out"


# -- The queue ---------------------------------------------------------------------------------------------------------


def test_a_script_that_makes_its_own_event_happen_goes_round_slowly(scripts, monkeypatch):
    """One that closes a document on each document is a loop: it must not take the till's processor."""
    monkeypatch.setattr(scripts_runner, "AGAIN_S", 0.2)
    path, starts = str(a_script(scripts)), []

    def ask_again(_ended):
        starts.append(time.monotonic())
        runner.ask(path)

    runner = ScriptsRunner("till-1", (str(scripts),), ScriptLimits(), Path("/nonexistent"), ask_again)
    started = time.monotonic()
    runner.ask(path)
    assert wait_until(lambda: len(starts) >= 3)
    assert time.monotonic() - started >= 2 * 0.2
    runner.stop(5)
    assert len(starts) == 4, "at the end nothing waits any more"


def test_a_script_that_waits_is_not_queued_again_and_the_queue_is_bounded(scripts, tmp_path, monkeypatch):
    """All unsent go at once anyway: a hundred receipts during one run are one more run."""
    monkeypatch.setattr(scripts_runner, "AGAIN_S", 0.0)
    os.mkfifo(tmp_path / "gate")
    slow = a_script(scripts, f"echo x >> {tmp_path}/started; cat {tmp_path}/gate", "slow.sh")
    others = [str(a_script(scripts, name=f"{number}.sh")) for number in range(2)]
    runner, ended = running(scripts, waiting_max=2)
    runner.ask(str(slow))
    assert wait_until((tmp_path / "started").exists)

    assert all(runner.ask(str(slow)) for _ in range(100))
    assert runner.ask(others[0])
    assert not runner.ask(others[1])
    for runs in (1, 2):
        assert wait_until(lambda runs=runs: (tmp_path / "started").read_text() == "x\n" * runs)
        (tmp_path / "gate").write_bytes(b"")  # Opens when the script reads, and lets it end.
        assert wait_until(lambda runs=runs: len(ended) >= runs)
    assert wait_until(lambda: len(ended) == 3)
    runner.stop(1)

    assert [one.path for one in ended] == [str(slow), str(slow), others[0]]


def test_a_till_that_stops_lets_its_last_scripts_run_but_does_not_wait_for_ever(scripts, tmp_path):
    """What waits runs; what takes too long is killed, and nothing more is started."""
    quick = a_script(scripts, f"echo ran > {tmp_path}/ran", "quick.sh")
    runner, ended = running(scripts)
    runner.ask(str(quick))
    runner.stop(5)
    assert [one.outcome for one in ended] == ["done"]
    assert (tmp_path / "ran").exists()
    assert not runner.ask(str(quick))

    slow = a_script(scripts, "sleep 100", "slow.sh")
    runner, ended = running(scripts, timeout_s=60)
    runner.ask(str(slow))
    runner.ask(str(quick))
    started = time.monotonic()
    runner.stop(0.2)
    assert time.monotonic() - started < 3
    assert [(one.path, one.outcome) for one in ended] == [(str(slow), "failed")]
