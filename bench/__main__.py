"""`python -m bench [case…] [--quick] [--runs N]`: measure, then write the table and the plots into bench/results/."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from bench import machine, report
from bench.case import Case, Size
from bench.rig import PEERS_PYTHON, ROOT, Broken

CASES = (
    "drain",
    "accept",
    "latency",
    "idle",
    "start",
    "takeover",
    "streams",
    "viewers",
    "sleepers",
    "growth",
    "chunks",
)
RESULTS = ROOT / "bench" / "results"


def case_of(name: str) -> Case:
    """The case of that name."""
    found = import_module(f"bench.cases.{name}").CASE
    assert isinstance(found, Case)
    return found


def measured(case: Case, size: Size, runs: int) -> dict[str, Any]:
    """All rounds of one case: within a round its arms take turns."""
    rounds = []
    for at in range(runs):
        busy, began = machine.busy(), time.monotonic()
        try:
            arms = case.round(size)
        except Broken as error:
            print(f"  {case.name} {at + 1}/{runs}: {error}", file=sys.stderr)
            continue
        rounds.append({"busy_before": round(busy, 3), "seconds": round(time.monotonic() - began, 1), "arms": arms})
        headline = "  ".join(f"{name} {values.get(case.headline, 0):.4g}" for name, values in arms.items())
        print(
            f"  {case.name} {at + 1}/{runs}  {time.monotonic() - began:5.1f} s  {case.headline}: {headline}", flush=True
        )
    return {"name": case.name, "quick": size.quick, "machine": machine.facts(), "rounds": rounds}


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("cases", nargs="*", help=f"of {', '.join(CASES)}; none: all")
    parser.add_argument("--quick", action="store_true", help="a tenth of the work: to see that it runs")
    parser.add_argument("--runs", type=int, default=0, help="rounds of each case; 0: as the case says")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where tables and plots go")
    chosen = parser.parse_args()
    names = chosen.cases or list(CASES)
    if unknown := [name for name in names if name not in CASES]:
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(CASES)}")
    size = Size(chosen.quick, PEERS_PYTHON.exists())
    if not size.peers:
        print("the peers are not installed (requirements/install bench): their arms are left out", file=sys.stderr)
    chosen.out.mkdir(parents=True, exist_ok=True)
    for name in names:
        case = case_of(name)
        print(case.title, flush=True)
        found = measured(case, size, chosen.runs or (1 if chosen.quick else case.runs))
        if found["rounds"]:
            (chosen.out / f"{name}.json").write_text(json.dumps(found, indent=1), "utf-8")
    cases = [case_of(name) for name in CASES]
    report.write(chosen.out, cases)
    if chosen.out == RESULTS:
        report.fill(ROOT / "docs" / "performance.md", "measured", report.summary(chosen.out, cases))
    if size.peers:  # matplotlib lives with the peers, away from the product
        subprocess.run([str(PEERS_PYTHON), str(ROOT / "bench" / "plots.py"), str(chosen.out)], check=True, timeout=120)
    print((chosen.out / "README.md").read_text("utf-8") if sys.stdout.isatty() else f"see {chosen.out}/README.md")


if __name__ == "__main__":
    main()
