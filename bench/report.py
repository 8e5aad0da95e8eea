"""The tables of bench/results/README.md, made from the JSON files beside it; nothing in them is written by hand."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench.case import Case

_COUNTS = {"n", "seconds"}  #: the same in each round


def by_arm(rounds: Sequence[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """Arm -> metric -> one value a round."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for one in rounds:
        for arm, values in one["arms"].items():
            for metric, value in values.items():
                found[arm][metric].append(value)
    return {arm: dict(metrics) for arm, metrics in found.items()}


def number(value: float) -> str:
    """Three digits that matter, thousands apart."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value else "0"


def spread(values: Sequence[float]) -> str:
    """median (least-most)."""
    if len(values) == 1:
        return number(values[0])
    return f"{number(median(values))} ({number(min(values))}-{number(max(values))})"


def section(case: Case, found: dict[str, Any]) -> list[str]:
    """One case: its table, its goals, where its numbers come from."""
    arms = by_arm(found["rounds"])
    quick = ", quick form" if found["quick"] else ""
    machine = found["machine"]
    lines = [f"## {case.title}", "", "| arm | rounds | " + " | ".join(case.columns.values()) + " |"]
    lines.append("| --- " * (2 + len(case.columns)) + "|")
    for arm, metrics in arms.items():
        cells = [
            (number(metrics[m][0]) if m in _COUNTS else spread(metrics[m])) if m in metrics else ""
            for m in case.columns
        ]
        rounds = max(len(values) for values in metrics.values())
        lines.append(f"| {arm} | {rounds} | " + " | ".join(cells) + " |")
    lines += ["", *goals(case, arms), ""]
    busy = max(one["busy_before"] for one in found["rounds"])
    lines += [
        f"{case.note} Median (least-most) over rounds; arms took turns. Cores busy before a round: at most "
        f"{busy:.0%}. {machine['date']}{quick}.".strip(),
        "",
        f"![{case.title}]({case.name}.svg)",
        "",
    ]
    return lines


def goals(case: Case, arms: dict[str, dict[str, list[float]]]) -> list[str]:
    """What was asked for and what was found."""
    lines = []
    for goal in case.goals:
        judged = goal.judged(arms)
        if judged is None:
            continue
        value, met = judged
        unit = " x" if goal.references else ""
        lines.append(f"- {goal.arm}: {goal.text}: **{number(value)}{unit}**, {'met' if met else 'not met'}")
    return lines


def summary(out: Path, cases: Iterable[Case]) -> list[str]:
    """One line a goal: what was asked for, what both sides took, the ratio, and over how many rounds."""
    lines = ["| case | goal | ours | reference | found | rounds |", "| --- | --- | --- | --- | --- | --- |"]
    for case in cases:
        path = out / f"{case.name}.json"
        if not path.exists():
            continue
        arms = by_arm(json.loads(path.read_text("utf-8"))["rounds"])
        for goal in case.goals:
            judged = goal.judged(arms)
            if judged is None:
                continue
            value, met = judged
            unit, ours = case.columns[goal.metric], arms[goal.arm][goal.metric]
            theirs = "; ".join(f"{r} {spread(arms[r][goal.metric])}" for r in goal.references if r in arms)
            told = f"{number(value)} x" if goal.references else number(value)
            lines.append(
                f"| [{case.name}](../bench/results/{case.name}.svg) | {goal.text} | {goal.arm} {spread(ours)} {unit} | "
                f"{theirs} | {told}, **{'met' if met else 'not met'}** | {len(ours)} |"
            )
    return lines


def fill(page: Path, block: str, lines: Sequence[str]) -> None:
    """Put `lines` between `<!-- block -->` and `<!-- /block -->` of a page."""
    begin, end = f"<!-- {block} -->", f"<!-- /{block} -->"
    text = page.read_text("utf-8")
    head, _, rest = text.partition(begin)
    _, _, tail = rest.partition(end)
    page.write_text(f"{head}{begin}\n{chr(10).join(lines)}\n{end}{tail}", "utf-8")


def write(out: Path, cases: Iterable[Case]) -> None:
    """README.md from the JSON files in `out`."""
    lines = [
        "# Measured",
        "",
        "Made by `make bench`; what it means: [docs/performance.md](../../docs/performance.md).",
        "",
    ]
    sections: list[str] = []
    last: dict[str, Any] = {}
    for case in cases:
        path = out / f"{case.name}.json"
        if path.exists():
            found = json.loads(path.read_text("utf-8"))
            found["machine"]["peers"] = last.get("peers")
            last = found["machine"]
            sections += section(case, found)
    if last:
        packages = ", ".join(f"{name} {version}" for name, version in last["packages"].items())
        where = f"{last['cpu']}, {last['cores']} cores, {last['memory_gib']} GiB, {last['system']}"
        lines += [f"{where}, Python {last['python']}. {packages}. The peers: `requirements/bench.lock`.", ""]
    (out / "README.md").write_text("\n".join(lines + sections), "utf-8")
