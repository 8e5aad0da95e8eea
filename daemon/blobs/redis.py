"""Inline images that the relay laid beside the stream.

Bytes in a Redis key with an end of life, in the queue's slot.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Final

from redis.asyncio import Redis

from daemon.domain.errors import Code, Rejected
from daemon.domain.model_io import Picture
from daemon.redis_client import keys
from daemon.redis_client.connection import translated

#: exactly what `keys.blob` spells; a reference is never allowed to name another key
_REFERENCE: Final = re.compile(r"redis:(\{bp:queue:[a-z0-9][a-z0-9_.-]{0,63}\}:blob:[A-Za-z0-9_-]{1,64}:[0-7])")


class RedisBlobs:
    """The `Blobs` port for `redis:` references. `inspect` names the type of bytes, or raises `Rejected`."""

    def __init__(self, client: Redis, inspect: Callable[[bytes], Picture]) -> None:
        self._client = client
        self._inspect = inspect

    async def read(self, reference: str, user_id: str) -> Picture:
        """The picture; `Rejected` with IMAGE_NOT_FOUND when its end of life has passed."""
        named = _REFERENCE.fullmatch(reference)
        if named is None:
            raise Rejected("images: not a reference of ours", code=Code.IMAGE_REJECTED)
        with translated():
            data: Any = await self._client.get(named[1])
        if data is None:
            raise Rejected(code=Code.IMAGE_NOT_FOUND)
        return self._inspect(data)

    async def accepted(self, tasks: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
        """Those of these (queue, task id) that were accepted, as far as Redis remembers (7 days); one flush."""
        if not tasks:
            return set()
        with translated():
            pipe = self._client.pipeline(transaction=False)
            for queue, task_id in tasks:
                pipe.exists(keys.dedup(queue, task_id))
            found = await pipe.execute()
        return {task for task, known in zip(tasks, found, strict=True) if known}

    async def drop(self, references: Sequence[str], user_id: str) -> None:
        """Nothing: the script that settles the task's entry deletes these keys with it."""
