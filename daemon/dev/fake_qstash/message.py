"""A message, each attempt to deliver it, and what a failure callback tells of it. Data only."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from daemon.dev.fake_qstash.mischief import Mischief
from daemon.dev.fake_qstash.options import Headers, Options


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one attempt; status 0: nothing usable came back, and `error` says why."""

    status: int = 0
    headers: Headers = ()
    body: bytes = b""
    error: str | None = None

    @property
    def ok(self) -> bool:
        """A 2xx arrived."""
        return 200 <= self.status < 300

    @property
    def final(self) -> bool:
        """The receiver said that no retry can help: 489 and the header; what one alone would do is not documented."""
        return self.status == 489 and self.lower_headers().get("upstash-nonretryable-error", "").lower() == "true"

    def lower_headers(self) -> dict[str, str]:
        """The headers with their names in lower case."""
        return {name.lower(): value for name, value in self.headers}


@dataclass(frozen=True, slots=True)
class Delivery:
    """One request that was sent, for tests to look at. `at` is in unix seconds of the fake's clock."""

    message_id: str
    url: str
    method: str
    headers: Mapping[str, str]
    body: bytes
    retried: int
    at: float
    answer: Answer


@dataclass(slots=True)
class Message:
    """One message on its way; times in unix seconds of the fake's clock."""

    id: str
    url: str
    body: bytes
    options: Options
    mischief: Mischief
    caller_ip: str
    created_at: float
    not_before: float
    queue: str | None = None
    retried: int = 0
    parked: asyncio.Future[object] | None = None  #: what it waits for, when it waits
    overtaken: asyncio.Future[object] | None = None  #: set while it lets a later message to the same URL pass

    @property
    def at_rest(self) -> bool:
        """It waits for time or for its turn, and nothing has woken it yet."""
        return self.parked is not None and not self.parked.done()

    def callback_json(self, answer: Answer, dlq_id: str) -> dict[str, Any]:
        """The documented body of a failure callback."""
        own = (("Content-Type", self.options.content_type),) if self.options.content_type is not None else ()
        return {
            "status": answer.status,
            "header": grouped(answer.headers),
            "body": base64.b64encode(answer.body).decode("ascii"),
            "retried": self.retried,
            "maxRetries": self.options.retries,
            "dlqId": dlq_id,
            "sourceMessageId": self.id,
            "url": self.url,
            "method": self.options.method,
            "sourceHeader": grouped((*own, *self.options.forward)),
            "sourceBody": base64.b64encode(self.body).decode("ascii"),
            "notBefore": round(self.not_before * 1000),
            "createdAt": round(self.created_at * 1000),
            "callerIP": self.caller_ip,
        }


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that was given up, with the last answer."""

    id: str
    message: Message
    answer: Answer


def grouped(headers: Headers) -> dict[str, list[str]]:
    """Headers in the API's form: each name once, with all its values."""
    shown: dict[str, list[str]] = {}
    for name, value in headers:
        shown.setdefault(name, []).append(value)
    return shown
