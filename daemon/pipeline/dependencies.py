"""What the pipeline is given: ports, settings, and chance. Built once by `processes.consumer`.

Every field may be a fake in a test.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from daemon.config import GuardSettings, LeaseSettings, RetrySettings
from daemon.pipeline.refused_parameters import RefusedParameters
from daemon.pipeline.retry_budget import RetryBudget
from daemon.ports import Blobs, Clock, ConcurrencyLimiter, DeltaSink, Ledger, Provider, Settlement, Templates
from daemon.services import ServiceCatalog


@dataclass(frozen=True, slots=True)
class Dependencies:
    """The pipeline's surroundings."""

    ledger: Ledger
    limiter: ConcurrencyLimiter
    settlement: Settlement
    deltas: DeltaSink
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

    @property
    def lease_ms(self) -> int:
        """The lease in whole milliseconds, as the scripts take it."""
        return int(self.lease.lease_s * 1000)
