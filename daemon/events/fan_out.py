"""Everybody who follows a task in this process, on one blocked read of Redis.

A viewer reads what there is in pages, then joins the task's topic; one XREAD waits on all topics together, at explicit
ids (never `$`, which each empty read would move). Joining compares cursors in one step of the loop, so nothing is
missed and nothing comes twice. Each viewer has a bounded queue: one that is too slow is cut off, never the stream.
Called by the gateway; knows no HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from daemon.config import RedisSettings
from daemon.domain.errors import RedisAway, RedisFull
from daemon.domain.events import EventType
from daemon.events.stored_event import START, Cursor, EventBatch, StoredEvent, cursor_of, is_cursor, parse, text_of
from daemon.events.subscription import Subscription
from daemon.observability.logging import logger
from daemon.redis_client import keys
from daemon.redis_client.cluster import ClusterRedis
from daemon.redis_client.connection import Polling, connect_blocking, translated

_log = logger(__name__)

PAGE: Final = 500  #: entries in one XRANGE of history
BATCH: Final = 200  #: entries of one stream in one shared read
BLOCK_S: Final = 20.0  #: of the shared read; a reader that nobody could wake looks up so late
#: Between two shared reads: with many topics each read costs the server a walk over all of them, so events of 25 ms at
#: 500 topics come together; one topic is read at once.
READ_PAUSE_S_A_TOPIC: Final = 0.00005
READ_PAUSE_S_MAX: Final = 0.1
CLUSTER_BLOCK_S: Final = 0.25  #: tasks lie on all nodes there, so nothing blocks and nobody is woken: see `cluster`
_POLL_S_MAX: Final = 0.5  #: between two reads on a server that does not block
_RETRY_S: Final = (0.1, 2.0)
_WAKE_S: Final = 0.002
_WAITS: Final = {"", EventType.QUEUED, EventType.PROGRESS}  #: "": shown to a viewer who brought its cursor


class _Topic:
    """One task with viewers: how far the shared read is, and whom to tell."""

    __slots__ = ("cursor", "last", "silent_since", "viewers")

    def __init__(self, cursor: Cursor, now: float) -> None:
        self.cursor = cursor
        self.viewers: set[Subscription] = set()
        self.silent_since = now
        self.last: StoredEvent | None = None  #: that viewers were shown


class FanOut:
    """The shared reader. `run` is its loop; `recover_end` asks the ledger for the end of a task that Redis forgot."""

    def __init__(
        self, client: Redis, settings: RedisSettings, recover_end: Callable[[str], Awaitable[StoredEvent | None]]
    ) -> None:
        self._client = client
        self._settings = settings
        self._topics: dict[str, _Topic] = {}
        self.viewers: set[Subscription] = set()
        self.done: set[str] = set()  #: tasks whose stream was found to end with `done`; emptied by who checks rows
        self.recover_end = recover_end
        self.reads = 0  #: shared reads so far
        self._changed = asyncio.Event()
        self._joined = 0  # raised whenever a topic joins; the read under way knows those up to `_armed`
        self._armed = 0
        self._blocking: Redis | None = None
        self._polling = Polling(_POLL_S_MAX)
        self._client_id: int | None = None
        self._blocked = False
        self._closed = False

    def follow(self, task_id: str, after: str = START, queue_max: int = 256) -> Subscription:
        """A viewer; enter it, then `open`."""
        return Subscription(self, task_id, after if is_cursor(after) else START, queue_max)

    @property
    def topics(self) -> int:
        """How many tasks are watched."""
        return len(self._topics)

    # --- what viewers ask ------------------------------------------------------------------------------------

    async def look(self, task_id: str, after: str) -> tuple[StoredEvent | None, StoredEvent | None, list[StoredEvent]]:
        """First and last entry of the stream (None: there is none) and the first page after the cursor."""
        key = keys.events(task_id)
        with translated():
            pipe = self._client.pipeline(transaction=False)
            pipe.xrange(key, count=1)
            pipe.xrevrange(key, count=1)
            pipe.xrange(key, min=f"({after}", count=PAGE)
            first, tail, page = await pipe.execute()
        last = next(iter(parse(tail)), None)
        if last is not None and last.type == EventType.DONE:
            self.done.add(task_id)
        return next(iter(parse(first)), None), last, parse(page)

    async def page(self, task_id: str, after: Cursor) -> tuple[list[StoredEvent], Cursor, bool]:
        """The next page after the cursor, the cursor behind it, and whether that was all there is."""
        with translated():
            entries: Any = await self._client.xrange(keys.events(task_id), min=f"({text_of(after)}", count=PAGE)
        return parse(entries), cursor_of(entries[-1][0].decode()) if entries else after, len(entries) < PAGE

    def cursor(self, task_id: str) -> Cursor | None:
        """How far the shared read of this task is; None: nobody watches it."""
        topic = self._topics.get(task_id)
        return topic.cursor if topic is not None else None

    def join(self, viewer: Subscription, last: Cursor) -> bool:
        """Tell this viewer what comes after `last` from now on; False: the topic is further, read on first."""
        if self._closed:
            viewer.close("closing")
            return False
        topic = self._topics.get(viewer.task_id)
        if topic is None:
            topic = self._topics[viewer.task_id] = _Topic(last, asyncio.get_running_loop().time())
            self._joined += 1
            self._changed.set()
        if topic.cursor > last:
            return False
        topic.viewers.add(viewer)
        if viewer.last is not None and (topic.last is None or topic.last.at < viewer.last.at):
            topic.last = viewer.last
        return True

    def leave(self, viewer: Subscription) -> None:
        """Forget this viewer; repeatable. A topic without viewers is read no more."""
        self.viewers.discard(viewer)
        topic = self._topics.get(viewer.task_id)
        if topic is not None:
            topic.viewers.discard(viewer)
            if not topic.viewers:
                del self._topics[viewer.task_id]

    # --- the end of tasks, told by the ledger ----------------------------------------------------------------

    def silent(self, for_s: float) -> list[str]:
        """Watched tasks of which nothing came for so long: their last event may have been lost."""
        limit = asyncio.get_running_loop().time() - for_s
        return [task_id for task_id, topic in self._topics.items() if topic.silent_since <= limit]

    def waiting(self) -> dict[str, StoredEvent]:
        """Watched tasks whose viewers were shown that they wait: the last event of each, as far as it is known."""
        shown = ((task_id, topic.last) for task_id, topic in self._topics.items())
        return {task_id: last for task_id, last in shown if last is not None and last.type in _WAITS}

    async def without_stream(self, task_ids: Sequence[str]) -> set[str]:
        """Those of these tasks that have no stream (any more); one flush."""
        if not task_ids:
            return set()
        with translated():
            pipe = self._client.pipeline(transaction=False)
            for task_id in task_ids:
                pipe.exists(keys.events(task_id))
            found = await pipe.execute()
        return {task_id for task_id, there in zip(task_ids, found, strict=True) if not there}

    def tell(self, task_id: str, entries: Sequence[StoredEvent]) -> None:
        """Push events to all viewers of a task."""
        topic = self._topics.get(task_id)
        if topic is not None and entries:
            batch = EventBatch(entries)
            for viewer in tuple(topic.viewers):
                viewer.push(batch)

    def close(self) -> None:
        """End every viewer, now and from now on: the process stops."""
        self._closed = True
        for viewer in tuple(self.viewers):
            viewer.close("closing")

    # --- the shared read -------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Read until cancelled. Redis away: every topic goes on at its cursor when it is back."""
        failures = 0
        async with asyncio.TaskGroup() as group:
            group.create_task(self._wake(), name="hub-wake")
            try:
                while True:
                    if not self._topics:
                        self._changed.clear()
                        await self._changed.wait()
                        continue
                    try:
                        await self._read()
                        failures = 0
                    except (RedisAway, RedisFull, RedisError) as error:
                        failures += 1
                        _log.warning("fan_out.read_failed", error=type(error).__name__, failures=failures)
                        await self._disconnect()
                        await asyncio.sleep(min(_RETRY_S[1], _RETRY_S[0] * 2.0 ** min(failures, 10)))
            finally:
                await self._disconnect()

    async def _read(self) -> None:
        if self._blocking is None:
            self._blocking = connect_blocking(self._settings, name="qstreamd-hub")
            if not isinstance(self._blocking, ClusterRedis):
                with translated():
                    self._client_id = int(await self._blocking.client_id())
        if not self._topics:  # the last viewer left while we connected
            return
        names = {keys.events(task_id).encode(): task_id for task_id in self._topics}
        cursors: dict[Any, Any] = {key: text_of(self._topics[task_id].cursor) for key, task_id in names.items()}
        self._armed = self._joined
        block_s = min(BLOCK_S, self._settings.block_s) if self._client_id is not None else CLUSTER_BLOCK_S
        began = asyncio.get_running_loop().time()
        self.reads += 1
        self._blocked = True
        try:
            with translated():
                reply: Any = await self._blocking.xread(cursors, count=BATCH, block=int(block_s * 1000))
        finally:
            self._blocked = False
        now = asyncio.get_running_loop().time()
        if not reply:
            if self._armed == self._joined:  # else we were unblocked for those who joined
                await asyncio.sleep(self._polling.pause_s(found=False, asked_s=block_s, took_s=now - began))
            return
        for key, entries in reply.items():
            topic = self._topics.get(names[key])
            if topic is not None and entries:
                topic.cursor, topic.silent_since = cursor_of(entries[-1][0].decode()), now
                parsed = parse(entries)
                topic.last = parsed[-1] if parsed else topic.last
                self.tell(names[key], parsed)
        await asyncio.sleep(min(READ_PAUSE_S_MAX, READ_PAUSE_S_A_TOPIC * len(self._topics)))

    async def _wake(self) -> None:
        """A blocked read does not know the topics that joined since: unblock it.

        CLIENT UNBLOCK needs no key and works on a full server. It may come before the read is blocked, hence again.
        """
        while True:
            self._changed.clear()
            await self._changed.wait()
            try:
                while self._armed < self._joined and self._topics and self._client_id is not None:
                    if self._blocked:
                        with translated():
                            await self._client.client_unblock(self._client_id)
                    await asyncio.sleep(_WAKE_S)
            except (RedisAway, RedisFull) as error:
                _log.warning("fan_out.unblock_failed", error=type(error).__name__)  # then BLOCK runs out by itself

    async def _disconnect(self) -> None:
        client, self._blocking, self._client_id = self._blocking, None, None
        if client is not None:
            await client.aclose()
