"""A step is repeated while its server is away, and not for ever."""

from __future__ import annotations

import asyncio

import pytest

from daemon.domain.errors import LeaseLost, RedisAway, RedisFull, Rejected, StoreAway
from daemon.pipeline.call_scope import CallScope
from daemon.pipeline.retry_while_unavailable import retry_while_unavailable
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


async def patient(step: Step, *, scope: CallScope | None = None, limit_s: float = 60) -> str:
    return await retry_while_unavailable(step, scope, LoopClock(), limit_s)


@pytest.mark.parametrize("error", [RedisAway("away"), RedisFull("oom"), StoreAway("away")])
def test_an_outage_is_waited_out(error: Exception) -> None:
    """The step's answer comes when the server is back; the pauses grow to seconds, not to minutes."""

    @in_virtual_time
    async def run() -> None:
        step = Step(12, error)
        began = asyncio.get_running_loop().time()
        assert await patient(step) == "answer"
        assert 10 < asyncio.get_running_loop().time() - began < 40
        assert step.tries == 13

    run()


@in_virtual_time
async def test_the_waiting_has_an_end() -> None:
    """After its limit the server's own error comes out, at the latest one pause later."""
    began = asyncio.get_running_loop().time()
    with pytest.raises(StoreAway):
        await patient(Step(float("inf"), StoreAway("away")), limit_s=20)
    assert 20 < asyncio.get_running_loop().time() - began <= 25


@in_virtual_time
async def test_an_answer_of_the_server_is_not_argued_with() -> None:
    """Only being away is waited out."""
    step = Step(1, Rejected("no"))
    with pytest.raises(Rejected):
        await patient(step)
    assert step.tries == 1


@in_virtual_time
async def test_an_interruption_ends_the_waiting_unless_it_comes_too_late() -> None:
    """A lost lease or a stop is heeded before the commit; after it the tail is carried through."""
    scope = CallScope()
    asyncio.get_running_loop().call_later(3, scope.interrupt, LeaseLost("gone"))
    with pytest.raises(LeaseLost):
        await patient(Step(float("inf"), StoreAway("away")), scope=scope)
    assert await patient(Step(5, RedisAway("away"))) == "answer"
    assert await patient(Step(0, RedisAway("away")), scope=scope) == "answer"
