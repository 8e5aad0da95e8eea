"""What a worker under test did, in memory that the harness can read: no traffic of its own, and it survives SIGKILL.

The monotonic clock is one for all processes of a machine, so stamps of different processes may be subtracted. Standard
library only: workers of peers import it from their own environment.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
import time
from pathlib import Path

_HEAD = struct.Struct("<qqqq")  # ended, first ns, last ns, begun
_MARK = struct.Struct("<qqq")  # number, began ns, ended ns
MARKS_MAX = 65_536
_SIZE = _HEAD.size + _MARK.size * MARKS_MAX


def _head(memory: mmap.mmap) -> tuple[int, int, int, int]:
    ended, first, last, begun = _HEAD.unpack_from(memory)
    return ended, first, last, begun


class Recorder:
    """Counts and stamps of this process, in a file of its own in the directory `RECORDER_DIR`."""

    def __init__(self, directory: str | None = None) -> None:
        folder = Path(directory or os.environ["RECORDER_DIR"])
        with (folder / f"{os.getpid()}.rec").open("w+b") as file:
            file.truncate(_SIZE)
            self._memory = mmap.mmap(file.fileno(), _SIZE)
        self._lock = threading.Lock()

    def count(self) -> None:
        """One more ended now."""
        now = time.monotonic_ns()
        with self._lock:
            ended, first, _, begun = _head(self._memory)
            _HEAD.pack_into(self._memory, 0, ended + 1, first or now, now, begun)

    def begin(self, number: int) -> int:
        """Number so-and-so begins now; its place, for `end`."""
        now = time.monotonic_ns()
        with self._lock:
            ended, first, last, begun = _head(self._memory)
            _MARK.pack_into(self._memory, _HEAD.size + _MARK.size * (begun % MARKS_MAX), number, now, 0)
            _HEAD.pack_into(self._memory, 0, ended, first or now, last, begun + 1)
        return begun

    def end(self, place: int) -> None:
        """What began at `place` has ended."""
        struct.pack_into("<q", self._memory, _HEAD.size + _MARK.size * (place % MARKS_MAX) + 16, time.monotonic_ns())
        self.count()


class Records:
    """All recorders of a directory, as the harness reads them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._maps: dict[Path, mmap.mmap] = {}

    def _open(self) -> list[mmap.mmap]:
        for path in self.directory.glob("*.rec"):
            if path not in self._maps and path.stat().st_size == _SIZE:
                with path.open("rb") as file:
                    self._maps[path] = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        return list(self._maps.values())

    @property
    def ended(self) -> int:
        """How many have ended."""
        return sum(_head(memory)[0] for memory in self._open())

    @property
    def begun(self) -> int:
        """How many have begun."""
        return sum(_head(memory)[3] for memory in self._open())

    def span_s(self) -> float:
        """Seconds from the first stamp to the last."""
        heads = [head for memory in self._open() if (head := _head(memory))[1]]
        return (max(h[2] for h in heads) - min(h[1] for h in heads)) / 1e9 if heads else 0.0

    def marks(self) -> list[tuple[int, int, int]]:
        """Number, began, ended (ns; 0: not yet) of each."""
        found: list[tuple[int, int, int]] = []
        for memory in self._open():
            begun = min(_head(memory)[3], MARKS_MAX)
            found += [_MARK.unpack_from(memory, _HEAD.size + _MARK.size * at) for at in range(begun)]
        return found
