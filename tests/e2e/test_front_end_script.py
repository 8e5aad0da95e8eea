"""The whole front end in one Node script, with the official packages, against relay, daemon, gateway and a QStash.

What it uses are the files of docs/nextjs.md: a place, the publish, a token, the events, the view, the cancel.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any, Final

import pytest

from tests import front_ends, nodejs
from tests.e2e.gateway_world import KEY, SECRET, SERVICE, VARIABLES, World, talkative, world
from tests.upstash import upstash

pytestmark = pytest.mark.timeout(240)

SCRIPT: Final = """
import { EventSource } from "eventsource";
import { POST as cancel } from "./app/api/tasks/[taskId]/cancel/route";
import { GET as events } from "./app/api/tasks/[taskId]/events/route";
import { POST as start } from "./app/api/tasks/route";
import { followTask } from "./lib/follow";
import { enqueueNamed, publishPaced } from "./lib/pace";
import { INITIAL_VIEW, reduce, textOf, type TaskView } from "./lib/qstreamd";
import { submit } from "./lib/submit";
import { GET as tokenOf } from "./app/api/tasks/[taskId]/token/route";
Object.assign(globalThis, { EventSource });

const service = process.env.SERVICE!;
const variables = JSON.parse(process.env.VARIABLES!);
const task = (taskId: string, more = {}) => ({ taskId, userId: `user-${taskId}`, variables, ...more });

/** Until the end, as a browser or an app does at the gateway; every view on the way. */
function followed(taskId: string, each: (view: TaskView) => void = () => undefined): Promise<TaskView> {
  return new Promise((resolve, reject) => {
    const address = async (after: string) => {
      const { url, token } = await (await tokenOf(new Request("http://next"), params(taskId))).json();
      return `${url}/events?token=${token}&after=${after}`;
    };
    followTask(address, (view, connection) => {
      if (connection === "lost") reject(new Error(`${taskId}: lost`));
      each(view);
      if (view.ended) resolve(view);
    });
  });
}

/** Until the end, by the route of Next.js. */
async function routed(taskId: string): Promise<TaskView> {
  const text = await (await events(new Request(`http://next/api/tasks/${taskId}/events`), params(taskId))).text();
  let view = INITIAL_VIEW;
  const found = text.matchAll(/^id: (.*)\\nevent: .*\\ndata: (.*)$/gm);
  for (const [, id, data] of found) view = reduce(view, JSON.parse(data!), id);
  return view;
}

const params = (taskId: string) => ({ params: Promise.resolve({ taskId }) });
const said: Record<string, unknown> = {};
const auto = ["q_paid_stream", "q_free_stream"];
said.place = await submit(service, task("a1"), auto);
said.free = await submit(service, task("b1"), ["q_paid_batch", "q_free_batch"]);
said.full = await submit(service, task("b2"), ["q_paid_batch"]);
await submit(service, task("c1", { variables: { ...variables, role: "chatterbox" } }), ["q_paid_stream"]);
await publishPaced(service, { ...task("d1"), queueId: "q_paid_vision" }, 5);
await enqueueNamed(service, { ...task("d2"), queueId: "q_free_vision" });
await submit(service, task("e1", { tier: "free" }), ["q_paid_stream"]);

const form = (taskId: string, tier: string) => {
  const body = JSON.stringify({ taskId, tier, resume: "ten years of Python" });
  return start(new Request("http://next/api/tasks", { method: "POST", body }));
};
const started = [await form("form-0123456789abcdef", "auto"), await form("form-fedcba9876543210", "free")];
said.started = await Promise.all(started.map(async (answer) => [answer.status, await answer.json()]));
said.retryAfter = started[1]!.headers.get("Retry-After");

let order: Promise<Response> | undefined;
const cancelAtFirstWord = (view: TaskView) => {
  if (view.text) order ??= cancel(new Request("http://next", { method: "POST" }), params("c1"));
};
[said.followed, said.routed, said.batch, said.cancelled, said.paced, said.named, said.refused] = await Promise.all([
  followed("a1"), routed("a1"), followed("b1"), followed("c1", cancelAtFirstWord), followed("d1"), followed("d2"),
  followed("e1"),
]);
said.action = await followed("form-0123456789abcdef");
said.twice = (await form("form-0123456789abcdef", "auto")).status;
said.order = (await order!).status;
said.again = await submit(service, task("a1"), auto);
said.words = textOf(said.refused as TaskView, "zh-CN");
console.log(JSON.stringify(said));
"""


async def run(front: World, nextjs: Path, script: str, *arguments: object, **more: str) -> Any:
    """What a script of the front end ended with."""
    async with upstash(front.redis) as url:
        publishing = {n: v for n, v in front.qstash.environment.items() if n in {"QSTASH_URL", "QSTASH_TOKEN"}}
        env = {
            **publishing, "WORKER_BASE_URL": front.parts["relay"].url, "UPSTASH_REDIS_REST_URL": url,
            "UPSTASH_REDIS_REST_TOKEN": "t", "UPSTASH_DISABLE_TELEMETRY": "1", "TASK_TOKEN_SECRET": SECRET,
            "GATEWAY_URL": front.url, "GATEWAY_KEY": KEY, "SERVICE": SERVICE, "VARIABLES": json.dumps(VARIABLES),
            **more,
        }  # fmt: skip
        return await asyncio.to_thread(nodejs.run, nextjs, script, *arguments, **env)


async def test_a_front_end_does_everything(nextjs: Path, redis_url: str, postgres_url: str) -> None:
    """Admission, publish, follow, cancel, refusals; with text that has the hash of `done`."""
    front_ends.bundled(nextjs, "script", SCRIPT)
    models = {"tokens_per_s": 100.0, "words": 100, "answer": talkative}
    async with world(redis_url, postgres_url, models=models) as front:
        found = await run(front, nextjs, "script.mjs", QUEUE_MAX_PAID_BATCH="0", QUEUE_MAX_FREE_STREAM="0")
        assert found.returncode == 0, found.stderr + front.logs()[-3000:]
        said = json.loads(found.stdout)
        counters = [await front.redis.get(f"bp:queue:{queue}") for queue in ("q_paid_stream", "q_free_batch")]
    assert said["place"] == {
        "ok": True, "taskId": "a1", "queueId": "q_paid_stream", "position": 1, "sseUrl": "/api/tasks/a1/events",
    }  # fmt: skip
    assert (said["followed"]["state"], said["followed"]["verified"]) == ("done", True)
    assert len(said["followed"]["text"]) > 300 and said["routed"]["text"] == said["followed"]["text"]
    assert said["again"] == {"ok": False, "code": "DUPLICATE"}
    assert (said["free"]["queueId"], said["batch"]["state"], said["batch"]["verified"]) == (
        "q_free_batch",
        "done",
        True,
    )
    assert said["full"] == {"ok": False, "code": "QUEUE_FULL", "retryAfter": 20}
    (taken, task), (full, why) = said["started"]
    assert (taken, task["queueId"], said["action"]["verified"], said["twice"]) == (202, "q_paid_stream", True, 409)
    assert (full, why["code"], said["retryAfter"]) == (429, "QUEUE_FULL", "20")
    assert (said["cancelled"]["state"], said["order"]) == ("cancelled", 200)
    assert (said["paced"]["state"], said["named"]["state"]) == ("done", "done")
    assert (said["refused"]["code"], said["words"]) == ("DELIVERY_FAILED", "任务投递失败。")
    assert {int(counter or 0) for counter in counters} == {0}


async def test_the_dry_run_of_a_pipeline(nextjs: Path, redis_url: str, postgres_url: str, tmp_path: Path) -> None:
    """Right messages pass, a misspelt field ends the pipeline, a wrong key does too; nothing is queued."""
    front_ends.bundled(nextjs, "check-worker", (nextjs / "scripts" / "check-worker.ts").read_text())
    good = {"taskId": "check-1", "queueId": "q_paid_stream", "serviceId": SERVICE, "userId": "deploy"}
    for name, message in (("good.json", good), ("bad.json", {**good, "userID": "typo"})):
        (tmp_path / name).write_text(json.dumps(message))
    async with world(redis_url, postgres_url, parts=("relay",)) as front:
        key = front.qstash.environment["QSTASH_CURRENT_SIGNING_KEY"]

        async def check(*names: str, key: str = key) -> Any:
            env = {"WORKER_BASE_URL": front.parts["relay"].url, "QSTASH_CURRENT_SIGNING_KEY": key}
            paths = [tmp_path / name for name in names]
            return await asyncio.to_thread(nodejs.run, nextjs, "check-worker.mjs", *paths, **env)

        passed = await check("good.json")
        assert (passed.returncode, passed.stdout[:4]) == (0, "ok  "), passed
        failed = await check("good.json", "bad.json")
        assert failed.returncode == 1 and "FAIL" in failed.stdout and "userID" in failed.stdout
        assert "401" in (await check("good.json", key="sig_of_another")).stderr
        assert await front.redis.keys("*") == [b"qstreamd:environment"]
