"""The commands that pages print, so that a test can run them as they stand there."""

from __future__ import annotations

from pathlib import Path
from typing import Final

DOCS: Final = Path(__file__).parents[1] / "docs"


def blocks(page: Path, heading: str, language: str = "sh") -> list[str]:
    """The code blocks of one section, from its heading to the next one of that level or above."""
    level = len(heading) - len(heading.lstrip("#"))
    inside = False
    block: list[str] | None = None
    fence = ""
    found: list[str] = []
    for line in page.read_text("utf-8").splitlines():
        if fence:
            if line == fence:
                if block is not None:
                    found.append("".join(block))
                fence, block = "", None
            elif block is not None:
                block.append(f"{line}\n")
        elif line.startswith("```"):
            fence = "```"
            block = [] if inside and line == f"```{language}" else None
        elif line.startswith("#") and len(line) - len(line.lstrip("#")) <= level:
            inside = line == heading
    assert found, f"{page.name} has no such section, or no {language} in it: {heading}"
    return found
