"""One TOML table being read strictly: every key is asked for by type, and what nobody asked for is a mistake.

Collects mistakes instead of raising, so that an operator sees all of them at once. Called by `daemon.services.reader`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

from daemon.services.catalog import nearest

_NAMES = {str: "a text", bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "a table"}


class Table:
    """A table of the file. Every method that finds a mistake notes it and answers None (or nothing)."""

    def __init__(self, file: str, name: str, data: dict[str, Any], mistakes: list[str]) -> None:
        self._place = f"{file}: [{name}]" if name else f"{file}:"
        self._file = file
        self._name = name
        self._data = data
        self._mistakes = mistakes
        self._asked: list[str] = []

    def mistake(self, key: str, why: str) -> None:
        """Note one line: file, table, key, why."""
        self._mistakes.append(" ".join(part for part in (self._place, key, why) if part))

    def close(self) -> None:
        """Every key that was not asked for is unknown."""
        for key in self._data:
            if key not in self._asked:
                self.mistake(key, f"is unknown{nearest(key, self._asked)}; allowed: {', '.join(self._asked)}")

    def text(self, key: str, *, required: bool = True) -> str | None:
        """A text that is not blank."""
        value: str | None = self._get(key, str, required=required)
        if value is not None and not value.strip():
            self.mistake(key, "is empty")
            return None
        return value

    def choice(self, key: str, allowed: Sequence[str], *, required: bool = True) -> str | None:
        """One of `allowed`."""
        value: str | None = self._get(key, str, required=required)
        return value if value is None or self._allowed(key, value, allowed) else None

    def choices(
        self, key: str, allowed: Sequence[str], *, needed: Sequence[str] = (), required: bool = True
    ) -> tuple[str, ...] | None:
        """A list of some of `allowed`, all of `needed` among them."""
        values = self.names(key, allowed, required=required)
        if not values:
            return None
        for name in needed:
            if name not in values:
                self.mistake(key, f'must hold "{name}"')
        return values

    def names(self, key: str, allowed: Sequence[str], *, required: bool = False) -> tuple[str, ...]:
        """A list of different names out of `allowed`; empty when absent."""
        values = self._get(key, list, required=required)
        if values is None:
            return ()
        if not values:
            self.mistake(key, f"is empty; allowed: {', '.join(allowed)}")
        found: list[str] = []
        for value in values:
            if not isinstance(value, str):
                self.mistake(key, f"holds {_kind(value)}; allowed: {', '.join(allowed)}")
            elif value in found:
                self.mistake(key, f'names "{value}" twice')
            elif self._allowed(key, value, allowed):
                found.append(value)
        return tuple(found)

    def integer(self, key: str, lowest: int, highest: int, *, required: bool = False) -> int | None:
        """A whole number within the bounds."""
        value: int | None = self._get(key, int, required=required)
        if value is not None and not lowest <= value <= highest:
            self.mistake(key, f"= {value} is not allowed; allowed: a whole number from {lowest} to {highest}")
            return None
        return value

    def number(
        self, key: str, lowest: float, highest: float, *, above: bool = False, required: bool = False
    ) -> float | None:
        """A number within the bounds; `above`: more than `lowest`."""
        value: float | None = self._get(key, float, required=required)
        if value is None:
            return None
        if not math.isfinite(value) or not lowest <= value <= highest or (above and value == lowest):
            low = f"above {lowest:g}" if above else f"from {lowest:g}"
            self.mistake(key, f"= {value:g} is not allowed; allowed: a number {low} to {highest:g}")
            return None
        return value

    def flag(self, key: str, *, default: bool) -> bool:
        """True or false."""
        value: bool | None = self._get(key, bool, required=False)
        return default if value is None else value

    def table(self, key: str, *, required: bool = False) -> Table | None:
        """The table inside this one."""
        value = self._get(key, dict, required=required)
        return None if value is None else self._inside(key, value)

    def listed(self, key: str) -> Iterator[Table]:
        """The table inside this one, or each of a list of tables; nothing when absent."""
        value = self._data.get(key)
        if not isinstance(value, list):
            found = self.table(key)
            yield from () if found is None else (found,)
            return
        self._asked.append(key)
        for at, each in enumerate(value):
            if isinstance(each, dict):
                yield self._inside(f"{key}[{at}]", each)
            else:
                self.mistake(key, f"holds {_kind(each)}; allowed: tables")

    def tables(self, key: str, pattern: str) -> Iterator[tuple[str, Table]]:
        """The named tables below `key`, such as every `[models.*]`."""
        outer = self._get(key, dict, required=False)
        for name, value in (outer or {}).items():
            if not re.fullmatch(pattern, name):
                self.mistake(f"[{key}.{name[:80]}]", f"is not an allowed name; allowed: {pattern}")
            elif not isinstance(value, dict):
                self.mistake(f"{key}.{name}", f"is {_kind(value)}; allowed: a table [{key}.{name}]")
            else:
                yield name, self._inside(f"{key}.{name}", value)

    def _inside(self, key: str, value: dict[str, Any]) -> Table:
        return Table(self._file, f"{self._name}.{key}" if self._name else key, value, self._mistakes)

    def _allowed(self, key: str, value: str, allowed: Sequence[str]) -> bool:
        if value in allowed:
            return True
        self.mistake(
            key, f'= "{value[:80]}" is not allowed{nearest(value, allowed)}; allowed: {", ".join(allowed) or "none"}'
        )
        return False

    def _get(self, key: str, kind: type, *, required: bool) -> Any:
        self._asked.append(str(key))
        value = self._data.get(key)
        if value is None:
            if required:
                self.mistake(key, "is missing")
            return None
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value) if abs(value) < 2**63 else math.inf
        if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
            return value
        allowed = "a whole number" if kind is int else _NAMES[kind]
        self.mistake(key, f"is {_kind(value)}; allowed: {allowed}")
        return None


def _kind(value: object) -> str:
    if isinstance(value, bool | int | float):
        return f"= {str(value).lower() if isinstance(value, bool) else value}"
    return _NAMES.get(type(value), f"a {type(value).__name__}")
