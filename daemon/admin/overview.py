"""What goes on now, read from where it is true: sizes from the streams themselves, life from the liveness record.

waiting = (XLEN − XPENDING) of both streams, running = XPENDING, delayed, dead; never XINFO's lag, which is nil once
entries are deleted. Two rounds to Redis however many queues there are, and one statement to Postgres. Changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from redis import exceptions as rx

from daemon import keys
from daemon.admin.connections import Connections
from daemon.config import GuardSettings, Settings
from daemon.contracts import QueueSpec, Tier
from daemon.errors import StoreAway
from daemon.services import Model
from daemon.store.history import Recent
from daemon.stream.connection import translate, translated

WINDOW_S: Final = 3600.0  #: what counts as recent
_OFF: Final = {"", "0", "false", "no"}


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
class GuardState:
    """Places of one model and tier, over all processes."""

    model: str
    tier: str
    in_use: int
    limit: int


@dataclass(frozen=True, slots=True)
class Overview:
    """One look. `recent` None: Postgres was not asked or does not answer, and `notes` say so."""

    at: float
    queues: list[QueueState]
    consumers: list[ConsumerState]
    guards: list[GuardState]
    recent: list[Recent] | None
    window_s: float
    notes: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Raw:
    """The replies about one queue, before they mean anything."""

    spec: QueueSpec
    values: dict[str, Any]

    def pending(self) -> int:
        return sum(int((self.values[key] or {}).get("pending", 0)) for key in ("pending_tasks", "pending_ready"))

    def last_delivered(self, stream: str) -> bytes | None:
        groups = self.values[f"groups_{stream}"] or []
        return next((g["last-delivered-id"] for g in groups if g["name"] == keys.GROUP.encode()), None)


async def read_overview(at: Connections, *, recent: bool = True) -> Overview:
    """One look at everything. Raises `RedisAway`; without Postgres the rest is still told."""
    now_ms, members, raw, guards = await _first_round(at)
    heads = await _second_round(at, raw)
    consumers = sorted(_consumers(raw, members, now_ms), key=lambda c: (c.queue, c.name))
    queues = [
        _queue(one, heads[one.spec.name], now_ms, sum(c.queue == one.spec.name and c.alive is True for c in consumers),
               at.settings)
        for one in raw
    ]  # fmt: skip
    past, notes = await _recent(at) if recent else (None, [])
    return Overview(now_ms / 1000, queues, consumers, guards, past, WINDOW_S, notes)


async def _recent(at: Connections) -> tuple[list[Recent] | None, list[str]]:
    if at.no_store:
        return None, [f"Postgres: {at.no_store}"]
    try:
        return await at.history.recent(WINDOW_S), []
    except StoreAway as error:
        return None, [f"Postgres: {error}"]


# --- rounds -------------------------------------------------------------------------------------------------------


async def _first_round(at: Connections) -> tuple[int, dict[str, float], list[_Raw], list[GuardState]]:
    specs, models = list(at.book.queues.values()), list(at.book.models.values())
    tiers = [(model, tier) for model in models for tier in Tier]
    with translated():
        pipe = at.redis.pipeline(transaction=False)
        pipe.time()
        pipe.zrange(keys.CONSUMERS, 0, -1, withscores=True)
        for model, tier in tiers:
            pipe.zrange(keys.guard_model(model.id, tier), 0, -1, withscores=True)
        names = [_ask(pipe, spec.name) for spec in specs]
        replies = [_or_none(reply) for reply in await pipe.execute(raise_on_error=False)]
    seconds, micros = replies.pop(0)
    now_ms = int(seconds) * 1000 + int(micros) // 1000
    members = {name.decode(): float(score) for name, score in replies.pop(0) or []}
    guards = [
        GuardState(model.id, tier, _alive(replies.pop(0), now_ms), limit_of(model, tier, at.settings.guards))
        for model, tier in tiers
    ]
    raw = [_Raw(spec, {name: replies.pop(0) for name in asked}) for spec, asked in zip(specs, names, strict=True)]
    return now_ms, members, raw, guards


def _ask(pipe: Any, queue: str) -> list[str]:
    """Everything about one queue, and under which names the replies come."""
    k = keys.queue_keys(queue)
    for stream in (k.tasks, k.ready):
        pipe.xlen(stream)
        pipe.xpending(stream, keys.GROUP)
        pipe.xinfo_groups(stream)
        pipe.xinfo_consumers(stream, keys.GROUP)
    pipe.zcard(k.retry)
    pipe.zrange(k.retry, 0, 0, withscores=True)
    pipe.xlen(k.dead)
    pipe.get(k.counter)
    pipe.hgetall(k.control)
    both = [f"{what}_{stream}" for stream in ("tasks", "ready") for what in ("length", "pending", "groups", "readers")]
    return [*both, "delayed", "next_due", "dead", "counter", "control"]


async def _second_round(at: Connections, raw: list[_Raw]) -> dict[str, list[Any]]:
    """The first entry of each stream that nobody has read."""
    with translated():
        pipe = at.redis.pipeline(transaction=False)
        for one in raw:
            k = keys.queue_keys(one.spec.name)
            for stream, key in (("tasks", k.tasks), ("ready", k.ready)):
                last = one.last_delivered(stream)
                pipe.xrange(key, min=f"({last.decode()}" if last else "-", count=1)
        replies = iter([_or_none(reply) for reply in await pipe.execute(raise_on_error=False)])
    return {one.spec.name: [next(replies), next(replies)] for one in raw}


def _or_none(reply: Any) -> Any:
    """A stream or group that is not there yet counts as empty; any other error is ours to raise."""
    if not isinstance(reply, rx.RedisError):
        return reply
    if "NOGROUP" in str(reply) or "no such key" in str(reply):
        return None
    raise translate(reply)


# --- meanings -----------------------------------------------------------------------------------------------------


def _queue(one: _Raw, heads: Iterable[Any], now_ms: int, alive: int, settings: Settings) -> QueueState:
    values, spec, running = one.values, one.spec, one.pending()
    length = int(values["length_tasks"] or 0) + int(values["length_ready"] or 0)
    control = {k.decode(): v.decode("utf-8", "replace") for k, v in (values["control"] or {}).items()}
    oldest = min((int(head[0][0].decode().partition("-")[0]) for head in heads if head), default=None)
    due = values["next_due"]
    return QueueState(
        name=spec.name, tier=spec.tier, mode=spec.mode, waiting=max(0, length - running), running=running,
        slots=alive * parallelism_of(spec, settings, control), delayed=int(values["delayed"] or 0),
        dead=int(values["dead"] or 0), places=_number(values["counter"]), max_size=max_size_of(spec, settings, control),
        oldest_wait_s=None if oldest is None else max(0.0, (now_ms - oldest) / 1000),
        next_due_s=(due[0][1] - now_ms) / 1000 if due else None,
        paused=control.get("paused", "").lower() not in _OFF, paused_why=control.get("why", ""), consumers=alive,
    )  # fmt: skip


def _consumers(raw: list[_Raw], members: Mapping[str, float], now_ms: int) -> Iterable[ConsumerState]:
    for one in raw:
        queue = one.spec.name
        found: dict[str, tuple[int, float | None]] = {
            member.partition("/")[2]: (0, None) for member in members if member.startswith(f"{queue}/")
        }
        for reader in [*(one.values["readers_tasks"] or []), *(one.values["readers_ready"] or [])]:
            name, idle_s = reader["name"].decode("utf-8", "replace"), reader["idle"] / 1000
            pending, known = found.get(name, (0, None))
            found[name] = pending + reader["pending"], idle_s if known is None else min(known, idle_s)
        for name, (pending, idle) in found.items():
            score = members.get(f"{queue}/{name}")
            alive = None if score is None else score > now_ms
            yield ConsumerState(queue, name, alive, pending, idle, None if score is None else (score - now_ms) / 1000)


def parallelism_of(spec: QueueSpec, settings: Settings, control: Mapping[str, str]) -> int:
    """Attempts at once of one process: control hash over environment over services file."""
    return _number(control.get("parallelism")) or settings.queues.of("parallelism", spec.name) or spec.parallelism


def max_size_of(spec: QueueSpec, settings: Settings, control: Mapping[str, str]) -> int:
    """When the queue is full: control hash over services file over environment."""
    own = _number(control.get("maxSize")) or spec.max_size
    return own or settings.queues.of("max", spec.name) or settings.queues.max_size


def limit_of(model: Model, tier: Tier, guards: GuardSettings) -> int:
    """Attempts of this model and tier at once, over all processes."""
    return model.concurrency.get(tier) or (guards.model_paid if tier is Tier.PAID else guards.model_free)


def _alive(places: Any, now_ms: int) -> int:
    return sum(score > now_ms for _, score in places or [])


def _number(value: Any) -> int:
    try:
        return int(value or 0)
    except ValueError:
        return 0
