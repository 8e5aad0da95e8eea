"""What a failing test shows of the processes that it started."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.e2e.processes import ROOT

FAILING = """
from tests.e2e.processes import DaemonProcess

async def talk(name, tmp_path):
    daemon = DaemonProcess(name, "q", {}, tmp_path)
    daemon.start(("-c", "for n in range(40): print('line', n)"))
    await daemon.ended()

async def test_passes(tmp_path):
    await talk("of-another-test", tmp_path)

async def test_fails(tmp_path):
    await talk("daemon-1", tmp_path)
    raise AssertionError
"""


def test_a_failure_shows_the_last_lines_of_its_processes(tmp_path: Path) -> None:
    """Those of this test only, and the end of what they said: on CI that is all there is to look at."""
    (tmp_path / "test_it.py").write_text(FAILING, "utf-8")
    command = [sys.executable, "-m", "pytest", "-c", "pyproject.toml", "-p", "tests.conftest", "-p", "no:randomly"]
    run = subprocess.run(
        [*command, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False, timeout=50
    )  # fmt: skip
    assert "1 failed, 1 passed" in run.stdout, run.stdout + run.stderr
    assert "last words of daemon-1" in run.stdout and "of-another-test" not in run.stdout
    shown = [line for line in run.stdout.splitlines() if line.startswith("line ")]
    assert shown == [f"line {n}" for n in range(10, 40)]
