"""The scripts of permits, each as a function of its name that builds its call.

Parameters are KEYS and ARGV in the order of the contract at the head of the script, which also says what each one means
and what the reply is (`tests/rules/test_lua.py` compares the two).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from daemon.redis_client.keys import LIMITERS_WITH_WAITERS, NOTIFIED, PERMIT_SWEEP, PERMIT_SWEEP_CURSOR
from daemon.redis_client.scripts import Call, load_scripts

SCRIPTS: Final = load_scripts("limiter")

#: Waiters that one script notifies: some milliseconds of the server's time, and of ours to wake them.
WAKE_MAX: Final = 100
#: A turn at a model's rate that was not taken for so long is given up: its task has died or waits elsewhere.
TURN_GRACE_MS: Final = 5000
#: A turn may be taken so early: a task that is woken at its time comes a little before or after it.
TURN_EARLY_MS: Final = 20
#: The free give way to the paid whose turn comes within it.
PAID_AHEAD_MS: Final = 1000
#: The share of a rate's burst that the free may use; the rest is for those who go first.
FREE_BURST: Final = 0.8
#: Who waits for the probe of an open breaker is woken when it closes; if not, it asks again after this.
PROBE_WAIT_MS: Final = 30_000
#: A refusal lowers an adaptive limit to this share, at most once in so long; it is forgotten an hour after the last.
LOWER_FACTOR: Final = 0.7
LOWER_EVERY_MS: Final = 10_000
SLOWDOWN_TTL_MS: Final = 3_600_000
#: A task that was taken over from a dead owner asks for the permits that it had within this.
TAKEN_MS: Final = 5000


class LimiterKeys(NamedTuple):
    """One limiter."""

    permits: str
    waiters: str


class CandidateKeys(NamedTuple):
    """A model that may serve an attempt."""

    permits: str
    waiters: str
    probe: str
    probe_waiters: str
    closed: str
    breaker: str
    slowdown: str
    requests: str
    tokens: str
    paid_turns: str
    free_turns: str


class CandidateRates(NamedTuple):
    """Its limit, its rates in ms each and burst in ms (0: no limit), and the tokens that the call may use."""

    limit: int
    request_ms: float
    request_burst_ms: float
    token_ms: float
    token_burst_ms: float
    tokens: int


class ModelKeys(NamedTuple):
    """What a report changes."""

    closed: str
    breaker: str
    slowdown: str
    requests: str
    tokens: str
    probe: str
    probe_waiters: str


class Report(NamedTuple):
    """What an attempt learned of its model, and how the script judges it."""

    outcome: str
    cooldown_ms: int
    cooldown_reason: str
    request_ms: float
    token_ms: float
    tokens_reserved: int
    tokens_used: int
    failures_max: int
    window_ms: int
    open_ms: int
    open_max_ms: int
    slow_down: int
    own_limiter: int
    requests_sent: int
    lower_factor: float = LOWER_FACTOR
    lower_every_ms: int = LOWER_EVERY_MS
    slowdown_ttl_ms: int = SLOWDOWN_TTL_MS


def acquire_permits(
    *,
    notified: str = NOTIFIED,
    waits: str = LIMITERS_WITH_WAITERS,
    shared: Sequence[LimiterKeys],
    candidates: Sequence[CandidateKeys],
    token: str,
    waiter: str,
    since_ms: int,
    lease_ms: int,
    has_priority: bool,
    reservation_ms: int,
    wait_ttl_ms: int,
    wake_max: int = WAKE_MAX,
    turn_grace_ms: int = TURN_GRACE_MS,
    turn_early_ms: int = TURN_EARLY_MS,
    paid_ahead_ms: int = PAID_AHEAD_MS,
    free_burst: float = FREE_BURST,
    probe_wait_ms: int = PROBE_WAIT_MS,
    shared_limits: Sequence[int],
    rates: Sequence[CandidateRates],
) -> Call:
    """Lets a task in to the first model that is available, or says why not."""
    return Call(
        SCRIPTS["acquire_permits"],
        (
            *(notified, waits, *(key for limiter in shared for key in limiter)),
            *(key for candidate in candidates for key in candidate),
        ),
        (
            *(token, waiter, since_ms, lease_ms, int(has_priority), reservation_ms, wait_ttl_ms, wake_max),
            *(turn_grace_ms, turn_early_ms, paid_ahead_ms, free_burst, probe_wait_ms),
            *(len(shared), *shared_limits, *(value for rate in rates for value in rate)),
        ),
    )


def forget_waiters(*, waits: str = LIMITERS_WITH_WAITERS, waiter_prefix: str) -> Call:
    """Takes all waiters of one queue out of every line."""
    return Call(SCRIPTS["forget_waiters"], (waits,), (waiter_prefix,))


def reassign_permits(
    *,
    notified: str = NOTIFIED,
    waits: str = LIMITERS_WITH_WAITERS,
    limiters: Sequence[LimiterKeys],
    reservation_ms: int,
    wake_max: int = WAKE_MAX,
    taken_ms: int = TAKEN_MS,
    limits: Sequence[int],
    dead: Sequence[str] = (),
    taken: Sequence[str] = (),
) -> Call:
    """Hands permits on that nobody releases: owners are proved dead, or a limit has changed."""
    return Call(
        SCRIPTS["reassign_permits"],
        (notified, waits, *(key for limiter in limiters for key in limiter)),
        (reservation_ms, wake_max, taken_ms, len(limiters), len(dead), *limits, *dead, *taken),
    )


def release_permits(
    *,
    notified: str = NOTIFIED,
    limiters: Sequence[LimiterKeys],
    model: ModelKeys | None = None,
    token: str,
    reservation_ms: int,
    wake_max: int = WAKE_MAX,
    limits: Sequence[int],
    report: Report | None = None,
) -> Call:
    """Releases permits, hands them on, and notes what the call reports of its model."""
    return Call(
        SCRIPTS["release_permits"],
        (notified, *(key for limiter in limiters for key in limiter), *(model or ())),
        (token, reservation_ms, wake_max, len(limiters), *limits, *(report or ())),
    )


def renew_permits(*, permits: Sequence[str], lease_ms: int, retake: bool = False, tokens: Sequence[str]) -> Call:
    """Renews permits of many tokens."""
    return Call(SCRIPTS["renew_permits"], permits, (lease_ms, int(retake), *tokens))


def sweep_permits(
    *,
    mark: str = PERMIT_SWEEP,
    cursor: str = PERMIT_SWEEP_CURSOR,
    notified: str = NOTIFIED,
    waits: str = LIMITERS_WITH_WAITERS,
    reservation_ms: int,
    mark_ms: int,
    page: int,
    wake_max: int = WAKE_MAX,
) -> Call:
    """Re-notifies waiters that missed their turn, and hands over permits of dead holders."""
    return Call(SCRIPTS["sweep_permits"], (mark, cursor, notified, waits), (reservation_ms, mark_ms, page, wake_max))


def wake(*, retry: str, held: str, ready: str, woken_mark: str, task_id: str, mark_ms: int) -> Call:
    """Moves one delayed task to `:ready` because a permit is reserved for it."""
    return Call(SCRIPTS["wake"], (retry, held, ready, woken_mark), (task_id, mark_ms))
