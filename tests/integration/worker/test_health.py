"""The daemon's own small HTTP server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest

from daemon.config import OpsSettings
from daemon.observability.metrics import Metrics
from daemon.worker.health import HealthServer, responds


class Checks:
    """What holds and what does not."""

    def __init__(self) -> None:
        self.redis = ""
        self.alive = ""
        self.gathered = 0

    async def check_redis(self) -> str:
        return self.redis

    async def check_alive(self) -> str:
        return self.alive

    async def gather(self) -> None:
        self.gathered += 1


@pytest.fixture
def checks() -> Checks:
    """All is well."""
    return Checks()


@pytest.fixture
async def server(checks: Checks) -> AsyncIterator[HealthServer]:
    """On a free port."""
    made = HealthServer(
        OpsSettings(port=0), Metrics(process=False), {"redis": checks.check_redis}, checks.check_alive, checks.gather
    )
    await made.start()
    yield made
    await made.stop()
    await made.stop()


async def get(server: HealthServer, path: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(server.address + path) as response:
        return response.status, await response.text()


async def test_ready_names_what_is_missing(server: HealthServer, checks: Checks) -> None:
    """200 while everything holds, 503 with the reason otherwise."""
    assert await get(server, "/healthz/ready") == (200, '{"status": "ready", "checks": {"redis": "ok"}}')
    checks.redis = "RedisAway"
    assert await get(server, "/healthz/ready") == (503, '{"status": "not ready", "checks": {"redis": "RedisAway"}}')


async def test_live_is_only_lost_by_what_a_restart_cures(server: HealthServer, checks: Checks) -> None:
    """An outage of Redis must not restart every daemon."""
    checks.redis = "RedisAway"
    assert (await get(server, "/healthz/live"))[0] == 200
    checks.alive = "the loop of beats stands still"
    assert (await get(server, "/healthz/live"))[0] == 503


async def test_metrics_are_gathered_when_somebody_scrapes(server: HealthServer, checks: Checks) -> None:
    """Never otherwise; the checks are among them."""
    await get(server, "/healthz/ready")
    assert checks.gathered == 0
    status, body = await get(server, "/metrics")
    assert (status, checks.gathered) == (200, 1)
    assert 'qstreamd_check_ok{check="redis"} 1.0' in body


async def test_nothing_else_is_served(server: HealthServer) -> None:
    """404, and no list of what there is."""
    assert (await get(server, "/"))[0] == 404


async def test_a_server_that_never_started_may_be_stopped() -> None:
    """Stop is for every path."""
    await HealthServer(OpsSettings(port=0), Metrics(process=False), {}).stop()


async def test_an_answer_that_takes_too_long_is_none() -> None:
    """A probe has little time; whatever goes wrong has a name."""

    async def fails() -> None:
        raise ConnectionError

    assert await responds(asyncio.sleep, 0) == ""
    assert await responds(asyncio.sleep, 5, limit_s=0.02) == "TimeoutError"
    assert await responds(fails) == "ConnectionError"
