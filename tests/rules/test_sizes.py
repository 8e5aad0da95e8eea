"""Budgets: a module fits into one head, a function onto one screen."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.rules.tree import ROOT, files

MODULE, TEST_FILE = 400, 500
FUNCTION, PATH_FUNCTION = 60, 40  # the second on the task's path, where "process one" grows worst

#: over a budget today, with today's size: may only shrink, and the number with it
EXCEPTIONS: dict[str, int] = {}


def lines(path: Path) -> int:
    """How long a file is."""
    return len(path.read_text("utf-8").splitlines())


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Name and length of each function, its docstring and decorators not counted."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            docstring = (first.end_lineno or 0) - first.lineno + 1 if documented else 0
            yield node.name, (node.end_lineno or 0) - node.lineno + 1 - docstring


def over_budget() -> Iterator[tuple[str, int]]:
    """Everything that is longer than its budget."""
    for path in files("daemon", "tests", "bench", suffix=".py"):
        name = path.relative_to(ROOT).as_posix()
        if lines(path) > (TEST_FILE if name.startswith("tests/") else MODULE):
            yield name, lines(path)
        limit = PATH_FUNCTION if name.startswith(("daemon/pipeline/", "daemon/worker/")) else FUNCTION
        yield from ((f"{name}:{function}", size) for function, size in functions(path) if size > limit)


def test_nothing_outgrows_its_budget() -> None:
    """A new exception is a decision; an old one may only shrink."""
    assert dict(over_budget()) == EXCEPTIONS
