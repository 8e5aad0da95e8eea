"""Which state a task ends in."""

from __future__ import annotations

import pytest

from daemon.domain.errors import Code
from daemon.domain.states import TERMINAL, State
from daemon.pipeline.failure import terminal_state


@pytest.mark.parametrize("code", Code)
def test_every_code_ends_in_a_terminal_state(code: Code) -> None:
    """Expired and cancelled say so; everything else has failed."""
    state = terminal_state(code)
    assert state in TERMINAL
    assert state is {Code.EXPIRED: State.EXPIRED, Code.CANCELLED: State.CANCELLED}.get(code, State.FAILED)
