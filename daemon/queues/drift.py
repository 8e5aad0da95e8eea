"""Repairs of a queue's counter: the number that producers see, held against the set of task ids behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from daemon.config import QueueSettings
from daemon.ports import Clock
from daemon.queues import scripts as lua
from daemon.queues.reservations import Reservations
from daemon.redis_client import keys
from daemon.redis_client.connection import translated
from daemon.redis_client.scripts import Scripts


@dataclass(frozen=True, slots=True)
class Repairs:
    """What one look put right: the counter raised or lowered by so much, and promises that nobody kept."""

    raised: int = 0
    lowered: int = 0
    expired: int = 0


class Drift:
    """Looks at counters on behalf of one process."""

    def __init__(self, scripts: Scripts, settings: QueueSettings, clock: Clock) -> None:
        self._scripts = scripts
        self._reservations = Reservations(scripts, settings)
        self._ttl_ms = int(settings.promise_ttl_s * 1000)

    async def counted(self, queues: Sequence[str]) -> list[str]:
        """Those of `queues` whose counter stands at anything but nothing; one command for all.

        Where nothing is counted and nothing runs, nothing is to be repaired, unless something was counted before: a
        counter lost with places behind it still refuses (the door counts the places too), and shows too little.
        """
        with translated():
            counters = await self._scripts.client.mget([keys.queue_keys(queue).counter for queue in queues])
        return [queue for queue, count in zip(queues, counters, strict=True) if count not in (None, b"0")]

    async def repair(self, queue: str, mark_ms: int) -> Repairs:
        """Too low is raised at once; of a surplus the smallest of a whole promise time goes; old promises go.

        Nothing while another process has looked within `mark_ms`. One flush, or two when a promise is old; repeatable.
        """
        names = keys.queue_keys(queue)
        old, raised, lowered = await self._scripts.one(
            lua.reconcile(
                counter=names.counter,
                waiting=names.waiting,
                drift=names.drift,
                mark=keys.reconciling(queue),
                reservation_ttl_ms=self._ttl_ms,
                mark_ms=mark_ms,
            )
        )
        return Repairs(raised, lowered, await self._reservations.expire(queue) if old else 0)
