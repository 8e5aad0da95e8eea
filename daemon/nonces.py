"""Words that nobody says twice: what makes a repeated append recognisable. Called by `contracts` for each draft."""

from __future__ import annotations

import itertools
import os
import secrets
from functools import cache
from typing import Final

_numbers: Final = itertools.count(1)


def nonce() -> str:
    """Unique among all processes: random once for each, then counted. A stream makes twenty a second."""
    return f"{_process()}{next(_numbers):x}"


@cache
def _process() -> str:
    return secrets.token_hex(12)


os.register_at_fork(after_in_child=_process.cache_clear)  # a forked process is another one
