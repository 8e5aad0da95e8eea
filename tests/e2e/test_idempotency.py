"""The same taskId again: by QStash and by the API, with the same body and another one, in each state of the task.

One table of answers, and what holds whatever was answered: one model call, one result, one end for the viewer.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest

from daemon.dev.fake_llm.shapes import Asked
from daemon.dev.fake_qstash.signing import sign
from daemon.redis_client import keys
from tests.e2e.gateway_world import World, world
from tests.waiting import WaitUntil

pytestmark = pytest.mark.timeout(120)
QUEUE, OTHER = "q_paid_stream", "q_paid_batch"
ADMIN = "admin-token-of-the-tests"
STATES = ("waiting", "running", "done", "25 hours later")
SERVICES = """
[models.m]
provider = "openai"
name = "m"
input = ["text"]
concurrency = { paid = 50 }

[services.s]
title = "s"
prompt = "{{ say }}"
models = { paid = ["m"] }
"""
#: door and what comes again -> what it is answered, in each state of the task
ANSWERS: Final = {
    ("QStash", "the same body"): "200 duplicate",
    ("QStash", "another body"): "489 INVALID_PAYLOAD",
    ("QStash", "another queue"): "200 queued",  # then a dead letter there: see below
    ("API", "the same body"): "202",
    ("API", "another body"): "422 INVALID_PAYLOAD",
    ("API", "another queue"): "422 INVALID_PAYLOAD",
}


@pytest.fixture
async def front(redis_url: str, postgres_url: str, tmp_path: Path) -> AsyncIterator[World]:
    """Gateway, relay and one daemon."""
    services = tmp_path / "services.toml"
    services.write_text(SERVICES, "utf-8")
    async with world(redis_url, postgres_url, services=services, models={"answer": said}, ADMIN_TOKEN=ADMIN) as found:
        yield found


def said(asked: Asked) -> str:
    """A short answer, or one that lasts until all questions are asked."""
    return " word" * (800 if "slowly" in asked.prompt else 4)


def body_of(task_id: str, queue: str = QUEUE, say: str = "") -> dict[str, Any]:
    """Slow if it is to be met running."""
    say = say or ("slowly" if task_id.startswith("running") else "x")
    ids = {"taskId": task_id, "queueId": queue, "serviceId": "s", "userId": f"user-{task_id}"}
    return {**ids, "variables": {"say": say}}


async def again(front: World, door: str, body: dict[str, Any]) -> str:
    """The answer of that door, in a word."""
    if door == "API":
        status, answer = await front.call("POST", "/api/tasks", body=body)
        return f"{status} {answer.get('code', '')}".strip()
    url, raw = f"{front.parts['relay'].url}/worker/execute", json.dumps(body).encode()
    signature = sign(front.qstash.current_key, url=url, body=raw, issued_at=time.time())
    async with front.http.post(url, data=raw, headers={"Upstash-Signature": signature}) as reply:
        assert (reply.status == 489) == (reply.headers.get("Upstash-NonRetryable-Error") == "true")
        answer = await reply.json()
        return f"{reply.status} {answer.get('status') or answer.get('code')}"


async def order(front: World, what: str) -> None:
    """Pause or resume the queue."""
    url = f"{front.parts['daemon'].url}/api/admin/queues/{QUEUE}/{what}"
    async with front.http.post(url, json={}, headers={"Authorization": f"Bearer {ADMIN}"}) as answer:
        assert answer.status == 200


async def kinds(front: World, task_id: str) -> list[str]:
    """The types of its events so far."""
    return [fields[b"type"].decode() for _, fields in await front.redis.xrange(keys.events(task_id))]


async def bring(front: World, state: str, wait_until: WaitUntil) -> dict[tuple[str, str], str]:
    """A task for each row of the table, in that state; its id by door and by what will come again."""
    names = {(door, what): f"{state.split(maxsplit=1)[0]}-{n}" for n, (door, what) in enumerate(ANSWERS)}
    for (door, _), task_id in names.items():
        assert await again(front, door, body_of(task_id)) in {"200 queued", "202"}
    seen = {"waiting": "queued", "running": "token_batch"}.get(state, "done")

    async def there() -> bool:
        return all([seen in await kinds(front, task_id) for task_id in names.values()])

    await wait_until(there, description=f"all to be {state}")
    if state == "25 hours later":
        for task_id in names.values():
            # The script's clock is the server's: no test turns it. What of the task is still known then, is looked at;
            # what is not, is taken away.
            assert await front.redis.ttl(keys.dedup(QUEUE, task_id)) > 25 * 3600
            assert 0 < await front.redis.ttl(keys.events(task_id)) < 25 * 3600
            for key in (keys.reservation(QUEUE, task_id), keys.events(task_id), keys.events_state(task_id)):
                await front.redis.delete(key)
    return names


async def test_the_table(front: World, wait_until: WaitUntil) -> None:
    """Each answer in each state, and nothing is run or told twice."""
    tasks: dict[str, dict[tuple[str, str], str]] = {}
    for state in ("done", "25 hours later", "running"):
        tasks[state] = await bring(front, state, wait_until)
    await order(front, "pause")
    tasks["waiting"] = await bring(front, "waiting", wait_until)

    async def asked(door: str, what: str, task_id: str) -> str:
        bodies = {"another body": body_of(task_id, say="something else"), "another queue": body_of(task_id, OTHER)}
        return await again(front, door, bodies.get(what, body_of(task_id)))

    cases = [(s, d, w, tasks[s][d, w]) for s in STATES for d, w in ANSWERS]
    found = await asyncio.gather(*(asked(d, w, task_id) for _, d, w, task_id in cases))
    assert {(s, d, w): said for (s, d, w, _), said in zip(cases, found, strict=True)} == {
        (s, d, w): answer for s in STATES for (d, w), answer in ANSWERS.items()
    }
    assert "done" not in await kinds(front, tasks["running"]["QStash", "the same body"])  # it was met running
    await order(front, "resume")

    ids = [task_id for _, _, _, task_id in cases]

    async def all_done() -> bool:
        rows = await front.postgres.fetch("SELECT state FROM qstreamd.tasks")
        return [row["state"] for row in rows] == ["done"] * len(ids)

    await wait_until(all_done, description="every task to be done", within_s=20)

    # Of one id in two queues the first that is claimed runs, the other one is a dead letter and tells nobody.
    twice = {task_id: state for state, door, what, task_id in cases if (door, what) == ("QStash", "another queue")}
    lost = {(QUEUE if state == "waiting" else OTHER, task_id) for task_id, state in twice.items()}

    async def buried() -> bool:
        letters = {queue: await front.redis.xrange(keys.queue_keys(queue).dead) for queue in (QUEUE, OTHER)}
        return {(queue, f[b"taskId"].decode()) for queue, found in letters.items() for _, f in found} == lost

    await wait_until(buried, description="what came to a second queue to be a dead letter")
    for queue in (QUEUE, OTHER):
        assert int(await front.redis.get(keys.queue_keys(queue).counter)) == 0
    assert len(front.models.calls) == len(ids)
    results = await front.postgres.fetch("SELECT task_id FROM qstreamd.results")
    assert sorted(row["task_id"] for row in results) == sorted(ids)
    for state, _, _, task_id in cases:
        ends = [kind for kind in await kinds(front, task_id) if kind in {"done", "error"}]
        assert ends == (["done"] if state != "25 hours later" else []), (state, task_id)


async def test_an_id_that_redis_has_forgotten_is_known_to_postgres(front: World, wait_until: WaitUntil) -> None:
    """After the record's seven days the relay accepts it anew; the row says it has ended, and no model is called."""
    assert await again(front, "QStash", body_of("t1")) == "200 queued"

    async def ended() -> bool:
        return "done" in await kinds(front, "t1") and not await front.redis.xlen(keys.queue_keys(QUEUE).tasks)

    await wait_until(ended, description="the task to end")
    await front.redis.delete(keys.dedup(QUEUE, "t1"))
    assert await again(front, "QStash", body_of("t1")) == "200 queued"
    await wait_until(ended, description="the entry to be gone")
    assert len(front.models.calls) == 1
    assert (await kinds(front, "t1")).count("done") == 1
    assert int(await front.redis.get(keys.queue_keys(QUEUE).counter)) == 0
