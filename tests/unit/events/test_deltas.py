"""Deltas on their way, in a time that the test owns and on a wire that does what it is told."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import msgspec
import pytest
from redis.asyncio import Redis

from daemon.config import EventSettings
from daemon.domain.errors import RedisAway, RedisFull
from daemon.domain.events import Channel
from daemon.domain.messages import TaskIdentity
from daemon.events.deltas import Deltas
from daemon.events.log import EventLog
from daemon.observability.metrics import Metrics
from daemon.ports import Appended
from daemon.redis_client.connection import NoGroup
from daemon.redis_client.scripts import Call, Scripts
from tests.virtual_time import LoopClock, elapsed, in_virtual_time

TEXT, REASONING = Channel.TEXT, Channel.REASONING
ACCEPTED, REFUSED, ENDED, CANCEL = [1, 1, 1, 0], [0, 2, 0, 0], [-1, 1, 9, 0], [1, 1, 1, 1]


class Wire(Scripts):
    """Takes batches as a server would: once for each nonce. `troubles` befall the next flushes, in order."""

    def __init__(self, latency_s: float = 0.0) -> None:
        super().__init__(cast("Redis", None))
        self.latency_s = latency_s
        self.troubles: list[Exception | list[Any]] = []
        self.lose_replies = False  #: troubles come after the batch was applied
        self.batches: list[tuple[float, str, list[str]]] = []  # when, task, deltas
        self._nonces: set[object] = set()

    async def run_each(self, calls: Sequence[Call]) -> list[Any]:
        self.flushes += 1
        trouble = self.troubles.pop(0) if self.troubles else None
        if trouble is None or (self.lose_replies and isinstance(trouble, Exception)):
            for call in calls:
                self._apply(call)
        await asyncio.sleep(self.latency_s)
        if isinstance(trouble, Exception):
            raise trouble
        return [ACCEPTED] * len(calls) if trouble is None else trouble

    def _apply(self, call: Call) -> None:
        nonce, events = call.args[0], call.args[7:]
        if nonce not in self._nonces:
            self._nonces.add(nonce)
            tails = [msgspec.json.decode(b"{" + cast("bytes", tail).lstrip(b",")) for tail in events[3::4]]
            deltas = [f"{t['channel'][0]}:{t['delta']}" for t in tails]
            self.batches.append((round(asyncio.get_running_loop().time(), 4), call.keys[0].split(":")[1], deltas))

    def told(self, task: str = "t1") -> list[str]:
        """Everything that a viewer of the task has seen, batch by batch."""
        return [delta for _, owner, deltas in self.batches if owner == task for delta in deltas]


@asynccontextmanager
async def running(wire: Wire) -> AsyncIterator[Deltas]:
    """The loop of a process."""
    settings = EventSettings()
    deltas = Deltas(wire, EventLog(wire, settings, LoopClock()), settings, Metrics(process=False))
    async with asyncio.TaskGroup() as group:
        loop = group.create_task(deltas.run())
        yield deltas
        loop.cancel()


def identity(task_id: str = "t1") -> TaskIdentity:
    return TaskIdentity(task_id, "q_paid_stream", "r", "t")


def never(answer: Appended) -> None:
    raise AssertionError(answer)


@in_virtual_time
async def test_deltas_are_collected_for_fifty_milliseconds() -> None:
    """One event for many tokens; the first is seen 50 ms after it came, not at the end."""
    wire = Wire()
    async with running(wire) as deltas:
        writer = deltas.open(identity(), 1, never)
        for number in range(10):
            writer.push(TEXT, str(number))
            await asyncio.sleep(0.01)
        assert wire.told() == ["t:012345"]
        assert 0.05 <= wire.batches[0][0] - 1000 <= 0.06
        await asyncio.sleep(0.1)
    assert wire.told() == ["t:012345", "t:6789"]


@pytest.mark.parametrize("size", [1, 200, 5000])
def test_no_second_holds_more_than_twenty_batches(size: int) -> None:
    """However fast the model writes and however large its tokens are; nothing is lost or reordered."""

    @in_virtual_time
    async def run() -> None:
        wire = Wire()
        async with running(wire) as deltas:
            writer = deltas.open(identity(), 1, never)
            for number in range(1500):
                writer.push(TEXT, f"{number:04d} ".ljust(size))
                await asyncio.sleep(0.002)
            rest = await writer.close()
        times = [at for at, _, _ in wire.batches]
        assert max(sum(begin <= at < begin + 1 for at in times) for begin in times) <= 19  # and one with the end
        text = "".join(delta[2:] for delta in wire.told()) + "".join(d.fields["delta"] for d in rest)
        assert text.split() == [f"{number:04d}" for number in range(1500)]

    run()


@pytest.mark.parametrize("text", ["x" * 1024, "字" * 342], ids=["letters", "characters of three bytes"])
@in_virtual_time
async def test_much_text_is_sent_at_once(text: str) -> None:
    """1 KiB, as UTF-8, does not wait for the clock."""
    wire = Wire()
    async with running(wire) as deltas:
        deltas.open(identity(), 1, never).push(TEXT, text)
        await asyncio.sleep(0.001)
    assert len(wire.batches) == 1


@in_virtual_time
async def test_a_change_of_channel_begins_a_new_event_in_order() -> None:
    """Thinking and answering keep their order within a batch; an empty delta is none."""
    wire = Wire()
    async with running(wire) as deltas:
        writer = deltas.open(identity(), 1, never)
        for channel, text in [(REASONING, "a"), (REASONING, "b"), (TEXT, "c"), (TEXT, ""), (REASONING, "d")]:
            writer.push(channel, text)
        await asyncio.sleep(0.1)
    assert [deltas_ for _, _, deltas_ in wire.batches] == [["r:ab", "t:c", "r:d"]]


@pytest.mark.parametrize("lost", [True, False])
@pytest.mark.parametrize("error", [RedisAway("away"), RedisFull("oom")])
def test_a_batch_whose_reply_was_lost_is_neither_doubled_nor_reordered(*, lost: bool, error: Exception) -> None:
    """It is sent again under its own nonce, before anything newer."""

    @in_virtual_time
    async def run() -> None:
        wire = Wire()
        wire.troubles, wire.lose_replies = [error, error], lost
        async with running(wire) as deltas:
            writer = deltas.open(identity(), 1, never)
            writer.push(TEXT, "one ")
            await asyncio.sleep(0.1)
            writer.push(TEXT, "two")
            await asyncio.sleep(2)
        assert wire.told() == ["t:one ", "t:two"]

    run()


@in_virtual_time
async def test_one_tasks_trouble_is_not_its_neighbours() -> None:
    """An error in the place of one reply is that task's: it tries again, or gives up, alone."""
    wire = Wire()
    async with running(wire) as deltas:
        one, two = deltas.open(identity("t1"), 1, never), deltas.open(identity("t2"), 1, never)
        wire.troubles = [[NoGroup("gone"), ACCEPTED]]
        one.push(TEXT, "a")
        two.push(TEXT, "b")
        await asyncio.sleep(1)
        assert wire.told("t1") == ["t:a"]
        wire.troubles = [[ValueError("wrong type"), ACCEPTED]]
        one.push(TEXT, "c")
        two.push(TEXT, "d")
        await asyncio.sleep(1)
        assert await one.close() == []
        assert wire.told("t1") == ["t:a"]


@pytest.mark.parametrize(
    ("reply", "answer", "goes_on"),
    [
        (REFUSED, Appended(accepted=False, ended=False, cancel=False), False),
        (ENDED, Appended(accepted=False, ended=True, cancel=False), False),
        (CANCEL, Appended(accepted=True, ended=False, cancel=True), True),
    ],
)
def test_the_attempt_is_told_what_the_stream_says(reply: list[int], answer: Appended, *, goes_on: bool) -> None:
    """A refusal or a cancel reaches it with the next batch; a refused writer sends and keeps nothing more."""

    @in_virtual_time
    async def run() -> None:
        wire, heard = Wire(), list[Appended]()
        async with running(wire) as deltas:
            writer = deltas.open(identity(), 1, heard.append)
            wire.troubles = [[reply]]
            writer.push(TEXT, "a")
            await asyncio.sleep(0.1)
            assert heard == [answer]
            writer.push(TEXT, "b")
            assert bool(await writer.close()) is goes_on

    run()


@in_virtual_time
async def test_the_end_takes_over_what_was_not_sent() -> None:
    """`close` hands over the rest, to be appended with the last event, and nothing of it is sent besides."""
    wire = Wire()
    async with running(wire) as deltas:
        writer = deltas.open(identity(), 1, never)
        writer.push(TEXT, "one ")
        await asyncio.sleep(0.1)
        writer.push(REASONING, "two")
        await check(writer.close(), ["two"])
        await asyncio.sleep(5)
    assert wire.told() == ["t:one "]


@in_virtual_time
async def test_a_close_and_a_flush_wait_for_the_batch_under_way() -> None:
    """Nothing overtakes a batch whose answer is not there yet, and nothing is left out."""
    for flush in (True, False):
        wire = Wire(latency_s=0.3)
        async with running(wire) as deltas:
            writer = deltas.open(identity(), 1, never)
            writer.push(TEXT, "one ")
            await asyncio.sleep(0.1)
            writer.push(REASONING, "two")
            if flush:
                await writer.flush()
                assert wire.told() == ["t:one ", "r:two"]
                assert not writer.waiting
            rest = [f"r:{draft.fields['delta']}" for draft in await writer.close()]
        assert wire.told() + rest == ["t:one ", "r:two"]


async def check(closing: Any, expected: list[str]) -> None:
    assert [draft.fields["delta"] for draft in await closing] == expected


@in_virtual_time
async def test_a_close_outlives_an_outage() -> None:
    """The batch under way is known to be in before the end is told, however long Redis takes."""
    wire = Wire()
    wire.troubles = [RedisAway("away")] * 20
    async with running(wire) as deltas:
        writer = deltas.open(identity(), 1, never)
        writer.push(TEXT, "one")
        await asyncio.sleep(0.1)
        assert await writer.close() == []
    assert wire.told() == ["t:one"]
    assert wire.troubles == []


@in_virtual_time
async def test_a_flush_sends_everything_now_and_never_blocks_the_commit() -> None:
    """Before the commit all text is told, if Redis takes it within a second; else it stays for the end."""
    wire = Wire()
    async with running(wire) as deltas:
        writer = deltas.open(identity(), 1, never)
        writer.push(TEXT, "one")
        assert await elapsed(writer.flush()) == pytest.approx(0)
        assert wire.told() == ["t:one"]
        writer.push(TEXT, "two")
        wire.troubles = [RedisAway("away")] * 50
        await asyncio.sleep(0.1)
        writer.push(TEXT, "three")
        assert await elapsed(writer.flush()) == pytest.approx(1)
        wire.troubles.clear()
        await check(writer.close(), ["three"])
    assert wire.told() == ["t:one", "t:two"]


@in_virtual_time
async def test_a_flush_that_fails_goes_on_under_its_nonce() -> None:
    """What `flush` could not get through, the loop does."""
    wire = Wire()
    async with running(wire) as deltas:
        writer = deltas.open(identity(), 1, never)
        writer.push(TEXT, "one")
        wire.troubles, wire.lose_replies = [RedisAway("away")], True
        await writer.flush()
        assert await writer.close() == []
    assert wire.told() == ["t:one"]


@in_virtual_time
async def test_an_abandoned_writer_says_nothing_more() -> None:
    """The attempt is not ours: what was buffered is dropped."""
    wire = Wire()
    async with running(wire) as deltas:
        writer = deltas.open(identity(), 1, never)
        writer.push(TEXT, "a")
        writer.abandon()
        writer.push(TEXT, "b")
        await asyncio.sleep(1)
    assert wire.batches == []


@in_virtual_time
async def test_a_thousand_writers_share_their_flushes() -> None:
    """A thousand streams cost some flushes more than one stream, not a thousand times as many."""
    wire = Wire(latency_s=0.002)
    async with running(wire) as deltas:
        writers = [deltas.open(identity(f"t{number}"), 1, never) for number in range(1000)]
        for step in range(40):
            for writer in writers:
                writer.push(TEXT, f"{step} ")
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)
    assert wire.flushes <= 45 * 4  # of 256 tasks each
    told: defaultdict[str, str] = defaultdict(str)
    for _, task, texts in wire.batches:
        told[task] += "".join(text[2:] for text in texts)
    assert set(told.values()) == {"".join(f"{step} " for step in range(40))}
    assert len(told) == 1000


@in_virtual_time
async def test_an_idle_loop_sends_nothing() -> None:
    """No viewer, no text, no command."""
    wire = Wire()
    async with running(wire):
        await asyncio.sleep(3600)
    assert wire.flushes == 0
