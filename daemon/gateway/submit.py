"""`POST /api/tasks`: a server hands a task over.

Place taken, `queued` written, published, answered, in this order. A crash between two of these leaves a promise that
expires; a call that is repeated finds what the first one did. Server to server: login, quota and billing stay with the
caller.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from aiohttp import web

from daemon.config import GatewaySettings
from daemon.domain.errors import CODES, Code, RedisAway, RedisFull, Rejected
from daemon.domain.messages import identity_of
from daemon.domain.queues import QueueSpec
from daemon.events.log import EventLog
from daemon.gateway.access import Access, address_of
from daemon.gateway.qstash import PublishRefused, PublishUnknown, Qstash
from daemon.gateway.rate_limit import RateLimiter
from daemon.gateway.responses import Refused, busy, json_answer
from daemon.gateway.shielded_tasks import ShieldedTasks
from daemon.gateway.submission import CheckedSubmission, Submission, check_submission, read
from daemon.gateway.tokens import Tokens
from daemon.observability.logging import logger
from daemon.observability.metrics import Metrics
from daemon.observability.traceparent import HEADER, parse
from daemon.ports import Clock
from daemon.queues.admission import Accepted, Admission, Conflict, Full, Verdict
from daemon.queues.reservations import Reservation, Reservations, Reserved
from daemon.services import ServiceCatalog
from daemon.store.audit import AuditLog

BODY_S: Final = 10.0  #: for a body to arrive
FULL_RETRY_AFTER_S: Final = 20
TOKEN_SPARE_S: Final = 3600  #: beyond a delay, for the token of a delayed task

_log = logger("gateway")


class ServicesInForce(NamedTuple):
    """What the services file says now: services and models, and the queues with their sizes in force."""

    catalog: ServiceCatalog
    queues: Mapping[str, QueueSpec]


class Submit:
    """The producers' door. `qstash` None: straight to the stream."""

    def __init__(
        self,
        *,
        admission: Admission,
        reservations: Reservations,
        events: EventLog,
        qstash: Qstash | None,
        services: Callable[[], ServicesInForce],
        access: Access,
        tokens: Tokens,
        audit: AuditLog,
        settings: GatewaySettings,
        metrics: Metrics,
        clock: Clock,
        shielded: ShieldedTasks,
    ) -> None:
        self._admission = admission
        self._reservations = reservations
        self._events = events
        self._qstash = qstash
        self._services = services
        self._access = access
        self._tokens = tokens
        self._audit = audit
        self._base_url = settings.public_url or ""
        self._rate = RateLimiter(clock, settings.submits_per_minute, settings.submits_per_minute / 6)
        self._metrics = metrics
        self._clock = clock
        self._shielded = shielded

    def routes(self) -> list[web.RouteDef]:
        """What to add to the application."""
        return [web.post("/api/tasks", self.tasks)]

    async def tasks(self, request: web.Request) -> web.StreamResponse:
        """202 with where to follow the task; 400, 401, 413, 422 (same id, other body), 429, 503."""
        caller = self._access.caller(request)
        wait_s = self._rate.wait_s(caller)
        if wait_s:
            raise Refused(429, Code.RATE_LIMITED, "too many calls with this key", retry_after_s=wait_s)
        try:
            async with asyncio.timeout(BODY_S):
                raw = await request.read()
        except TimeoutError:
            raise Refused(408, "BODY_TIMEOUT", "the body did not arrive") from None
        submission = read(raw, self._clock.time(), parse(request.headers.get(HEADER)))
        if submission.delay_s is not None and self._qstash is None:
            raise Rejected("delay: needs QStash; this gateway writes straight to the stream")
        # A caller that hangs up must not leave a place taken for a message that nobody publishes.
        checked, outcome = await self._shielded.run(self._admit(submission))
        self._note(caller, address_of(request), submission.task_id, checked, outcome)
        return self._answer(submission, checked)

    async def _admit(self, submission: Submission) -> tuple[CheckedSubmission, str]:
        """The queue that took it, and what became of it there."""
        services, now = self._services(), self._clock.time()
        candidates = submission.queues
        # A call that is repeated goes where the first one went. In a second queue it would be told 202 and never run.
        known = await self._reservations.queue_of(
            list(dict.fromkeys((*candidates, *services.queues))), submission.task_id
        )
        if known is not None and known not in candidates:
            raise Refused(422, Code.INVALID_PAYLOAD, f"taskId: was submitted before, to {known}")
        candidates = candidates if known is None else (known,)
        refused: Exception | None = None
        for queue_id in candidates:
            try:
                checked = check_submission(submission, queue_id, services.queues, services.catalog, now)
            except Rejected as error:
                refused = refused or error
                continue
            verdict = await self._reserve(checked, submission)
            if not isinstance(verdict, Full):
                return checked, await self._publish(checked, submission, verdict)
            wait_s = FULL_RETRY_AFTER_S if verdict.retry_after_s is None else max(1.0, verdict.retry_after_s)
            refused = Refused(429, Code.QUEUE_FULL, CODES[Code.QUEUE_FULL].en, retry_after_s=wait_s)
        assert refused is not None
        raise refused

    async def _reserve(self, checked: CheckedSubmission, submission: Submission) -> Reservation | Verdict:
        limit = checked.queue.max_size or 0
        if self._qstash is None:
            carried = submission.publishing.traceparent
            return await self._admission.accept(
                checked.message, checked.sha256, limit, checked.pictures, traceparent=carried
            )
        return await self._reservations.reserve(
            checked.queue.name, submission.task_id, checked.sha256, limit, delay_s=submission.delay_s
        )

    async def _publish(self, checked: CheckedSubmission, submission: Submission, verdict: Reservation | Verdict) -> str:
        if isinstance(verdict, Conflict):
            raise Refused(422, Code.INVALID_PAYLOAD, "taskId: was submitted before with another body")
        if not isinstance(verdict, Accepted | Reserved):
            return "duplicate"
        try:
            await self._events.queued(identity_of(checked.message), verdict.position or None)
        except (RedisAway, RedisFull):  # as well as it can: whoever appends first otherwise writes it
            self._metrics.redis_errors.labels("away").inc()
        if self._qstash is None:
            return "queued"
        try:
            await self._qstash.publish(checked.message, checked.queue.mode, checked.raw, submission.publishing)
        except PublishRefused as error:
            await self._reservations.cancel(checked.queue.name, submission.task_id)
            raise busy("the task could not be handed over; try again") from error
        except PublishUnknown as error:  # it may be delivered: its place stays promised until it is, or expires
            raise busy("whether the task was handed over is unknown; the same call again is safe") from error
        return "published"

    def _note(self, caller: str, ip: str, task_id: str, checked: CheckedSubmission, outcome: str) -> None:
        message = checked.message
        ids = {"queueId": message.queue_id, "serviceId": message.service_id, "userId": message.user_id}
        self._audit.note(
            "task.submit", task_id, actor=caller, role="api_key", ip=ip, result=outcome,
            request_id=identity_of(message).request_id, params=ids,
        )  # fmt: skip
        _log.info("task.submitted", task_id=task_id, queue=message.queue_id, caller=caller, outcome=outcome)

    def _answer(self, submission: Submission, checked: CheckedSubmission) -> web.Response:
        task_id = submission.task_id
        ttl_s = None if submission.delay_s is None else submission.delay_s + TOKEN_SPARE_S
        return json_answer(
            202,
            {
                "taskId": task_id,
                "queueId": checked.queue.name,
                "sseUrl": f"{self._base_url}/api/tasks/{task_id}/events",
                "token": self._tokens.task_token(task_id, ttl_s),
            },
        )
