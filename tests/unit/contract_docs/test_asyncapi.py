"""The AsyncAPI description names the stream and every event as they are."""

from __future__ import annotations

from typing import Any

from jsonschema import Draft202012Validator

from daemon.contract_docs import asyncapi
from daemon.domain.events import EventType
from daemon.redis_client import keys

DOCUMENT = asyncapi.document()


def resolved(pointer: str) -> Any:
    node: Any = DOCUMENT
    for part in pointer.removeprefix("#/").split("/"):
        node = node[part]
    return node


def references(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if "$ref" in node else []
        return own + [found for value in node.values() for found in references(value)]
    return [found for item in node for found in references(item)] if isinstance(node, list) else []


def test_every_reference_leads_somewhere() -> None:
    found = references(DOCUMENT)
    assert found
    assert all(resolved(pointer) for pointer in found)


def test_the_stream_carries_the_six_events() -> None:
    """And nothing else; followers over HTTP may meet a gap as well."""
    stream = DOCUMENT["channels"]["stream"]
    assert stream["address"] == keys.events("{taskId}")
    names = [resolved(message["$ref"])["name"] for message in stream["messages"].values()]
    assert names == [*EventType]
    assert len(DOCUMENT["channels"]["sse"]["messages"]) == len(EventType) + 1


def test_a_payload_is_judged_by_its_schema() -> None:
    """The schema of a message is that of the event: a reader can check with it."""
    message = resolved("#/components/messages/QueuedEvent")
    judge = Draft202012Validator({**message["payload"], "components": DOCUMENT["components"]})
    event = {"v": 1, "type": "queued", "taskId": "t1", "attempt": 0, "seq": 0, "requestId": "r", "traceId": "t",
             "timestamp": 1.5, "queueId": "q"}  # fmt: skip
    assert judge.is_valid(event)
    assert not judge.is_valid({**event, "queueId": 1})
