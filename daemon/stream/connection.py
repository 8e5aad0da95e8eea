"""Redis clients with every limit set by us, scripts called by hash, and Redis errors translated once.

redis-py's defaults double entries (hidden retries) and break blocking reads (5 s socket timeout), so nothing is left to
them. Called by every other module of `stream` and by `app`; never by the pipeline.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

from redis import exceptions as rx
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff

from daemon.config import RedisSettings
from daemon.errors import ConfigError, RedisAway, RedisFull
from daemon.redis_urls import deployment
from daemon.stream.cluster import ClusterRedis
from daemon.stream.sentinel import connect_by_sentinel

Argument = str | bytes | int | float

#: answers that mean "this server can't serve us now"; a new connection may reach one that can
_AWAY_WORDS: Final = (
    "READONLY",
    "LOADING",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "MISCONF",
    "UNBLOCKED",
    "is busy running a script",  # BUSY, after busy-reply-threshold
    "max number of clients",
)
#: the same, where redis-py knows the word: it takes it off the text and makes a class of it
_AWAY_CLASSES: Final = (
    rx.ConnectionError,
    rx.TimeoutError,
    rx.ReadOnlyError,
    rx.MasterDownError,
    rx.ClusterDownError,
    rx.AskError,  # and MovedError: a slot on its way to another node
    rx.TryAgainError,
)


class NoGroup(RedisAway):
    """The stream or its consumer group is gone (FLUSHALL, XGROUP DESTROY): make it again at 0 and go on."""


@contextmanager
def translated() -> Iterator[None]:
    """Turn redis-py's errors into ours; wrap every command in it exactly once.

    Also raises a cancellation that came in between and was swallowed: redis-py sends under `asyncio.wait_for`, which
    on Python 3.11 returns the answer instead when both come at once (cpython#86296). A loop would never end by it.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    try:
        yield
    except rx.RedisError as error:
        raise translate(error) from error
    except OSError as error:
        raise RedisAway(f"Redis: {type(error).__name__}") from error
    if task is not None and task.cancelling() > before:
        raise asyncio.CancelledError


def translate(error: rx.RedisError) -> Exception:
    """The error of ours for one of redis-py; script errors carry the server's word inside their text."""
    text = str(error)
    if isinstance(error, rx.OutOfMemoryError) or "OOM command not allowed" in text:
        return RedisFull("Redis is out of memory and refuses writes")
    if "NOGROUP" in text or "no longer exists" in text:
        return NoGroup(text)
    if isinstance(error, rx.MovedError):
        return RedisAway(
            f"Redis: MOVED {text[:100]}: a node of a cluster; does REDIS_URL begin with redis+cluster:// ?"
        )
    if "cluster support disabled" in text:
        return ConfigError(["REDIS_URL: names a cluster, but this server is none; write redis://host:port"])
    if isinstance(error, _AWAY_CLASSES) or any(word in text for word in _AWAY_WORDS):
        return RedisAway(f"Redis: {type(error).__name__}: {text[:200]}")
    return error


def connect(settings: RedisSettings, *, size: int | None = None, name: str | None = None, retries: int = 2) -> Redis:
    """A client for ordinary commands: bounded pool that waits for a connection instead of failing, short timeouts.

    Two quick retries heal a socket that a restart left stale; they are safe because every script of ours may be
    repeated. But not those that hand entries out: repeated, they find nothing, and what the lost reply held lies with
    us unseen. They go over a client with `retries=0`. In a cluster all limits are those of one node.
    """
    retry = Retry(ExponentialWithJitterBackoff(base=0.02, cap=0.2), retries, supported_errors=(rx.ConnectionError,))
    return _client(settings, size or settings.pool_size, settings.command_timeout_s, name, retry)


def connect_blocking(settings: RedisSettings, *, name: str | None = None) -> Redis:
    """A client with one connection for one blocked reader.

    Its socket outlives BLOCK, and nothing is retried behind us.
    """
    timeout_s = settings.block_s * 1.5 + 5  # BLOCK may run over by half: redis#12998
    return _client(settings, 1, timeout_s, name, Retry(NoBackoff(), 0))


def _client(settings: RedisSettings, size: int, timeout_s: float, name: str | None, retry: Retry) -> Redis:
    limits: dict[str, Any] = {
        "max_connections": size,
        "timeout": settings.pool_wait_s,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": settings.connect_timeout_s,
        "socket_keepalive": True,
        "health_check_interval": 0,
        "client_name": name,
        "protocol": 3,
        "legacy_responses": False,
        "retry": retry,
    }
    where = deployment(settings.url.get_secret_value())
    if where.form == "sentinel":
        return connect_by_sentinel(where, limits)
    if where.form == "cluster":
        return ClusterRedis(where.addresses, lambda address: _server(where.at(*address), limits))
    return _server(where.url, limits)


def _server(url: str, limits: Mapping[str, Any]) -> Redis:
    return Redis.from_pool(BlockingConnectionPool.from_url(url, **limits))


async def node_of(client: Redis, key: str) -> Redis:
    """The client of the server that holds `key`: itself, but in a cluster. For what is asked of one connection."""
    with translated():
        return await client.node_of(key) if isinstance(client, ClusterRedis) else client


async def nodes_of(client: Redis) -> list[Redis]:
    """The clients of all servers that hold keys."""
    with translated():
        return await client.nodes() if isinstance(client, ClusterRedis) else [client]


async def server_ms(client: Redis, key: str) -> int:
    """The clock of the server that holds `key`, in unix milliseconds."""
    node = await node_of(client, key)
    with translated():
        seconds, micros = await node.time()
    return int(seconds) * 1000 + int(micros) // 1000


def pool_sizes(client: Redis) -> tuple[int, int]:
    """Connections of a client that are at work, and that are open and idle."""
    used, idle = 0, 0
    for node in client.clients if isinstance(client, ClusterRedis) else (client,):
        (here_idle, _), (here_used, _) = node.connection_pool.get_connection_count()
        used, idle = used + here_used, idle + here_idle
    return used, idle


@dataclass(frozen=True, slots=True)
class Script:
    """One Lua file, by its hash."""

    name: str
    source: str
    sha: str


def load_script(name: str, *before: str) -> Script:
    """The script `scripts/{name}.lua`, with those `before` it that it builds on.

    Read once at start, never on the task path.
    """
    folder = files("daemon.stream") / "scripts"
    source = "".join((folder / f"{part}.lua").read_text("utf-8") for part in (*before, name))
    return Script(name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


@dataclass(frozen=True, slots=True)
class Call:
    """One script call, to be sent alone or in a batch."""

    script: Script
    keys: Sequence[str]
    args: Sequence[Argument]


class Scripts:
    """Sends script calls; one `run` is one flush. Knows a server that lost its scripts and loads them again."""

    def __init__(self, client: Redis) -> None:
        self.client = client
        self.flushes = 0  #: round trips so far; a test holds a task to its budget

    async def one(self, script: Script, keys: Sequence[str], args: Sequence[Argument]) -> Any:
        """The reply of one script; may be repeated, as all of ours may."""
        return (await self.run([Call(script, keys, args)]))[0]

    async def run(self, calls: Sequence[Call]) -> list[Any]:
        """The replies in order, in one flush. The first error is raised translated; later calls have still run."""
        replies = await self.run_each(calls)
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies

    async def run_each(self, calls: Sequence[Call]) -> list[Any]:
        """The same, with the translated error of a call in its place: one task's trouble is not its neighbours'."""
        return translated_each(await self._answered(self.client, calls))

    async def _answered(self, client: Redis, calls: Sequence[Call]) -> list[Any]:
        replies = await self._send(client, calls)
        missing = [i for i, reply in enumerate(replies) if isinstance(reply, rx.NoScriptError)]
        if missing:
            await self._load(client, {calls[i].script for i in missing})
            for i, reply in zip(missing, await self._send(client, [calls[i] for i in missing]), strict=True):
                replies[i] = reply
        return replies

    async def _send(self, client: Redis, calls: Sequence[Call]) -> list[Any]:
        self.flushes += 1
        with translated():
            pipe = client.pipeline(transaction=False)
            for call in calls:
                # stub says str only
                pipe.evalsha(call.script.sha, len(call.keys), *call.keys, *call.args)
            return await pipe.execute(raise_on_error=False)

    async def _load(self, client: Redis, scripts: set[Script]) -> None:
        self.flushes += 1
        with translated():
            for script in scripts:
                await client.script_load(script.source)


def translated_each(replies: Sequence[Any]) -> list[Any]:
    """Replies with our errors in place of redis-py's."""
    return [translate(reply) if isinstance(reply, rx.RedisError) else reply for reply in replies]
