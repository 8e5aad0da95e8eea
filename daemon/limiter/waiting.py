"""Why a task waits and how full the queues are: looks only, changes nothing. Called by the gateway."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from redis.asyncio import Redis

from daemon.domain.events import Reason
from daemon.domain.queues import is_paused
from daemon.redis_client import keys
from daemon.redis_client.connection import translated


@dataclass(frozen=True, slots=True)
class WaitStatus:
    """What is known of a wait; None: not known."""

    reason: str | None = None  #: a `Reason`
    position: int | None = None  #: among those that have not started yet, from 1
    eta_s: float | None = None  #: until it is tried again; a guess only where a time is set


@dataclass(frozen=True, slots=True)
class QueueSize:
    """How full a queue is. `limit` None: no limit of its own in its control hash."""

    waiting: int
    limit: int | None
    paused: bool


class _Held(msgspec.Struct):
    parked: str = ""


_held: Final = msgspec.json.Decoder(_Held).decode


class WaitReader:
    """Looks into the queues."""

    def __init__(self, client: Redis) -> None:
        self._client = client

    async def of(self, queue: str, task_id: str, now: float) -> WaitStatus:
        """Why this task waits; one flush. `now` in unix seconds."""
        names = keys.queue_keys(queue)
        with translated():
            pipe = self._client.pipeline(transaction=False)
            pipe.zrank(names.waiting, task_id)
            pipe.zscore(names.retry, task_id)
            pipe.hget(names.held, task_id)
            pipe.hget(names.control, "paused")
            rank, due, held, paused = await pipe.execute()
        reason = _reason(held)
        if is_paused(paused):
            reason = Reason.QUEUE_PAUSED.value
        eta_s = None if due is None else round(max(0.0, float(due) / 1000 - now), 1)
        return WaitStatus(reason, None if rank is None else int(rank) + 1, eta_s)

    async def queues(self, queues: Sequence[str]) -> dict[str, QueueSize]:
        """The size of each queue; one flush."""
        with translated():
            pipe = self._client.pipeline(transaction=False)
            for queue in queues:
                names = keys.queue_keys(queue)
                pipe.get(names.counter)
                pipe.hmget(names.control, ["maxSize", "paused"])
            replies = await pipe.execute()
        return {queue: _size(replies[2 * at], replies[2 * at + 1]) for at, queue in enumerate(queues)}


def _size(counter: bytes | None, control: list[bytes | None]) -> QueueSize:
    limit, paused = control
    return QueueSize(max(0, _number(counter) or 0), _number(limit), is_paused(paused))


def _number(raw: bytes | None) -> int | None:
    try:
        return None if raw is None else int(raw)
    except ValueError:
        return None


def _reason(held: Any) -> str | None:
    try:
        return (_held(held).parked or None) if held else None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
