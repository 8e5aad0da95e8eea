"""The whole way with the clients that a front end uses: official QStash client in, ioredis out."""

from __future__ import annotations

import asyncio
import json
from typing import Final

import pytest

from daemon.dev.demo.parts import Part
from daemon.dev.fake_qstash import FakeQstash
from tests import nodejs
from tests.e2e.world import Published, World, tag, text_of

pytestmark = pytest.mark.timeout(180)
PACKAGES: Final = ("ioredis@5.11.1", "@upstash/qstash@2.12.0")
SCRIPT: Final = """
const { Client } = require("@upstash/qstash");
const Redis = require("ioredis");
(async () => {
  const { QSTASH_URL: baseUrl, QSTASH_TOKEN: token } = process.env;
  const client = new Client({ baseUrl, token, devMode: false, retry: false });
  const body = JSON.parse(process.env.BODY);
  await client.publishJSON({ url: `${process.env.RELAY}/api/worker/stream/plain`, body });
  const redis = new Redis(process.env.REDIS_URL);
  const events = [];
  let after = "0-0";
  for (;;) {
    const reply = await redis.xread("BLOCK", 20000, "STREAMS", `task:${body.taskId}:events`, after);
    if (!reply) throw new Error("no events");
    for (const [id, fields] of reply[0][1]) {
      after = id;
      const event = JSON.parse(fields[fields.indexOf("data") + 1]);
      events.push(event);
      if (event.type === "done" || (event.type === "error" && !event.retryable)) {
        console.log(JSON.stringify(events));
        redis.disconnect();
        return;
      }
    }
  }
})().catch((error) => { console.error(error); process.exit(1); });
"""


async def test_a_task_published_and_followed_by_javascript(world: World) -> None:
    """Signed by QStash's stand-in, run by a daemon, read in order with its text complete."""
    packages = nodejs.installed("qstash-and-ioredis", PACKAGES)
    script = world.directory / "front.cjs"
    script.write_text(SCRIPT, "utf-8")
    async with FakeQstash() as qstash:
        keys = {name: value for name, value in qstash.environment.items() if name.endswith("_SIGNING_KEY")}
        services = {"SERVICES_FILE": str(world.directory / "services.toml"), "NODE_ENV": "development"}
        relay = Part(
            "relay",
            ["relay"],
            lambda port: {
                "RELAY_PORT": str(port), "WORKER_BASE_URL": f"http://127.0.0.1:{port}", "REDIS_URL": world.redis_url,
                **keys, **services,
            },
        )  # fmt: skip
        try:
            await asyncio.to_thread(relay.start)
            await world.start_daemon(NODE_ENV="development")
            world.published["js1"] = Published("js1", "q_paid_stream", tag("u"), accepted=1)
            body = {
                "taskId": "js1",
                "queueId": "q_paid_stream",
                "userId": "u",
                "variables": {"id": "js1", "tokens": 50},
            }
            found = await asyncio.to_thread(
                nodejs.run, world.directory, script, NODE_PATH=str(packages / "node_modules"), BODY=json.dumps(body),
                RELAY=relay.url, REDIS_URL=world.redis_url, **qstash.environment,
            )  # fmt: skip
        finally:
            await asyncio.to_thread(relay.close)
    assert found.returncode == 0, found.stdout + found.stderr
    events = json.loads(found.stdout.strip().splitlines()[-1])
    assert [events[0]["type"], events[1]["type"], events[-1]["type"]] == ["queued", "started", "done"]
    assert "".join(e["delta"] for e in events if e["type"] == "token_batch") == text_of("js1", 50)
    await world.check()
