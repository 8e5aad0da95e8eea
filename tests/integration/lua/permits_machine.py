"""Guards in any order of coming, going and dying, held against who should be inside (Hypothesis, rule based)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import replace
from random import Random
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from redis.asyncio import Redis

from daemon.config import GuardSettings
from daemon.domain.permits import CallReport, Candidate, Granted, Permit, PermitRequest, WaitForPermit
from daemon.limiter.permits import RedisLimiter
from daemon.redis_client import keys
from daemon.redis_client.scripts import Scripts
from tests.integration.redis_side import QUEUE

T = TypeVar("T")
LEASE_MS = 600_000  #: longer than any run; places run out when a rule says so
USERS = 4
numbers = st.integers(0, 15)
picks = st.integers(0, 30)


class GuardsMachine(RuleBasedStateMachine):
    """Sixteen tasks of four users before three models."""

    runner: asyncio.Runner
    client: Redis

    def __init__(self) -> None:
        super().__init__()
        self.do(self.client.flushdb())
        settings = GuardSettings(handover_s=30, sweep_s=0.05, breaker_failures=1000)
        self.limiter = RedisLimiter(Scripts(self.client), settings)
        self.limits = {"m0": 1, "m1": 2, "m2": 3}
        self.user_limit = 2
        self.inside: dict[str, tuple[PermitRequest, Granted]] = {}  #: by waiter
        self.gone: list[tuple[PermitRequest, Granted]] = []  #: left or dead: what they do now may change nothing
        self.count = 0

    def do(self, work: Awaitable[T]) -> T:
        """The answer of the server."""

        async def wrapped() -> T:
            return await work

        return self.runner.run(wrapped())

    def _ask(self, number: int) -> PermitRequest:
        own = Random(number)  # a task asks for the same models each time
        models = own.sample(sorted(self.limits), own.choice((1, 1, 2)))
        candidates = tuple(Candidate(m, "paid", Permit(keys.model_permits(m, "paid"), self.limits[m])) for m in models)
        user = Permit(keys.user_permits(f"u{number % USERS}"), self.user_limit)
        self.count += 1
        return PermitRequest(f"t{number}:{self.count:08x}", f"{QUEUE}/t{number}", number, True, (user,), candidates)  # noqa: FBT003

    def _held(self, guard: str) -> set[str]:
        """Members that should hold a place."""
        return {asked.token for asked, entered in self.inside.values() if guard in {p.key for p in entered.permits}}

    def _chosen(self, pick: int) -> str | None:
        return sorted(self.inside)[pick % len(self.inside)] if self.inside else None

    @rule(number=numbers, repeat=st.booleans())
    def enter(self, number: int, *, repeat: bool) -> None:
        """All places or none, and never one too many."""
        asked = self._ask(number)
        if asked.waiter in self.inside:
            return
        answer = self.do(self.limiter.acquire(asked, LEASE_MS))
        if repeat:
            assert type(self.do(self.limiter.acquire(asked, LEASE_MS))) is type(answer)
        if isinstance(answer, Granted):
            for permit in answer.permits:
                assert len(self._held(permit.key)) < permit.limit, f"one too many in {permit.key}"
            self.inside[asked.waiter] = asked, answer
        else:
            assert isinstance(answer, WaitForPermit)

    @rule(pick=picks, outcome=st.sampled_from(["ok", "failed", "none", "unused"]), repeat=st.booleans())
    def leave(self, pick: int, outcome: Any, *, repeat: bool) -> None:
        """The places go to whoever waits, once."""
        if (waiter := self._chosen(pick)) is None:
            return
        asked, entered = self.inside.pop(waiter)
        report = CallReport(asked.candidates[entered.chosen], outcome)
        for _ in range(1 + repeat):
            self.do(self.limiter.release(asked.token, entered.permits, report))
        self.gone.append((asked, entered))

    @rule(pick=picks)
    def zombie(self, pick: int) -> None:
        """Who has left or died releases and renews once more."""
        if self.gone:
            asked, entered = self.gone[pick % len(self.gone)]
            assert self.do(self.limiter.renew([(asked.token, entered.permits)], LEASE_MS)) == {asked.token}
            self.do(self.limiter.release(asked.token, entered.permits))

    @rule(pick=picks)
    def die(self, pick: int) -> None:
        """A holder's lease runs out."""
        if (waiter := self._chosen(pick)) is None:
            return
        asked, entered = self.inside.pop(waiter)
        for permit in entered.permits:
            self.do(self.client.zadd(permit.key, {asked.token: 1}, xx=True))
        self.gone.append((asked, entered))

    @rule(pick=picks, taken=st.booleans(), repeat=st.booleans())
    def is_proved_dead(self, pick: int, *, taken: bool, repeat: bool) -> None:
        """A holder's process has died: it loses what it has, and nobody else does, long before its lease ends."""
        if (waiter := self._chosen(pick)) is None:
            return
        asked, entered = self.inside.pop(waiter)
        limits = {keys.model_permits(m, "paid"): limit for m, limit in self.limits.items()}
        permits = [Permit(guard, limits.get(guard, self.user_limit)) for guard in self._all_guards()]
        for _ in range(1 + repeat):
            nonce = asked.token.partition(":")[2]
            self.do(self.limiter.reassign(permits, [nonce], [waiter] if taken else []))
        self.gone.append((asked, entered))

    @rule()
    def renew(self) -> None:
        """The beat: who holds a place keeps it."""
        held = [(asked.token, entered.permits) for asked, entered in self.inside.values()]
        assert self.do(self.limiter.renew(held, LEASE_MS)) == set()

    @rule(pick=picks)
    def vanish_and_take_back(self, pick: int) -> None:
        """Redis forgot a place: its holder, which runs, takes it again whatever the limit is now."""
        if (waiter := self._chosen(pick)) is None:
            return
        asked, entered = self.inside[waiter]
        for permit in entered.permits:
            self.do(self.client.zrem(permit.key, asked.token))
        assert self.do(self.limiter.renew([(asked.token, entered.permits)], LEASE_MS)) == {asked.token}
        for _ in range(2):
            self.do(self.limiter.retake(asked.token, entered.permits, LEASE_MS))

    @rule(model=st.sampled_from(["m0", "m1", "m2"]), limit=st.integers(1, 4))
    def relimit(self, model: str, limit: int) -> None:
        """F78: a limit below what is in use ends nobody and lets nobody in until enough have left."""
        self.limits[model] = limit
        self.do(self.limiter.change_limit(Permit(keys.model_permits(model, "paid"), limit)))

    @rule()
    def called_ones_do_not_come(self) -> None:
        """The places that were kept for them run out."""
        for guard in self._all_guards():
            members: Any = self.do(self.client.zrange(guard, 0, -1))
            for token in (m for m in members if m.startswith(b"~")):
                self.do(self.client.zadd(guard, {token: 1}))

    @rule()
    def sweep(self) -> None:
        """What the dead left is handed on."""
        self.do(self.client.delete(keys.PERMIT_SWEEP))
        self.do(self.limiter.sweep())

    @rule(often=st.sampled_from([False] * 5 + [True]))
    def forget(self, *, often: bool) -> None:
        """The queue is paused: nobody waits any more."""
        if often:
            self.do(self.limiter.forget_waiters(QUEUE))

    def _all_guards(self) -> list[str]:
        models = [keys.model_permits(m, "paid") for m in self.limits]
        return models + [keys.user_permits(f"u{n}") for n in range(USERS)]

    @invariant()
    def only_who_should_be_inside_is(self) -> None:
        """Each living member, and nobody both inside and waiting."""
        seconds, micros = self.do(self.client.time())
        now = int(seconds) * 1000 + int(micros) // 1000
        for guard in self._all_guards():
            living: Any = self.do(self.client.zrange(guard, now, "+inf", byscore=True))
            assert {m.decode() for m in living if not m.startswith(b"~")} == self._held(guard)
            waiters: Any = self.do(self.client.zrange(keys.waiters_of(guard), 0, -1))
            assert not {w.decode() for w in waiters} & set(self.inside)

    def teardown(self) -> None:
        """When all have left, everybody who comes gets in: nothing holds a place for ever."""
        for waiter in list(self.inside):
            asked, entered = self.inside.pop(waiter)
            self.do(self.limiter.release(asked.token, entered.permits))
        for _ in range(3):
            self.called_ones_do_not_come()
        for number in range(16):
            self.called_ones_do_not_come()
            answer = self.do(self.limiter.acquire(replace(self._ask(number), since_ms=-number), LEASE_MS))
            assert isinstance(answer, Granted), answer
            self.do(self.limiter.release(f"t{number}:{self.count:08x}", answer.permits))
