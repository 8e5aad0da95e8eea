"""How a delivery is given back, fenced or left alone, on real servers: stops, lost leases, outages, our own bugs."""

from __future__ import annotations

from typing import Any

import pytest

from daemon.domain.clock import SystemClock
from daemon.domain.errors import Code, LeaseLost, RedisAway, Stopping, StoreAway
from daemon.domain.permits import Permit
from daemon.pipeline.in_flight import InFlight
from daemon.pipeline.outcome import (
    Abandoned,
    Done,
    Failed,
    Fenced,
    Requeued,
    Snoozed,
)
from daemon.redis_client import keys
from tests.fakes import ANSWER, USAGE, Crash, Trouble, text
from tests.integration.pipeline.conftest import NAMES, Bench, Process, message
from tests.waiting import wait_until

pytestmark = pytest.mark.usefixtures("no_key_left")


async def arrive(bench: Bench, process: Process, **fields: Any) -> InFlight:
    """One accepted and read task."""
    await bench.accept(message(**fields))
    return await process.fetch()


async def fill(a: Process, lease_ms: int = 60_000) -> None:
    for number in range(3):
        await a.limiter.retake(f"other{number}", [Permit(keys.user_permits("u_t1"), 3)], lease_ms)


async def test_a_stop_hands_the_task_back_and_counts_nothing(bench: Bench) -> None:
    """Another daemon takes it at once; the viewer learns of it."""
    bench.plan("t1", (text("half"), 5.0), ANSWER)
    a = bench.process()
    in_flight = await arrive(bench, a)
    work = a.start(in_flight)
    await wait_until(bench.calls, description="the model is called")
    in_flight.scope.interrupt(Stopping("stop"))
    assert await work == Requeued()
    row = await bench.row()
    assert (row["state"], row["failures"], row["crashes"]) == ("queued", 0, 0)
    assert await bench.client.xlen(NAMES.ready) == 1
    assert await bench.finish_all(bench.process("b")) == [Done("m", USAGE)]
    assert await bench.attempts() == [(1, "handed_back", None), (2, "done", None)]


async def test_a_lost_lease_writes_nothing_more(bench: Bench) -> None:
    """Another attempt owns the task: no event, no result, no ack of the zombie's; its guard places go."""
    bench.plan("t1", (text("half"), 0.2, *ANSWER))
    a, b = bench.process("a"), bench.process("b")
    in_flight = await arrive(bench, a)
    work = a.start(in_flight)
    await wait_until(bench.calls, description="the model is called")
    (stolen,) = await b.take_over()
    assert isinstance(await b.run(stolen), Done)
    assert await work == Fenced()
    assert len(await bench.results()) == 1
    assert [e.data["attempt"] for e in await bench.events() if e.type == "done"] == [2]
    assert await bench.permits() == {}


async def test_a_fenced_attempt_says_so_in_the_ledger(bench: Bench) -> None:
    """What beat for us was refused while the row was still ours: handed back as `fenced`, no failure counted."""
    bench.plan("t1", (text("half"), 5.0), ANSWER)
    a = bench.process()
    in_flight = await arrive(bench, a)
    work = a.start(in_flight)
    await wait_until(bench.calls, description="the model is called")
    in_flight.scope.interrupt(LeaseLost("no good beat"))
    assert await work == Requeued()
    assert (await bench.attempts())[0] == (1, "fenced", None)
    await bench.finish_all(bench.process("b"))


async def test_an_entry_that_left_before_the_start_is_not_run(bench: Bench) -> None:
    """The claim is put back when the flush that says `started` finds the entry with somebody else."""
    a, b = bench.process("a"), bench.process("b")
    in_flight = await arrive(bench, a)
    (stolen,) = await b.take_over()
    assert await a.run(in_flight) == Fenced()
    assert bench.calls() == 0
    assert (await bench.row())["state"] == "queued"
    assert isinstance(await b.run(stolen), Done)


async def test_an_attempt_that_stood_still_until_its_call_calls_nobody(bench: Bench) -> None:
    """SIGSTOP between the claim and the call: another one may have run the task to its end, so no money is spent."""
    a = bench.process()
    in_flight = await arrive(bench, a)
    in_flight.lease_renewed(SystemClock().monotonic() - 3600)
    assert await a.run(in_flight) == Requeued()
    assert bench.calls() == 0
    assert (await bench.attempts())[0] == (1, "fenced", None)
    await bench.finish_all(bench.process("b"))


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("ledger.claim", StoreAway),
        ("settlement.begin", RedisAway),
        ("ledger.finish", StoreAway),
        ("settlement.ack", RedisAway),
    ],
)
async def test_a_server_that_stays_away_leaves_the_entry_to_its_lease(
    bench: Bench, call: str, error: type[Exception]
) -> None:
    """Nothing is thrown away: the entry stays pending, and whoever takes it over ends the task."""
    a = bench.process()
    a.with_(hold_result_s=0.05)
    in_flight = await arrive(bench, a)
    a.recorder.away[call] = error("away")
    assert isinstance(await a.run(in_flight), Abandoned)
    assert int((await bench.client.xpending(NAMES.tasks, keys.GROUP))["pending"]) == 1
    await bench.finish_all(bench.process("b"))
    assert (await bench.story())[-1] == "done"
    assert len(await bench.results()) == 1


async def test_a_paid_answer_outlives_an_outage_of_postgres(bench: Bench) -> None:
    """It is held and committed when the server is back; the model is not asked again."""
    a = bench.process()
    in_flight = await arrive(bench, a)
    a.recorder.away["ledger.finish"] = StoreAway("away")
    work = a.start(in_flight)
    await wait_until(lambda: a.recorder.calls.count("ledger.finish") > 2, description="tried again")
    a.recorder.away.clear()
    assert await work == Done("m", USAGE)
    assert bench.calls() == 1


async def test_a_bug_before_the_claim_ends_the_task_the_second_time(bench: Bench) -> None:
    """It must not go round for ever; the first time it may have been a passing one."""
    a = bench.process()
    a.with_(catalog=lambda: None)
    assert isinstance(await a.run(await arrive(bench, a)), Abandoned)
    (again,) = await a.take_over()
    assert await a.run(again) == Failed(Code.INTERNAL)
    assert (await bench.story())[-1] == "error INTERNAL"


async def test_a_task_of_a_dead_process_that_must_wait_is_let_go_first(bench: Bench) -> None:
    """The row that said `running` by an entry may not outlive the entry's move: the next claim would be a duplicate."""
    a, b = bench.process("a"), bench.process("b")
    in_flight = await arrive(bench, a)
    a.recorder.trouble = Trouble(2, "before", Crash)
    with pytest.raises(Crash):
        await a.run(in_flight)
    assert (await bench.row())["state"] == "running"
    await fill(b)
    (found,) = await b.take_over()
    assert isinstance(await b.run(found), Snoozed)
    assert (await bench.row())["state"] == "queued"
    await bench.client.delete(keys.user_permits("u_t1"), keys.LIMITERS_WITH_WAITERS, keys.NOTIFIED)
    assert await bench.finish_all(b) == [Done("m", USAGE)]
