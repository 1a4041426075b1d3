"""Documentation that cannot rot: every topic, field, key and code is in it, and the schema is today's."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from broker.settings import BrokerConfig
from ca.config import CaConfig
from central.api.app import describe
from central.completeness import STATES
from central.config import CentralConfig
from central.judge import Code
from edge.config import EdgeConfig
from wire import topics
from wire.asyncapi import MESSAGES, asyncapi
from wire.documents import TransactionType

DOCS = Path(__file__).parent.parent / "docs"


def test_every_topic_and_field_of_the_wire_is_documented():
    """The protocol page names each topic as it is built, and each field of each message."""
    page = (DOCS / "protocol.md").read_text("utf-8")

    for topic in topics.TOPICS:
        assert f"`{topic.shape}`" in page
    for message in MESSAGES.values():
        (row,) = re.findall(rf"^\| `{message.__name__}` \| (.*) \|$", page, re.MULTILINE)
        for field in msgspec.structs.fields(message):
            assert f"`{field.encode_name}`" in row, (message, field.encode_name)


@pytest.mark.parametrize("words", [get_args(Code), get_args(TransactionType)], ids=["codes", "types"])
def test_every_code_and_type_is_documented(words):
    """The protocol page names each quarantine code and each transaction type."""
    page = (DOCS / "protocol.md").read_text("utf-8")

    assert [] == [word for word in words if f"`{word}`" not in page]


def test_every_state_of_a_day_is_documented():
    """Whoever meets a state in `central days` finds what it means and what to do."""
    page = (DOCS / "completeness.md").read_text("utf-8")

    assert [] == [state for state in STATES if f"| `{state}`" not in page]


@pytest.mark.parametrize("config", [EdgeConfig, CentralConfig, BrokerConfig, CaConfig])
def test_every_configuration_key_is_documented_with_its_default(config):
    """The operations page has each key with the default that the code has."""
    page = (DOCS / "operations.md").read_text("utf-8")

    for field in msgspec.structs.fields(config):
        shown = "required" if field.required else "`" + repr(field.default).replace("'", '"') + "`"
        assert f"| `{field.name}` | {shown} |" in page, field.name


def test_the_published_schema_is_made_from_the_structs_of_today():
    """docs/asyncapi.json is what `tillstream wire schema` prints."""
    assert json.loads(json.dumps(asyncapi())) == json.loads((DOCS / "asyncapi.json").read_text("utf-8"))


def test_the_watchdog_that_is_documented_is_longer_than_central_may_wait_for_its_database():
    """A worker that waits for a slow statement is not one that hangs."""
    page, config = (DOCS / "operations.md").read_text("utf-8"), CentralConfig()
    (watchdog_s,) = re.findall(r"^\| `tillstream central run` \|.*`WatchdogSec=(\d+)`", page, re.MULTILINE)

    waits_s = (config.database_connect_timeout_s, config.database_lock_timeout_s, config.database_statement_timeout_s)
    assert int(watchdog_s) > max(waits_s)


def test_the_published_description_of_the_api_is_that_of_today():
    """docs/openapi.json is what the console answers at /api/v1/openapi.json."""
    assert json.loads(json.dumps(describe())) == json.loads((DOCS / "openapi.json").read_text("utf-8"))
