"""JSON Schemas of what HTTP carries beside task messages and events, for the OpenAPI and AsyncAPI descriptions."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any, Final, get_args

import msgspec

from daemon.admin.queue_api import REASON_CHARS_MAX
from daemon.contract_docs import schemas
from daemon.contract_docs.schemas import Schema
from daemon.domain import messages
from daemon.domain.errors import CODES, Code
from daemon.domain.events import Reason
from daemon.domain.model_io import FinishReason
from daemon.domain.states import State
from daemon.gateway.submission import DELAY_S_MAX, Options
from daemon.gateway.uploads import Wish
from daemon.queues.control import Control
from daemon.queues.depths import QueueDepth

_REF: Final = "#/components/schemas/{name}"
#: codes that only HTTP answers have
HTTP_CODES: Final = (
    "BAD_REQUEST", "BAD_SIGNATURE", "BODY_TIMEOUT", "CUT_OFF", "FORBIDDEN", "INVALID", "METHOD_NOT_ALLOWED",
    "NOT_CONFIGURED", "NOT_FOUND", "NO_ROOM", "TOO_LARGE", "TOO_MANY_VIEWERS", "TOO_SLOW", "UNAUTHORIZED",
    "UNAVAILABLE", "UNKNOWN_ORDER", "UNKNOWN_QUEUE",
)  # fmt: skip

TEXT: Final[Schema] = {"type": "string"}
WHOLE: Final[Schema] = {"type": "integer", "minimum": 0}
TASK_ID: Final[Schema] = {"type": "string", "pattern": messages.ID_PATTERN}


def ref(name: str) -> Schema:
    """A reference to one of the components."""
    return {"$ref": _REF.format(name=name)}


def thing(required: Schema, optional: Schema | None = None) -> Schema:
    """An object of exactly these fields."""
    fields = required | (optional or {})
    return {"type": "object", "properties": fields, "required": list(required), "additionalProperties": False}


def maybe(schema: Schema) -> Schema:
    """The same, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


def events() -> dict[str, Schema]:
    """`WorkerEvent` and everything that it refers to, as components."""
    return _components(schemas.worker_event())


def everything() -> dict[str, Schema]:
    """All components of the OpenAPI description by name."""
    return {**_components(schemas.worker_body()), **_submission(), **events(), **_relay(), **_gateway(), **_ops()}


def _components(document: Schema) -> dict[str, Schema]:
    """A document and its definitions, each one a component."""
    named = {**document["$defs"], document["title"]: {k: v for k, v in document.items() if k[0] != "$"}}
    moved: dict[str, Schema] = _moved(copy.deepcopy(named))
    return moved


def _moved(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _moved(value) for key, value in node.items()}
    if isinstance(node, str) and node.startswith("#/$defs/"):
        return _REF.format(name=node.rsplit("/", 1)[-1])
    return [_moved(item) for item in node] if isinstance(node, list) else node


def _submission() -> dict[str, Schema]:
    """A task message with the words that choose its queue and its way through QStash."""
    _, found = msgspec.json.schema_components([Options], ref_template=_REF)
    options, flow = found["Options"]["properties"], found["FlowLimits"]
    for field in options.values():
        field.pop("default", None)
    limits = {"delay": (0, DELAY_S_MAX), "notBefore": (0, messages.UNIX_SECONDS_MAX - 1), "retries": (0, 100)}
    for name, (least, most) in limits.items():
        options[name]["anyOf"][0] |= {"minimum": least, "maximum": most}
    flow["properties"]["key"]["pattern"] = messages.ID_PATTERN
    for name in ("parallelism", "rate", "period"):
        flow["properties"][name]["anyOf"][0] |= {"minimum": 1, "maximum": 1_000_000}
    body = _components(schemas.worker_body())["WorkerBody"]
    fields = {name: field for name, field in body["properties"].items() if name != "counted"} | options
    told = "A task message, and what the gateway does with it: `mode` and `tier` (or `queueId`) choose the queue."
    submission = {**thing(fields), "title": "Submission", "description": told, "required": ["serviceId", "userId"]}
    return {"Submission": submission, "FlowLimits": flow}


def _relay() -> dict[str, Schema]:
    code = {"type": "string", "enum": sorted({*Code, *HTTP_CODES})}
    told = {"code": code, "message": {"type": "string", "description": "for developers; no secret, no content"}}
    retry = {"type": "integer", "minimum": 1, "description": "seconds; the same as the header `Retry-After`"}
    verdict = {"taskId": TASK_ID, "status": {"enum": ["queued", "duplicate"]}, "entryId": TEXT}
    statuses = sorted({200, *(info.http_status for info in CODES.values() if info.http_status)})
    return {
        "Accepted": thing(verdict),
        "BadSignature": thing({"code": {"const": "BAD_SIGNATURE"}}),
        "Refusal": thing(told),
        "RefusalForNow": thing({**told, "retryAfter": retry}),
        "Check": thing(
            {"accepted": {"type": "boolean"}, "answer": {"enum": statuses, "description": "the status it would get"}},
            {**verdict, **told, "retryAfter": {"type": "number"}},
        ),
        "FailureCallback": {
            "type": "object",
            "description": "What QStash sends when it gives up; further fields are its own.",
            "properties": {
                "sourceBody": {"type": "string", "description": "the message that failed, as base64"},
                "url": {"type": "string", "description": "where it was to be delivered"},
                "sourceMessageId": TEXT,
                "scheduleId": TEXT,
            },
        },
        "Failed": {
            "anyOf": [
                thing({"taskId": TASK_ID, "status": {"enum": ["failed", "accepted"]}}),
                thing({"status": {"const": "ignored"}}),
            ]
        },
        "Live": thing({"status": TEXT}),
        "Ready": thing(
            {},
            {"status": TEXT, "checks": {"type": "object", "additionalProperties": TEXT}, **told, "retryAfter": retry},
        ),
    }


def _gateway() -> dict[str, Schema]:
    number, when = {"type": "number"}, {"type": "number", "description": "unix seconds"}
    state: Schema = {"enum": [*State]}
    event = {
        "anyOf": [
            {"type": "object", "properties": {"id": TEXT, "type": TEXT, "taskId": TASK_ID}, "required": ["type"]},
        ],
        "description": "a `WorkerEvent` with the stream id as `id`; or a `Gap`",
    }
    waiting = thing({"reason": maybe({"enum": [*Reason]}), "position": maybe(WHOLE), "etaSeconds": maybe(number)})
    problem = thing({"code": ref("Code"), "message": TEXT})
    return {
        "Submitted": thing({"taskId": TASK_ID, "queueId": TEXT, "sseUrl": TEXT, "token": TEXT}),
        "Task": thing(
            {
                "taskId": TASK_ID, "queueId": maybe(TEXT), "state": state, "attempt": WHOLE,
                "createdAt": maybe(when), "startedAt": maybe(when), "finishedAt": maybe(when),
                "result": {"description": "text, or the object of a `json` service; null until it is done"},
                "finishReason": maybe({"enum": [*get_args(FinishReason)]}),
                "usage": maybe({"type": "object"}), "error": maybe(problem), "waiting": maybe(waiting),
            }
        ),
        "Poll": thing({"events": {"type": "array", "items": event}, "after": TEXT}),
        "Gap": {
            **thing({"type": {"const": "gap"}, "taskId": TASK_ID, "first": TEXT}),
            "description": "The cursor is older than the stream, whose first event is `first`: drop the text so far.",
        },
        "TaskState": thing({"taskId": TASK_ID, "state": state}),
        "Uploaded": thing({"fileId": TEXT, "expiresAt": {**WHOLE, "description": "unix seconds"}}),
        "Wish": msgspec.json.schema_components([Wish], ref_template=_REF)[1]["Wish"],
        "Presigned": thing(
            {"fileKey": TEXT, "url": TEXT, "headers": {"type": "object", "additionalProperties": TEXT},
             "expiresAt": {**WHOLE, "description": "unix seconds"}}
        ),
        "Queues": thing(
            {"queues": {"type": "array", "items": thing(
                {"queueId": TEXT, "waiting": WHOLE, "limit": maybe(WHOLE), "paused": {"type": "boolean"}})}}
        ),
    }  # fmt: skip


def _ops() -> dict[str, Schema]:
    kinds = {int: WHOLE, bool: {"type": "boolean"}, str: TEXT}
    control = {
        field.name: maybe({"type": "number"}) if field.default is None else kinds[type(field.default)]
        for field in dataclasses.fields(Control)
    }
    sizes = {name: maybe(WHOLE) for name in ("waiting", "running", "delayed", "dead", "places", "consumers")}
    assert sizes.keys() - {"places"} <= {field.name for field in dataclasses.fields(QueueDepth)}
    limits = {"parallelism": 1, "globalParallelism": 1, "maxSize": 0}
    order = {
        "who": {"type": "string", "description": "for the audit"},
        "reason": {"type": "string", "description": f"for the audit; {REASON_CHARS_MAX} characters are kept"},
        **{name: maybe({"type": "integer", "minimum": least}) for name, least in limits.items()},
        "confirm": {"type": "string", "description": "`purge`: the queue's name once more"},
    }
    return {
        "QueueViews": thing(
            {"queues": {"type": "array", "items": thing({"queue": TEXT, **sizes, "control": thing(control)})}}
        ),
        "QueueOrder": thing({}, order),
        "QueueOrdered": {
            "type": "object",
            "properties": {"queue": TEXT, "order": TEXT},
            "required": ["queue", "order"],
        },
    }
