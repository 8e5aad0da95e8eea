"""What a streamed chunk costs in CPU by who parses it; the arms live in `bench/parse_cost.py`."""

from __future__ import annotations

import json
import subprocess
import sys

from bench.case import Case, Goal, Size, Values
from bench.rig import ROOT, Broken


def measure(size: Size) -> dict[str, Values]:
    """All arms in turn, in one process of their own."""
    streams, chunks = size.of(40, 20), size.of(100, 40)
    command = [sys.executable, "bench/parse_cost.py", "--json", "--rounds", "1"]
    command += ["--streams", str(streams), "--chunks", str(chunks)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False, cwd=ROOT)
    if done.returncode:
        raise Broken(done.stderr[-800:])
    found = json.loads(done.stdout)["microseconds"]
    return {arm: {"n": float(streams * chunks), "cpu_us": values[0]} for arm, values in found.items()}


CASE = Case(
    name="chunks",
    title="CPU of one streamed chunk, by who parses it",
    round=measure,
    columns={"n": "chunks", "cpu_us": "CPU µs/chunk"},
    headline="cpu_us",
    goals=(
        Goal(
            "≤ the vendor's SDK", "openai: our adapter", "cpu_us", at_most=1.0, references=("openai: the SDK parses",)
        ),
        Goal(
            "≤ the vendor's SDK", "gemini: our adapter", "cpu_us", at_most=1.0, references=("gemini: the SDK parses",)
        ),
    ),
)
