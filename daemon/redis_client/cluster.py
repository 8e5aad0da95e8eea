"""A Redis Cluster behind the interface of one server: each command goes to the node that holds its key.

Every node has a client of its own with our limits, so trouble of one node stays its own, and a flush goes to all nodes
it concerns at once. redis-py's `RedisCluster` shares neither property (docs/decisions/0005-redis-cluster.md). The map
of slots is asked for again when a node is away or says MOVED; meanwhile callers get the errors that they retry anyway.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Self

from redis import exceptions as rx
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline, PubSub

from daemon.domain.errors import RedisAway
from daemon.redis_client.slots import Address, SlotMap, first_key, keys_of, slot_of

Flush = Callable[[Redis, Sequence[int]], Awaitable[list[Any]]]

#: between two looks at the map: a failover takes seconds, and a hundred tasks that fail at once ask once
_LOOK_AGAIN_S: Final = 0.5
#: XREAD over several slots: between two rounds, doubling while nothing comes
_ROUND_S_MAX: Final = 0.25
_ROUND_S_LEAST: Final = 0.01
_ROUND_S_A_KEY: Final = 0.0002

#: these concern every node; all others without a key go to any one
_EVERYWHERE: Final = frozenset(
    {"SCRIPT LOAD", "SCRIPT FLUSH", "FLUSHALL", "FLUSHDB", "CONFIG SET", "DBSIZE", "KEYS", "MEMORY PURGE"}
)
#: what shows that the map may be old
_OLD_MAP: Final = (RedisAway, rx.ConnectionError, rx.TimeoutError, rx.ClusterDownError, rx.ReadOnlyError, rx.MovedError)


class ClusterRedis(Redis):
    """As `Redis`. `node` makes the client of one address; `seeds` are asked for the map of the others."""

    def __init__(self, seeds: Sequence[Address], node: Callable[[Address], Redis]) -> None:
        """Connects to nothing yet."""
        self.connection = None  # the base class would open a pool of its own; its commands need only execute_command
        self.single_connection_client = False
        self._seeds = list(seeds)
        self._make = node
        self._clients: dict[Address, Redis] = {}
        self._map = SlotMap()
        self._old = True
        self._looked_at = -_LOOK_AGAIN_S
        self._lock = asyncio.Lock()

    def __repr__(self) -> str:
        return f"ClusterRedis({len(self._clients)} nodes)"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def initialize(self) -> Self:
        """Nothing: the map is asked for with the first command."""
        return self

    async def aclose(self, close_connection_pool: bool | None = None) -> None:  # noqa: FBT001  # as in the base class
        """Close every connection. Repeatable."""
        clients, self._clients, self._old = list(self._clients.values()), {}, True
        for client in clients:
            await client.aclose()

    # --- who holds what ----------------------------------------------------------------------------------------------

    async def node_of(self, key: str | bytes) -> Redis:
        """The client of the node that holds `key`. Raises `ClusterDownError` while nobody does."""
        if self._old:
            await self._look()
        holder = self._map.holder(slot_of(key))
        if holder is None:
            self._old = True
            raise rx.ClusterDownError(f"CLUSTERDOWN no node holds slot {slot_of(key)}")
        return self._client(holder)

    async def nodes(self) -> list[Redis]:
        """The clients of all nodes that hold slots."""
        if self._old:
            await self._look()
        return [self._client(address) for address in self._map.addresses]

    @property
    def clients(self) -> list[Redis]:
        """The clients that there are by now."""
        return list(self._clients.values())

    def _client(self, address: Address) -> Redis:
        if (client := self._clients.get(address)) is None:
            client = self._clients[address] = self._make(address)
        return client

    async def _look(self) -> None:
        async with self._lock:
            now = time.monotonic()
            if not self._old:
                return
            if now - self._looked_at < _LOOK_AGAIN_S:
                if self._map.addresses:
                    return
                raise rx.ConnectionError("no node of the cluster has answered just now")
            self._looked_at = now
            error: Exception = rx.ConnectionError("no node of the cluster answers")
            # in any order, so that a dead one does not come first for everybody
            for address in dict.fromkeys((*_shuffled(self._map.addresses), *_shuffled(self._seeds))):
                try:
                    table = await _run(self._client(address), "CLUSTER", "SLOTS")
                    if table:
                        await self._learn(table, address)
                        return
                    error = rx.ClusterDownError("CLUSTERDOWN no node holds any slot")
                except (rx.RedisError, OSError) as failed:
                    error = failed
            raise error

    async def _learn(self, table: Any, asked: Address) -> None:
        self._map = SlotMap.of(table, asked)
        self._old = False
        for address in self._clients.keys() - set(self._map.addresses):
            await self._clients.pop(address).aclose()  # it left, or serves as a replica now

    # --- commands ----------------------------------------------------------------------------------------------------

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """The reply of the node that holds the key; of all nodes for what concerns them all."""
        name = args[0]
        if name in _EVERYWHERE:
            return _together(name, [await _run(node, *args, **options) for node in await self.nodes()])
        if name in {"XREAD", "MGET"} and len({slot_of(key) for key in keys_of(args)}) > 1:
            return await (self._read(args) if name == "XREAD" else self._get(args))

        async def flush(node: Redis, _: Sequence[int]) -> list[Any]:
            return [await _run(node, *args, **options)]

        (reply,) = await self.spread([first_key(args)], flush)
        if isinstance(reply, Exception):
            raise reply
        return reply

    def pipeline(self, transaction: bool = False, shard_hint: str | None = None) -> Pipeline:  # noqa: FBT001, FBT002
        """Commands that are sent together to each node they concern; never a transaction."""
        return _ClusterPipeline(self)

    def pubsub(self, **kwargs: Any) -> PubSub:
        """On any node: what is published at one is told by all."""
        return self._client(random.choice(self._map.addresses or self._seeds)).pubsub(**kwargs)

    async def spread(self, keys: Sequence[str | bytes | None], flush: Flush) -> list[Any]:
        """The replies to what concerns `keys`, in order; `flush` sends those with the given indexes to one node.

        Nodes are asked at once, what goes to one node stays in order. An error of a node stands in place of each reply
        of its own. What has no key goes where its predecessor went, so that it comes after. A MOVED is followed once.
        """
        replies: list[Any] = [None] * len(keys)
        parts: dict[Redis, list[int]] = {}
        node: Redis | None = None
        for at, key in enumerate(keys):
            try:
                if key is not None:
                    node = await self.node_of(key)
                elif node is None:
                    node = random.choice(await self.nodes())
                parts.setdefault(node, []).append(at)
            except (rx.RedisError, OSError) as error:
                replies[at] = _of_redis(error)
        await self._ask(parts, flush, replies)
        if any(isinstance(reply, _OLD_MAP) for reply in replies):
            self._old = True
        moved: dict[Redis, list[int]] = {}
        for at, reply in enumerate(replies):
            if isinstance(reply, rx.MovedError) and reply.host:
                moved.setdefault(self._client((reply.host, reply.port)), []).append(at)
        if moved:
            await self._ask(moved, flush, replies)
        return replies

    async def _ask(self, parts: dict[Redis, list[int]], flush: Flush, replies: list[Any]) -> None:
        async def one(node: Redis, which: list[int]) -> None:
            try:
                answers = await flush(node, which)
            except (rx.RedisError, RedisAway, OSError) as error:
                answers = [_of_redis(error)] * len(which)
            for at, reply in zip(which, answers, strict=True):
                replies[at] = reply

        if len(parts) == 1:
            await one(*next(iter(parts.items())))
        elif parts:
            async with asyncio.TaskGroup() as group:
                for node, which in parts.items():
                    group.create_task(one(node, which))

    # --- commands over several slots -----------------------------------------------------------------------------

    async def _read(self, args: Sequence[Any]) -> dict[Any, Any]:
        """XREAD where no node has all streams: each is asked for by itself, again and again until BLOCK is over."""
        keys = keys_of(args)
        after = args[-len(keys) :]
        said = args[1 : args.index(b"STREAMS")]
        words = dict(zip(said[::2], said[1::2], strict=True))
        count, block_ms = words.get(b"COUNT"), words.get(b"BLOCK")
        until = time.monotonic() + float(block_ms or 0) / 1000
        pause_s = least_s = max(_ROUND_S_LEAST, _ROUND_S_A_KEY * len(keys))
        while True:
            pipe = self.pipeline()
            for key, cursor in zip(keys, after, strict=True):
                pipe.xread({key: cursor}, count=None if count is None else int(count))
            found: dict[Any, Any] = {}
            for reply in await pipe.execute():
                found |= reply or {}
            left_s = until - time.monotonic()
            if found or left_s <= 0:
                return found
            await asyncio.sleep(min(pause_s, left_s))
            pause_s = min(max(_ROUND_S_MAX, least_s), 2 * pause_s)

    async def _get(self, args: Sequence[Any]) -> list[Any]:
        pipe = self.pipeline()
        for key in args[1:]:
            pipe.get(key)
        return list(await pipe.execute())


class _ClusterPipeline(Pipeline):
    """Collects commands as any pipeline does, and sends them to the nodes they concern."""

    def __init__(self, cluster: ClusterRedis) -> None:
        super().__init__(None, {}, transaction=False, shard_hint=None)  # type: ignore[arg-type]  # it has no pool
        self._cluster = cluster

    async def execute(self, raise_on_error: bool = True) -> list[Any]:  # noqa: FBT001, FBT002
        """The replies in order. The first error is raised, unless it is wanted in place."""
        stack, self.command_stack = self.command_stack, []

        async def flush(node: Redis, which: Sequence[int]) -> list[Any]:
            pipe = node.pipeline(transaction=False)
            for at in which:
                args, options = stack[at]
                pipe.execute_command(*args, **options)
            return list(await pipe.execute(raise_on_error=False))

        replies = await self._cluster.spread([first_key(args) for args, _ in stack], flush)
        if raise_on_error:
            for reply in replies:
                if isinstance(reply, Exception):
                    raise reply
        return replies


async def _run(node: Any, *args: Any, **options: Any) -> Any:
    return await node.execute_command(*args, **options)


def _together(name: str, replies: list[Any]) -> Any:
    if name == "DBSIZE":
        return sum(replies)
    if name == "KEYS":
        return [key for reply in replies for key in reply]
    return replies[0]


def _shuffled(addresses: Sequence[Address]) -> list[Address]:
    return random.sample(addresses, len(addresses))


def _of_redis(error: Exception) -> Exception:
    known = isinstance(error, rx.RedisError | RedisAway)
    return error if known else rx.ConnectionError(f"{type(error).__name__}: {error}")
