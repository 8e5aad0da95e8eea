"""Cancelling in Redis: the mark that appends tell, the notice that daemons listen for, and the way out of a queue.

A notice reaches every daemon that runs something, within milliseconds; one that is lost costs nothing, since the mark
is told with the next event or at the next start. `CancelRequests` is for who asks, `CancelNotices` for who runs.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

import msgspec
from redis.asyncio import Redis

from daemon.config import EventSettings, QueueSettings, RedisSettings
from daemon.domain.messages import IMAGES_MAX, WorkEntry
from daemon.events import scripts as lua
from daemon.redis_client import keys
from daemon.redis_client.connection import Polling, connect_blocking, translated
from daemon.redis_client.scripts import Scripts

NOTICES_MAX: Final = 1000  #: kept in the stream of notices, about
NOTICES_TTL_S: Final = 86_400
_PAGE: Final = 500
_PAGES_MAX: Final = 10  #: of `:ready` that are searched; it is served first, so it is short

_POLL_S_MAX: Final = 5.0  #: between two reads on a server that does not block

_decode: Final = msgspec.json.Decoder(WorkEntry).decode


class CancelRequests:
    """Asks for cancels and takes tasks that wait out of their queue."""

    def __init__(self, scripts: Scripts, events: EventSettings, queues: QueueSettings) -> None:
        self._scripts = scripts
        self._ttl_s = int(events.ttl_s)
        self._seen_ttl_s = int(queues.seen_ttl_s)

    async def mark(self, task_id: str) -> bool:
        """Let every append to the task's events tell that it is to end; False when it has ended. Repeatable."""
        return bool(await self._scripts.one(lua.cancel(state=keys.events_state(task_id), ttl_s=self._ttl_s)))

    async def notify(self, task_id: str) -> None:
        """Tell every daemon that runs something; whoever runs this task stops its model call. Repeatable."""
        with translated():
            pipe = self._scripts.client.pipeline(transaction=False)
            pipe.xadd(keys.CANCELS, {"taskId": task_id}, maxlen=NOTICES_MAX, approximate=True)
            pipe.expire(keys.CANCELS, NOTICES_TTL_S)
            await pipe.execute()

    async def find(self, queue: str, task_id: str) -> tuple[WorkEntry, str] | None:
        """The entry of a task that nothing has claimed yet, and its id as Postgres names it; None: not in the queue."""
        names = keys.queue_keys(queue)
        with translated():
            pipe = self._scripts.client.pipeline(transaction=False)
            pipe.hget(names.held, task_id)
            pipe.get(keys.dedup(queue, task_id))
            held, seen = await pipe.execute()
            entry_id = seen.partition(b":")[0].decode() if seen else ""
            if not entry_id:
                return None
            raw = held or await self._content(names.tasks, entry_id) or await self._in_ready(names.ready, task_id)
        try:
            return (_decode(raw), f"tasks/{entry_id}") if raw else None
        except (msgspec.DecodeError, UnicodeDecodeError):  # poison, or of a newer release: its daemon ends it
            return None

    async def withdraw(self, queue: str, task_id: str) -> bool:
        """Take a task that has ended out of its queue and give its place back; False: whoever reads it next does.

        One that was only promised is refused when it comes. Repeatable.
        """
        names = keys.queue_keys(queue)
        withdrawn, _clamped = await self._scripts.one(
            lua.withdraw(
                retry=names.retry,
                held=names.held,
                seen=keys.dedup(queue, task_id),
                tasks=names.tasks,
                reservation=keys.reservation(queue, task_id),
                waiting=names.waiting,
                counter=names.counter,
                blobs=[keys.blob(queue, task_id, at) for at in range(IMAGES_MAX)],
                task_id=task_id,
                seen_ttl_s=self._seen_ttl_s,
            )
        )
        return bool(withdrawn)

    async def _content(self, stream: str, entry_id: str) -> bytes | None:
        found: Any = await self._scripts.client.xrange(stream, min=entry_id, max=entry_id)
        return found[0][1].get(b"task") if found else None

    async def _in_ready(self, stream: str, task_id: str) -> bytes | None:
        after, field = "-", b'"taskId":"%s"' % task_id.encode()
        for _ in range(_PAGES_MAX):
            page: Any = await self._scripts.client.xrange(stream, min=after, count=_PAGE)
            for _entry_id, fields in page:
                raw: bytes | None = fields.get(b"task")
                if raw is not None and field in raw and _is_of(raw, task_id):
                    return raw
            if len(page) < _PAGE:
                break
            after = f"({page[-1][0].decode()}"
        return None


def _is_of(raw: bytes, task_id: str) -> bool:
    try:
        return _decode(raw).message.task_id == task_id
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False


class CancelNotices:
    """Listens on a connection of its own; explicit ids, so that a lost connection loses no notice."""

    def __init__(self, settings: RedisSettings) -> None:
        self._settings = settings
        self._client: Redis | None = None
        self._after = ""
        self._polling = Polling(_POLL_S_MAX)

    async def wait(self) -> list[str]:
        """Ids of tasks to cancel as soon as there are some, or [] after a BLOCK. Raises `RedisAway`."""
        if self._client is None:
            self._client = connect_blocking(self._settings, name="qstreamd-cancels")
        with translated():
            if not self._after:  # what was asked before we ran anything is told by the marks
                last: Any = await self._client.xrevrange(keys.CANCELS, count=1)
                self._after = last[0][0].decode() if last else "0-0"
            block_ms = int(self._settings.block_s * 1000)
            began = time.monotonic()
            reply: Any = await self._client.xread({keys.CANCELS: self._after}, block=block_ms, count=NOTICES_MAX)
        entries: list[Any] = next(iter(reply.values()), []) if reply else []
        took_s = time.monotonic() - began
        await asyncio.sleep(self._polling.pause_s(found=bool(entries), asked_s=self._settings.block_s, took_s=took_s))
        if entries:
            self._after = entries[-1][0].decode()
        return [fields[b"taskId"].decode() for _, fields in entries if b"taskId" in fields]

    async def close(self) -> None:
        """Give the connection back; the cursor stays. Repeatable."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()
