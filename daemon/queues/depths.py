"""How much waits, runs and is held, read from where it is true; changes nothing.

One script a queue and one for what all queues share, all in one flush: a look costs seven commands for six queues, so
that it can be paid for where commands are billed. Called by `worker` for metrics and for what a daemon should have
heard.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from daemon.domain.queues import Tier
from daemon.queues import scripts as lua
from daemon.queues.control import Control, parse
from daemon.redis_client import keys
from daemon.redis_client.scripts import Call, Scripts


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """One queue over all processes."""

    queue: str
    waiting: int  #: accepted, or called again, and read by nobody yet
    running: int
    delayed: int  #: parked, or to be tried again
    dead: int
    occupancy: int  #: promised or accepted and not started: what is held against the queue's size
    oldest_at_s: float | None  #: when the oldest that waits came (unix, server's clock); None: nobody waits
    consumers: int  #: that live and read it
    control: Control

    @property
    def paused(self) -> bool:
        """Whether an operator has stopped it."""
        return self.control.paused


@dataclass(frozen=True, slots=True)
class Depths:
    """One look. `permits_in_use`: by model and tier; `unavailable`: models that no process may call now, and why."""

    at_s: float  #: the server's clock
    queues: tuple[QueueDepth, ...]
    permits_in_use: Mapping[tuple[str, Tier], int]
    unavailable: Mapping[str, str]
    memory_bytes: int | None  #: of the server; None: it does not say
    memory_bytes_max: int | None  #: 0: no limit


class DepthReader:
    """Looks at the given queues and models."""

    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts

    async def read(self, queues: Sequence[str], models: Sequence[str]) -> Depths:
        """One look in one flush. Raises `RedisAway`; a queue that was never used has zeros."""
        limiters = [(model, tier) for model in models for tier in Tier]
        shared = lua.shared_depths(
            permits=[keys.model_permits(model, tier) for model, tier in limiters],
            closed=[keys.model_keys(model).cooldown for model in models],
        )
        calls = [shared, *(_call(queue) for queue in queues)]
        (now_ms, members, permits_in_use, unavailable, memory, most), *each = await self._scripts.run(calls)
        alive = Counter(member.decode().partition("/")[0] for member in members)
        return Depths(
            at_s=now_ms / 1000,
            queues=tuple(_depth(queue, reply, alive[queue]) for queue, reply in zip(queues, each, strict=True)),
            permits_in_use=dict(zip(limiters, permits_in_use, strict=True)),
            unavailable={model: why.decode() for model, why in zip(models, unavailable, strict=True) if why},
            memory_bytes=None if memory < 0 else memory,
            memory_bytes_max=None if most < 0 else most,
        )


def _call(queue: str) -> Call:
    k = keys.queue_keys(queue)
    return lua.depths(ready=k.ready, tasks=k.tasks, retry=k.retry, dead=k.dead, counter=k.counter, control=k.control)


def _depth(queue: str, reply: Sequence[Any], consumers: int) -> QueueDepth:
    waiting, running, delayed, dead, occupancy, oldest_ms, control = reply
    return QueueDepth(
        queue=queue,
        waiting=waiting,
        running=running,
        delayed=delayed,
        dead=dead,
        occupancy=occupancy,
        oldest_at_s=oldest_ms / 1000 if oldest_ms else None,
        consumers=consumers,
        control=parse(dict(zip(control[::2], control[1::2], strict=True))),
    )
