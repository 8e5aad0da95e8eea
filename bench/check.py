"""`python -m bench.check`: a regression of speed fails here, within a minute and on any machine.

Nothing is compared with a number from another day: each of ours is divided by the raw loop (or the empty handler) of
the same round, and the best of the rounds counts, so that a busy neighbour can't fail it. The bounds are about half of
what docs/performance.md measured: they catch a lost batch or a blocking call, not a few percent.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

from bench.case import Values
from bench.cases import accept, drain, latency

ROUNDS = 3
_TASKS, _RAW, _CALLS, _SAMPLES = 2500, 10_000, 2500, 60


@dataclass(frozen=True, slots=True)
class Bound:
    """A ratio that `best` of the rounds has to reach."""

    name: str
    ours: str
    reference: str
    metric: str
    at_least: float | None = None
    at_most: float | None = None


BOUNDS = (
    Bound("drain, of the raw loop's rate", "drain", "raw loop", "per_s", at_least=0.005),
    Bound("accept, of the empty handler's rate", "relay", "empty", "per_s", at_least=0.08),
    Bound("accepted to started, of the raw wake-up", "latency", "raw wake-up", "p50_ms", at_most=20.0),
)


def once() -> dict[str, Values]:
    """One round of each."""
    return {
        "raw loop": drain.peer("raw", _RAW),
        "drain": drain.ours(_TASKS),
        "empty": accept.arm("empty", _CALLS),
        "relay": accept.arm("relay", _CALLS),
        "raw wake-up": latency.raw(_SAMPLES),
        "latency": latency.ours(_SAMPLES, persist=False),
    }


def judged(rounds: list[dict[str, Values]]) -> list[tuple[Bound, float, bool]]:
    """Each bound, the best ratio of the rounds, and whether it holds."""
    found = []
    for bound in BOUNDS:
        ratios = [one[bound.ours][bound.metric] / one[bound.reference][bound.metric] for one in rounds]
        if bound.at_least is not None:
            best = max(ratios)
            found.append((bound, best, best >= bound.at_least))
        else:
            best = min(ratios)
            found.append((bound, best, best <= (bound.at_most or 0.0)))
    return found


def main() -> int:
    """0 when every bound holds."""
    rounds = []
    for at in range(ROUNDS):
        began = time.monotonic()
        rounds.append(once())
        print(f"round {at + 1} of {ROUNDS}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        if all(holds for *_, holds in judged(rounds)):
            break
    failed = 0
    for bound, best, holds in judged(rounds):
        limit = f"at least {bound.at_least:g}" if bound.at_least is not None else f"at most {bound.at_most:g}"
        print(f"{'ok    ' if holds else 'FAILED'} {bound.name}: {best:.3g} ({limit})")
        failed += not holds
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
