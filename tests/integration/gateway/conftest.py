"""A gateway on loopback over real servers, in this process: everything but the signals."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from daemon.config import EventSettings, GatewaySettings, PostgresSettings, RedisSettings, RuntimeSettings, Settings
from daemon.config.types import SecretStr
from daemon.domain.clock import SystemClock
from daemon.domain.events import EventDraft
from daemon.domain.messages import TaskIdentity
from daemon.events.log import EventLog
from daemon.gateway.tokens import Tokens
from daemon.processes.gateway import GatewayProcess
from daemon.redis_client.connection import connect
from daemon.redis_client.scripts import Scripts

SECRET = "a secret of thirty-two characters"
KEY = "bff-key-of-sixteen-characters"


def identity(task_id: str, queue: str = "q_paid_stream") -> TaskIdentity:
    return TaskIdentity(task_id, queue, "r1", "tr1")


class Rig:
    """One gateway, a client, and the pen that writes events."""

    def __init__(self, process: GatewayProcess, http: aiohttp.ClientSession, redis: Any) -> None:
        self.process = process
        self.http = http
        self.redis = redis
        self.url = process.address
        self.fan_out = process.fan_out
        self.events = EventLog(Scripts(redis), EventSettings(), SystemClock())
        self.tokens = Tokens(SecretStr(SECRET), SystemClock(), 60)

    async def append(self, task_id: str, drafts: Sequence[EventDraft], attempt: int = 1) -> None:
        await self.events.append(identity(task_id), attempt, drafts)

    def auth(self, task_id: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.tokens.task_token(task_id)}"}

    def follow(self, task_id: str, after: str | None = None, **more: Any) -> Any:
        """An open SSE answer (a context manager)."""
        headers = {"Accept": "text/event-stream", **self.auth(task_id)}
        if after is not None:
            headers["Last-Event-ID"] = after
        return self.http.get(f"{self.url}/api/tasks/{task_id}/events", headers=headers, **more)

    async def poll(self, task_id: str, **query: str | int) -> Any:
        async with self.http.get(
            f"{self.url}/api/tasks/{task_id}/events", headers=self.auth(task_id), params=query
        ) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()


Open = Callable[..., Any]


@pytest.fixture
def settings(redis_settings: RedisSettings, postgres_settings: PostgresSettings) -> Settings:
    gateway = GatewaySettings(
        port=0, task_token_secret=SecretStr(SECRET), api_keys=(SecretStr(f"bff:{KEY}"),), direct_submit=True
    )
    runtime = RuntimeSettings(environment="development")
    return Settings(redis=redis_settings, postgres=postgres_settings, gateway=gateway, runtime=runtime)


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Rig]:
    """A gateway from start to a clean stop."""
    process = GatewayProcess(settings)
    async with connect(settings.redis, name="test") as redis, asyncio.TaskGroup() as group:
        life = group.create_task(process.run())
        waiting = group.create_task(process.ready.wait())
        await asyncio.wait([life, waiting], return_when=asyncio.FIRST_COMPLETED, timeout=10)
        waiting.cancel()
        if process.ready.is_set():
            connector = aiohttp.TCPConnector(limit=0, force_close=True)
            async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(20)) as http:
                try:
                    yield Rig(process, http, redis)
                finally:  # a test that fails waits for the stop as well, or its loop can't be closed
                    process.stop()
                    await life
        await life


@pytest.fixture
async def rig(settings: Settings) -> AsyncIterator[Rig]:
    async with running(settings) as rig:
        yield rig


@pytest.fixture
def open_rig(settings: Settings) -> Open:
    """Makes gateways with other settings; each is an async context manager."""
    return lambda **more: running(settings.model_copy(update={"gateway": settings.gateway.model_copy(update=more)}))
