# mypy: ignore-errors
"""PNG and SVG of each result file in a directory; runs in the peers' environment, where matplotlib is.

.venv-bench/bin/python bench/plots.py bench/results
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

mpl.rcParams["svg.hashsalt"] = "qstreamd"  # the same bytes for the same numbers
HEADLINES = {
    "drain": "tasks per second (log)", "accept": "calls per second", "latency": "p50 ms",
    "idle": "commands sent a minute",
    "start": "RSS MB", "takeover": "s until all ran again", "streams": "CPU µs per token", "sleepers": "wall s",
    "viewers": "CPU µs per event and viewer", "growth": "", "chunks": "CPU µs per chunk",
}  # fmt: skip
METRICS = {
    "drain": "per_s", "accept": "per_s", "latency": "p50_ms", "idle": "sent", "start": "rss_mb", "takeover": "last_s",
    "streams": "cpu_us", "sleepers": "wall_s", "viewers": "cpu_us", "chunks": "cpu_us",
}  # fmt: skip
OURS = ("qstreamd", "relay", "daemon", "gateway", "hub", "openai: our", "gemini: our")


def bars(name: str, rounds: list[dict]) -> Any:
    metric, arms = METRICS[name], defaultdict(list)
    for one in rounds:
        for arm, values in one["arms"].items():
            if metric in values:
                arms[arm].append(values[metric])
    figure, axes = plt.subplots(figsize=(7, 0.55 * len(arms) + 1.2))
    for at, (arm, values) in enumerate(reversed(arms.items())):
        axes.barh(at, median(values), color="#2b6cb0" if arm.startswith(OURS) else "#a0aec0", height=0.6)
        axes.plot(values, [at] * len(values), "|", color="#1a202c", markersize=9)
        axes.annotate(
            f" {median(values):,.3g}" if median(values) < 1000 else f" {median(values):,.0f}",
            (max(values), at),
            va="center",
        )
    axes.set_yticks(range(len(arms)), list(reversed(arms)))
    axes.set_xlabel(f"{HEADLINES[name]}; bar: median, ticks: rounds")
    if name == "drain":
        axes.set_xscale("log")
    axes.margins(x=0.18)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def curves(rounds: list[dict]) -> Any:
    points = defaultdict(lambda: defaultdict(list))
    for one in rounds:
        for arm, values in one["arms"].items():
            curve, _, x = arm.partition("=")
            points[curve][float(x)].append(values["ms"])
    figure, grid = plt.subplots(1, len(points), figsize=(3.1 * len(points), 2.9), squeeze=False)
    for axes, (curve, found) in zip(grid[0], points.items(), strict=True):
        xs = sorted(found)
        axes.plot(xs, [median(found[x]) for x in xs], "o-", color="#2b6cb0")
        for x in xs:
            axes.plot([x] * len(found[x]), found[x], "_", color="#1a202c")
        axes.set_xscale("log")
        axes.set_ylim(bottom=0)
        axes.set_xlabel(curve)
        axes.spines[["top", "right"]].set_visible(False)
    grid[0][0].set_ylabel("ms a task")
    return figure


def main() -> None:
    out = Path(sys.argv[1])
    for path in sorted(out.glob("*.json")):
        found = json.loads(path.read_text("utf-8"))
        figure = curves(found["rounds"]) if found["name"] == "growth" else bars(found["name"], found["rounds"])
        figure.tight_layout()
        for kind in ("svg", "png"):
            metadata = {"Date": None} if kind == "svg" else {}
            figure.savefig(out / f"{found['name']}.{kind}", dpi=110, metadata=metadata)
        plt.close(figure)


if __name__ == "__main__":
    main()
