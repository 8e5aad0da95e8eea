"""Garbage of a long life."""

from __future__ import annotations

import gc

from daemon.garbage import collect_rarely


def test_what_was_imported_is_looked_through_no_more() -> None:
    before = gc.get_threshold()
    gc.set_threshold(700)  # Python's own; a test before this one may have run a whole process' start
    try:
        collect_rarely()
        assert gc.get_freeze_count() > 1000
        assert gc.get_threshold()[0] >= 7000
        assert gc.isenabled()
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
