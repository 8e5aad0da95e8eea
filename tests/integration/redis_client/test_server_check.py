"""What kind of Redis may hold accepted work."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis import exceptions as rx

from daemon.config import RedisSettings
from daemon.config.types import SecretStr
from daemon.dev.embedded_redis import EmbeddedRedis
from daemon.domain.errors import ConfigError, RedisAway
from daemon.redis_client.connection import connect
from daemon.redis_client.server_check import check_server
from tests.integration.redis_side import Side


@pytest.fixture
async def evicting(side: Side) -> AsyncIterator[Side]:
    """A server that may throw work away."""
    await side.client.config_set("maxmemory-policy", "allkeys-lru")
    yield side
    await side.client.config_set("maxmemory-policy", "noeviction")


async def test_a_server_that_may_evict_work_refuses_the_start(evicting: Side, redis_settings: RedisSettings) -> None:
    """With the setting's name, the value and what is allowed; a throw-away server may be forced."""
    with pytest.raises(ConfigError, match=r"REDIS_URL.*allkeys-lru.*noeviction.*QSTREAMD_ALLOW_EVICTION"):
        await check_server(evicting.client, redis_settings)
    await check_server(evicting.client, redis_settings.model_copy(update={"allow_eviction": True}))


async def test_a_server_that_forgets_on_restart_is_warned_about(
    side: Side, redis_settings: RedisSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    """It starts all the same: some want it so."""
    await check_server(side.client, redis_settings)
    assert "redis.not_persistent" in "".join(capsys.readouterr())


async def test_a_durable_server_is_taken_in_silence(
    redis_server: EmbeddedRedis, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing to say about it."""
    settings = RedisSettings(url=SecretStr(redis_server.url))
    async with connect(settings) as client:
        await check_server(client, settings)
    assert "redis." not in "".join(capsys.readouterr())


@pytest.mark.redis_forms("server")
async def test_a_managed_server_without_info_is_taken_as_it_is(
    side: Side, redis_settings: RedisSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    """A user who may not ask is no reason to refuse the start."""
    client: Any = side.client
    await client.execute_command("ACL", "SETUSER", "plain", "on", ">pw", "~*", "+@all", "-info")
    try:
        url = redis_settings.url.get_secret_value().split("@")[-1]
        async with connect(RedisSettings(url=SecretStr(f"redis://plain:pw@{url}"))) as plain:
            await check_server(plain, redis_settings)
        assert "redis.check_skipped" in "".join(capsys.readouterr())
    finally:
        await client.execute_command("ACL", "DELUSER", "plain")


async def test_nobody_there_is_away() -> None:
    """Exit 75, not 78: it may come back."""
    settings = RedisSettings(url=SecretStr("redis://127.0.0.1:1/0"))
    async with connect(settings) as client:
        with pytest.raises(RedisAway):
            await check_server(client, settings)


class _AtOnce:
    """A server that takes BLOCK and answers at once, as some managed ones do."""

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error

    async def info(self, _section: str) -> dict[str, Any]:
        return {"aof_enabled": 1}

    async def xread(self, *_: Any, **__: Any) -> dict[str, Any]:
        if self._error:
            raise self._error
        return {}


async def test_the_metered_profile_asks_whether_blocking_reads_block(
    side: Side, redis_settings: RedisSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    """A real server does; one that answers at once, or refuses, is polled, and the log says so."""
    metered = redis_settings.model_copy(update={"profile": "metered"})
    assert await check_server(side.client, metered)
    assert "redis.does_not_block" not in "".join(capsys.readouterr())
    refusing: Any = _AtOnce(rx.ResponseError("ERR BLOCK is not supported"))
    at_once: Any = _AtOnce()
    for server in (at_once, refusing):
        assert not await check_server(server, metered)
        assert "redis.does_not_block" in "".join(capsys.readouterr())
    assert await check_server(at_once, redis_settings)  # nobody asks in the standard profile: it would delay each start
