"""From the raw bytes of a believed call to a task message, or why not. Pure.

One parser sees the raw bytes and what goes on is our own encoding, so a doubled JSON key is harmless: the last one
counts, as in JavaScript. A message whose `expiresAt` has passed is accepted: the daemon ends it, and its viewer learns.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from daemon.blobs.inline import decode
from daemon.domain import messages
from daemon.domain.errors import Code, Rejected, TaskError
from daemon.domain.model_io import Picture
from daemon.domain.queues import QueueSpec
from daemon.observability import traceparent

PATHS: Final = re.compile(
    r"/api/worker/(?P<mode>stream|batch)/(?P<service>[^/]+)|/api/execute/(?P<only>stream|batch)|/worker/execute"
    r"|/api/worker/queue/(?P<queue>[^/]+)"
)


class Route(NamedTuple):
    """What a path says about its message; None: the body says it."""

    mode: str | None = None
    queue: str | None = None
    service: str | None = None


class Ingested(NamedTuple):
    """A message that may be accepted; `sha256` is of the body as it came, `pictures` are its inline images by index.

    `traceparent`: the W3C header that QStash passed on from the producer (`Upstash-Forward-traceparent`), or "".
    """

    message: messages.TaskMessage
    queue: QueueSpec
    sha256: str
    pictures: Mapping[int, Picture]
    traceparent: str = ""


def route_of(path: str) -> Route | None:
    """The route of a task message's path (no query); None for any other path."""
    found = PATHS.fullmatch(path)
    return found and Route(found["mode"] or found["only"], found["queue"], found["service"])


def ingest(raw: bytes, route: Route, queues: Mapping[str, QueueSpec], headers: Mapping[str, str]) -> Ingested:
    """The message in `raw`; `Rejected` (never as sent), or `TaskError` WORKER_OVERLOADED (`v` is newer than we are)."""
    body = json_object(raw)
    for name, value in (("queueId", route.queue), ("serviceId", route.service)):
        if value is not None and body.setdefault(name, value) != value:
            raise Rejected(f"{name}: {str(body[name])[:80]!r} in the body, {value[:80]!r} in the path")
    if headers.get("Upstash-Schedule-Id"):
        name_scheduled(body, headers.get("Upstash-Message-Id"))
    version = body.setdefault("v", messages.CONTRACT_VERSION)
    if type(version) is int and version > messages.CONTRACT_VERSION:
        raise TaskError(f"v: {version} is newer than this relay", code=Code.WORKER_OVERLOADED)
    parent = traceparent.parse(headers.get(traceparent.HEADER))
    if parent is not None and body.get("traceId") is None:  # the message's own word counts more
        body["traceId"] = parent.trace_id
    message = messages.parse_message(body)
    queue = queues.get(message.queue_id)
    if queue is None:
        raise Rejected(f"queueId: {message.queue_id[:80]!r} is unknown; known: {', '.join(sorted(queues))}")
    if route.mode not in {None, queue.mode} or message.tier not in {None, queue.tier}:
        raise Rejected(
            f"queueId: {queue.name} is {queue.tier} {queue.mode}, not {message.tier or ''} {route.mode or ''}"
        )
    if any(image.blob is not None for image in message.images or ()):
        raise Rejected("images: blob is not allowed; allowed: data, fileId, fileKey")
    carried = parent.text if parent else ""
    return Ingested(message, queue, messages.canonical_sha256(body), decode(message.images or ()), carried)


def json_object(raw: bytes) -> dict[str, Any]:
    """The object in `raw`; `Rejected` when it is none."""
    try:
        body = messages.read_body(raw)
    except (ValueError, RecursionError) as error:
        raise Rejected(f"the body is not JSON ({type(error).__name__})") from error
    if not isinstance(body, dict):
        raise Rejected("the body is not a JSON object")
    return body


def name_scheduled(body: dict[str, Any], message_id: str | None) -> None:
    """Make a scheduled task's id from the message id. One that does not fit is hashed: cut, two might become one."""
    if message_id and "taskId" not in body:
        fits = messages.TASK_ID.fullmatch(message_id)
        hashed = hashlib.sha256(message_id.encode("utf-8", "surrogateescape")).hexdigest()[:40]
        body["taskId"] = message_id if fits else f"msg_{hashed}"
