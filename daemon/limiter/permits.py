"""Concurrency guards and model limits: leased places in zsets on server time, taken all or none, fenced by a token.

They hold over all processes and heal by themselves: a holder that died is forgotten one lease later. They protect
providers and fairness, never correctness: that is the attempt's. A refused task is noted in the line of the guard that
was full, in order of age; a place that comes free is handed to the oldest and that one is woken. One call is one flush,
and one more when somebody is to be woken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from daemon.config import GuardSettings
from daemon.domain.errors import RedisAway, RedisFull
from daemon.domain.events import Reason
from daemon.domain.permits import Ask, CallReport, Candidate, Entered, GuardPlace, MustWait, Shut
from daemon.limiter import scripts as lua
from daemon.limiter.rates import requests, tokens
from daemon.observability.logging import logger
from daemon.redis_client import keys
from daemon.redis_client.scripts import Call, Scripts

_log = logger(__name__)

Answer = Entered | MustWait | Shut

#: guards that one sweep looks at; some microseconds each
_SWEEP_PAGE: Final = 500
#: a called task that is still on its way to being parked is so within this
_WOKEN_MS: Final = 3000


def _ignored() -> None:
    """Nobody wants to know."""


class RedisGuards:
    """The `Guards` port. `waiting` is told whenever a task of this process was noted as a waiter."""

    def __init__(self, scripts: Scripts, settings: GuardSettings | None = None) -> None:
        self._scripts = scripts
        self._settings = settings or GuardSettings()
        self.waiting: Callable[[], None] = _ignored
        self._keep_ms = int(self._settings.handover_s * 1000)
        # What waits is ended by its own process after wait_max_s; what is never seen again goes with its line.
        self._wait_ttl_ms = int(self._settings.wait_max_s * 2000) + 600_000

    async def acquire(self, member: str, places: Sequence[GuardPlace], lease_ms: int) -> int | None:
        """Take back places that were lost, if there is room: None, or the index of the first full guard; repeatable.

        Looks at no waiters and no model: whoever had the places and still runs comes first.
        """
        permits, limits = [p.key for p in places], [p.limit for p in places]
        full = await self._scripts.one(
            lua.retake_permits(permits=permits, token=member, lease_ms=lease_ms, limits=limits)
        )
        return None if full == 0 else int(full) - 1

    async def enter(self, ask: Ask, lease_ms: int) -> Answer:
        """Places in all shared guards and in the first open candidate, or why not; repeatable with the same member."""
        reply = await self._scripts.one(self._enter_call(ask, lease_ms))
        return await self._answered(ask, reply)

    async def switch(self, ask: Ask, lease_ms: int, left: Sequence[GuardPlace], report: CallReport) -> Answer:
        """Leave the places of one model with `report` and enter another one's, in one flush; repeatable."""
        freed, reply = await self._scripts.run(
            [self.release_call(ask.member, left, report), self._enter_call(ask, lease_ms)]
        )
        await self.wake(freed[2:])
        return await self._answered(ask, reply)

    async def renew(self, held: Sequence[tuple[str, Sequence[GuardPlace]]], lease_ms: int) -> set[str]:
        """The members that lost a place; all others hold theirs for another `lease_ms`."""
        guards = [place.key for _, places in held for place in places]
        if not guards:
            return set()
        members = [member for member, places in held for _ in places]
        call = lua.renew_permits(permits=guards, lease_ms=lease_ms, tokens=members)
        return {lost.decode() for lost in await self._scripts.one(call)}

    async def release(self, member: str, places: Sequence[GuardPlace], report: CallReport | None = None) -> None:
        """Give the places back and wake whoever is next; nothing happens to places of others. Repeatable."""
        (reply,) = await self._scripts.run([self.release_call(member, places, report)])
        await self.wake(reply[2:])

    def release_call(self, member: str, places: Sequence[GuardPlace], report: CallReport | None = None) -> Call:
        """The script call of a release, to be sent in a batch: reply {freed, opened, heads…} (see `wake`)."""
        if report is not None and report.candidate.place not in places:
            report = None
        return lua.release_permits(
            limiters=[_limiter(p) for p in places],
            model=None if report is None else _model(report.candidate),
            token=member,
            reservation_ms=self._keep_ms,
            limits=[p.limit for p in places],
            report=None if report is None else self._told(report, places),
        )

    async def wake(self, heads: Sequence[bytes]) -> None:
        """Wake tasks that a place is kept for (`queue/taskId`); a call that is lost is made again by the sweep."""
        calls = []
        for head in heads:
            queue, _, task_id = head.decode().partition("/")
            names = keys.queue_keys(queue)
            mark = keys.woken(queue, task_id)
            calls.append(
                lua.wake(
                    retry=names.retry,
                    held=names.held,
                    ready=names.ready,
                    woken_mark=mark,
                    task_id=task_id,
                    mark_ms=_WOKEN_MS,
                )
            )
        if calls:
            try:
                await self._scripts.run(calls)
            except (RedisAway, RedisFull) as error:
                _log.warning("permits.notify_failed", error=type(error).__name__, tasks=len(calls))
                self.waiting()

    async def sweep(self) -> int:
        """Wake who was called and did not come, and hand over what a dead holder left; how much is left to watch.

        0: nobody waits any more, in any process.
        """
        mark_ms = int(self._settings.sweep_s * 750)
        left, *heads = await self._scripts.one(
            lua.sweep_permits(reservation_ms=self._keep_ms, mark_ms=mark_ms, page=_SWEEP_PAGE)
        )
        await self.wake(heads)
        return int(left)

    async def relimit(self, place: GuardPlace) -> None:
        """The limit of a guard has changed: call those who fit now. Repeatable."""
        call = lua.change_limit(
            permits=place.key,
            waiters=keys.guard_wait(place.key),
            limit=place.limit,
            reservation_ms=self._keep_ms,
        )
        await self.wake(await self._scripts.one(call))

    async def forget(self, queue: str) -> int:
        """Take all waiters of a queue that is paused out of the lines, so that no place is kept for them; how many."""
        return int(await self._scripts.one(lua.forget_waiters(waiter_prefix=f"{queue}/")))

    # --- shapes ----------------------------------------------------------------------------------------------

    def _enter_call(self, ask: Ask, lease_ms: int) -> Call:
        return lua.acquire_permits(
            shared=[_limiter(p) for p in ask.shared],
            candidates=[_candidate(c) for c in ask.candidates],
            token=ask.member,
            waiter=ask.waiter,
            since_ms=ask.since_ms,
            lease_ms=lease_ms,
            goes_first=ask.goes_first,
            reservation_ms=self._keep_ms,
            wait_ttl_ms=self._wait_ttl_ms,
            shared_limits=[p.limit for p in ask.shared],
            rates=[_rates(c) for c in ask.candidates],
        )

    async def _answered(self, ask: Ask, reply: Any) -> Answer:
        answer, heads = _answer(ask, reply)
        if isinstance(answer, MustWait):
            self.waiting()
        await self.wake(heads)
        return answer

    def _told(self, report: CallReport, places: Sequence[GuardPlace]) -> lua.Report:
        c, s = report.candidate, self._settings
        return lua.Report(
            outcome=report.outcome,
            closed_ms=report.closed_ms,
            closed_reason=report.closed_why,
            request_ms=requests(c.requests_per_minute).each_ms,
            token_ms=tokens(c.tokens_per_minute).each_ms,
            tokens_reserved=c.tokens,
            tokens_used=-1 if report.tokens is None else report.tokens,
            failures_max=s.breaker_failures,
            window_ms=int(s.breaker_window_s * 1000),
            open_ms=int(s.breaker_open_s * 1000),
            open_max_ms=int(s.breaker_open_max_s * 1000),
            slow_down=int(report.slow_down),
            own_limiter=list(places).index(c.place) + 1,
            requests_sent=report.requests,
        )


def _limiter(place: GuardPlace) -> lua.LimiterKeys:
    return lua.LimiterKeys(place.key, keys.guard_wait(place.key))


def _candidate(c: Candidate) -> lua.CandidateKeys:
    model = keys.model_keys(c.model_id)
    return lua.CandidateKeys(
        permits=c.place.key,
        waiters=keys.guard_wait(c.place.key),
        probe=model.probe,
        probe_waiters=keys.guard_wait(model.probe),
        closed=model.closed,
        breaker=model.breaker,
        slowdown=keys.model_pace(c.model_id, c.tier),
        requests=model.rpm,
        tokens=model.tpm,
        paid_turns=model.paying,
        free_turns=model.others,
    )


def _rates(c: Candidate) -> lua.CandidateRates:
    by_request, by_token = requests(c.requests_per_minute), tokens(c.tokens_per_minute)
    return lua.CandidateRates(
        limit=c.place.limit,
        request_ms=by_request.each_ms,
        request_burst_ms=by_request.burst_ms,
        token_ms=by_token.each_ms,
        token_burst_ms=by_token.burst_ms,
        tokens=c.tokens,
    )


def _model(c: Candidate) -> lua.ModelKeys:
    model = keys.model_keys(c.model_id)
    return lua.ModelKeys(
        closed=model.closed,
        breaker=model.breaker,
        slowdown=keys.model_pace(c.model_id, c.tier),
        requests=model.rpm,
        tokens=model.tpm,
        probe=model.probe,
        probe_waiters=keys.guard_wait(model.probe),
    )


def _answer(ask: Ask, reply: Any) -> tuple[Answer, Sequence[bytes]]:
    match reply:
        case [b"in", chosen, probing, *heads]:
            candidate = ask.candidates[chosen - 1]
            places = (*ask.shared, candidate.place)
            return Entered(chosen - 1, (*places, _probe(candidate)) if probing else places), heads
        case [b"full", number, rank, *heads]:
            guards = (*ask.shared, *(c.place for c in ask.candidates))
            return MustWait(guards[number - 1], rank), heads
        case [b"probing", _, rank, *heads]:
            return MustWait(None, rank), heads
        case [b"shut", reason, ms, in_line, *heads]:
            return Shut(Reason(reason.decode()), ms, bool(in_line)), heads
    raise AssertionError(f"the enter script answered {reply!r}")


def _probe(candidate: Candidate) -> GuardPlace:
    return GuardPlace(keys.model_keys(candidate.model_id).probe, 1)
