"""Script calls of all tasks of a process in shared flushes: acks, events and places in one pipeline.

The calls of one `run` stay together and in order, so the law holds as it does without company. A flush that fails fails
for each, and each repeats its own: every script of ours may be repeated.

A flush is packed in C and its replies are read under one limit, not one each: redis-py's own pipeline packs in Python
and arms a timer for every reply, which was a fifth of a busy daemon's CPU (docs/performance.md).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from functools import partial
from typing import Any, Final, cast

import hiredis
from redis import exceptions as rx
from redis.asyncio import Redis

from daemon.redis_client.batcher import Batcher
from daemon.redis_client.cluster import ClusterRedis
from daemon.redis_client.connection import translated
from daemon.redis_client.scripts import Call, Scripts, translated_each

#: flushes at once: a far Redis is kept busy, and one slow reply does not hold everyone
_LANES: Final = 4
#: `run`s in one flush: its reply takes the server a few milliseconds at most
_RUNS_MAX: Final = 128


class BatchedScripts(Scripts):
    """`Scripts` that flush together. `command_timeout_s` of the settings bounds a whole flush.

    In a cluster each node has flushes of its own, so that whoever needs nothing of a silent node does not wait for it.
    """

    def __init__(self, client: Redis) -> None:
        super().__init__(client)
        self._gatherings: dict[Redis, Batcher[Sequence[Call], list[Any]]] = {}

    async def run_each(self, calls: Sequence[Call]) -> list[Any]:
        """See `Scripts.run_each`."""
        if isinstance(self.client, ClusterRedis):
            keys = [next(iter(call.keys), None) for call in calls]
            with translated():
                return translated_each(
                    await self.client.spread(keys, lambda node, which: self._ask(node, [calls[at] for at in which]))
                )
        return translated_each(await self._ask(self.client, calls))

    async def _ask(self, node: Redis, calls: Sequence[Call]) -> list[Any]:
        if (batcher := self._gatherings.get(node)) is None:
            batcher = Batcher(partial(self._run_all, node), lanes=_LANES, most=_RUNS_MAX)
            self._gatherings[node] = batcher
        return await batcher.ask(calls)

    async def _run_all(self, node: Redis, runs: list[Sequence[Call]]) -> list[list[Any]]:
        replies = iter(await self._answered(node, [call for calls in runs for call in calls]))
        return [[next(replies) for _ in calls] for calls in runs]

    async def _send(self, client: Redis, calls: Sequence[Call]) -> list[Any]:
        self.flushes += 1
        packed = b"".join([_packed(call) for call in calls])
        pool: Any = client.connection_pool
        with translated():
            connection = await pool.get_connection()
            try:
                replies = await connection.retry.call_with_retry(
                    lambda: _exchange(connection, packed, len(calls)), lambda _error: connection.disconnect()
                )
            finally:
                await pool.release(connection)
            return cast("list[Any]", replies)


def _packed(call: Call) -> bytes:
    words = ("EVALSHA", call.script.sha, len(call.keys), *call.keys, *call.args)
    packed: bytes = hiredis.pack_command(cast("tuple[str]", words))  # the stub wants all of one type
    return packed


async def _exchange(connection: Any, packed: bytes, count: int) -> list[Any]:
    """Any end but the last reply closes the connection, so that nobody after us reads what was meant for us."""
    await connection.send_packed_command(packed)
    replies: list[Any] = []
    try:
        async with asyncio.timeout(connection.socket_timeout):
            for _ in range(count):
                try:
                    replies.append(await connection.read_response(timeout=math.inf))
                except rx.ResponseError as error:
                    replies.append(error)
    except TimeoutError:
        await connection.disconnect(nowait=True)
        raise rx.TimeoutError("no reply to a flush in time") from None
    return replies
