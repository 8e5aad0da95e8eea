"""What a case is: arms that take turns on fresh servers, and goals that compare two of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from statistics import median

Values = dict[str, float]
Round = Callable[["Size"], dict[str, Values]]


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured: `quick` takes a tenth of it."""

    quick: bool = False
    peers: bool = True  #: whether the peers' environment is there

    def of(self, whole: int, quick: int) -> int:
        """One of the two."""
        return quick if self.quick else whole


@dataclass(frozen=True, slots=True)
class Goal:
    """`arm`'s value of `metric`, divided by the best of `references` when there are any, is at most or at least so."""

    text: str
    arm: str
    metric: str
    at_most: float | None = None
    at_least: float | None = None
    references: tuple[str, ...] = ()

    def judged(self, found: Mapping[str, Mapping[str, list[float]]]) -> tuple[float, bool] | None:
        """The measured number and whether it meets the goal; None when something was not measured."""
        ours = found.get(self.arm, {}).get(self.metric)
        theirs = [median(found[r][self.metric]) for r in self.references if found.get(r, {}).get(self.metric)]
        if not ours or (self.references and not theirs):
            return None
        number = median(ours)
        if theirs:
            best = max(theirs) if self.at_least is not None else min(theirs)
            if not best:
                return None
            number /= best
        met = number >= self.at_least if self.at_least is not None else number <= (self.at_most or 0.0)
        return number, met


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the table in docs/performance.md."""

    name: str
    title: str
    round: Round  #: measures each arm once
    columns: Mapping[str, str]  #: metric -> heading, in the order of the table
    headline: str  #: the metric of the plot
    goals: tuple[Goal, ...] = ()
    curve: bool = False  #: arms are points `label=x` of curves
    note: str = ""
    runs: int = 5
    order: list[str] = field(default_factory=list)


def in_turn(arms: Mapping[str, Callable[[], Values]]) -> dict[str, Values]:
    """Each arm after the other."""
    return {name: arm() for name, arm in arms.items()}


def side_by_side(arms: Mapping[str, Callable[[], Values]]) -> dict[str, Values]:
    """All at once: for what mostly waits."""
    with ThreadPoolExecutor(len(arms)) as threads:
        running = {name: threads.submit(arm) for name, arm in arms.items()}
        return {name: arm.result() for name, arm in running.items()}
