"""Canaries on every path: what a user said, what a model answered and what opens doors is told to nobody else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

import asyncpg
import pytest

from daemon.domain.queues import DEFAULT_QUEUES
from daemon.redis_client import keys
from tests.e2e.gateway_world import KEY, SECRET, World, world

#: said by the user; the fake model answers in the words of the prompt, so it is in outputs as well
SAID: Final = "canaryprompt"
UNBELIEVED: Final = "canaryunbelieved"  #: in calls, tokens and addresses of strangers
#: what opens doors; the last is what the daemon of this world shows to providers
DOORS: Final = (SECRET, KEY, "fake-deepseek", "fake-gemini", "fake-openai")
VARIABLES: Final = {"resume": f"{SAID} wrote {SAID}", "role": SAID}
QUICK: Final[dict[str, Any]] = {
    "QSTREAMD_RETRY_BASE_S": "0.02", "QSTREAMD_RETRY_CAP_S": "0.05", "QSTREAMD_LOG_LEVEL": "debug",
    "QSTREAMD_BREAKER_FAILURES": "1000",
}  # fmt: skip
#: what goes wrong with a call of a model, and how often it must for a task to end
FAULTS: Final = {
    "echo-secret": 1,
    "cut": 3,
    "garbage": 3,
    "bad-json": 3,
    "error-mid": 3,
    "blocked-mid": 1,
    "500": 3,
}


def found(text: str, *words: str) -> list[str]:
    """Which of these words stand in a text, and where."""
    return [text[max(0, m.start() - 120) : m.end() + 40] for word in words for m in re.finditer(re.escape(word), text)]


async def drive(front: World) -> set[str]:
    """Every path with canaries on it; the ids of the tasks."""
    ids = set()
    for queue in ("q_paid_stream", "q_paid_batch"):
        task = await front.submit(taskId=f"ok-{queue}", variables=VARIABLES, queueId=queue)
        assert (await front.events(task))[-1]["type"] == "done"
        ids.add(task["taskId"])
    for fault, times in FAULTS.items():
        front.models.plan(*[fault] * times)
        task = await front.submit(taskId=f"bad-{fault}", variables=VARIABLES)
        last = (await front.events(task))[-1]
        assert last["type"] in {"error", "done"}, last
        ids.add(task["taskId"])
        front.models.reset()
    ids |= await refused(front)
    return ids


async def refused(front: World) -> set[str]:
    """Bodies, headers and addresses that are not accepted, and tasks that can't be run."""
    task = await front.submit(taskId="no-variables", variables={SAID: SAID})
    assert (await front.events(task))[-1]["type"] == "error"
    image = {"data": SAID * 10, "mimeType": "image/png"}
    await front.call("POST", "/api/tasks", body={"serviceId": "no-such", "userId": "u1", SAID: SAID, "images": [image]})
    await front.call("POST", "/api/tasks", key=UNBELIEVED, body={"variables": VARIABLES})
    await front.call("GET", f"/api/tasks/ok-q_paid_stream/events?token={UNBELIEVED}", key="")
    await front.call("GET", f"/api/tasks/{UNBELIEVED}/events?wait=0", key=f"ey.{UNBELIEVED}.x")
    relay = front.parts["relay"].url
    for body in (json.dumps({"taskId": "t", "prompt": SAID}), f'{{"{SAID}'):
        for path in (f"/api/worker/stream/{UNBELIEVED}", f"/api/worker/check?key={UNBELIEVED}", f"/{UNBELIEVED}"):
            headers = {"Upstash-Signature": f"eyJ.{UNBELIEVED}.{UNBELIEVED}"}
            async with front.http.post(f"{relay}{path}", data=body, headers=headers) as answer:
                assert answer.status in {401, 404, 405}
    return {"no-variables"}


async def metrics(front: World) -> str:
    """What Prometheus reads, of all three."""
    texts = []
    for part in front.parts.values():
        async with front.http.get(f"{part.url}/metrics") as answer:
            assert answer.status == 200
            texts.append(await answer.text())
    return "".join(texts)


async def left_in_redis(front: World, own: set[str]) -> str:
    """Everything in Redis but the text of the tasks' own events."""
    kept: list[Any] = []
    async for key in front.redis.scan_iter(count=1000):
        name = key.decode()
        kind = (await front.redis.type(key)).decode()
        if kind == "stream":
            entries = await front.redis.xrange(key)
            kept += [(name, fields) for _, fields in entries if not _is_own(name, fields, own)]
        elif kind == "hash":
            kept.append((name, await front.redis.hgetall(key)))
        elif kind == "string":
            kept.append((name, await front.redis.get(key)))
        else:
            kept.append((name, kind))
    return "\n".join(map(str, kept))


def _is_own(name: str, fields: dict[bytes, bytes], own: set[str]) -> bool:
    of_a_task = name in {keys.events(task_id) for task_id in own}
    return of_a_task and fields[b"type"] in {b"token_batch", b"done"}


async def rows(connection: asyncpg.Connection[Any]) -> Iterator[tuple[str, str]]:
    """Every row of our schema but the places where content belongs: the message and the result."""
    tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'qstreamd'")
    texts = []
    for (table,) in tables:
        if table != "results":
            found_rows = await connection.fetch(f"SELECT to_jsonb(t) - 'message' FROM qstreamd.{table} t")  # noqa: S608
            texts += [(table, str(row[0])) for row in found_rows]
    return iter(texts)


@pytest.mark.timeout(120)
async def test_canaries_are_seen_by_their_owner_alone(redis_url: str, postgres_url: str) -> None:
    """Not in a log line (at debug), a metric, a dead letter, an error event, an attempt, the audit log or a key."""
    async with world(redis_url, postgres_url, **QUICK) as front:
        tasks = await drive(front)
        log, scraped = front.logs(), await metrics(front)
        left = await left_in_redis(front, tasks)
        stored = list(await rows(front.postgres))
        errors = [e for t in tasks for _, e in await front.redis.xrange(keys.events(t)) if e[b"type"] == b"error"]
        letters = sum([await front.redis.xlen(keys.queue_keys(q).dead) for q in DEFAULT_QUEUES])
        answer = await front.postgres.fetchval(
            "SELECT content FROM qstreamd.results WHERE task_id = 'ok-q_paid_stream'"
        )
    assert SAID in answer, "the canary sings where it may, or this test shows nothing"
    assert len(errors) >= 8 and letters >= 5 and len(stored) > 10 and log.count("attempt.ended") > 15
    assert found(log, SAID, UNBELIEVED, *DOORS) == []
    assert found(scraped, SAID, UNBELIEVED, *DOORS, *tasks) == []
    assert found(left, SAID, UNBELIEVED, *DOORS) == []
    assert [(table, text) for table, text in stored if found(text, SAID, UNBELIEVED, *DOORS)] == []
