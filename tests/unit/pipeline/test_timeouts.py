"""Three clocks of a model call, on a loop whose time the test owns."""

from __future__ import annotations

import asyncio

import pytest

from daemon.domain.errors import ProviderError
from daemon.pipeline.call_scope import CallScope
from daemon.pipeline.timeouts import Timeouts, TimeoutWatch
from tests.virtual_time import elapsed, in_virtual_time

LIMITS = Timeouts(first_token_s=10, idle_s=5, total_s=30)


async def call(*pauses: float, streams: bool = True, limits: Timeouts = LIMITS) -> tuple[float, str]:
    """Sleep each pause, with a token after each but the last; when and why it ended."""
    loop = asyncio.get_running_loop()
    began, scope = loop.time(), CallScope()
    try:
        async with scope:
            with TimeoutWatch(scope, limits, streams=streams) as clocks:
                for number, pause in enumerate(pauses):
                    await asyncio.sleep(pause)
                    if number + 1 < len(pauses):
                        assert clocks.token() is (number == 0)
    except ProviderError as error:
        return round(loop.time() - began, 6), f"{error.code}: {error.detail}"
    return round(loop.time() - began, 6), ""


@pytest.mark.parametrize(
    ("pauses", "streams", "expected"),
    [
        ((60,), True, (10, "LLM_TIMEOUT: no first token within 10 s")),
        ((1, 60), True, (6, "LLM_TIMEOUT: no token for 5 s")),
        ((9, 60), True, (14, "LLM_TIMEOUT: no token for 5 s")),
        ((9, 4.9, 4.9, 60), True, (23.8, "LLM_TIMEOUT: no token for 5 s")),
        ((1, *([4.9] * 10)), True, (30, "LLM_TIMEOUT: no end within 30 s")),
        ((9.9, 4.9, 4.9, 1), True, (20.7, "")),
        ((60,), False, (30, "LLM_TIMEOUT: no end within 30 s")),
        ((29,), False, (29, "")),
    ],
)
def test_whichever_clock_runs_out_first_ends_the_call(
    pauses: tuple[float, ...], *, streams: bool, expected: tuple[float, str]
) -> None:
    """First token, between tokens, total; a batch call has only the last."""

    @in_virtual_time
    async def run() -> None:
        assert await call(*pauses, streams=streams) == expected

    run()


@in_virtual_time
async def test_a_total_shorter_than_the_first_token_clock_wins() -> None:
    """The clocks are independent: whatever is due first."""
    assert await call(60, limits=Timeouts(first_token_s=60, idle_s=60, total_s=3)) == (
        3,
        "LLM_TIMEOUT: no end within 3 s",
    )


@in_virtual_time
async def test_keep_alives_arm_nothing() -> None:
    """What is no text is not told to the clocks, so a vendor that only pings runs into the first limit."""
    scope = CallScope()

    async def ping() -> None:
        async with scope:
            with TimeoutWatch(scope, LIMITS, streams=True):
                for _ in range(100):
                    await asyncio.sleep(1)

    assert await elapsed(ping()) == pytest.approx(10)
    assert isinstance(scope.interrupted, ProviderError)


@in_virtual_time
async def test_a_call_that_ended_leaves_no_timer_behind() -> None:
    """A clock never strikes a later step of the same attempt."""
    scope = CallScope()
    async with scope:
        with TimeoutWatch(scope, LIMITS, streams=True) as clocks:
            clocks.token()
    await asyncio.sleep(100)
    assert scope.interrupted is None
