"""Every way in which one delivery can end, on real servers, and the order in which it is made durable."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from daemon.domain.errors import Code, ModelUnavailable, ProviderError
from daemon.domain.events import Reason, Stage
from daemon.domain.messages import WorkEntry, content_sha256, identity_of
from daemon.domain.permits import Permit
from daemon.pipeline.attempt_events import final_event
from daemon.pipeline.in_flight import InFlight
from daemon.pipeline.outcome import (
    Done,
    Dropped,
    Failed,
    Fenced,
    Retrying,
    Snoozed,
)
from daemon.redis_client import keys
from tests.fakes import ANSWER, USAGE, finished, text, thought
from tests.integration.pipeline.conftest import NAMES, QUEUE, Bench, Process, message
from tests.waiting import wait_until

pytestmark = pytest.mark.usefixtures("no_key_left")


async def arrive(bench: Bench, process: Process, **fields: Any) -> InFlight:
    """One accepted and read task."""
    await bench.accept(message(**fields))
    return await process.fetch()


async def test_a_task_that_goes_well_is_stored_told_and_settled(bench: Bench) -> None:
    """Result, terminal event, places, entry: all of it, and the usage in the row and the event is the same."""
    a = bench.process()
    in_flight = await arrive(bench, a)
    assert await a.run(in_flight) == Done("m", USAGE)
    (result,) = await bench.results()
    assert (result["content"], result["content_sha256"]) == ("the answer", content_sha256("the answer"))
    assert await bench.story() == ["queued", "started", "done"]
    done = (await bench.events())[-1].data
    assert (done["result"], done["contentSha256"]) == ("the answer", result["content_sha256"])
    assert done["usage"] == msgspec.to_builtins(USAGE)
    texts = [e.data for e in await bench.events() if e.type == "token_batch"]
    assert [(t["channel"], t["delta"]) for t in texts] == [("reasoning", "hm"), ("text", "the answer")]
    assert await bench.attempts() == [(1, "done", None)]
    assert await bench.left() == {}
    assert await bench.permits() == {}
    assert in_flight.settled
    assert in_flight.trace.usage == USAGE
    assert in_flight.trace.first_token_s is not None
    assert in_flight.trace.wait_s is not None


async def test_the_order_is_law(bench: Bench) -> None:
    """Committed, then told, then released, then acked: each seen from outside at the moment of the next step."""
    a = bench.process()
    seen: dict[str, tuple[int, bool, bool, int]] = {}

    async def look(call: str) -> None:
        told = any(e.terminal for e in await bench.events())
        pending = int((await bench.client.xpending(NAMES.tasks, keys.GROUP))["pending"])
        seen[call] = (len(await bench.results()), told, bool(await bench.permits()), pending)

    a.recorder.before = look
    await a.run(await arrive(bench, a))
    nothing, committed, told = (0, False, True, 1), (1, False, True, 1), (1, True, False, 1)
    assert (seen["ledger.finish"], seen["settlement.append_and_release"], seen["settlement.ack"]) == (
        nothing,
        committed,
        told,
    )
    assert a.recorder.calls[0].startswith("limiter.")
    assert a.recorder.calls[1:] == [
        "ledger.claim",
        "settlement.begin",
        "ledger.finish",
        "settlement.append_and_release",
        "settlement.ack",
    ]


async def test_a_streamed_task_costs_four_flushes_and_two_statements(bench: Bench) -> None:
    """Guards; place and started; done and release; ack. Token batches are apart: one a pause of the model here."""
    bench.plan("t1", (text("one "), 0.12, text("two "), 0.12, text("three"), finished()))
    a = bench.process()
    await a.run(await arrive(bench, a, task_id="t0"))  # loads the scripts and prepares the statements
    in_flight = await arrive(bench, a)
    flushes, statements = a.scripts.flushes, bench.pool.statements
    batches = a.metrics.event_flushes._value.get()
    assert isinstance(await a.run(in_flight), Done)
    batches = a.metrics.event_flushes._value.get() - batches
    assert batches == 3
    assert a.scripts.flushes - flushes - batches <= 4
    assert bench.pool.statements - statements == 2


async def test_a_batch_task_streams_nothing(bench: Bench) -> None:
    """The viewer gets the end; the provider is asked for one plain answer."""
    a = bench.process()
    names = keys.queue_keys("q_paid_batch")
    await a.work.make_groups(["q_paid_batch"])
    await bench.accept(message(queue_id="q_paid_batch"))
    (d,) = await a.work.fetch("q_paid_batch", 1)
    assert isinstance(await a.run(InFlight(d)), Done)
    assert [str(e.type) for e in await bench.events()] == ["queued", "started", "done"]
    assert not bench.provider.of["t1"].calls[0].stream
    assert await bench.client.xlen(names.tasks) == 0


async def test_a_large_answer_is_told_by_reference_and_its_text_was_streamed(bench: Bench) -> None:
    """Above 4 KiB the event carries no result; the deltas put together have the hash that it names."""
    bench.plan("t1", (*(text(f"{n:08d} ") for n in range(700)), finished("length")))
    a = bench.process()
    assert isinstance(await a.run(await arrive(bench, a)), Done)
    events = await bench.events()
    told = "".join(e.data["delta"] for e in events if e.type == "token_batch")
    assert "result" not in events[-1].data
    assert content_sha256(told) == events[-1].data["contentSha256"] == (await bench.results())[0]["content_sha256"]


async def test_a_failure_is_parked_with_the_time_of_the_next_attempt(bench: Bench) -> None:
    """The viewer learns that and when it goes on; the failure counts."""
    bench.plan("t1", (text("half"), ProviderError(detail="status 500")), ANSWER)
    a = bench.process()
    outcome = await a.run(await arrive(bench, a))
    assert outcome == Retrying(Code.LLM_ERROR, 0.001)
    assert await bench.story() == ["queued", "started", "error LLM_ERROR", "progress"]
    error = next(e.data for e in await bench.events() if e.type == "error")
    assert error["retryable"]
    assert error["retryAt"] > 0
    row = await bench.row()
    assert (row["state"], row["failures"], row["error_code"]) == ("retrying", 1, "LLM_ERROR")
    assert a.parked == [0.001]
    assert await bench.finish_all(bench.process("b")) == [Done("m", USAGE)]
    assert await bench.attempts() == [(1, "failed", "LLM_ERROR"), (2, "done", None)]


async def test_a_model_in_trouble_is_retried_patiently(bench: Bench) -> None:
    """Beyond the budget for retries the longest backoff applies; nothing is dropped."""
    a = bench.process()
    while a.world.budget.may_retry("m", a.world.clock.monotonic()):
        pass
    bench.plan("t1", (ProviderError(),), ANSWER)
    assert await a.run(await arrive(bench, a)) == Retrying(Code.LLM_ERROR, a.world.retry.cap_s)
    await bench.finish_all(bench.process("b"))


async def test_a_closed_model_counts_no_failure(bench: Bench) -> None:
    """The task waits and says why; the attempt is recorded as deferred."""
    bench.plan("t1", (ModelUnavailable("RATE_LIMITED"),), ANSWER)
    a = bench.process()
    outcome = await a.run(await arrive(bench, a))
    assert isinstance(outcome, Snoozed)
    assert outcome.reason is Reason.RATE_LIMITED
    row = await bench.row()
    assert (row["state"], row["failures"]) == ("retrying", 0)
    assert (await bench.events())[-1].data["reason"] == "RATE_LIMITED"
    await bench.finish_all(bench.process("b"))
    assert await bench.attempts() == [(1, "deferred", "RATE_LIMITED"), (2, "done", None)]


@pytest.mark.parametrize(
    ("script", "code", "service"),
    [
        ((ProviderError(code=Code.LLM_REFUSED),), "LLM_REFUSED", "echo"),
        ((text("half"),), "LLM_ERROR", "once"),
        ((thought("only thoughts"), text(" \n"), finished()), "LLM_BAD_OUTPUT", "once"),
        ((KeyError("ours"),), "INTERNAL", "once"),
    ],
)
async def test_a_task_that_ends_badly_leaves_row_event_and_dead_letter(
    bench: Bench, script: tuple[object, ...], code: str, service: str
) -> None:
    """All three say the same code, and nothing is left to run."""
    bench.plan("t1", script)  # type: ignore[arg-type]
    a = bench.process()
    assert await a.run(await arrive(bench, a, service_id=service)) == Failed(Code(code))
    row = await bench.row()
    assert (row["state"], row["error_code"]) == ("failed", code)
    assert (await bench.story())[-1] == f"error {code}"
    assert [letter["code"] for letter in await bench.letters()] == [code]
    assert await bench.left() == {}


async def test_a_missing_provider_key_fails_that_task_alone(bench: Bench) -> None:
    """Its detail tells the operator; the viewer sees the code."""
    a = bench.process()
    a.with_(provider=lambda *_: a._provider("nobody"))
    in_flight = await arrive(bench, a, service_id="once")
    assert await a.run(in_flight) == Failed(Code.INTERNAL)
    assert "no key" in in_flight.trace.detail
    assert "no key" not in str([e.data for e in await bench.events()])


@pytest.mark.parametrize(
    ("fields", "code", "state"),
    [
        ({"service_id": "nobody"}, Code.UNKNOWN_SERVICE, "failed"),
        ({"max_attempts": 99}, Code.INVALID_PAYLOAD, "failed"),
        ({"expires_at": 1.0}, Code.EXPIRED, "expired"),
    ],
)
async def test_what_may_not_start_ends_without_a_claim(
    bench: Bench, fields: dict[str, object], code: Code, state: str
) -> None:
    """No place, no model, attempt 0; the counter is given back."""
    a = bench.process()
    assert await a.run(await arrive(bench, a, **fields)) == Failed(code)
    row = await bench.row()
    assert (row["state"], row["attempt"], row["error_code"]) == (state, 0, code)
    assert bench.calls() == 0
    assert not any(call.startswith("limiter") for call in a.recorder.calls)
    assert await bench.left() == {}


async def test_an_expiry_before_the_next_attempt_is_told_at_once(bench: Bench) -> None:
    """Nobody waits for a retry that could not start."""
    bench.plan("t1", (ProviderError(retry_after_s=600),))
    a = bench.process()
    in_flight = await arrive(bench, a, expires_at=a.world.clock.time() + 300)
    assert await a.run(in_flight) == Failed(Code.EXPIRED)
    assert (await bench.row())["state"] == "expired"


async def test_a_cancelled_task_leaves_no_dead_letter(bench: Bench) -> None:
    """It is what its user wanted; the model call is ended in the middle of its answer."""
    bench.plan("t1", (text("half"), 5.0, *ANSWER))
    a = bench.process()
    in_flight = await arrive(bench, a)

    async def cancel() -> None:
        await wait_until(bench.calls, description="the model is called")
        await bench.client.hset(keys.events_state("t1"), "cancel", 1)  # told with the answer to the next append

    _, outcome = await asyncio.gather(cancel(), a.run(in_flight))
    assert outcome == Failed(Code.CANCELLED)
    assert (await bench.row())["state"] == "cancelled"
    assert await bench.letters() == []
    assert await bench.left() == {}


async def test_a_viewer_who_was_told_the_end_gets_no_second_one(bench: Bench) -> None:
    """DELIVERY_FAILED came first (QStash gave up, though the message had arrived): the task ends as it was told."""
    a = bench.process()
    in_flight = await arrive(bench, a)
    await a.events.append(identity_of(message()), -1, [final_event(Stage.DELIVER, Code.DELIVERY_FAILED)])
    assert await a.run(in_flight) == Failed(Code.DELIVERY_FAILED)
    assert bench.calls() == 0
    assert await bench.story() == ["queued", "error DELIVERY_FAILED"]
    assert (await bench.row())["error_code"] == "DELIVERY_FAILED"


async def test_the_third_crash_is_a_dead_letter(bench: Bench) -> None:
    """A task that kills its process is not given to all of them."""
    a = bench.process()
    in_flight = await arrive(bench, a)
    lease = a.world.lease.lease_s
    claim = await a.ledger.claim(in_flight.delivery, "dead", "m", lease)
    await bench.pool.fetch("UPDATE qstreamd.tasks SET crashes = 2, heartbeat_at = now() - interval '1 hour'")
    assert claim is not None
    assert await a.run(in_flight) == Failed(Code.WORKER_LOST)
    assert bench.calls() == 0
    assert (await bench.row())["crashes"] == 3


# --- waiting for a place ------------------------------------------------------------------------------------------


async def fill(a: Process, lease_ms: int = 60_000) -> None:
    for number in range(3):
        await a.limiter.retake(f"other{number}", [Permit(keys.user_permits("u_t1"), 3)], lease_ms)


async def test_a_full_guard_parks_the_task_and_says_why_once(bench: Bench) -> None:
    """No attempt, no claim, the slot free at once; the same reason is not repeated at every look."""
    a = bench.process()
    in_flight = await arrive(bench, a)
    await fill(a)
    for _ in range(3):
        outcome = await a.run(in_flight)
        assert isinstance(outcome, Snoozed)
        assert outcome.reason is Reason.GUARD_USER
        await wait_until(lambda: a.work.promote(QUEUE, 10), description="promoted")
        holds = await wait_until(lambda: fetched(a), description="read again")
        in_flight = holds[0]
    assert await bench.story() == ["queued", "progress"]
    assert await bench.row() is None
    assert await bench.client.zcard(NAMES.waiting) == 1
    await bench.client.delete(keys.user_permits("u_t1"))
    assert isinstance(await a.run(in_flight), Done)
    await bench.client.delete(keys.LIMITERS_WITH_WAITERS, keys.NOTIFIED)


async def fetched(a: Process) -> list[InFlight]:
    await a.work.promote(QUEUE, 10)
    return [InFlight(d) for d in await a.work.fetch(QUEUE, 1)]


async def test_who_waited_too_long_for_a_place_is_told_so(bench: Bench) -> None:
    """WORKER_OVERLOADED, with the row made and the place in the queue given back."""
    a = bench.process()
    entry = WorkEntry(message=message(), sha256="s", accepted_at=1, parked="GUARD_USER", parked_at=1)
    await bench.add_raw(entry)
    await fill(a)
    assert await a.run(await a.fetch()) == Failed(Code.WORKER_OVERLOADED)
    assert (await bench.row())["state"] == "failed"
    assert await bench.left() == {}
    await bench.client.delete(keys.user_permits("u_t1"), keys.LIMITERS_WITH_WAITERS, keys.NOTIFIED)


# --- not ours -----------------------------------------------------------------------------------------------------


async def test_poison_is_set_aside(bench: Bench) -> None:
    """An entry that can't be read leaves a letter without content and never comes back."""
    await bench.client.xadd(NAMES.tasks, {"task": b"{"})
    a = bench.process()
    assert await a.run(await a.fetch()) == Dropped("poison")
    (letter,) = await bench.letters()
    assert letter["code"] == "INVALID_PAYLOAD"
    assert await bench.left() == {}


async def test_the_failure_of_a_zombie_is_nobodys(bench: Bench) -> None:
    """Its model failed after another attempt had taken over: no event, no retry, no dead letter, nothing counted."""
    bench.plan("t1", (0.2, ProviderError()), ANSWER)
    a, b = bench.process("a"), bench.process("b")
    work = a.start(await arrive(bench, a))
    await wait_until(bench.calls, description="the model is called")
    (stolen,) = await b.take_over()
    assert isinstance(await b.run(stolen), Done)
    assert await work == Fenced()
    assert await bench.story() == ["queued", "started", "started", "done"]
    row = await bench.row()
    assert (row["state"], row["failures"]) == ("done", 0)
    assert await bench.left() == {}
    assert await bench.letters() == []
