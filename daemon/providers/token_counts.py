"""What an answer says that it has cost, out of whatever its chunks hold. Unknown is None, never 0, never negative.

Each adapter names its counts in our words (`Counts`); here they are merged over the chunks of an answer, and made a
`Usage` at its end. A later count replaces an earlier one unless it is 0 or can't be read: some gateways send a last
chunk of zeros. What the total says is the least that was used: some leave thoughts out of the output.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, Literal

from daemon.domain.events import Usage

TOKENS_MAX: Final = 1_000_000_000  #: of one call; no model takes or writes a thousandth of it, and the stores hold it

Counted = Literal["input", "cached", "uncached", "tools", "written", "thoughts", "total"]
#: `written`: the output as it is counted there; `thoughts`: reasoning, inside of `written` or beside it
Counts = Mapping[Counted, object]


class TokenCounts:
    """The counts of one answer so far."""

    __slots__ = ("_beside", "_known")

    def __init__(self, *, thoughts_beside: bool) -> None:
        self._beside = thoughts_beside  #: thoughts are not part of what is counted as written
        self._known: dict[Counted, int] = {}

    @property
    def known(self) -> bool:
        """Whether anything is."""
        return bool(self._known)

    def merge(self, counts: Counts) -> bool:
        """Take what can be read of one chunk's counts. False: there was nothing to know."""
        news, known = False, self._known
        for name, value in counts.items():
            if value is None:
                continue
            if type(value) is int and 0 < value <= TOKENS_MAX:  # as nearly always, and some vendors count in each chunk
                known[name], news = value, True
                continue
            count = token_count(value)
            if count or (count == 0 and name in ("cached", "thoughts")):
                news = True
                if count or not known.get(name):
                    known[name] = count
        return news

    def usage(self) -> Usage:
        """In our names: what tools read is input, thoughts are output, as they are billed."""
        known = self._known.get
        total, cached, thoughts = known("total"), known("cached"), known("thoughts")
        given = known("input")
        if given is None and known("uncached") is not None:
            given = (known("uncached") or 0) + (cached or 0)
        given = known_sum(given, known("tools")) if given is not None else None
        written = known("written")
        if thoughts and (self._beside or thoughts > (written or 0)):
            written = (written or 0) + thoughts
        if total and given is not None and total > given:
            written = max(written or 0, total - given)
        if total and given is None and written is not None and total > written:
            given = total - written
        if cached is not None and given is not None:
            cached = min(cached, given)
        return Usage(given, cached, written, thoughts)


def token_count(value: object) -> int | None:
    """A number of tokens as a provider wrote it: whole and between 0 and `TOKENS_MAX`, else None (unknown).

    >>> token_count(7), token_count("7"), token_count(7.0), token_count(0)
    (7, 7, 7, 0)
    >>> [token_count(odd) for odd in (-1, 10**30, "many", 1.5, True, None, {}, float("nan"))]
    [None, None, None, None, None, None, None, None]
    """
    if type(value) is int:
        return value if 0 <= value <= TOKENS_MAX else None
    if not isinstance(value, (str, float)):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return int(number) if math.isfinite(number) and number.is_integer() and 0 <= number <= TOKENS_MAX else None


def first_count(*aliases: object) -> object:
    """Of the fields that a vendor may write one count into, the first that can be read; 0 hides no other number.

    >>> first_count(None, -1, 0, 7, 8), first_count(None, 0, "many"), first_count(None)
    (7, 0, None)
    """
    zero = None
    for value in aliases:
        if value is not None and (count := token_count(value)) is not None:
            if count:
                return count
            zero = 0
    return zero


def known_sum(*counts: int | None) -> int | None:
    """The sum of the counts that are known; None when none is."""
    known = [count for count in counts if count is not None]
    return sum(known) if known else None
