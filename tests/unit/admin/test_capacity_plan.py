"""From a load to settings, limits and money."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from daemon.admin.capacity import Load
from daemon.admin.capacity_plan import Wishes, plan
from daemon.domain.queues import Tier
from daemon.services import Model, Price

USUAL = Load(per_minute=10, mean_s=60, p95_s=180, sla_s=300)
WISHES = Wishes(target=0.98, slots_a_process=10)
MODEL = Model(
    "m", "openai", "gpt", concurrency=MappingProxyType({Tier.PAID: 4, Tier.FREE: 4}), requests_per_minute=600,
    tokens_per_minute=100_000, prices=(Price(1.0, 0.1, 2.0),),
)  # fmt: skip


def test_the_first_line_says_slots_and_ceiling() -> None:
    """Nobody must look for it."""
    found = plan(USUAL, WISHES)
    assert found.reachable
    assert found.verdict == (
        "12 slots end 98.15% within 300 s at 10 a minute; the ceiling is 98.58%: 1.42% of these tasks take longer than"
        " 300 s by themselves."
    )
    assert (found.processes, found.slots, found.max_size) == (2, 20, 24)
    assert [row.slots for row in found.table] == [10, 11, 12, 13, 14, 17]
    assert "steady arrivals only" in found.advice[0]


def test_an_unreachable_target_is_said_with_a_way_out() -> None:
    """A time limit for attempts, and its price."""
    found = plan(USUAL, replace(WISHES, target=0.99))
    assert not found.reachable
    assert found.verdict.startswith("No number of slots ends 99.00% within 300 s; the ceiling is 98.58%")
    assert found.advice[0].startswith("total_s = 180 in the services file would let 11 slots end 99.")
    assert "ending 5.0% of the attempts unfinished" in found.advice[0]


def test_a_promise_that_a_limit_keeps_has_no_ceiling() -> None:
    """The line says so instead of 100 %."""
    assert "every attempt ends before 300 s" in plan(replace(USUAL, timeout_s=180), WISHES).verdict


def test_a_process_may_be_lost() -> None:
    """Slots and memory count it."""
    found = plan(USUAL, replace(WISHES, lost=1, backlog=100))
    assert (found.processes, found.slots) == (3, 30)
    assert found.memory_mb == 3 * 90 + 45
    assert found.backlog_s is not None
    assert round(found.backlog_s) == 3000


def test_the_limit_that_binds_first_is_named() -> None:
    """Eight places at the model are fewer than ten attempts at once."""
    found = plan(USUAL, replace(WISHES, models=(MODEL,), tokens_in=1000, tokens_out=500))
    assert [(limit.what, round(limit.share, 2)) for limit in found.limits] == [
        ("concurrency", 1.31), ("tokens_per_minute", 0.16), ("requests_per_minute", 0.02),
    ]  # fmt: skip
    assert any(line.startswith("m binds first: concurrency would be 10 of 8.") for line in found.advice)
    assert found.cost_month_usd is not None
    assert round(found.cost_month_usd, 2) == round(10 * 60 * 24 * 30 * 1.05 * 0.002, 2)


def test_bursts_ask_more_of_limits() -> None:
    """The peak counts, not the mean."""
    busy = replace(USUAL, burst=3.0, burst_s=300.0)
    found = plan(busy, replace(WISHES, models=(MODEL,)))
    assert round(found.limits[0].share, 1) == 3.9
    assert found.cost_month_usd is None, "no tokens, no price"
    assert "with 3x bursts of 5 min each hour" in found.verdict
