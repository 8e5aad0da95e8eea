"""Garbage of a long life."""

from __future__ import annotations

import gc

from daemon.garbage import collect_rarely


def test_what_was_imported_is_looked_through_no_more() -> None:
    before = gc.get_threshold()
    try:
        collect_rarely()
        assert gc.get_freeze_count() > 1000
        assert gc.get_threshold()[0] >= 10 * before[0]
        assert gc.isenabled()
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
