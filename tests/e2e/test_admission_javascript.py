"""`takePlace` of docs/nextjs.md, run by the two Redis clients that the page names."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest
from redis.asyncio import Redis

from daemon.config import QueueSettings, RedisSettings
from daemon.domain.clock import SystemClock
from daemon.domain.messages import TaskMessage
from daemon.queues.admission import Accepted, Admission
from daemon.redis_client import keys
from daemon.redis_client.connection import connect
from daemon.redis_client.scripts import Scripts
from tests import front_ends, nodejs
from tests.upstash import upstash

NAMES: Final = keys.queue_keys("q_paid_stream")
USE: Final = """
import { Redis as Upstash } from "@upstash/redis";
import Redis from "ioredis";
import { overTcp, takePlace } from "./lib/admission";
const tcp = process.env.CLIENT === "ioredis" ? new Redis(process.env.REDIS_URL!) : undefined;
const client = tcp ? overTcp(tcp) : new Upstash({ url: process.env.REST_URL!, token: "t" });
const fixed = { queueId: "q_paid_stream", serviceId: "s", userId: "u" };
const said = [];
for (const [n, extra] of [[1], [1], [2], [3], [1, { jobId: "j" }]] as [number, object?][]) {
  said.push(await takePlace(client, { taskId: `t${n}`, ...fixed, ...extra }, 2));
}
console.log(JSON.stringify(said));
tcp?.disconnect();
"""


@pytest.fixture
async def client(redis_settings: RedisSettings) -> AsyncIterator[Redis]:
    async with connect(redis_settings) as found:
        yield found


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", ["ioredis", "upstash"])
async def test_the_page_s_function_takes_places(name: str, client: Redis, redis_url: str, nextjs: Path) -> None:
    """A place, the same again, the last place, full, another body; and the relay keeps what was promised."""
    script = front_ends.bundled(nextjs, "admission", USE)
    async with upstash(client) as url:
        env = {"CLIENT": name, "REDIS_URL": redis_url, "REST_URL": url, "UPSTASH_DISABLE_TELEMETRY": "1"}
        done = await asyncio.to_thread(nodejs.run, nextjs, script, **env)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [
        {"ok": True, "position": 1}, {"ok": True, "position": 1}, {"ok": True, "position": 2},
        {"ok": False, "retryAfter": 20}, {"ok": False, "used": True},
    ]  # fmt: skip
    assert await client.get(NAMES.counter) == b"2"
    message = TaskMessage(task_id="t1", queue_id="q_paid_stream", service_id="s", user_id="u", variables={})
    admission = Admission(Scripts(client), QueueSettings(), SystemClock())
    assert isinstance(await admission.accept(message, "0" * 64, 2, {}), Accepted)
    assert await client.get(NAMES.counter) == b"2"
