"""Guards on a real server: places, lines, turns, closings and the breaker, each as its promise says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from daemon.config import GuardSettings, RedisSettings
from daemon.domain.events import Reason
from daemon.domain.permits import (
    CallReport,
    Candidate,
    Granted,
    NoModelAvailable,
    Permit,
    PermitRequest,
    WaitForPermit,
)
from daemon.limiter.permits import RedisLimiter
from daemon.redis_client import keys
from daemon.redis_client.connection import connect
from daemon.redis_client.scripts import Scripts
from tests.integration.redis_side import QUEUE, Side, entry
from tests.waiting import wait_until

pytestmark = [pytest.mark.redis_versions, pytest.mark.usefixtures("redis_version")]
LEASE_MS = 5000
SETTINGS = GuardSettings(
    handover_s=0.2, sweep_s=0.05, breaker_failures=3, breaker_window_s=30, breaker_open_s=0.15, breaker_open_max_s=0.4
)
NAMES = keys.queue_keys(QUEUE)


def model(name: str = "m", limit: int = 1, tier: str = "paid", **rates: int) -> Candidate:
    return Candidate(name, tier, Permit(keys.model_permits(name, tier), limit), **rates)


def ask(
    task_id: str, *candidates: Candidate, age: int = 0, first: bool = True, users: int = 100, user: str = "u"
) -> PermitRequest:
    """What task `task_id` asks; `age` is when it was accepted: the smaller, the older."""
    user_place = Permit(keys.user_permits(user), users)
    return PermitRequest(f"{task_id}:x", f"{QUEUE}/{task_id}", age, first, (user_place,), candidates or (model(),))


class Desk:
    """One process at the guards."""

    def __init__(self, client: Redis) -> None:
        self.client = client
        self.limiter = RedisLimiter(Scripts(client), SETTINGS)
        self.inside: dict[str, tuple[PermitRequest, Sequence[Permit]]] = {}

    async def enter(self, asked: PermitRequest) -> Granted | WaitForPermit | NoModelAvailable:
        answer = await self.limiter.acquire(asked, LEASE_MS)
        if isinstance(answer, Granted):
            self.inside[asked.waiter] = asked, answer.permits
        return answer

    async def enters(self, asked: PermitRequest) -> bool:
        return isinstance(await self.enter(asked), Granted)

    async def leave(self, asked: PermitRequest, outcome: str = "ok", **told: object) -> None:
        _, permits = self.inside.pop(asked.waiter)
        report = replace(CallReport(asked.candidates[0]), outcome=outcome, **told)  # type: ignore[arg-type]
        await self.limiter.release(asked.token, permits, report)

    async def park(self, task_id: str) -> None:
        """As the tail of a refused task does, without the entry."""
        await self.client.zadd(NAMES.retry, {task_id: 9e15})
        await self.client.hset(NAMES.held, task_id, msgspec.json.encode(entry(task_id)))

    async def woken(self) -> list[str]:
        """Who was moved to `:ready`, in order."""
        entries: Any = await self.client.xrange(NAMES.ready)
        return [msgspec.json.decode(fields[b"task"])["message"]["taskId"] for _, fields in entries]


@pytest.fixture
async def desk(redis_settings: RedisSettings) -> AsyncIterator[Desk]:
    async with connect(redis_settings) as client:
        yield Desk(client)


# --- places and lines ---------------------------------------------------------------------------------------------


async def test_a_repeated_call_finds_what_the_first_one_took(desk: Desk) -> None:
    """A lost reply costs neither a second place nor a second charge."""
    asked = ask("t1", model(limit=1, requests_per_minute=60, tokens_per_minute=100, tokens=3))
    first = await desk.enter(asked)
    rpm = await desk.client.get(keys.model_keys("m").rpm)
    assert await desk.enter(asked) == first
    assert await desk.client.get(keys.model_keys("m").rpm) == rpm


async def test_a_full_guard_names_itself_and_takes_nothing(desk: Desk) -> None:
    """All places or none: a task that waits for its user holds nothing of the model."""
    assert await desk.enters(ask("t1", users=1))
    answer = await desk.enter(ask("t2", model("other"), users=1))
    assert answer == WaitForPermit(Permit(keys.user_permits("u"), 1), 0)
    assert not await desk.client.exists(keys.model_permits("other", "paid"))


async def test_a_released_place_goes_to_the_oldest_and_nobody_overtakes_it(desk: Desk) -> None:
    """Called in order of acceptance, whatever the order of asking; a newcomer does not get the place meanwhile."""
    holder = ask("t0")
    assert await desk.enters(holder)
    for task_id, age in (("young", 30), ("old", 10), ("middle", 20)):
        assert isinstance(await desk.enter(ask(task_id, age=age)), WaitForPermit)
        await desk.park(task_id)
    await desk.leave(holder)
    assert await desk.woken() == ["old"]
    assert isinstance(await desk.enter(ask("newcomer", age=5)), WaitForPermit)
    assert await desk.enters(ask("old", age=10))
    await desk.leave(ask("old", age=10))
    assert await desk.woken() == ["old", "newcomer"] or await desk.woken() == ["old"]  # the newcomer was not parked


async def test_a_raised_limit_calls_as_many_as_fit(desk: Desk) -> None:
    """What was noted under the old limit is called under the new one, oldest first."""
    holder = ask("t0")
    assert await desk.enters(holder)
    for n in range(4):
        assert isinstance(await desk.enter(ask(f"w{n}", age=n + 1)), WaitForPermit)
        await desk.park(f"w{n}")
    assert isinstance(await desk.enter(ask("w4", model(limit=3), age=5)), WaitForPermit)
    assert await desk.woken() == ["w0", "w1"]


async def test_a_task_that_was_called_before_it_was_parked_does_not_sleep(desk: Desk, side: Side) -> None:
    """Between its refusal and its parking a place may come free: `park` finds the mark and it is due at once."""
    await side.add("t1")
    mine = (await side.work.fetch(QUEUE, 1))[0]
    holder = ask("t0")
    assert await desk.enters(holder)
    assert isinstance(await desk.enter(ask("t1", age=1)), WaitForPermit)
    await desk.leave(holder)
    assert await side.settlement.snooze(mine, 30_000, reason="GUARD_MODEL", wakeable=True)
    assert side.parked == [(QUEUE, 0.0)]
    assert (await side.work.promote(QUEUE, 10))[0] == 1


async def test_a_retry_keeps_its_backoff_whatever_was_called(desk: Desk, side: Side) -> None:
    """The mark is for those who wait to be called, not for a failed attempt."""
    await side.add("t1")
    mine = (await side.work.fetch(QUEUE, 1))[0]
    await desk.limiter.wake([f"{QUEUE}/t1".encode()])
    assert await side.settlement.snooze(mine, 30_000, reason="RETRY_AT")
    assert side.parked == [(QUEUE, 30.0)]


async def test_who_is_called_and_does_not_come_costs_the_place_for_a_moment_only(desk: Desk) -> None:
    """A cancelled waiter, or one whose daemon is busy: the sweep calls the next."""
    holder = ask("t0")
    assert await desk.enters(holder)
    for n in (1, 2):
        await desk.enter(ask(f"w{n}", age=n))
    await desk.park("w2")
    await desk.leave(holder)
    assert await desk.woken() == []

    async def swept() -> bool:
        await desk.limiter.sweep()
        return await desk.woken() == ["w2"]

    await wait_until(swept, description="the next waiter to be called")
    assert await desk.enters(ask("w2", age=2))


async def test_a_lost_call_is_made_again(desk: Desk) -> None:
    """The process that should wake somebody dies in between: the sweep finds who was called and did not come."""
    holder = ask("t0")
    assert await desk.enters(holder)
    await desk.enter(ask("w1", age=1))
    await desk.limiter._scripts.run([desk.limiter.release_call(holder.token, desk.inside[holder.waiter][1])])
    await desk.park("w1")

    async def swept() -> bool:
        await desk.limiter.sweep()
        return await desk.woken() == ["w1"]

    await wait_until(swept, description="the lost call to be made again")


async def test_the_place_of_a_dead_holder_goes_to_the_oldest(desk: Desk) -> None:
    """A lease that runs out wakes somebody although nobody released anything."""
    assert isinstance(await desk.limiter.acquire(ask("dead"), 100), Granted)
    await desk.enter(ask("w1", age=1))
    await desk.park("w1")

    async def swept() -> bool:
        await desk.limiter.sweep()
        return await desk.woken() == ["w1"]

    await wait_until(swept, description="the waiter to be woken", within_s=2)


async def test_a_guard_lives_as_long_as_its_longest_lease(desk: Desk) -> None:
    """Whoever enters, renews or takes its places back with a shorter lease cuts nobody's off."""
    long, short = ask("long", model(limit=5)), ask("short", model(limit=5))
    permit = model(limit=5).permit
    assert isinstance(await desk.limiter.acquire(long, 600_000), Granted)
    for step in ("enter", "renew", "acquire", "release"):
        match step:
            case "enter":
                assert isinstance(await desk.limiter.acquire(short, 20_000), Granted)
            case "renew":
                assert await desk.limiter.renew([(short.token, [permit])], 20_000) == set()
            case "acquire":
                await desk.limiter.retake(short.token, [permit], 20_000)
            case _:
                await desk.limiter.release(short.token, [permit])
        assert await desk.client.pttl(permit.key) > 600_000, step
    assert await desk.limiter.renew([(long.token, [permit])], 900_000) == set()
    assert await desk.client.pttl(permit.key) > 1_200_000


async def test_the_sweep_says_when_nobody_waits_any_more(desk: Desk) -> None:
    """Then nobody asks any more: an idle daemon sends nothing."""
    assert await desk.limiter.sweep() == 0
    holder = ask("t0")
    assert await desk.enters(holder)
    await desk.enter(ask("w1", age=1))
    assert await desk.limiter.sweep() > 0
    await desk.leave(holder)
    assert await desk.enters(ask("w1", age=1))

    async def nobody() -> bool:
        return await desk.limiter.sweep() == 0

    await wait_until(nobody, description="nobody to be left")


async def test_waiters_of_a_paused_queue_are_passed_over(desk: Desk) -> None:
    """They would not come when called."""
    holder = ask("t0")
    assert await desk.enters(holder)
    await desk.enter(ask("w1", age=1))
    await desk.enter(replace(ask("w2", age=2), waiter="q_free_batch/w2"))
    await desk.park("w1")
    assert await desk.limiter.forget_waiters(QUEUE) == 1
    await desk.leave(holder)
    assert await desk.woken() == []
    assert await desk.client.zrange(keys.NOTIFIED, 0, -1) == [b"q_free_batch/w2"]


async def test_a_place_kept_at_the_model_goes_on_when_the_user_is_full(desk: Desk) -> None:
    """Called by the model, refused by the own user guard: the next one of the model is called instead."""
    holder = ask("t0", user="other")
    assert await desk.enters(holder)
    await desk.enter(ask("mine", age=1, users=1))
    await desk.enter(ask("next", age=2, user="third"))
    await desk.park("mine")
    await desk.park("next")
    assert await desk.enters(ask("rival", model("elsewhere"), users=1))
    await desk.leave(holder)
    assert await desk.woken() == ["mine"]
    assert isinstance(await desk.enter(ask("mine", age=1, users=1)), WaitForPermit)
    assert await desk.woken() == ["mine", "next"]


# --- models ---------------------------------------------------------------------------------------------------------


async def test_a_closed_model_is_passed_over_for_an_open_one_and_reopens_by_itself(desk: Desk) -> None:
    """A fallback is used while the first is closed, and no longer."""
    first, second = model("a"), model("b")
    probe = ask("t0", first)
    assert await desk.enters(probe)
    await desk.leave(probe, "closed", cooldown_ms=150, cooldown_reason="RATE_LIMITED")
    answer = await desk.enter(ask("t1", first, second))
    assert isinstance(answer, Granted) and answer.chosen == 1
    shut = await desk.enter(ask("t2", first))
    assert isinstance(shut, NoModelAvailable) and shut.reason is Reason.RATE_LIMITED and 0 < shut.opens_in_ms <= 150

    async def open_again() -> bool:
        return await desk.enters(ask("t3", first))

    await wait_until(open_again, description="the model to open")


async def test_a_longer_closing_is_never_cut_short(desk: Desk) -> None:
    """Two refusals: the one that names the later time counts."""
    one, two = ask("t1", model(limit=2)), ask("t2", model(limit=2))
    assert await desk.enters(one) and await desk.enters(two)
    await desk.leave(one, "closed", cooldown_ms=5000, cooldown_reason="QUOTA")
    await desk.leave(two, "closed", cooldown_ms=10, cooldown_reason="RATE_LIMITED")
    assert await desk.client.pttl(keys.model_keys("m").cooldown) > 4000


async def test_a_full_model_is_waited_for_and_not_replaced(desk: Desk) -> None:
    """Fallbacks are for closed models: a full one is only busy."""
    assert await desk.enters(ask("t0", model("a")))
    answer = await desk.enter(ask("t1", model("a"), model("b"), age=1))
    assert answer == WaitForPermit(Permit(keys.model_permits("a", "paid"), 1), 0)


async def test_failures_in_a_row_open_the_breaker_and_one_probe_closes_it(desk: Desk) -> None:
    """Three failures open; then one at a time finds out; a success lets everybody in."""
    for n in range(3):
        tried = ask(f"t{n}", model(limit=9))
        assert await desk.enters(tried)
        await desk.leave(tried, "failed")
    shut = await desk.enter(ask("t3", model(limit=9)))
    assert isinstance(shut, NoModelAvailable) and shut.reason is Reason.BREAKER_OPEN and shut.opens_in_ms <= 150
    probe = ask("probe", model(limit=9))

    async def let_in() -> bool:
        return await desk.enters(probe)

    await wait_until(let_in, description="the probe to be let in")
    assert await desk.enter(ask("t4", model(limit=9), age=1)) == WaitForPermit(None, 0)
    await desk.park("t4")
    await desk.leave(probe, "ok")
    assert await desk.woken() == ["t4"]
    assert await desk.enters(ask("t4", model(limit=9), age=1)) and await desk.enters(ask("t5", model(limit=9), age=2))


async def test_a_failed_probe_doubles_the_time_up_to_the_most(desk: Desk) -> None:
    """0.15 s, 0.3 s, 0.4 s."""
    breaker = keys.model_keys("m").breaker
    for n in range(3):
        tried = ask(f"t{n}")
        assert await desk.enters(tried)
        await desk.leave(tried, "failed")
    for expected in (b"300", b"400", b"400"):
        probe = ask("probe")

        async def let_in(probe: PermitRequest = probe) -> bool:
            return await desk.enters(probe)

        await wait_until(let_in, description="the probe to be let in")
        await desk.leave(probe, "failed")
        assert await desk.client.hget(breaker, "open_ms") == expected


async def test_failures_of_calls_from_before_do_not_lengthen_an_open_breaker(desk: Desk) -> None:
    """They began when it was closed; only the probe's own failure doubles the time."""
    crowd = [ask(f"t{n}", model(limit=9)) for n in range(6)]
    for asked in crowd:
        assert await desk.enters(asked)
    for asked in crowd:
        await desk.leave(asked, "failed")
    assert await desk.client.hget(keys.model_keys("m").breaker, "open_ms") == b"150"


async def test_a_success_in_between_keeps_the_breaker_closed(desk: Desk) -> None:
    """Only failures in a row count, and interruptions say nothing."""
    for n, outcome in enumerate(("failed", "failed", "ok", "failed", "none", "unused", "failed")):
        tried = ask(f"t{n}")
        assert await desk.enters(tried), n
        await desk.leave(tried, outcome)
    assert await desk.enters(ask("last"))


async def test_a_dead_probe_is_replaced_when_its_lease_ends(desk: Desk) -> None:
    """A process that dies while it probes does not keep the model shut."""
    for n in range(3):
        tried = ask(f"t{n}", model(limit=9))
        assert await desk.enters(tried)
        await desk.leave(tried, "failed")

    async def probing() -> bool:
        return isinstance(await desk.limiter.acquire(ask("dead", model(limit=9)), 150), Granted)

    await wait_until(probing, description="the probe to be let in")
    assert await desk.enter(ask("next", model(limit=9), age=1)) == WaitForPermit(None, 0)

    async def next_probe() -> bool:
        return await desk.enters(ask("next", model(limit=9), age=1))

    await wait_until(next_probe, description="the next probe")


async def test_refusals_lower_what_runs_at_once_and_successes_raise_it_again(desk: Desk) -> None:
    """x 0.7, at most once in ten seconds, never below one; +1 for a full round of successes."""
    crowd = [ask(f"t{n}", model(limit=10)) for n in range(10)]
    for asked in crowd:
        assert await desk.enters(asked)
    for asked in crowd[:2]:
        await desk.leave(asked, "closed", cooldown_ms=1, cooldown_reason="RATE_LIMITED", slow_down=True)
    pace = keys.adaptive_limit("m", "paid")
    assert await desk.client.hget(pace, "limit") == b"7"
    for asked in crowd[2:9]:
        await desk.leave(asked, "ok")
    assert await desk.client.hget(pace, "limit") == b"8"
    await desk.leave(crowd[9], "ok")
    await desk.client.hset(pace, mapping={"limit": 9, "good": 8})
    last = ask("last", model(limit=10))
    await asyncio.sleep(0.01)
    assert await desk.enters(last)
    await desk.leave(last, "ok")
    assert not await desk.client.exists(pace)


# --- rates -----------------------------------------------------------------------------------------------------------


async def test_a_minute_never_holds_more_requests_than_the_limit(desk: Desk) -> None:
    """A tenth at once, then evenly: what is let in now and promised for later is exact."""
    limited = model(limit=1000, requests_per_minute=60)
    turns = []
    for n in range(60):
        answer = await desk.enter(ask(f"t{n}", limited, user=f"u{n}"))
        turns.append(0 if isinstance(answer, Granted) else answer.opens_in_ms)  # type: ignore[union-attr]
    assert turns[:7] == [0] * 7
    assert all(later > sooner for sooner, later in pairwise(turns[6:]))
    assert 55_000 < turns[-1] < 60_000
    over = await desk.enter(ask("t60", limited, user="v"))
    assert isinstance(over, NoModelAvailable) and over.in_line and over.opens_in_ms >= 59_000


async def test_nobody_overtakes_at_a_rate(desk: Desk) -> None:
    """A newcomer goes to the end of the line, and who comes back at its time is let in."""
    limited = model(limit=1000, requests_per_minute=60)  # one each 1.1 s, seven at once
    for n in range(7):
        assert await desk.enters(ask(f"t{n}", limited, user=f"u{n}"))
    first = await desk.enter(ask("first", limited))
    second = await desk.enter(ask("second", limited))
    assert (
        isinstance(first, NoModelAvailable)
        and isinstance(second, NoModelAvailable)
        and second.opens_in_ms > first.opens_in_ms + 900
    )
    await asyncio.sleep(first.opens_in_ms / 1000)
    assert isinstance(await desk.enter(ask("newcomer", limited)), NoModelAvailable)
    assert await desk.enters(ask("first", limited))


async def test_the_paying_go_first_at_a_rate_and_the_last_fifth_is_theirs(desk: Desk) -> None:
    """Free tasks may use a bucket only above its reserve, and stand behind every paying one."""
    limited = model(limit=1000, requests_per_minute=90)  # ten at once
    for n in range(8):
        assert await desk.enters(ask(f"f{n}", limited, first=False, user=f"u{n}")), n
    free = await desk.enter(ask("free", limited, first=False))
    assert isinstance(free, NoModelAvailable)
    for n in range(2):
        assert await desk.enters(ask(f"p{n}", limited, user=f"v{n}"))
    paid = await desk.enter(ask("paid", limited))
    assert isinstance(paid, NoModelAvailable)
    later = await desk.enter(ask("free2", limited, first=False))
    assert isinstance(later, NoModelAvailable) and later.opens_in_ms > paid.opens_in_ms


async def test_tokens_are_reserved_and_put_right_with_what_was_used_once(desk: Desk) -> None:
    """The estimate is charged at the door; the release replaces it, however often it is repeated."""
    thrifty = model(limit=10, tokens_per_minute=60_000, tokens=10_000)  # 20,000 at once
    one, two = ask("t1", thrifty), ask("t2", thrifty)
    assert await desk.enters(one) and await desk.enters(two)
    assert isinstance(await desk.enter(ask("t3", thrifty)), NoModelAvailable)
    bucket = keys.model_keys("m").tpm
    before = float(await desk.client.get(bucket) or 0)
    permits, report = desk.inside[one.waiter][1], CallReport(thrifty, "ok", tokens=1000)
    for _ in range(3):
        await desk.limiter.release(one.token, permits, report)
    assert before - float(await desk.client.get(bucket) or 0) == pytest.approx(9000 * 60_000 / 40_000, abs=1)


async def test_an_attempt_that_made_no_call_is_charged_nothing(desk: Desk) -> None:
    """Rejected while loading, or handed back before: the rates are as if it had not been there."""
    thrifty = model(limit=10, requests_per_minute=60, tokens_per_minute=60_000, tokens=3000)
    asked = ask("t1", thrifty)
    assert await desk.enters(asked)
    await desk.leave(asked, "unused")
    names = keys.model_keys("m")
    assert await desk.client.exists(names.rpm, names.tpm) == 0


async def test_a_call_larger_than_a_burst_is_let_in_when_nothing_is_owed(desk: Desk) -> None:
    """It overdraws; what follows waits until there is room again."""
    huge = model(limit=10, tokens_per_minute=60_000, tokens=40_000)
    assert await desk.enters(ask("t1", huge))
    shut = await desk.enter(ask("t2", replace(huge, tokens=10)))
    assert isinstance(shut, NoModelAvailable) and 29_000 < shut.opens_in_ms < 31_000  # 40,000 - 20,000 at 1.5 ms each


async def test_a_switch_keeps_the_shared_places_and_tells_of_the_first_model(desk: Desk) -> None:
    """From a model that closed to its fallback in one flush, under the same member."""
    first, second = model("a"), model("b")
    asked = ask("t1", first, second, users=1)
    entered = await desk.limiter.acquire(asked, LEASE_MS)
    assert isinstance(entered, Granted)
    report = CallReport(first, "closed", cooldown_ms=5000, cooldown_reason="OVERLOADED")
    await desk.limiter.release("q/nobody:0", (first.permit,))  # from here on the server knows both scripts
    flushes = desk.limiter._scripts.flushes
    answer = await desk.limiter.switch_model(replace(asked, candidates=(second,)), LEASE_MS, (first.permit,), report)
    assert desk.limiter._scripts.flushes == flushes + 1
    assert isinstance(answer, Granted) and answer.permits == (*asked.shared, second.permit)
    assert await desk.client.get(keys.model_keys("a").cooldown) == b"OVERLOADED"
    assert not await desk.client.exists(first.permit.key)
