"""The record that walks through the steps of one delivery: what each step found, for those after it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Any, TypeVar

from daemon.domain.errors import Code, LeaseLost, TaskError
from daemon.domain.events import Stage
from daemon.domain.messages import TaskIdentity, WorkEntry
from daemon.domain.model_io import ModelRequest
from daemon.pipeline.dependencies import Dependencies
from daemon.pipeline.in_flight import InFlight
from daemon.pipeline.model_call import ModelAnswer
from daemon.pipeline.permit_acquisition import PermitAcquisition
from daemon.pipeline.retry_while_unavailable import retry_while_unavailable
from daemon.pipeline.route import Plan
from daemon.ports import Appended, Claimed, DeltaWriter

T = TypeVar("T")


class Phase(Enum):
    """How far a delivery has come; decides what an error means."""

    UNCLAIMED = auto()  #: no attempt yet: an error ends the task
    CLAIMED = auto()  #: the row has an attempt, which has not begun: an error leaves the entry pending
    RUNNING = auto()  #: an error is a failure of this attempt
    ENDED = auto()  #: the row has left `running`: only events, permits and entry are left


@dataclass(slots=True)
class Execution:
    """One delivery on its way through the steps. A field without a default is set by the step that is named."""

    deps: Dependencies
    in_flight: InFlight
    phase: Phase = Phase.UNCLAIMED
    stage: Stage = Stage.LOAD  #: named in the event of a failed attempt
    entry: WorkEntry = field(init=False)  # read_entry
    task: TaskIdentity = field(init=False)  # read_entry
    plan: Plan = field(init=False)  # make_plan
    permits: PermitAcquisition = field(init=False)  # acquire_permits
    claim: Claimed = field(init=False)  # claim_attempt
    request: ModelRequest = field(init=False)  # load_request
    writer: DeltaWriter | None = None  # load_request, for streams
    answer: ModelAnswer = field(init=False)  # call_model
    data: Any = None  # call_model, for json services

    async def until_available(self, step: Callable[[], Awaitable[T]], *, interruptible: bool = True) -> T:
        """The answer of `step`, tried again while its server is away; see `retry_while_unavailable`."""
        scope = self.in_flight.scope if interruptible else None
        return await retry_while_unavailable(step, scope, self.deps.clock, self.deps.hold_result_s)

    def check_appended(self, appended: Appended) -> None:
        """Interrupt the call if the event stream says that it was cancelled, or that a higher attempt exists."""
        if appended.cancel:
            self.in_flight.scope.interrupt(TaskError(code=Code.CANCELLED))
        elif not appended.accepted:
            self.in_flight.scope.interrupt(LeaseLost("the event stream has seen a higher attempt, or another owner"))

    async def raise_attempt(self, to: int) -> None:
        """Give our attempt, which has not begun, the number `to`. Raises `LeaseLost` when it is not ours any more."""
        task_id, attempt, ledger = self.task.task_id, self.claim.attempt, self.deps.ledger
        if not await self.until_available(lambda: ledger.raise_attempt(task_id, attempt, self.deps.owner, to)):
            raise LeaseLost(f"attempt {attempt} was taken over before it began")
        self.claim = replace(self.claim, attempt=to)
        self.in_flight.claimed(to)

    @property
    def cancelled(self) -> TaskError | None:
        """The cancel that was asked for at a moment when no call could be interrupted by it."""
        why = self.in_flight.scope.interrupted
        return why if isinstance(why, TaskError) else None

    def row_ended(self) -> None:
        """The row has left `running`, by our own doing or by that of an earlier process."""
        self.in_flight.released_row()
        self.phase = Phase.ENDED

    def abandon_text(self) -> None:
        """Send no more deltas if the attempt stops before its result was committed."""
        if self.phase is Phase.RUNNING and self.writer is not None:
            self.writer.abandon()
