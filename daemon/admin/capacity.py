"""How many attempts at once a load needs, and what that costs. Pure arithmetic, no server asked.

Durations are taken as lognormal (from mean and P95), arrivals as Poisson, service as first come, first served. `erlang`
is the quick answer; `simulate` (Kiefer and Wolfowitz: each task takes the slot that comes free first) is the one to
believe. Neither can beat the `ceiling`: what is slower than the promise by itself keeps no promise, however many slots
there are.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist, fmean
from typing import Final

TASKS: Final = 20_000  #: of one simulated run; a run takes some 40 ms
SEEDS: Final = (11, 23, 47)
SLOTS_MAX: Final = 20_000
_Z95: Final = NormalDist().inv_cdf(0.95)
HOUR_S: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Load:
    """What comes in. `burst` times the rate for `burst_s` in every hour; `timeout_s` ends an attempt (None: never)."""

    per_minute: float
    mean_s: float
    p95_s: float
    sla_s: float
    burst: float = 1.0
    burst_s: float = 0.0
    timeout_s: float | None = None

    @property
    def offered(self) -> float:
        """Mean attempts at once (Erlang), outside of bursts."""
        return self.per_minute / 60 * self.served_mean_s

    @property
    def served_mean_s(self) -> float:
        """The mean with the time limit in force."""
        return self.mean_s if self.timeout_s is None else capped_mean(self.shape, self.timeout_s)

    @property
    def shape(self) -> Lognormal:
        """The durations without a limit."""
        return fit(self.mean_s, self.p95_s)


@dataclass(frozen=True, slots=True)
class Lognormal:
    """exp(Normal(mu, sigma))."""

    mu: float
    sigma: float

    def tail(self, at_s: float) -> float:
        """The share that takes longer than `at_s`."""
        return 0.5 * math.erfc((math.log(at_s) - self.mu) / (self.sigma * math.sqrt(2))) if at_s > 0 else 1.0

    @property
    def cv2(self) -> float:
        """Squared coefficient of variation."""
        return math.exp(self.sigma**2) - 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """What `slots` make of a load. Shares are 0 to 1; the worst of all seeds."""

    slots: int
    utilisation: float
    in_sla: float
    p95_s: float  #: from acceptance to the end
    wait_p95_s: float
    wait_p99_s: float
    waiting_max: int  #: the longest queue that was seen


@dataclass(frozen=True, slots=True)
class Quick:
    """The analytic answer for steady arrivals."""

    slots: int
    wait_share: float  #: P(wait)
    wait_mean_s: float

    def wait_tail(self, load: Load, at_s: float) -> float:
        """P(wait > at_s)."""
        spread = load.served_mean_s * (1 + load.shape.cv2)
        return self.wait_share * math.exp(-2 * (self.slots - load.offered) * at_s / spread)


def fit(mean_s: float, p95_s: float) -> Lognormal:
    """The lognormal of this mean and P95. Raises ValueError when there is none (P95 beyond 3.87 means)."""
    under = _Z95**2 - 2 * math.log(p95_s / mean_s)
    if not mean_s < p95_s or under < 0:
        raise ValueError(f"P95 {p95_s:g} s does not fit mean {mean_s:g} s: wanted mean < P95 <= 3.87 means")
    sigma = _Z95 - math.sqrt(under)
    return Lognormal(math.log(mean_s) - sigma**2 / 2, sigma)


def capped_mean(shape: Lognormal, limit_s: float) -> float:
    """The mean of min(duration, limit)."""
    below = NormalDist().cdf((math.log(limit_s) - shape.mu) / shape.sigma - shape.sigma)
    return math.exp(shape.mu + shape.sigma**2 / 2) * below + limit_s * shape.tail(limit_s)


def ceiling(load: Load) -> float:
    """The largest share that any number of slots can end within the promise: what takes longer by itself can't."""
    return 1.0 if load.timeout_s is not None and load.timeout_s <= load.sla_s else 1 - load.shape.tail(load.sla_s)


def erlang(load: Load, slots: int) -> Quick:
    """Erlang C, with Allen and Cunneen's correction for spread. Needs more slots than the offered load."""
    a, blocked = load.offered, 1.0
    if slots <= a:
        return Quick(slots, 1.0, math.inf)
    for n in range(1, slots + 1):
        blocked = a * blocked / (n + a * blocked)
    share = blocked / (1 - (a / slots) * (1 - blocked))
    return Quick(slots, share, share * load.served_mean_s / (slots - a) * (1 + load.shape.cv2) / 2)


def simulate(load: Load, slots: int, *, tasks: int = TASKS, seeds: Sequence[int] = SEEDS) -> Outcome:
    """Play the load through `slots`; the worst of all seeds. Repeatable: the seeds are fixed."""
    runs = [_run(load, slots, tasks, seed) for seed in seeds]
    return Outcome(
        slots, fmean(run.utilisation for run in runs), min(run.in_sla for run in runs), max(run.p95_s for run in runs),
        max(run.wait_p95_s for run in runs), max(run.wait_p99_s for run in runs), max(run.waiting_max for run in runs),
    )  # fmt: skip


def _run(load: Load, slots: int, tasks: int, seed: int) -> Outcome:
    rng, shape = random.Random(seed), load.shape
    free = [0.0] * slots
    starts: list[float] = []  # of tasks that may still wait, to count the queue
    waits, totals, busy, waiting_max, last = [], [], 0.0, 0, 0.0
    head = 0
    for last in _arrivals(load, rng, tasks):
        took = rng.lognormvariate(shape.mu, shape.sigma)
        if load.timeout_s is not None:
            took = min(took, load.timeout_s)
        start = max(last, free[0])
        heapq.heapreplace(free, start + took)
        starts.append(start)
        while starts[head] <= last and head < len(starts) - 1:
            head += 1
        waiting_max = max(waiting_max, len(starts) - head - (starts[head] <= last))
        waits.append(start - last)
        totals.append(start - last + took)
        busy += took
    waits.sort()
    good = sum(total <= load.sla_s for total in totals) / len(totals)
    totals.sort()
    used = busy / (slots * max(last, 1e-9))
    return Outcome(slots, used, good, _at(totals, 0.95), _at(waits, 0.95), _at(waits, 0.99), waiting_max)


def _arrivals(load: Load, rng: random.Random, tasks: int) -> Iterator[float]:
    """Poisson, thinned: candidates come at the rate of a burst, and between bursts only some of them are kept."""
    top = max(1.0, load.burst) if load.burst_s else 1.0
    now, sent, each_s = 0.0, 0, 60 / (load.per_minute * top)
    while sent < tasks:
        now += rng.expovariate(1 / each_s)
        factor = load.burst if load.burst_s and now % HOUR_S < load.burst_s else 1.0
        if rng.random() * top < factor:
            sent += 1
            yield now


def _at(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def slots_for(load: Load, target: float) -> Outcome | None:
    """The fewest slots that end `target` of all tasks within the promise; None when no number of slots can."""
    if target > ceiling(load):
        return None
    low, high = max(1, math.floor(load.offered)), max(2, math.ceil(load.offered * max(1.0, load.burst) * 2))
    best = _good(load, high, target)
    while best is None and high < SLOTS_MAX:
        low, high = high, high * 2
        best = _good(load, high, target)
    while best is not None and high - low > 1:
        middle = (low + high) // 2
        found = _good(load, middle, target)
        low, high, best = (low, middle, found) if found is not None else (middle, high, best)
    return best


def _good(load: Load, slots: int, target: float) -> Outcome | None:
    found = simulate(load, slots)
    return found if found.in_sla >= target else None


def backlog_s(load: Load, slots: int, tasks: int) -> float:
    """How long a backlog of so many tasks takes to be gone while the load goes on; infinite when it only grows."""
    spare = slots / load.served_mean_s - load.per_minute / 60
    return tasks / spare if spare > 0 else math.inf


def with_timeout(load: Load, timeout_s: float) -> Load:
    """The same load with attempts ended after `timeout_s`."""
    return replace(load, timeout_s=timeout_s)
