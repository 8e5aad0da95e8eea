from __future__ import annotations

from pathlib import Path

import pytest

from daemon.blobs.disk_quota import MEASURE_S, DiskQuota
from daemon.config import BlobSettings
from daemon.domain.errors import DiskFull


class Hand:
    """A clock moved by hand."""

    now = 100.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


def share(root: Path, bytes_max: int = 1000, free_min: int = 0) -> tuple[DiskQuota, Hand]:
    clock = Hand()
    settings = BlobSettings(dir=str(root), disk_bytes_max=bytes_max, disk_free_bytes_min=free_min)
    return DiskQuota(root, settings, clock), clock


async def test_what_is_kept_and_what_is_promised_count(tmp_path: Path) -> None:
    mine, _ = share(tmp_path)
    async with mine.reserved(400), mine.reserved(600):
        with pytest.raises(DiskFull, match="QSTREAMD_BLOB_DISK_BYTES_MAX"):
            await mine.reserved(1).__aenter__()
    with pytest.raises(DiskFull):
        await mine.reserved(1).__aenter__()


async def test_what_was_not_kept_is_given_back(tmp_path: Path) -> None:
    mine, _ = share(tmp_path)
    with pytest.raises(RuntimeError):
        async with mine.reserved(1000):
            raise RuntimeError
    async with mine.reserved(1000):
        pass


async def test_what_others_wrote_and_removed_is_seen_soon(tmp_path: Path) -> None:
    """Files of other processes count after at most `MEASURE_S`."""
    mine, clock = share(tmp_path)
    async with mine.reserved(900):
        pass
    clock.now += MEASURE_S
    async with mine.reserved(1000):
        pass
    (tmp_path / "uploads").mkdir()
    (tmp_path / "uploads" / "x").write_bytes(b"\0" * 500)
    clock.now += MEASURE_S
    with pytest.raises(DiskFull, match="500 bytes of the 1000"):
        await mine.reserved(501).__aenter__()


async def test_the_disk_never_fills_up(tmp_path: Path) -> None:
    """However large the share is: so much stays free."""
    mine, _ = share(tmp_path, bytes_max=2**50, free_min=2**50)
    with pytest.raises(DiskFull, match="QSTREAMD_BLOB_DISK_FREE_BYTES_MIN"):
        await mine.reserved(1).__aenter__()
