"""Work streams on a real server: every settle step is owner-checked, repeatable and leaves nothing behind."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from daemon.config import RedisSettings
from daemon.domain.errors import Code
from daemon.domain.events import started
from daemon.redis_client import keys
from daemon.redis_client.connection import NoGroup, connect_blocking
from tests.integration.redis_side import QUEUE, Side, task

pytestmark = [pytest.mark.redis_versions, pytest.mark.usefixtures("redis_version")]
NAMES = keys.queue_keys(QUEUE)


async def pending(side: Side, stream: str) -> int:
    return int((await side.client.xpending(stream, keys.GROUP))["pending"])


async def test_groups_are_made_at_zero_and_may_be_made_again(side: Side) -> None:
    """What was accepted before the first daemon ever ran is served."""
    await side.client.xgroup_destroy(NAMES.tasks, keys.GROUP)
    await side.add()
    await side.work.make_groups([QUEUE])
    await side.work.make_groups([QUEUE])
    assert [d.entry_id.split("/")[0] for d in await side.work.fetch(QUEUE, 5)] == ["tasks"]


async def test_ready_is_served_before_tasks_and_never_more_than_asked(side: Side) -> None:
    """COUNT is per stream in Redis; a read takes no more than there are slots."""
    for number in range(4):
        await side.add(f"t{number}")
    first = await side.work.fetch(QUEUE, 1)
    assert await side.work.requeue(first[0])
    read = await side.work.fetch(QUEUE, 2)
    assert [d.stream for d in read] == ["ready", "tasks"]
    assert [d.entry.message.task_id for d in read if d.entry] == ["t0", "t1"]


async def test_a_blocked_reader_is_woken_by_a_hand_back(side: Side, other: Side, redis_settings: RedisSettings) -> None:
    """A hand-back wakes another daemon at once."""
    await side.add()
    mine = (await side.work.fetch(QUEUE, 1))[0]
    async with connect_blocking(redis_settings) as blocking:
        waiting = asyncio.ensure_future(other.work.wait(blocking, QUEUE, 1, 40_000))  # noqa: TID251  # awaited below
        while not (await side.client.info("clients"))["blocked_clients"]:
            pass
        await side.work.requeue(mine)
        async with asyncio.timeout(10):
            assert [d.stream for d in await waiting] == ["ready"]


async def test_a_missing_group_is_named(side: Side) -> None:
    """FLUSHALL is noticed as such, by scripts and by plain commands."""
    await side.client.flushall()
    with pytest.raises(NoGroup):
        await side.work.fetch(QUEUE, 1)
    with pytest.raises(NoGroup):
        await side.work.own_pending(QUEUE)


async def test_the_place_is_given_back_once_when_the_task_begins(side: Side) -> None:
    """bp:queue counts what has not started: once down, however often it is said."""
    await side.add()
    await side.client.set(NAMES.counter, 5)
    mine = (await side.work.fetch(QUEUE, 1))[0]
    event = started("m")
    for _ in range(2):
        owned, appended = await side.settlement.begin(mine, task(), 1, event)
        assert owned
        assert appended.accepted
    assert await side.client.get(NAMES.counter) == b"4"
    assert await side.client.zcard(NAMES.waiting) == 0


async def test_a_counter_never_falls_below_zero(side: Side) -> None:
    """A counter that somebody reset is clamped, and each clamp counted."""
    await side.add()
    await side.client.set(NAMES.counter, 0)
    mine = (await side.work.fetch(QUEUE, 1))[0]
    await side.settlement.begin(mine, task(), 1, started("m"))
    assert await side.client.get(NAMES.counter) == b"0"
    assert side.settlement._metrics.counter_clamps.labels(QUEUE)._value.get() == 1


async def test_begin_tells_that_the_entry_is_not_ours_any_more(side: Side, other: Side) -> None:
    """Ownership is proved in the flush that says `started`."""
    await side.add()
    mine = (await side.work.fetch(QUEUE, 1))[0]
    swept = await other.work.reclaim(QUEUE, 0, 10, ("0-0", "0-0"), 1000)
    assert len(swept.deliveries) == 1
    owned, _ = await side.settlement.begin(mine, task(), 1, started("m"))
    assert not owned
    assert await side.client.get(NAMES.counter) == b"1"


async def test_ack_removes_entry_place_and_images_once(side: Side, other: Side) -> None:
    """After an ack nothing of the task is left in its queue; a second one, or a zombie's, changes nothing."""
    await side.add()
    mine = (await side.work.fetch(QUEUE, 1))[0]
    await other.work.reclaim(QUEUE, 60_000, 10, ("0-0", "0-0"), 1000)
    assert await side.settlement.ack(mine)
    assert not await side.settlement.ack(mine)
    assert await side.client.xlen(NAMES.tasks) == 0
    assert await pending(side, NAMES.tasks) == 0
    assert await side.client.get(NAMES.counter) == b"0"


async def test_an_ack_of_a_duplicate_leaves_the_place_alone(side: Side) -> None:
    """The place belongs to the task, not to a second entry of it."""
    await side.add()
    await side.add(place=False)
    first, second = await side.work.fetch(QUEUE, 2)
    assert first.id < second.id
    assert await side.settlement.ack(second, whole_task=False)
    assert await side.client.zscore(NAMES.waiting, "t1") == 1


async def test_a_parked_task_comes_back_through_ready(side: Side) -> None:
    """park -> due -> promote: the same message, its place kept, nothing in two places."""
    await side.add()
    mine = (await side.work.fetch(QUEUE, 1))[0]
    assert await side.settlement.snooze(mine, 1, reason="GUARD_USER", waiting_since_ms=7)
    assert not await side.settlement.snooze(mine, 1, reason="GUARD_USER")
    assert side.parked == [(QUEUE, 0.001)] * 2  # told again: the first reply may have been lost
    assert await side.client.hlen(NAMES.held) == 1
    assert await side.client.zscore(NAMES.waiting, "t1") == 1
    moved = 0
    async with asyncio.timeout(10):
        while not moved:
            moved, next_in_s, lost = await side.work.promote(QUEUE, 10)
    assert (moved, next_in_s, lost) == (1, None, [])
    again = (await side.work.fetch(QUEUE, 1))[0]
    assert again.stream == "ready"
    assert again.entry is not None
    assert (again.entry.parked, again.entry.parked_at) == ("GUARD_USER", 7)
    assert await side.client.exists(NAMES.held, NAMES.retry) == 0


async def test_promotion_says_when_the_next_one_is_due_and_names_lost_messages(side: Side) -> None:
    """The mover sleeps until then; an id without a message is an incident, not a crash."""
    await side.client.zadd(NAMES.retry, {"ghost": 1, "later": 4_000_000_000_000})
    moved, next_in_s, lost = await side.work.promote(QUEUE, 10)
    assert (moved, lost) == (0, ["ghost"])
    assert next_in_s is not None
    assert next_in_s > 1_000_000


async def test_forty_movers_promote_each_task_once(side: Side) -> None:
    """Any number of daemons may move at the same time."""
    for number in range(100):
        await side.client.zadd(NAMES.retry, {f"t{number}": 1})
        await side.client.hset(NAMES.held, f"t{number}", b"{}")
    moved = await asyncio.gather(*(side.work.promote(QUEUE, 5) for _ in range(40)))
    assert sum(m for m, _, _ in moved) == 100
    assert await side.client.xlen(NAMES.ready) == 100


async def test_a_dead_letter_holds_reason_and_no_content(side: Side) -> None:
    """What an operator needs, and no prompt."""
    await side.add()
    mine = (await side.work.fetch(QUEUE, 1))[0]
    assert await side.settlement.dead_letter(mine, code=Code.LLM_ERROR, reason="status 500", attempts=3)
    letters: Any = await side.client.xrange(NAMES.dead)
    fields = {k.decode(): v.decode() for k, v in letters[0][1].items()}
    assert fields["taskId"] == "t1"
    assert (fields["code"], fields["attempts"], fields["reason"]) == ("LLM_ERROR", "3", "status 500")
    assert "variables" not in str(fields)
    assert await side.client.get(NAMES.counter) == b"0"
    assert not await side.settlement.dead_letter(mine, code=Code.LLM_ERROR, reason="status 500", attempts=3)
    assert await side.client.xlen(NAMES.dead) == 1


async def test_poison_is_read_without_an_exception(side: Side) -> None:
    """An entry that is no JSON, lacks its field or is too large comes back as poison; its neighbours as deliveries."""
    await side.client.xadd(NAMES.tasks, {"task": b"\xff{"})
    await side.client.xadd(NAMES.tasks, {"other": "x"})
    await side.client.xadd(NAMES.tasks, {"task": b"x" * (2 * 1024 * 1024 + 1)})
    await side.add()
    read = await side.work.fetch(QUEUE, 10)
    assert [d.entry is None for d in read] == [True, True, True, False]
    assert all(d.poison for d in read[:3])
    assert await side.settlement.dead_letter(
        read[0], code=Code.INVALID_PAYLOAD, reason=read[0].poison, attempts=0, whole_task=False
    )


async def test_a_beat_renews_what_is_ours_and_names_what_is_not(side: Side, other: Side) -> None:
    """A zombie's beat is refused and takes nothing back; what nobody has is told apart from what another one has."""
    await side.add("t1")
    await side.add("t2")
    first, second = await side.work.fetch(QUEUE, 2)
    await side.client.xclaim(NAMES.tasks, keys.GROUP, "b", 0, [second.id])
    reply = (await side.scripts.run([side.work.renew_call(QUEUE, "tasks", [first.id, second.id, "1-1"])]))[0]
    assert reply == [[second.id.encode()], [b"1-1"]]
    owner = await side.client.xpending_range(NAMES.tasks, keys.GROUP, second.id, second.id, 1)
    assert owner[0]["consumer"] == b"b"


async def test_a_sweep_takes_over_only_what_is_idle_and_one_sweeper_at_a_time(side: Side, other: Side) -> None:
    """Entries within their lease stay; a second process finds the mark and leaves."""
    await side.add()
    await side.work.fetch(QUEUE, 1)
    early = await other.work.reclaim(QUEUE, 60_000, 10, ("0-0", "0-0"), 200)
    assert early.deliveries == []
    assert early.pending == {"a": 1}
    assert (await side.work.reclaim(QUEUE, 0, 10, ("0-0", "0-0"), 200)).elsewhere
    late = await other.work.reclaim(QUEUE, 0, 10, early.cursors, 200)
    assert [d.redelivered for d in late.deliveries] == [True]


async def test_a_sweep_names_entries_that_were_deleted_while_pending(side: Side, other: Side) -> None:
    """A lost payload is an incident with an id."""
    entry_id = await side.add()
    await side.work.fetch(QUEUE, 1)
    await side.client.xdel(NAMES.tasks, entry_id)
    swept = await other.work.reclaim(QUEUE, 0, 10, ("0-0", "0-0"), 200)
    assert swept.deleted == [f"tasks/{entry_id}"]


async def test_what_was_delivered_but_never_seen_is_read_back(side: Side) -> None:
    """A reply lost on its way is found again by its own consumer."""
    await side.add()
    await side.work.fetch(QUEUE, 1)
    again = await side.work.own_pending(QUEUE)
    assert [d.redelivered for d in again] == [True]


async def test_liveness_tells_who_reads_and_who_lapsed(side: Side, other: Side) -> None:
    """One shared record: members, and those whose time ran out."""
    await side.work.register(side.scripts, [QUEUE], 1)
    live = await other.work.register(other.scripts, [QUEUE], 60_000)
    async with asyncio.timeout(10):
        while not live.lapsed:
            live = await other.work.register(other.scripts, [QUEUE], 60_000)
    assert live.lapsed == {f"{QUEUE}/a"}
    assert live.members == {f"{QUEUE}/a", f"{QUEUE}/b"}
    await other.work.deregister([f"{QUEUE}/a", f"{QUEUE}/b"])
    assert (await other.work.register(other.scripts, [QUEUE], 60_000)).members == {f"{QUEUE}/b"}


async def test_a_consumer_with_pending_entries_is_never_buried(side: Side, other: Side) -> None:
    """XGROUP DELCONSUMER drops what is pending for good: looked at and removed in one script."""
    await side.add()
    mine = (await side.work.fetch(QUEUE, 1))[0]
    assert not await other.work.delete_consumer(QUEUE, "a")
    await side.settlement.ack(mine)
    assert await other.work.delete_consumer(QUEUE, "a")
    assert [c["name"] for c in await side.client.xinfo_consumers(NAMES.tasks, keys.GROUP)] == []


async def test_an_entry_is_handed_over_by_its_owner_alone(side: Side, other: Side) -> None:
    """It is pending all the time and renewed on the way; a repeated call changes nothing, a settled one is nobody's."""
    await side.add()
    mine = (await side.work.fetch(QUEUE, 1))[0]
    assert not await side.work.transfer(mine, "c", "b")
    for _ in range(2):
        assert await side.work.transfer(mine, "a", "b")
    assert [d.id for d in await other.work.own_pending(QUEUE)] == [mine.id]
    assert await side.work.own_pending(QUEUE) == []
    assert await side.work.idle_s(mine, "a") == 0.0 <= await side.work.idle_s(mine, "b") < 10
    await other.settlement.ack(mine)
    assert not await side.work.transfer(mine, "a", "b")


async def test_scripts_are_loaded_again_after_they_were_flushed(side: Side) -> None:
    """SCRIPT FLUSH and a restarted server cost one more round trip, nothing else."""
    await side.add()
    await side.client.script_flush()
    before = side.scripts.flushes
    assert len(await side.work.fetch(QUEUE, 1)) == 1
    assert side.scripts.flushes == before + 3
