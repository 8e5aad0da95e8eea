"""Cron expressions as QStash schedules take them: five fields, names, `CRON_TZ=…` in front, the usual @shorthands."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

_SHORTHANDS: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_DAYS_AHEAD_MAX: Final = 366 * 8 + 2  # 29 February can be eight years away (1896 to 1904)
_RANGE: Final = re.compile(r"(\*|\w+)(?:-(\w+))?(?:/(\d+))?")


@dataclass(frozen=True, slots=True)
class Cron:
    """When a schedule fires; minutes are its grain."""

    text: str
    zone: ZoneInfo
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]  #: 0 is Sunday
    either_day: bool  #: both day fields are given: one of them is enough, as cron has always done

    @classmethod
    def parse(cls, text: str) -> Cron:
        """The schedule. Raises ValueError, with the field, for what is not cron and for what can never happen."""
        zone, fields = "UTC", text.split()
        if fields and fields[0].startswith(("CRON_TZ=", "TZ=")):
            zone = fields.pop(0).partition("=")[2]
        if len(fields) == 1 and fields[0] in _SHORTHANDS:
            fields = _SHORTHANDS[fields[0]].split()
        if len(fields) != 5:
            raise ValueError(f"a cron expression has 5 fields, not {len(fields)}: {text[:80]!r}")
        try:
            tz = ZoneInfo(zone)
        except (KeyError, ValueError, OSError) as error:
            raise ValueError(f"unknown time zone {zone[:40]!r}") from error
        cron = cls(
            text=text,
            zone=tz,
            minutes=tuple(sorted(_field(fields[0], 0, 59))),
            hours=tuple(sorted(_field(fields[1], 0, 23))),
            days=_field(fields[2], 1, 31),
            months=_field(fields[3], 1, 12, _MONTHS, 1),
            weekdays=frozenset(day % 7 for day in _field(fields[4], 0, 7, _DAYS)),
            either_day=not fields[2].startswith("*") and not fields[4].startswith("*"),
        )
        cron.next_after(0.0)
        return cron

    def next_after(self, instant: float) -> float:
        """The first unix second after `instant` at which the schedule fires. Raises ValueError if it never does."""
        start = datetime.fromtimestamp(instant, UTC).astimezone(self.zone)
        day = start.date()
        for _ in range(_DAYS_AHEAD_MAX):
            if self._on(day.month, day.day, day.isoweekday() % 7):
                for hour in self.hours:
                    for minute in self.minutes:
                        local = datetime(day.year, day.month, day.day, hour, minute, tzinfo=self.zone)
                        stamp = local.timestamp()
                        # A time that the change to summer time leaves out does not exist: it is not made up.
                        if stamp > instant and datetime.fromtimestamp(stamp, self.zone).hour == hour:
                            return stamp
            day += timedelta(days=1)
        raise ValueError(f"this schedule never fires: {self.text!r}")

    def _on(self, month: int, day: int, weekday: int) -> bool:
        if month not in self.months:
            return False
        if self.either_day:
            return day in self.days or weekday in self.weekdays
        return day in self.days and weekday in self.weekdays


def _field(text: str, low: int, high: int, names: tuple[str, ...] = (), offset: int = 0) -> frozenset[int]:
    def number(word: str) -> int:
        if word.lower() in names:
            return names.index(word.lower()) + offset
        if word.isdecimal() and low <= int(word) <= high:
            return int(word)
        raise ValueError(f"{word!r} is not from {low} to {high}")

    values: set[int] = set()
    for part in text.split(","):
        match = _RANGE.fullmatch(part)
        if match is None:
            raise ValueError(f"not a cron field: {text!r}")
        first, last, step = match.groups()
        if first == "*":
            begin, end = low, high
        else:
            begin = number(first)
            end = number(last) if last else (high if step else begin)
        if (first == "*" and last) or begin > end or step == "0":
            raise ValueError(f"not a cron field: {text!r}")
        values.update(range(begin, end + 1, int(step or 1)))
    return frozenset(values)
