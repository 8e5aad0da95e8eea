"""What is in force when: dates, hours, time zones."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from daemon.domain.events import Usage
from daemon.services.prices import OffPeak, Price, price_at, priced

NOW, LATER = Price(1.0, 0.1, 4.0), Price(2.0, 0.2, 8.0, since=datetime(2027, 1, 1, tzinfo=UTC).timestamp())
#: DeepSeek's: half price but on weekdays from 9 to 12 and from 14 to 18 in Shanghai
DEEPSEEK = (
    OffPeak(0.5, ((18 * 60, 9 * 60), (12 * 60, 14 * 60)), "Asia/Shanghai", frozenset(range(5))),
    OffPeak(0.5, ((0, 24 * 60),), "Asia/Shanghai", frozenset({5, 6})),
)


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("moment", "price"),
    [("2026-12-31T23:59:59", NOW), ("2027-01-01T00:00:00", LATER), ("2030-01-01T00:00:00", LATER)],
)
def test_the_newest_price_that_has_begun_is_in_force(moment: str, price: Price) -> None:
    found = price_at((NOW, LATER), (), at(moment))
    assert found is not None and (found.input, found.output) == (price.input, price.output)


def test_before_the_first_date_the_price_is_unknown() -> None:
    assert price_at((LATER,), (), at("2026-12-31T23:59:59")) is None
    assert price_at((), (), 0) is None


@pytest.mark.parametrize(
    ("moment", "cheap"),
    [
        ("2026-11-30T00:59:59", True),
        ("2026-11-30T01:00:00", False),
        ("2026-11-30T03:59:59", False),
        ("2026-11-30T04:00:00", True),
        ("2026-11-30T06:00:00", False),
        ("2026-11-30T10:00:00", True),
        ("2026-12-05T02:00:00", True),
        ("2026-12-06T15:59:59", True),
        ("2026-12-06T16:00:00", True),
        ("2026-12-07T01:00:00", False),
    ],
)
def test_cheap_hours_are_those_of_the_providers_clock(moment: str, *, cheap: bool) -> None:
    """The hours of DeepSeek's price page, in UTC."""
    found = price_at((NOW,), DEEPSEEK, at(moment))
    assert found == (Price(0.5, 0.05, 2.0) if cheap else NOW)


def test_summer_time_moves_the_hours() -> None:
    """Nine in the morning in Berlin is seven or eight in UTC."""
    morning = OffPeak(0.5, ((9 * 60, 10 * 60),), "Europe/Berlin", frozenset(range(7)))
    assert [morning.covers(at(f"2026-07-01T0{hour}:00:00")) for hour in (7, 8)] == [True, False]
    assert [morning.covers(at(f"2026-12-01T0{hour}:00:00")) for hour in (7, 8)] == [False, True]


def test_cost_is_that_of_the_hour() -> None:
    usage = Usage(1_000_000, 500_000, 1_000_000)
    assert priced(usage, price_at((NOW,), DEEPSEEK, at("2026-11-30T02:00:00"))).cost_usd == 4.55
    assert priced(usage, price_at((NOW,), DEEPSEEK, at("2026-11-30T12:00:00"))).cost_usd == 2.275
    assert priced(usage, None).cost_usd is None
