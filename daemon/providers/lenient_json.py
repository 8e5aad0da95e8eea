"""JSON as vendors and what stands before them write it; asked only when the strict decoder has refused.

Taken: `NaN` and `Infinity`, lone surrogates (kept as such: `answer` pairs them over chunks), bytes that are no UTF-8
(U+FFFD), raw line ends in strings, byte order marks, numbers of any length, several documents in one payload, a doubled
`data:`. Not taken: what is cut or is no JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final, Protocol, TypeVar

from daemon.providers.payloads import BOM, DONE, JsonDocuments
from daemon.providers.token_counts import token_count

DEPTH_MAX: Final = 32
_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*+"|[\[\]{}]|[^"\[\]{}]++|"', re.DOTALL)
_DIGITS_MAX: Final = 40  #: longer integers are no number of anything; Python refuses those of more than 4,300 digits


class Unreadable(ValueError):
    """Not JSON, or cut. Says nothing of the content."""


def documents(payload: bytes) -> list[dict[str, Any]]:
    """The JSON objects of one payload; none for a word or a number. Raises `Unreadable`."""
    text = payload.strip().removeprefix(BOM).strip()
    while text.startswith(b"data:"):
        text = text[5:].strip()
    if text[:1] not in (b"{", b"["):
        _, brace, rest = text.partition(b"\n{")  # a document after a word on a line of its own
        if not brace:
            return []
        text = b"{" + rest
    reader = JsonDocuments()
    raw = reader.feed(text)
    if reader.end() or not raw:
        if not raw and text.startswith(b"[") and text.endswith(b"]"):
            return []
        raise Unreadable("cut")
    return [_loaded(each) for each in raw]


def is_whole(payload: bytes) -> bool:
    """Whether a payload is JSON, or `[DONE]`, that lacks nothing."""
    if payload.upper() == DONE:
        return True
    try:
        return bool(documents(payload))
    except Unreadable:
        return False


def _loaded(raw: bytes) -> dict[str, Any]:
    try:
        text = raw.decode("utf-8", "surrogatepass")  # some servers write surrogates as bytes
    except UnicodeDecodeError:
        text = raw.decode("utf-8", "replace")
    try:
        try:
            found = json.loads(text, strict=False, parse_int=_integer)
        except RecursionError:
            found = json.loads(_shallow(text), strict=False, parse_int=_integer)
    except (ValueError, RecursionError) as error:
        raise Unreadable(type(error).__name__) from None
    if not isinstance(found, dict):
        raise Unreadable(type(found).__name__)
    return found


def _shallow(text: str) -> str:
    """`text` with null for what lies deeper than anything that is read."""
    kept: list[str] = []
    depth = 0
    for token in _TOKEN.findall(text):
        depth += token in ("{", "[")
        if depth <= DEPTH_MAX:
            kept.append(token)
        elif depth == DEPTH_MAX + 1 and token in ("{", "["):
            kept.append("null")
        depth -= token in ("}", "]")
    return "".join(kept)


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _DIGITS_MAX else float(digits)


# --- reading what may be of any type ----------------------------------------------------------------------------


class Indexed(Protocol):
    """A choice or a candidate."""

    index: Any


T = TypeVar("T", bound=Indexed)


def fields(value: object) -> dict[str, Any]:
    """`value` if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def items(value: object) -> Iterator[Any]:
    """The items of a list; an object or a text alone is its own only item."""
    if isinstance(value, list):
        yield from value
    elif value is not None:
        yield value


def says_something(value: object) -> bool:
    """Whether an error, or a part of one, says anything: an object of zeros and empty texts says nothing."""
    if isinstance(value, dict):
        return any(map(says_something, value.values()))
    return any(map(says_something, value)) if isinstance(value, list) else bool(value)


def chosen(given: Sequence[T] | None) -> Sequence[T]:
    """Of several choices or candidates, those with index 0; where none has an index, the first."""
    if not given or (len(given) == 1 and not given[0].index):
        return given or ()
    indexes = [token_count(each.index) for each in given]
    first = [each for each, index in zip(given, indexes, strict=True) if index == 0]
    return first or [each for each, index in zip(given, indexes, strict=True) if index is None][:1]


def word(value: object) -> str | None:
    """A text, or the text that an object or a list holds in a usual place; None for everything else."""
    if isinstance(value, list):
        return next(filter(None, map(word, value)), None)
    if isinstance(value, str):
        return value or None
    for name in ("type", "reason", "value", "name", "code"):
        if isinstance(found := fields(value).get(name), str) and found:
            return found
    return None
