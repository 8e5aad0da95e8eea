"""What is told of a task, and its end when its stream lost it: the ledger first, then Redis, then nobody."""

from __future__ import annotations

import asyncio
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec
import pytest

from daemon.config import QueueSettings, Settings
from daemon.domain import events, messages
from daemon.domain.clock import SystemClock
from daemon.domain.errors import Code
from daemon.domain.events import Stage, Usage
from daemon.domain.messages import TaskMessage, WorkEntry, identity_of
from daemon.domain.states import State
from daemon.gateway import terminal_recovery
from daemon.ports import Claimed, Delivery, ResultDraft, Transition
from daemon.queues.admission import Accepted, Admission
from daemon.redis_client import keys
from daemon.redis_client.scripts import Scripts
from daemon.store.pool import Pool
from daemon.store.tasks import PostgresLedger
from tests.integration.gateway.conftest import KEY, Rig, identity, running
from tests.integration.gateway.frames import all_events, frames
from tests.integration.gateway.test_follow import text
from tests.waiting import WaitUntil

NOTHING = {
    "queueId": None, "state": "queued", "attempt": 0, "createdAt": None, "startedAt": None, "finishedAt": None,
    "result": None, "finishReason": None, "usage": None, "error": None,
    "waiting": {"reason": None, "position": None, "etaSeconds": None},
}  # fmt: skip


@pytest.fixture
def ledger(pool: Pool) -> PostgresLedger:
    return PostgresLedger(pool)


async def claimed(ledger: PostgresLedger, task_id: str = "t1") -> int:
    """A running attempt, as a daemon has it."""
    message = TaskMessage(task_id=task_id, queue_id="q_paid_stream", service_id="resume-review", user_id="u1")
    entry = WorkEntry(message=message, sha256="a" * 64, accepted_at=1_700_000_000_000)
    claim = await ledger.claim(Delivery("q_paid_stream", "tasks", "1-1", entry), "d1", "m1", 20)
    assert isinstance(claim, Claimed)
    return claim.attempt


async def finished(ledger: PostgresLedger, task_id: str = "t1") -> None:
    attempt = await claimed(ledger, task_id)
    usage = Usage(3, 0, 2, 0)
    await ledger.finish(
        task_id, attempt, "d1", ResultDraft("ab", None, messages.content_sha256("ab"), "m1", usage, None, "length")
    )


async def task(rig: Rig, task_id: str = "t1", *, key: bool = True) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {KEY}"} if key else rig.auth(task_id)
    async with rig.http.get(f"{rig.url}/api/tasks/{task_id}", headers=headers) as answer:
        return answer.status, await answer.json()


async def test_what_nobody_knows_waits_for_a_token_and_is_404_for_a_key(rig: Rig) -> None:
    assert await task(rig, key=False) == (200, {"taskId": "t1", **NOTHING})
    assert (await task(rig))[0] == 404


async def test_a_task_that_only_redis_knows(rig: Rig) -> None:
    """Queued, with its place; or ended before anything claimed it."""
    await rig.append("t1", [], attempt=-1)
    await rig.redis.zadd(keys.queue_keys("q_paid_stream").waiting, {"t0": 1, "t1": 2})
    status, told = await task(rig)
    assert (status, told["state"], told["queueId"], told["attempt"]) == (200, "queued", "q_paid_stream", 0)
    assert told["waiting"] == {"reason": None, "position": 2, "etaSeconds": None}
    assert told["createdAt"] > 1_700_000_000
    failed = events.error(Stage.DELIVER, Code.DELIVERY_FAILED, "x", retryable=False)
    await rig.append("t1", [failed], attempt=-1)
    _, told = await task(rig)
    assert (told["state"], told["error"]["code"], told["waiting"]) == ("failed", "DELIVERY_FAILED", None)


async def test_a_task_that_waits_says_why(rig: Rig, ledger: PostgresLedger) -> None:
    """Reason and time from where it is parked; a paused queue is the reason for all."""
    attempt = await claimed(ledger)
    await ledger.transition("t1", attempt, "d1", Transition(State.RETRYING, Code.RATE_LIMITED, "deferred"))
    names = keys.queue_keys("q_paid_stream")
    seconds, _ = await rig.redis.time()
    await rig.redis.zadd(names.retry, {"t1": (seconds + 30) * 1000})
    await rig.redis.hset(names.held, "t1", '{"parked":"RATE_LIMITED"}')
    _, told = await task(rig)
    assert (told["state"], told["attempt"], told["waiting"]["reason"]) == ("retrying", 1, "RATE_LIMITED")
    assert 25 < told["waiting"]["etaSeconds"] <= 30
    await rig.redis.hset(names.control, "paused", 1)
    assert (await task(rig))[1]["waiting"]["reason"] == "QUEUE_PAUSED"


async def test_a_finished_task(rig: Rig, ledger: PostgresLedger) -> None:
    await finished(ledger)
    _, told = await task(rig, key=False)
    assert (told["state"], told["result"], told["error"], told["waiting"]) == ("done", "ab", None, None)
    assert told["finishReason"] == "length"
    assert told["usage"] == {
        "inputTokens": 3, "cachedInputTokens": 0, "outputTokens": 2, "reasoningTokens": 0, "costUsd": None
    }  # fmt: skip
    assert told["createdAt"] == 1_700_000_000
    assert told["startedAt"] <= told["finishedAt"]


async def test_a_failed_task(rig: Rig, ledger: PostgresLedger) -> None:
    attempt = await claimed(ledger)
    await ledger.transition("t1", attempt, "d1", Transition(State.FAILED, Code.LLM_REFUSED, "failed"))
    _, told = await task(rig)
    assert (told["state"], told["result"]) == ("failed", None)
    assert told["error"] == {"code": "LLM_REFUSED", "message": "The model declined to answer this."}


async def test_a_stream_that_expired_ends_with_what_the_ledger_says(rig: Rig, ledger: PostgresLedger) -> None:
    """One event, made from the row: no id, so that it moves nobody's cursor."""
    await finished(ledger)
    async with rig.follow("t1") as answer:
        [done] = await all_events(answer)
    assert (done.id, done.event, done.data["result"]) == (None, "done", "ab")
    assert done.data["contentSha256"] == messages.content_sha256("ab")
    assert (done.data["attempt"], done.data["seq"], done.data["v"]) == (1, 2**31 - 1, 1)
    [polled] = (await rig.poll("t1", after="5-0"))["events"]
    assert polled == done.data


async def test_a_terminal_event_that_was_lost_ends_the_viewer(
    rig: Rig, ledger: PostgresLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row is done, the event never came: the ledger is asked about what is silent."""
    await rig.append("t1", [events.started("m1"), text("a")])
    async with rig.follow("t1") as answer:
        coming = frames(answer)
        for _ in range(4):
            await asyncio.wait_for(anext(coming), 1)
        await finished(ledger)
        monkeypatch.setattr(terminal_recovery, "SILENT_S", 0.1)
        monkeypatch.setattr(terminal_recovery, "LOOK_S", 0.1)
        rest = [f async for f in coming if f.event]
    assert [(f.id, f.event) for f in rest] == [(None, "done")]


CANCEL_QUEUE = keys.queue_keys("q_paid_stream")


async def cancel(rig: Rig, task_id: str = "t1", *, key: bool = True) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {KEY}"} if key else rig.auth(task_id)
    async with rig.http.post(f"{rig.url}/api/tasks/{task_id}/cancel", headers=headers) as answer:
        return answer.status, await answer.json()


async def submitted(rig: Rig, task_id: str = "t1") -> None:
    body = {"taskId": task_id, "serviceId": "resume-review", "userId": "u1", "tier": "paid", "variables": {}}
    headers = {"Authorization": f"Bearer {KEY}"}
    async with rig.http.post(f"{rig.url}/api/tasks", json=body, headers=headers) as answer:
        assert answer.status == 202, await answer.text()


async def left(rig: Rig) -> list[int]:
    """Entries, parked, held, places, counter."""
    q, r = CANCEL_QUEUE, rig.redis
    sizes = [await r.xlen(q.tasks), await r.zcard(q.retry), await r.hlen(q.held), await r.zcard(q.waiting)]
    return [*sizes, int(await r.get(q.counter) or 0)]


async def codes(rig: Rig, task_id: str = "t1") -> list[str | None]:
    return [e.get("code") for e in (await rig.poll(task_id))["events"]]


async def test_a_queued_task_is_cancelled_where_it_lies(rig: Rig) -> None:
    """Row, event, and out of the queue: nothing is left, and again changes nothing."""
    await submitted(rig)
    assert await cancel(rig, key=False) == (200, {"taskId": "t1", "state": "cancelled"})
    assert await left(rig) == [0, 0, 0, 0, 0]
    assert await codes(rig) == [None, "CANCELLED"]
    assert (await task(rig))[1]["state"] == "cancelled"
    assert await cancel(rig) == (200, {"taskId": "t1", "state": "cancelled"})
    assert await codes(rig) == [None, "CANCELLED"]


async def test_a_row_that_a_cancel_makes_has_the_tier_of_its_queue(
    settings: Settings, ledger: PostgresLedger, tmp_path: Path
) -> None:
    """Of a queue of the services file too, also of one that came with a reload, when the message names no tier."""
    services = tmp_path / "services.toml"
    shipped = (files("daemon") / "services_default/services.toml").read_text("utf-8")
    table = '\n[queues.{}]\ntier = "{}"\nmode = "batch"\n'
    services.write_text(shipped + table.format("q_long", "free"), "utf-8")
    runtime = settings.runtime.model_copy(update={"services_file": str(services)})
    async with running(settings.model_copy(update={"runtime": runtime})) as rig:
        services.write_text(shipped + table.format("q_long", "free") + table.format("q_new", "paid"), "utf-8")
        rig.process.reload()
        door = Admission(Scripts(rig.redis), QueueSettings(), SystemClock())
        for queue in ("q_long", "q_new", "q_free_batch"):
            task = TaskMessage(task_id=f"of-{queue}", queue_id=queue, service_id="s", user_id="u1")
            assert isinstance(await door.accept(task, "a" * 64, 10, {}), Accepted)
            await rig.events.queued(identity_of(task))
            assert (await cancel(rig, task.task_id, key=False))[1]["state"] == "cancelled"
    rows = await ledger._pool.fetch("SELECT queue_id, tier FROM qstreamd.tasks")
    assert {row["queue_id"]: row["tier"] for row in rows} == {"q_long": "free", "q_new": "paid", "q_free_batch": "free"}


async def test_a_parked_task_is_cancelled_where_it_lies(rig: Rig, ledger: PostgresLedger) -> None:
    """Before its first start (no row) and between two attempts (a row that waits)."""
    await submitted(rig)
    [(entry_id, fields)] = await rig.redis.xrange(CANCEL_QUEUE.tasks)
    await rig.redis.xdel(CANCEL_QUEUE.tasks, entry_id)
    await rig.redis.zadd(CANCEL_QUEUE.retry, {"t1": 9e12})
    await rig.redis.hset(CANCEL_QUEUE.held, "t1", fields[b"task"])
    assert (await cancel(rig))[1]["state"] == "cancelled"
    assert await left(rig) == [0, 0, 0, 0, 0]
    attempt = await claimed(ledger, "t2")
    await rig.append("t2", [events.started("m1")])
    await ledger.transition("t2", attempt, "d1", Transition(State.RETRYING, Code.LLM_TIMEOUT, "failed"))
    await rig.redis.zadd(CANCEL_QUEUE.retry, {"t2": 9e12})
    await rig.redis.hset(CANCEL_QUEUE.held, "t2", fields[b"task"])
    assert (await cancel(rig, "t2"))[1]["state"] == "cancelled"
    assert await left(rig) == [0, 0, 0, 0, 0]
    assert await codes(rig, "t2") == [None, None, "CANCELLED"]


async def test_a_promised_task_is_cancelled_before_it_comes(rig: Rig) -> None:
    """Its message is a duplicate when QStash delivers it."""
    await rig.append("t1", [], attempt=-1)
    await rig.redis.set(keys.reservation("q_paid_stream", "t1"), "b" * 64)
    await rig.redis.zadd(CANCEL_QUEUE.waiting, {"t1": 1})
    await rig.redis.incr(CANCEL_QUEUE.counter)
    assert (await cancel(rig))[1]["state"] == "cancelled"
    assert await left(rig) == [0, 0, 0, 0, 0]
    assert await rig.redis.get(keys.dedup("q_paid_stream", "t1")) == b"0-0:" + b"b" * 64
    assert await codes(rig) == [None, "CANCELLED"]


async def test_a_running_task_is_left_to_its_daemon(rig: Rig, ledger: PostgresLedger) -> None:
    """It is told at once, by notice and by mark; the answer says that it is on its way."""
    await claimed(ledger)
    await rig.append("t1", [events.started("m1")])
    status, told = await cancel(rig)
    assert (status, told["state"]) == (202, "running")
    [(_, notice)] = await rig.redis.xrange(keys.CANCELS)
    assert notice == {b"taskId": b"t1"}
    assert await rig.redis.hget(keys.events_state("t1"), "cancel") == b"1"
    assert 0 < await rig.redis.ttl(keys.CANCELS) <= 86400


async def test_an_entry_under_way_is_left_to_its_reader(rig: Rig, ledger: PostgresLedger) -> None:
    """Pending at a daemon that has not claimed it: the row says cancelled, and the claim will find that."""
    await submitted(rig)
    await rig.redis.xgroup_create(CANCEL_QUEUE.tasks, keys.GROUP, id="0")
    await rig.redis.xreadgroup(keys.GROUP, "d1", {CANCEL_QUEUE.tasks: ">"})
    assert (await cancel(rig))[1]["state"] == "cancelled"
    assert await left(rig) == [1, 0, 0, 1, 1]


async def test_a_finished_task_stays_what_it_is(rig: Rig, ledger: PostgresLedger) -> None:
    await finished(ledger)
    assert await cancel(rig) == (200, {"taskId": "t1", "state": "done"})


async def test_a_task_that_nobody_knows_is_marked_for_its_viewer(rig: Rig) -> None:
    """Not for a server, which knows what it submitted."""
    assert (await cancel(rig, key=False))[1] == {"taskId": "t1", "state": "queued"}
    assert await rig.redis.hget(keys.events_state("t1"), "cancel") == b"1"
    assert (await cancel(rig, "t2"))[0] == 404


async def test_many_cancels_make_one_end(rig: Rig, wait_until: WaitUntil) -> None:
    await submitted(rig)
    answers = await asyncio.gather(*(cancel(rig) for _ in range(20)))
    assert {told["state"] for _, told in answers} == {"cancelled"}
    assert await codes(rig) == [None, "CANCELLED"]
    assert await left(rig) == [0, 0, 0, 0, 0]


ANSWER = "an answer" + " of more than four kilobytes" * 200
ORIGIN = messages.Origin("tasks/1-1", "resume-review", "u1", "paid", "a" * 64)


async def told_done(rig: Rig, *, whole: bool = True, origin: bool = True) -> str:
    """The events of a task that ended with `done`, as a daemon leaves them, and no row. The id of the last one."""
    task, noted = identity("t1"), msgspec.json.encode(ORIGIN) if origin else b""
    words = [text(ANSWER[at : at + 1000]) for at in range(0, len(ANSWER), 1000)]
    usage, sha256 = Usage(3, 0, 2, 0), messages.content_sha256(ANSWER)
    end = events.done("t1", usage=usage, model_id="m1", content_sha256=sha256, result=ANSWER, finish_reason="stop")
    for drafts in ([events.started("m1")], words if whole else words[1:], [end]):
        await Scripts(rig.redis).run([rig.events.append_call(task, 2, drafts, origin=noted)])
    return (await rig.events.read("t1"))[-1].id


async def test_a_row_that_postgres_lost_is_written_back(rig: Rig, pool: Pool) -> None:
    """`GET` finds `done` in the events and no row: the result comes from the text, and stays in Postgres."""
    await told_done(rig)
    for _ in range(2):  # from the events, then from the row
        status, told = await task(rig)
        assert (status, told["state"], told["attempt"], told["queueId"]) == (200, "done", 2, "q_paid_stream")
        assert (told["result"], told["finishReason"], told["error"]) == (ANSWER, "stop", None)
        assert told["usage"]["outputTokens"] == 2 and told["finishedAt"] >= told["createdAt"]
        await rig.redis.delete(keys.events("t1"), keys.events_state("t1"))
    [row] = await pool.fetch("SELECT * FROM qstreamd.tasks JOIN qstreamd.results USING (task_id)")
    assert (row["user_id"], row["service_id"], row["tier"], row["body_sha256"]) == (
        "u1",
        "resume-review",
        "paid",
        "a" * 64,
    )
    [attempt] = await pool.fetch("SELECT attempt, outcome FROM qstreamd.attempts")
    assert (attempt["attempt"], attempt["outcome"]) == (2, "done")


@pytest.mark.parametrize("origin", [True, False])
async def test_a_result_that_is_lost_is_said_to_be(rig: Rig, pool: Pool, *, origin: bool) -> None:
    """A part of the text is no result. Without a note of whose task it is there is no row either (a former release)."""
    await told_done(rig, whole=not origin, origin=origin)
    for _ in range(2):
        status, told = await task(rig)
        assert (status, told["state"], told["result"], told["error"]["code"]) == (200, "done", None, "RESULT_LOST")
    assert len(await pool.fetch("SELECT FROM qstreamd.tasks")) == origin
    assert await pool.fetch("SELECT FROM qstreamd.results") == []


async def test_following_writes_back_too(
    rig: Rig, pool: Pool, wait_until: WaitUntil, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Viewers get the events as they are, and whoever reads the result afterwards finds it; a row is left as it is."""
    monkeypatch.setattr(terminal_recovery, "LOOK_S", 0.1)
    last = await told_done(rig)
    async with rig.follow("t1") as answer:
        assert (await all_events(answer))[-1].event == "done"

    async def written() -> bool:
        return bool(await pool.fetch("SELECT FROM qstreamd.results WHERE content = $1", ANSWER))

    await wait_until(written, description="the row is written back")
    async with rig.follow("t1", after=last) as answer:
        assert answer.status == 204
    await wait_until(lambda: not rig.fan_out.done, description="its row is looked for once more")
    assert await written()
