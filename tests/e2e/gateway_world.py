"""Gateway, relay and daemon as processes, with stand-ins for QStash and the models: what a front end meets."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg

from daemon.config import RedisSettings
from daemon.config.types import SecretStr
from daemon.dev.demo.parts import Part
from daemon.dev.fake_llm import FakeLLM
from daemon.dev.fake_llm.shapes import Asked
from daemon.dev.fake_qstash import FakeQstash
from daemon.domain.queues import DEFAULT_QUEUES
from daemon.redis_client.connection import connect
from tests import last_words

SECRET = "thirty-two characters of a secret"
KEY = "bff-key-of-sixteen-characters"
SERVICE = "resume-review"
VARIABLES = {"resume": "ten years of Python", "role": "engineer"}


def talkative(asked: Asked) -> str | None:
    """An answer that takes half a minute for the role `chatterbox`, which a test cancels; the usual one for others."""
    return "word " * 3000 if "chatterbox" in asked.prompt else None


@dataclass
class World:
    """Everything that runs, and how a front end talks to it."""

    qstash: FakeQstash
    models: FakeLLM
    redis: Any  #: redis-py types every reply as a union of what any server may say
    postgres: asyncpg.Connection[Any]
    http: aiohttp.ClientSession
    parts: dict[str, Part] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return self.parts["gateway"].url

    async def call(
        self, method: str, path: str, *, key: str = KEY, body: Any = None, **headers: str
    ) -> tuple[int, Any]:
        auth = {"Authorization": f"Bearer {key}"} if key else {}
        async with self.http.request(method, f"{self.url}{path}", json=body, headers={**auth, **headers}) as answer:
            return answer.status, json.loads(await answer.read() or b"null")

    async def submit(self, **fields: Any) -> dict[str, Any]:
        """A task that was taken; 202 or the test fails."""
        body = {"serviceId": SERVICE, "userId": "u1", "tier": "paid", "variables": VARIABLES, **fields}
        status, answer = await self.call("POST", "/api/tasks", body=body)
        assert status == 202, answer
        assert isinstance(answer, dict)
        return answer

    async def task(self, task_id: str, key: str = KEY) -> dict[str, Any]:
        status, answer = await self.call("GET", f"/api/tasks/{task_id}", key=key)
        assert status == 200, answer
        assert isinstance(answer, dict)
        return answer

    async def events(self, task: Mapping[str, Any], after: str = "0-0") -> list[dict[str, Any]]:
        """Every event until the terminal one, by long poll."""
        found: list[dict[str, Any]] = []
        while not (found and found[-1]["type"] in {"done", "error"} and not found[-1].get("retryable")):
            path = f"/api/tasks/{task['taskId']}/events?after={after}&wait=10"
            status, answer = await self.call("GET", path, key=task["token"])
            assert status == 200 and answer["events"], answer
            found += answer["events"]
            after = answer["after"]
        return found

    async def started(self, task_id: str) -> None:
        """Waits until a model is being called for the task."""
        deadline = time.monotonic() + 10
        while not await self.redis.exists(f"task:{task_id}:events") or b"started" not in [
            fields[b"type"] for _, fields in await self.redis.xrange(f"task:{task_id}:events")
        ]:
            assert time.monotonic() < deadline, "it never started"
            await asyncio.sleep(0.01)

    def logs(self) -> str:
        """Everything that any of the processes said."""
        return "".join(part.log_path.read_text("utf-8") for part in self.parts.values())


@asynccontextmanager
async def world(
    redis_url: str,
    postgres_url: str,
    *,
    parts: tuple[str, ...] = ("relay", "daemon", "gateway"),
    models: Mapping[str, Any] | None = None,
    services: Path | None = None,
    **more: str,
) -> AsyncIterator[World]:
    """All of it, ready. `more` are settings for every process; `services` a services file."""
    async with AsyncExitStack() as stack:
        qstash = await stack.enter_async_context(FakeQstash(speed=20))
        llm = await stack.enter_async_context(FakeLLM(**{"tokens_per_s": 200.0, **(models or {})}))
        redis = connect(RedisSettings(url=SecretStr(redis_url)), size=8, name="test")
        stack.push_async_callback(redis.aclose)
        postgres = await asyncpg.connect(postgres_url, timeout=10)
        stack.push_async_callback(postgres.close)
        http = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(30)))
        found = World(qstash, llm, redis, postgres, http)
        shared = {
            "NODE_ENV": "development", "REDIS_URL": redis_url, "DATABASE_URL": postgres_url,
            "QSTREAMD_LOG_FORMAT": "json", **({"SERVICES_FILE": str(services)} if services else {}), **more,
        }  # fmt: skip

        def relay(port: int) -> dict[str, str]:
            keys = {k: v for k, v in qstash.environment.items() if k.endswith("_SIGNING_KEY")}
            return {**shared, **keys, "RELAY_PORT": str(port), "WORKER_BASE_URL": f"http://127.0.0.1:{port}"}

        def daemon(port: int) -> dict[str, str]:
            models = {"DEEPSEEK_BASE_URL": llm.openai_url, "OPENAI_BASE_URL": llm.openai_url,
                      "GEMINI_BASE_URL": llm.gemini_url}  # fmt: skip
            api_keys = {f"{name}_API_KEY": f"fake-{name.lower()}" for name in ("DEEPSEEK", "OPENAI", "GEMINI")}
            return {**shared, **models, **api_keys, "OPS_PORT": str(port), "QSTREAMD_DRAIN_S": "1"}

        def gateway(port: int) -> dict[str, str]:
            publishing = {k: v for k, v in qstash.environment.items() if k in {"QSTASH_URL", "QSTASH_TOKEN"}}
            relay_url = {"WORKER_BASE_URL": found.parts["relay"].url} if "relay" in found.parts else {}
            own = {"TASK_TOKEN_SECRET": SECRET, "API_KEYS": f"bff:{KEY}", "GATEWAY_PORT": str(port)}
            return {**shared, **publishing, **relay_url, **own, **more}

        commands = {"relay": (["relay"], relay), "gateway": (["gateway"], gateway),
                    "daemon": (["--queues", ",".join(DEFAULT_QUEUES)], daemon)}  # fmt: skip
        for name in parts:
            arguments, variables = commands[name]
            part = Part(name, arguments, variables)
            stack.push_async_callback(asyncio.to_thread, part.close)
            last_words.of(name, partial(part.log_path.read_text, "utf-8", "replace"))
            await asyncio.to_thread(part.start)
            found.parts[name] = part
        yield found
