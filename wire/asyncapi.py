"""The machine-readable contract, made from the topic table and the message structs: AsyncAPI 3 with JSON Schemas."""

from __future__ import annotations

from typing import Any

import msgspec

from . import topics
from .documents import Document
from .messages import (
    NEWEST,
    CentralPresence,
    Message,
    ReceiptClosed,
    Sales,
    SalesStored,
    Settings,
    TillPresence,
    UploadRequest,
)

MESSAGES: dict[topics.Topic, type[Message]] = {
    topics.RECEIPT_CLOSED: ReceiptClosed,
    topics.UPLOAD_REQUEST: UploadRequest,
    topics.SALES: Sales,
    topics.SALES_STORED: SalesStored,
    topics.TILL_PRESENCE: TillPresence,
    topics.SETTINGS: Settings,
    topics.CENTRAL_PRESENCE: CentralPresence,
}
_REF = "#/components/schemas/{name}"


def asyncapi() -> dict[str, Any]:
    """Return the AsyncAPI document of this wire version."""
    structs = [*MESSAGES.values(), Document]
    schemas, components = msgspec.json.schema_components(structs, ref_template=_REF)
    names = {topic: schema["$ref"].rpartition("/")[2] for topic, schema in zip(MESSAGES, schemas, strict=False)}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "tillstream",
            "version": str(NEWEST),
            "description": "All by QoS 1. `sales` is a header line and documents, raw deflate with dictionary 1.",
        },
        "channels": {topic.name: _channel(topic, name) for topic, name in names.items()},
        "operations": {topic.name: _operation(topic) for topic in names},
        "components": {"schemas": components},
    }


def _channel(topic: topics.Topic, name: str) -> dict[str, Any]:
    payload = {"$ref": _REF.format(name=name)}
    parameters: dict[str, Any] = {word: {} for word in ("till", "worker") if f"{{{word}}}" in topic.shape}
    return {"address": topic.shape, "parameters": parameters, "messages": {name: {"name": name, "payload": payload}}}


def _operation(topic: topics.Topic) -> dict[str, Any]:
    return {
        "action": "send",
        "channel": {"$ref": f"#/channels/{topic.name}"},
        "summary": f"sent by {topic.writer}",
        "bindings": {"mqtt": {"qos": 1, "retain": topic.retained, "bindingVersion": "0.2.0"}},
    }
