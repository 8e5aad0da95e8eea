"""The AsyncAPI 3 description of a task's events: as they lie in Redis, and as the gateway tells them."""

from __future__ import annotations

from typing import Any, Final

from daemon.config import Settings
from daemon.contract_docs import shapes
from daemon.contract_docs.schemas import Schema
from daemon.domain.event_schema import EVENTS
from daemon.domain.messages import CONTRACT_VERSION, ID_PATTERN
from daemon.redis_client import keys

_TASK: Final = "{taskId}"
_PARAMETERS: Final = {"taskId": {"description": f"`{ID_PATTERN}`"}}
_TOLD: Final = {
    "redis": "One stream a task, readable by whoever may read Redis (Next.js, over REST as well). Each entry "
    "has two fields: `type`, and `data`, which is the payload below as JSON. The id of the entry is the only order and "
    "the cursor to resume from.",
    "sse": "Each event as a frame `id: {stream id}`, `event: {type}`, `data: {json}`. First bytes (`: ok`) at once, a "
    "comment every 15 s; goes on after `Last-Event-ID` or `?after=`; ends after the terminal event.",
    "ws": "Each event as a text message: the payload with the stream id as `id`. The first message of a client may be "
    '`{"after": id}`.',
}


def document() -> dict[str, Any]:
    """The whole description."""
    messages = {event.__name__: _message(event.__struct_config__.tag, event.__doc__ or "") for event in EVENTS}
    messages["Gap"] = {"name": "gap", "title": "gap", "summary": "`event: gap`, without an id.",
                       "contentType": "application/json", "payload": shapes.ref("Gap")}  # fmt: skip
    channels = {
        "stream": _channel(keys.events(_TASK), "redis", "redis", [event.__name__ for event in EVENTS]),
        "sse": _channel(f"/api/tasks/{_TASK}/events", "gatewayHttp", "sse", list(messages)),
        "webSocket": _channel(f"/api/tasks/{_TASK}/ws", "gatewayWs", "ws", list(messages)),
    }
    payloads = shapes.events()
    payloads["WorkerEvent"]["discriminator"] = "type"  # AsyncAPI's form of OpenAPI's
    gateway = f"127.0.0.1:{Settings().gateway.port}"
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "qstreamd: events of a task",
            "version": str(CONTRACT_VERSION),
            "description": "Generated from the code by `python -m daemon export-contracts --write docs/`; do not edit.",
            "license": {"name": "MIT"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "redis": {"host": "127.0.0.1:6379", "protocol": "redis", "description": "`REDIS_URL`"},
            "gatewayHttp": {"host": gateway, "protocol": "http", "description": "`python -m daemon gateway`"},
            "gatewayWs": {"host": gateway, "protocol": "ws", "description": "`python -m daemon gateway`"},
        },
        "channels": channels,
        "operations": {
            "append": _operation("send", "stream", "All of ours append through one script, which numbers."),
            "read": _operation("receive", "stream", "XREAD from any id."),
            "followBySse": _operation("receive", "sse", "With a task token."),
            "followByWebSocket": _operation("receive", "webSocket", "With a task token."),
        },
        "components": {
            "messages": messages,
            "schemas": {**payloads, "Gap": shapes.everything()["Gap"]},
        },
    }  # fmt: skip


def _message(tag: object, told: str) -> Schema:
    name = str(tag)
    schema = "".join(word.title() for word in name.split("_")) + "Event"
    return {"name": name, "title": name, "summary": told, "contentType": "application/json",
            "payload": shapes.ref(schema)}  # fmt: skip


def _channel(address: str, server: str, told: str, messages: list[str]) -> Schema:
    return {
        "address": address,
        "description": _TOLD[told],
        "servers": [{"$ref": f"#/servers/{server}"}],
        "parameters": _PARAMETERS,
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
    }


def _operation(action: str, channel: str, told: str) -> Schema:
    return {"action": action, "channel": {"$ref": f"#/channels/{channel}"}, "summary": told}
