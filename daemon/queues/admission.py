"""Accepts a task message once, in one script: duplicate, conflict, full or appended.

One flush, may be repeated, touches one slot of the cluster. Called by the relay, and by whatever else puts work into a
queue. A producer that reserves its slot before it publishes uses `queues.reservations`.
"""

from __future__ import annotations

from collections.abc import Mapping
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


Verdict = Accepted | Duplicate | Conflict | Full

#: nobody is sent away for longer: by then an operator has raised a limit, or the pace has changed
RETRY_AFTER_S_MAX: Final = 600.0


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
        return verdict_of(await self._scripts.one(call))


def _without_inline_images(entry: WorkEntry, pictures: Mapping[int, Picture], staged: Mapping[int, str]) -> WorkEntry:
    """The entry with a reference in place of each inline image: large bytes never travel through the work stream."""
    images = list(entry.message.images or ())
    for index, picture in pictures.items():
        images[index] = ImageRef(mime_type=picture.mime_type, blob=staged[index])
    return msgspec.structs.replace(entry, message=msgspec.structs.replace(entry.message, images=images))


def verdict_of(reply: Any) -> Verdict:
    """What the reply of `accept.lua` or `reserve.lua` means."""
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
