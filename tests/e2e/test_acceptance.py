"""The owner's list, as it was given: what must work before anybody is let in. Real processes, all six queues.

Three modes (Auto, Paid, Free), each for stream, batch and vision, by queue id and order of events, through both doors;
parallelism; pause and resume; dead letters; the guard of a model reaches its top and lets go.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from daemon.config import QueueSettings
from daemon.config.types import SecretStr
from daemon.dev.fake_llm.shapes import Asked
from daemon.domain.clock import SystemClock
from daemon.domain.messages import canonical_sha256
from daemon.domain.queues import DEFAULT_QUEUES
from daemon.gateway.tokens import Tokens
from daemon.queues.reservations import Reservations, Reserved
from daemon.redis_client import keys
from daemon.redis_client.scripts import Scripts
from tests.e2e.gateway_world import SECRET, World, world
from tests.unit.blobs.pictures import PNG
from tests.waiting import WaitUntil

pytestmark = pytest.mark.timeout(120)
ADMIN = "admin-token-of-the-tests"
MODES = ("stream", "batch", "vision")
TIERS = ("auto", "paid", "free")
#: what a viewer sees of each kind: only a watched task has text on its way
EVENTS = {
    "stream": ["queued", "started", "token_batch", "done"],
    "batch": ["queued", "started", "done"],
    "vision": ["queued", "started", "done"],
}
SERVICES = """
[models.text]
provider = "openai"
name = "text"
input = ["text"]
concurrency = { paid = 2, free = 2 }

[models.eyes]
provider = "openai"
name = "eyes"
input = ["text", "image"]
concurrency = { paid = 50, free = 50 }

[models.wide]
provider = "openai"
name = "wide"
input = ["text"]
concurrency = { paid = 50, free = 50 }

[services.narrow]
title = "two at once"
prompt = "{{ say }}"
models = { paid = ["text"], free = ["text"] }

[services.write]
title = "text"
prompt = "{{ say }}"
models = { paid = ["wide"], free = ["wide"] }
attempts = 2

[services.look]
title = "pictures"
prompt = "{{ say }}"
models = { paid = ["eyes"], free = ["eyes"] }
"""


@pytest.fixture
async def front(redis_url: str, postgres_url: str, tmp_path: Path) -> AsyncIterator[World]:
    """Gateway, relay and one daemon on all six queues."""
    services = tmp_path / "services.toml"
    services.write_text(SERVICES, "utf-8")
    async with world(
        redis_url, postgres_url, services=services, models={"answer": said}, ADMIN_TOKEN=ADMIN,
        QSTREAMD_RETRY_BASE_S="0.1", QSTREAMD_RETRY_CAP_S="0.3",
    ) as found:  # fmt: skip
        yield found


def said(asked: Asked) -> str:
    """A short answer, or one of half a second."""
    return " word" * (100 if "slowly" in asked.prompt else 8)


def task_of(mode: str, name: str, service: str = "", say: str = "something") -> dict[str, Any]:
    """What a producer sends of a task of this mode, whatever its queue; each of a user of its own."""
    body: dict[str, Any] = {
        "taskId": name, "userId": f"user-{name}", "serviceId": service or ("look" if mode == "vision" else "write"),
        "variables": {"say": say}, "v": 1,
    }  # fmt: skip
    if mode == "vision":
        body["images"] = [{"data": base64.b64encode(PNG).decode(), "mimeType": "image/png"}]
    return body


async def order(front: World, queue: str, what: str, **fields: Any) -> None:
    """An operator's word, by the admin API."""
    url = f"{front.parts['daemon'].url}/api/admin/queues/{queue}/{what}"
    async with front.http.post(url, json=fields, headers={"Authorization": f"Bearer {ADMIN}"}) as answer:
        assert answer.status == 200, await answer.text()


async def signed(front: World, queue: str, body: dict[str, Any]) -> None:
    """QStash calls the relay with this task; it is accepted, or comes again."""
    to = f"{front.qstash.url}/v2/publish/{front.parts['relay'].url}/worker/execute"
    auth = {"Authorization": f"Bearer {front.qstash.token}"}
    async with front.http.post(to, json={**body, "queueId": queue}, headers=auth) as answer:
        assert answer.status in (200, 201), await answer.text()


def follower(task_id: str) -> dict[str, Any]:
    """A viewer of a task that was not submitted here: Next.js makes its token with the shared secret."""
    return {"taskId": task_id, "token": Tokens(SecretStr(SECRET), SystemClock(), 600.0).task_token(task_id)}


async def verify(front: World, task: dict[str, Any], mode: str, queue: str) -> None:
    """Queue id and order of events, as the viewer sees them and as the row says."""
    events = await front.events(task)
    assert events[0]["queueId"] == queue
    kinds = [e["type"] for e in events]
    assert [kind for at, kind in enumerate(kinds) if at == 0 or kinds[at - 1] != kind] == EVENTS[mode]
    assert [(e["attempt"], e["seq"]) for e in events] == [(0, 0), *((1, n) for n in range(1, len(events)))]
    state = await front.task(task["taskId"])
    assert (state["queueId"], state["state"], state["attempt"]) == (queue, "done", 1)


async def test_each_mode_of_each_kind_through_both_doors(front: World) -> None:
    """Paid, Free and Auto for stream, batch and vision: nine by signed calls, nine and three by the gateway."""
    await by_signed_calls(front)
    await by_the_gateway(front)
    for queue in DEFAULT_QUEUES:
        assert await front.redis.get(keys.queue_keys(queue).counter) in {b"0", None}


async def by_the_gateway(front: World) -> None:
    """Auto is paid as long as that queue has room, then free."""

    async def one(name: str, tier: str, mode: str, queue: str) -> None:
        task = await front.submit(**task_of(mode, f"{name}-{mode}"), tier=tier, mode=mode)
        assert task["queueId"] == queue
        await verify(front, task, mode, queue)

    nine = [(tier, mode, f"q_{'free' if tier == 'free' else 'paid'}_{mode}") for tier in TIERS for mode in MODES]
    await asyncio.gather(*(one(tier, tier, mode, queue) for tier, mode, queue in nine))
    for mode in MODES:
        await order(front, f"q_paid_{mode}", "set", maxSize=0)
    await asyncio.gather(*(one("auto-full", "auto", mode, f"q_free_{mode}") for mode in MODES))


async def by_signed_calls(front: World) -> None:
    """Auto is the producer's choice there: it takes a place where there is one, paid first."""
    places = Reservations(Scripts(front.redis), QueueSettings())

    async def auto(mode: str, body: dict[str, Any]) -> str:
        for tier, most in (("paid", 0 if mode == "batch" else 200), ("free", 200)):
            queue = f"q_{tier}_{mode}"
            sha256 = canonical_sha256({**body, "queueId": queue})
            if isinstance(await places.reserve(queue, body["taskId"], sha256, most), Reserved):
                return queue
        raise AssertionError("no queue has room")

    async def one(tier: str, mode: str) -> None:
        body = task_of(mode, f"signed-{tier}-{mode}")
        queue = await auto(mode, body) if tier == "auto" else f"q_{tier}_{mode}"
        assert tier != "auto" or queue == ("q_free_batch" if mode == "batch" else f"q_paid_{mode}")
        await signed(front, queue, body)
        await verify(front, follower(body["taskId"]), mode, queue)

    await asyncio.gather(*(one(tier, mode) for tier in TIERS for mode in MODES))


async def test_parallelism_pause_and_resume(front: World, wait_until: WaitUntil) -> None:
    """One slot: one call at a time; four slots: four. Paused: nothing starts, viewers read why; resumed: all end."""
    queue = "q_paid_stream"
    await order(front, queue, "set", parallelism=1)
    tasks = [await front.submit(**task_of("stream", f"p{n}", say="slowly"), tier="paid") for n in range(6)]
    await wait_until(lambda: len(front.models.calls) >= 1, description="the first call")
    await order(front, queue, "pause", reason="the owner tries it")

    async def told() -> bool:
        found = await front.redis.xrange(keys.events("p5"))
        return any(b"QUEUE_PAUSED" in fields[b"data"] for _, fields in found)

    await wait_until(told, description="the last in line to read why it waits")
    await front.events(tasks[0])  # what runs goes on
    began = len(front.models.calls)
    late = await front.submit(**task_of("stream", "late", say="slowly"), tier="paid")
    assert front.models.max_at_once("wide") == 1
    assert int(await front.redis.get(keys.queue_keys(queue).counter)) == 7 - began
    await order(front, queue, "set", parallelism=4)
    await order(front, queue, "resume")
    for task in (*tasks, late):
        assert (await front.events(task))[-1]["type"] == "done"
    assert front.models.max_at_once("wide") == 4
    assert len(front.models.calls) == 7


async def test_dead_letters_and_the_top_of_a_model(front: World, wait_until: WaitUntil) -> None:
    """After its last failure a task is a dead letter. Two at once for a model, the rest waits; then nothing is held."""
    front.models.plan("500", "500", model="wide")
    dead = await front.submit(**task_of("batch", "dead"), tier="free", mode="batch")
    events = await front.events(dead)
    assert [(e["attempt"], e["retryable"]) for e in events if e["type"] == "error"] == [(1, True), (2, False)]
    # The viewer is told first: in the order of the law the letter is written with the ack.
    [(_, letter)] = await wait_until(
        lambda: front.redis.xrange(keys.queue_keys("q_free_batch").dead), description="a dead letter"
    )
    assert (letter[b"taskId"], letter[b"code"], letter[b"attempts"]) == (b"dead", b"LLM_ERROR", b"2")
    assert (await front.task("dead"))["state"] == "failed"

    narrow = [task_of("stream", f"g{n}", "narrow", "slowly") for n in range(6)]
    tasks = await asyncio.gather(*(front.submit(**body, tier="paid") for body in narrow))
    seen = await asyncio.gather(*(front.events(task) for task in tasks))
    assert all(events[-1]["type"] == "done" for events in seen)
    assert front.models.max_at_once("text") == 2
    assert any(e.get("reason") == "GUARD_MODEL" for events in seen for e in events)

    async def let_go() -> bool:
        return not [key async for key in front.redis.scan_iter("{guard}:model:*")]

    await wait_until(let_go, description="no place of a model to be held")
