"""A cluster that changes under us: slots that move, nodes that die, replicas that take over."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from redis.asyncio import Redis

from daemon.config import RedisSettings
from daemon.config.types import SecretStr
from daemon.dev.embedded_redis import EmbeddedRedis
from daemon.domain.errors import ConfigError, RedisAway
from daemon.redis_client import keys
from daemon.redis_client.batched_scripts import BatchedScripts
from daemon.redis_client.connection import connect, connect_blocking, node_of, nodes_of
from daemon.redis_client.scripts import Call, Script
from daemon.redis_client.server_check import check_server
from tests.integration.redis_side import QUEUE, Side
from tests.redis_clusters import EmbeddedCluster, EmbeddedSentinel
from tests.waiting import WaitUntil

pytestmark = [pytest.mark.timeout(120), pytest.mark.redis_forms("cluster")]

_SOURCE = "return redis.call('INCR', KEYS[1])"
INCR = Script("incr", _SOURCE, hashlib.sha1(_SOURCE.encode(), usedforsecurity=False).hexdigest())
LETTERS = "abcdefgh"  #: keys on all three nodes


@pytest.fixture
def replicated() -> Iterator[EmbeddedCluster]:
    """Three primaries, a replica of each; a cluster of the test's own."""
    with EmbeddedCluster(replicas=True) as cluster:
        yield cluster


def settings(url: str, **over: float) -> RedisSettings:
    return RedisSettings(url=SecretStr(url), **over)  # type: ignore[arg-type]


@pytest.fixture
async def client(redis_settings: RedisSettings) -> AsyncIterator[Redis]:
    async with connect(redis_settings) as client:
        yield client


async def test_a_flush_reaches_every_node_and_answers_in_order(side: Side) -> None:
    """Calls of a flush may concern any slots; what lies on one node stays in order."""
    calls = [Call(INCR, [letter], []) for letter in LETTERS * 2]
    assert await side.scripts.run(calls) == [1] * len(LETTERS) + [2] * len(LETTERS)
    assert len({id(await node_of(side.client, letter)) for letter in LETTERS}) == 3
    pipe = side.client.pipeline(transaction=False)
    for letter in LETTERS:
        pipe.get(letter)
    assert await pipe.execute() == [b"2"] * len(LETTERS)


async def test_what_has_no_key_comes_after_its_predecessor(client: Redis) -> None:
    """An operator's word is told on a channel after it was written: told by another node, it might come before."""
    for letter in LETTERS:
        node = await node_of(client, letter)
        async with node.monitor() as told:
            pipe = client.pipeline(transaction=False)
            pipe.set(letter, "1")
            pipe.publish("told", letter)
            await pipe.execute()
            async with asyncio.timeout(5):
                said = [str((await told.next_command())["command"]).split()[0] for _ in range(2)]
                while said[-1] != "PUBLISH":
                    said.append(str((await told.next_command())["command"]).split()[0])
        assert said[-2:] == ["SET", "PUBLISH"]


async def test_a_read_over_several_slots_ends_with_the_first_that_comes(client: Redis, side: Side) -> None:
    """No node has all streams, so each is asked for again and again; BLOCK holds for all together."""

    async def read(block_ms: int) -> Any:
        return await client.xread(streams, count=1, block=block_ms)

    streams: dict[Any, Any] = {f"{{{letter}}}:stream": "0" for letter in LETTERS}
    assert not await read(50)
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        reading = group.create_task(read(10_000))
        await asyncio.sleep(0.05)
        for n in (1, 2):
            await side.client.xadd("{c}:stream", {"n": n})
    ((key, entries),) = reading.result().items()
    assert key == b"{c}:stream" and entries[0][1] == {b"n": b"1"}


async def test_a_slot_that_moves_is_away_for_a_while_and_then_found(
    side: Side, three_nodes: EmbeddedCluster, wait_until: WaitUntil
) -> None:
    """While half of its keys have moved no script can run on it. Then the old node says where they went."""
    await side.add("t1")
    counter, loop, during = keys.queue_keys(QUEUE).counter, asyncio.get_running_loop(), list[Exception | Any]()
    before, home = await node_of(side.client, counter), three_nodes.holder_of(counter)

    async def look() -> None:
        during.extend(await asyncio.gather(side.work.fetch(QUEUE, 5), return_exceptions=True))

    def meanwhile() -> None:
        asyncio.run_coroutine_threadsafe(look(), loop).result(10)

    await asyncio.to_thread(three_nodes.move, counter, (home + 1) % 3, meanwhile=meanwhile)
    try:
        assert isinstance(during[0], RedisAway)
        (found,) = await side.work.fetch(QUEUE, 5)
        assert found.entry is not None and found.entry.message.task_id == "t1"
        assert await side.work.requeue(found)

        async def known() -> bool:
            return await node_of(side.client, counter) is not before

        await wait_until(known, description="the right node is asked first")
        assert await side.client.get(counter) == b"1"
    finally:
        await asyncio.to_thread(three_nodes.move, counter, home)


async def test_one_dead_node_is_away_and_the_others_serve(replicated: EmbeddedCluster) -> None:
    """Trouble stays where it is; then its replica takes over, and the same client goes on."""
    async with connect(settings(replicated.url, connect_timeout_s=0.5, command_timeout_s=1.0), retries=0) as client:
        scripts = BatchedScripts(client)
        calls = [Call(INCR, [letter], []) for letter in LETTERS]
        await scripts.run(calls)
        for node in replicated.servers[:3]:  # what was written is on the replicas as well
            with node.client() as plain:
                await asyncio.to_thread(plain.execute_command, "WAIT", 1, 5000)
        dead = replicated.holder_of("a")
        there = [replicated.holder_of(letter) == dead for letter in LETTERS]
        await asyncio.to_thread(replicated.servers[dead].kill)
        replies = await scripts.run_each(calls)
        assert [isinstance(reply, RedisAway) for reply in replies] == there
        assert all(reply == 2 for reply, gone in zip(replies, there, strict=True) if not gone)
        async with asyncio.timeout(30):
            while any(isinstance(reply, RedisAway) for reply in replies):
                await asyncio.sleep(0.1)
                replies = await scripts.run_each([call for call, gone in zip(calls, there, strict=True) if gone])
        assert replies == [2] * len(replies)


async def test_whoever_needs_nothing_of_a_silent_node_does_not_wait_for_it(
    redis_url: str, three_nodes: EmbeddedCluster
) -> None:
    """Tasks share flushes, but not those of different nodes."""
    async with connect(settings(redis_url, command_timeout_s=1.0)) as client:
        scripts = BatchedScripts(client)
        await scripts.run([Call(INCR, [letter], []) for letter in LETTERS])
        silent = three_nodes.holder_of("a")
        well = next(letter for letter in LETTERS if three_nodes.holder_of(letter) != silent)
        await asyncio.to_thread(three_nodes.servers[silent].pause)
        try:
            async with asyncio.TaskGroup() as group:
                stuck = group.create_task(scripts.run_each([Call(INCR, ["a"], []), Call(INCR, [well], [])]))
                await asyncio.sleep(0)
                for _ in range(10):
                    await scripts.run([Call(INCR, [well], [])])
                assert not stuck.done()
        finally:
            await asyncio.to_thread(three_nodes.servers[silent].resume)
        late, done = stuck.result()
        assert isinstance(late, RedisAway) and isinstance(done, int)
        assert await client.get(well) == b"12"


async def test_a_blocked_read_waits_at_the_node_of_its_queue(
    side: Side, redis_settings: RedisSettings, wait_until: WaitUntil
) -> None:
    """It comes at once, and an unblock reaches it."""
    where = keys.queue_keys(QUEUE).ready
    async with connect_blocking(redis_settings) as blocking:
        number = await (await node_of(blocking, where)).client_id()
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            reading = group.create_task(side.work.wait(blocking, QUEUE, 1, 20_000))
            await asyncio.sleep(0.05)
            await side.add("t1")
        assert [d.entry.message.task_id for d in reading.result() if d.entry] == ["t1"]
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            reading = group.create_task(side.work.wait(blocking, QUEUE, 1, 20_000))
            node = await node_of(side.client, where)
            await wait_until(lambda: node.client_unblock(number), description="it was blocked")
        assert reading.result() == []


async def test_a_node_is_no_server_and_a_server_is_no_cluster(
    three_nodes: EmbeddedCluster, redis_server: EmbeddedRedis
) -> None:
    """Said at start, with the word that is missing."""
    for url, said in (
        (three_nodes.servers[0].url, r"redis\+cluster://"),
        (redis_server.url.replace("redis://", "redis+cluster://"), "names a cluster, but this server is none"),
    ):
        async with connect(settings(url)) as client:
            with pytest.raises(ConfigError, match=said):
                await check_server(client, settings(url))


async def test_every_node_is_checked_at_start(client: Redis, redis_settings: RedisSettings) -> None:
    """One that evicts loses what lies on it."""
    assert await check_server(client, redis_settings)
    last = (await nodes_of(client))[-1]
    await last.config_set("maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(ConfigError, match="allkeys-lru"):
            await check_server(client, redis_settings)
    finally:
        await last.config_set("maxmemory-policy", "noeviction")


async def test_sentinels_lead_to_whoever_is_the_primary_now(wait_until: WaitUntil) -> None:
    """The primary dies, its replica is made one: the same client writes on, its scripts included."""
    with EmbeddedSentinel() as sentinel:
        limits = settings(sentinel.url, connect_timeout_s=0.5, command_timeout_s=1.0)
        async with connect(limits) as client, connect_blocking(limits) as blocking:
            scripts = BatchedScripts(client)
            assert await scripts.run([Call(INCR, ["a"], [])]) == [1]
            with sentinel.primary.client() as plain:
                assert await asyncio.to_thread(plain.execute_command, "WAIT", 1, 4000) == 1
            assert not await blocking.xread({"nothing": "0"}, block=10)
            await asyncio.to_thread(sentinel.primary.kill)
            with pytest.raises(RedisAway):
                await scripts.run([Call(INCR, ["a"], [])])

            async def taken_over() -> bool:
                try:
                    return await scripts.run([Call(INCR, ["a"], [])]) == [2]
                except RedisAway:
                    return False

            await wait_until(taken_over, description="the replica is the primary", within_s=30)
            assert not await blocking.xread({"nothing": "0"}, block=10)
