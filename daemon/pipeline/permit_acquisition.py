"""The permits of one delivery: which model they are for, and what is reported of that model when they are released.

Keeps token, permits and report of the delivery in step, so that the release always reports of the right model.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import TypeVar

from daemon.domain.errors import ModelUnavailable
from daemon.domain.messages import WorkEntry
from daemon.domain.permits import CallReport, Candidate, Denied, Granted, NoModelAvailable, PermitRequest, nonce_of
from daemon.domain.queues import Tier
from daemon.pipeline.dependencies import Dependencies
from daemon.pipeline.in_flight import InFlight
from daemon.pipeline.model_call import ModelAnswer
from daemon.pipeline.permit_policy import call_report, cooldown_of, has_priority
from daemon.pipeline.retry_while_unavailable import retry_while_unavailable
from daemon.pipeline.route import Plan
from daemon.services import Model

T = TypeVar("T")


class PermitAcquisition:
    """The way of one delivery with this plan into the limiter."""

    def __init__(self, deps: Dependencies, in_flight: InFlight, entry: WorkEntry, plan: Plan) -> None:
        self._deps = deps
        self._in_flight = in_flight
        self._entry = entry
        self._plan = plan
        self._chosen = 0
        self._tried: set[int] = set()
        self._requests = 0  #: sent to the chosen model
        self.available_in_s: float | None = None  #: set when no model is available to this attempt any more
        self._note_model()

    @property
    def model(self) -> Model:
        """The model that the permits are for, or that is asked for first."""
        return self._plan.models[self._chosen]

    @property
    def has_priority(self) -> bool:
        """Whether this task goes before others where they share a model."""
        now_ms = int(self._deps.clock.time() * 1000)
        paid = self._plan.queue.tier is Tier.PAID
        return has_priority(self._entry, now_ms, self._deps.limiter_settings, paid=paid)

    async def acquire(self) -> Denied | None:
        """None: every permit is ours, all or none; else why not. Repeatable: a lost reply is found, not doubled."""
        models = list(range(len(self._plan.models)))
        # By the nonce the permits of a dead process are found (limiter/lua/reassign_permits.lua).
        token = f"{self._entry.message.task_id}:{nonce_of(self._deps.owner)}{secrets.token_hex(8)}"
        request = self._request(token, models)
        step = partial(self._deps.limiter.acquire, request, self._deps.lease_ms)
        return self._granted(request, await self._until_available(step), models)

    async def try_next_model(self, error: ModelUnavailable) -> bool:
        """Whether another model is available instead of the one that `error` is about; shared permits are kept."""
        self._note_unavailable(error)
        self._tried.add(self._chosen)
        left = [i for i in range(len(self._plan.models)) if i not in self._tried]
        held, shared = self._in_flight.held, self._plan.shared
        if error.midway or not left or held.report is None:
            return False
        leaving = tuple(permit for permit in held.permits if permit not in shared)
        request = self._request(held.token, left)
        # A heartbeat could renew a permit that we are giving back: it would find it gone, and fence us.
        self._in_flight.keeps_permits(shared)
        step = partial(self._deps.limiter.switch_model, request, self._deps.lease_ms, leaving, held.report)
        denied = self._granted(request, await self._until_available(step), left)
        if isinstance(denied, NoModelAvailable) and self.available_in_s is not None:
            self.available_in_s = min(self.available_in_s, denied.opens_in_ms / 1000)
        return denied is None

    def call_began(self) -> None:
        """A call begins: what was reserved of the model's rates is spent."""
        self._requests += 1
        self._report(CallReport(self._candidate, "none"))

    def call_answered(self, answer: ModelAnswer) -> None:
        """The model answered; its real usage replaces what was reserved, where it is known."""
        usage = answer.finished.usage
        known = usage.input_tokens is not None and usage.output_tokens is not None
        tokens = (usage.input_tokens or 0) + (usage.output_tokens or 0) if known else None
        self._report(CallReport(self._candidate, "ok", tokens=tokens))

    def call_failed(self, error: Exception) -> None:
        """The call failed."""
        self._report(call_report(self._candidate, error, 0.0))

    def _note_unavailable(self, error: ModelUnavailable) -> None:
        deps = self._deps
        cooldown_s = cooldown_of(error, deps.limiter_settings, deps.retry, deps.random())
        self._report(call_report(self._candidate, error, cooldown_s))
        if error.reason != "UNKNOWN_MODEL":
            self._in_flight.trace.found_unavailable(self.model.id, error.reason)
            self.available_in_s = min(cooldown_s, self.available_in_s or cooldown_s)

    def _report(self, report: CallReport) -> None:
        self._in_flight.learned(replace(report, requests=max(1, self._requests)))

    @property
    def _candidate(self) -> Candidate:
        return self._plan.candidates[self._chosen]

    def _request(self, token: str, models: list[int]) -> PermitRequest:
        return PermitRequest(
            token=token,
            waiter=f"{self._in_flight.delivery.queue}/{self._entry.message.task_id}",
            since_ms=self._entry.accepted_at + int(self._plan.queue.gives_way_s * 1000),
            has_priority=self.has_priority,
            shared=self._plan.shared,
            candidates=tuple(self._plan.candidates[i] for i in models),
        )

    def _granted(self, request: PermitRequest, answer: Granted | Denied, models: list[int]) -> Denied | None:
        if not isinstance(answer, Granted):
            return answer
        self._chosen, self._requests = models[answer.chosen], 0
        self._in_flight.acquired_permits(request.token, answer.permits, CallReport(self._candidate))
        self._note_model()
        return None

    async def _until_available(self, step: Callable[[], Awaitable[T]]) -> T:
        limit_s = self._deps.hold_result_s
        return await retry_while_unavailable(step, self._in_flight.scope, self._deps.clock, limit_s)

    def _note_model(self) -> None:
        model = self.model
        self._in_flight.trace.asks(model.id, model.name, model.provider)
