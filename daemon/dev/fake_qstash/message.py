"""A message, each attempt to deliver it, and the forms in which the API shows them. Data only."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from daemon.dev.fake_qstash.mischief import Mischief
from daemon.dev.fake_qstash.options import Headers, Options


class State(StrEnum):
    """States of a message as the events log names them."""

    CREATED = "CREATED"
    ACTIVE = "ACTIVE"
    RETRY = "RETRY"
    ERROR = "ERROR"
    DELIVERED = "DELIVERED"
    FAILED = "FAILED"
    CANCEL_REQUESTED = "CANCEL_REQUESTED"
    CANCELED = "CANCELED"


@dataclass(slots=True)
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
        names = {name.lower(): value.lower() for name, value in self.headers}
        return self.status == 489 and names.get("upstash-nonretryable-error") == "true"

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
    topic: str | None = None
    endpoint: str | None = None
    schedule_id: str | None = None
    source_id: str | None = None  #: set on callbacks: the message they tell about
    retried: int = 0
    state: State = State.CREATED
    cancelled: bool = False
    parked: asyncio.Future[object] | None = None  #: what it waits for, when it waits
    overtaken: asyncio.Future[object] | None = None  #: set while it lets a later message to the same URL pass
    ended: bool = False
    watchers: list[asyncio.Future[object]] = field(default_factory=list)  #: done once it has ended

    @property
    def at_rest(self) -> bool:
        """It waits for time or for its turn, and nothing has woken it yet."""
        return self.parked is not None and not self.parked.done()

    def header(self) -> dict[str, list[str]]:
        """The publisher's own headers, as the API shows them."""
        shown: dict[str, list[str]] = {}
        if self.options.content_type is not None:
            shown["Content-Type"] = [self.options.content_type]
        for name, value in self.options.forward:
            shown.setdefault(name, []).append(value)
        return shown

    def as_json(self) -> dict[str, Any]:
        """The message as `GET /v2/messages/{id}` shows it; absent values are left out."""
        options, flow = self.options, self.options.flow
        shown = {
            "messageId": self.id,
            "url": self.url,
            "topicName": self.topic,
            "endpointName": self.endpoint,
            "queueName": self.queue,
            "scheduleId": self.schedule_id,
            "method": options.method,
            "header": self.header(),
            **text_or_base64("body", self.body),
            "maxRetries": options.retries,
            "retryDelayExpression": options.retry_delay.text if options.retry_delay else None,
            "notBefore": milliseconds(self.not_before),
            "createdAt": milliseconds(self.created_at),
            "callback": options.callback,
            "callbackHeader": grouped(options.callback_headers) or None,
            "failureCallback": options.failure_callback,
            "failureCallbackHeader": grouped(options.failure_callback_headers) or None,
            "callerIP": self.caller_ip,
            "label": options.label,
            "flowControlKey": flow.key if flow else None,
            "parallelism": flow.parallelism if flow else None,
            "rate": flow.rate if flow else None,
            "period": int(flow.period_s) if flow and flow.rate else None,
        }
        return {name: value for name, value in shown.items() if value is not None}

    def callback_json(self, answer: Answer, dlq_id: str | None) -> dict[str, Any]:
        """The documented body of a callback; `dlqId` only in the one after the last failure."""
        told = {
            "status": answer.status,
            "header": grouped(answer.headers),
            "body": base64.b64encode(answer.body).decode("ascii"),
            "retried": self.retried,
            "maxRetries": self.options.retries,
            "dlqId": dlq_id,
            "sourceMessageId": self.id,
            "topicName": self.topic,
            "endpointName": self.endpoint,
            "url": self.url,
            "method": self.options.method,
            "sourceHeader": self.header(),
            "sourceBody": base64.b64encode(self.body).decode("ascii"),
            "notBefore": milliseconds(self.not_before),
            "createdAt": milliseconds(self.created_at),
            "scheduleId": self.schedule_id,
            "callerIP": self.caller_ip,
        }
        return {name: value for name, value in told.items() if value is not None}


def milliseconds(instant: float) -> int:
    """Unix milliseconds of unix seconds."""
    return round(instant * 1000)


def grouped(headers: Headers) -> dict[str, list[str]]:
    """Headers in the API's form: each name once, with all its values."""
    shown: dict[str, list[str]] = {}
    for name, value in headers:
        shown.setdefault(name, []).append(value)
    return shown


def text_or_base64(name: str, raw: bytes) -> dict[str, str]:
    """`name` with the text, or `nameBase64` when the bytes are not UTF-8."""
    try:
        return {name: raw.decode("utf-8")}
    except UnicodeDecodeError:
        return {f"{name}Base64": base64.b64encode(raw).decode("ascii")}
