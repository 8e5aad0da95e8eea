"""The published schemas judge messages and events exactly as the code does."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import pytest
from jsonschema import Draft202012Validator

from daemon.contract_docs import schemas
from daemon.domain.errors import Rejected
from daemon.domain.messages import TaskMessage, parse_message

MINIMAL: Final = {"taskId": "t1", "userId": "u1", "queueId": "q_paid_stream", "serviceId": "resume-review"}
INLINE: Final = {"data": "aGk=", "mimeType": "image/png"}

GOOD: Final[list[dict[str, Any]]] = [
    {},
    {"v": 1},
    {"taskId": "A" * 64},
    {"serviceId": "a.b_c-1"},
    {"jobId": "j" * 128, "requestId": "r", "traceId": "t", "modelId": "m", "templateId": "n@3"},
    {
        "jobId": None,
        "refs": None,
        "tier": None,
        "variables": None,
        "images": None,
        "expiresAt": None,
        "maxAttempts": None,
    },
    {"refs": {"resume": "r1"}},
    {"refs": {str(i): "x" for i in range(16)}},
    {"tier": "free"},
    {"variables": {"role": "cook", "nested": {"list": [1, None, True]}}},
    {"images": [INLINE, {"data": "aGk="}, {"fileId": "f_1"}, {"fileKey": "images/a.jpg"}]},
    {"images": []},
    {"expiresAt": 1_800_000_000.5},
    {"counted": True},
    {"maxAttempts": 10},
]
BAD: Final[list[dict[str, Any]]] = [
    {"v": 0},
    {"v": "1"},
    {"taskId": ""},
    {"taskId": "a b"},
    {"taskId": "A" * 65},
    {"serviceId": "Upper"},
    {"serviceId": ""},
    {"userId": ""},
    {"userId": "u" * 129},
    {"userId": None},
    {"jobId": "j" * 129},
    {"templateId": "n" * 129},
    {"refs": {str(i): "x" for i in range(17)}},
    {"refs": {"k" * 129: "x"}},
    {"refs": {"k": "x" * 129}},
    {"refs": {"k": 1}},
    {"tier": "gold"},
    {"variables": []},
    {"images": [{}]},
    {"images": [{**INLINE, "fileId": "f_1"}]},
    {"images": [INLINE] * 9},
    {"images": [{"url": "https://example.com/a.png"}]},
    {"expiresAt": -1},
    {"expiresAt": 1_800_000_000_000},
    {"counted": "yes"},
    {"maxAttempts": 0},
    {"maxAttempts": 11},
    {"maxAttempts": 1.5},
    {"taskID": "typo"},
]


def accepted(body: dict[str, Any]) -> bool:
    try:
        parse_message(body)
    except Rejected:
        return False
    return True


@pytest.fixture(scope="module")
def body_schema() -> Draft202012Validator:
    schema = schemas.worker_body()
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


@pytest.mark.parametrize("change", GOOD, ids=repr)
def test_what_the_daemon_accepts_the_schema_accepts(body_schema: Draft202012Validator, change: dict[str, Any]) -> None:
    """A producer that validates first is never stopped without need."""
    body = MINIMAL | change
    assert accepted(body)
    assert [error.message for error in body_schema.iter_errors(body)] == []


@pytest.mark.parametrize("change", BAD, ids=repr)
def test_what_the_daemon_refuses_the_schema_refuses(body_schema: Draft202012Validator, change: dict[str, Any]) -> None:
    """A producer that validates first learns of every mistake before QStash is paid."""
    body = MINIMAL | change
    assert not accepted(body)
    assert not body_schema.is_valid(body)


@pytest.mark.parametrize("name", ["taskId", "userId"])
def test_the_two_names_that_no_route_gives_are_required(body_schema: Draft202012Validator, name: str) -> None:
    """Queue and service may come from the route; the task and its owner may not."""
    assert not body_schema.is_valid({key: value for key, value in MINIMAL.items() if key != name})
    assert body_schema.is_valid({"taskId": "t1", "userId": "u1"})


def test_an_image_reference_of_the_relay_is_no_producers_business(body_schema: Draft202012Validator) -> None:
    """`blob` is ours: a producer could name another task's bytes with it."""
    assert not body_schema.is_valid(MINIMAL | {"images": [{"blob": "redis:x"}]})


def test_every_field_of_a_message_has_its_line() -> None:
    """A new field can't appear in the code without a word about it."""
    assert list(schemas.BODY_FIELDS) == [field.encode_name for field in msgspec.structs.fields(TaskMessage)]
    assert list(schemas.worker_body()["properties"]) == list(schemas.BODY_FIELDS)


def test_events_are_told_apart_by_type_and_optional_fields_are_absent_not_null() -> None:
    """A reader may switch on `type` and test a field by its presence."""
    schema = schemas.worker_event()
    Draft202012Validator.check_schema(schema)
    assert set(schema["discriminator"]["mapping"]) == {"queued", "started", "progress", "token_batch", "done", "error"}
    retry_at = schema["$defs"]["ErrorEvent"]["properties"]["retryAt"]
    assert retry_at["type"] == "number" and "anyOf" not in retry_at
    assert "retryAt" not in schema["$defs"]["ErrorEvent"]["required"]


def test_usage_is_always_whole() -> None:
    """All five numbers are written each time; only the price may be null."""
    usage = schemas.worker_event()["$defs"]["Usage"]
    assert usage["required"] == ["inputTokens", "cachedInputTokens", "outputTokens", "reasoningTokens", "costUsd"]
    assert {"type": "null"} in usage["properties"]["costUsd"]["anyOf"]
