"""What a model's rates mean to the scripts. Pure.

GCRA: a part of a minute's worth may come at once, the rest flows in evenly, and the two are cut so that no window of a
minute ever holds more than the limit. Of requests a tenth comes at once. Of tokens a third does, since what is reserved
for a call is mostly given back at its end; a call larger than that waits until nothing is owed and overdraws.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MINUTE_MS: Final = 60_000.0


@dataclass(frozen=True, slots=True)
class Rate:
    """`each_ms` for one more; `burst_ms` may be taken ahead. Zeros: no limit."""

    each_ms: float = 0.0
    burst_ms: float = 0.0


def requests(per_minute: int | None) -> Rate:
    """The rate of requests; exact, also for one a minute."""
    if not per_minute:
        return Rate()
    at_once = 1 + per_minute // 10
    each_ms = MINUTE_MS / (per_minute - at_once + 1)
    return Rate(each_ms, at_once * each_ms)


def tokens(per_minute: int | None) -> Rate:
    """The rate of tokens."""
    if not per_minute:
        return Rate()
    at_once = per_minute / 3
    each_ms = MINUTE_MS / (per_minute - at_once)
    return Rate(each_ms, at_once * each_ms)
