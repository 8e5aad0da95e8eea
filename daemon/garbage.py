"""Garbage collection of a process that lives long. Called by its start, once everything is imported."""

from __future__ import annotations

import gc
from typing import Final

#: allocations before the youngest objects are looked through for cycles; Python's own 700 suits short scripts
_YOUNG: Final = 20_000


def collect_rarely() -> None:
    """What was imported is never looked through again, and the rest less often.

    Tasks free nearly all they use by counting references. Looking for cycles every 700 allocations took a tenth of a
    busy daemon's CPU (docs/performance.md).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, 20, 50)
