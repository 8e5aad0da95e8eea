"""A budget of size: what core, settings, metrics, dependencies and scripts may come to.

The numbers are today's. They may fall with any change; raising one changes `docs/decisions/0011-budgets.md`,
which says what it bought.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from daemon.config import catalogue
from daemon.observability.metrics import Metrics
from tests.rules.test_locks import PROJECT
from tests.rules.tree import ROOT, files

#: what a task's way needs: rooms and modules of `daemon/`
CORE: Final = """
    relay worker pipeline queues limiter events store domain redis_client config observability ports.py cancellation.py
""".split()

CORE_LINES: Final = 15_917  # Python and Lua, comments and blank lines included; one in, one out
SETTINGS: Final = 130  # a setting that each queue has under a name of its own counts once
METRICS: Final = 58  # families; without those of the process, which the library brings
DEPENDENCIES: Final = 15  # at run time, without extras
SCRIPTS: Final = 37  # Lua files, the parts that others build on included


def over(what: str, found: int, limit: int, cure: str) -> str:
    """What a failure says: the number, the limit, and what to do."""
    return f"{found} {what}, {limit} allowed: one in, one out. {cure} See tests/rules/test_budget.py."


def largest(sizes: Iterable[tuple[int, str]]) -> str:
    """The five largest, for whoever looks for something to take out."""
    return ", ".join(f"{name} {size}" for size, name in sorted(sizes, reverse=True)[:5])


def test_the_core_does_not_grow() -> None:
    """A stranger reads it in a day."""
    paths = [path for part in CORE for path in core_files(part)]
    sizes = [(len(path.read_text("utf-8").splitlines()), path.relative_to(ROOT).as_posix()) for path in paths]
    found = sum(size for size, _ in sizes)
    cure = f"Shorten something else, or move what no task needs beside the core. Largest: {largest(sizes)}."
    assert found <= CORE_LINES, over("lines of the core", found, CORE_LINES, cure)


def test_the_page_names_the_numbers() -> None:
    """Raising one is written down where the reasons stand."""
    page = (ROOT / "docs/decisions/0011-budgets.md").read_text("utf-8")
    limits = [f"{CORE_LINES:_}", *map(str, (SETTINGS, METRICS, DEPENDENCIES, SCRIPTS))]
    assert re.findall(r"^\| [^|]+ \| ([\d_]+) \|", page, re.MULTILINE)[:5] == limits


def core_files(part: str) -> list[Path]:
    """The Python and Lua files of one part of the core."""
    if part.endswith(".py"):
        return [ROOT / "daemon" / part]
    return [*files(f"daemon/{part}", suffix=".py"), *files(f"daemon/{part}", suffix=".lua")]


def test_settings_do_not_multiply() -> None:
    """Each is a question that an operator has to understand."""
    names = {re.sub(r"_(PAID|FREE)_(STREAM|BATCH|VISION)$", "_{QUEUE}", entry.name) for _, entry in catalogue()}
    cure = "Choose a value that fits everybody, derive it from another setting, or take out one that nobody sets."
    assert len(names) <= SETTINGS, over("settings", len(names), SETTINGS, cure)


def test_metrics_do_not_multiply() -> None:
    """Each is kept by a server for weeks, and read by somebody at 3 a.m."""
    found = len(list(Metrics(process=False).registry.collect()))
    cure = "Make it a label of one that there is, or take out one that no alert, panel or runbook section reads."
    assert found <= METRICS, over("metrics", found, METRICS, cure)


def test_dependencies_do_not_multiply() -> None:
    """Each is other people's code in the process that holds the keys."""
    found = PROJECT["project"]["dependencies"]
    cure = "Do without it, make it an extra, or take out another one."
    assert len(found) <= DEPENDENCIES, over("run-time dependencies", len(found), DEPENDENCIES, cure)


def test_scripts_do_not_multiply() -> None:
    """Each is atomic, touches shared keys, and has to be safe beside all others."""
    found = len(files("daemon", suffix=".lua"))
    cure = "Join it with one that touches the same keys, or take out one that is no longer called."
    assert found <= SCRIPTS, over("Lua scripts", found, SCRIPTS, cure)


def test_a_failure_says_what_to_do() -> None:
    assert over("settings", 131, 130, "Take one out.") == (
        "131 settings, 130 allowed: one in, one out. Take one out. See tests/rules/test_budget.py."
    )
    assert largest([(1, "a"), (3, "b")]) == "b 3, a 1"
