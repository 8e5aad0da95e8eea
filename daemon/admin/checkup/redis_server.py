"""Is this Redis fit to hold accepted work? Reads only; what a managed server forbids to ask is said, not guessed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from redis import exceptions as rx
from redis.asyncio import Redis

from daemon.admin.checkup.finding import ROUNDS, Finding, distance, error, info, ok, round_trips, skew, warning
from daemon.admin.connections import Connections
from daemon.config.redis_url import host_and_port
from daemon.ports import Clock
from daemon.redis_client import keys
from daemon.redis_client.connection import nodes_of, translated

VERSION_LEAST: Final = (7, 0)
VALKEY_LEAST: Final = (7, 2)
FULL: Final = 0.8  #: of memory or connections: time to act


async def check(at: Connections) -> list[Finding]:
    """Everything about the server, or about each node of a cluster. Raises `RedisAway`."""
    nodes = await nodes_of(at.redis)
    each = [await _one(at.clock, node) for node in nodes]
    with translated():
        owner = await at.redis.get(keys.ENVIRONMENT)
    if len(nodes) == 1:
        return [*each[0], _stamp(owner, at.settings.runtime.environment)]
    named = [(_address(node), findings) for node, findings in zip(nodes, each, strict=True)]
    return [*together(named), _stamp(owner, at.settings.runtime.environment)]


def together(nodes: Sequence[tuple[str, Sequence[Finding]]]) -> list[Finding]:
    """What is well on all nodes is said once; all else once for each node, with its address."""
    found: list[Finding] = []
    by_check: dict[str, list[tuple[str, Finding]]] = {}
    for address, findings in nodes:
        for finding in findings:
            by_check.setdefault(finding.check, []).append((address, finding))
    for same in by_check.values():
        first = same[0][1]
        if all(finding.level == "ok" for _, finding in same):
            found.append(replace(first, text=f"{first.text} ({len(same)} nodes)"))
        else:
            found += [replace(f, text=f"{address}: {f.text}") for address, f in same if f.level != "ok"]
    return found


async def _one(clock: Clock, node: Redis) -> list[Finding]:
    with translated():
        before = clock.time()
        seconds, micros = await node.time()
        after = clock.time()
        facts = await _facts(node)
    found = [skew("redis.clock", seconds + micros / 1e6, before, after, "Redis")]
    if facts is None:
        cure = "look at the provider's console: version 7 or later, eviction off, persistence on"
        found.append(info("redis.info", "this server does not tell about itself (INFO is forbidden)", cure))
    else:
        found += findings_of(facts)
    with translated():
        median_ms = await round_trips(clock, node.ping)
    return [*found, distance("redis.distance", median_ms, ROUNDS, "Redis")]


def _address(node: Redis) -> str:
    said = node.connection_pool.connection_kwargs
    return host_and_port(said["host"], said["port"])


async def _facts(node: Redis) -> dict[str, Any] | None:
    try:
        facts: dict[str, Any] = await node.info("everything")
    except rx.ResponseError:
        return None
    with suppress(rx.ResponseError):  # managed: CONFIG is forbidden
        limits: dict[Any, Any] = await node.config_get("appendfsync", "maxclients")
        facts |= limits
    return {_plain(k): _plain(v) for k, v in facts.items()}


def _plain(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def findings_of(facts: Mapping[str, Any]) -> Iterator[Finding]:
    """What INFO and CONFIG say. Pure."""
    yield _version(facts)
    yield _role(facts)
    yield _policy(facts)
    yield from _persistence(facts)
    yield _memory(facts)
    yield from _clients(facts)


def _version(facts: Mapping[str, Any]) -> Finding:
    kind, least = ("Valkey", VALKEY_LEAST) if "valkey_version" in facts else ("Redis", VERSION_LEAST)
    version = str(facts.get("valkey_version") or facts.get("redis_version", "0"))
    parts = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    wanted = ".".join(map(str, least))
    if parts < least:
        return error("redis.version", f"{kind} {version} is too old", f"use {kind} {wanted} or later")
    return ok("redis.version", f"{kind} {version}")


def _role(facts: Mapping[str, Any]) -> Finding:
    if facts.get("role", "master") != "master":
        return error("redis.role", "this server is a replica and takes no writes", "name the primary in REDIS_URL")
    return ok("redis.role", "takes writes")


def _policy(facts: Mapping[str, Any]) -> Finding:
    policy = facts.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        return error(
            "redis.policy", f"maxmemory-policy is {policy}: a full server would drop accepted work",
            "set maxmemory-policy noeviction in redis.conf (now: CONFIG SET maxmemory-policy noeviction)",
        )  # fmt: skip
    return ok("redis.policy", "maxmemory-policy is noeviction")


def _persistence(facts: Mapping[str, Any]) -> Iterator[Finding]:
    if not facts.get("aof_enabled"):
        yield warning(
            "redis.persistence", "appendonly is off: a restart loses accepted work that no daemon has claimed",
            "set appendonly yes and appendfsync always in redis.conf (now: CONFIG SET appendonly yes)",
        )  # fmt: skip
    elif facts.get("appendfsync", "always") != "always":
        fsync = facts["appendfsync"]
        yield info(
            "redis.persistence", f"appendfsync is {fsync}: a power cut may lose the last second of accepted work",
            "appendfsync always costs 0.2 ms a call (now: CONFIG SET appendfsync always)",
        )  # fmt: skip
    else:
        yield ok("redis.persistence", "appendonly, appendfsync always")
    failed = [
        name
        for name in ("aof_last_write_status", "aof_last_bgrewrite_status", "rdb_last_bgsave_status")
        if facts.get(name, "ok") != "ok"
    ]
    if failed:
        yield error(
            "redis.disk", f"the last write to disk failed ({', '.join(failed)})",
            "look at the server's log and its disk (df -h); it may refuse writes soon",
        )  # fmt: skip


def _memory(facts: Mapping[str, Any]) -> Finding:
    used, most = int(facts.get("used_memory", 0)), int(facts.get("maxmemory", 0))
    if not most:
        return info(
            "redis.memory", f"{_mb(used)} used, no maxmemory: the kernel may kill the server when memory is short",
            "set maxmemory below what the host can spare; a full server refuses work, a killed one loses it",
        )  # fmt: skip
    text = f"{_mb(used)} of {_mb(most)} used"
    if used > FULL * most:
        return warning("redis.memory", text, "raise maxmemory, or find what fills it: redis-cli --bigkeys")
    return ok("redis.memory", text)


def _clients(facts: Mapping[str, Any]) -> Iterator[Finding]:
    used, most = int(facts.get("connected_clients", 0)), int(facts.get("maxclients", 0))
    if most and used > FULL * most:
        text = f"{used} of {most} connections in use"
        yield warning("redis.connections", text, "raise maxclients, or lower QSTREAMD_REDIS_POOL_SIZE")


def _stamp(stamp: bytes | str | None, ours: str) -> Finding:
    owner = _plain(stamp)
    if owner is None:
        return info("redis.environment", "no process has stamped this Redis yet; the first one that starts does")
    if owner != ours:
        text = f"this Redis belongs to NODE_ENV={owner[:40]}, not to {ours}"
        cure = "name another server or database number in REDIS_URL, or set NODE_ENV"
        return error("redis.environment", text, cure)
    return ok("redis.environment", f"belongs to NODE_ENV={ours}")


def _mb(number: int) -> str:
    return f"{number / 1e6:.1f} MB"
