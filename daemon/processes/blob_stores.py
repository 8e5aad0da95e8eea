"""Where images may lie, opened for one process."""

from __future__ import annotations

from contextlib import AsyncExitStack

from redis.asyncio import Redis

from daemon.blobs.by_scheme import BlobsByScheme
from daemon.blobs.disk import DiskBlobs
from daemon.blobs.magic import picture
from daemon.blobs.redis import RedisBlobs
from daemon.blobs.s3 import S3Blobs
from daemon.config import BlobSettings
from daemon.ports import Blobs, Clock


def open_blobs(settings: BlobSettings, client: Redis, clock: Clock, stack: AsyncExitStack) -> BlobsByScheme:
    """Every scheme that this host can serve, whatever BLOB_STORE says: messages of before a change still come."""
    disk = DiskBlobs(settings, clock)
    stores: dict[str, Blobs] = {"redis": RedisBlobs(client, picture), "disk": disk, "file": disk}
    if settings.has_bucket:
        bucket = S3Blobs(settings, clock)
        stack.push_async_callback(bucket.aclose)
        stores["key"] = bucket
    return BlobsByScheme(stores)
