"""From accepting a task to its `started` event in front of a follower, on an idle system."""

from __future__ import annotations

import asyncio
import random
import time
from functools import partial
from typing import Any

from redis.asyncio import Redis

from bench import backlog
from bench.case import Case, Goal, Size, Values, in_turn
from bench.rig import QUEUE, Rig, wait_for
from daemon.config import QueueSettings, RedisSettings
from daemon.config.types import SecretStr
from daemon.domain import messages, queues
from daemon.domain.clock import SystemClock
from daemon.queues.admission import Admission
from daemon.redis_client import keys
from daemon.redis_client.connection import connect
from daemon.redis_client.scripts import Scripts

_WARM = 20


def _client(url: str) -> Redis:
    return Redis.from_url(url, socket_timeout=40, protocol=3, legacy_responses=False)


async def _raw(url: str, count: int) -> list[float]:
    """XADD in one connection, XREADGROUP that was blocked in another: what Redis and the loop take by themselves."""
    reader, writer, seen = _client(url), _client(url), asyncio.Queue[float]()
    await writer.xgroup_create("work", "g", id="0", mkstream=True)

    async def read() -> None:
        left = count + _WARM
        while left:  # by itself: a cancelled blocked read may swallow that
            reply: Any = await reader.xreadgroup("g", "c", {"work": ">"}, count=100, block=20_000)
            for entry_id, _ in (reply or {}).get(b"work", []):
                left -= 1
                seen.put_nowait(time.perf_counter())
                await reader.xack("work", "g", entry_id)

    found: list[float] = []
    async with asyncio.TaskGroup() as group:
        group.create_task(read())
        for _ in range(count + _WARM):
            await asyncio.sleep(random.uniform(0.01, 0.03))
            began = time.perf_counter()
            await writer.xadd("work", {"n": "1"})
            found.append(await seen.get() - began)
    await reader.aclose()
    await writer.aclose()
    return found[_WARM:]


async def _ours(url: str, count: int, prefix: str) -> list[float]:
    client, follower = connect(RedisSettings(url=SecretStr(url)), name="bench"), _client(url)
    admission = Admission(Scripts(client), QueueSettings(), SystemClock())
    found: list[float] = []
    for number in range(count + _WARM):
        await asyncio.sleep(random.uniform(0.01, 0.03))
        given = backlog.body(number, QUEUE, 100, prefix)
        message, sha256 = messages.parse_message(given), messages.canonical_sha256(given)
        began = time.perf_counter()
        accepting = asyncio.ensure_future(admission.accept(message, sha256, 10**7, {}))  # noqa: TID251, RUF100
        found.append(await _started(follower, f"{prefix}{number}") - began)
        await accepting
    await client.aclose()
    await follower.aclose()
    return found[_WARM:]


async def _started(follower: Redis, task_id: str) -> float:
    after = "0"
    while True:
        reply: Any = await follower.xread({keys.events(task_id): after}, block=20_000)
        for entry_id, fields in next(iter((reply or {"": []}).values())):
            after = entry_id.decode()
            if fields[b"type"] == b"started":
                return time.perf_counter()


def _values(seconds: list[float]) -> Values:
    ordered = sorted(seconds)
    at = {"p50_ms": 0.5, "p90_ms": 0.9, "p99_ms": 0.99}
    found = {name: ordered[min(len(ordered) - 1, int(len(ordered) * q))] * 1000 for name, q in at.items()}
    return {"n": float(len(ordered)), **found, "max_ms": ordered[-1] * 1000}


def raw(count: int) -> Values:
    """The reference."""
    with Rig() as rig:
        return _values(asyncio.run(_raw(rig.redis().url, count)))


def ours(count: int, *, persist: bool) -> Values:
    """Relay's script, daemon with all six queues, follower."""
    with Rig() as rig:
        server, database, records = rig.redis(persist=persist), rig.database(durable=persist), rig.records()
        program = rig.daemon(server.url, database, records, *queues.DEFAULT_QUEUES)
        asyncio.run(backlog.accept(server.url, QUEUE, 1, prefix="first"))
        wait_for(lambda: records.ended, program, 20, "the first task")
        return _values(asyncio.run(_ours(server.url, count, "t")))


def measure(size: Size) -> dict[str, Values]:
    """Each arm once."""
    count = size.of(400, 80)
    return in_turn({
        "raw wake-up": partial(raw, count),
        "qstreamd": partial(ours, count, persist=False),
        "qstreamd, every write on disk": partial(ours, count, persist=True),
    })  # fmt: skip


CASE = Case(
    name="latency",
    title="Accepted to `started` seen by a follower, idle system",
    round=measure,
    columns={"n": "samples", "p50_ms": "p50 ms", "p90_ms": "p90 ms", "p99_ms": "p99 ms", "max_ms": "max ms"},
    headline="p50_ms",
    goals=(
        Goal("p50 ≤ 3 x raw", "qstreamd", "p50_ms", at_most=3.0, references=("raw wake-up",)),
        Goal("p99 ≤ 10 ms", "qstreamd", "p99_ms", at_most=10.0),
    ),
    note="From before the accept script is sent. In between: accept, wake-up, guards, claim in Postgres, `started`.",
)
