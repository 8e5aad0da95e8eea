"""A step is repeated while its server is away, and not for ever."""

from __future__ import annotations

import asyncio

import pytest

from daemon.domain.errors import LeaseLost, RedisAway, RedisFull, Rejected, StoreAway
from daemon.pipeline.in_flight import Hold
from daemon.pipeline.retry_while_unavailable import Patience
from daemon.ports import Delivery
from tests.virtual_time import LoopClock, in_virtual_time


class Step:
    """Fails so often, then answers."""

    def __init__(self, times: float, error: Exception) -> None:
        self.times, self.error, self.tries = times, error, 0

    async def __call__(self) -> str:
        self.tries += 1
        if self.tries <= self.times:
            raise self.error
        return "answer"


def patience(limit_s: float = 60) -> tuple[Patience, Hold]:
    hold = Hold(Delivery("q", "tasks", "1-1", None))
    return Patience(hold, LoopClock(), limit_s), hold


@pytest.mark.parametrize("error", [RedisAway("away"), RedisFull("oom"), StoreAway("away")])
def test_an_outage_is_waited_out(error: Exception) -> None:
    """The step's answer comes when the server is back; the pauses grow to seconds, not to minutes."""

    @in_virtual_time
    async def run() -> None:
        waiting, _ = patience()
        step = Step(12, error)
        began = asyncio.get_running_loop().time()
        assert await waiting.of(step) == "answer"
        assert 10 < asyncio.get_running_loop().time() - began < 40
        assert step.tries == 13

    run()


@in_virtual_time
async def test_patience_has_an_end() -> None:
    """After its limit the server's own error comes out, at the latest one pause later."""
    waiting, _ = patience(limit_s=20)
    began = asyncio.get_running_loop().time()
    with pytest.raises(StoreAway):
        await waiting.of(Step(float("inf"), StoreAway("away")))
    assert 20 < asyncio.get_running_loop().time() - began <= 25


@in_virtual_time
async def test_an_answer_of_the_server_is_not_argued_with() -> None:
    """Only being away is waited out."""
    waiting, _ = patience()
    step = Step(1, Rejected("no"))
    with pytest.raises(Rejected):
        await waiting.of(step)
    assert step.tries == 1


@in_virtual_time
async def test_an_interruption_ends_the_waiting_unless_it_comes_too_late() -> None:
    """A lost lease or a stop is heeded before the commit; after it the tail is carried through."""
    waiting, hold = patience()
    asyncio.get_running_loop().call_later(3, hold.scope.interrupt, LeaseLost("gone"))
    with pytest.raises(LeaseLost):
        await waiting.of(Step(float("inf"), StoreAway("away")))
    assert await waiting.of(Step(5, RedisAway("away")), heed=False) == "answer"
    assert await waiting.of(Step(0, RedisAway("away"))) == "answer"
