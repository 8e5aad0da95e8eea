"""Inline images in Redis: laid there by the accept script, read by their key alone, gone with the task."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from daemon.blobs.magic import picture
from daemon.calls import Picture
from daemon.clock import SystemClock
from daemon.config import QueueSettings, RedisSettings
from daemon.contracts import ImageRef, TaskMessage
from daemon.errors import Code, Rejected
from daemon.stream.admission import Admission, blob_reference
from daemon.stream.blobs import RedisBlobs
from daemon.stream.connection import Scripts, connect
from tests.unit.blobs.pictures import PNG

QUEUE = "q_paid_vision"


async def accept(client: Redis) -> str:
    task = TaskMessage(
        task_id="t1",
        queue_id=QUEUE,
        service_id="s",
        user_id="u1",
        images=[ImageRef(data="aGk="), ImageRef(data="aGk=")],
    )
    admission = Admission(Scripts(client), QueueSettings(), SystemClock())
    await admission.accept(task, "sha", 10, {1: Picture("image/png", PNG)})
    return blob_reference(QUEUE, "t1", 1)


async def test_what_the_relay_laid_down_is_read(redis_settings: RedisSettings) -> None:
    """It has an end of life, as long as the id is known."""
    async with connect(redis_settings) as client:
        reference, blobs = await accept(client), RedisBlobs(client, picture)
        assert await blobs.read(reference, "u1") == Picture("image/png", PNG)
        assert 0 < await client.ttl(reference.removeprefix("redis:")) <= 7 * 86400
        await blobs.drop([reference], "u1")
        await blobs.read(reference, "u1")  # the script that settles the entry deletes it, nobody else
        await client.delete(reference.removeprefix("redis:"))
        with pytest.raises(Rejected) as caught:
            await blobs.read(reference, "u1")
        assert caught.value.code is Code.IMAGE_NOT_FOUND


@pytest.mark.parametrize("reference", ["redis:qstreamd:environment", "redis:{bp:queue:q}:seen:t1", "redis:"])
async def test_a_reference_never_names_another_key(redis_settings: RedisSettings, reference: str) -> None:
    async with connect(redis_settings) as client:
        with pytest.raises(Rejected) as caught:
            await RedisBlobs(client, picture).read(reference, "u1")
        assert caught.value.code is Code.IMAGE_REJECTED


async def test_accepted_tasks_are_told_from_unknown_ones(redis_settings: RedisSettings) -> None:
    async with connect(redis_settings) as client:
        await accept(client)
        blobs = RedisBlobs(client, picture)
        assert await blobs.accepted([(QUEUE, "t1"), (QUEUE, "t2"), ("q_other", "t1")]) == {(QUEUE, "t1")}
        assert await blobs.accepted([]) == set()
