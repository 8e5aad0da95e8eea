"""A front end's whole part against real processes: submit, follow, read, cancel."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from daemon.domain.messages import content_sha256
from tests.e2e.gateway_world import KEY, World, world
from tests.integration.gateway.frames import all_events
from tests.waiting import WaitUntil


@pytest.fixture
async def front(redis_url: str, postgres_url: str) -> AsyncIterator[World]:
    async with world(redis_url, postgres_url) as found:
        yield found


def text_of(events: list[dict[str, object]]) -> str:
    attempt = max(int(str(e["attempt"])) for e in events)
    return "".join(
        str(e["delta"])
        for e in events
        if e["type"] == "token_batch" and e["attempt"] == attempt and e["channel"] == "text"
    )


async def test_a_submitted_task_is_followed_to_its_result(front: World) -> None:
    """Published to QStash, delivered, run, streamed; the text has the hash that `done` names, and so has the result."""
    task = await front.submit(taskId="t1")
    assert task["queueId"] == "q_paid_stream"
    assert task["sseUrl"] == "/api/tasks/t1/events"
    headers = {"Accept": "text/event-stream"}
    async with front.http.get(f"{front.url}{task['sseUrl']}?token={task['token']}", headers=headers) as answer:
        seen = await all_events(answer)
    assert (seen[0].event, seen[-1].event) == ("queued", "done")
    events = [f.data for f in seen]
    assert content_sha256(text_of(events)) == events[-1]["contentSha256"]
    result = await front.task("t1")
    assert (result["state"], result["attempt"], result["result"]) == ("done", 1, text_of(events))
    assert result["createdAt"] <= result["startedAt"] <= result["finishedAt"]
    assert await front.events(task) == [{"id": f.id, **f.data} for f in seen]
    [call] = front.qstash.delivered
    assert call.url.endswith("/api/worker/stream/resume-review")


async def test_a_batch_task_of_a_free_user(front: World) -> None:
    """No deltas; `mode` and `tier` choose the queue."""
    task = await front.submit(mode="batch", tier="free")
    assert task["queueId"] == "q_free_batch"
    events = await front.events(task)
    assert [e["type"] for e in events] == ["queued", "started", "done"]


async def test_a_running_call_is_cancelled_within_a_second(front: World) -> None:
    """Streamed and batch: one terminal event, the model hung up on, places and entries given back."""
    front.models.plan("stall-first", "stall-first")
    for mode in ("stream", "batch"):
        task = await front.submit(mode=mode, variables={"resume": "x", "role": mode})
        await front.started(task["taskId"])
        began = time.monotonic()
        status, answer = await front.call("POST", f"/api/tasks/{task['taskId']}/cancel", key=task["token"])
        assert time.monotonic() - began < 3  # a second on a machine of its own
        assert (status, answer) == (200, {"taskId": task["taskId"], "state": "cancelled"})
        *_, last = await front.events(task)
        assert (last["type"], last["code"], last["retryable"]) == ("error", "CANCELLED", False)
        assert (await front.task(task["taskId"]))["state"] == "cancelled"


async def test_nothing_is_left_after_cancels(front: World, wait_until: WaitUntil) -> None:
    """Guards, places, entries, dead letters: none; each stream has exactly one terminal event."""
    front.models.plan(*["stall-first"] * 10)
    tasks = await asyncio.gather(*(front.submit(userId=f"u{n}") for n in range(6)))
    for task in tasks:
        await front.started(task["taskId"])
    ends = [front.call("POST", f"/api/tasks/{t['taskId']}/cancel") for t in tasks for _ in range(3)]
    assert {status for status, _ in await asyncio.gather(*ends)} <= {200, 202}
    for task in tasks:
        assert [e["type"] for e in await front.events(task)].count("error") == 1

    async def clean() -> bool:
        r = front.redis
        left = [await r.xlen(f"{{bp:queue:q_paid_stream}}:{s}") for s in ("tasks", "ready", "dead")]
        limiter = [key async for key in r.scan_iter("{guard}:user:*")]
        return not any(left) and not limiter and await r.get("bp:queue:q_paid_stream") == b"0"

    await wait_until(clean, description="everything is given back")


async def test_no_log_holds_a_token_or_a_key(front: World) -> None:
    """Neither the address of a stream nor a refused call; nor what the task says."""
    task = await front.submit(taskId="t1", variables={"resume": "canary-4711", "role": "x"})
    await front.events(task)
    headers = {"Accept": "text/event-stream"}
    for token in (task["token"], task["token"] + "x", "eyJ.wrong.token"):
        async with front.http.get(f"{front.url}/api/tasks/other/events?token={token}", headers=headers) as answer:
            assert answer.status in {401, 404}
    assert (await front.call("POST", "/api/tasks", key="wrong-key-4712", body={}))[0] == 401
    logs = front.logs()
    for secret in (task["token"], task["token"][-20:], KEY, "wrong-key-4712", "canary-4711", "eyJ.wrong"):
        assert secret not in logs


async def test_a_gateway_that_stops_lets_its_viewers_go(front: World) -> None:
    """SIGTERM: every viewer is told when to come back, within a second, and the process ends with 0."""
    front.models.plan("stall-first")
    task = await front.submit()
    await front.started(task["taskId"])
    headers = {"Accept": "text/event-stream", "Authorization": f"Bearer {task['token']}"}
    async with front.http.get(f"{front.url}{task['sseUrl']}", headers=headers) as answer:
        await answer.content.readuntil(b": ok\n\n")
        began = time.monotonic()
        stopping = asyncio.create_task(asyncio.to_thread(front.parts["gateway"].stop))
        rest = (await answer.content.read()).decode()
        assert time.monotonic() - began < 3  # a second on a machine of its own
        assert "\nretry: " in rest
        await stopping
    assert time.monotonic() - began < 10
