"""The bench judges by what it measured, and its environment is pinned as ours is."""

from __future__ import annotations

import re

import pytest

from bench.__main__ import CASES, case_of
from bench.case import Goal
from bench.check import BOUNDS, judged
from bench.report import number, spread
from tests.rules.test_locks import LINE
from tests.rules.tree import ROOT

FOUND = {"ours": {"per_s": [90.0, 100.0, 110.0]}, "a": {"per_s": [40.0]}, "b": {"per_s": [50.0]}}


def test_the_peers_are_locked_with_hashes() -> None:
    """Other people's programs run on the machine of whoever calls `make bench`: the same bytes for everyone."""
    text = (ROOT / "requirements" / "bench.lock").read_text("utf-8")
    assert [line for line in text.splitlines() if not LINE.match(line)] == []
    assert all("--hash=" in package for package in re.split(r"\n(?=\S)", text))


@pytest.mark.parametrize("name", CASES)
def test_every_case_says_what_it_measures(name: str) -> None:
    """The table, the plot and the goals speak of the same numbers."""
    case = case_of(name)
    assert case.name == name
    assert case.headline in case.columns
    assert all(goal.metric in case.columns for goal in case.goals)


def test_a_ratio_is_to_the_best_of_the_references() -> None:
    """The median of the rounds over the faster peer's."""
    goal = Goal("", "ours", "per_s", at_least=1.5, references=("a", "b"))
    assert goal.judged(FOUND) == (2.0, True)
    assert goal.judged({"ours": {"per_s": [60.0]}, **{k: FOUND[k] for k in "ab"}}) == (1.2, False)


def test_what_was_not_measured_is_not_judged() -> None:
    """Without the peers there is no ratio, not a good one."""
    assert Goal("", "ours", "per_s", at_least=1.5, references=("a",)).judged({"ours": FOUND["ours"]}) is None
    assert Goal("", "gone", "per_s", at_most=1).judged(FOUND) is None


def test_one_good_round_is_enough_and_none_is_not() -> None:
    """A busy neighbour can't fail the check; a regression does."""
    good = {
        "drain": {"per_s": 2.0}, "raw loop": {"per_s": 100.0}, "relay": {"per_s": 30.0}, "empty": {"per_s": 100.0},
        "latency": {"p50_ms": 4.0}, "raw wake-up": {"p50_ms": 1.0},
    }  # fmt: skip
    slow = {**good, "drain": {"per_s": 0.1}, "latency": {"p50_ms": 50.0}}
    assert all(holds for *_, holds in judged([slow, good]))
    assert [holds for *_, holds in judged([slow, slow])] == [False, True, False]
    assert len(BOUNDS) == 3


def test_numbers_are_told_with_their_spread() -> None:
    """A median alone says nothing of how sure it is."""
    assert spread([1.0, 3.0, 2.0]) == "2 (1-3)"
    assert number(12345.6) == "12,346"
