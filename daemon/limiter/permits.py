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
from daemon.limiter.rates import requests, tokens
from daemon.observability.logging import logger
from daemon.redis_client import keys
from daemon.redis_client.scripts import Argument, Call, Scripts, load_script

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
        self._acquire = load_script("limiter", "guard_acquire", "places")
        self._renew = load_script("limiter", "guard_renew", "places")
        self._enter = load_script("limiter", "guard_enter", "places")
        self._release = load_script("limiter", "guard_release", "places")
        self._sweep = load_script("limiter", "guard_sweep", "places")
        self._relimit = load_script("limiter", "guard_relimit", "places")
        self._forget = load_script("limiter", "guard_forget")
        self._wake = load_script("limiter", "wake")

    async def acquire(self, member: str, places: Sequence[GuardPlace], lease_ms: int) -> int | None:
        """Take back places that were lost, if there is room: None, or the index of the first full guard; repeatable.

        Looks at no waiters and no model: whoever had the places and still runs comes first.
        """
        full = await self._scripts.one(
            self._acquire, [p.key for p in places], [member, lease_ms, *(p.limit for p in places)]
        )
        return None if full == 0 else int(full) - 1

    async def enter(self, ask: Ask, lease_ms: int) -> Answer:
        """Places in all shared guards and in the first open candidate, or why not; repeatable with the same member."""
        reply = await self._scripts.one(*self._enter_call(ask, lease_ms))
        return await self._answered(ask, reply)

    async def switch(self, ask: Ask, lease_ms: int, left: Sequence[GuardPlace], report: CallReport) -> Answer:
        """Leave the places of one model with `report` and enter another one's, in one flush; repeatable."""
        freed, reply = await self._scripts.run(
            [self.release_call(ask.member, left, report), Call(*self._enter_call(ask, lease_ms))]
        )
        await self.wake(freed[2:])
        return await self._answered(ask, reply)

    async def renew(self, held: Sequence[tuple[str, Sequence[GuardPlace]]], lease_ms: int) -> set[str]:
        """The members that lost a place; all others hold theirs for another `lease_ms`."""
        guards = [place.key for _, places in held for place in places]
        if not guards:
            return set()
        members = [member for member, places in held for _ in places]
        return {lost.decode() for lost in await self._scripts.one(self._renew, guards, [lease_ms, *members])}

    async def release(self, member: str, places: Sequence[GuardPlace], report: CallReport | None = None) -> None:
        """Give the places back and wake whoever is next; nothing happens to places of others. Repeatable."""
        (reply,) = await self._scripts.run([self.release_call(member, places, report)])
        await self.wake(reply[2:])

    def release_call(self, member: str, places: Sequence[GuardPlace], report: CallReport | None = None) -> Call:
        """The script call of a release, to be sent in a batch: reply {freed, opened, heads…} (see `wake`)."""
        names = [keys.GUARD_CALLED, *(name for p in places for name in (p.key, keys.guard_wait(p.key)))]
        args: list[Argument] = [member, self._keep_ms, len(places), *(p.limit for p in places)]
        if report is not None and report.candidate.place in places:
            more, told = self._told(report, places)
            names += more
            args += told
        return Call(self._release, names, args)

    async def wake(self, heads: Sequence[bytes]) -> None:
        """Wake tasks that a place is kept for (`queue/taskId`); a call that is lost is made again by the sweep."""
        calls = []
        for head in heads:
            queue, _, task_id = head.decode().partition("/")
            names = keys.queue_keys(queue)
            where = (names.retry, names.held, names.ready, keys.woken(queue, task_id))
            calls.append(Call(self._wake, where, (task_id, _WOKEN_MS)))
        if calls:
            try:
                await self._scripts.run(calls)
            except (RedisAway, RedisFull) as error:
                _log.warning("wake.failed", error=type(error).__name__, tasks=len(calls))
                self.waiting()

    async def sweep(self) -> int:
        """Wake who was called and did not come, and hand over what a dead holder left; how much is left to watch.

        0: nobody waits any more, in any process.
        """
        where = (keys.GUARD_SWEEP, keys.GUARD_CALLED, keys.GUARD_WAITS)
        mark_ms = int(self._settings.sweep_s * 750)
        left, *heads = await self._scripts.one(self._sweep, where, (self._keep_ms, mark_ms, _SWEEP_PAGE))
        await self.wake(heads)
        return int(left)

    async def relimit(self, place: GuardPlace) -> None:
        """The limit of a guard has changed: call those who fit now. Repeatable."""
        where = (keys.GUARD_CALLED, keys.GUARD_WAITS, place.key, keys.guard_wait(place.key))
        await self.wake(await self._scripts.one(self._relimit, where, (place.limit, self._keep_ms)))

    async def forget(self, queue: str) -> int:
        """Take all waiters of a queue that is paused out of the lines, so that no place is kept for them; how many."""
        return int(await self._scripts.one(self._forget, (keys.GUARD_WAITS,), (f"{queue}/",)))

    # --- shapes ----------------------------------------------------------------------------------------------

    def _enter_call(self, ask: Ask, lease_ms: int) -> tuple[Any, list[str], list[Argument]]:
        names = [keys.GUARD_CALLED, keys.GUARD_WAITS]
        for place in ask.shared:
            names += (place.key, keys.guard_wait(place.key))
        args: list[Argument] = [ask.member, ask.waiter, ask.since_ms, lease_ms, int(ask.goes_first)]
        args += (self._keep_ms, self._wait_ttl_ms, len(ask.shared), *(p.limit for p in ask.shared))
        for c in ask.candidates:
            model = keys.model_keys(c.model_id)
            names += (c.place.key, keys.guard_wait(c.place.key), model.probe, keys.guard_wait(model.probe))
            names += (model.closed, model.breaker, keys.model_pace(c.model_id, c.tier))
            names += (model.rpm, model.tpm, model.paying, model.others)
            by_request, by_token = requests(c.requests_per_minute), tokens(c.tokens_per_minute)
            args += (c.place.limit, by_request.each_ms, by_request.burst_ms)
            args += (by_token.each_ms, by_token.burst_ms, c.tokens)
        return self._enter, names, args

    async def _answered(self, ask: Ask, reply: Any) -> Answer:
        answer, heads = _answer(ask, reply)
        if isinstance(answer, MustWait):
            self.waiting()
        await self.wake(heads)
        return answer

    def _told(self, report: CallReport, places: Sequence[GuardPlace]) -> tuple[Sequence[str], Sequence[Argument]]:
        c, s = report.candidate, self._settings
        model = keys.model_keys(c.model_id)
        names = (model.closed, model.breaker, keys.model_pace(c.model_id, c.tier), model.rpm, model.tpm, model.probe)
        used = -1 if report.tokens is None else report.tokens
        rates = (requests(c.requests_per_minute).each_ms, tokens(c.tokens_per_minute).each_ms)
        breaker = (s.breaker_window_s, s.breaker_open_s, s.breaker_open_max_s)
        args: tuple[Argument, ...] = (
            *(report.outcome, report.closed_ms, report.closed_why, *rates, c.tokens, used),
            *(s.breaker_failures, *(int(seconds * 1000) for seconds in breaker)),
            *(int(report.slow_down), list(places).index(c.place) + 1, report.requests),
        )
        return (*names, keys.guard_wait(model.probe)), args


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
