"""Removes the images that nobody will ask for: what a process that died left behind, what is old, what takes up room.

Images go with their task, in its tail; this is for the rest. An inline image is removed when its task has ended, or was
never accepted (the relay died in between): Postgres and Redis are asked, and where one of them does not answer it stays
until the next look. One process of a host sweeps at a time; idle it costs one listing of a directory.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from daemon.blobs.orphans import StoredFile, doubtful, exclusive_lock, list_files, outdated, remove
from daemon.blobs.redis import RedisBlobs
from daemon.config import BlobSettings
from daemon.domain.errors import DependencyAway
from daemon.observability.logging import logger
from daemon.observability.metrics import Metrics
from daemon.ports import Clock
from daemon.store.records import TaskRecords

_log = logger(__name__)


class BlobSweeper:
    """Sweeps BLOB_DIR once in `sweep_s`, the first time soon after the start."""

    def __init__(
        self,
        accepted: RedisBlobs,
        records: TaskRecords,
        settings: BlobSettings,
        inline_ttl_s: float,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        self._root = Path(settings.dir)
        self._accepted = accepted
        self._records = records
        self._settings = settings
        self._inline_ttl_s = inline_ttl_s
        self._metrics = metrics
        self._clock = clock

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            await self.sweep()
            await asyncio.sleep(self._settings.sweep_s * random.uniform(0.8, 1.0))

    async def sweep(self) -> None:
        """One look. Never raises: what could not be removed is found by the next one."""
        try:
            with exclusive_lock(self._root) as ours:
                if ours:
                    await self._sweep()
        except OSError as error:
            _log.warning("blobs.sweep_failed", error=error.strerror)

    async def _sweep(self) -> None:
        files = await asyncio.to_thread(list_files, self._root, self._clock.time())
        removed: dict[StoredFile, str] = dict(outdated(files, self._settings, self._inline_ttl_s))
        left = [file for file in files if file not in removed]
        removed |= dict.fromkeys(await self._ended(doubtful(left)), "over")
        await asyncio.to_thread(remove, self._root, removed)
        self._metrics.blob_disk_bytes.set(sum(file.size for file in files if file not in removed))
        counts = Counter(removed.values())
        for why, count in counts.items():
            self._metrics.blobs_swept.labels(why).inc(count)
        if counts:
            _log.info("blobs.swept", **counts)

    async def _ended(self, asked: Mapping[StoredFile, tuple[str, str]]) -> list[StoredFile]:
        """Those whose task has ended, or is known to nobody."""
        if not asked:
            return []
        try:
            over = await self._records.over(sorted({task_id for _, task_id in asked.values()}))
            unknown = sorted({task for task in asked.values() if task[1] not in over})
            accepted = await self._accepted.accepted(unknown)
        except DependencyAway as error:
            _log.warning("blobs.check_skipped", error=type(error).__name__, count=len(asked))
            return []
        return [file for file, task in asked.items() if over.get(task[1], task not in accepted)]
