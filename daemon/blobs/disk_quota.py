"""How much of the disk images may take: asked before every byte that is laid down, so that the disk never fills up.

What lies there is measured now and then and counted in between; other processes write to the same directory, so the
share may be overrun by what they write within `MEASURE_S`. The space that stays free is asked of the system each time.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from daemon.config import BlobSettings
from daemon.domain.errors import DiskFull
from daemon.ports import Clock

MEASURE_S: Final = 5.0


class DiskQuota:
    """The bytes that images may take below one directory."""

    def __init__(self, root: Path, settings: BlobSettings, clock: Clock) -> None:
        self._root = root
        self._settings = settings
        self._clock = clock
        self._used = 0
        self._reserved = 0
        self._measured_at = float("-inf")

    @asynccontextmanager
    async def reserved(self, size: int) -> AsyncIterator[None]:
        """`size` bytes may be written inside; kept ones count on. Raises `DiskFull` when they would not fit."""
        now = self._clock.monotonic()
        if now - self._measured_at >= MEASURE_S:
            self._measured_at = now  # before the wait: one caller measures, the others go by the figure before
            self._used = await asyncio.to_thread(self.measure)
        free = await asyncio.to_thread(self._free)
        taken, most = self._used + self._reserved, self._settings.disk_bytes_max
        if taken + size > most:
            raise DiskFull(f"images take {taken} bytes of the {most} they may have (QSTREAMD_BLOB_DISK_BYTES_MAX)")
        if free - self._reserved - size < self._settings.disk_free_bytes_min:
            raise DiskFull(f"only {free} bytes of the disk are free (QSTREAMD_BLOB_DISK_FREE_BYTES_MIN)")
        self._reserved += size
        try:
            yield
            self._used += size
        finally:
            self._reserved -= size

    def measure(self) -> int:
        """Bytes that lie there now. Blocks."""
        return sum(size_of(entry) for folder in _folders(self._root) for entry in os.scandir(folder))

    def _free(self) -> int:
        found = os.statvfs(self._root)
        return found.f_bavail * found.f_frsize


def _folders(root: Path) -> list[str]:
    return [entry.path for entry in os.scandir(root) if entry.is_dir(follow_symlinks=False)]


def size_of(entry: os.DirEntry[str]) -> int:
    """Bytes of a file; 0 for one that went in this moment."""
    try:
        return entry.stat(follow_symlinks=False).st_size
    except FileNotFoundError:
        return 0
