"""The blocked read of one queue, on a connection of its own, and how to end it early.

It is never cancelled: entries on their way would be stranded unseen. `unblock` ends it through another connection.
"""

from __future__ import annotations

import asyncio
from typing import Final

from redis.asyncio import Redis

from daemon.config import RedisSettings
from daemon.domain.errors import RedisAway, RedisFull
from daemon.observability.logging import logger
from daemon.ports import Delivery
from daemon.queues.streams import WorkStreams
from daemon.redis_client.connection import connect_blocking, node_of, translated
from daemon.redis_client.keys import queue_keys

_log = logger(__name__)

#: a read that is being sent is blocked at the server within this
_UNBLOCK_TRIES: Final = 25
_UNBLOCK_PAUSE_S: Final = 0.02


class BlockingRead:
    """One queue's. `client` is the shared one, which unblocks."""

    def __init__(self, queue: str, work: WorkStreams, client: Redis, settings: RedisSettings) -> None:
        self._queue = queue
        self._where = queue_keys(queue).ready  # in a cluster: both streams lie on the same node
        self._work = work
        self._client = client
        self._settings = settings
        self._connection: Redis | None = None
        self._client_id: int | None = None
        self._blocked = False

    async def open(self) -> None:
        """Connect, if not connected. Raises `RedisAway`."""
        if self._connection is None:
            self._connection = connect_blocking(self._settings, name=f"qstreamd-read-{self._queue}")
            with translated():
                self._client_id = int(await (await node_of(self._connection, self._where)).client_id())

    async def wait(self, count: int, block_s: float) -> list[Delivery]:
        """At most `count` new entries of each stream; [] after `block_s` or `unblock`. Raises `RedisAway`."""
        assert self._connection is not None, "open comes first"
        self._blocked = True
        try:
            return await self._work.wait(self._connection, self._queue, count, int(block_s * 1000))
        finally:
            self._blocked = False

    async def unblock(self) -> None:
        """End the wait that is under way, if any; while Redis is away it ends by itself. Repeatable."""
        for _ in range(_UNBLOCK_TRIES):
            if not self._blocked or self._client_id is None:
                return
            try:
                with translated():
                    node = await node_of(self._client, self._where)
                    if await node.client_unblock(self._client_id):
                        return
            except (RedisAway, RedisFull):
                _log.warning("read.unblock_failed", queue=self._queue)  # then BLOCK runs out by itself
                return
            await asyncio.sleep(_UNBLOCK_PAUSE_S)  # its read is on the way to the server

    async def close(self) -> None:
        """Drop the connection; `open` makes a new one. Repeatable."""
        connection, self._connection, self._client_id = self._connection, None, None
        if connection is not None:
            await connection.aclose()
