"""A Redis whose wall clock can be set, as by hand or by a time daemon, while it runs and has clients.

libfaketime is preloaded into the real server: `TIME`, expiry, idle times and stream ids follow, its timers do not.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Final

from daemon.dev.embedded import CHILD_ENV
from daemon.dev.embedded_redis import EmbeddedRedis


def library() -> Path | None:
    """libfaketime out of its wheel; located, never imported: the package looks at this process' own clock."""
    spec = importlib.util.find_spec("libfaketime")
    for place in (spec.submodule_search_locations or []) if spec else []:
        for found in Path(place).glob("vendor/libfaketime/src/libfaketime.so.*"):
            return found
    return None


LIBRARY: Final = library()


class SteppedRedis(EmbeddedRedis):
    """A durable server with `clock`: how many seconds its wall clock is ahead of this machine's."""

    def __init__(self, binary: Path) -> None:
        super().__init__(binary=binary)
        assert LIBRARY is not None
        self._file = self.directory / "clock"
        self._env = {
            **CHILD_ENV,
            "LD_PRELOAD": str(LIBRARY),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        self.set_clock(0)

    def set_clock(self, ahead_s: int) -> None:
        """From now on; negative is behind."""
        written = self._file.with_suffix(".new")
        written.write_text(f"{ahead_s:+d}\n", "ascii")
        written.replace(self._file)  # the server reads it with each look at its clock: never a half
