"""What the processes of a test said last: printed when it fails, so that a failure on another machine can be read.

Whoever starts a process in a test says where its words are; tests/conftest.py prints their ends below the failure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

LINES: Final = 30
WIDTH: Final = 500  #: of a line; a traceback as JSON has thousands of characters

_processes: dict[str, Callable[[], str]] = {}


def of(name: str, words: Callable[[], str]) -> None:
    """The process `name` of this test says `words`; a later one of that name takes its place."""
    _processes[name] = words


def forget() -> None:
    """A new test begins."""
    _processes.clear()


def told() -> list[tuple[str, str]]:
    """The name of each process of this test and its last lines, in the order of their starts."""
    return [(name, end(words)) for name, words in _processes.items()]


def end(words: Callable[[], str]) -> str:
    """The last lines of it."""
    try:
        lines = words().splitlines()[-LINES:]
    except OSError as error:  # its log went with its directory
        return f"(its log is gone: {error.strerror})"
    return "\n".join(line if len(line) <= WIDTH else f"{line[:WIDTH]} …" for line in lines) or "(nothing)"
