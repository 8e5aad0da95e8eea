"""Named statements from `queries.sql`: every SQL text of the store has a name, and none is built from strings.

Read once, when an adapter is made; never on the task path.
"""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Final

_NAME: Final = re.compile(r"^-- name: (\w+)$", re.MULTILINE)
_INCLUDE: Final = re.compile(r"^-- include: (\w+)$", re.MULTILINE)


def parse(text: str) -> dict[str, str]:
    """The statements of a file by name, `-- include:` lines replaced by the statement that they name (one level).

    Raises ValueError for a name that is given twice or included without being there.
    """
    pieces = _NAME.split(text)
    names, bodies = pieces[1::2], pieces[2::2]
    if len(set(names)) != len(names):
        raise ValueError(f"a statement is named twice: {sorted(n for n in names if names.count(n) > 1)}")
    raw = dict(zip(names, (body.strip() for body in bodies), strict=True))

    def included(match: re.Match[str]) -> str:
        if match[1] not in raw:
            raise ValueError(f"include of an unknown statement: {match[1]}")
        return str(raw[match[1]])

    return {name: _INCLUDE.sub(included, body) for name, body in raw.items()}


def load_queries() -> dict[str, str]:
    """All statements of the store."""
    return parse((files("daemon.store") / "queries.sql").read_text("utf-8"))
