"""The guide's script, run by the two Redis clients that it names. Skipped where node is missing."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest
from aiohttp import web
from redis.asyncio import Redis

from daemon import keys
from daemon.clock import SystemClock
from daemon.config import QueueSettings, RedisSettings
from daemon.contracts import TaskMessage
from daemon.stream.admission import Accepted, Admission
from daemon.stream.connection import Scripts, connect
from tests.nodejs import installed, run

ROOT: Final = Path(__file__).parents[2]
PACKAGES: Final = ("ioredis@5.8.2", "@upstash/redis@1.35.6")
NAMES: Final = keys.queue_keys("q_paid_stream")
USE: Final = """
const { takePlace } = require("./admission.js");
const client = process.env.CLIENT === "ioredis"
  ? new (require("ioredis"))(process.env.REDIS_URL)
  : new (require("@upstash/redis").Redis)({ url: process.env.REST_URL, token: "t" });
(async () => {
  const fixed = { queueId: "q_paid_stream", serviceId: "s", userId: "u" };
  const body = (n, extra = {}) => ({ taskId: `t${n}`, ...fixed, ...extra });
  const said = [];
  for (const [n, extra] of [[1], [1], [2], [3], [1, { x: 1 }]]) said.push(await takePlace(client, body(n, extra), 2));
  console.log(JSON.stringify(said));
  client.quit?.();
})();
"""


@pytest.fixture
async def client(redis_settings: RedisSettings) -> AsyncIterator[Redis]:
    async with connect(redis_settings) as found:
        yield found


@pytest.fixture
async def rest_url(client: Redis) -> AsyncIterator[str]:
    """As much of Upstash's REST API as commands need: a JSON array in, its answer out, texts as base64."""

    def told(value: Any) -> Any:
        if isinstance(value, list):
            return [told(item) for item in value]
        return base64.b64encode(value).decode() if isinstance(value, bytes) else value

    async def answer(command: list[Any]) -> dict[str, Any]:
        execute: Any = client.execute_command
        return {"result": told(await execute(*command))}

    async def command(request: web.Request) -> web.Response:
        return web.json_response(await answer(await request.json()))

    async def pipeline(request: web.Request) -> web.Response:
        return web.json_response([await answer(command) for command in await request.json()])

    app = web.Application()
    app.router.add_post("/", command)
    app.router.add_post("/pipeline", pipeline)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest.mark.parametrize("name", ["ioredis", "upstash"])
async def test_the_guide_s_script_takes_places(
    name: str, client: Redis, redis_url: str, rest_url: str, tmp_path: Path
) -> None:
    """A place, the same again, the last place, full, another body; and the relay keeps what was promised."""
    packages = installed("admission", PACKAGES)
    code = re.findall(r"```js\n(.*?)```", (ROOT / "docs/guides/admission.md").read_text("utf-8"), re.DOTALL)[0]
    (tmp_path / "admission.js").write_text(code, "utf-8")
    (tmp_path / "use.js").write_text(USE, "utf-8")
    env = {
        "CLIENT": name, "REDIS_URL": redis_url, "REST_URL": rest_url, "NODE_PATH": str(packages / "node_modules"),
        "PROMISE_LUA": str(ROOT / "daemon/stream/scripts/promise.lua"), "UPSTASH_DISABLE_TELEMETRY": "1",
    }  # fmt: skip
    done = await asyncio.to_thread(run, tmp_path, tmp_path / "use.js", **env)
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
