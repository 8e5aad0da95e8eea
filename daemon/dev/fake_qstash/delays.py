"""How long QStash waits: its durations, its default backoff, retry expressions, and what a receiver asks for.

Pure functions; the clock is handed in. Every mistake is a ValueError that a publisher can read.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Final

DAY_S: Final = 86400.0
EXPRESSION_CHARS_MAX: Final = 512
DELAY_S_MAX: Final = 366 * DAY_S  # the longest delay that any plan with a limit allows

_UNITS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": DAY_S}
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h|d)", re.ASCII)
_NUMBER: Final = re.compile(r"\d+(?:\.\d+)?", re.ASCII)
_RESETS: Final = ("", "-requests", "-tokens")
_RESET_HEADERS: Final = ("retry-after", *(f"x-ratelimit-reset{what}" for what in _RESETS))


def default_delay_s(retry: int) -> float:
    """Seconds before retry number `retry` (1, 2, …): about 12 s, 2 m 28 s, 30 m 8 s, 6 h 7 m, then a day."""
    return DAY_S if retry >= 5 else min(DAY_S, math.exp(2.5 * retry))


def duration_s(text: str) -> float:
    """Seconds in `90s`, `1h30m`, `250ms`, `2d`; a bare number is seconds. Raises ValueError for anything else."""
    text = text.strip()
    if _NUMBER.fullmatch(text):
        return float(text)
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"not a duration: {text[:40]!r} (such as 10s, 5m, 1h30m, 1d)")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def asked_delay_s(headers: Mapping[str, str], wall_now: float) -> float | None:
    """Seconds the receiver asked for (names in lower case); None if it did not, made no sense, or wants over a day."""
    for name in _RESET_HEADERS:
        if (text := headers.get(name)) is None:
            continue
        try:
            wait_s = duration_s(text)
        except ValueError:
            try:
                wait_s = parsedate_to_datetime(text).timestamp() - wall_now
            except ValueError:
                continue
        if wait_s <= DAY_S:
            return max(0.0, wait_s)
    return None


_FUNCTIONS: Final[Mapping[str, tuple[int, Callable[..., float]]]] = {
    "pow": (2, math.pow),
    "sqrt": (1, math.sqrt),
    "abs": (1, abs),
    "exp": (1, math.exp),
    "floor": (1, lambda x: float(math.floor(x))),
    "ceil": (1, lambda x: float(math.ceil(x))),
    "round": (1, lambda x: float(math.floor(x + 0.5))),
    "min": (2, min),
    "max": (2, max),
}
_OPERATORS: Final[Mapping[type[ast.operator], Callable[[float, float], float]]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.Mod: math.fmod,
}


@dataclass(frozen=True, slots=True)
class RetryDelay:
    """An `Upstash-Retry-Delay` expression: milliseconds, of the one variable `retried`."""

    text: str
    _tree: ast.expr

    @classmethod
    def parse(cls, text: str) -> RetryDelay:
        """The checked expression. Raises ValueError for unknown names, wrong calls and values that are not numbers."""
        if len(text) > EXPRESSION_CHARS_MAX:
            raise ValueError(f"retry delay expression longer than {EXPRESSION_CHARS_MAX} characters")
        try:
            delay = cls(text, ast.parse(text.strip(), mode="eval").body)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise ValueError(f"retry delay expression cannot be read: {text[:80]!r}") from error
        delay.seconds(0)
        return delay

    def seconds(self, retried: int) -> float:
        """Seconds before the next retry after `retried` retries; never negative, at most a year. Raises ValueError."""
        try:
            value_ms = _value(self._tree, float(retried))
        except (ArithmeticError, RecursionError) as error:
            raise ValueError(f"retry delay expression has no value: {error}") from error
        if math.isnan(value_ms):
            raise ValueError("retry delay expression is not a number")
        return min(max(0.0, value_ms / 1000), DELAY_S_MAX)


def _value(node: ast.expr, retried: float) -> float:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return float(number)
        case ast.Name(id="retried"):
            return retried
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, retried)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_value(left, retried), _value(right, retried))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
            least, function = _FUNCTIONS[name]
            if len(args) != least and not (name in ("min", "max") and args):
                raise ValueError(f"{name} takes {least} values, not {len(args)}")
            values = [_value(argument, retried) for argument in args]
            return function(*values) if len(values) > 1 or least == 1 else values[0]
        case _:
            raise ValueError(f"not allowed in a retry delay expression: {ast.unparse(node)[:80]!r}")
