"""Everybody who follows a task in this process, on one blocked read of Redis.

A viewer reads what there is in pages, then joins the task's topic; one XREAD waits on all topics together, at explicit
ids (never `$`, which each empty read would move). Joining compares cursors in one step of the loop, so nothing is
missed and nothing comes twice. Each viewer has a bounded queue: one that is too slow is cut off, never the stream.
Called by the gateway; knows no HTTP.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple, Self

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from daemon import keys
from daemon.config import RedisSettings
from daemon.contracts import EventType
from daemon.errors import RedisAway, RedisFull
from daemon.logs import logger
from daemon.stream.connection import connect_blocking, translated

_log = logger(__name__)

PAGE: Final = 500  #: entries in one XRANGE of history
BATCH: Final = 200  #: entries of one stream in one shared read
BLOCK_S: Final = 20.0  #: of the shared read; a reader that nobody could wake looks up so late
#: Between two shared reads: with many topics each read costs the server a walk over all of them, so events of 25 ms at
#: 500 topics come together; one topic is read at once.
PACE_S_A_TOPIC: Final = 0.00005
PACE_S_MAX: Final = 0.1
_RETRY_S: Final = (0.1, 2.0)
_WAKE_S: Final = 0.002

START: Final = "0-0"
_ID: Final = re.compile(r"\d{1,20}(-\d{1,20})?")
_TYPE: Final = re.compile(rb"[a-z_]{1,32}")

Cursor = tuple[int, int]


class Entry(NamedTuple):
    """One event as stored; `id` is "" for what is not in the stream (a gap, an end made from the row)."""

    id: str
    type: str
    data: bytes  #: a JSON object on one line
    terminal: bool = False
    at: Cursor = (0, 0)  #: `id` as numbers


class Batch:
    """Events of one task that came together. `wire` is for whoever encodes them: once for all viewers."""

    __slots__ = ("entries", "plain", "terminal", "wire")

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = entries
        self.terminal = entries[-1].terminal
        #: stored ones, and none after the end: what nearly every batch is
        self.plain = all(entry.id for entry in entries) and not any(entry.terminal for entry in entries[:-1])
        self.wire: bytes | None = None


class _Fate(msgspec.Struct):
    retryable: bool = False


_fate: Final = msgspec.json.Decoder(_Fate).decode


def is_cursor(text: str) -> bool:
    """Whether `text` can be a stream id; `ms` alone counts as `ms-0`."""
    return _ID.fullmatch(text) is not None


def cursor_of(entry_id: str) -> Cursor:
    """A stream id as numbers, to be compared."""
    ms, _, seq = entry_id.partition("-")
    return int(ms), int(seq or 0)


def parse(entries: Iterable[Any]) -> list[Entry]:
    """Stored entries as `Entry`; what a stranger wrote in another form is passed over."""
    return [entry for entry_id, fields in entries if (entry := _parsed(entry_id, fields or {})) is not None]


def _parsed(entry_id: bytes, fields: dict[bytes, bytes]) -> Entry | None:
    kind, data = fields.get(b"type"), fields.get(b"data")
    if kind is None or data is None or not _TYPE.fullmatch(kind):
        return None
    try:
        if b"\n" in data or b"\r" in data:  # pretty-printed by a producer; a frame is made of lines
            data = msgspec.json.encode(msgspec.json.decode(data, type=dict[str, Any]))
        terminal = kind == EventType.DONE.encode() or (kind == EventType.ERROR.encode() and not _fate(data).retryable)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    name = entry_id.decode()
    return Entry(name, kind.decode(), data, terminal, cursor_of(name))


class Following:
    """One viewer of one task: `open`, then `next` until `ended`. A context manager, so that nobody stays behind."""

    def __init__(self, hub: Hub, task_id: str, after: str, queue_max: int) -> None:
        self.task_id = task_id
        self.ended = ""  #: "terminal", "slow", "closing"; "" while it goes on
        self.over = False  #: after `open`: the cursor is the terminal event itself, nothing will come
        self._hub = hub
        self._after = after
        #: takes a batch at once instead of the queue, when nothing waits in it; False: the viewer is too slow
        self.sink: Callable[[Batch], bool] | None = None
        self._queue_max = queue_max
        self._queue: deque[Entry] = deque()
        self._wake = asyncio.Event()
        self._last: Cursor = cursor_of(after)
        self._live = False
        self._missing = False
        self._lost = False  # the stream is not there, and the viewer had seen some of it

    def __enter__(self) -> Self:
        self._hub.viewers.add(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._hub.leave(self)

    async def open(self) -> None:
        """Read the first page and judge the cursor; one round trip. Raises `RedisAway`."""
        first, tail, page = await self._hub.look(self.task_id, self._after)
        if tail is None:
            self._missing, self._lost, self._last = True, self._after != START, (0, 0)
            return
        self.over = tail.terminal and tail.id == self._after
        if self._after != START and first is not None:
            if self._last < first.at:
                self._queue.append(self._gap(first.id))
            elif self._last > tail.at:  # of another life of this Redis: say so and begin anew
                self._queue.append(self._gap(first.id))
                self._last = (0, 0)
                page = []
        self._take(page)

    async def next(self, timeout_s: float) -> list[Entry]:
        """The next events in order; [] when none came in time, or when it `ended`. Raises `RedisAway`."""
        if self._missing:
            self._missing = False
            ending = await self._hub.ending(self.task_id)
            if ending is not None:
                self.push(Batch([ending]))
        while not self._live and not self._queue and not self.ended:
            await self._catch_up()
        if not self._queue and not self.ended:
            self._wake.clear()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._wake.wait()
            except TimeoutError:
                return []
        return self._drained()

    def push(self, batch: Batch) -> None:
        """New events of the topic; those that the viewer has are passed over."""
        if self.ended:
            return
        at_once = batch.plain and not self._queue and not self._lost and self._last < batch.entries[0].at
        if at_once and self.sink is not None:
            self._hand(self.sink, batch)
            return
        self._take(batch.entries)
        if len(self._queue) > self._queue_max:
            self.cut("slow")
        self._wake.set()

    def cut(self, why: str) -> None:
        """End it from outside; what was queued is dropped when it was too slow."""
        if not self.ended:
            self.ended = why
        if why == "slow":
            self._queue.clear()
        self._wake.set()

    def _hand(self, sink: Callable[[Batch], bool], batch: Batch) -> None:
        self._last = batch.entries[-1].at
        if not sink(batch):
            self.cut("slow")
        elif batch.terminal:
            self.cut("terminal")

    def _take(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            if entry.id:
                if entry.at <= self._last:
                    continue
                if self._lost:
                    self._lost = False
                    self._queue.append(self._gap(entry.id))
                self._last = entry.at
            self._queue.append(entry)

    def _drained(self) -> list[Entry]:
        entries = list(self._queue)
        self._queue.clear()
        for at, entry in enumerate(entries):
            if entry.terminal:
                self.ended = "terminal"
                return entries[: at + 1]
        return entries

    async def _catch_up(self) -> None:
        """One page of history, or the step from history to live.

        Live begins when all that the topic has read so far was read by us too: what it reads next is pushed to us.
        """
        known = self._hub.cursor(self.task_id)
        page, read, whole = await self._hub.page(self.task_id, self._last)
        self._take(page)
        self._last = max(self._last, read)
        if whole and not self.ended:
            self._live = self._hub.join(self, max(self._last, known or (0, 0)))

    def _gap(self, first: str) -> Entry:
        data = {"type": "gap", "taskId": self.task_id, "first": first}
        return Entry("", "gap", msgspec.json.encode(data))


class _Topic:
    """One task with viewers: how far the shared read is, and whom to tell."""

    __slots__ = ("cursor", "quiet_since", "viewers")

    def __init__(self, cursor: Cursor, now: float) -> None:
        self.cursor = cursor
        self.viewers: set[Following] = set()
        self.quiet_since = now


class Hub:
    """The shared reader. `run` is its loop; `ending` asks the ledger for the end of a task that Redis forgot."""

    def __init__(
        self, client: Redis, settings: RedisSettings, ending: Callable[[str], Awaitable[Entry | None]]
    ) -> None:
        self._client = client
        self._settings = settings
        self._topics: dict[str, _Topic] = {}
        self.viewers: set[Following] = set()
        self.ending = ending
        self.reads = 0  #: shared reads so far
        self._changed = asyncio.Event()
        self._wanted = 0  # raised whenever a topic joins; the read under way knows those up to `_armed`
        self._armed = 0
        self._blocking: Redis | None = None
        self._client_id: int | None = None
        self._blocked = False
        self._closed = False

    def follow(self, task_id: str, after: str = START, queue_max: int = 256) -> Following:
        """A viewer; enter it, then `open`."""
        return Following(self, task_id, after if is_cursor(after) else START, queue_max)

    @property
    def topics(self) -> int:
        """How many tasks are watched."""
        return len(self._topics)

    # --- what viewers ask ------------------------------------------------------------------------------------

    async def look(self, task_id: str, after: str) -> tuple[Entry | None, Entry | None, list[Entry]]:
        """First and last entry of the stream (None: there is none) and the first page after the cursor."""
        key = keys.events(task_id)
        with translated():
            pipe = self._client.pipeline(transaction=False)
            pipe.xrange(key, count=1)
            pipe.xrevrange(key, count=1)
            pipe.xrange(key, min=f"({after}", count=PAGE)
            first, tail, page = await pipe.execute()
        return next(iter(parse(first)), None), next(iter(parse(tail)), None), parse(page)

    async def page(self, task_id: str, after: Cursor) -> tuple[list[Entry], Cursor, bool]:
        """The next page after the cursor, the cursor behind it, and whether that was all there is."""
        with translated():
            entries: Any = await self._client.xrange(keys.events(task_id), min=f"({_text(after)}", count=PAGE)
        return parse(entries), cursor_of(entries[-1][0].decode()) if entries else after, len(entries) < PAGE

    def cursor(self, task_id: str) -> Cursor | None:
        """How far the shared read of this task is; None: nobody watches it."""
        topic = self._topics.get(task_id)
        return topic.cursor if topic is not None else None

    def join(self, viewer: Following, last: Cursor) -> bool:
        """Tell this viewer what comes after `last` from now on; False: the topic is further, read on first."""
        if self._closed:
            viewer.cut("closing")
            return False
        topic = self._topics.get(viewer.task_id)
        if topic is None:
            topic = self._topics[viewer.task_id] = _Topic(last, asyncio.get_running_loop().time())
            self._wanted += 1
            self._changed.set()
        if topic.cursor > last:
            return False
        topic.viewers.add(viewer)
        return True

    def leave(self, viewer: Following) -> None:
        """Forget this viewer; repeatable. A topic without viewers is read no more."""
        self.viewers.discard(viewer)
        topic = self._topics.get(viewer.task_id)
        if topic is not None:
            topic.viewers.discard(viewer)
            if not topic.viewers:
                del self._topics[viewer.task_id]

    # --- the end of tasks, told by the ledger ----------------------------------------------------------------

    def quiet(self, for_s: float) -> list[str]:
        """Watched tasks of which nothing came for so long: their last event may have been lost."""
        limit = asyncio.get_running_loop().time() - for_s
        return [task_id for task_id, topic in self._topics.items() if topic.quiet_since <= limit]

    def tell(self, task_id: str, entries: Sequence[Entry]) -> None:
        """Push events to all viewers of a task."""
        topic = self._topics.get(task_id)
        if topic is not None and entries:
            batch = Batch(entries)
            for viewer in tuple(topic.viewers):
                viewer.push(batch)

    def close(self) -> None:
        """End every viewer, now and from now on: the process stops."""
        self._closed = True
        for viewer in tuple(self.viewers):
            viewer.cut("closing")

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
                        _log.warning("hub.read_failed", error=type(error).__name__, failures=failures)
                        await self._disconnect()
                        await asyncio.sleep(min(_RETRY_S[1], _RETRY_S[0] * 2.0 ** min(failures, 10)))
            finally:
                await self._disconnect()

    async def _read(self) -> None:
        if self._blocking is None:
            self._blocking = connect_blocking(self._settings, name="qstreamd-hub")
            with translated():
                self._client_id = int(await self._blocking.client_id())
        if not self._topics:  # the last viewer left while we connected
            return
        names = {keys.events(task_id).encode(): task_id for task_id in self._topics}
        cursors: dict[Any, Any] = {key: _text(self._topics[task_id].cursor) for key, task_id in names.items()}
        self._armed = self._wanted
        block_ms = int(min(BLOCK_S, self._settings.block_s) * 1000)
        self.reads += 1
        self._blocked = True
        try:
            with translated():
                reply: Any = await self._blocking.xread(cursors, count=BATCH, block=block_ms)
        finally:
            self._blocked = False
        if not reply:
            return
        now = asyncio.get_running_loop().time()
        for key, entries in reply.items():
            topic = self._topics.get(names[key])
            if topic is not None and entries:
                topic.cursor, topic.quiet_since = cursor_of(entries[-1][0].decode()), now
                self.tell(names[key], parse(entries))
        await asyncio.sleep(min(PACE_S_MAX, PACE_S_A_TOPIC * len(self._topics)))

    async def _wake(self) -> None:
        """A blocked read does not know the topics that joined since: unblock it.

        CLIENT UNBLOCK needs no key and works on a full server. It may come before the read is blocked, hence again.
        """
        while True:
            self._changed.clear()
            await self._changed.wait()
            try:
                while self._armed < self._wanted and self._topics:
                    if self._blocked and self._client_id is not None:
                        with translated():
                            await self._client.client_unblock(self._client_id)
                    await asyncio.sleep(_WAKE_S)
            except (RedisAway, RedisFull) as error:
                _log.warning("hub.wake_failed", error=type(error).__name__)  # then BLOCK runs out by itself

    async def _disconnect(self) -> None:
        client, self._blocking, self._client_id = self._blocking, None, None
        if client is not None:
            await client.aclose()


def _text(cursor: Cursor) -> str:
    return f"{cursor[0]}-{cursor[1]}"
