"""What probes and scrapes get from a daemon, over real HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest

from daemon.config import OpsSettings
from daemon.metrics import Metrics
from daemon.worker.health import HealthServer


class Daemon:
    """What a health server is told; each is "" or why not."""

    def __init__(self) -> None:
        self.reading = ""
        self.alive = ""
        self.gathered = 0

    async def is_reading(self) -> str:
        return self.reading

    async def is_alive(self) -> str:
        return self.alive

    async def gather(self) -> None:
        self.gathered += 1


@pytest.fixture
async def daemon() -> Daemon:
    return Daemon()


@pytest.fixture
async def get(daemon: Daemon) -> AsyncIterator[aiohttp.ClientSession]:
    """A session at the address of a running server."""
    metrics = Metrics(process=False)
    server = HealthServer(OpsSettings(port=0), metrics, {"reading": daemon.is_reading}, daemon.is_alive, daemon.gather)
    await server.start()
    async with aiohttp.ClientSession(server.address) as session:
        yield session
    await server.stop()
    await server.stop()


async def answer(get: aiohttp.ClientSession, path: str) -> tuple[int, str]:
    """Status and body."""
    async with get.get(path) as response:
        return response.status, await response.text()


async def test_ready_names_what_is_missing(get: aiohttp.ClientSession, daemon: Daemon) -> None:
    """200 when every check holds, else 503 with each check's word."""
    assert await answer(get, "/healthz/ready") == (200, '{"status": "ready", "checks": {"reading": "ok"}}')
    daemon.reading = "not reading q_paid_stream"
    status, body = await answer(get, "/healthz/ready")
    assert status == 503 and "not reading q_paid_stream" in body


async def test_live_fails_only_for_what_a_restart_cures(get: aiohttp.ClientSession, daemon: Daemon) -> None:
    """A daemon that is not ready is alive; one that is deaf for long is not."""
    daemon.reading = "not reading q_paid_stream"
    assert (await answer(get, "/healthz/live"))[0] == 200
    daemon.alive = "q_paid_stream: 3 wait"
    assert await answer(get, "/healthz/live") == (503, '{"status": "q_paid_stream: 3 wait"}')


async def test_a_scrape_brings_gauges_and_checks_up_to_date(get: aiohttp.ClientSession, daemon: Daemon) -> None:
    """Nothing is gathered for a probe; each scrape shows the checks as they are now."""
    await answer(get, "/healthz/ready")
    assert daemon.gathered == 0
    assert 'qstreamd_check_ok{check="reading"} 1.0' in (await answer(get, "/metrics"))[1]
    daemon.reading = "stopping"
    assert 'qstreamd_check_ok{check="reading"} 0.0' in (await answer(get, "/metrics"))[1]
    assert daemon.gathered == 2
