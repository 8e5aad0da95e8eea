"""docs/glossary.md: each term once, sorted, in one sentence, with a module that exists and a Chinese word."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

import pytest

from tests.rules.tree import ROOT

PAGE: Final = (ROOT / "docs" / "glossary.md").read_text("utf-8")


class Line(NamedTuple):
    """One row of the table."""

    term: str
    meaning: str
    source: str
    home: str
    chinese: str


TABLE: Final = [line for line in PAGE.splitlines() if line.startswith("| ")]
LINES: Final = [Line(*(cell.strip() for cell in line.strip("|").split(" | "))) for line in TABLE[2:]]


def test_the_glossary_is_short_enough_to_be_read() -> None:
    """The words that a newcomer needs, and no more."""
    assert TABLE[0] == "| term | meaning | where the word is from | where it lives | 中文 |"
    assert 45 <= len(LINES) <= 80


def test_each_term_stands_once_and_they_are_sorted() -> None:
    """One word for one thing; found by the eye."""
    terms = [line.term.lower() for line in LINES]
    assert terms == sorted(set(terms))
    chinese = [line.chinese for line in LINES]
    assert sorted(set(chinese)) == sorted(chinese)


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.term)
def test_each_line_is_whole(line: Line) -> None:
    """One sentence, a source, a module that exists, a Chinese word."""
    assert re.fullmatch(r"[A-Z][^.]*(\.\w[^.]*)*\.", line.meaning), "one sentence"
    assert line.source
    home = re.fullmatch(r"`(daemon/[\w/]+\.(?:py|lua))`", line.home)
    assert home and (ROOT / home[1]).is_file(), f"{line.home} does not exist; say where {line.term!r} lives now"
    assert re.search(r"[\u4e00-\u9fff]", line.chinese)


def test_newcomers_are_led_to_it() -> None:
    """From the list of pages and from the page for contributors."""
    for page in ("docs/README.md", "CONTRIBUTING.md"):
        assert "glossary.md)" in (ROOT / page).read_text("utf-8"), page
