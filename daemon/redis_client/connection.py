"""Redis clients with every limit set by us, and Redis errors translated once.

redis-py's defaults double entries (hidden retries) and break blocking reads (5 s socket timeout), so nothing is left to
them. Called by every room that talks to Redis and by `processes`; never by the pipeline.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from redis import exceptions as rx
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff

from daemon.config import RedisSettings
from daemon.config.redis_url import deployment
from daemon.domain.errors import ConfigError, RedisAway, RedisFull
from daemon.redis_client.cluster import ClusterRedis
from daemon.redis_client.sentinel import connect_by_sentinel

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

_FIRST_PAUSE_S: Final = 0.25  #: see `Polling`


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


class Polling:
    """The pauses of one reader, for servers that answer a blocking read at once: they double up to `most_s`.

    Some managed servers say that they block and do not. A read that came back empty long before its time is taken for
    that, and the next one waits, so that nobody spins.
    """

    def __init__(self, most_s: float) -> None:
        self._most_s = most_s
        self._last_s = 0.0

    def pause_s(self, *, found: bool, asked_s: float, took_s: float) -> float:
        """Seconds to wait before the next read; 0 where the server blocked, or had something."""
        if found or took_s >= asked_s / 2:
            self._last_s = 0.0
        else:
            self._last_s = min(self._most_s, max(_FIRST_PAUSE_S, 2 * self._last_s))
        return self._last_s


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
