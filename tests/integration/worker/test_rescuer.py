"""What Postgres knows and Redis forgot is put back; what Redis still holds is never doubled."""

from __future__ import annotations

import asyncio

import pytest

from daemon.domain.errors import Code
from daemon.domain.states import State
from daemon.pipeline.in_flight import InFlight
from daemon.ports import Claimed, Transition
from daemon.store.pool import Pool
from daemon.store.records import STALE_MAX, TaskRecords
from daemon.store.tasks import PostgresLedger
from daemon.worker.rescuer import Rescuer
from tests.integration.worker import conftest
from tests.integration.worker.conftest import NAMES, QUEUE, Crew
from tests.waiting import WaitUntil

LEASE = conftest.LEASE.model_copy(update={"lease_s": 0.15, "compare_s": 0.06})


@pytest.fixture
def ledger(pool: Pool) -> PostgresLedger:
    """Where attempts are claimed."""
    return PostgresLedger(pool)


class Watch:
    """The upkeep of one process, at work until the end of the `with`."""

    def __init__(self, crew: Crew, pool: Pool) -> None:
        self.rescue_mark = Rescuer(crew.work, TaskRecords(pool), [QUEUE], LEASE, crew.metrics)
        self._work: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Rescuer:
        self._work = asyncio.ensure_future(self.rescue_mark.run())  # noqa: TID251  # cancelled below
        return self.rescue_mark

    async def __aexit__(self, *_: object) -> None:
        assert self._work is not None
        self._work.cancel()
        await asyncio.wait([self._work])


async def claim(crew: Crew, ledger: PostgresLedger, task_id: str = "t1") -> InFlight:
    """Accepted, read and claimed."""
    await crew.add(task_id)
    (d,) = await crew.work.fetch(QUEUE, 1)
    answer = await ledger.claim(d, "a", "m", LEASE.lease_s)
    assert isinstance(answer, Claimed)
    return InFlight(d, attempt=answer.attempt)


async def silent(pool: Pool) -> None:
    """As if nothing had been heard for an hour."""
    await pool.fetch("UPDATE qstreamd.tasks SET heartbeat_at = now() - interval '1 hour'")


async def restored(crew: Crew) -> int:
    return int(crew.metrics.restored.labels(QUEUE)._value.get())


async def several_looks() -> None:
    """Time enough for two looks and more."""
    await asyncio.sleep(3 * (LEASE.compare_s + LEASE.lease_s))


async def test_a_flushed_server_gets_its_claimed_tasks_back(
    crew: Crew, pool: Pool, ledger: PostgresLedger, wait_until: WaitUntil
) -> None:
    """Running, retrying and queued ones; each once, ready to be claimed again."""
    for number, state in enumerate((None, State.RETRYING, State.QUEUED)):
        in_flight = await claim(crew, ledger, f"t{number}")
        if state is not None:
            await ledger.transition(in_flight.task_id, 1, "a", Transition(state, None, "deferred"))
    await silent(pool)
    await crew.client.flushall()
    await crew.work.make_groups([QUEUE])
    async with Watch(crew, pool):
        await wait_until(lambda: restored(crew), description="put back")
        await several_looks()
    entries = await crew.work.fetch(QUEUE, 10)
    assert sorted(d.entry.message.task_id for d in entries if d.entry) == ["t0", "t1", "t2"]
    for d in entries:
        assert isinstance(await ledger.claim(d, "b", "m", LEASE.lease_s), Claimed)


async def test_an_entry_deleted_while_pending_is_put_back_soon(
    crew: Crew, pool: Pool, ledger: PostgresLedger, wait_until: WaitUntil
) -> None:
    """Whoever finds the loss says so, and nobody waits for the period."""
    in_flight = await claim(crew, ledger)
    await crew.client.xdel(NAMES.tasks, in_flight.delivery.id)
    await silent(pool)
    async with Watch(crew, pool) as upkeep:
        upkeep.run_soon()
        await wait_until(lambda: restored(crew), description="put back")


async def test_a_crowd_that_waits_hides_no_lost_one(
    crew: Crew, pool: Pool, ledger: PostgresLedger, wait_until: WaitUntil
) -> None:
    """Parked tasks are silent too, and may be many more than one look takes."""
    for number in range(STALE_MAX + 5):
        in_flight = await claim(crew, ledger, f"parked{number}")
        await ledger.transition(in_flight.task_id, 1, "a", Transition(State.RETRYING, None, "deferred"))
        await crew.settlement.snooze(in_flight.delivery, 3_600_000, reason="RATE_LIMITED")
    lost = await claim(crew, ledger, "zlost")
    await crew.client.xdel(NAMES.tasks, lost.delivery.id)
    await silent(pool)
    async with Watch(crew, pool):
        await wait_until(lambda: restored(crew), description="put back")
    assert await restored(crew) == 1


@pytest.mark.parametrize("where", ["tasks", "ready", "retry", "pending"])
async def test_what_redis_still_holds_is_not_doubled(
    crew: Crew, pool: Pool, ledger: PostgresLedger, where: str
) -> None:
    """However long it has been silent: waiting in a stream, parked, or pending to somebody."""
    in_flight = await claim(crew, ledger)
    await ledger.transition("t1", 1, "a", Transition(State.RETRYING, Code.LLM_ERROR, "failed"))
    await silent(pool)
    if where == "ready":
        await crew.work.requeue(in_flight.delivery)
    elif where == "retry":
        await crew.settlement.snooze(in_flight.delivery, 3_600_000, reason="RETRY_AT")
    elif where == "tasks":
        await crew.settlement.ack(in_flight.delivery, whole_task=False)
        await crew.add("t1")
    async with Watch(crew, pool):
        await several_looks()
    assert await restored(crew) == 0


async def test_what_still_beats_is_left_alone(crew: Crew, pool: Pool, ledger: PostgresLedger) -> None:
    """A running attempt whose entry is gone (FLUSHALL) ends by itself; running it twice would cost a call."""
    await claim(crew, ledger)
    await crew.client.flushall()
    await crew.work.make_groups([QUEUE])
    async with Watch(crew, pool):
        for _ in range(10):
            await ledger.heartbeat([("t1", 1)], "a")
            await asyncio.sleep(LEASE.lease_s / 2)
    assert await restored(crew) == 0


async def test_one_look_is_no_proof(crew: Crew, pool: Pool, ledger: PostgresLedger, wait_until: WaitUntil) -> None:
    """What was on its way between two streams at the first look has arrived by the second."""
    in_flight = await claim(crew, ledger)
    await ledger.transition("t1", 1, "a", Transition(State.RETRYING, None, "deferred"))
    await silent(pool)
    await crew.settlement.ack(in_flight.delivery, whole_task=False)
    before = pool.statements
    async with Watch(crew, pool) as upkeep:
        upkeep.run_soon()
        await wait_until(lambda: pool.statements > before, description="the first look")
        await crew.add("t1")
        await several_looks()
    assert await restored(crew) == 0


async def test_two_processes_put_a_task_back_once(
    crew: Crew, pool: Pool, ledger: PostgresLedger, wait_until: WaitUntil
) -> None:
    """Each sees the loss; one acts."""
    await claim(crew, ledger)
    await silent(pool)
    await crew.client.flushall()
    await crew.work.make_groups([QUEUE])
    async with Watch(crew, pool), Watch(crew, pool), Watch(crew, pool):
        await wait_until(lambda: restored(crew), description="put back")
        await several_looks()
    assert await restored(crew) == 1
    assert await crew.waiting() == 1


async def test_a_message_of_a_newer_release_is_left_to_its_daemon(
    crew: Crew, pool: Pool, ledger: PostgresLedger, capsys: pytest.CaptureFixture[str]
) -> None:
    """It can't be read here, so it is said and not put back; the others are."""
    await claim(crew, ledger, "new")
    await claim(crew, ledger, "old")
    await pool.fetch("""UPDATE qstreamd.tasks SET message = '{"taskId": 1}' WHERE task_id = 'new'""")
    await silent(pool)
    await crew.client.flushall()
    await crew.work.make_groups([QUEUE])
    async with Watch(crew, pool):
        await several_looks()
    assert await restored(crew) == 1
    assert "task.restore_failed" in "".join(capsys.readouterr())


async def test_an_outage_of_redis_does_not_end_the_watch(
    crew: Crew, pool: Pool, ledger: PostgresLedger, wait_until: WaitUntil
) -> None:
    """It looks again."""
    await claim(crew, ledger)
    await silent(pool)
    await crew.client.flushall()
    await crew.client.config_set("maxmemory", "1")
    try:
        async with Watch(crew, pool):
            await several_looks()
            assert await restored(crew) == 0
            await crew.client.config_set("maxmemory", "0")
            await wait_until(lambda: restored(crew), description="put back")
    finally:
        await crew.client.config_set("maxmemory", "0")


async def test_nothing_to_do_costs_one_statement_a_period(crew: Crew, pool: Pool) -> None:
    """And no command in Redis."""
    async with Watch(crew, pool):
        await asyncio.sleep(LEASE.compare_s * 2)
        statements, flushes = pool.statements, crew.scripts.flushes
        await asyncio.sleep(LEASE.compare_s * 5)
        assert 3 <= pool.statements - statements <= 7
        assert crew.scripts.flushes == flushes
