"""The work streams of the queues: read, settle, park, hand back, renew, take over.

Every change is one owner-checked script that may be repeated; the comments in `lua/` name the race that each one
closes. Called by `worker`; the pipeline reaches it through the `Tail` port (`queues.settlement`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from redis import exceptions as rx
from redis.asyncio import Redis

from daemon.config import QueueSettings
from daemon.domain.errors import Code, QstreamdError
from daemon.domain.messages import WorkEntry
from daemon.ports import Delivery
from daemon.queues import scripts as lua
from daemon.queues.entries import read_entry
from daemon.redis_client import keys
from daemon.redis_client.connection import translated
from daemon.redis_client.scripts import Argument, Call, Scripts

_encode_entry: Final = msgspec.json.Encoder().encode

#: entries a page when the sweeper looks through a stream: a few hundred microseconds of the server's time
_PAGE: Final = 500
#: both streams from their first pending entry on
START: Final = ("0-0", "0-0")


class QueuePaused(QstreamdError):
    """An operator has paused the queue: nothing was read."""


@dataclass(frozen=True, slots=True)
class Reclaimed:
    """What one sweep took over.

    `deleted` are pending ids whose content is gone (an incident, repaired from Postgres).
    """

    deliveries: list[Delivery]
    deleted: list[str]
    cursors: tuple[str, str] = START  #: where the next sweep goes on; at the start: all was looked through
    pending: dict[str, int] = field(default_factory=dict)  #: entries that each consumer has, those taken over included
    elsewhere: bool = False  #: another process sweeps this queue: nothing was taken over


@dataclass(frozen=True, slots=True)
class Liveness:
    """Who reads which queue, as `queue/consumer`."""

    lapsed: frozenset[str]
    members: frozenset[str]
    facts: dict[str, str] = field(default_factory=dict)  #: consumer -> of its process; see `worker.proof_of_death`


class WorkStreams:
    """The streams as one consumer sees them. `consumer` is unique to a process start."""

    def __init__(self, scripts: Scripts, settings: QueueSettings, consumer: str, reads: Scripts | None = None) -> None:
        """`reads` is for whoever consumes: over a client that repeats nothing (`connect(retries=0)`)."""
        self._scripts = scripts
        self._reads = reads or scripts
        self._settings = settings
        self.consumer = consumer

    async def make_groups(self, queues: Iterable[str]) -> None:
        """Make both streams and their group at 0, so that nothing that was queued before is skipped; repeatable."""
        with translated():
            pipe = self._scripts.client.pipeline(transaction=False)
            for queue in queues:
                names = keys.queue_keys(queue)
                for stream in (names.ready, names.tasks):
                    pipe.xgroup_create(stream, keys.GROUP, id="0", mkstream=True)
            replies = await pipe.execute(raise_on_error=False)
            for reply in replies:
                if isinstance(reply, rx.RedisError) and "BUSYGROUP" not in str(reply):
                    raise reply

    # --- reading ---------------------------------------------------------------------------------------------

    async def fetch(self, queue: str, count: int) -> list[Delivery]:
        """At most `count` new entries, those of `:ready` first; one flush, never waits. Raises `QueuePaused`."""
        names = keys.queue_keys(queue)
        ready, tasks, *paused = await self._reads.one(
            lua.fetch(ready=names.ready, tasks=names.tasks, control=names.control, consumer=self.consumer, count=count)
        )
        if paused:
            raise QueuePaused(queue)
        return [*self._deliveries(queue, "ready", ready), *self._deliveries(queue, "tasks", tasks)]

    async def wait(self, blocking: Redis, queue: str, count: int, block_ms: int) -> list[Delivery]:
        """New entries of either stream as soon as there are some, or [] after `block_ms`.

        Never cancel this: entries that were on their way would be stranded unseen. COUNT is per stream, so up
        to twice `count` may come.
        """
        names = keys.queue_keys(queue)
        with translated():
            reply: Any = await blocking.xreadgroup(
                keys.GROUP, self.consumer, {names.ready: ">", names.tasks: ">"}, count=count, block=block_ms
            )
        return self._streams(queue, reply or {})

    async def own_pending(self, queue: str, count: int = 100) -> list[Delivery]:
        """What was delivered to us and may never have been seen: read after any read error. Renews those entries."""
        names = keys.queue_keys(queue)
        with translated():
            reply: Any = await self._scripts.client.xreadgroup(
                keys.GROUP, self.consumer, {names.ready: "0", names.tasks: "0"}, count=count
            )
        return self._streams(queue, reply or {}, redelivered=True)

    async def reclaim(self, queue: str, lease_ms: int, count: int, cursors: tuple[str, str], mark_ms: int) -> Reclaimed:
        """Entries whose owner's lease ran out, now ours, unless another process sweeps this queue."""
        names = keys.queue_keys(queue)
        held, *reply = await self._reads.one(
            lua.reclaim(
                mark=names.reclaim_mark,
                ready=names.ready,
                tasks=names.tasks,
                consumer=self.consumer,
                lease_ms=lease_ms,
                count=count,
                ready_cursor=cursors[0],
                tasks_cursor=cursors[1],
                mark_ms=mark_ms,
            )
        )
        pending: Counter[str] = Counter()
        for consumer, entries in zip(held[::2], held[1::2], strict=True):
            pending[consumer.decode()] += entries
        if not reply:
            return Reclaimed([], [], pending=pending, elsewhere=True)
        after = (reply[0][0].decode(), reply[1][0].decode())
        return self._reclaimed(queue, [each[1:] for each in reply], after, pending)

    async def take_over(self, queue: str, owners: Sequence[str], count: int) -> Reclaimed:
        """At most `count` entries of owners that are proved dead, now ours."""
        names = keys.queue_keys(queue)
        return self._reclaimed(queue, await self._reads.one(
            lua.take_over(ready=names.ready, tasks=names.tasks, consumer=self.consumer, count=count, owners=owners)
        ))  # fmt: skip

    def _reclaimed(
        self, queue: str, reply: Any, cursors: tuple[str, str] = START, pending: dict[str, int] | None = None
    ) -> Reclaimed:
        deliveries: list[Delivery] = []
        deleted: list[str] = []
        for stream, (entries, gone) in zip(("ready", "tasks"), reply, strict=True):
            deliveries += self._deliveries(queue, stream, entries, redelivered=True)
            deleted += [f"{stream}/{entry_id.decode()}" for entry_id in gone]
        return Reclaimed(deliveries, deleted, cursors, pending or {})

    # --- settling --------------------------------------------------------------------------------------------

    def begin_call(self, d: Delivery, task_id: str) -> Call:
        """The place is given back and ownership looked up: reply {owned, clamped}."""
        names = keys.queue_keys(d.queue)
        return lua.begin(
            stream=_stream(d),
            waiting=names.waiting,
            counter=names.counter,
            pace=names.start_interval,
            entry_id=d.id,
            consumer=self.consumer,
            task_id=task_id,
        )

    def ack_call(self, d: Delivery, *, whole_task: bool) -> Call:
        """XACK + XDEL of an entry that is ours: reply {owned, clamped}."""
        names = keys.queue_keys(d.queue)
        return lua.ack(
            stream=_stream(d),
            waiting=names.waiting,
            counter=names.counter,
            blobs=_blobs(d, whole_task=whole_task),
            entry_id=d.id,
            consumer=self.consumer,
            task_id=d.entry.message.task_id if d.entry else "",
            whole_task=whole_task,
        )

    def dead_letter_call(self, d: Delivery, *, code: Code, reason: str, attempts: int, whole_task: bool) -> Call:
        """The same, leaving a letter without content: reply {owned, clamped}."""
        task_id = d.entry.message.task_id if d.entry else ""
        names = keys.queue_keys(d.queue)
        letter: dict[str, Argument] = {
            "taskId": task_id,
            "entryId": d.entry_id,
            "code": code.value,
            "reason": reason[:300],
            "attempts": attempts,
        }
        if d.entry is not None:
            message = d.entry.message
            letter |= {"serviceId": message.service_id, "sha256": d.entry.sha256, "acceptedAt": d.entry.accepted_at}
        return lua.dead_letter(
            stream=_stream(d),
            waiting=names.waiting,
            counter=names.counter,
            dead=names.dead,
            blobs=_blobs(d, whole_task=whole_task),
            entry_id=d.id,
            consumer=self.consumer,
            task_id=task_id,
            whole_task=whole_task,
            keep_count=self._settings.dead_count_max,
            keep_ms=int(self._settings.dead_age_s * 1000),
            letter=letter,
        )

    def snooze_call(self, d: Delivery, task_id: str, raw: bytes, due_in_ms: int, *, wakeable: bool = False) -> Call:
        """`raw` into `:retry` and `:held`: {owned, due in server ms, due in ms}; at once if it was notified already."""
        names = keys.queue_keys(d.queue)
        return lua.snooze(
            stream=_stream(d),
            retry=names.retry,
            held=names.held,
            seen=keys.dedup(d.queue, task_id),
            woken=keys.woken(d.queue, task_id),
            entry_id=d.id,
            consumer=self.consumer,
            task_id=task_id,
            due_in_ms=due_in_ms,
            entry=raw,
            seen_ttl_s=int(self._settings.seen_ttl_s),
            wakeable=wakeable,
        )

    def requeue_call(self, d: Delivery) -> Call:
        """Back into `:ready`: reply 1, or 0 when it is no longer ours."""
        ready = keys.queue_keys(d.queue).ready
        return lua.requeue(stream=_stream(d), ready=ready, entry_id=d.id, consumer=self.consumer)

    async def requeue(self, d: Delivery) -> bool:
        """Back into `:ready` at once; False when it is no longer ours."""
        return bool((await self._scripts.run([self.requeue_call(d)]))[0])

    async def promote(self, queue: str, batch: int) -> tuple[int, float | None, list[str]]:
        """How many due tasks moved to `:ready`; seconds until the next (None: none waits); ids without a message."""
        names = keys.queue_keys(queue)
        moved, next_ms, *lost = await self._scripts.one(
            lua.promote(retry=names.retry, held=names.held, ready=names.ready, batch=batch)
        )
        return moved, None if next_ms < 0 else next_ms / 1000, [task_id.decode() for task_id in lost]

    # --- upkeep ----------------------------------------------------------------------------------------------

    async def begin_comparison(self, queue: str, mark_ms: int) -> bool:
        """Whether it is our turn to compare this queue with Postgres; the turn ends by itself."""
        with translated():
            return bool(
                await self._scripts.client.set(keys.queue_keys(queue).rescue_mark, self.consumer, nx=True, px=mark_ms)
            )

    async def still_queued(self, queue: str, wanted: set[str]) -> set[str]:
        """Which of these task ids still lie in `:retry`, `:ready` or `:tasks`.

        Pages through the streams, never blocks the server.
        """
        names = keys.queue_keys(queue)
        with translated():
            ids = list(wanted)
            scores = await self._scripts.client.zmscore(names.retry, ids)
            found = {task_id for task_id, score in zip(ids, scores, strict=True) if score is not None}
            for stream in (names.ready, names.tasks):
                after = "-"
                while True:
                    page: Any = await self._scripts.client.xrange(stream, min=after, max="+", count=_PAGE)
                    found |= wanted & {d.entry.message.task_id for d in self._deliveries(queue, "", page) if d.entry}
                    if found == wanted or len(page) < _PAGE:
                        break
                    after = f"({page[-1][0].decode()}"
        return found

    async def rescue_stranded(self, queue: str) -> int:
        """How many entries lay in either stream that nobody would ever have been handed; they are in `:ready` now."""
        names = keys.queue_keys(queue)
        calls = [
            lua.rescue_stranded(stream=stream, ready=names.ready, count=_PAGE) for stream in (names.ready, names.tasks)
        ]
        return sum(await self._scripts.run(calls))

    async def restore(self, queue: str, entry: WorkEntry, mark_ms: int) -> bool:
        """Append a forgotten task to `:ready`; False when somebody did so just now."""
        names = keys.queue_keys(queue)
        task_id = entry.message.task_id
        call = lua.restore(
            retry=names.retry,
            ready=names.ready,
            mark=keys.restored(queue, task_id),
            task_id=task_id,
            entry=_encode_entry(entry),
            mark_ms=mark_ms,
        )
        return bool(await self._scripts.one(call))

    # --- leases and liveness ---------------------------------------------------------------------------------

    def renew_call(self, queue: str, stream: str, ids: Sequence[str]) -> Call:
        """Renew entries of one stream: reply {ids that another consumer has, ids that are pending to nobody}."""
        names = keys.queue_keys(queue)
        key = names.ready if stream == "ready" else names.tasks
        return lua.renew_leases(stream=key, consumer=self.consumer, heir=self.consumer, entry_ids=ids)

    async def transfer(self, d: Delivery, owner: str, heir: str) -> bool:
        """Make an entry that is pending to `owner` the heir's, with a fresh lease; False: it is nobody's of the two."""
        call = lua.renew_leases(stream=_stream(d), consumer=owner, heir=heir, entry_ids=[d.id])
        taken, vanished = await self._scripts.one(call)
        return not (taken or vanished)

    async def idle_s(self, d: Delivery, owner: str) -> float:
        """Seconds since `owner` has renewed the entry; 0.0 when it is not pending to it."""
        with translated():
            found: Any = await self._scripts.client.xpending_range(_stream(d), keys.GROUP, d.id, d.id, 1, owner)
        return float(found[0]["time_since_delivered"]) / 1000 if found else 0.0

    async def hasten(self, queue: str, task_id: str) -> bool:
        """Move a parked task to `:ready` now; False when it is not parked (any more)."""
        names = keys.queue_keys(queue)
        call = lua.hasten(retry=names.retry, held=names.held, ready=names.ready, task_id=task_id)
        return int(await self._scripts.one(call)) == 1

    async def register(self, scripts: Scripts, queues: Iterable[str], ttl_ms: int, facts: str = "") -> Liveness:
        """Register us, a process with these facts, as reader of `queues` for `ttl_ms` and learn who lives."""
        members = [f"{queue}/{self.consumer}" for queue in queues]
        lapsed, everyone, readable = await scripts.one(
            lua.liveness(ttl_ms=ttl_ms, owner=self.consumer, facts=facts, members=members)
        )
        texts = [text.decode() for text in readable]
        return Liveness(
            frozenset(m.decode() for m in lapsed),
            frozenset(m.decode() for m in everyone),
            dict(zip(texts[::2], texts[1::2], strict=True)),
        )

    async def delete_consumer(self, queue: str, consumer: str) -> bool:
        """Remove a consumer that has nothing pending; False while it has."""
        return bool(await self.delete_consumers(queue, [consumer]))

    async def delete_consumers(self, queue: str, consumers: Sequence[str]) -> list[str]:
        """Remove those of them that have nothing pending, in one flush; which they were."""
        names = keys.queue_keys(queue)
        done = await self._scripts.run([
            lua.delete_consumer(ready=names.ready, tasks=names.tasks, consumer=consumer) for consumer in consumers
        ])  # fmt: skip
        return [consumer for consumer, gone in zip(consumers, done, strict=True) if gone]

    async def deregister(self, members: Sequence[str], *, only_lapsed: bool = True) -> None:
        """Drop liveness records; one that was renewed meanwhile stays."""
        await self._scripts.one(lua.forget_consumers(only_lapsed=only_lapsed, members=members))

    # --- shapes ----------------------------------------------------------------------------------------------

    def _streams(self, queue: str, reply: dict[bytes, Any], *, redelivered: bool = False) -> list[Delivery]:
        found: list[Delivery] = []
        for stream, entries in sorted(reply.items(), key=lambda item: not item[0].endswith(b":ready")):
            name = "ready" if stream.endswith(b":ready") else "tasks"
            found += self._deliveries(queue, name, entries, redelivered=redelivered)
        return found

    def _deliveries(
        self, queue: str, stream: str, entries: Sequence[Any], *, redelivered: bool = False
    ) -> list[Delivery]:
        return [
            read_entry(queue, stream, entry_id, fields, self._settings.entry_bytes_max, redelivered=redelivered)
            for entry_id, fields in entries
        ]


def _stream(d: Delivery) -> str:
    names = keys.queue_keys(d.queue)
    return names.ready if d.stream == "ready" else names.tasks


def _blobs(d: Delivery, *, whole_task: bool) -> tuple[str, ...]:
    images = d.entry.message.images if d.entry and whole_task else None
    task_id = d.entry.message.task_id if d.entry else ""
    return tuple(keys.blob(d.queue, task_id, i) for i, image in enumerate(images or ()) if image.blob is not None)
