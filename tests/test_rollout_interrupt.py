"""What becomes of ``ansible/bin/rollout`` when somebody ends it."""

from __future__ import annotations

import os
import signal
import threading
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import pytest
from factories import wait_until

DEAF = """#!/bin/sh
heard=0
trap 'heard=$((heard + 1)); [ $heard -ge 2 ] && exit 99' INT
: > "$READY"
while :; do sleep 0.02; done
"""
"""A playbook that lets the first interrupt pass, as Ansible does when it comes at the wrong moment."""


@pytest.fixture
def rollout(monkeypatch):
    """Return the program as a module; the signals are given back."""
    loader = SourceFileLoader("rollout_program", str(Path(__file__).parents[1] / "ansible/bin/rollout"))
    module = module_from_spec(spec_from_loader("rollout_program", loader))
    loader.exec_module(module)
    monkeypatch.setattr(module, "AGAIN_S", 0.2)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield module
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_playbook_that_did_not_hear_the_interrupt_is_interrupted_again(rollout, monkeypatch, tmp_path):
    """One SIGTERM is enough, whenever it comes."""
    program, ready = tmp_path / "ansible-playbook", tmp_path / "ready"
    program.write_text(DEAF)
    program.chmod(0o755)
    monkeypatch.setattr(rollout.sys, "executable", str(tmp_path / "python"))

    def end():
        wait_until(ready.exists)
        os.kill(os.getpid(), signal.SIGTERM)

    ending = threading.Thread(target=end)
    ending.start()
    code = rollout.play("rollout", [], {"READY": str(ready)})
    ending.join()
    assert code == 99
