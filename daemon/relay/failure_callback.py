"""The call by which QStash says that it gave a message up (protocol 6). Pure."""

from __future__ import annotations

import base64
import re

from daemon.domain import messages
from daemon.domain.errors import Rejected
from daemon.domain.queues import QUEUE_PATTERN
from daemon.relay.ingest import PATHS, json_object, name_scheduled


def failed_task(raw: bytes) -> messages.TaskIdentity | None:
    """The task that a failure callback is about; None when its message names none (which may be why it failed)."""
    try:
        callback = json_object(raw)
        body = json_object(base64.b64decode(callback["sourceBody"], validate=True))
        if callback.get("scheduleId"):
            name_scheduled(body, callback.get("sourceMessageId"))
        # the public path may have a prefix that the proxy takes off, hence `search`
        found = PATHS.search(str(callback.get("url")).partition("?")[0])
        queue = (found and found["queue"]) or body["queueId"]
        ids = {name: body[name][:128] for name in ("requestId", "traceId") if isinstance(body.get(name), str)}
        message = messages.parse_message(
            {"taskId": body["taskId"], "queueId": queue, "serviceId": "x", "userId": "x", **ids}
        )
    except (KeyError, TypeError, ValueError, Rejected):
        return None
    return messages.identity_of(message) if re.fullmatch(QUEUE_PATTERN, message.queue_id) else None
