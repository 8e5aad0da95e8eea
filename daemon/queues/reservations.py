"""Slots that a producer reserves before it publishes: reserve, look up, cancel, expire.

Each call is one flush and may be repeated. The scripts keep the counter and the set of reservations in step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from daemon.config import QueueSettings
from daemon.queues import scripts as lua
from daemon.queues.admission import Accepted, Conflict, Duplicate, Full, verdict_of
from daemon.redis_client import keys
from daemon.redis_client.connection import translated
from daemon.redis_client.scripts import Scripts

#: members of `waiting` that one search for expired reservations reads, oldest first
_EXPIRE_BATCH: Final = 5000


@dataclass(frozen=True, slots=True)
class Reserved:
    """Its slot is reserved. `position`: among the waiting, from 1; 0: it takes its slot at delivery."""

    position: int


Reservation = Reserved | Duplicate | Conflict | Full


class Reservations:
    """Reserves slots on behalf of one process."""

    def __init__(self, scripts: Scripts, settings: QueueSettings) -> None:
        self._scripts = scripts
        self._settings = settings

    async def reserve(
        self, queue: str, task_id: str, sha256: str, max_size: int, *, delay_s: float | None = None
    ) -> Reservation:
        """Reserve a slot for a task that is published next, or say why not; one flush.

        The reservation expires after `promise_ttl_s` unless the message comes (`accept` keeps the slot). With `delay_s`
        only the body is remembered: a delayed message takes its slot at delivery. May be repeated: `Reserved` again.
        Raises as `Admission.accept`.
        """
        names, ttl_ms = keys.queue_keys(queue), int(self._settings.promise_ttl_s * 1000)
        reply = await self._scripts.one(
            lua.reserve(
                seen=keys.dedup(queue, task_id),
                waiting=names.waiting,
                counter=names.counter,
                control=names.control,
                reservation=keys.reservation(queue, task_id),
                pace=names.start_interval,
                task_id=task_id,
                sha256=sha256,
                max_size=max_size,
                record_ttl_ms=ttl_ms + int((delay_s or 0.0) * 1000),
                reservation_ttl_ms=ttl_ms,
                seen_prefix=keys.dedup(queue, ""),
                takes_occupancy=delay_s is None,
            )
        )
        if reply[0] == b"promised":
            return Reserved(reply[1])
        verdict = verdict_of(reply)
        assert not isinstance(verdict, Accepted)
        return verdict

    async def queue_of(self, queues: Sequence[str], task_id: str) -> str | None:
        """The first of `queues` that knows this task, as reserved or accepted; one flush."""
        with translated():
            pipe = self._scripts.client.pipeline(transaction=False)
            for queue in queues:
                pipe.exists(keys.dedup(queue, task_id), keys.reservation(queue, task_id))
            found = await pipe.execute()
        return next((queue for queue, known in zip(queues, found, strict=True) if known), None)

    async def expire(self, queue: str) -> int:
        """Release the slots of reservations that have expired; how many. One flush."""
        names, ttl_ms = keys.queue_keys(queue), int(self._settings.promise_ttl_s * 1000)
        call = lua.expire_reservations(
            waiting=names.waiting,
            counter=names.counter,
            reservation_ttl_ms=ttl_ms,
            seen_prefix=keys.dedup(queue, ""),
            batch=_EXPIRE_BATCH,
        )
        return int(await self._scripts.one(call))

    async def cancel(self, queue: str, task_id: str) -> bool:
        """Release a reserved slot, once; False when the message was accepted after all, and nothing changed."""
        names = keys.queue_keys(queue)
        accepted, _clamped = await self._scripts.one(
            lua.cancel_reservation(
                seen=keys.dedup(queue, task_id),
                waiting=names.waiting,
                counter=names.counter,
                reservation=keys.reservation(queue, task_id),
                task_id=task_id,
            )
        )
        return not accepted
