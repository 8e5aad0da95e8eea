"""The way of one delivery into the guards: which model it was let in to, and what is told of that model on the way out.

Keeps the hold's member, places and report in step with each other, so that whoever releases them tells the right thing.
"""

from __future__ import annotations

import secrets
from dataclasses import replace

from daemon.domain.errors import ModelClosed
from daemon.domain.messages import WorkEntry
from daemon.domain.permits import Ask, CallReport, Candidate, Entered, MustWait, Shut
from daemon.domain.queues import Tier
from daemon.pipeline.dependencies import World
from daemon.pipeline.in_flight import Hold
from daemon.pipeline.model_call import Answer
from daemon.pipeline.permit_policy import closing_s, goes_first, report_of
from daemon.pipeline.retry_while_unavailable import Patience
from daemon.pipeline.route import Plan
from daemon.services import Model


class Entrance:
    """The entrance of one delivery with this plan."""

    def __init__(self, world: World, hold: Hold, entry: WorkEntry, patience: Patience, plan: Plan) -> None:
        self._world = world
        self._hold = hold
        self._entry = entry
        self._patience = patience
        self._plan = plan
        self._chosen = 0
        self._tried: set[int] = set()
        self._requests = 0  #: sent to the model that we are let in to
        self.reopens_in_s: float | None = None  #: set when no model is open to this attempt any more
        self._note()

    @property
    def model(self) -> Model:
        """The model that this attempt is let in to, or asks for first."""
        return self._plan.models[self._chosen]

    @property
    def first(self) -> bool:
        """Whether this task goes before others where they share a model."""
        now_ms = int(self._world.clock.time() * 1000)
        paid = self._plan.queue.tier is Tier.PAID
        return goes_first(self._entry, now_ms, self._world.guard_settings, paid=paid)

    async def enter(self) -> MustWait | Shut | None:
        """None: every place is ours, all or none."""
        world = self._world
        # One member for all tries: a reply that was lost is then found, not doubled.
        ask = self._ask(f"{self._entry.message.task_id}:{secrets.token_hex(8)}", range(len(self._plan.models)))
        answer = await self._patience.of(lambda: world.guards.enter(ask, world.lease_ms))
        return self._let_in(ask, answer, range(len(self._plan.models)))

    async def fall_back(self, error: ModelClosed) -> bool:
        """Whether another model is open to us instead of the one that is closed now; our shared places are kept."""
        self._closed(error)
        self._tried.add(self._chosen)
        left = [i for i in range(len(self._plan.models)) if i not in self._tried]
        hold, world = self._hold, self._world
        if error.midway or not left or hold.report is None:
            return False
        report, shared = hold.report, self._plan.shared
        leaving = tuple(place for place in hold.places if place not in shared)
        ask = self._ask(hold.member, left)
        # The beat may renew a place that we are leaving; then it would be lost, and we with it.
        hold.places, hold.report = shared, None
        answer = await self._patience.of(lambda: world.guards.switch(ask, world.lease_ms, leaving, report))
        denied = self._let_in(ask, answer, left)
        if isinstance(denied, Shut) and self.reopens_in_s is not None:
            self.reopens_in_s = min(self.reopens_in_s, denied.opens_in_ms / 1000)
        return denied is None

    def calling(self) -> None:
        """A call begins: what was reserved of the model's rates is spent."""
        self._requests += 1
        self._hold.report = CallReport(self._candidate, "none", requests=self._requests)

    def answered(self, answer: Answer) -> None:
        """The model answered; its real usage replaces what was reserved."""
        usage = answer.finished.usage
        known = usage.input_tokens is not None and usage.output_tokens is not None
        tokens = (usage.input_tokens or 0) + (usage.output_tokens or 0) if known else None
        self._hold.report = CallReport(self._candidate, "ok", tokens=tokens, requests=self._requests)

    def failed(self, error: Exception) -> None:
        """The call failed."""
        self._report(error, 0.0)

    def _closed(self, error: ModelClosed) -> None:
        world = self._world
        closed_s = closing_s(error, world.guard_settings, world.retry, world.random())
        self._report(error, closed_s)
        if error.reason != "UNKNOWN_MODEL":
            self._hold.trace.closed.append((self.model.id, error.reason))
            self.reopens_in_s = min(closed_s, self.reopens_in_s or closed_s)

    def _report(self, error: Exception, closed_s: float) -> None:
        self._hold.report = replace(report_of(self._candidate, error, closed_s), requests=max(1, self._requests))

    @property
    def _candidate(self) -> Candidate:
        return self._plan.candidates[self._chosen]

    def _ask(self, member: str, models: range | list[int]) -> Ask:
        return Ask(
            member=member,
            waiter=f"{self._hold.delivery.queue}/{self._entry.message.task_id}",
            since_ms=self._entry.accepted_at + int(self._plan.queue.gives_way_s * 1000),
            goes_first=self.first,
            shared=self._plan.shared,
            candidates=tuple(self._plan.candidates[i] for i in models),
        )

    def _let_in(self, ask: Ask, answer: Entered | MustWait | Shut, models: range | list[int]) -> MustWait | Shut | None:
        if not isinstance(answer, Entered):
            return answer
        self._chosen, self._requests = models[answer.chosen], 0
        self._hold.member, self._hold.places = ask.member, answer.places
        self._hold.report = CallReport(self._candidate)
        self._note()
        return None

    def _note(self) -> None:
        trace, model = self._hold.trace, self.model
        trace.model_id, trace.model_name, trace.provider = model.id, model.name, model.provider
