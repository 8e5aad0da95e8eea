"""Pages point at things that exist, and the two READMEs are the same page in two languages."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from daemon.relay.ingest import route_of

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
FENCE: Final = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LINK: Final = re.compile(r"\]\(([^)\s]+)\)")


def prose(page: Path) -> str:
    """The page without its code blocks."""
    return FENCE.sub("", page.read_text("utf-8"))


def anchors(page: Path) -> set[str]:
    """The names under which a page's headings can be linked to."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_inside_the_repository_leads_somewhere(page: Path) -> None:
    """A page that was renamed or never written is noticed here, not by a reader."""
    broken = []
    for link in LINK.findall(prose(page)):
        target, _, anchor = link.partition("#")
        file = (page.parent / target).resolve() if target else page
        if re.match(r"https?:|mailto:", link):
            continue
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    """`daemon/…`, `tests/…`, `docs/…` and `systemd/…` in backquotes are paths of this repository."""
    named = re.findall(r"`((?:daemon|tests|docs|systemd|requirements)/[\w./@-]*)`", prose(page))
    assert [path for path in named if not (ROOT / path).exists()] == []


def shape(page: Path) -> tuple[list[int], list[str], int, int]:
    """What must agree: levels of headings, links, code blocks, table lines."""
    text = page.read_text("utf-8")
    levels = [len(marks) for marks in re.findall(r"^(#+) ", prose(page), re.MULTILINE)]
    links = [link for link in LINK.findall(prose(page)) if "README" not in link]
    return levels, links, len(FENCE.findall(text)), len(re.findall(r"^\|", prose(page), re.MULTILINE))


def test_the_two_readmes_have_the_same_shape() -> None:
    """The same headings, links, code blocks and tables, in the same order."""
    english, chinese = ROOT / "README.md", ROOT / "README.zh-CN.md"
    assert shape(english) == shape(chinese)
    assert "(README.zh-CN.md)" in english.read_text("utf-8") and "(README.md)" in chinese.read_text("utf-8")


def test_the_list_of_pages_names_every_decision() -> None:
    """A decision that no page names is not found."""
    pages = {path.name for path in (ROOT / "docs/decisions").glob("*.md")}
    listed = re.findall(r"\(decisions/([\w.-]+\.md)\)", (ROOT / "docs/README.md").read_text("utf-8"))
    assert len(pages) > 10 and sorted(pages) == sorted(set(listed))


def test_the_readmes_show_the_same_commands() -> None:
    """Code is not translated."""
    commands = [
        re.findall(r"```sh\n(.*?)```", (ROOT / n).read_text("utf-8"), re.DOTALL)
        for n in ("README.md", "README.zh-CN.md")
    ]
    assert commands[0] == commands[1] != []


def test_the_relay_serves_every_task_route_of_the_protocol_page() -> None:
    """The table of routes is written by hand; the parser of paths is the truth."""
    section = (ROOT / "docs" / "protocol.md").read_text("utf-8").split("## 7. HTTP")[1]
    routes = re.findall(r"^\| (.*?) \|", section, re.MULTILINE)
    paths = [path for cell in routes for path in re.findall(r"`POST (/\S+)`", cell)]
    known = {"/api/worker/check", "/api/qstash/failed"}
    assert len(paths) == 8
    for path in set(paths) - known:
        found = route_of(path.replace("{service}", "resume-review").replace("{queueId}", "q_paid_stream"))
        assert found is not None, path
        assert found.service == ("resume-review" if "{service}" in path else None)
        assert found.queue == ("q_paid_stream" if "{queueId}" in path else None)
        assert found.mode == next((mode for mode in ("stream", "batch") if f"/{mode}" in path), None)
