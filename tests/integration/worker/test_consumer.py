"""Reading a queue at the pace of free slots, on a real server and a bad network."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from daemon.config import RedisSettings
from daemon.config.types import SecretStr
from daemon.pipeline.in_flight import InFlight
from daemon.ports import Delivery
from tests.integration.worker.conftest import NAMES, QUEUE, Crew, NewCrew
from tests.proxy import Proxy
from tests.waiting import WaitUntil


@pytest.fixture
async def proxy(redis_url: str) -> AsyncIterator[Proxy]:
    """Between the crew `far` and the server."""
    async with Proxy.before(redis_url) as made:
        yield made


@pytest.fixture
async def far(new_crew: NewCrew, proxy: Proxy, redis_settings: RedisSettings) -> Crew:
    """A crew whose network misbehaves when told to."""
    url = proxy.url_of(redis_settings.url.get_secret_value())
    return new_crew(
        "far", redis_settings.model_copy(update={"url": SecretStr(url), "block_s": 20.0, "command_timeout_s": 0.5})
    )


async def test_it_reads_no_more_than_it_can_run(crew: Crew, wait_until: WaitUntil) -> None:
    """Two slots, two entries pending; each slot that comes free takes one more, in order."""
    crew.gate.clear()
    async with crew.at_work("consumer"):
        await crew.add(*(f"t{number}" for number in range(5)))
        await wait_until(lambda: len(crew.began) == 2, description="both slots are taken")
        assert await crew.pending() == 2
        crew.gate.set()
        await wait_until(lambda: len(crew.ended) == 5, description="all have run")
    assert crew.began == [f"t{number}" for number in range(5)]
    assert await crew.waiting() == 0


async def test_what_was_read_beyond_the_slots_goes_back(crew: Crew, wait_until: WaitUntil) -> None:
    """COUNT is per stream: excess waits in `:ready`, for whoever is free; nothing runs twice."""
    crew.gate.clear()
    async with crew.at_work("consumer"):
        await crew.add("t1", "t2")
        await wait_until(lambda: len(crew.began) == 2, description="both slots are taken")
        running = crew.holds[0].delivery
        await crew.add("t3")
        await crew.consumer.accept([*await crew.work.fetch(QUEUE, 1), running])
        assert await crew.client.xlen(NAMES.ready) == 1
        assert crew.metrics.requeued.labels(QUEUE)._value.get() == 1
        crew.gate.set()
        await wait_until(lambda: len(crew.ended) == 3, description="all have run")
    assert sorted(crew.began) == ["t1", "t2", "t3"]


async def test_an_attempt_that_raises_ends_no_other(
    crew: Crew, wait_until: WaitUntil, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug of ours: the attempt beside it ends, new work is read, and the entry of the first is run again."""
    good, broken = crew.consumer._attempt, {"t1"}

    async def attempt(in_flight: InFlight) -> None:
        if in_flight.task_id in broken:
            broken.discard(in_flight.task_id)
            raise RuntimeError("a bug")
        await good(in_flight)

    monkeypatch.setattr(crew.consumer, "_attempt", attempt)
    async with crew.at_work("consumer"):
        await crew.add("t1", "t2")
        await wait_until(lambda: "t2" in crew.ended, description="the one beside it ends")
        await crew.add("t3")
        await wait_until(lambda: {"t1", "t2", "t3"} <= set(crew.ended), description="all have run")


async def test_a_lost_group_is_made_again(crew: Crew, wait_until: WaitUntil) -> None:
    """FLUSHALL under a blocked reader: work that is accepted afterwards is served, from the beginning."""
    async with crew.at_work("consumer"):
        await crew.add("before")
        await wait_until(lambda: crew.ended == ["before"], description="it works")
        await crew.client.flushall()
        await crew.add("after")
        await wait_until(lambda: crew.ended == ["before", "after"], description="served again")


@pytest.mark.parametrize("blocked", [True, False])
async def test_an_entry_whose_delivery_was_lost_is_found_by_its_own_consumer(
    far: Crew, crew: Crew, proxy: Proxy, wait_until: WaitUntil, *, blocked: bool
) -> None:
    """The server gave it to us and the answer never arrived: no other consumer may take it while we live."""
    if blocked:
        async with far.at_work("consumer"):
            await wait_until(lambda: clients_blocked(crew), description="it waits")
            proxy.lose_reply(lambda data: b"lost" in data)
            await crew.add("lost")
            await wait_until(lambda: far.ended == ["lost"], description="found and run")
    else:
        await crew.add("lost")
        proxy.lose_reply(lambda data: b'"lost"' in data)
        async with far.at_work("consumer"):
            await wait_until(lambda: far.ended == ["lost"], description="found and run")
    assert proxy.lost == 1
    assert far.began == ["lost"]
    assert far.holds[0].delivery.redelivered
    assert await crew.waiting() == 0


async def clients_blocked(crew: Crew) -> bool:
    info = await crew.client.info("clients")
    return bool(info["blocked_clients"])


async def test_an_outage_is_waited_out(far: Crew, crew: Crew, proxy: Proxy, wait_until: WaitUntil) -> None:
    """Not reading while the server is away, and not ready; reading again within seconds of its return."""
    async with far.at_work("consumer"):
        await wait_until(lambda: far.consumer.reading, description="it reads")
        proxy.refuse = True
        proxy.cut()
        await wait_until(lambda: not far.consumer.reading, description="it knows")
        await crew.add("t1")
        proxy.refuse = False
        await wait_until(lambda: far.ended == ["t1"], description="it works again")
    assert far.metrics.redis_errors.labels("away")._value.get() >= 1


async def test_a_stop_wakes_a_blocked_read(far: Crew, crew: Crew, wait_until: WaitUntil) -> None:
    """Nobody waits for BLOCK to run out, and what is accepted afterwards is left to others."""
    reader = asyncio.ensure_future(far.consumer.run())  # noqa: TID251  # awaited below
    await wait_until(lambda: clients_blocked(crew), description="it waits")
    async with asyncio.timeout(5):
        await far.consumer.stop()
        await far.consumer.stop()
        await reader
    await crew.add("late")
    assert not far.consumer.reading
    assert await crew.pending() == 0
    assert await crew.waiting() == 1


async def test_a_stop_as_early_as_it_can_be_ends_the_reader(far: Crew) -> None:
    """Before its first read."""
    await far.consumer.stop()
    async with asyncio.timeout(5):
        await far.consumer.run()


async def test_a_stop_lets_attempts_end(crew: Crew, wait_until: WaitUntil) -> None:
    """A drain: the reader is done when the last attempt is, and reads nothing meanwhile."""
    crew.gate.clear()
    reader = asyncio.ensure_future(crew.consumer.run())  # noqa: TID251  # awaited below
    await crew.add("t1")
    await wait_until(lambda: crew.began == ["t1"], description="it runs")
    await crew.consumer.stop()
    await crew.add("t2")
    await asyncio.sleep(0.1)
    assert not reader.done()
    crew.gate.set()
    async with asyncio.timeout(5):
        await reader
    assert (crew.ended, crew.cut) == (["t1"], [])
    assert await crew.waiting() == 1


async def test_cancelling_the_reader_cuts_attempts_off(crew: Crew, wait_until: WaitUntil) -> None:
    """The last resort: entries stay pending and are found after a lease; slots and leases are empty."""
    crew.gate.clear()
    reader = asyncio.ensure_future(crew.consumer.run())  # noqa: TID251  # awaited below
    await crew.add("t1")
    await wait_until(lambda: crew.began == ["t1"], description="it runs")
    reader.cancel()
    await asyncio.wait([reader])
    assert crew.cut == ["t1"]
    assert (len(crew.leases), crew.consumer.slots.used) == (0, 0)
    assert await crew.pending("a") == 1


async def test_a_paused_queue_is_not_read_and_what_runs_goes_on(crew: Crew, wait_until: WaitUntil) -> None:
    """Pause, resume, resize: at once, without a restart."""
    crew.gate.clear()
    async with crew.at_work("consumer"):
        await crew.add("t1")
        await wait_until(lambda: crew.began == ["t1"], description="it runs")
        await crew.consumer.pause()
        await crew.add("t2", "t3", "t4", "t5")
        await asyncio.sleep(0.1)
        assert crew.began == ["t1"]
        crew.consumer.resize(4)
        assert crew.metrics.slots.labels(QUEUE)._value.get() == 4
        crew.consumer.resume()
        await wait_until(lambda: len(crew.began) == 4, description="four at once")
        assert await crew.pending() == 4
        assert crew.metrics.attempts_in_flight.labels(QUEUE)._value.get() == 4
        crew.gate.set()
        await wait_until(lambda: len(crew.ended) == 5, description="all have run")


async def test_an_idle_queue_costs_two_commands_for_each_block(
    crew: Crew, new_crew: NewCrew, redis_settings: RedisSettings
) -> None:
    """The read itself and nothing around it: an idle daemon is nearly free."""
    idle = new_crew("idle", redis_settings.model_copy(update={"block_s": 0.1}))
    async with idle.at_work("consumer"):
        await asyncio.sleep(0.3)
        before = int((await crew.client.info("stats"))["total_commands_processed"])
        await asyncio.sleep(1.0)
        after = int((await crew.client.info("stats"))["total_commands_processed"])
    assert after - before <= 13  # ten blocks a second, our INFOs, a reconnect


async def test_a_server_that_does_not_block_is_polled_not_hammered(crew: Crew, wait_until: WaitUntil) -> None:
    """Some managed servers take BLOCK and answer at once; work still comes."""
    reads = 0

    async def at_once(_blocking: Any, queue: str, count: int, _block_ms: int) -> list[Delivery]:
        nonlocal reads
        reads += 1
        return await crew.work.fetch(queue, count)

    crew.work.wait = at_once  # type: ignore[method-assign, assignment]
    async with crew.at_work("consumer"):
        await asyncio.sleep(1.0)
        assert 1 <= reads <= 4
        await crew.add("t1")
        await wait_until(lambda: crew.ended == ["t1"], description="it runs")


async def test_no_queue_has_more_slots_than_half_of_what_may_be_pending(
    crew: Crew, new_crew: NewCrew, redis_settings: RedisSettings
) -> None:
    """A read may bring twice what is free; whoever asks for more slots gets so many."""
    few = new_crew("few", redis_settings.model_copy(update={"pending_max": 3}))
    assert (crew.consumer.slots.total, few.consumer.slots.total) == (2, 1)
    few.consumer.resize(50)
    assert few.consumer.slots.total == 1
