"""Beats on a real server: what is ours stays ours, and what is not is given up in time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest

from daemon.config import RedisSettings
from daemon.config.types import SecretStr
from daemon.domain.errors import LeaseLost, RedisAway, StoreAway
from daemon.domain.permits import Permit
from daemon.pipeline.in_flight import HeldPermits, InFlight
from daemon.redis_client import keys
from tests.integration.worker.conftest import LEASE, NAMES, QUEUE, Crew, NewCrew
from tests.proxy import Proxy
from tests.waiting import WaitUntil

PLACE = Permit(keys.user_permits("u1"), 1)
LEASE_MS = int(LEASE.lease_s * 1000)


async def begin(crew: Crew, attempt: int | None = 1) -> InFlight:
    """One entry that this process runs, with a place in a guard."""
    await crew.add("t1")
    in_flight = InFlight((await crew.work.fetch(QUEUE, 1))[0], attempt=attempt)
    crew.leases.add(in_flight)
    return in_flight


async def take_place(crew: Crew, in_flight: InFlight) -> None:
    in_flight.held = HeldPermits("t1:token", (PLACE,), None)
    await crew.limiter.retake(in_flight.held.token, in_flight.held.permits, LEASE_MS)


async def test_an_attempt_ten_times_as_long_as_its_lease_stays_with_its_owner(crew: Crew, new_crew: NewCrew) -> None:
    """Entry, guard place and heartbeat are renewed together; a sweeper finds nothing."""
    other = new_crew("b")
    async with crew.at_work("leases"):
        in_flight = await begin(crew)
        await take_place(crew, in_flight)
        async with asyncio.timeout(30):
            for _ in range(20):
                await asyncio.sleep(LEASE.lease_s / 5)
                swept = await other.work.reclaim(QUEUE, LEASE_MS, 10, ("0-0", "0-0"), 1)
                assert swept.deliveries == []
        assert in_flight.scope.interrupted is None
        assert await crew.client.zrange(PLACE.key, 0, -1) == [b"t1:token"]
        assert crew.ledger.asked[-1] == [("t1", 1)]


async def test_a_refused_beat_interrupts_at_once(crew: Crew, new_crew: NewCrew, wait_until: WaitUntil) -> None:
    """Another consumer has the entry: nothing may be paid for any longer, and the beat takes nothing back."""
    async with crew.at_work("leases"):
        in_flight = await begin(crew)
        await crew.client.xclaim(NAMES.tasks, keys.GROUP, "b", 0, [in_flight.delivery.id])
        error = await wait_until(
            lambda: in_flight.scope.interrupted, description="interrupted", within_s=LEASE.beat_s * 4
        )
        assert isinstance(error, LeaseLost)
        assert await crew.pending("b") == 1
    assert crew.metrics.fenced.labels("heartbeat")._value.get() == 1


async def test_a_higher_attempt_in_the_ledger_interrupts(crew: Crew, wait_until: WaitUntil) -> None:
    """Postgres is the fence: whoever claimed after us owns the task."""
    async with crew.at_work("leases"):
        in_flight = await begin(crew)
        crew.ledger.lost = {"t1"}
        await wait_until(lambda: in_flight.scope.interrupted, description="interrupted", within_s=LEASE.beat_s * 4)


async def test_what_has_left_running_by_our_own_doing_is_not_lost(crew: Crew) -> None:
    """Between the commit and the ack neither the row's state nor a settled entry interrupts anything."""
    async with crew.at_work("leases"):
        in_flight = await begin(crew)
        in_flight.released_row()
        crew.ledger.lost = {"t1"}
        await asyncio.sleep(LEASE.beat_s * 3)
        assert in_flight.scope.interrupted is None
        assert crew.ledger.asked == []
        await crew.work.requeue(in_flight.delivery)
        in_flight.settled = True
        await asyncio.sleep(LEASE.self_fence_s + LEASE.beat_s * 2)
        assert in_flight.scope.interrupted is None


async def test_no_attempt_means_no_heartbeat(crew: Crew, wait_until: WaitUntil) -> None:
    """Before the claim there is no row to speak for; the entry is beaten for all the same."""
    async with crew.at_work("leases"):
        in_flight = await begin(crew, attempt=None)
        await asyncio.sleep(LEASE.lease_s * 1.5)
        (row,) = await rows(crew)
        assert row["time_since_delivered"] < LEASE.beat_s * 3000
        assert crew.ledger.asked == []
        assert in_flight.scope.interrupted is None


async def rows(crew: Crew) -> list[Any]:
    found: Any = await crew.client.xpending_range(NAMES.tasks, keys.GROUP, "-", "+", 10)
    return list(found)


async def test_postgres_being_away_costs_no_lease(crew: Crew) -> None:
    """Redis still knows whose the entry is."""
    crew.ledger.error = StoreAway("away")
    async with crew.at_work("leases"):
        in_flight = await begin(crew)
        await asyncio.sleep(LEASE.lease_s * 2)
        assert in_flight.scope.interrupted is None
    assert crew.metrics.postgres_errors.labels("away")._value.get() > 2


@pytest.fixture
async def proxy(redis_url: str) -> AsyncIterator[Proxy]:
    """Between the beats of the crew `far` and the server."""
    async with Proxy.before(redis_url) as made:
        yield made


@pytest.fixture
async def far(new_crew: NewCrew, proxy: Proxy, redis_settings: RedisSettings) -> Crew:
    """Only its beats go through the proxy."""
    url = SecretStr(proxy.url_of(redis_settings.url.get_secret_value()))
    return new_crew("far", redis_settings, redis_settings.model_copy(update={"url": url}))


@pytest.mark.parametrize("how", ["silent", "refused"])
async def test_without_a_good_beat_the_attempt_fences_itself_before_its_lease_ends(
    far: Crew, proxy: Proxy, wait_until: WaitUntil, how: str
) -> None:
    """Not at the first lost beat, and in any case before another may start."""
    async with far.at_work("leases"):
        in_flight = await begin(far)
        await wait_until(lambda: far.ledger.asked, description="it beats")
        loop = asyncio.get_running_loop()
        proxy.silent, proxy.refuse = how == "silent", how == "refused"
        if how == "refused":
            proxy.cut()
        began = loop.time()
        error = await wait_until(lambda: in_flight.scope.interrupted, description="fenced")
        assert LEASE.self_fence_s - LEASE.beat_s - 0.02 <= loop.time() - began <= LEASE.lease_s + 0.2
        assert "no good beat" in str(error)


async def test_a_beat_that_does_not_come_back_keeps_nobody_from_the_fence(
    crew: Crew, wait_until: WaitUntil, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a library swallows the cancel of its own time-out."""
    released = asyncio.Event()

    async def stuck(calls: object) -> list[Any]:
        while not released.is_set():
            with suppress(asyncio.CancelledError):
                await released.wait()
        raise RedisAway("at last")

    monkeypatch.setattr(crew.heartbeat_scripts, "run_each", stuck)
    loop = asyncio.get_running_loop()
    async with crew.at_work("leases"):
        in_flight = await begin(crew)
        began = loop.time()
        await wait_until(lambda: in_flight.scope.interrupted, description="fenced", within_s=2)
        assert loop.time() - began <= LEASE.lease_s
        released.set()


async def test_two_lost_beats_lose_no_task(far: Crew, proxy: Proxy, wait_until: WaitUntil) -> None:
    """A short outage of the network is over before the fence."""
    async with far.at_work("leases"):
        in_flight = await begin(far)
        for _ in range(5):
            seen = len(far.ledger.asked)
            proxy.refuse = True
            proxy.cut()
            await wait_until(lambda seen=seen: len(far.ledger.asked) > seen, description="a beat in the outage")
            proxy.refuse = False
            await asyncio.sleep(LEASE.beat_s * 2)
        assert in_flight.scope.interrupted is None


@pytest.mark.parametrize("attempt", [1, None])
async def test_a_flushed_server_interrupts_nothing(crew: Crew, wait_until: WaitUntil, attempt: int | None) -> None:
    """Nobody else can own what is in no stream, also when the group was made again; the row is ours.

    Before the claim nothing is paid for yet, and the claim decides.
    """
    async with crew.at_work("leases"):
        in_flight = await begin(crew, attempt)
        await take_place(crew, in_flight)
        await crew.client.flushall()
        await crew.work.make_groups([QUEUE])
        await asyncio.sleep(LEASE.lease_s * 2)
        assert in_flight.scope.interrupted is None
        await wait_until(lambda: crew.client.zscore(PLACE.key, in_flight.held.token), description="permit retaken")
    assert crew.leases.redis_forgot.is_set()


async def test_the_beat_makes_the_group_again(crew: Crew, wait_until: WaitUntil) -> None:
    """With all slots taken the queue is not read, and the ends of those who have them wait for the group."""
    async with crew.at_work("leases"):
        in_flight = await begin(crew)
        await crew.client.flushall()
        await wait_until(lambda: crew.client.exists(NAMES.tasks), description="the stream is there")
        assert not await crew.settlement.ack(in_flight.delivery)


@pytest.mark.parametrize("how", ["taken", "away"])
async def test_after_a_flush_only_the_row_proves_whose_attempt_it_is(
    crew: Crew, wait_until: WaitUntil, how: str
) -> None:
    """One that another process has claimed is cut at once; without an answer of Postgres for the self-fence time too.

    Neither takes a permit again.
    """
    async with crew.at_work("leases"):
        in_flight = await begin(crew)
        await take_place(crew, in_flight)
        if how == "taken":
            crew.ledger.lost = {"t1"}
        else:
            crew.ledger.error = StoreAway("away")
        await crew.client.flushall()
        await crew.work.make_groups([QUEUE])
        error = await wait_until(lambda: in_flight.scope.interrupted, description="interrupted", within_s=LEASE.lease_s)
        assert ("not ours any more" if how == "taken" else "no good beat") in str(error)
        await asyncio.sleep(LEASE.beat_s * 2)
        assert not await crew.client.exists(PLACE.key)


async def test_a_place_that_was_lost_is_taken_again(crew: Crew, wait_until: WaitUntil) -> None:
    """After a flush or a stall the guard counts us again."""
    async with crew.at_work("leases"):
        in_flight = await begin(crew)
        await take_place(crew, in_flight)
        await crew.client.delete(PLACE.key)
        await wait_until(lambda: crew.client.zscore(PLACE.key, in_flight.held.token), description="taken again")
        assert in_flight.scope.interrupted is None


async def test_a_place_that_others_fill_now_is_taken_again_all_the_same(crew: Crew, wait_until: WaitUntil) -> None:
    """Our call runs and is paid for: those who come next wait until there is room."""
    async with crew.at_work("leases"):
        in_flight = await begin(crew)
        await take_place(crew, in_flight)
        await crew.client.delete(PLACE.key)
        await crew.limiter.retake("other", [PLACE], 60_000)
        await wait_until(lambda: crew.client.zscore(PLACE.key, in_flight.held.token), description="taken again")
        assert in_flight.scope.interrupted is None


async def test_a_released_place_is_not_taken_again(crew: Crew) -> None:
    """The end of an attempt and a beat may meet."""
    async with crew.at_work("leases"):
        in_flight = await begin(crew)
        await take_place(crew, in_flight)
        await asyncio.sleep(LEASE.beat_s * 2)
        await crew.limiter.release(in_flight.held.token, in_flight.held.permits)
        in_flight.released_permits()
        await asyncio.sleep(LEASE.beat_s * 3)
        assert await crew.client.zcard(PLACE.key) == 0
        assert in_flight.scope.interrupted is None


async def test_a_call_that_outlived_its_own_clocks_is_not_beaten_for(crew: Crew, new_crew: NewCrew) -> None:
    """A vendor that swallows cancels must not hold a task for ever: another process takes it over."""
    other = new_crew("b")
    async with crew.at_work("leases"):
        in_flight = await begin(crew)
        in_flight.hard_deadline = crew.clock.monotonic()
        await asyncio.sleep(LEASE.lease_s * 1.3)
        swept = await other.work.reclaim(QUEUE, LEASE_MS, 10, ("0-0", "0-0"), 1)
        assert len(swept.deliveries) == 1
        assert isinstance(in_flight.scope.interrupted, LeaseLost)


async def test_beats_go_on_through_a_drain(crew: Crew, new_crew: NewCrew, wait_until: WaitUntil) -> None:
    """The last attempt of a stopping process keeps its task until it has ended."""
    other = new_crew("b")
    crew.gate.clear()
    async with crew.at_work("consumer", "leases"):
        await crew.add("t1")
        await wait_until(lambda: crew.began, description="it runs")
        await crew.consumer.stop()
        for _ in range(10):
            await asyncio.sleep(LEASE.lease_s / 4)
            swept = await other.work.reclaim(QUEUE, LEASE_MS, 10, ("0-0", "0-0"), 1)
            assert swept.deliveries == []
    assert crew.ended == ["t1"]
    assert len(crew.leases) == 0


async def test_nothing_runs_nothing_is_sent(crew: Crew) -> None:
    """An idle process beats for nobody; its loop still shows that it lives."""
    progressed = 0

    def progress() -> None:
        nonlocal progressed
        progressed += 1

    work = asyncio.ensure_future(crew.leases.run(progress))  # noqa: TID251  # cancelled below
    await asyncio.sleep(LEASE.beat_s * 4)
    work.cancel()
    assert crew.heartbeat_scripts.flushes == 0
    assert progressed >= 3
