"""Redis Cluster and Sentinel out of real servers on loopback ports: started, failed over, gone with the test."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final, Self

import redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import parse_url
from redis.asyncio.sentinel import Sentinel

from daemon.config.redis_url import Deployment, deployment
from daemon.dev.embedded import free_port
from daemon.dev.embedded_redis import EmbeddedRedis

SLOTS: Final = 16384
#: a node that is silent for so long is failed over; long enough for the stalls of a busy machine
NODE_TIMEOUT_MS: Final = 2000
_READY_S: Final = 20.0
#: a replica begins at once, not after the 5 s in which others might join it
_TOGETHER: Final = {"repl-diskless-sync-delay": "0"}


class _Server(EmbeddedRedis):
    """One of several that share a password."""

    def __init__(
        self, password: str, options: Mapping[str, str], binary: Path | None, *, persist: bool = False
    ) -> None:
        super().__init__(persist=persist, options={**_TOGETHER, "masterauth": password, **options}, binary=binary)
        self._password = password

    def client(self) -> Any:
        """A plain client of this one."""
        return redis.Redis.from_url(self.url, socket_timeout=5, decode_responses=True)


class _Sentinel(_Server):
    """One that watches a primary."""

    def _command(self) -> Sequence[str]:
        return [*super()._command(), "--sentinel"]


class EmbeddedCluster:
    """Three primaries, and a replica of each where `replicas` is set. A context manager; all calls block.

    `persist`: every write is on disk before it is acknowledged.
    """

    def __init__(self, *, replicas: bool = False, persist: bool = False, binary: Path | None = None) -> None:
        self._password = secrets.token_urlsafe(18)
        self._buses = [free_port() for _ in range(6 if replicas else 3)]
        self.servers = [
            _Server(
                self._password,
                {
                    "cluster-enabled": "yes",
                    "cluster-config-file": "nodes.conf",
                    "cluster-node-timeout": str(NODE_TIMEOUT_MS),
                    "cluster-port": str(bus),
                },
                binary,
                persist=persist,
            )
            for bus in self._buses
        ]
        self._stack = ExitStack()

    @property
    def url(self) -> str:
        """`redis+cluster://:{password}@127.0.0.1:{port},…`: the primaries of the start."""
        nodes = ",".join(f"127.0.0.1:{server.port}" for server in self.servers[:3])
        return f"redis+cluster://:{self._password}@{nodes}"

    def __enter__(self) -> Self:
        for server in self.servers:
            self._stack.enter_context(server)
        self._clients = [self._stack.enter_context(server.client()) for server in self.servers]
        for at, client in enumerate(self._clients[:3]):
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", SLOTS * at // 3, SLOTS * (at + 1) // 3 - 1)
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", at + 1)
        for server, bus in zip(self.servers[1:], self._buses[1:], strict=True):
            self._clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", server.port, bus)
        _until("every node knows all others", lambda: all(self._knows_all(client) for client in self._clients))
        for at, client in enumerate(self._clients[3:]):
            client.execute_command("CLUSTER", "REPLICATE", self._clients[at].execute_command("CLUSTER", "MYID"))
        _until("every slot is held, every replica in step", lambda: all(map(self._is_well, self._clients)))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def flush(self) -> None:
        """Empty every node."""
        for client in self._clients:
            if client.info("replication")["role"] == "master":
                client.flushall()

    def holder_of(self, key: str) -> int:
        """The number of the server that holds this key now, among `servers`."""
        for client in self._clients:
            try:
                slot = client.execute_command("CLUSTER", "KEYSLOT", key)
                for first, last, primary, *_ in client.execute_command("CLUSTER", "SLOTS"):
                    if first <= slot <= last:
                        return [server.port for server in self.servers].index(int(primary[1]))
            except redis.RedisError:
                continue
        raise AssertionError(f"nobody holds {key}")

    def move(self, key: str, to: int, *, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Give the slot of `key`, with all its keys, to a server, step by step as `--cluster reshard` does it.

        `meanwhile` is called when the first key is there and the others are not.
        """
        source, target = self._clients[self.holder_of(key)], self._clients[to]
        slot = source.execute_command("CLUSTER", "KEYSLOT", key)
        ids = [client.execute_command("CLUSTER", "MYID") for client in (source, target)]
        target.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])
        source.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])
        told = False
        while keys := source.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100 if told else 1):
            there = ("127.0.0.1", self.servers[to].port, "", 0, 5000, "AUTH", self._password, "KEYS", *keys)
            source.execute_command("MIGRATE", *there)
            if not told:
                told = True
                meanwhile()
        for client in (target, source):
            client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[1])

    def _knows_all(self, client: Any) -> bool:
        return f"cluster_known_nodes:{len(self.servers)}\r" in client.execute_command("CLUSTER", "INFO")

    def _is_well(self, client: Any) -> bool:
        replication = client.info("replication")
        in_step = replication["role"] == "master" or replication["master_link_status"] == "up"
        replicas = (
            replication.get("connected_slaves", 0) == len(self.servers) // 3 - 1 or replication["role"] != "master"
        )
        return "cluster_state:ok" in client.execute_command("CLUSTER", "INFO") and in_step and replicas


class EmbeddedSentinel:
    """A primary, its replica and three sentinels that agree by two. A context manager; all calls block."""

    SERVICE: Final = "qstreamd"

    def __init__(self, *, binary: Path | None = None) -> None:
        self._password = secrets.token_urlsafe(18)
        self._binary = binary
        self.primary = _Server(self._password, {}, binary)
        self.sentinels: list[_Sentinel] = []
        self._stack = ExitStack()

    @property
    def url(self) -> str:
        """`redis+sentinel://…`; the sentinels ask for a password too."""
        sentinels = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        login = f":{self._password}@"
        return f"redis+sentinel://{login}{sentinels}/{self.SERVICE}/0?sentinel_password={self._password}"

    def __enter__(self) -> Self:
        self._stack.enter_context(self.primary)
        follows = {"replicaof": f"127.0.0.1 {self.primary.port}"}
        self.replica = self._stack.enter_context(_Server(self._password, follows, self._binary))
        watch = {
            "sentinel monitor": f"{self.SERVICE} 127.0.0.1 {self.primary.port} 2",
            "sentinel auth-pass": f"{self.SERVICE} {self._password}",
            "sentinel sentinel-pass": self._password,
            "sentinel down-after-milliseconds": f"{self.SERVICE} {NODE_TIMEOUT_MS}",
            "sentinel failover-timeout": f"{self.SERVICE} 6000",
        }
        for _ in range(3):
            self.sentinels.append(self._stack.enter_context(_Sentinel(self._password, watch, self._binary)))
        self._watchers = [self._stack.enter_context(sentinel.client()) for sentinel in self.sentinels]
        _until("the sentinels know each other and the replica", lambda: all(map(self._knows_all, self._watchers)))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _knows_all(self, client: Any) -> bool:
        told = client.execute_command("SENTINEL", "MASTER", self.SERVICE)
        said = told if isinstance(told, dict) else dict(zip(told[::2], told[1::2], strict=True))
        return (int(said["num-slaves"]), int(said["num-other-sentinels"])) == (1, 2)


class _Cluster(RedisCluster):
    """redis-py's leaves connections open when its last command has failed."""

    async def aclose(self) -> None:
        await super().aclose()
        for nodes in ("nodes_cache", "startup_nodes"):
            await self.nodes_manager.aclose(nodes)


class _Primary(redis.asyncio.Redis):
    """redis-py's leaves the connections to the sentinels to the caller."""

    async def aclose(self, close_connection_pool: bool | None = None) -> None:  # noqa: FBT001  # as in the base class
        await super().aclose(close_connection_pool)
        pool: Any = self.connection_pool
        await pool.sentinel_manager.aclose()


def observer(url: str, **limits: Any) -> Any:
    """redis-py's own client for any form of REDIS_URL: what a test sees, it does not see through ours."""
    where = deployment(url)
    said = parse_url(where.url)
    if where.form == "cluster":
        nodes = [ClusterNode(*address) for address in where.addresses]
        return _Cluster(startup_nodes=nodes, password=said["password"], **limits)
    if where.form == "sentinel":
        login = {"password": where.sentinel_login[1], "socket_timeout": 5}
        sentinel: Any = Sentinel(list(where.addresses), sentinel_kwargs=login)  # type: ignore[no-untyped-call]
        return sentinel.master_for(where.service, redis_class=_Primary, password=said["password"], **limits)
    return redis.asyncio.Redis.from_url(where.url, **limits)


def plain_urls(url: str) -> list[str]:
    """One URL for each server that holds keys, whatever the form of `url`."""
    where = deployment(url)
    for host, port in where.addresses if where.form == "cluster" else ():
        with suppress(redis.ConnectionError), redis.Redis.from_url(where.at(host, port)) as client:
            table: Any = client.execute_command("CLUSTER", "SLOTS")
            return [where.at(primary[0].decode(), primary[1]) for _, _, primary, *_ in table]
    if where.form == "sentinel":
        return [where.at(*_primary(where))]
    return [where.url]


def _primary(where: Deployment) -> tuple[str, int]:
    for host, port in where.addresses:
        with (
            suppress(redis.ConnectionError),
            redis.Redis(host=host, port=port, password=where.sentinel_login[1]) as one,
        ):
            told: Any = one.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", where.service)
            return told[0].decode(), int(told[1])
    raise AssertionError("no sentinel answers")


def _until(what: str, fact: Callable[[], bool]) -> None:
    until = time.monotonic() + _READY_S
    while not fact():
        if time.monotonic() > until:
            raise AssertionError(f"not within {_READY_S} s: {what}")
        time.sleep(0.02)
