"""The concurrency limiter: leased permits in zsets on server time, all or none, fenced by a token.

Limits hold over all processes; a dead holder's permits expire with its lease. A denied task waits in the line of the
full limiter; a released permit is reserved for the oldest waiter. One call is one flush, one more to wake somebody.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from daemon.config import GuardSettings
from daemon.domain.errors import RedisAway, RedisFull
from daemon.domain.events import Reason
from daemon.domain.permits import CallReport, Candidate, Granted, NoModelAvailable, Permit, PermitRequest, WaitForPermit
from daemon.limiter import scripts as lua
from daemon.limiter.rates import requests, tokens
from daemon.observability.logging import logger
from daemon.redis_client import keys
from daemon.redis_client.scripts import Call, Scripts

_log = logger(__name__)

Outcome = Granted | WaitForPermit | NoModelAvailable

#: limiters that one sweep looks at; some microseconds each
_SWEEP_PAGE: Final = 500
#: a notified task that is still being snoozed is so within this
_WOKEN_MS: Final = 3000


def _ignored() -> None:
    """Nobody wants to know."""


class RedisLimiter:
    """The `ConcurrencyLimiter` port. `on_waiter` is called when a task of this process becomes a waiter."""

    def __init__(self, scripts: Scripts, settings: GuardSettings | None = None) -> None:
        self._scripts = scripts
        self._settings = settings or GuardSettings()
        self.on_waiter: Callable[[], None] = _ignored
        self._reservation_ms = int(self._settings.handover_s * 1000)
        # What waits is ended by its own process after wait_max_s; what is never seen again goes with its line.
        self._wait_ttl_ms = int(self._settings.wait_max_s * 2000) + 600_000

    async def retake(self, token: str, permits: Sequence[Permit], lease_ms: int) -> None:
        """Take permits again that vanished, whatever the limits: who had them and still runs comes first. Repeatable.

        Only for an attempt that is proved to be ours.
        """
        held = [p.key for p in permits]
        await self._scripts.one(
            lua.renew_permits(permits=held, lease_ms=lease_ms, retake=True, tokens=[token] * len(held))
        )

    async def acquire(self, ask: PermitRequest, lease_ms: int) -> Outcome:
        """All shared permits and that of the first available candidate, or why not; repeatable with the same member."""
        reply = await self._scripts.one(self._acquire_call(ask, lease_ms))
        return await self._outcome_of(ask, reply)

    async def switch_model(
        self, ask: PermitRequest, lease_ms: int, left: Sequence[Permit], report: CallReport
    ) -> Outcome:
        """Release the permits of one model with `report` and acquire another one's, in one flush; repeatable."""
        released, reply = await self._scripts.run(
            [self.release_call(ask.token, left, report), self._acquire_call(ask, lease_ms)]
        )
        await self.wake(released[2:])
        return await self._outcome_of(ask, reply)

    async def renew(self, held: Sequence[tuple[str, Sequence[Permit]]], lease_ms: int) -> set[str]:
        """The tokens that lost a permit; all others hold theirs for another `lease_ms`."""
        keys_held = [permit.key for _, permits in held for permit in permits]
        if not keys_held:
            return set()
        held_tokens = [token for token, permits in held for _ in permits]
        call = lua.renew_permits(permits=keys_held, lease_ms=lease_ms, tokens=held_tokens)
        return {lost.decode() for lost in await self._scripts.one(call)}

    async def release(self, token: str, permits: Sequence[Permit], report: CallReport | None = None) -> None:
        """Release the permits and wake whoever is next; those of other tokens stay. Repeatable."""
        (reply,) = await self._scripts.run([self.release_call(token, permits, report)])
        await self.wake(reply[2:])

    def release_call(self, token: str, permits: Sequence[Permit], report: CallReport | None = None) -> Call:
        """The script call of a release, to be sent in a batch: reply {released, opened, woken…} (see `wake`)."""
        if report is not None and report.candidate.permit not in permits:
            report = None
        return lua.release_permits(
            limiters=[_limiter(p) for p in permits],
            model=None if report is None else _model(report.candidate),
            token=token,
            reservation_ms=self._reservation_ms,
            limits=[p.limit for p in permits],
            report=None if report is None else self._report(report, permits),
        )

    async def wake(self, woken: Sequence[bytes]) -> None:
        """Wake tasks that a permit is reserved for (`queue/taskId`); the sweep repeats a notice that was lost."""
        calls = []
        for waiter in woken:
            queue, _, task_id = waiter.decode().partition("/")
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
                self.on_waiter()

    async def sweep(self) -> int:
        """Re-notify waiters that missed their turn, free permits of dead holders; how much is left to watch.

        0: nobody waits any more, in any process.
        """
        mark_ms = int(self._settings.sweep_s * 750)
        left, *woken = await self._scripts.one(
            lua.sweep_permits(reservation_ms=self._reservation_ms, mark_ms=mark_ms, page=_SWEEP_PAGE)
        )
        await self.wake(woken)
        return int(left)

    async def change_limit(self, permit: Permit) -> None:
        """A limit has changed: notify those who fit now. Repeatable."""
        await self.reassign([permit])

    async def reassign(self, permits: Sequence[Permit], dead: Sequence[str] = (), taken: Sequence[str] = ()) -> None:
        """Take from owners that are proved dead (their nonces) what they hold of `permits`, in one script.

        What one of the `taken` tasks (`queue/taskId`) had is reserved for it; the rest goes to who waits. Repeatable.
        """
        call = lua.reassign_permits(
            limiters=[_limiter(p) for p in permits],
            limits=[p.limit for p in permits],
            reservation_ms=self._reservation_ms,
            dead=dead,
            taken=taken,
        )
        await self.wake(await self._scripts.one(call))

    async def forget_waiters(self, queue: str) -> int:
        """Take all waiters of a paused queue out of the lines, so that no permit is reserved for them; how many."""
        return int(await self._scripts.one(lua.forget_waiters(waiter_prefix=f"{queue}/")))

    # --- shapes ----------------------------------------------------------------------------------------------

    def _acquire_call(self, ask: PermitRequest, lease_ms: int) -> Call:
        return lua.acquire_permits(
            shared=[_limiter(p) for p in ask.shared],
            candidates=[_candidate(c) for c in ask.candidates],
            token=ask.token,
            waiter=ask.waiter,
            since_ms=ask.since_ms,
            lease_ms=lease_ms,
            has_priority=ask.has_priority,
            reservation_ms=self._reservation_ms,
            wait_ttl_ms=self._wait_ttl_ms,
            shared_limits=[p.limit for p in ask.shared],
            rates=[_rates(c) for c in ask.candidates],
        )

    async def _outcome_of(self, ask: PermitRequest, reply: Any) -> Outcome:
        outcome, woken = _outcome_and_woken(ask, reply)
        if isinstance(outcome, WaitForPermit):
            self.on_waiter()
        await self.wake(woken)
        return outcome

    def _report(self, report: CallReport, permits: Sequence[Permit]) -> lua.Report:
        c, s = report.candidate, self._settings
        return lua.Report(
            outcome=report.outcome,
            cooldown_ms=report.cooldown_ms,
            cooldown_reason=report.cooldown_reason,
            request_ms=requests(c.requests_per_minute).each_ms,
            token_ms=tokens(c.tokens_per_minute).each_ms,
            tokens_reserved=c.tokens,
            tokens_used=-1 if report.tokens is None else report.tokens,
            failures_max=s.breaker_failures,
            window_ms=int(s.breaker_window_s * 1000),
            open_ms=int(s.breaker_open_s * 1000),
            open_max_ms=int(s.breaker_open_max_s * 1000),
            slow_down=int(report.slow_down),
            own_limiter=list(permits).index(c.permit) + 1,
            requests_sent=report.requests,
        )


def _limiter(permit: Permit) -> lua.LimiterKeys:
    return lua.LimiterKeys(permit.key, keys.waiters_of(permit.key))


def _candidate(c: Candidate) -> lua.CandidateKeys:
    model = keys.model_keys(c.model_id)
    return lua.CandidateKeys(
        permits=c.permit.key,
        waiters=keys.waiters_of(c.permit.key),
        probe=model.probe,
        probe_waiters=keys.waiters_of(model.probe),
        closed=model.cooldown,
        breaker=model.breaker,
        slowdown=keys.adaptive_limit(c.model_id, c.tier),
        requests=model.rpm,
        tokens=model.tpm,
        paid_turns=model.paid_turns,
        free_turns=model.free_turns,
    )


def _rates(c: Candidate) -> lua.CandidateRates:
    by_request, by_token = requests(c.requests_per_minute), tokens(c.tokens_per_minute)
    return lua.CandidateRates(
        limit=c.permit.limit,
        request_ms=by_request.each_ms,
        request_burst_ms=by_request.burst_ms,
        token_ms=by_token.each_ms,
        token_burst_ms=by_token.burst_ms,
        tokens=c.tokens,
    )


def _model(c: Candidate) -> lua.ModelKeys:
    model = keys.model_keys(c.model_id)
    return lua.ModelKeys(
        closed=model.cooldown,
        breaker=model.breaker,
        slowdown=keys.adaptive_limit(c.model_id, c.tier),
        requests=model.rpm,
        tokens=model.tpm,
        probe=model.probe,
        probe_waiters=keys.waiters_of(model.probe),
    )


def _outcome_and_woken(ask: PermitRequest, reply: Any) -> tuple[Outcome, Sequence[bytes]]:
    match reply:
        case [b"in", chosen, probing, *woken]:
            candidate = ask.candidates[chosen - 1]
            permits = (*ask.shared, candidate.permit)
            return Granted(chosen - 1, (*permits, _probe(candidate)) if probing else permits), woken
        case [b"full", number, rank, *woken]:
            asked = (*ask.shared, *(c.permit for c in ask.candidates))
            return WaitForPermit(asked[number - 1], rank), woken
        case [b"probing", _, rank, *woken]:
            return WaitForPermit(None, rank), woken
        case [b"unavailable", reason, ms, in_line, *woken]:
            return NoModelAvailable(Reason(reason.decode()), ms, bool(in_line)), woken
    raise AssertionError(f"the enter script answered {reply!r}")


def _probe(candidate: Candidate) -> Permit:
    return Permit(keys.model_keys(candidate.model_id).probe, 1)
