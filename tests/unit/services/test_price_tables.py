"""Prices and cheap hours as a services file spells them, and every way of spelling them wrong."""

from __future__ import annotations

import tomllib
from datetime import UTC, datetime

import pytest

from daemon.services.price_tables import read_off_peak, read_prices
from daemon.services.prices import OffPeak, Price
from daemon.services.table import Table

ALL_DAYS = frozenset(range(7))


def prices(text: str) -> tuple[tuple[Price, ...], list[str]]:
    mistakes: list[str] = []
    return read_prices(Table("f", "m", tomllib.loads(text), mistakes)), mistakes


def off_peak(text: str) -> tuple[tuple[OffPeak, ...], list[str]]:
    mistakes: list[str] = []
    return read_off_peak(Table("f", "m", tomllib.loads(text), mistakes)), mistakes


def test_one_price_or_several_with_dates() -> None:
    assert prices("") == ((), [])
    assert prices("price_per_million_usd = { input = 1, output = 4 }") == ((Price(1, 1, 4),), [])
    dated, mistakes = prices(
        """price_per_million_usd = [
        { input = 0.75, cached_input = 0.075, output = 3.75 },
        { from = "2027-01-01", input = 1.5, cached_input = 0.15, output = 7.5 }]"""
    )
    new_year = datetime(2027, 1, 1, tzinfo=UTC).timestamp()
    assert (dated, mistakes) == ((Price(0.75, 0.075, 3.75), Price(1.5, 0.15, 7.5, new_year)), [])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{ input = 1 }", "output is missing"),
        ("{ input = 1, output = 1, cache = 2 }", "cache is unknown"),
        ('{ input = 1, output = 1, from = "soon" }', 'from = "soon" is not allowed'),
        ("[{ input = 1, output = 1 }, { input = 1, output = 1 }]", "from is missing"),
        ('[{ input = 1, output = 1, from = "2027-01-01" }, { input = 1, output = 1, from = "2026-01-01" }]', "order"),
        ("[1]", "holds = 1; allowed: tables"),
    ],
)
def test_a_wrong_price_names_itself(text: str, why: str) -> None:
    assert any(why in mistake for mistake in prices(f"price_per_million_usd = {text}")[1])


def test_cheap_hours_of_some_days_in_some_zone() -> None:
    night = '{ factor = 0.5, hours = "18:00-09:00", timezone = "Asia/Shanghai", days = "mon-sun" }'
    assert off_peak(f"off_peak = {night}") == ((OffPeak(0.5, ((1080, 540),), "Asia/Shanghai", ALL_DAYS),), [])
    assert off_peak('off_peak = { factor = 0, hours = "00:00-24:00" }')[0] == (
        OffPeak(0, ((0, 1440),), "UTC", ALL_DAYS),
    )
    several, mistakes = off_peak(
        """off_peak = [{ factor = 0.5, hours = "18:00-09:00, 12:00-14:00", days = "mon-fri" },
                       { factor = 0.4, hours = "0:00-24:00", days = "sat,sun" },
                       { factor = 0.3, hours = "01:00-02:00", days = "Fri-Mon" }]"""
    )
    assert mistakes == []
    assert [o.days for o in several] == [frozenset(range(5)), frozenset({5, 6}), frozenset({4, 5, 6, 0})]
    assert several[0].spans == ((1080, 540), (720, 840))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{ hours = "18:00-09:00" }', "factor is missing"),
        ("{ factor = 0.5 }", "hours is missing"),
        ('{ factor = 2, hours = "18:00-09:00" }', "factor = 2 is not allowed"),
        ('{ factor = 0.5, hours = "18-9" }', 'hours = "18-9" is not allowed; allowed: "18:00-09:00"'),
        ('{ factor = 0.5, hours = "09:00-09:00" }', "hours"),
        ('{ factor = 0.5, hours = "18:00-25:00" }', "hours"),
        ('{ factor = 0.5, hours = "18:60-19:00" }', "hours"),
        ('{ factor = 0.5, hours = "18:00-09:00", timezone = "Mars/North" }', 'timezone = "Mars/North" is not known'),
        ('{ factor = 0.5, hours = "18:00-09:00", timezone = "../etc" }', "timezone"),
        ('{ factor = 0.5, hours = "18:00-09:00", days = "weekend" }', 'days = "weekend" is not allowed'),
        ('{ factor = 0.5, hours = "18:00-09:00", day = "mon" }', "day is unknown; did you mean"),
    ],
)
def test_wrong_hours_name_themselves(text: str, why: str) -> None:
    mistakes = off_peak(f"off_peak = {text}")[1]
    assert any(why in mistake for mistake in mistakes), mistakes
