"""What all processes know of a model, and an operator's hand on it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from daemon.config import GuardSettings, RedisSettings
from daemon.domain.permits import CallReport, Candidate, Granted, NoModelAvailable, Permit, PermitRequest
from daemon.limiter.models import ModelStates
from daemon.limiter.permits import RedisLimiter
from daemon.redis_client import keys
from daemon.redis_client.connection import connect
from daemon.redis_client.scripts import Scripts

GPT = Candidate("gpt", "paid", Permit(keys.model_permits("gpt", "paid"), 10), requests_per_minute=60)


class Desk:
    """Guards and the view on them."""

    def __init__(self, scripts: Scripts) -> None:
        self.limiter = RedisLimiter(scripts, GuardSettings(breaker_failures=2))
        self.models = ModelStates(scripts)

    async def call(self, task_id: str, report: CallReport | None = None) -> Granted | NoModelAvailable:
        asked = PermitRequest(f"{task_id}:x", f"q/{task_id}", 1, True, (), (GPT,))  # noqa: FBT003  # its place says it
        answer = await self.limiter.acquire(asked, 60_000)
        assert isinstance(answer, Granted | NoModelAvailable)
        if isinstance(answer, Granted) and report is not None:
            await self.limiter.release(asked.token, answer.permits, report)
        return answer


@pytest.fixture
async def desk(redis_settings: RedisSettings) -> AsyncIterator[Desk]:
    async with connect(redis_settings) as client:
        yield Desk(Scripts(client))


async def test_a_model_that_nobody_used_is_open(desk: Desk) -> None:
    """Zeros, not errors."""
    [found] = await desk.models.read(["gpt"])
    assert (found.cooldown_reason, found.breaker, found.running, found.waiting) == (
        "",
        "closed",
        {"paid": 0, "free": 0},
        0,
    )


async def test_running_failures_breaker_and_rates_are_seen(desk: Desk) -> None:
    """Two that fail open the breaker of this test."""
    await desk.call("runs")
    await desk.call("t1", CallReport(GPT, "failed"))
    [found] = await desk.models.read(["gpt"])
    assert (found.running["paid"], found.failures, found.breaker) == (1, 1, "closed")
    assert found.rpm_owed_s > 0
    await desk.call("t2", CallReport(GPT, "failed"))
    [found] = await desk.models.read(["gpt"])
    assert found.breaker == "open" and found.breaker_s is not None and 25 < found.breaker_s <= 30
    await desk.models.unblock("gpt")
    assert isinstance(await desk.call("t3"), Granted)


async def test_an_operator_closes_a_model_and_opens_it_again(desk: Desk) -> None:
    """Nothing begins meanwhile; the reason is kept."""
    await desk.models.block("gpt", 60, "incident")
    answer = await desk.call("t1")
    assert isinstance(answer, NoModelAvailable) and 59_000 < answer.opens_in_ms <= 60_000
    [found] = await desk.models.read(["gpt"])
    assert found.cooldown_reason == "incident" and found.cooldown_s is not None and found.cooldown_s > 59
    await desk.models.unblock("gpt")
    assert isinstance(await desk.call("t1"), Granted)
