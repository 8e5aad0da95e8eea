"""What lies in a queue and runs nowhere: looked through in pages, told something, taken out. Never blocks the server.

Called for operators' orders (`admin`), not on the path of a task.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from daemon.domain.errors import RedisAway, RedisFull
from daemon.domain.events import CURRENT_ATTEMPT, EventDraft
from daemon.domain.messages import WorkEntry, identity_of
from daemon.events.log import EventLog
from daemon.observability.logging import logger
from daemon.queues import scripts as lua
from daemon.redis_client import keys
from daemon.redis_client.connection import server_ms, translated
from daemon.redis_client.scripts import Call, Scripts

PAGE: Final = 200  #: entries a flush: some milliseconds of the server's time at most

_decode: Final = msgspec.json.Decoder(WorkEntry).decode
_log = logger(__name__)


@dataclass(frozen=True, slots=True)
class BacklogEntry:
    """A task that waits. `stream` and `id` are empty when it is parked."""

    entry: WorkEntry
    stream: str
    id: str
    size: int = 0  #: bytes of the entry as it lies there

    @property
    def entry_id(self) -> str:
        """As Postgres names it; one that is parked has none, and any name will do for a task that ends."""
        return f"{self.stream}/{self.id}" if self.id else "tasks/0-0"


class Backlog:
    """The tasks of a queue that nobody runs."""

    def __init__(self, scripts: Scripts, events: EventLog) -> None:
        self._scripts = scripts
        self._events = events

    async def pages(self, queue: str) -> AsyncIterator[list[BacklogEntry]]:
        """All that wait, page by page; what comes or goes meanwhile may or may not be among them."""
        names = keys.queue_keys(queue)
        for stream, key in (("ready", names.ready), ("tasks", names.tasks)):
            async for page in self._stream(stream, key):
                yield page
        cursor = 0
        while True:
            held: Any
            with translated():
                cursor, held = await self._scripts.client.hscan(names.held, cursor, count=PAGE)
            yield [BacklogEntry(entry, "", "", len(raw)) for raw in held.values() if (entry := _entry(raw)) is not None]
            if not cursor:
                return

    async def _stream(self, stream: str, key: str) -> AsyncIterator[list[BacklogEntry]]:
        after = "-"
        while True:
            with translated():
                pipe = self._scripts.client.pipeline(transaction=False)
                pipe.xrange(key, min=after, count=PAGE)
                pipe.xpending_range(key, keys.GROUP, min=after.lstrip("("), max="+", count=10_000)
                page, pending = await pipe.execute(raise_on_error=False)
            if isinstance(page, Exception) or not page:
                return
            run = {p["message_id"] for p in pending} if not isinstance(pending, Exception) else set()
            yield [
                BacklogEntry(entry, stream, entry_id.decode(), len(raw))
                for entry_id, fields in page
                if entry_id not in run and (entry := _entry(raw := fields.get(b"task"))) is not None
            ]
            after = f"({page[-1][0].decode()}"

    async def hasten(self, queue: str) -> int:
        """Let all that wait for a guard ask again, oldest first and spread out; how many. Repeatable.

        For a queue that was paused: its waiters were taken out of the lines, so nobody would call them.
        """
        asked = 0
        async for page in self.pages(queue):
            parked = [w.entry for w in page if not w.id and w.entry.parked.startswith("GUARD_")]
            if parked:
                retry = keys.queue_keys(queue).retry
                now = await server_ms(self._scripts.client, retry)
                with translated():
                    due = {e.message.task_id: now + 2 * (asked + at) for at, e in enumerate(parked)}
                    await self._scripts.client.zadd(retry, due, xx=True)
                asked += len(parked)
        return asked

    async def tell(self, page: Sequence[BacklogEntry], draft: EventDraft, *, must: bool = False) -> None:
        """Append an event to the stream of each; one flush. `must`: raises what hindered any, unless it is its own."""
        replies = await self._each([self._append_call(waiting, draft) for waiting in page])
        if must:
            _raise_shared_failure(page, replies)

    async def remove(self, queue: str, page: Sequence[BacklogEntry]) -> int:
        """Remove tasks that have ended, with their places and their images in Redis; how many, in one flush.

        The others are read by somebody, who finds them ended.
        """
        replies = await self._each([self._purge_call(queue, waiting) for waiting in page])
        _raise_shared_failure(page, replies)
        return sum(reply[0] for reply in replies if not isinstance(reply, Exception))

    async def _each(self, calls: Sequence[Call]) -> list[Any]:
        return await self._scripts.run_each(calls) if calls else []

    def _append_call(self, waiting: BacklogEntry, draft: EventDraft) -> Call:
        return self._events.append_call(identity_of(waiting.entry.message), CURRENT_ATTEMPT, [draft])

    def _purge_call(self, queue: str, waiting: BacklogEntry) -> Call:
        names = keys.queue_keys(queue)
        message = waiting.entry.message
        return lua.purge(
            stream=names.ready if waiting.stream == "ready" else names.tasks,
            retry=names.retry,
            held=names.held,
            waiting=names.waiting,
            counter=names.counter,
            blobs=[keys.blob(queue, message.task_id, at) for at, i in enumerate(message.images or ()) if i.blob],
            entry_id=waiting.id,
            task_id=message.task_id,
        )


def _raise_shared_failure(page: Sequence[BacklogEntry], replies: Sequence[Any]) -> None:
    """Raise what hinders all; one task's own trouble (the key of its events is no stream, say) is only said."""
    for waiting, reply in zip(page, replies, strict=True):
        if isinstance(reply, RedisAway | RedisFull):
            raise reply
        if isinstance(reply, Exception):
            _log.warning("backlog.failed", task_id=waiting.entry.message.task_id, error=type(reply).__name__)


def _entry(raw: Any) -> WorkEntry | None:
    try:
        return _decode(raw) if isinstance(raw, bytes) else None
    except (msgspec.DecodeError, UnicodeDecodeError):  # poison, or of a newer release: its daemon ends it
        return None
