"""What the end of a task counts, and what it refuses; its steps themselves are shown with the work streams."""

from __future__ import annotations

from dataclasses import replace

import pytest

from daemon.domain.errors import Code
from daemon.domain.events import Channel, Stage, error, started, token_batch
from daemon.domain.permits import Permit
from daemon.ports import Appended, Delivery, UnsupportedVersion
from daemon.redis_client import keys
from daemon.redis_client.connection import nodes_of
from tests.integration.redis_side import QUEUE, Side, task

PLACE = Permit(keys.user_permits("u1"), 3)
END = error(Stage.EXECUTE, Code.LLM_ERROR, "failed", retryable=False)


def fenced(side: Side, operation: str) -> float:
    return float(side.settlement._metrics.fenced.labels(operation)._value.get())


async def mine(side: Side) -> Delivery:
    await side.add()
    return (await side.work.fetch(QUEUE, 1))[0]


async def test_the_end_is_told_and_released_in_one_flush(side: Side) -> None:
    """Order within it is kept by the server; afterwards nobody holds the place."""
    await side.limiter.retake("t1:token", [PLACE], 60_000)
    await side.settlement.append_and_release(task(), 1, [started("m")], "t1:other", [PLACE])  # loads the scripts
    before = side.scripts.flushes
    appended = await side.settlement.append_and_release(task(), 1, [END], "t1:token", [PLACE])
    await side.settlement.append_and_release(task(), 1, [END], "t1:token", [PLACE])
    apart = min(2, len(await nodes_of(side.client)))  # in a cluster events and places may lie on two nodes
    assert side.scripts.flushes - before <= 2 * apart
    assert appended.accepted
    assert [str(e.type) for e in await side.events.read("t1")] == ["queued", "started", "error"]
    assert await side.client.zcard(PLACE.key) == 0


async def test_a_zombies_steps_are_counted_and_change_nothing(side: Side, other: Side) -> None:
    """Event, release and ack of somebody who lost the task: each refused, each visible to an operator."""
    d = await mine(side)
    await other.limiter.retake("t1:new", [PLACE], 60_000)
    await other.settlement.append(task(), 2, [started("m")])
    assert not (await side.settlement.append(task(), 1, [token_batch("zombie", Channel.TEXT)])).accepted
    await side.settlement.append_and_release(task(), 1, [END], "t1:old", [PLACE])
    await other.client.xclaim(keys.queue_keys(QUEUE).tasks, keys.GROUP, "b", 0, [d.id])
    assert not await side.settlement.ack(d)
    assert (fenced(side, "event"), fenced(side, "release"), fenced(side, "ack")) == (2, 1, 1)
    assert await side.client.zcard(PLACE.key) == 1
    assert [str(e.type) for e in await side.events.read("t1")] == ["queued", "started"]


async def test_an_append_after_the_end_is_no_zombies(side: Side) -> None:
    """A repeated tail finds its own end there: nothing to worry an operator with."""
    await side.settlement.append(task(), 1, [END])
    assert not (await side.settlement.append(task(), 1, [started("m")])).accepted
    assert fenced(side, "event") == 0


async def test_what_can_not_be_read_can_not_be_parked(side: Side) -> None:
    """Nobody would know when to wake it or whom to tell."""
    d = replace(await mine(side), entry=None, poison="torn")
    with pytest.raises(ValueError, match="dead-lettered"):
        await side.settlement.snooze(d, 1000, reason="RETRY_AT")


async def test_what_a_newer_release_wrote_keeps_the_time_its_wait_began(side: Side) -> None:
    """Laid aside again and again it is still the same wait."""
    d = await mine(side)
    assert await side.settlement.defer_unread(d, UnsupportedVersion("t1", b'{"new": 1, "parkedAt": 5}', 5), 1000)
    assert await side.client.hget(keys.queue_keys(QUEUE).held, "t1") == b'{"new": 1, "parkedAt": 5}'
    assert not await side.settlement.defer_unread(d, UnsupportedVersion("t1", b"{}", 5), 1000)


async def test_an_end_after_a_known_event_is_refused_when_something_came_since(side: Side) -> None:
    """Nothing is doubled: who repeats a tail looks again when the process before was still alive and went on."""
    await side.events.append(task(), 1, [started("m"), token_batch("a", Channel.TEXT)])
    assert await side.settlement.streamed_text(task(), 1) == ("a", 2)
    await side.events.append(task(), 1, [token_batch("b", Channel.TEXT)])

    rest = [token_batch("b", Channel.TEXT), END]
    refused = await side.settlement.append_and_release(task(), 1, rest, "", (), after=2)
    assert refused == Appended(accepted=False, ended=False, cancel=False, overtaken=True)
    assert await side.settlement.streamed_text(task(), 1) == ("ab", 3)
    for _ in range(2):  # a lost reply repeats it
        assert (await side.settlement.append_and_release(task(), 1, rest[1:], "", (), after=3)).accepted
    assert await side.settlement.streamed_text(task(), 1) == ("ab", 4)
