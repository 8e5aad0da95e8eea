"""What `tasks` takes on its command line."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from daemon.cli.tasks import command


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["list", "--since", "soon"], "such as 15m"),
        (["list", "--state", "lost"], "is not one of 'queued'"),
        (["show", "a b"], "1 to 64 of"),
        (["tail", "t1", "--after", "x"], "such as 1795420617069-0"),
        (["explain", "t1", "--lang", "fr"], "is not one of"),
        (["list", "--limit", "0"], "1<=x<=1000"),
    ],
)
def test_wrong_arguments_are_refused_with_what_is_allowed(arguments: list[str], words: str) -> None:
    """Exit 2, before anything is asked of a server."""
    found = CliRunner().invoke(command, arguments)
    assert found.exit_code == 2
    assert words in found.output
