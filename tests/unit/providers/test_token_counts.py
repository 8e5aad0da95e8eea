"""What an answer cost, out of counts that come in parts, late, wrong or not at all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.domain.events import Usage
from daemon.providers.token_counts import TOKENS_MAX, Counts, TokenCounts, known_sum


def merged(*counts: Counts, thoughts_beside: bool = False) -> Usage:
    found = TokenCounts(thoughts_beside=thoughts_beside)
    for each in counts:
        found.merge(each)
    return found.usage()


@pytest.mark.parametrize(
    ("counts", "usage"),
    [
        ([{"input": 5, "written": 3}, {"input": 0, "written": 0, "total": 0}, {}], Usage(5, None, 3)),
        ([{"input": 5, "written": 3}, {"input": 6, "written": 4}], Usage(6, None, 4)),
        ([{"input": 5, "written": 3}, {"input": "?", "written": -4}], Usage(5, None, 3)),
        ([{"input": 5, "cached": 2}, {"written": 3, "cached": 0}], Usage(5, 2, 3)),
        ([{"input": 0, "written": 0}], Usage()),
        ([{"input": 10, "total": 15}], Usage(10, None, 5)),
        ([{"written": 10, "total": 15}], Usage(5, None, 10)),
        ([{"input": 10, "written": 6, "total": 30, "thoughts": 2}], Usage(10, None, 20, 2)),
        ([{"input": 10, "written": 6, "total": 12}], Usage(10, None, 6)),
        ([{"input": 10, "written": 2, "thoughts": 6}], Usage(10, None, 8, 6)),
        ([{"uncached": 7, "cached": 3, "written": 1}], Usage(10, 3, 1)),
        ([{"input": 7, "cached": 30, "written": 1}], Usage(7, 7, 1)),
        ([{"input": 7, "tools": 2, "written": 1}], Usage(9, None, 1)),
        ([{"tools": 2, "total": 40}], Usage()),
    ],
)
def test_later_counts_win_unless_they_say_nothing(counts: list[Counts], usage: Usage) -> None:
    assert merged(*counts) == usage


def test_thoughts_beside_the_output_are_part_of_it() -> None:
    assert merged({"input": 5, "written": 3, "thoughts": 9}, thoughts_beside=True) == Usage(5, None, 12, 9)


def test_a_merge_says_whether_there_was_anything_to_know() -> None:
    found = TokenCounts(thoughts_beside=False)
    assert [found.merge({}), found.merge({"input": 0}), found.merge({"input": "x"})] == [False] * 3
    assert [found.merge({"cached": 0}), found.merge({"input": 1})] == [True] * 2


odd = st.none() | st.integers() | st.floats() | st.sampled_from(["7", "x", "", True, [1]])
names = st.sampled_from(["input", "cached", "uncached", "tools", "written", "thoughts", "total"])


@given(st.lists(st.dictionaries(names, odd | st.integers(0, TOKENS_MAX)), max_size=3), st.booleans())
def test_no_count_is_ever_negative_or_beyond_what_stores_hold(counts: list[Counts], beside: bool) -> None:  # noqa: FBT001
    usage = merged(*counts, thoughts_beside=beside)
    known = [usage.input_tokens, usage.cached_input_tokens, usage.output_tokens, usage.reasoning_tokens]
    assert [n for n in known if n is not None and not (type(n) is int and 0 <= n <= 3 * TOKENS_MAX)] == []
    assert (usage.cached_input_tokens or 0) <= (usage.input_tokens or 3 * TOKENS_MAX)
    assert (usage.reasoning_tokens or 0) <= (usage.output_tokens or 0)


def test_a_sum_is_of_what_is_known() -> None:
    assert [known_sum(1, None, 2), known_sum(None), known_sum()] == [3, None, None]
