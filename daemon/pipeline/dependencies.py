"""What the pipeline is given: ports, settings, and chance. Built once by `processes.consumer`.

Every field may be a fake in a test.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Protocol

from daemon.config import GuardSettings, LeaseSettings, RetrySettings
from daemon.pipeline.refused_parameters import RefusedParameters
from daemon.pipeline.retry_budget import RetryBudget
from daemon.ports import Blobs, Clock, ConcurrencyLimiter, Delivery, Deltas, Ledger, Provider, Settlement, Templates
from daemon.services import ServiceCatalog


class Quarantined(Protocol):
    """A child process that was started and has no task yet."""

    async def take(self, d: Delivery) -> bool:
        """Make our entry the child's; False: it was not ours any more. Repeatable."""

    def discard(self) -> None:
        """End it: it gets no task."""


class Quarantine(Protocol):
    """Child processes that run one task each, beside the ordinary slots."""

    @property
    def has_slot(self) -> bool:
        """Whether another child may be started now."""

    async def start(self, queue: str, life_s: float) -> Quarantined | None:
        """A child for a task of `queue`, killed after `life_s`. None: none can be started."""

    def waits(self, d: Delivery) -> None:
        """This task was snoozed until there is room: it is called then."""


@dataclass(frozen=True, slots=True)
class Dependencies:
    """The pipeline's surroundings."""

    ledger: Ledger
    limiter: ConcurrencyLimiter
    settlement: Settlement
    deltas: Deltas
    templates: Templates
    blobs: Blobs
    provider: Callable[[str, str], Provider]  #: by vendor and proxy; raises TaskError when its key is missing
    catalog: Callable[[], ServiceCatalog]  #: the services file in force now; an attempt keeps the one it began with
    clock: Clock
    random: Callable[[], float]  #: in [0, 1)
    owner: str  #: the consumer name, as the row keeps it
    limiter_settings: GuardSettings
    retry: RetrySettings
    lease: LeaseSettings
    budget: RetryBudget
    hold_result_s: float  #: how long a dependency may stay away before the entry is left to be found again
    #: attempts of a queue at once over all processes, as its control says now; None: no such limit
    queue_limit: Callable[[str], int | None] = field(default=lambda _: None)
    refusals: RefusedParameters = field(default_factory=RefusedParameters)
    dead_owners: Collection[str] = ()  #: proved dead, as of now: what runs under their names may be taken
    quarantine: Quarantine | None = None  #: None: the last crash is a dead letter, wherever it happens
    in_quarantine: bool = False  #: this process is a child that runs one task; its parent judges its end

    @property
    def lease_ms(self) -> int:
        """The lease in whole milliseconds, as the scripts take it."""
        return int(self.lease.lease_s * 1000)
