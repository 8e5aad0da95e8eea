"""The one light call: believe it, accept it in Redis, answer. Two flushes at most (accept, `queued`).

Handlers raise or return an `RelayResponse`; one place sends it, counts it and, when it refuses, writes one line without
content. A call is never cancelled half-way: a caller that left finds a duplicate when it comes back.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from aiohttp import ClientError, web

from daemon.config import QstashSettings, RelaySettings
from daemon.domain.errors import CODES, Code, RedisFull, Rejected, TaskError
from daemon.domain.events import CURRENT_ATTEMPT, Stage, error
from daemon.domain.messages import BODY_BYTES_MAX, identity_of
from daemon.domain.queues import QueueSpec
from daemon.events.log import EventLog
from daemon.observability.logging import logger
from daemon.observability.metrics import CONTENT_TYPE, Metrics
from daemon.ports import Clock
from daemon.queues.admission import Accepted, Admission, Verdict
from daemon.queues.reservations import Reservations
from daemon.relay.failure_callback import failed_task
from daemon.relay.ingest import Ingested, Route, ingest, route_of
from daemon.relay.responses import RelayResponse, Unauthorized, refusal, response_of, retry_after
from daemon.relay.signature import verify

FAILED_BYTES_MAX: Final = 4 * BODY_BYTES_MAX  #: a failure callback carries the source message as base64, and an answer
INFLIGHT_MAX: Final = 256  #: calls at once; each may hold a body
QUEUED_DEADLINE_S: Final = 0.25  #: `queued` is best effort and must not make an accepted call late
_DEPRECATED: Final = "@1767225600"  # RFC 9745: since 2026-01-01
_UNDELIVERED: Final = error(Stage.DELIVER, Code.DELIVERY_FAILED, CODES[Code.DELIVERY_FAILED].en, retryable=False)
_log = logger("relay")


@dataclass(slots=True)
class Relay:
    """The routes of protocol 6. `closed`: why no call is taken now ("" when open); a drain waits for `inflight` 0."""

    settings: RelaySettings
    qstash: QstashSettings
    signing_keys: Sequence[bytes]
    queues: Mapping[str, QueueSpec]  #: with the `max_size` that is in force
    admission: Admission
    reservations: Reservations
    events: EventLog
    ping: Callable[[], Awaitable[Any]]
    metrics: Metrics
    clock: Clock
    closed: str = ""
    inflight: int = 0

    def app(self) -> web.Application:
        """All routes, ready for a runner."""
        app = web.Application()
        app.router.add_get("/healthz/live", self._handler("live", self._live))
        app.router.add_get("/healthz/ready", self._handler("ready", self._ready))
        app.router.add_get("/metrics", self._metrics)
        app.router.add_post("/api/worker/check", self._handler("check", self._check))
        app.router.add_post("/api/qstash/failed", self._handler("failed", self._failed))
        app.router.add_post(r"/{path:[\s\S]*}", self._handler("task", self._task))
        return app

    def _handler(self, name: str, handle: Callable[[web.Request], Awaitable[RelayResponse]]) -> Callable[..., Any]:
        async def handler(request: web.Request) -> web.Response:
            started, self.inflight = self.clock.monotonic(), self.inflight + 1
            try:
                answer = await handle(request)
            except Exception as problem:  # noqa: BLE001 - the one place that turns what went wrong into an answer
                answer = refusal(problem)
            finally:
                self.inflight -= 1
            self.metrics.relay_requests.labels(name, str(answer.status)).inc()
            self.metrics.relay_request_seconds.labels(name).observe(self.clock.monotonic() - started)
            if name == "task":
                self.metrics.accepted.labels(answer.queue, answer.outcome).inc()
            return self._response(name, request, answer)

        return handler

    def _response(self, name: str, request: web.Request, answer: RelayResponse) -> web.Response:
        body, headers = dict(answer.body), {"Content-Type": "application/json", "Server": "qstreamd"}
        if request.path.startswith("/api/worker/queue/"):
            headers["Deprecation"] = _DEPRECATED
        if answer.status == 489:
            headers["Upstash-NonRetryable-Error"] = "true"
        elif answer.status in {429, 500, 503}:
            known_s = body.get("retryAfter")
            body["retryAfter"] = retry_after(
                answer.status, request.headers.get("Upstash-Retried", ""), known_s, self.settings.retry_after_s
            )
            headers["Retry-After"] = str(body["retryAfter"])
        if answer.status >= 400 and name != "ready":
            why, trace = answer.cause or body.get("message"), answer.cause if answer.status == 500 else None
            _log.warning("call.refused", route=name, status=answer.status, why=why, exc_info=trace)
        return web.Response(status=answer.status, body=msgspec.json.encode(body), headers=headers)

    async def _verified_body(self, request: web.Request, bytes_max: int) -> bytes:
        """The raw body of a signed call that is whole and small enough; a larger one is read off and not kept."""
        if self.closed or self.inflight > INFLIGHT_MAX:
            raise TaskError(self.closed or "too many calls at once", code=Code.WORKER_OVERLOADED)
        self._verify(request, None)
        kept, size, sha256 = bytearray(), 0, hashlib.sha256()
        try:
            # A small body came with its head: then there is nothing to wait for, and no clock to start.
            late = None if request.content.is_eof() else self.settings.body_timeout_s
            async with asyncio.timeout(late):
                async for chunk in request.content.iter_any():
                    sha256.update(chunk)
                    size += len(chunk)
                    if size <= bytes_max:
                        kept += chunk
        except (TimeoutError, ClientError, OSError) as cut:
            raise TaskError("the body did not arrive", code=Code.WORKER_OVERLOADED) from cut
        self._verify(request, sha256.digest())
        if request.headers.get("Content-Encoding", "identity") != "identity":
            raise Rejected("Content-Encoding is not allowed")
        if size > bytes_max:
            raise Rejected(f"the body has {size} bytes; at most {bytes_max} are allowed")
        return bytes(kept)

    def _verify(self, request: web.Request, digest: bytes | None) -> None:
        token, url = request.headers.get("Upstash-Signature"), f"{self.settings.base_url}{_path(request)}"
        now, leeway_s = self.clock.time(), self.qstash.leeway_s
        flaw = verify(token, digest, url, self.signing_keys, now=now, leeway_s=leeway_s)
        if flaw and not self.qstash.skip_verify:
            raise Unauthorized(flaw)

    async def _accept(self, found: Ingested, *, dry_run: bool = False) -> Verdict:
        async with asyncio.timeout(self.settings.redis_deadline_s):
            size = found.queue.max_size or 0
            return await self.admission.accept(
                found.message, found.sha256, size, found.pictures, dry_run=dry_run, traceparent=found.traceparent
            )

    async def _task(self, request: web.Request) -> RelayResponse:
        route = route_of(_path(request))
        if route is None:
            return RelayResponse(404, {"code": "NOT_FOUND", "message": "no such route"}, "rejected")
        found = ingest(await self._verified_body(request, BODY_BYTES_MAX), route, self.queues, request.headers)
        verdict = await self._accept(found)
        if isinstance(verdict, Accepted):
            try:  # as well as it can: whoever appends first otherwise writes `queued`
                async with asyncio.timeout(QUEUED_DEADLINE_S):
                    await self.events.queued(identity_of(found.message), verdict.position, paused=verdict.paused)
            except Exception as problem:  # noqa: BLE001 - the task is accepted: nothing may turn that into a refusal
                self.metrics.redis_errors.labels("full" if isinstance(problem, RedisFull) else "away").inc()
        return response_of(found, verdict)

    async def _check(self, request: web.Request) -> RelayResponse:
        raw = await self._verified_body(request, BODY_BYTES_MAX)
        try:
            found = ingest(raw, Route(), self.queues, request.headers)
            answer = response_of(found, await self._accept(found, dry_run=True))
        except TaskError as problem:
            answer = refusal(problem)
        return RelayResponse(200, {"accepted": answer.status == 200, "answer": answer.status, **answer.body})

    async def _failed(self, request: web.Request) -> RelayResponse:
        task = failed_task(await self._verified_body(request, FAILED_BYTES_MAX))
        if task is None:
            return RelayResponse(200, {"status": "ignored"})
        async with asyncio.timeout(self.settings.redis_deadline_s):
            failed = await self.reservations.cancel(task.queue_id, task.task_id)
            if failed:
                await self.events.append(task, CURRENT_ATTEMPT, [_UNDELIVERED])
        return RelayResponse(200, {"taskId": task.task_id, "status": "failed" if failed else "accepted"})

    async def _live(self, _: web.Request) -> RelayResponse:
        return RelayResponse(200, {"status": "live"})

    async def _ready(self, _: web.Request) -> RelayResponse:
        if self.closed:
            return RelayResponse(503, {"status": self.closed})
        async with asyncio.timeout(1):
            await self.ping()
        return RelayResponse(200, {"status": "ready"})

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=self.metrics.render(), headers={"Content-Type": CONTENT_TYPE})


def _path(request: web.Request) -> str:
    return request.raw_path.partition("?")[0]
