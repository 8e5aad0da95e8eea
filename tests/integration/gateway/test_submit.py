"""Submitting over real servers and a QStash stand-in: places, ids, ways through, and what each mishap leaves."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import asyncpg
import pytest

from daemon.config import QstashSettings, RelaySettings, Settings
from daemon.config.types import SecretStr
from daemon.dev.fake_qstash import FakeQstash
from daemon.redis_client import keys
from tests.integration.gateway.conftest import KEY, Open, Rig, running
from tests.leaks import Leaks
from tests.waiting import WaitUntil

BODY: dict[str, Any] = {"taskId": "t1", "serviceId": "resume-review", "userId": "u1", "tier": "paid", "variables": {}}
PAID, FREE = keys.queue_keys("q_paid_stream"), keys.queue_keys("q_free_stream")


async def submit(rig: Rig, *, key: str = KEY, raw: bytes | None = None, **fields: Any) -> tuple[int, dict[str, Any]]:
    body = {k: v for k, v in {**BODY, **fields}.items() if v is not None}
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    data = io.BytesIO(json.dumps(body).encode() if raw is None else raw)
    async with rig.http.post(f"{rig.url}/api/tasks", data=data, headers=headers) as answer:
        found = await answer.json()
        if "retryAfter" in found:
            assert answer.headers["Retry-After"] == str(found["retryAfter"])
        return answer.status, found


@asynccontextmanager
async def published(settings: Settings, qstash: FakeQstash, relay: str, **more: Any) -> AsyncIterator[Rig]:
    """A gateway that publishes to `qstash`, which delivers to `relay`."""
    to = QstashSettings(url=qstash.url, token=SecretStr(qstash.token))
    gateway = settings.gateway.model_copy(update={"direct_submit": False, **more})
    changed = settings.model_copy(update={"qstash": to, "relay": RelaySettings(base_url=relay), "gateway": gateway})
    async with running(changed) as rig:
        yield rig


@pytest.fixture
async def writer() -> AsyncIterator[tuple[str, list[bytes]]]:
    """A relay that swallows: its address, and the bodies it got."""
    bodies: list[bytes] = []

    async def take(request: aiohttp.web.Request) -> aiohttp.web.Response:
        bodies.append(await request.read())
        return aiohttp.web.json_response({"status": "queued"})

    app = aiohttp.web.Application()
    app.router.add_post("/{path:.*}", take)
    runner = aiohttp.web.AppRunner(app)
    await runner.setup()
    await aiohttp.web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}", bodies
    await runner.cleanup()


async def counts(rig: Rig) -> tuple[int, int, int]:
    """Counter, places and entries of the paid queue."""
    counter = int(await rig.redis.get(PAID.counter) or 0)
    return counter, await rig.redis.zcard(PAID.waiting), await rig.redis.xlen(PAID.tasks)


async def test_straight_to_the_stream(rig: Rig, no_key_left: Leaks) -> None:
    """Accepted in one step; the answer says where to follow, and its token opens that."""
    no_key_left.allow(PAID.tasks, PAID.waiting, PAID.counter)
    status, answer = await submit(rig)
    assert (status, answer["taskId"], answer["queueId"]) == (202, "t1", "q_paid_stream")
    assert answer["sseUrl"] == "/api/tasks/t1/events"
    assert rig.tokens.task_of(answer["token"]) == "t1"
    assert await counts(rig) == (1, 1, 1)
    events = (await rig.poll("t1"))["events"]
    assert [(e["type"], e["queueId"], e["position"]) for e in events] == [("queued", "q_paid_stream", 1)]


async def test_half_an_emoji_is_no_reason_to_refuse(rig: Rig, no_key_left: Leaks) -> None:
    """As `JSON.stringify(text.slice(0, n))` writes it; the same text with U+FFFD is the same task."""
    no_key_left.allow(PAID.tasks, PAID.waiting, PAID.counter)
    assert (await submit(rig, variables={"q": "cut \ud83d"}))[0] == 202
    assert (await submit(rig, variables={"q": "cut \ufffd"}))[0] == 202
    assert await counts(rig) == (1, 1, 1)
    [(_, fields)] = await rig.redis.xrange(PAID.tasks)
    assert json.loads(fields[b"task"])["message"]["variables"] == {"q": "cut \ufffd"}


async def test_through_qstash(settings: Settings, writer: tuple[str, list[bytes]]) -> None:
    """A place is promised, `queued` written, the message published with its id and its failure callback."""
    async with FakeQstash() as qstash, published(settings, qstash, writer[0]) as rig:
        status, answer = await submit(rig, retries=2)
        assert status == 202
        assert await counts(rig) == (1, 1, 0)
        assert [e["type"] for e in (await rig.poll("t1"))["events"]] == ["queued"]
        await qstash.settled()
        [delivery] = qstash.delivered
        assert delivery.url == f"{writer[0]}/api/worker/stream/resume-review"
        assert json.loads(writer[1][0]) == {**BODY, "v": 1, "queueId": answer["queueId"]}
        assert await rig.redis.pttl(keys.reservation("q_paid_stream", "t1")) > 800_000


async def test_the_same_call_again_is_the_same_task(rig: Rig) -> None:
    """Also fifty at once: one entry, one place, every answer a 202."""
    answers = await asyncio.gather(*(submit(rig) for _ in range(50)))
    assert {status for status, _ in answers} == {202}
    assert await counts(rig) == (1, 1, 1)


async def test_the_same_promise_again(settings: Settings, writer: tuple[str, list[bytes]]) -> None:
    """Before the message has come: one place, one delivery; another body is refused."""
    async with FakeQstash() as qstash, published(settings, qstash, writer[0]) as rig:
        answers = await asyncio.gather(*(submit(rig) for _ in range(10)))
        assert {status for status, _ in answers} == {202}
        await qstash.settled()
        assert (await counts(rig), len(writer[1])) == ((1, 1, 0), 1)
        assert (await submit(rig, variables={"x": 1}))[0] == 422
        assert (await submit(rig, requestId="another"))[0] == 202  # no part of a task's identity


async def test_the_same_id_with_another_body(rig: Rig) -> None:
    assert (await submit(rig))[0] == 202
    status, answer = await submit(rig, variables={"x": 1})
    assert (status, answer["code"]) == (422, "INVALID_PAYLOAD")
    assert await counts(rig) == (1, 1, 1)


@pytest.mark.parametrize("direct", [True, False])
async def test_a_full_queue(settings: Settings, writer: tuple[str, list[bytes]], *, direct: bool) -> None:
    """429 with the seconds to wait; nothing is kept. The size in the control hash holds."""
    async with FakeQstash() as qstash, running(settings) if direct else published(settings, qstash, writer[0]) as rig:
        await rig.redis.hset(PAID.control, "maxSize", 2)
        assert [(await submit(rig, taskId=f"t{n}"))[0] for n in range(3)] == [202, 202, 429]
        status, answer = await submit(rig, taskId="t9")
        assert (status, answer["code"]) == (429, "QUEUE_FULL")
        assert answer["retryAfter"] >= 20
        assert (await counts(rig))[:2] == (2, 2)
        assert not await rig.redis.exists(keys.events("t9"), keys.reservation("q_paid_stream", "t9"))


async def test_auto_takes_the_paid_queue_while_it_has_room(rig: Rig) -> None:
    """Then the free one; a repeated call goes where the first one went."""
    await rig.redis.hset(PAID.control, "maxSize", 1)
    await rig.redis.hset(FREE.control, "maxSize", 1)
    taken = [(await submit(rig, taskId=f"t{n}", tier="auto")) for n in range(3)]
    assert [(s, a.get("queueId")) for s, a in taken] == [(202, "q_paid_stream"), (202, "q_free_stream"), (429, None)]
    await rig.redis.hset(PAID.control, "maxSize", 9)
    status, again = await submit(rig, taskId="t1", tier="auto")
    assert (status, again["queueId"]) == (202, "q_free_stream")
    assert (await counts(rig))[0] == 1


async def test_a_promise_that_nobody_keeps_expires(settings: Settings, writer: tuple[str, list[bytes]]) -> None:
    """Whatever crashed in between: after its time the place is given back, by the sweep or to who needs it now."""
    brief = settings.model_copy(update={"queues": settings.queues.model_copy(update={"promise_ttl_s": 0.2})})
    async with FakeQstash(speed=0) as qstash, published(brief, qstash, writer[0]) as rig:
        await rig.redis.hset(PAID.control, "maxSize", 1)
        assert (await submit(rig, delay=None))[0] == 202
        await asyncio.sleep(0.25)
        assert (await submit(rig, taskId="t2"))[0] == 202
        assert await rig.redis.zrange(PAID.waiting, 0, -1) == [b"t2"]
        await asyncio.sleep(0.4)
        assert await counts(rig) == (0, 0, 0)


async def test_a_delayed_task_takes_its_place_at_delivery(settings: Settings, writer: tuple[str, list[bytes]]) -> None:
    """Its id is remembered until then, and its token lives longer."""
    async with FakeQstash(speed=0) as qstash, published(settings, qstash, writer[0]) as rig:
        status, answer = await submit(rig, delay=86400)
        assert (status, await counts(rig)) == (202, (0, 0, 0))
        assert 86400_000 < await rig.redis.pttl(keys.reservation("q_paid_stream", "t1")) < 90_000_000
        assert (await submit(rig, delay=86400, variables={"x": 1}))[0] == 422
        assert rig.tokens.task_of(answer["token"]) == "t1"
        await qstash.advance(86401)
        await qstash.settled()
        assert len(writer[1]) == 1


async def test_without_qstash_nothing_can_be_delayed(rig: Rig) -> None:
    status, answer = await submit(rig, delay=5)
    assert (status, "QStash" in answer["message"]) == (400, True)


async def test_a_qstash_that_refuses_leaves_nothing(settings: Settings, writer: tuple[str, list[bytes]]) -> None:
    """503 with the seconds to wait; the place is back and the id is free for another body."""
    async with FakeQstash() as qstash:
        other = settings.model_copy(update={"queues": settings.queues})
        async with published(other, qstash, writer[0]) as rig:
            qstash.token = "rolled"  # from now on ours is wrong
            status, answer = await submit(rig)
            assert (status, answer["code"]) == (503, "WORKER_OVERLOADED")
            assert await counts(rig) == (0, 0, 0)
            assert not await rig.redis.exists(keys.reservation("q_paid_stream", "t1"))


async def test_a_qstash_that_is_away_leaves_nothing(settings: Settings, writer: tuple[str, list[bytes]]) -> None:
    """Nobody listens: tried three times, then refused."""
    async with FakeQstash() as qstash, published(settings, qstash, writer[0]) as rig:
        await qstash.stop()
        assert (await submit(rig))[0] == 503
        assert await counts(rig) == (0, 0, 0)


async def test_a_caller_that_hangs_up_leaves_a_whole_task(rig: Rig, wait_until: WaitUntil) -> None:
    """What was begun is finished: a place is never taken for a message that nobody sends."""
    async with asyncio.TaskGroup() as group:
        for n in range(20):
            call = group.create_task(submit(rig, taskId=f"t{n}"))
            await asyncio.sleep(0.001 * (n % 5))
            call.cancel()

    async def whole() -> bool:
        counter, places, entries = await counts(rig)
        return counter == places == entries

    await wait_until(whole, description="every place has its entry")


async def test_every_submit_is_in_the_audit_log(rig: Rig, settings: Settings, wait_until: WaitUntil) -> None:
    """Who, from where, what became of it; ids and nothing else."""
    await submit(rig, variables={"resume": "canary-4711"})
    await submit(rig, variables={"resume": "canary-4711"})
    assert settings.postgres.url is not None
    connection = await asyncpg.connect(settings.postgres.url.get_secret_value())

    async def rows() -> list[Any]:
        found = await connection.fetch("SELECT * FROM qstreamd.audit_log ORDER BY id")
        return found if len(found) == 2 else []

    first, second = await wait_until(rows, description="two rows")
    await connection.close()
    assert (first["actor"], first["role"], first["ip"]) == ("bff", "api_key", "127.0.0.1")
    assert (first["action"], first["target"], first["result"]) == ("task.submit", "t1", "queued")
    assert second["result"] == "duplicate"
    assert json.loads(first["params"]) == {"queueId": "q_paid_stream", "serviceId": "resume-review", "userId": "u1"}
    assert "canary" not in repr([*first.values(), *second.values()])


async def test_who_may_not(open_rig: Open) -> None:
    """401 without a key of ours, 429 beyond the key's rate; 400 names the mistake, 413 is too much."""
    async with open_rig(submits_per_minute=60) as rig:
        assert (await submit(rig, key="wrong"))[0] == 401
        assert (await submit(rig, key=rig.tokens.task_token("t1")))[0] == 401
        status, answer = await submit(rig, serviceId="resume-reviews")
        assert (status, answer["code"], "resume-review" in answer["message"]) == (400, "UNKNOWN_SERVICE", True)
        assert (await submit(rig, raw=b"{"))[0] == 400
        assert (await submit(rig, raw=b" " * (1024 * 1024 + 1)))[0] == 413
        statuses = [(await submit(rig))[0] for _ in range(10)]
        assert statuses[-1] == 429 and set(statuses) == {202, 429}
