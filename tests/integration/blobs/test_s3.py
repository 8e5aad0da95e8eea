"""Objects in a bucket, against a server that recomputes every signature."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from yarl import URL

from daemon.blobs.s3 import BucketAway, S3Blobs
from daemon.config import BlobSettings
from daemon.config.types import SecretStr
from daemon.dev.fake_s3 import FakeS3
from daemon.domain.clock import SystemClock
from daemon.domain.errors import Code, TaskError
from tests.unit.blobs.pictures import JPEG, PICTURES, PNG, WEBP_LOSSY, png_of


@pytest.fixture
async def server() -> AsyncIterator[FakeS3]:
    server = FakeS3()
    await server.start()
    yield server
    await server.stop()


def blobs_of(server: FakeS3, **more: Any) -> S3Blobs:
    given: dict[str, Any] = {
        "s3_endpoint_url": server.url, "s3_bucket": server.bucket, "s3_timeout_s": 1.0,
        "s3_access_key_id": SecretStr(server.access_key_id), "s3_secret_access_key": SecretStr(server.secret),
    }  # fmt: skip
    settings = BlobSettings(**(given | more))
    assert settings.has_bucket
    return S3Blobs(settings, SystemClock())


@pytest.fixture
async def blobs(server: FakeS3) -> AsyncIterator[S3Blobs]:
    blobs = blobs_of(server)
    yield blobs
    await blobs.aclose()
    await blobs.aclose()


async def failure(blobs: S3Blobs, reference: str = "key:images/a.jpg", user_id: str = "u1") -> TaskError:
    with pytest.raises(TaskError) as caught:
        await blobs.read(reference, user_id)
    await blobs.aclose()
    assert "X-Amz" not in repr(caught.value) + repr(caught.value.__cause__) + caught.value.detail
    return caught.value


@pytest.mark.parametrize("key", ["images/xyz.jpg", "a b/ü+&=%2F~(1)'.png", "qstreamd", "x:y@z,;$.webp", "图片/一.jpg"])
async def test_an_object_is_read_by_a_signed_get(server: FakeS3, blobs: S3Blobs, key: str) -> None:
    """Whatever its key is made of; its type is what its bytes say."""
    server.objects[f"/images/{key}"] = ("text/plain", PNG)
    assert (await blobs.read(f"key:{key}", "u1")).mime_type == "image/png"
    assert (await blobs.read(f"key:{key}", "u1")).data == PNG
    assert [status for _, _, status in server.requests] == [200, 200]


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"s3_secret_access_key": SecretStr("wrong")}, "403 SignatureDoesNotMatch"),
        ({"s3_access_key_id": SecretStr("other")}, "403 InvalidAccessKeyId"),
        ({"s3_region": "eu-west-1"}, "403 AuthorizationQueryParametersError"),
        ({"s3_bucket": "other"}, "404 NoSuchBucket"),
        ({}, "404 NoSuchKey"),
    ],
)
async def test_403_and_404_are_final_and_say_which(server: FakeS3, wrong: dict[str, Any], word: str) -> None:
    """The viewer learns that the image is gone, the operator what the bucket said, nobody its own words."""
    error = await failure(blobs_of(server, **wrong))
    assert error.code is Code.IMAGE_NOT_FOUND
    assert word in error.detail
    assert "secret words" not in str(error)


@pytest.mark.parametrize("status", [500, 503, 429])
async def test_a_bucket_in_trouble_is_asked_again_later(server: FakeS3, blobs: S3Blobs, status: int) -> None:
    server.fault = status
    error = await failure(blobs)
    assert (error.code, str(status) in error.detail) == (Code.STORE_ERROR, True)


async def test_a_redirect_is_not_followed(server: FakeS3, blobs: S3Blobs) -> None:
    """It would carry our signature elsewhere; it means a wrong endpoint."""
    server.fault = 301
    error = await failure(blobs)
    assert (error.code, error.detail) == (Code.IMAGE_NOT_FOUND, "the bucket answered 301 PermanentRedirect")
    assert len(server.requests) == 1


async def test_a_bucket_that_is_slow_cut_or_away_is_asked_again_later(server: FakeS3) -> None:
    server.objects["/images/images/a.jpg"] = ("image/jpeg", JPEG)
    server.cut = True
    assert (await failure(blobs_of(server))).code is Code.STORE_ERROR
    server.delay_s = 5
    assert (await failure(blobs_of(server, s3_timeout_s=0.1))).detail == "TimeoutError"
    await server.stop()
    assert (await failure(blobs_of(server))).code is Code.STORE_ERROR


@pytest.mark.parametrize(
    ("data", "word"),
    [(b"\0" * 3000, "more than the 2000 bytes"), (b"<svg></svg>", "SVG"), (png_of(60_000, 60_000), "pixels")],
)
async def test_what_lies_there_is_judged_as_any_other(server: FakeS3, data: bytes, word: str) -> None:
    server.objects["/images/a"] = ("image/jpeg", data)
    error = await failure(blobs_of(server, upload_bytes_max=2000), "key:a")
    assert (error.code, word in error.message) == (Code.IMAGE_REJECTED, True)


async def test_a_body_of_unknown_length_is_held_to_the_limit(server: FakeS3, blobs: S3Blobs) -> None:
    """A Content-Length is believed only when it says too much."""
    server.chunked = True
    server.objects["/images/a"] = ("image/webp", WEBP_LOSSY)
    assert (await blobs.read("key:a", "u1")).data == WEBP_LOSSY
    server.objects["/images/a"] = ("image/jpeg", JPEG + b"\0" * 100_000)
    assert (await failure(blobs_of(server, upload_bytes_max=1024), "key:a")).code is Code.IMAGE_REJECTED


@pytest.mark.parametrize(
    "key", ["../secret.jpg", "a/../b", "a/./b", "/a", "a//b", "a/", "", "a\\b", "a\nb", "a\0b", "x" * 1025]
)
async def test_a_key_that_is_none_is_never_asked_for(server: FakeS3, blobs: S3Blobs, key: str) -> None:
    assert (await failure(blobs, f"key:{key}")).code is Code.IMAGE_REJECTED
    assert server.requests == []


# --- uploads by the browser -----------------------------------------------------------------------------------------


async def put(url: str, data: bytes, mime_type: str) -> int:
    async with (
        aiohttp.ClientSession() as session,
        session.put(URL(url, encoded=True), data=data, headers={"Content-Type": mime_type}) as answer,
    ):
        return answer.status


@pytest.mark.parametrize("kind", PICTURES)
async def test_a_signed_put_takes_what_was_announced(server: FakeS3, blobs: S3Blobs, kind: str) -> None:
    data, mime_type = PICTURES[kind]
    key, url = blobs.presign_put("u1", mime_type, len(data), 300)
    assert await put(url, data, mime_type) == 200
    assert (await blobs.read(f"key:{key}", "u1")).data == data
    assert (await failure(blobs, f"key:{key}", "u2")).code is Code.IMAGE_NOT_FOUND


async def test_a_signed_put_takes_nothing_else(server: FakeS3, blobs: S3Blobs) -> None:
    """Not more bytes, not another type, not another key, not later."""
    key, url = blobs.presign_put("u1", "image/png", len(PNG), 300)
    assert await put(url, PNG + b"x", "image/png") == 403
    assert await put(url, PNG, "text/html") == 403
    assert await put(url.replace(key, "images/of-others.png"), PNG, "image/png") == 403
    assert await put(url.replace("Expires=300", "Expires=3000"), PNG, "image/png") == 403
    assert await put(blobs.presign_put("u1", "image/png", len(PNG), 0)[1], PNG, "image/png") == 403
    assert server.objects == {}


async def test_our_keys_go_with_their_task_and_no_others(server: FakeS3, blobs: S3Blobs) -> None:
    """A producer's own object may serve many tasks; another user's is not touched."""
    mine, theirs = (blobs.presign_put(user, "image/png", 1, 300)[0] for user in ("u1", "u2"))
    keys = [mine, theirs, "images/own.png"]
    server.objects |= {f"/images/{key}": ("image/png", PNG) for key in keys}
    for _ in range(2):
        await blobs.drop([f"key:{key}" for key in keys], "u1")
    assert set(server.objects) == {f"/images/{theirs}", "/images/images/own.png"}


async def test_a_bucket_that_does_not_delete_says_so(server: FakeS3, blobs: S3Blobs) -> None:
    """The tail of the task counts it and goes on."""
    key, _ = blobs.presign_put("u1", "image/png", 1, 300)
    server.fault = 500
    with pytest.raises(BucketAway, match="500"):
        await blobs.drop([f"key:{key}"], "u1")
    await server.stop()
    with pytest.raises(BucketAway):
        await blobs.drop([f"key:{key}"], "u1")


async def test_no_signed_address_reaches_a_log(
    server: FakeS3, blobs: S3Blobs, caplog: pytest.LogCaptureFixture
) -> None:
    """Not even at the most talkative level, whatever goes wrong."""
    caplog.set_level(logging.DEBUG)
    for fault in (0, 403, 500):
        server.fault = fault
        await failure(blobs)
    await server.stop()
    await failure(blobs)
    assert "Signature" not in caplog.text
