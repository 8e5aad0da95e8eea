"""Publishing to QStash: the one call of its API that the gateway makes, with the options of the official clients.

The task id is the deduplication id, so a call whose answer was lost may be repeated. Never logs a body or the token.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import aiohttp

from daemon.config.types import SecretStr
from daemon.domain.errors import QstreamdError
from daemon.domain.messages import TaskMessage
from daemon.domain.queues import Mode
from daemon.observability.logging import logger

CALL_S: Final = 5.0
TRIES_MAX: Final = 3
_PAUSE_S: Final = (0.2, 0.8)

_log = logger("gateway")


class PublishRefused(QstreamdError):
    """QStash will not deliver this message; the text names its status."""


class PublishUnknown(QstreamdError):
    """QStash did not answer: it may deliver the message or not."""


@dataclass(frozen=True, slots=True)
class FlowControl:
    """QStash's own limits for messages that share `key`."""

    key: str
    parallelism: int | None = None
    rate: int | None = None
    period_s: int | None = None

    @property
    def value(self) -> str:
        """As `Upstash-Flow-Control-Value` wants it."""
        period = None if self.period_s is None else f"{self.period_s}s"
        limits = {"parallelism": self.parallelism, "rate": self.rate, "period": period}
        return ",".join(f"{name}={value}" for name, value in limits.items() if value is not None)


@dataclass(frozen=True, slots=True)
class Publishing:
    """How a message is to be delivered; None: QStash's default. `delay_s` and `not_before` (unix s) exclude each other.

    QStash's defaults retry three times within minutes; five tries outlast a restart of the relay.
    """

    delay_s: int | None = None
    not_before: int | None = None
    retries: int | None = 5
    flow_control: FlowControl | None = None
    traceparent: str = ""  #: of the call that submits; passed on to the relay

    def headers(self) -> dict[str, str]:
        """The options as QStash reads them."""
        flow = self.flow_control
        given = {
            "Upstash-Delay": None if self.delay_s is None else f"{self.delay_s}s",
            "Upstash-Not-Before": None if self.not_before is None else str(self.not_before),
            "Upstash-Retries": None if self.retries is None else str(self.retries),
            "Upstash-Flow-Control-Key": flow.key if flow else None,
            "Upstash-Flow-Control-Value": flow.value if flow else None,
            "Upstash-Forward-traceparent": self.traceparent or None,
        }
        return {name: value for name, value in given.items() if value is not None}


class Qstash:
    """One account. `relay_url` is the relay as QStash reaches it."""

    def __init__(self, http: aiohttp.ClientSession, url: str, token: SecretStr, relay_url: str) -> None:
        self._http = http
        self._publish_url = f"{url}/v2/publish/{relay_url}"
        self._fixed: Mapping[str, str] = {
            "Authorization": f"Bearer {token.get_secret_value()}",
            "Content-Type": "application/json",
            "Upstash-Method": "POST",
            "Upstash-Failure-Callback": f"{relay_url}/api/qstash/failed",
        }

    async def publish(self, message: TaskMessage, mode: Mode, raw: bytes, options: Publishing) -> str:
        """Hand the message over; its id at QStash. Raises `PublishRefused` or `PublishUnknown`. Repeatable."""
        url = f"{self._publish_url}/api/worker/{mode}/{message.service_id}"
        headers = {**self._fixed, "Upstash-Deduplication-Id": message.task_id, **options.headers()}
        asked = False  # whether QStash may have got it in an earlier try
        for tried in range(TRIES_MAX):
            if tried:
                await asyncio.sleep(_PAUSE_S[tried - 1])
            try:
                async with asyncio.timeout(CALL_S), self._http.post(url, data=raw, headers=headers) as answer:
                    if answer.status < 300:
                        found = await answer.json(content_type=None)
                        return str(found.get("messageId", "")) if isinstance(found, dict) else ""
                    status = answer.status
            except aiohttp.ClientConnectorError:
                continue
            except (TimeoutError, aiohttp.ClientError, ValueError):
                asked = True
                continue
            if status < 500 and status != 429:
                _log.error("publish.refused", status=status, task_id=message.task_id)
                raise PublishRefused(f"QStash answered {status}")
            asked = asked or status >= 500
            _log.warning("publish.failed", status=status, task_id=message.task_id)
        if asked:
            raise PublishUnknown("QStash did not say that it has the message")
        raise PublishRefused("QStash can't be reached or takes no more messages now")
