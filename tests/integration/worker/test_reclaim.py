"""Taking over from the dead, on a real server."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from daemon.config import QueueSettings
from daemon.pipeline.in_flight import InFlight
from daemon.queues.streams import WorkStreams
from daemon.redis_client import keys
from daemon.redis_client.scripts import Scripts
from daemon.worker.proof_of_death import own_facts
from tests.integration.worker.conftest import LEASE, NAMES, QUEUE, Crew, NewCrew
from tests.waiting import WaitUntil


async def die_with(crew: Crew, *task_ids: str, name: str = "dead") -> WorkStreams:
    """A consumer that registered, read these, and was never heard of again."""
    dead = WorkStreams(Scripts(crew.client), QueueSettings(), name)
    await dead.register(Scripts(crew.client), [QUEUE], 50)
    await crew.add(*task_ids)
    assert len(await dead.fetch(QUEUE, len(task_ids))) == len(task_ids)
    return dead


async def members(crew: Crew) -> set[str]:
    found: Any = await crew.client.zrange(keys.CONSUMERS, 0, -1)
    return {member.decode() for member in found}


async def consumers(crew: Crew) -> set[str]:
    found: Any = await crew.client.xinfo_consumers(NAMES.tasks, keys.GROUP)
    return {row["name"].decode() for row in found}


async def test_the_work_of_the_dead_is_taken_over_and_they_are_buried(crew: Crew, wait_until: WaitUntil) -> None:
    """All of it, through as few slots as there are; then neither consumer nor record of them is left."""
    await die_with(crew, *(f"t{number}" for number in range(25)))
    async with crew.at_work("consumer", "leases", "reclaimer"):
        await wait_until(lambda: len(crew.ended) == 25, description="all were run")
        await wait_until(lambda: buried(crew), description="nothing is left of them")
    assert sorted(crew.began) == sorted(f"t{number}" for number in range(25))
    assert all(in_flight.delivery.redelivered for in_flight in crew.holds)
    assert await crew.waiting() == 0
    assert crew.metrics.reclaimed.labels(QUEUE)._value.get() == 25


async def buried(crew: Crew) -> bool:
    return "dead" not in await consumers(crew) and f"{QUEUE}/dead" not in await members(crew)


async def test_a_great_many_dead_do_not_keep_the_living_busy(crew: Crew, wait_until: WaitUntil) -> None:
    """They are buried a hundred in a flush, so that between two looks nobody waits for the rest of them."""
    pipe = crew.client.pipeline(transaction=False)
    for number in range(500):
        pipe.xgroup_createconsumer(NAMES.tasks, keys.GROUP, f"dead{number}")
        pipe.zadd(keys.CONSUMERS, {f"{QUEUE}/dead{number}": 1})
    await pipe.execute()
    before = crew.scripts.flushes
    async with crew.at_work("reclaimer"):
        await wait_until(lambda: alone(crew), description="nothing is left of them")
    assert crew.scripts.flushes - before < 50


async def alone(crew: Crew) -> bool:
    return await consumers(crew) <= {"a"} and await members(crew) == {f"{QUEUE}/a"}


async def test_take_over_waits_for_the_lease_and_not_much_longer(crew: Crew, wait_until: WaitUntil) -> None:
    """Whoever only stumbled has until then to beat again."""
    loop = asyncio.get_running_loop()
    await die_with(crew, "t1")
    began = loop.time()
    async with crew.at_work("consumer", "leases", "reclaimer"):
        await wait_until(lambda: crew.began, description="taken over")
        assert LEASE.lease_s - 0.05 <= loop.time() - began <= 3 * LEASE.lease_s


async def test_nobody_full_takes_over_what_it_can_not_run(crew: Crew, new_crew: NewCrew, wait_until: WaitUntil) -> None:
    """The entries are left to processes with free slots."""
    other = new_crew("b")
    crew.gate.clear()
    async with crew.at_work("consumer", "leases", "reclaimer"), other.at_work("leases"):
        await crew.add("mine1", "mine2")
        await wait_until(lambda: len(crew.began) == 2, description="full")
        await die_with(crew, "t1", "t2", "t3")
        await asyncio.sleep(LEASE.lease_s * 2)
        assert await crew.pending("a") == 2
        async with other.at_work("consumer", "reclaimer"):
            await wait_until(lambda: len(other.ended) == 3, description="the other has run them")


async def test_work_that_others_hold_hides_nothing(crew: Crew, new_crew: NewCrew, wait_until: WaitUntil) -> None:
    """The sweep goes on where it stopped: what lies behind many living entries is found through two slots, too."""
    other = new_crew("b")
    await crew.add(*(f"t{number}" for number in range(60)))
    for d in await other.work.fetch(QUEUE, 60):
        other.leases.add(InFlight(d))
    async with other.at_work("leases"):
        await die_with(crew, "lost")
        async with crew.at_work("consumer", "leases", "reclaimer"):
            await wait_until(lambda: crew.ended == ["lost"], description="found behind them")
    assert await crew.pending("b") == 60


async def test_two_living_processes_run_each_entry_once(crew: Crew, new_crew: NewCrew, wait_until: WaitUntil) -> None:
    """Both sweep; one at a time."""
    other = new_crew("b")
    await die_with(crew, *(f"t{number}" for number in range(30)))
    async with crew.at_work("consumer", "leases", "reclaimer"), other.at_work("consumer", "leases", "reclaimer"):
        await wait_until(lambda: len(crew.ended) + len(other.ended) == 30, description="all were run")
    assert len({*crew.began, *other.began}) == 30


async def test_while_all_live_nothing_is_swept(crew: Crew, new_crew: NewCrew) -> None:
    """One shared record tells: an idle process asks that and no stream."""
    other = new_crew("b")
    await other.reclaimer.register()
    async with crew.at_work("reclaimer"), other.at_work("reclaimer"):
        await asyncio.sleep(0.3)  # the sweep at start
        swept = await sweeps(crew)
        await asyncio.sleep(1.0)
        assert await sweeps(crew) == swept
        assert await members(crew) == {f"{QUEUE}/a", f"{QUEUE}/b"}


async def sweeps(crew: Crew) -> int:
    stats: Any = await crew.client.info("commandstats")
    return int(stats.get("cmdstat_xautoclaim", {"calls": 0})["calls"])


async def test_a_queue_where_something_of_ours_was_left_is_swept(crew: Crew, wait_until: WaitUntil) -> None:
    """An attempt that gave up with its entry pending: found again one lease later, by ourselves."""
    await crew.add("t1")
    await crew.work.fetch(QUEUE, 1)
    async with crew.at_work("consumer", "leases", "reclaimer"):
        await asyncio.sleep(0.1)
        crew.reclaimer.suspect(QUEUE)
        await wait_until(lambda: crew.ended == ["t1"], description="run at last")


async def test_an_entry_whose_content_is_gone_is_told(crew: Crew, wait_until: WaitUntil) -> None:
    """An incident with a name: it is repaired from Postgres."""
    await die_with(crew, "t1", "t2")
    first: Any = await crew.client.xrange(NAMES.tasks, count=1)
    await crew.client.xdel(NAMES.tasks, first[0][0])
    async with crew.at_work("consumer", "leases", "reclaimer"):
        await wait_until(lambda: crew.lost, description="told")
        await wait_until(lambda: crew.ended == ["t2"], description="the other one was run")
    assert crew.lost == [(QUEUE, [f"tasks/{first[0][0].decode()}"])]


async def test_the_mover_is_told_when_somebody_goes(crew: Crew, new_crew: NewCrew, wait_until: WaitUntil) -> None:
    """What the other one slept for is anybody's now: after a death, and after a clean stop."""
    other = new_crew("b")
    await other.reclaimer.register()
    async with crew.at_work("reclaimer"):
        await wait_until(lambda: members(crew), description="it looks")
        await asyncio.sleep(0.1)
        crew.changed.clear()
        await other.reclaimer.deregister()
        await wait_until(lambda: crew.changed, description="told of the stop")
        await die_with(crew, "t1")
        crew.changed.clear()
        await wait_until(lambda: crew.changed, description="told of the death")


async def test_a_clean_stop_leaves_no_record(crew: Crew) -> None:
    """Nobody needs to sweep after us; but with something of ours pending the record stays, and leads to it."""
    await crew.reclaimer.register()
    await crew.reclaimer.deregister()
    assert await members(crew) == set()
    await crew.reclaimer.register()
    await crew.add("t1")
    await crew.work.fetch(QUEUE, 1)
    await crew.reclaimer.deregister()
    assert await members(crew) == {f"{QUEUE}/a"}
    assert "a" in await consumers(crew)


async def test_a_flushed_server_is_swept_again_when_it_has_groups(crew: Crew, wait_until: WaitUntil) -> None:
    """A sweep without a group is trouble, not the end of the loop."""
    await crew.client.flushall()
    async with crew.at_work("reclaimer"):
        await wait_until(crew.metrics.redis_errors.labels("away")._value.get, description="in trouble")
        await crew.work.make_groups([QUEUE])
        await die_with(crew, "t1")
        async with crew.at_work("consumer", "leases"):
            await wait_until(lambda: crew.ended == ["t1"], description="taken over all the same")


@pytest.mark.parametrize("count", [1, 3])
async def test_a_resumed_zombie_is_registered_again(crew: Crew, count: int, wait_until: WaitUntil) -> None:
    """Stopped for longer than its record lives and then back: it reads on under its name."""
    async with crew.at_work("consumer", "leases", "reclaimer"):
        for number in range(count):
            await crew.client.zadd(keys.CONSUMERS, {f"{QUEUE}/a": 1})
            await wait_until(lambda: alive(crew), description="registered again")
            await crew.add(f"t{number}")
            await wait_until(lambda number=number: len(crew.ended) == number + 1, description="it works")


async def alive(crew: Crew) -> bool:
    score: Any = await crew.client.zscore(keys.CONSUMERS, f"{QUEUE}/a")
    return score is not None and score > 1


# --- recovery before new work, and proofs of death ---------------------------------------------------------------


async def test_new_work_waits_for_what_lapsed_consumers_left(crew: Crew, wait_until: WaitUntil) -> None:
    """A record has lapsed and its entries may not be taken yet: the slots for them stay free, whatever waits."""
    await die_with(crew, "lost1", "lost2")
    await crew.add(*(f"new{number}" for number in range(20)))
    await wait_until(lambda: lapsed(crew), description="its record has lapsed")
    await crew.reclaimer.register()
    async with crew.at_work("consumer", "leases", "reclaimer"):
        await wait_until(lambda: len(crew.ended) == 22, description="all were run")
    assert sorted(crew.began[:2]) == ["lost1", "lost2"]


async def lapsed(crew: Crew) -> bool:
    register = await crew.work.register(Scripts(crew.client), [QUEUE], 1000)
    return f"{QUEUE}/dead" in register.lapsed


async def test_slots_are_kept_free_for_a_lease_at_most(crew: Crew, wait_until: WaitUntil) -> None:
    """What a lapsed consumer has but goes on renewing does not stop a queue."""
    dead = await die_with(crew, "held1", "held2")
    rows: Any = await crew.client.xpending_range(NAMES.tasks, keys.GROUP, "-", "+", 9)
    held = [row["message_id"].decode() for row in rows]
    await crew.add("new")
    async with crew.at_work("consumer", "leases", "reclaimer"):

        async def renewed() -> bool:
            await crew.scripts.run([dead.renew_call(QUEUE, "tasks", held)])
            return crew.ended == ["new"]

        await wait_until(renewed, description="new work is read all the same", within_s=5 * LEASE.lease_s)


async def die_proved(crew: Crew, *task_ids: str, name: str = "host-1-0000dead") -> None:
    """As `die_with`, by a process of this host whose record is still good for a minute."""
    dead = WorkStreams(Scripts(crew.client), QueueSettings(), name)
    no_such_pid = replace(own_facts(), pid=str(2**22 + 1)).record()  # beyond the kernel's largest
    await dead.register(Scripts(crew.client), [QUEUE], 60_000, no_such_pid)
    await crew.add(*task_ids)
    assert len(await dead.fetch(QUEUE, len(task_ids))) == len(task_ids)


async def test_a_proved_death_is_not_waited_for(crew: Crew, wait_until: WaitUntil) -> None:
    """At the first look, before anything new, as slots come free; with the permits of each task that is taken."""
    loop = asyncio.get_running_loop()
    await die_proved(crew, *(f"lost{number}" for number in range(5)))
    await crew.add(*(f"new{number}" for number in range(5)))
    await crew.reclaimer.register()
    began = loop.time()
    async with crew.at_work("consumer", "leases"):  # nobody but the consumer asks
        await wait_until(lambda: len(crew.ended) == 10, description="all were run")
    assert loop.time() - began < LEASE.lease_s
    assert sorted(crew.began[:5]) == [f"lost{number}" for number in range(5)]
    assert {owner for owners, _ in crew.freed for owner in owners} == {"host-1-0000dead"}
    assert sorted(task_id for _, tasks in crew.freed for task_id in tasks) == sorted(crew.began[:5])
    assert crew.proofs.dead == {"host-1-0000dead"}


async def test_the_record_of_a_dead_process_goes_with_its_last_entry(crew: Crew, wait_until: WaitUntil) -> None:
    """Its consumer, its liveness and its facts."""
    await die_proved(crew, "t1", name="dead")
    await crew.client.zadd(keys.CONSUMERS, {f"{QUEUE}/dead": 1})  # it has lapsed as well
    async with crew.at_work("consumer", "leases", "reclaimer"):
        await wait_until(lambda: buried(crew), description="nothing is left of it")
        facts: Any = await crew.client.hkeys(keys.PROCESSES)
        assert facts == [b"a"]
    await crew.reclaimer.deregister()
    assert not await crew.client.exists(keys.PROCESSES)


async def test_a_process_that_lives_is_left_alone(crew: Crew, new_crew: NewCrew) -> None:
    """It stands where the dead one stood, with facts that in_flight."""
    other = new_crew("b")
    await other.reclaimer.register()
    await crew.add("t1")
    await other.work.fetch(QUEUE, 1)
    await crew.reclaimer.register()
    async with crew.at_work("consumer", "leases"):
        await asyncio.sleep(LEASE.lease_s / 4)
    assert crew.began == []
    assert await crew.pending("b") == 1
