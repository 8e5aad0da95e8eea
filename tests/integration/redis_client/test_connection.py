"""Clients, and script calls on a network that misbehaves."""

from __future__ import annotations

import asyncio
import hashlib

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from daemon.config import RedisSettings
from daemon.config.types import SecretStr
from daemon.dev.embedded_redis import EmbeddedRedis
from daemon.domain.errors import RedisAway
from daemon.redis_client.connection import NoGroup, connect, connect_blocking
from daemon.redis_client.scripts import Call, Script, Scripts
from tests.integration.redis_side import QUEUE, Side
from tests.proxy import Proxy

INCR = "return redis.call('INCR', KEYS[1])"
FAIL = "return redis.error_reply('NOGROUP nothing here')"


def script(source: str) -> Script:

    return Script("test", source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


def settings(url: str, **over: float) -> RedisSettings:
    return RedisSettings(url=SecretStr(url), **over)  # type: ignore[arg-type]


async def test_a_batch_is_one_round_trip_and_each_reply_is_its_own(side: Side) -> None:
    """One task's error stands in its place; the calls after it have run."""
    calls = [Call(script(INCR), ["{x}a"], []), Call(script(FAIL), [], []), Call(script(INCR), ["{x}a"], [])]
    await side.scripts.run_each(calls)
    before = side.scripts.flushes
    first, failed, last = await side.scripts.run_each(calls)
    assert side.scripts.flushes == before + 1
    assert (first, last) == (3, 4)
    assert isinstance(failed, NoGroup)
    with pytest.raises(NoGroup):
        await side.scripts.run(calls)
    assert await side.client.get("{x}a") == b"6"


async def test_only_what_was_missing_is_sent_again(side: Side) -> None:
    """A server that lost one script runs the others once."""
    known, unknown = script(INCR), script(INCR + " -- unknown")
    await side.scripts.one(Call(known, ["a"], []))
    assert await side.scripts.run([Call(known, ["a"], []), Call(unknown, ["b"], [])]) == [2, 1]


async def test_a_dead_server_is_away_within_the_connect_limit() -> None:
    """Fail fast, by name."""
    async with connect(settings("redis://127.0.0.1:1/0", connect_timeout_s=0.5)) as client:
        with pytest.raises(RedisAway):
            async with asyncio.timeout(3):
                await Scripts(client).one(Call(script(INCR), ["a"], []))


@pytest.mark.redis_forms("server")
async def test_a_silent_network_is_away_within_the_command_limit(redis_url: str) -> None:
    """A black hole holds no caller longer than the limit, retries included."""
    async with Proxy.before(redis_url) as proxy, connect(settings(proxy.url_of(redis_url), command_timeout_s=0.2)) as c:
        scripts = Scripts(c)
        await scripts.one(Call(script(INCR), ["a"], []))
        proxy.silent = True
        with pytest.raises(RedisAway):
            async with asyncio.timeout(10):
                await scripts.one(Call(script(INCR), ["a"], []))


@pytest.mark.redis_forms("server")
async def test_a_connection_that_was_cut_while_idle_is_replaced_unnoticed(redis_url: str) -> None:
    """A restart of the server costs no task an error once it is back."""
    async with Proxy.before(redis_url) as proxy, connect(settings(proxy.url_of(redis_url))) as client:
        scripts = Scripts(client)
        await scripts.one(Call(script(INCR), ["a"], []))
        proxy.cut()
        assert await scripts.one(Call(script(INCR), ["a"], [])) == 2


@pytest.mark.redis_forms("server")
async def test_a_blocked_read_outlives_its_block_and_is_not_repeated_behind_us(side: Side, redis_url: str) -> None:
    """redis-py's own limits would cut it, or read entries twice without our seeing them."""
    async with Proxy.before(redis_url) as proxy:
        async with connect_blocking(settings(proxy.url_of(redis_url), block_s=0.3)) as blocking:
            assert await side.work.wait(blocking, QUEUE, 1, 300) == []
            await side.add()
            proxy.lose_reply(lambda data: b"task" in data)
            with pytest.raises(RedisAway):
                await side.work.wait(blocking, QUEUE, 1, 300)
        assert proxy.lost == 1
    (found,) = await side.work.own_pending(QUEUE)
    assert found.redelivered


@pytest.mark.redis_forms("server")
async def test_an_exhausted_pool_waits_and_then_says_so(redis_url: str) -> None:
    """A bounded pool is a queue for a while, then a fault with a name."""
    async with connect(settings(redis_url, pool_wait_s=0.2), size=1) as client:
        holder = client.client()
        async with holder:
            await holder.ping()
            with pytest.raises(RedisAway):
                await Scripts(client).one(Call(script(INCR), ["a"], []))
        assert await Scripts(client).one(Call(script(INCR), ["a"], [])) == 1


async def test_a_restarted_server_serves_its_scripts_again(redis_server: EmbeddedRedis) -> None:
    """Scripts are gone with the process; they are loaded on the way."""
    async with connect(settings(redis_server.url)) as client:
        scripts = Scripts(client)
        await scripts.one(Call(script(INCR), ["a"], []))
        await asyncio.to_thread(redis_server.kill)
        with pytest.raises(RedisAway):
            await scripts.one(Call(script(INCR), ["a"], []))
        await asyncio.to_thread(redis_server.start)
        assert await scripts.one(Call(script(INCR), ["a"], [])) == 2


async def test_a_server_that_is_busy_with_a_script_is_away(redis_server: EmbeddedRedis) -> None:
    """Somebody's endless loop: every call is refused with BUSY until it is killed."""
    async with connect(settings(redis_server.url)) as client, connect(settings(redis_server.url)) as other:
        await client.config_set("busy-reply-threshold", 20)
        async with asyncio.TaskGroup() as group:
            loop = group.create_task(_looped(other))
            with pytest.raises(RedisAway, match="busy"):
                await _until_refused(Scripts(client))
            await client.script_kill()
            assert await loop
        assert await Scripts(client).one(Call(script(INCR), ["a"], [])) > 0


async def _until_refused(scripts: Scripts) -> None:
    async with asyncio.timeout(10):
        while True:
            await scripts.one(Call(script(INCR), ["a"], []))


async def _looped(client: Redis) -> bool:
    try:
        await client.eval("while true do end", 0)
    except ResponseError as error:
        return "killed" in str(error)
    return False
