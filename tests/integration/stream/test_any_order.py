"""Door and guards after any order of steps, held against a model in memory after each one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from redis.asyncio import Redis

from daemon import keys
from daemon.clock import SystemClock
from daemon.config import GuardSettings, QueueSettings, RedisSettings
from daemon.contracts import TaskMessage, started
from daemon.places import Ask, CallReport, Candidate, Entered, GuardPlace, MustWait
from daemon.stream.admission import Accepted, Admission, Full, Promised
from daemon.stream.connection import Scripts, connect
from daemon.stream.drift import Drift
from daemon.stream.guards import RedisGuards
from tests.integration.stream.conftest import QUEUE, Side, task

NAMES = keys.queue_keys(QUEUE)
SIZE = 20
pytestmark = pytest.mark.timeout(600)  # 10,000 steps with --whole


@pytest.fixture
async def client(redis_settings: RedisSettings) -> AsyncIterator[Redis]:
    async with connect(redis_settings) as found:
        yield found


class Door:
    """Accept, promise, refund, read, begin, park, wake, ack; `waiting` and `accepted` are what should be."""

    STEPS = ("accept", "accept", "promise", "refund", "read", "begin", "park", "ack", "promote", "repair")

    def __init__(self, client: Redis, side: Side) -> None:
        settings = QueueSettings(promise_ttl_s=0.05)
        self.client, self.side = client, side
        self.admission = Admission(Scripts(client), settings, SystemClock())
        self.drift = Drift(Scripts(client), settings, SystemClock())
        self.waiting: set[str] = set()
        self.accepted: set[str] = set()
        self.running: dict[str, Any] = {}

    async def accept(self, name: str) -> None:
        message = TaskMessage(task_id=name, queue_id=QUEUE, service_id="s", user_id="u", variables={})
        verdict = await self.admission.accept(message, "0" * 64, SIZE, {})
        if isinstance(verdict, Accepted):
            assert name not in self.accepted
            self.accepted.add(name)
            self.waiting.add(name)
        elif isinstance(verdict, Full):
            assert len(self.waiting) >= SIZE

    async def promise(self, name: str) -> None:
        if isinstance(await self.admission.promise(QUEUE, name, "0" * 64, SIZE), Promised):
            self.waiting.add(name)

    async def refund(self, name: str) -> None:
        if await self.admission.refund(QUEUE, name):
            self.waiting.discard(name)

    async def read(self, _: str) -> None:
        for d in await self.side.work.fetch(QUEUE, 2):
            assert d.entry is not None
            self.running[d.entry.message.task_id] = d

    async def begin(self, name: str) -> None:
        if name in self.running:
            await self.side.tail.begin(self.running[name], task(name), 1, started("m"))
            self.waiting.discard(name)

    async def park(self, name: str) -> None:
        if name in self.running:
            await self.side.tail.park(self.running.pop(name), 1, reason="GUARD_USER")

    async def ack(self, name: str) -> None:
        if name in self.running:
            await self.side.tail.ack(self.running.pop(name))
            self.waiting.discard(name)
            self.accepted.discard(name)
            await self.client.delete(keys.seen(QUEUE, name))  # seven days later the id is free again

    async def promote(self, _: str) -> None:
        await self.side.work.promote(QUEUE, 10)

    async def repair(self, _: str) -> None:
        await self.client.delete(keys.reconciling(QUEUE))
        found = await self.drift.repair(QUEUE, 1000)
        assert (found.raised, found.lowered) == (0, 0)

    async def check(self) -> None:
        members: Any = await self.client.zrange(NAMES.waiting, 0, -1)
        held = {member.decode() for member in members}
        gone = self.waiting - held
        assert held <= self.waiting
        assert not gone & self.accepted  # only promises are given up, and only old ones
        self.waiting = held
        assert int(await self.client.get(NAMES.counter) or 0) == len(held)


async def test_the_counter_is_the_truth_after_any_order_of_steps(client: Redis, side: Side, *, whole: bool) -> None:
    """The number that producers see is the number of tasks that wait to start, whatever happens in whatever order."""
    door, rng = Door(client, side), Random(7)
    for _ in range(10_000 if whole else 1500):
        await getattr(door, rng.choice(door.STEPS))(f"t{rng.randrange(60)}")
        await door.check()


class Hall:
    """Tasks of a few users before a few models; `inside` is who should hold what."""

    STEPS = ("enter", "enter", "enter", "enter_again", "leave", "leave", "leave_again", "sweep", "forget")
    LIMITS = {"m0": 1, "m1": 3, "m2": 5}  # noqa: RUF012  # a test's constant
    USERS = 2

    def __init__(self, client: Redis, rng: Random) -> None:
        settings = GuardSettings(handover_s=0.05, sweep_s=0.05, breaker_failures=1000)
        self.client, self.rng = client, rng
        self.guards = RedisGuards(Scripts(client), settings)
        self.inside: dict[str, tuple[Ask, Entered]] = {}
        self.last: tuple[Ask, Entered] | None = None
        self.gone: tuple[Ask, Entered] | None = None

    def ask(self) -> Ask:
        number = self.rng.randrange(40)
        own = Random(number)  # a task asks for the same models each time
        models = own.sample(sorted(self.LIMITS), own.choice((1, 1, 2)))
        candidates = tuple(
            Candidate(m, "paid", GuardPlace(keys.guard_model(m, "paid"), self.LIMITS[m])) for m in models
        )
        user = GuardPlace(keys.guard_user(f"u{number % 6}"), self.USERS)
        return Ask(f"t{number}:{self.rng.random()}", f"{QUEUE}/t{number}", number, True, (user,), candidates)  # noqa: FBT003

    async def enter(self) -> None:
        asked = self.ask()
        if asked.waiter in self.inside:
            return
        answer = await self.guards.enter(asked, 60_000)
        if isinstance(answer, Entered):
            self.inside[asked.waiter] = self.last = asked, answer
        else:
            assert isinstance(answer, MustWait)

    async def enter_again(self) -> None:
        """A reply was lost, and the call is made again."""
        if self.last is not None and self.last[0].waiter in self.inside:
            assert await self.guards.enter(self.last[0], 60_000) == self.last[1]

    async def leave(self) -> None:
        if self.inside:
            waiter = self.rng.choice(sorted(self.inside))
            self.gone = asked, entered = self.inside.pop(waiter)
            report = CallReport(asked.candidates[entered.chosen], "ok")
            await self.guards.release(asked.member, entered.places, report)

    async def leave_again(self) -> None:
        if self.gone is not None:
            asked, entered = self.gone
            report = replace(CallReport(asked.candidates[entered.chosen]), outcome="failed")
            await self.guards.release(asked.member, entered.places, report)

    async def sweep(self) -> None:
        await self.guards.sweep()

    async def forget(self) -> None:
        if self.rng.random() < 0.05:
            await self.guards.forget(QUEUE)

    async def check(self) -> None:
        expected: dict[str, set[str]] = {}
        for asked, entered in self.inside.values():
            for place in entered.places:
                expected.setdefault(place.key, set()).add(asked.member)
        limits = {keys.guard_model(m, "paid"): limit for m, limit in self.LIMITS.items()}
        limits |= {keys.guard_user(f"u{n}"): self.USERS for n in range(6)}
        for guard, limit in limits.items():
            members: Any = await self.client.zrange(guard, 0, -1)
            held = {member.decode() for member in members}
            assert {member for member in held if not member.startswith("~")} == expected.get(guard, set())
            assert len(expected.get(guard, ())) <= limit
            # nobody who is inside waits as well
            waiters: Any = await self.client.zrange(keys.guard_wait(guard), 0, -1)
            assert not {waiter.decode() for waiter in waiters} & set(self.inside)


async def test_no_guard_ever_holds_more_or_less_than_is_inside(client: Redis, *, whole: bool) -> None:
    """Enter, leave, lost replies and sweeps in any order; at the end everybody who waits is let in."""
    rng = Random(11)
    hall = Hall(client, rng)
    for _ in range(10_000 if whole else 1500):
        await getattr(hall, rng.choice(hall.STEPS))()
        await hall.check()
    for waiter in list(hall.inside):
        asked, entered = hall.inside.pop(waiter)
        await hall.guards.release(asked.member, entered.places)
    await client.delete(keys.GUARD_CALLED)
    for n in range(6):
        asked = replace(hall.ask(), waiter=f"{QUEUE}/new{n}", since_ms=-n)
        answer = await hall.guards.enter(asked, 60_000)
        if isinstance(answer, Entered):
            await hall.guards.release(asked.member, answer.places)
