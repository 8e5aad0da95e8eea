"""The door of a queue: accepts a task message once, keeps the count, takes back the place of one that never comes.

Each call is one script and one flush, may be repeated, and touches one slot. Called by the relay, and by whatever else
puts work into a queue.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from daemon.config import QueueSettings
from daemon.domain.errors import DependencyAway, RedisFull
from daemon.domain.messages import ImageRef, TaskMessage, WorkEntry
from daemon.domain.model_io import Picture
from daemon.ports import Clock, Staging
from daemon.queues import scripts as lua
from daemon.redis_client import keys
from daemon.redis_client.connection import translated
from daemon.redis_client.scripts import Scripts

_encode: Final = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Accepted:
    """It is in the stream. `position`: its place among the waiting, from 1. In a dry run `entry_id` is empty."""

    entry_id: str
    position: int
    paused: bool = False  #: an operator has paused the queue: it waits


@dataclass(frozen=True, slots=True)
class Duplicate:
    """The same message was accepted before, as `entry_id`."""

    entry_id: str


@dataclass(frozen=True, slots=True)
class Conflict:
    """Another message with this task id was accepted before, as `entry_id`."""

    entry_id: str


@dataclass(frozen=True, slots=True)
class Full:
    """The queue has no place left."""

    waiting: int
    limit: int
    retry_after_s: float | None = None  #: when a place is likely free; None: nothing has started yet


@dataclass(frozen=True, slots=True)
class Reserved:
    """Its place is taken. `position`: among the waiting, from 1; 0: it takes its place at delivery."""

    position: int


Verdict = Accepted | Duplicate | Conflict | Full
Reservation = Reserved | Duplicate | Conflict | Full

#: nobody is sent away for longer: by then an operator has raised a limit, or the pace has changed
RETRY_AFTER_S_MAX: Final = 600.0
#: members of `waiting` that one look for broken promises takes in, oldest first
_EXPIRE_BATCH: Final = 5000


def blob_reference(queue: str, task_id: str, index: int) -> str:
    """What `ImageRef.blob` says of an inline image whose bytes lie in Redis: `redis:` and the key."""
    return f"redis:{keys.blob(queue, task_id, index)}"


class Admission:
    """Judges and accepts on behalf of one process."""

    def __init__(self, scripts: Scripts, settings: QueueSettings, clock: Clock, staging: Staging | None = None) -> None:
        """`staging`: where inline images are laid; None: in Redis, by the script that accepts."""
        self._scripts = scripts
        self._settings = settings
        self._clock = clock
        self._staging = staging

    async def accept(
        self,
        message: TaskMessage,
        sha256: str,
        max_size: int,
        pictures: Mapping[int, Picture],
        *,
        dry_run: bool = False,
        traceparent: str = "",
    ) -> Verdict:
        """The verdict, carried out; one flush. With `dry_run` it is only the verdict.

        `sha256` identifies the body as it came; `pictures` are its inline images by their index, whose bytes are laid
        beside the stream, or on the shelf before. `max_size` holds unless the queue's control hash names another.
        Raises `RedisAway` (it may have been accepted: repeat, and the answer is `Duplicate`), `RedisFull` and the
        shelf's `DependencyAway` (it was not).
        """
        entry = WorkEntry(
            message=message, sha256=sha256, accepted_at=int(self._clock.time() * 1000), traceparent=traceparent
        )
        if dry_run or not pictures:
            return await self._accept(entry, max_size, {}, dry_run=dry_run)
        if self._staging is None:
            staged = {index: blob_reference(message.queue_id, message.task_id, index) for index in pictures}
            return await self._accept(_without_inline_images(entry, pictures, staged), max_size, pictures)
        staged = await self._staging.stage(message, pictures)
        accepted = True  # until the opposite is known: after a lost reply the sweep finds out
        try:
            verdict = await self._accept(_without_inline_images(entry, pictures, staged), max_size, {})
            accepted = isinstance(verdict, Accepted)
        except RedisFull:
            accepted = False
            raise
        finally:
            if not accepted:
                with suppress(DependencyAway):  # the sweep takes them
                    await self._staging.drop(list(staged.values()), message.user_id)
        return verdict

    async def _accept(
        self, entry: WorkEntry, max_size: int, pictures: Mapping[int, Picture], *, dry_run: bool = False
    ) -> Verdict:
        message, task_id = entry.message, entry.message.task_id
        names = keys.queue_keys(message.queue_id)
        call = lua.accept(
            tasks=names.tasks,
            seen=keys.dedup(message.queue_id, task_id),
            waiting=names.waiting,
            counter=names.counter,
            control=names.control,
            pace=names.start_interval,
            blobs=[keys.blob(message.queue_id, task_id, index) for index in pictures],
            task_id=task_id,
            sha256=entry.sha256,
            entry=_encode(entry),
            max_size=max_size,
            counted=message.counted,
            dry_run=dry_run,
            seen_ttl_s=int(self._settings.seen_ttl_s),
            blob_ttl_s=int(self._settings.blob_ttl_s),
            blob_bytes=[picture.data for picture in pictures.values()],
        )
        return _verdict(await self._scripts.one(call))

    async def reserve(
        self, queue: str, task_id: str, sha256: str, max_size: int, *, delay_s: float | None = None
    ) -> Reservation:
        """Take a place for a task that will be published now, or say why not; one flush.

        It is given back after `promise_ttl_s` unless the message came (`accept` keeps it). With `delay_s` no place is
        taken, only the body remembered: a delayed message takes its place at delivery. May be repeated: `Reserved`
        again. Raises as `accept`.
        """
        names, ttl_ms = keys.queue_keys(queue), int(self._settings.promise_ttl_s * 1000)
        reply = await self._scripts.one(
            lua.reserve(
                seen=keys.dedup(queue, task_id),
                waiting=names.waiting,
                counter=names.counter,
                control=names.control,
                reservation=keys.reservation(queue, task_id),
                pace=names.start_interval,
                task_id=task_id,
                sha256=sha256,
                max_size=max_size,
                record_ttl_ms=ttl_ms + int((delay_s or 0.0) * 1000),
                reservation_ttl_ms=ttl_ms,
                seen_prefix=keys.dedup(queue, ""),
                takes_slot=delay_s is None,
            )
        )
        if reply[0] == b"promised":
            return Reserved(reply[1])
        verdict = _verdict(reply)
        assert not isinstance(verdict, Accepted)
        return verdict

    async def queue_of(self, queues: Sequence[str], task_id: str) -> str | None:
        """The first of `queues` that knows this task, as promised or accepted; one flush."""
        with translated():
            pipe = self._scripts.client.pipeline(transaction=False)
            for queue in queues:
                pipe.exists(keys.dedup(queue, task_id), keys.reservation(queue, task_id))
            found = await pipe.execute()
        return next((queue for queue, known in zip(queues, found, strict=True) if known), None)

    async def expire_reservations(self, queue: str) -> int:
        """Give back the places of promises that were not kept in time; how many. One flush."""
        names, ttl_ms = keys.queue_keys(queue), int(self._settings.promise_ttl_s * 1000)
        call = lua.expire_reservations(
            waiting=names.waiting,
            counter=names.counter,
            reservation_ttl_ms=ttl_ms,
            seen_prefix=keys.dedup(queue, ""),
            batch=_EXPIRE_BATCH,
        )
        return int(await self._scripts.one(call))

    async def cancel_reservation(self, queue: str, task_id: str) -> bool:
        """Give the producer's place back, once; False when the message was accepted after all, and nothing changed."""
        names = keys.queue_keys(queue)
        accepted, _clamped = await self._scripts.one(
            lua.cancel_reservation(
                seen=keys.dedup(queue, task_id),
                waiting=names.waiting,
                counter=names.counter,
                reservation=keys.reservation(queue, task_id),
                task_id=task_id,
            )
        )
        return not accepted


def _without_inline_images(entry: WorkEntry, pictures: Mapping[int, Picture], staged: Mapping[int, str]) -> WorkEntry:
    """The entry with a reference in place of each inline image: large bytes never travel through the work stream."""
    images = list(entry.message.images or ())
    for index, picture in pictures.items():
        images[index] = ImageRef(mime_type=picture.mime_type, blob=staged[index])
    return msgspec.structs.replace(entry, message=msgspec.structs.replace(entry.message, images=images))


def _verdict(reply: Any) -> Verdict:
    match reply:
        case [b"queued", entry_id, position, *paused]:
            return Accepted(entry_id.decode(), position, paused=paused == [1])
        case [b"duplicate", entry_id]:
            return Duplicate(entry_id.decode())
        case [b"conflict", entry_id]:
            return Conflict(entry_id.decode())
        case [b"full", waiting, limit, ms]:
            return Full(waiting, limit, None if ms < 0 else min(ms / 1000, RETRY_AFTER_S_MAX))
    raise AssertionError(f"the accept script answered {reply!r}")
