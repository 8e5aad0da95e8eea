"""The files of this repository, for rules about them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
GENERATED: Final = {"__pycache__", "node_modules"}


def files(*folders: str, suffix: str = "") -> list[Path]:
    """All files below `folders`, without what programs leave behind."""
    found = (path for folder in folders for path in sorted((ROOT / folder).rglob(f"*{suffix}")))
    return [path for path in found if path.is_file() and not GENERATED & set(path.parts)]
