"""Everything that Redis and Postgres know of one task, gathered in a few rounds and not judged: `explain` does that.

Holds no prompt and no answer. Changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from redis import exceptions as rx

from daemon.admin.connections import Connections
from daemon.admin.status import QueueState, read_overview
from daemon.domain.messages import WorkEntry
from daemon.domain.queues import Tier
from daemon.ports import Permit
from daemon.redis_client import keys
from daemon.redis_client.connection import translate, translated
from daemon.services.limits_in_force import limit_of, user_limit_of
from daemon.store.history import AttemptRow, Recent
from daemon.store.records import TaskRow

EVENTS_MAX: Final = 2000  #: events read to draw a life; token batches beyond it are not needed for it
READY_MAX: Final = 2000  #: entries of :ready looked through: it is short unless something is very wrong


@dataclass(frozen=True, slots=True)
class PastEvent:
    """One event without its text."""

    type: str
    at: float
    attempt: int
    reason: str
    code: str
    terminal: bool


@dataclass(frozen=True, slots=True)
class Pending:
    """Who has the entry in hand."""

    stream: str
    consumer: str
    idle_s: float
    deliveries: int
    alive: bool | None  #: as in `ConsumerState`


@dataclass(frozen=True, slots=True)
class LimiterUse:
    """A concurrency limiter that this task must pass."""

    what: str  #: `user` or `model`
    in_use: int
    limit: int
    holds: bool  #: the task holds a permit of it
    rank: int | None  #: others that wait before it; None: it is not in line


@dataclass(frozen=True, slots=True)
class TaskFacts:
    """What was found. `queue` None: no queue knows the task."""

    task_id: str
    now: float  #: the Redis server's clock, unix seconds
    queue: QueueState | None
    row: TaskRow | None
    attempts: list[AttemptRow]
    events: list[PastEvent]
    ended: bool  #: the event stream has its terminal event
    cancel_asked: bool
    entry_id: str  #: as accepted; "" if the acceptance was forgotten
    reserved_at: float | None  #: a slot is reserved and it has not started
    position: int | None  #: among those that have not started, from 1
    pending: Pending | None
    in_stream: str  #: the stream where it lies unread; ""
    due_at: float | None  #: in :retry until then
    parked: str  #: why it was snoozed
    parked_at: float | None
    user_id: str
    model_id: str | None
    tier: str
    limiters: list[LimiterUse] = field(default_factory=list)
    closed: tuple[str, float] | None = None  #: why its model is closed, and for how many seconds more
    recent: list[Recent] = field(default_factory=list)
    no_store: str = ""


async def gather(at: Connections, task_id: str) -> TaskFacts | None:
    """All facts about a task; None when nobody knows it. Raises `RedisAway`, `StoreAway`."""
    overview = await read_overview(at)
    row, attempts = await _stored(at, task_id)
    events, state = await _events(at, task_id)
    found = await locate(at, task_id, row.queue_id if row else None)
    if row is None and not events and not state and found is None:
        return None
    name = row.queue_id if row else found.queue if found else ""
    queue = next((q for q in overview.queues if q.name == name), None)
    where = found or Location(name)
    pending, in_stream = await _entry(at, where, row, task_id, overview.consumers) if queue else (None, "")
    held = where.held
    user_id = row.user_id if row else held.message.user_id if held else ""
    model_id = (row.model_id if row else None) or (held.message.model_id if held else None)
    tier = (row.tier if row else None) or (queue.tier if queue else "")
    limiters, closed = await _limiters(at, name, task_id, user_id, model_id, tier)
    return TaskFacts(
        task_id=task_id, now=overview.at, queue=queue, row=row, attempts=attempts, events=events,
        ended=b"ended" in state, cancel_asked=b"cancel" in state, entry_id=where.entry_id,
        reserved_at=where.reserved_at, position=where.position, pending=pending, in_stream=in_stream,
        due_at=where.due_at, parked=held.parked if held else "",
        parked_at=held.parked_at / 1000 if held and held.parked_at else None, user_id=user_id, model_id=model_id,
        tier=tier, limiters=limiters, closed=closed, recent=overview.recent or [], no_store=at.no_store,
    )  # fmt: skip


# --- Postgres -----------------------------------------------------------------------------------------------------


async def _stored(at: Connections, task_id: str) -> tuple[TaskRow | None, list[AttemptRow]]:
    if at.no_store:
        return None, []
    found = await at.records.row(task_id)
    return (found[0], await at.history.attempts(task_id)) if found else (None, [])


# --- Redis --------------------------------------------------------------------------------------------------------


async def _events(at: Connections, task_id: str) -> tuple[list[PastEvent], dict[bytes, bytes]]:
    """Events but for token batches (their first one of each attempt is kept), and the state beside them."""
    key = keys.events(task_id)
    with translated():
        pipe = at.redis.pipeline(transaction=False)
        pipe.xrange(key, count=EVENTS_MAX)
        pipe.xrevrange(key, count=20)
        pipe.hgetall(keys.events_state(task_id))
        first, last, state = await pipe.execute()
    entries: dict[bytes, Any] = dict([*first, *reversed(last)])
    found = [event for fields in entries.values() if (event := _past_event(fields)) is not None]
    return [
        event
        for n, event in enumerate(found)
        if event.type != "token_batch" or n == 0 or found[n - 1].type != "token_batch"
    ], state


def _past_event(fields: Mapping[bytes, bytes]) -> PastEvent | None:
    try:
        data: dict[str, Any] = msgspec.json.decode(fields[b"data"], type=dict[str, Any])
        kind, at = fields[b"type"].decode(), float(data["timestamp"])
    except (KeyError, TypeError, ValueError, msgspec.DecodeError):
        return None  # a stranger's
    terminal = kind == "done" or (kind == "error" and not data.get("retryable"))
    attempt = data.get("attempt")
    return PastEvent(
        kind, at, attempt if isinstance(attempt, int) else 0, str(data.get("reason", "")), str(data.get("code", "")),
        terminal,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Location:
    """Where a queue's keys name a task."""

    queue: str
    entry_id: str = ""
    reserved_at: float | None = None
    position: int | None = None
    due_at: float | None = None
    held: WorkEntry | None = None


async def locate(at: Connections, task_id: str, known: str | None) -> Location | None:
    """The first queue whose keys name the task; one round."""
    names = [known] if known else list(at.catalog.queues)
    with translated():
        pipe = at.redis.pipeline(transaction=False)
        for name in names:
            k = keys.queue_keys(name)
            pipe.get(keys.dedup(name, task_id))
            pipe.zscore(k.waiting, task_id)
            pipe.zrank(k.waiting, task_id)
            pipe.zscore(k.retry, task_id)
            pipe.hget(k.held, task_id)
        replies = iter(await pipe.execute())
    for name in names:
        seen, reserved, rank, due, held = (next(replies) for _ in range(5))
        if any(reply is not None for reply in (seen, reserved, due, held)):
            return Location(
                name, seen.decode().partition(":")[0] if seen else "", reserved / 1000 if reserved else None,
                None if rank is None else int(rank) + 1, due / 1000 if due else None, _held(held),
            )  # fmt: skip
    return None


def _held(raw: bytes | None) -> WorkEntry | None:
    try:
        return None if raw is None else msgspec.json.decode(raw, type=WorkEntry)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None  # a newer release's


async def _entry(
    at: Connections, where: Location, row: TaskRow | None, task_id: str, consumers: Iterable[Any]
) -> tuple[Pending | None, str]:
    """Who has the task's entry in hand, or in which stream it lies unread."""
    alive = {c.name: c.alive for c in consumers if c.queue == where.queue}
    streams = dict(zip(("tasks", "ready"), keys.queue_keys(where.queue)[2:4], strict=True))
    named = [tuple(row.entry_id.partition("/")[::2])] if row else []
    if where.entry_id:
        named.append(("tasks", where.entry_id))
    ready = await _in_ready(at, streams["ready"], task_id)
    named += [("ready", entry_id) for entry_id in ready]
    unread = ""
    for stream, entry_id in dict.fromkeys(named):
        if stream not in streams:
            continue
        with translated():
            pipe = at.redis.pipeline(transaction=False)
            pipe.xpending_range(streams[stream], keys.GROUP, entry_id, entry_id, 1)
            pipe.xrange(streams[stream], entry_id, entry_id)
            pending, there = await pipe.execute(raise_on_error=False)
        if isinstance(there, rx.RedisError):
            raise translate(there)
        if isinstance(pending, list) and pending:
            one = pending[0]
            name = one["consumer"].decode("utf-8", "replace")
            idle_s = one["time_since_delivered"] / 1000
            return Pending(stream, name, idle_s, one["times_delivered"], alive.get(name)), ""
        if there:
            unread = unread or stream
    return None, unread


async def _in_ready(at: Connections, key: str, task_id: str) -> list[str]:
    """The entries of this task in `:ready`, the last first: its number there is new each time it is woken."""
    with translated():
        entries: Any = await at.redis.xrange(key, count=READY_MAX)
    wanted = task_id.encode()
    return [
        entry_id.decode()
        for entry_id, fields in reversed(entries)
        if wanted in fields.get(b"task", b"") and (e := _held(fields[b"task"])) and e.message.task_id == task_id
    ]


async def _limiters(
    at: Connections, queue: str, task_id: str, user_id: str, model_id: str | None, tier: str
) -> tuple[list[LimiterUse], tuple[str, float] | None]:
    if not user_id or tier not in {*Tier}:
        return [], None
    limits = at.settings.guards
    limiters = [("user", Permit(keys.user_permits(user_id), user_limit_of(Tier(tier), limits)))]
    model = at.catalog.models.get(model_id or "")
    if model is not None:
        limiters.append(("model", Permit(keys.model_permits(model.id, tier), limit_of(model, Tier(tier), limits))))
    with translated():
        pipe = at.redis.pipeline(transaction=False)
        pipe.time()
        for _, limiter in limiters:
            pipe.zrange(limiter.key, 0, -1, withscores=True)
            pipe.zrank(keys.waiters_of(limiter.key), f"{queue}/{task_id}")
        closed = keys.model_keys(model_id or "").cooldown
        pipe.get(closed)
        pipe.pttl(closed)
        (seconds, micros), *replies = await pipe.execute()
    now_ms, fills = seconds * 1000 + micros // 1000, []
    for n, (what, limiter) in enumerate(limiters):
        members, rank = replies[2 * n], replies[2 * n + 1]
        living = [member.decode("utf-8", "replace") for member, score in members if score > now_ms]
        holds = any(member.partition(":")[0] == task_id for member in living)
        fills.append(LimiterUse(what, len(living), limiter.limit, holds, rank))
    why, left_ms = replies[-2:]
    return fills, (why.decode("utf-8", "replace"), left_ms / 1000) if why and left_ms > 0 else None
