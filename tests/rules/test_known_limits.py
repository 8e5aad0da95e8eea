"""docs/guarantees.md lists what is false today; other pages name these limits by number, and the READMEs show some."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from tests.rules.test_docs import PAGES, prose
from tests.rules.tree import ROOT

PAGE: Final = ROOT / "docs" / "guarantees.md"
COLUMNS: Final = ["limit", "what happens", "until", "what to do meanwhile"]
#: subjects of the issues that mend the limits
SUBJECTS: Final = {
    "Who owns an entry",
    "Promises that broke",
    "On the operator's ground",
}
NUMBER: Final = re.compile(r"\bK\d+\b")
#: pages that say what is; the changelog and decisions say what was
LIVE: Final = [page for page in PAGES if page.name != "CHANGELOG.md" and page.parent.name != "decisions"]


def rows() -> list[list[str]]:
    """The cells of the table's lines, its header first."""
    section = PAGE.read_text("utf-8").partition("\n## Known limits\n")[2].partition("\n## ")[0]
    lines = re.findall(r"^\| (.+) \|$", section, re.MULTILINE)
    return [line.split(" | ") for line in lines if not line.startswith("---")]


def limits() -> list[str]:
    """The numbers of the limits, in the order of the table."""
    return [re.sub(r"^\*\*(K\d+)\*\* .+$", r"\1", row[0]) for row in rows()[1:]]


def test_each_known_limit_is_one_whole_line() -> None:
    """Limit, consequence, the issue that mends it, and a way around it until then."""
    header, *lines = rows()
    assert header == COLUMNS
    assert [row for row in lines if len(row) != len(COLUMNS) or not all(cell.strip() for cell in row)] == []
    assert {row[2] for row in lines} <= SUBJECTS


def test_each_known_limit_has_a_number_of_its_own() -> None:
    found = limits()
    assert [number for number in found if not NUMBER.fullmatch(number)] == []
    assert len(found) == len(set(found))


@pytest.mark.parametrize("page", LIVE, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_page_names_a_limit_that_is_gone(page: Path) -> None:
    """Whoever mends a limit takes away its line and every mention of its number."""
    assert set(NUMBER.findall(prose(page))) - set(limits()) == set()


def test_the_readmes_show_the_same_limits() -> None:
    """A reader of either language learns the same ones."""
    english, chinese = (NUMBER.findall((ROOT / name).read_text("utf-8")) for name in ("README.md", "README.zh-CN.md"))
    assert english == chinese
