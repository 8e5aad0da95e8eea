"""Inline images beside the stream."""

from __future__ import annotations

import pytest

from daemon.blobs.redis import RedisBlobs
from daemon.domain.errors import Code, Rejected
from daemon.domain.model_io import Picture
from daemon.redis_client import keys
from tests.integration.redis_side import QUEUE, Side


def judge(data: bytes) -> Picture:
    return Picture("image/png", data)


async def test_an_image_is_read_back_as_it_was_laid_down(side: Side) -> None:
    """Bytes, judged again."""
    key = keys.blob(QUEUE, "t1", 0)
    await side.client.set(key, b"\x89PNG\x00\xff", ex=60)
    assert await RedisBlobs(side.client, judge).read(f"redis:{key}", "u1") == Picture("image/png", b"\x89PNG\x00\xff")


async def test_an_image_whose_life_is_over_is_not_found(side: Side) -> None:
    """The viewer is asked to send it again."""
    with pytest.raises(Rejected) as caught:
        await RedisBlobs(side.client, judge).read(f"redis:{keys.blob(QUEUE, 't1', 0)}", "u1")
    assert caught.value.code is Code.IMAGE_NOT_FOUND


@pytest.mark.parametrize(
    "reference",
    [
        "redis:qstreamd:environment",
        "redis:{bp:queue:q_paid_stream}:seen:t1",
        "redis:{bp:queue:q_paid_stream}:blob:t1:8",
        "redis:{bp:queue:q_paid_stream}:blob:../t1:0",
        "redis:{bp:queue:q_paid_stream}:blob:t1:0\n",
        "redis:",
        "",
    ],
)
async def test_a_reference_names_an_image_and_nothing_else(side: Side, reference: str) -> None:
    """No message can make us read another key and show it to a model."""
    await side.client.set(reference.removeprefix("redis:") or "x", b"secret", ex=60)
    with pytest.raises(Rejected) as caught:
        await RedisBlobs(side.client, judge).read(reference, "u1")
    assert caught.value.code is Code.IMAGE_REJECTED


async def test_what_was_accepted_is_known_by_its_mark(side: Side) -> None:
    """The sweep keeps images of tasks that were accepted; one flush for all of them."""
    await side.client.set(keys.dedup(QUEUE, "t1"), "1-1:sha", ex=60)
    blobs = RedisBlobs(side.client, judge)
    assert await blobs.accepted([(QUEUE, "t1"), (QUEUE, "t2")]) == {(QUEUE, "t1")}
    assert await blobs.accepted([]) == set()


async def test_dropping_is_left_to_the_script_that_settles(side: Side) -> None:
    """Nothing of ours to do, and nothing to fail."""
    await RedisBlobs(side.client, judge).drop([f"redis:{keys.blob(QUEUE, 't1', 0)}"], "u1")
