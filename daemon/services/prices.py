"""What a call costs: the price in force at its end, by date and hour. Pure; the clock is an argument.

Providers bill a call by the moment at which it ends. Unknown is None, never 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import msgspec

from daemon.domain.events import Usage

DAY_MINUTES = 24 * 60


@dataclass(frozen=True, slots=True)
class Price:
    """USD for a million tokens. Input that the provider had cached costs `cached_input`."""

    input: float
    cached_input: float
    output: float
    since: float = 0.0  #: unix s; not in force before


@dataclass(frozen=True, slots=True)
class OffPeak:
    """Hours at which everything costs `factor` of its price: on each of `days`, the `spans` of that calendar day.

    >>> night = OffPeak(0.5, ((18 * 60, 9 * 60),), "Asia/Shanghai", frozenset(range(7)))
    >>> [night.covers(datetime(2026, 11, 30, hour, tzinfo=UTC).timestamp()) for hour in (0, 1, 9, 10)]
    [True, False, False, True]
    """

    factor: float
    spans: tuple[tuple[int, int], ...]  #: minutes of the day, the end not included; one that ends first goes round
    timezone: str
    days: frozenset[int]  #: 0 is Monday

    def covers(self, at: float) -> bool:
        """Whether `at` (unix s) is such an hour."""
        local = datetime.fromtimestamp(at, UTC).astimezone(ZoneInfo(self.timezone))
        minute = local.hour * 60 + local.minute
        return local.weekday() in self.days and any(
            begin <= minute < end if begin < end else minute >= begin or minute < end for begin, end in self.spans
        )


def price_at(prices: Sequence[Price], off_peak: Sequence[OffPeak], at: float) -> Price | None:
    """The price in force at `at` (unix s): the newest that has begun, times the lowest factor of that hour."""
    begun = [price for price in prices if price.since <= at]
    if not begun:
        return None
    price, factor = (
        max(begun, key=lambda each: each.since),
        min((o.factor for o in off_peak if o.covers(at)), default=1),
    )
    return replace(
        price, input=price.input * factor, cached_input=price.cached_input * factor, output=price.output * factor
    )


def priced(usage: Usage, price: Price | None) -> Usage:
    """`usage` with `cost_usd` filled in, exact to 10 decimals.

    None without a price, or when input or output is unknown. Unknown cached input is charged at the full price.
    """
    given, written = usage.input_tokens, usage.output_tokens
    if price is None or given is None or written is None:
        return msgspec.structs.replace(usage, cost_usd=None)
    cached = min(usage.cached_input_tokens or 0, given)
    millionths = (given - cached) * price.input + cached * price.cached_input + written * price.output
    return msgspec.structs.replace(usage, cost_usd=round(millionths / 1e6, 10))
