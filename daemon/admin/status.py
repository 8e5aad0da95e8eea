"""What goes on now, read from where it is true: sizes from the streams themselves, life from the liveness record.

waiting = (XLEN − XPENDING) of both streams, running = XPENDING, delayed, dead (`queues.depths`); never XINFO's lag,
which is nil once entries are deleted. Two flushes however many queues there are, one statement to Postgres. Changes
nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from redis import exceptions as rx

from daemon.admin.connections import Connections
from daemon.config import Settings
from daemon.domain.errors import StoreAway
from daemon.domain.queues import QueueSpec
from daemon.queues.depths import DepthReader, QueueDepth
from daemon.redis_client import keys
from daemon.redis_client.connection import translate, translated
from daemon.services.limits_in_force import limit_of, max_size_of, parallelism_of
from daemon.store.history import Recent

WINDOW_S: Final = 3600.0  #: what counts as recent


@dataclass(frozen=True, slots=True)
class ConsumerState:
    """One process on one queue. `alive` None: it reads, but no liveness record names it."""

    queue: str
    name: str
    alive: bool | None
    pending: int
    idle_s: float | None  #: since it last spoke to a stream of this queue; None: it never did
    record_s: float | None  #: until its record lapses; negative: since it lapsed

    @property
    def dead(self) -> bool:
        """Lapsed, with nothing pending: may be buried."""
        return self.alive is False and self.pending == 0


@dataclass(frozen=True, slots=True)
class QueueState:
    """One queue as a whole."""

    name: str
    tier: str
    mode: str
    waiting: int  #: accepted and read by nobody yet
    running: int
    slots: int  #: attempts at once of all living consumers together
    delayed: int  #: parked, or to be tried again
    dead: int
    places: int  #: promised or accepted and not started: what is held against `max_size`
    max_size: int
    oldest_wait_s: float | None
    next_due_s: float | None  #: until the first delayed task is due; negative: overdue
    paused: bool
    paused_why: str
    consumers: int  #: alive


@dataclass(frozen=True, slots=True)
class LimiterState:
    """Places of one model and tier, over all processes."""

    model: str
    tier: str
    in_use: int
    limit: int
    closed: str = ""  #: why no process calls it for now; "" when it is open


@dataclass(frozen=True, slots=True)
class Overview:
    """One look. `recent` None: Postgres was not asked or does not answer, and `notes` say so."""

    at: float
    queues: list[QueueState]
    consumers: list[ConsumerState]
    limiters: list[LimiterState]
    recent: list[Recent] | None
    window_s: float
    notes: list[str] = field(default_factory=list)


async def read_overview(at: Connections, *, recent: bool = True) -> Overview:
    """One look at everything. Raises `RedisAway`; without Postgres the rest is still told."""
    specs, models = at.catalog.queues, at.catalog.models
    depths = await DepthReader(at.scripts).read(list(specs), list(models))
    members, readers, due = await _readers(at)
    consumers = sorted(_consumers(members, readers, depths.at_s), key=lambda c: (c.queue, c.name))
    queues = [_queue(specs[depth.queue], depth, due[depth.queue], depths.at_s, at.settings) for depth in depths.queues]
    limiters = [
        LimiterState(
            model, tier, used, limit_of(models[model], tier, at.settings.guards), depths.unavailable.get(model, "")
        )
        for (model, tier), used in depths.permits_in_use.items()
    ]
    past, notes = await _recent(at) if recent else (None, [])
    return Overview(depths.at_s, queues, consumers, limiters, past, WINDOW_S, notes)


async def _recent(at: Connections) -> tuple[list[Recent] | None, list[str]]:
    if at.no_store:
        return None, [f"Postgres: {at.no_store}"]
    try:
        return await at.history.recent(WINDOW_S), []
    except StoreAway as error:
        return None, [f"Postgres: {error}"]


# --- consumers ----------------------------------------------------------------------------------------------------


async def _readers(at: Connections) -> tuple[dict[str, float], dict[str, list[Any]], dict[str, float | None]]:
    """Liveness records by `queue/consumer`; readers of both groups and the first due time of each queue; one flush."""
    with translated():
        pipe = at.redis.pipeline(transaction=False)
        pipe.zrange(keys.CONSUMERS, 0, -1, withscores=True)
        for name in at.catalog.queues:
            k = keys.queue_keys(name)
            pipe.xinfo_consumers(k.tasks, keys.GROUP)
            pipe.xinfo_consumers(k.ready, keys.GROUP)
            pipe.zrange(k.retry, 0, 0, withscores=True)
        records, *replies = [_or_none(reply) for reply in await pipe.execute(raise_on_error=False)]
    members = {name.decode("utf-8", "replace"): score / 1000 for name, score in records or []}
    readers, due = {}, {}
    for n, name in enumerate(at.catalog.queues):
        tasks, ready, head = replies[3 * n : 3 * n + 3]
        readers[name] = [*(tasks or []), *(ready or [])]
        due[name] = head[0][1] / 1000 if head else None
    return members, readers, due


def _or_none(reply: Any) -> Any:
    """A stream or group that is not there yet counts as empty; any other error is ours to raise."""
    if not isinstance(reply, rx.RedisError):
        return reply
    if "NOGROUP" in str(reply) or "no such key" in str(reply):
        return None
    raise translate(reply)


# --- meanings -----------------------------------------------------------------------------------------------------


def _queue(spec: QueueSpec, depth: QueueDepth, due_at: float | None, now: float, settings: Settings) -> QueueState:
    control = depth.control
    slots = depth.consumers * parallelism_of(spec, settings.queues, control.parallelism)
    oldest = depth.oldest_at_s
    return QueueState(
        name=spec.name, tier=spec.tier, mode=spec.mode, waiting=depth.waiting, running=depth.running,
        slots=min(slots, control.global_parallelism or slots), delayed=depth.delayed, dead=depth.dead,
        places=depth.occupancy, max_size=max_size_of(spec, settings.queues, control.max_size),
        oldest_wait_s=None if oldest is None else max(0.0, now - oldest),
        next_due_s=None if due_at is None else due_at - now, paused=control.paused, paused_why=control.why,
        consumers=depth.consumers,
    )  # fmt: skip


def _consumers(members: Mapping[str, float], readers: Mapping[str, list[Any]], now: float) -> Iterator[ConsumerState]:
    for queue, theirs in readers.items():
        found: dict[str, tuple[int, float | None]] = {
            member.partition("/")[2]: (0, None) for member in members if member.startswith(f"{queue}/")
        }
        for reader in theirs:
            name, idle_s = reader["name"].decode("utf-8", "replace"), reader["idle"] / 1000
            pending, known = found.get(name, (0, None))
            found[name] = pending + reader["pending"], idle_s if known is None else min(known, idle_s)
        for name, (pending, idle) in found.items():
            until = members.get(f"{queue}/{name}")
            alive = None if until is None else until > now
            yield ConsumerState(queue, name, alive, pending, idle, None if until is None else until - now)
