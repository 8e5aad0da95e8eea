"""Prices as a services file spells them: one table, or several with dates; hours at which they are lower."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Final
from zoneinfo import ZoneInfo

from daemon.services.prices import DAY_MINUTES, OffPeak, Price
from daemon.services.table import Table

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
HOURS_ALLOWED: Final = '"18:00-09:00", or several with commas, from 00:00 to 24:00'
DAYS_ALLOWED: Final = f'"mon-fri", "sat,sun" or the like, of {", ".join(DAYS)}'
_SPAN: Final = re.compile(r"(\d{1,2}):(\d{2})-(\d{1,2}):(\d{2})")


def read_prices(t: Table) -> tuple[Price, ...]:
    """`price_per_million_usd`: a table, or a list of tables each with a `from`, which only the first may lack."""
    found = []
    for at, inner in enumerate(t.listed("price_per_million_usd")):
        paid = inner.number("input", 0, 10**6, required=True) or 0.0
        cached = inner.number("cached_input", 0, 10**6)
        output = inner.number("output", 0, 10**6, required=True) or 0.0
        found.append(Price(paid, paid if cached is None else cached, output, _since(inner, first=at == 0)))
        inner.close()
    if [price.since for price in found] != sorted({price.since for price in found}):
        t.mistake("price_per_million_usd", "is not in the order of its dates, or names one twice")
    return tuple(found)


def _since(t: Table, *, first: bool) -> float:
    text = t.text("from", required=not first)
    if text is None:
        return 0.0
    try:
        return datetime.combine(date.fromisoformat(text), datetime.min.time(), UTC).timestamp()
    except ValueError:
        t.mistake("from", f'= "{text[:40]}" is not allowed; allowed: a day such as "2027-01-01", which begins in UTC')
        return 0.0


def read_off_peak(t: Table) -> tuple[OffPeak, ...]:
    """`off_peak`: a table, or a list of them where days differ in their hours."""
    found = []
    for inner in t.listed("off_peak"):
        factor = inner.number("factor", 0, 1, required=True)
        spans = _spans(inner)
        zone = _zone(inner)
        days = frozenset(_days(inner))
        inner.close()
        if factor is not None and spans and zone and days:
            found.append(OffPeak(factor, spans, zone, days))
    return tuple(found)


def _spans(t: Table) -> tuple[tuple[int, int], ...]:
    text = t.text("hours")
    spans = []
    for part in text.split(",") if text else []:
        match = _SPAN.fullmatch(part.strip())
        begin, end = (int(match[1]) * 60 + int(match[2]), int(match[3]) * 60 + int(match[4])) if match else (0, 0)
        if not match or begin == end or max(begin, end) > DAY_MINUTES or max(match[2], match[4]) > "59":
            t.mistake("hours", f'= "{(text or "")[:40]}" is not allowed; allowed: {HOURS_ALLOWED}')
            return ()
        spans.append((begin, end))
    return tuple(spans)


def _zone(t: Table) -> str:
    name = t.text("timezone", required=False) or "UTC"
    try:
        ZoneInfo(name)
    except (ValueError, OSError, LookupError):
        t.mistake("timezone", f'= "{name[:40]}" is not known here; allowed: a name such as "Asia/Shanghai"')
        return ""
    return name


def _days(t: Table) -> Iterator[int]:
    text = t.text("days", required=False) or "mon-sun"
    for part in text.lower().split(","):
        first, _, last = part.strip().partition("-")
        if first not in DAYS or (last or first) not in DAYS:
            t.mistake("days", f'= "{text[:40]}" is not allowed; allowed: {DAYS_ALLOWED}')
            return
        begin, end = DAYS.index(first), DAYS.index(last or first)
        yield from (day % 7 for day in range(begin, end + 1 if end >= begin else end + 8))
