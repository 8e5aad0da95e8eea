"""JSON Schemas (2020-12) of the task message and of the events.

`WorkerBody` is what a producer sends, so it allows what the daemon accepts (null included) and leaves out what only the
relay adds. `WorkerEvent` is what a reader finds, so it lists as required every field that is always written.
"""

from __future__ import annotations

import copy
import json
from typing import Any, Final

import msgspec

from daemon.domain import messages
from daemon.domain.event_schema import EVENTS, WorkerEvent
from daemon.domain.messages import TaskMessage

Schema = dict[str, Any]

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_REF: Final = "#/$defs/{name}"

#: what each field of a task message is for, in the order of the page; a test compares the names with `TaskMessage`
BODY_FIELDS: Final[dict[str, str]] = {
    "v": "contract version; a newer one than this is answered with 503, not refused",
    "taskId": "identity of the task and key against duplicates; only a QStash schedule may leave it out "
    "(it is then made from `Upstash-Message-Id`)",
    "queueId": "the queue; may be left out where the route names it",
    "serviceId": "the service that runs (prompt, models, limits); may be left out where the route names it",
    "userId": "the owner of the task, and the key of the limit per user",
    "jobId": "kept with the task, offered to `task_context` and to templates",
    "refs": "further ids, treated like `jobId`",
    "modelId": "asks for one of the service's models; absent: the first one of the tier",
    "tier": "must agree with the queue",
    "templateId": "`name` or `name@version`; replaces the service's template",
    "variables": "small input for the template; with neither `variables` nor `images` the input is loaded from the "
    "view `qstreamd.task_context`",
    "images": "for services that take images",
    "requestId": "carried through every event, log line and row; made up if absent",
    "traceId": "carried like `requestId`",
    "expiresAt": "unix seconds; the task is not started after this instant",
    "counted": "true: the producer already took the place with a bare INCR of the queue's counter",
    "maxAttempts": "lowers the service's limit of failed attempts, never raises it",
}

IMAGE_FORMS: Final[dict[str, Schema]] = {
    "InlineImage": {
        "description": "Scheme 1: the bytes themselves as base64; a `data:…;base64,` prefix is stripped.",
        "type": "object",
        "properties": {
            "data": {"type": "string", "description": "base64; all inline images of a task together "
                     f"at most {messages.INLINE_BASE64_BYTES_MAX // 1024} KiB"},
            "mimeType": {"type": ["string", "null"], "description": "a hint; the magic bytes decide"},
        },
        "required": ["data"],
        "additionalProperties": False,
    },
    "UploadedImage": {
        "description": "Scheme 2: uploaded before; deleted after the terminal event.",
        "type": "object",
        "properties": {"fileId": {"type": "string"}, "mimeType": {"type": ["string", "null"]}},
        "required": ["fileId"],
        "additionalProperties": False,
    },
    "StoredImage": {
        "description": "Scheme 3: an object in the configured bucket, signed and read by the daemon.",
        "type": "object",
        "properties": {"fileKey": {"type": "string"}, "mimeType": {"type": ["string", "null"]}},
        "required": ["fileKey"],
        "additionalProperties": False,
    },
}  # fmt: skip


def worker_body() -> Schema:
    """The schema of a task message as a producer sends it."""
    (_,), defs = msgspec.json.schema_components([TaskMessage], ref_template=_REF)
    message = copy.deepcopy(defs["TaskMessage"])
    properties: Schema = message["properties"]
    for name, limits in _body_limits().items():
        _constrain(properties[name], limits)
    properties["images"] = {
        "anyOf": [
            {"type": "array", "maxItems": messages.IMAGES_MAX,
             "items": {"anyOf": [{"$ref": _REF.format(name=n)} for n in IMAGE_FORMS]}},
            {"type": "null"},
        ],
    }  # fmt: skip
    for name, description in BODY_FIELDS.items():
        properties[name] = {"description": description, **properties[name]}
        if properties[name].get("default", 0) is None:
            del properties[name]["default"]
    return {
        "$schema": DIALECT,
        "title": "WorkerBody",
        "description": "The JSON body of a task as a producer sends it through QStash. "
        f"At most {messages.BODY_BYTES_MAX // 1024} KiB as a whole.",
        "type": "object",
        "properties": properties,
        "required": ["taskId", "userId"],
        "additionalProperties": False,
        "$defs": {"Tier": defs["Tier"], **copy.deepcopy(IMAGE_FORMS)},
    }


def worker_event() -> Schema:
    """The schema of the `data` of one event: a union told apart by `type`."""
    (union,), defs = msgspec.json.schema_components([WorkerEvent], ref_template=_REF)
    head = [n for n in _names(EVENTS[0]) if all(n in _names(event) for event in EVENTS)]
    for event in EVENTS:
        defs[event.__name__] = _as_written(defs[event.__name__], ["type", *head])
    defs["Code"]["description"] = "Stable error codes; the protocol page says what each one means."
    usage = defs["Usage"]
    usage["description"] = (
        "Tokens of one attempt and their price in USD. Null is unknown, never zero; no count is negative."
    )
    usage["required"] = list(usage["properties"])  # its encoder leaves nothing out
    usage["additionalProperties"] = False
    for schema in usage["properties"].values():
        schema.pop("default", None)
    return {
        "$schema": DIALECT,
        "title": "WorkerEvent",
        "description": "The field `data` of one entry of the stream `task:{taskId}:events`.",
        **union,
        "$defs": defs,
    }


def text(schema: Schema) -> str:
    """The schema as a file."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _body_limits() -> dict[str, Schema]:
    limits: dict[str, Schema] = {name: {"maxLength": n} for name, n in messages.TEXT_LIMITS.items()}
    limits["userId"]["minLength"] = 1
    return limits | {
        "v": {"minimum": 1, "maximum": messages.CONTRACT_VERSION},
        "taskId": {"pattern": messages.ID_PATTERN},
        "serviceId": {"pattern": messages.SERVICE_PATTERN},
        "refs": {
            "maxProperties": messages.REFS_MAX,
            "propertyNames": {"maxLength": messages.REF_LENGTH_MAX},
            "additionalProperties": {"type": "string", "maxLength": messages.REF_LENGTH_MAX},
        },
        "expiresAt": {"minimum": 0, "exclusiveMaximum": messages.UNIX_SECONDS_MAX},
        "maxAttempts": {"minimum": 1, "maximum": messages.ATTEMPTS_MAX},
    }


def _constrain(schema: Schema, limits: Schema) -> None:
    """Add limits to the branch that is not null."""
    branches = schema.get("anyOf", [schema])
    next(b for b in branches if b.get("type") != "null").update(limits)


def _names(struct: type[msgspec.Struct]) -> list[str]:
    return [field.encode_name for field in msgspec.structs.fields(struct)]


def _as_written(schema: Schema, head: list[str]) -> Schema:
    """An event as its writer leaves it: common fields first, and an optional field is absent rather than null."""
    properties = schema["properties"]
    ordered = {name: properties[name] for name in [*head, *(n for n in properties if n not in head)]}
    for name, field in ordered.items():
        if name in schema["required"]:
            continue
        field.pop("default", None)
        branches = [b for b in field.pop("anyOf", []) if b.get("type") != "null"]
        field.update(branches[0] if branches else {})
    return {**schema, "properties": ordered, "required": [n for n in ordered if n in schema["required"]]}
