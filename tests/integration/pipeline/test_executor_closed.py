"""Tasks whose models are closed, and what else keeps a task waiting or from being held at all."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from daemon.config import GuardSettings, RetrySettings
from daemon.domain.errors import Code, ModelUnavailable, StoreAway, TaskError
from daemon.domain.events import Reason
from daemon.domain.queues import Tier
from daemon.pipeline.in_flight import InFlight
from daemon.pipeline.outcome import Abandoned, CompletedAgain, Done, Failed, Snoozed
from daemon.redis_client import keys
from daemon.store.pool import StatementRefused
from tests.fakes import ANSWER, USAGE, Step, text
from tests.integration.pipeline.conftest import BOOK, NAMES, QUEUE, Bench, Process, message
from tests.waiting import wait_until

pytestmark = pytest.mark.usefixtures("no_key_left")
CLOSED: tuple[Step, ...] = (ModelUnavailable("RATE_LIMITED", retry_after_s=30),)


async def arrive(bench: Bench, process: Process, **fields: Any) -> InFlight:
    """One accepted and read task."""
    await bench.accept(message(**fields))
    return await process.fetch()


async def asked(bench: Bench, task_id: str = "t1") -> list[str]:
    """Which models were called for it, in order."""
    return [request.model_name for request in bench.provider.of[task_id].calls]


async def test_a_closed_model_is_replaced_before_its_first_word(bench: Bench) -> None:
    """In the same attempt, told to the viewer; the result names the model that answered."""
    bench.plan("t1", CLOSED, ANSWER)
    a = bench.process()
    in_flight = await arrive(bench, a, service_id="two")
    assert await a.run(in_flight) == Done("n", USAGE)
    assert await asked(bench) == ["m-1", "n-1"]
    assert await bench.story() == ["queued", "started", "progress", "done"]
    assert (await bench.events())[-1].data["modelId"] == "n"
    assert (await bench.results())[0]["model_id"] == "n"
    assert await bench.attempts() == [(1, "done", None)]
    assert in_flight.trace.closed == [("m", "RATE_LIMITED")]
    assert await bench.permits() == {}


async def test_a_model_that_one_task_closed_is_closed_to_all(bench: Bench) -> None:
    """Nobody else asks it before the time that the vendor named."""
    bench.plan("t1", CLOSED, ANSWER)
    a, b = bench.process("a"), bench.process("b")
    await a.run(await arrive(bench, a, service_id="two"))
    assert await b.run(await arrive(bench, b, task_id="t2", service_id="two")) == Done("n", USAGE)
    assert await asked(bench, "t2") == ["n-1"]


async def test_text_on_the_page_is_never_answered_by_another_model(bench: Bench) -> None:
    """A refusal in the middle of an answer is a failed attempt: the next one begins from its first word."""
    bench.plan("t1", (text("half"), *CLOSED), ANSWER)
    a = bench.process()
    a.with_(retry=RetrySettings(base_s=0.002, cap_s=0.01, guard_s=0.002, defer_s=0.002))
    outcome = await a.run(await arrive(bench, a, service_id="two"))
    assert not isinstance(outcome, Done)
    assert await asked(bench) == ["m-1"]
    await bench.client.delete(*[k async for k in bench.client.scan_iter("{guard}*")], "x")
    await bench.client.zadd(NAMES.retry, {"t1": 1})
    await bench.finish_all(bench.process("b"))


async def test_when_all_models_are_closed_the_task_waits_for_the_first_to_open(bench: Bench) -> None:
    """No failure, no slot; whoever comes next does not even ask them."""
    bench.plan("t1", CLOSED, (ModelUnavailable("OVERLOADED", retry_after_s=10),), ANSWER)
    a = bench.process()
    outcome = await a.run(await arrive(bench, a, service_id="two"))
    assert isinstance(outcome, Snoozed)
    assert outcome.reason is Reason.RATE_LIMITED
    assert 10 <= outcome.delay_s < 30
    second = await a.run(await arrive(bench, a, task_id="t2", service_id="two"))
    assert isinstance(second, Snoozed)
    assert 9 <= second.delay_s < 30
    assert bench.calls("t2") == 0
    assert await bench.row("t2") is None
    assert await bench.permits() == {}
    assert (await bench.events("t2"))[-1].data["reason"] == "RATE_LIMITED"
    await reopen(bench)
    for task_id in ("t1", "t2"):
        await bench.client.zadd(NAMES.retry, {task_id: 1})
    await bench.finish_all(bench.process("b"))
    assert len(await bench.results("t1")) == len(await bench.results("t2")) == 1


async def reopen(bench: Bench) -> None:
    """As if the time that was named had passed."""
    for model in ("m", "n"):
        await bench.client.delete(*keys.model_keys(model))


async def test_waiting_for_a_model_has_an_end(bench: Bench) -> None:
    """After the longest wait the viewer is told, whether an attempt had begun or not."""
    a = bench.process()
    a.with_(limiter_settings=GuardSettings(wait_max_s=1))
    bench.plan("t1", CLOSED)
    await bench.accept(message())
    await waited_long(bench, a, "t1")
    (in_flight,) = await a.take_over()
    assert await a.run(in_flight) == Failed(Code.WORKER_OVERLOADED)
    assert (await bench.row())["state"] == "failed"
    await bench.accept(message("t2"))
    await waited_long(bench, a, "t2")
    (in_flight,) = await a.take_over()
    assert await a.run(in_flight) == Failed(Code.WORKER_OVERLOADED)
    assert bench.calls("t2") == 0
    assert await bench.left() == {}


async def waited_long(bench: Bench, a: Process, task_id: str) -> None:
    in_flight = await a.fetch()
    assert in_flight.delivery.entry is not None
    entry = msgspec.structs.replace(in_flight.delivery.entry, parked="RATE_LIMITED", parked_at=1)
    await a.world.settlement.ack(in_flight.delivery, whole_task=False)
    await bench.add_raw(entry)


async def test_a_cancel_reaches_a_task_that_finds_everything_full(bench: Bench) -> None:
    """It is not parked again only to be cancelled later."""
    bench.plan("t1", CLOSED)
    a = bench.process()
    await a.run(await arrive(bench, a))
    in_flight = await arrive(bench, a, task_id="t2")
    in_flight.scope.interrupt(TaskError(code=Code.CANCELLED))
    assert await a.run(in_flight) == Failed(Code.CANCELLED)
    assert (await bench.row("t2"))["state"] == "cancelled"
    await reopen(bench)
    await bench.client.zadd(NAMES.retry, {"t1": 1})
    bench.plan("t1", ANSWER)
    await bench.finish_all(bench.process("b"))


async def test_a_message_that_postgres_can_not_hold_ends_with_a_letter(bench: Bench) -> None:
    """There is no row to say so, so the event and the dead letter do; it does not go round for ever."""
    a = bench.process()
    a.recorder.away["ledger.claim"] = StatementRefused(detail="DataError 22P05")
    assert await a.run(await arrive(bench, a)) == Failed(Code.STORE_ERROR)
    assert (await bench.story())[-1] == "error STORE_ERROR"
    assert [letter["code"] for letter in await bench.letters()] == ["STORE_ERROR"]
    assert await bench.left() == {}
    assert await bench.permits() == {}


async def test_an_end_that_can_not_be_told_does_not_go_round_for_ever(bench: Bench) -> None:
    """The key of its events holds something else: what Postgres holds stands, the entry becomes a letter."""
    a = bench.process()
    in_flight = await arrive(bench, a)
    a.recorder.away["settlement.append_and_release"] = StoreAway("never")
    a.with_(hold_result_s=0.01)
    assert isinstance(await a.run(in_flight), Abandoned)
    await bench.client.delete(keys.events("t1"), keys.events_state("t1"))
    await bench.client.set(keys.events("t1"), "not a stream", ex=60)
    b = bench.process("b")
    (again,) = await b.take_over()
    assert await b.run(again) == CompletedAgain()
    assert await bench.left() == {}
    assert len(await bench.results()) == 1
    assert [letter["code"] for letter in await bench.letters()] == ["INTERNAL"]
    permits = await wait_until(lambda: freed(bench), description="the dead one's places lapse", within_s=2)
    assert permits


async def freed(bench: Bench) -> bool:
    return not await bench.permits()


async def test_falling_back_keeps_the_users_place(bench: Bench) -> None:
    """Falling back leaves the model's place and keeps the user's: nobody slips in between."""
    bench.plan("t1", CLOSED, (text("half"), 0.2, *ANSWER))
    a = bench.process()
    in_flight = await arrive(bench, a, service_id="two")
    on_the_way: list[str] = []

    async def look(call: str) -> None:
        if call == "limiter.switch_model":  # a beat now must not renew what is being left: it would count as lost
            on_the_way.extend(permit.key for permit in in_flight.held.permits)

    a.recorder.before = look
    work = a.start(in_flight)
    await wait_until(lambda: bench.calls() == 2, description="the fallback is called")
    assert "{guard}:user:u_t1" in on_the_way
    assert "{guard}:model:m:paid" not in on_the_way
    held = await bench.permits()
    assert {"{guard}:user:u_t1", "{guard}:model:n:paid"} <= held.keys()
    assert "{guard}:model:m:paid" not in held
    assert "{guard}:model:m:paid" not in [permit.key for permit in in_flight.held.permits]
    async with asyncio.timeout(5):
        assert await work == Done("n", USAGE)


async def test_a_task_of_a_queue_that_gives_way_waits_as_if_it_had_come_later(bench: Bench) -> None:
    """At every guard that it shares with other queues; whoever came within that time stands before it."""
    a, guard = bench.process(), keys.model_permits("m", "paid")
    narrow = replace(BOOK.models["m"], concurrency={Tier.PAID: 1})
    long = replace(BOOK.queues[QUEUE], gives_way_s=60)
    catalog = replace(BOOK, models={**BOOK.models, "m": narrow}, queues={**BOOK.queues, QUEUE: long})
    a.with_(catalog=lambda: catalog)
    await bench.client.zadd(guard, {"another:token": 9e15})
    in_flight = await arrive(bench, a)
    assert isinstance(await a.run(in_flight), Snoozed)
    waiters: Any = await bench.client.zrange(keys.waiters_of(guard), 0, -1, withscores=True)
    assert in_flight.delivery.entry is not None
    assert [tuple(w) for w in waiters] == [(f"{QUEUE}/t1".encode(), in_flight.delivery.entry.accepted_at + 60_000)]
    await bench.client.flushdb()
