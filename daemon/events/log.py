"""A task's event stream: append under a fence, read from a cursor.

The append script owns the order: it adds `queued` when it comes first, numbers events within their attempt, refuses
lower attempts and everything after the terminal event. Called by the relay (`queued`) and by the pipeline; one
append is one flush.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from daemon.config import EventSettings
from daemon.domain.events import Channel, Event, EventDraft, EventType, Reason, Stage, progress
from daemon.domain.messages import CONTRACT_VERSION, Origin
from daemon.events import scripts as lua
from daemon.ports import Appended, Clock, TaskIdentity
from daemon.redis_client import keys
from daemon.redis_client.connection import translated
from daemon.redis_client.scripts import Call, Scripts

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(dict[str, Any]).decode


class EventLog:
    """Writes and reads per-task streams. `owner`: whose attempts are appended; "" in a process that runs none."""

    def __init__(self, scripts: Scripts, settings: EventSettings, clock: Clock, owner: str = "") -> None:
        self._scripts = scripts
        self._clock = clock
        self._owner = owner
        self._ttl_s = int(settings.ttl_s)
        self._ended_ttl_s = int(settings.ttl_after_end_s)

    async def append(self, task: TaskIdentity, attempt: int, drafts: Sequence[EventDraft]) -> Appended:
        """What became of the drafts, appended in order under one nonce; one flush.

        A reply that was lost is repeated here under the same nonce, so a delta is never doubled.
        """
        return self.appended((await self._scripts.run([self.append_call(task, attempt, drafts)]))[0])

    async def queued(self, task: TaskIdentity, position: int | None = None, *, paused: bool = False) -> None:
        """Append `queued` if the stream is empty; otherwise nothing changes, but for why it waits (`paused`)."""
        drafts = [progress(Stage.QUEUE, "the queue is paused", reason=Reason.QUEUE_PAUSED)] if paused else []
        await self._scripts.run([self.append_call(task, -1, drafts, position=position)])

    def append_call(
        self,
        task: TaskIdentity,
        attempt: int,
        drafts: Sequence[EventDraft],
        *,
        position: int | None = None,
        after: int | None = None,
        origin: bytes = b"",
    ) -> Call:
        """The script call of one append, to be sent in a batch with others; the same drafts make the same nonce.

        `after`: only if the attempt's last event is still the one with this `seq`, whoever ran it.
        `origin`: an `Origin` as JSON, kept beside the events.
        """
        now = round(self._clock.time(), 3)
        common = _encode(task.task_id), _common(task, now)
        nonce = drafts[0].nonce if drafts else secrets.token_hex(16)
        fence = str(attempt) if after is None else f"{attempt}@{after}"
        return lua.append(
            stream=keys.events(task.task_id),
            state=keys.events_state(task.task_id),
            nonce=nonce,
            fence=fence,
            owner=self._owner if after is None else "",
            ttl_s=self._ttl_s,
            ended_ttl_s=self._ended_ttl_s,
            queued=_queued(task, position, common),
            origin=origin,
            events=[lua.EventParts(d.type.value, int(d.terminal), *_pieces(d, *common)) for d in drafts],
        )

    @staticmethod
    def appended(reply: Any) -> Appended:
        """The reply of one append, typed."""
        status, attempt, _seq, cancel = reply
        return Appended(status > 0, ended=status == -1, cancel=bool(cancel), overtaken=status == -2, attempt=attempt)

    async def read(self, task_id: str, after: str = "0-0", count: int = 500) -> list[Event]:
        """At most `count` events after the stream id `after`; empty when there are none (yet). One command."""
        with translated():
            entries: Any = await self._scripts.client.xrange(
                keys.events(task_id), min=f"({after}", max="+", count=count
            )
        return [decode(entry_id, fields) for entry_id, fields in entries]

    async def streamed_text(self, task_id: str, attempt: int) -> tuple[str, int]:
        """The text that viewers of this attempt have so far, and the `seq` of its last event. One command a page."""
        parts, seq, after = [], 0, "0-0"
        while page := await self.read(task_id, after):
            for event in page:
                if event.data["attempt"] == attempt:
                    seq = event.data["seq"]
                    if event.type is EventType.TOKEN_BATCH and event.data["channel"] == Channel.TEXT:
                        parts.append(event.data["delta"])
            after = page[-1].id
        return "".join(parts), seq

    async def ending(self, task_id: str) -> tuple[Event, str] | None:
        """The terminal event and the text of its attempt; None: the events have not ended, or are gone. Reads all."""
        with translated():
            entries: Any = await self._scripts.client.xrevrange(keys.events(task_id), count=1)
        last = decode(*entries[0]) if entries else None
        if last is None or not last.terminal:
            return None
        return last, (await self.streamed_text(task_id, last.data["attempt"]))[0]

    async def origin(self, task_id: str) -> Origin | None:
        """What the first claim noted beside the events; None: they are gone, or of a former release."""
        with translated():
            noted: Any = await self._scripts.client.hget(keys.events_state(task_id), "origin")
        return None if noted is None else msgspec.json.decode(noted, type=Origin)


def decode(entry_id: bytes, fields: dict[bytes, bytes]) -> Event:
    """A stored entry as an `Event`."""
    return Event(entry_id.decode(), EventType(fields[b"type"].decode()), _decode(fields[b"data"]))


def _common(task: TaskIdentity, now: float) -> bytes:
    tail = {"requestId": task.request_id, "traceId": task.trace_id, "timestamp": now}
    return b"," + _encode(tail)[1:-1]


def _head(kind: str, task_id: bytes) -> bytes:
    return b'{"v":%d,"type":"%s","taskId":%s,"attempt":' % (CONTRACT_VERSION, kind.encode(), task_id)


def _pieces(draft: EventDraft, task_id: bytes, common: bytes) -> tuple[bytes, bytes]:
    """The JSON before and after `attempt` and `seq`, which only the script knows."""
    own = _encode(draft.fields)[1:-1]
    return _head(draft.type.value, task_id), common + (b"," + own if own else b"") + b"}"


def _queued(task: TaskIdentity, position: int | None, common: tuple[bytes, bytes]) -> bytes:
    own: dict[str, Any] = {"queueId": task.queue_id}
    if position is not None:
        own["position"] = position
    return _head("queued", common[0]) + b'0,"seq":0' + common[1] + b"," + _encode(own)[1:-1] + b"}"
