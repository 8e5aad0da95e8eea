"""The way of a task, from the signed call to the ack: ten files at most, which docs/how-it-works.md walks through."""

from __future__ import annotations

import ast
import re
from typing import Final

import pytest

from tests.rules.tree import ROOT

FILES_MAX, LINES_MAX = 10, 1500
MAIN_MAX, STEP_MAX = 30, 40
PAGE: Final = ROOT / "docs/how-it-works.md"


def stations() -> dict[str, list[str]]:
    """The files of the walk in their order, and the functions that the page names in each."""
    walk = PAGE.read_text("utf-8").split("\n## The walk\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\d+\. \[`(daemon/[\w/]+\.py)`\].*?(?=^\d+\. |\Z)", walk, re.MULTILINE | re.DOTALL)
    texts = re.split(r"^\d+\. ", walk, flags=re.MULTILINE)[1:]
    return {file: re.findall(r"`(\w+)\(\)`", text) for file, text in zip(rows, texts, strict=True)}


def functions(file: str) -> dict[str, int]:
    """Every function of a file and its length, docstring and decorators not counted."""
    found: dict[str, int] = {}
    for node in ast.walk(ast.parse((ROOT / file).read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            docstring = (first.end_lineno or 0) - first.lineno + 1 if documented else 0
            found[node.name] = (node.end_lineno or 0) - node.lineno + 1 - docstring
    return found


def test_the_walk_is_short() -> None:
    """Whoever wants to know what happens to a task reads it in an afternoon."""
    lengths = {file: len((ROOT / file).read_text("utf-8").splitlines()) for file in stations()}
    assert 0 < len(lengths) <= FILES_MAX, sorted(lengths)
    assert sum(lengths.values()) <= LINES_MAX, f"{sum(lengths.values())} lines: {lengths}"


@pytest.mark.parametrize("file", stations())
def test_the_page_names_functions_that_exist(file: str) -> None:
    """A reader who searches for the name finds it in that file."""
    named = stations()[file]
    assert named, f"{file}: the walk names no function of it"
    assert set(named) <= functions(file).keys(), set(named) - functions(file).keys()


def test_the_steps_stand_on_the_page_in_their_order() -> None:
    """`STEPS` is the table of contents of an attempt."""
    from daemon.pipeline.executor import STEPS

    steps = [step.__name__ for step in STEPS]
    named = [name for name in stations()["daemon/pipeline/executor.py"] if name in steps]
    assert named == steps


def test_the_executor_is_a_flat_list() -> None:
    """The main function fits into one look, and so does each step."""
    lengths = functions("daemon/pipeline/executor.py")
    assert lengths.pop("execute") <= MAIN_MAX
    assert {name: size for name, size in lengths.items() if size > STEP_MAX} == {}
