"""What this process holds for one delivery while it runs: the entry, the places, the attempt. The lease renews it.

Filled in by the pipeline step by step, read by `worker.lease`; the two meet nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from daemon.pipeline.scope import CallScope
from daemon.ports import Delivery, GuardPlace


@dataclass(slots=True, eq=False)
class Hold:
    """One delivery that is ours. Mutable on purpose: it is the lease's view of a running attempt."""

    delivery: Delivery
    scope: CallScope = field(default_factory=CallScope)
    attempt: int | None = None  #: set once Postgres has handed it out
    member: str = ""  #: our token in the guards; "" while we hold no place
    places: Sequence[GuardPlace] = ()
    settled: bool = False  #: the entry is no longer ours by our own doing: no beat for it any more

    @property
    def task_id(self) -> str:
        """"" for an entry that can't be read."""
        return self.delivery.entry.message.task_id if self.delivery.entry else ""
