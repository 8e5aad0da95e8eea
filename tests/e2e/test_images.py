"""All three ways of an image, through real processes: in, to the model, gone; and what a kill leaves behind."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path
from typing import Any

import pytest
import redis
from yarl import URL

from daemon.config.types import SecretStr
from daemon.dev.fake_s3 import FakeS3
from daemon.domain.clock import SystemClock
from daemon.gateway.tokens import Tokens
from daemon.redis_client import keys
from tests.e2e.gateway_world import SECRET, World, world
from tests.e2e.relay_process import GOOD, ROOT, environment, running_relay
from tests.unit.blobs.pictures import JPEG, PNG
from tests.waiting import wait_until

SERVICE = {"serviceId": "portfolio-feedback", "variables": {"role": "designer"}, "mode": "vision"}
Open = Callable[..., AbstractAsyncContextManager[World]]


@pytest.fixture
def front(redis_url: str, postgres_url: str, tmp_path: Path) -> Open:
    """Opens the world with images on a disk of the test's own and a sweep that is always near."""

    def opened(**more: Any) -> AbstractAsyncContextManager[World]:
        given = {"BLOB_DIR": str(tmp_path / "blobs"), "QSTREAMD_BLOB_SWEEP_S": "0.2",
                 "QSTREAMD_BLOB_DISK_FREE_BYTES_MIN": "0", **more}  # fmt: skip
        return world(redis_url, postgres_url, **given)

    return opened


async def post(front: World, path: str, data: Any, user_id: str = "u1") -> Any:
    """The body of a 202."""
    ticket = Tokens(SecretStr(SECRET), SystemClock(), 60).upload_ticket(user_id)
    headers = {"Authorization": f"Bearer {ticket}"}
    body = io.BytesIO(data) if isinstance(data, bytes) else data
    async with front.http.post(f"{front.url}{path}", data=body, headers=headers) as answer:
        assert answer.status == 202, await answer.text()
        return await answer.json()


async def ends_with(front: World, images: list[dict[str, str]], task_id: str = "t1") -> dict[str, Any]:
    """The last event of a task with these images."""
    task = await front.submit(taskId=task_id, images=images, **SERVICE)
    return (await front.events(task))[-1]


def files(tmp_path: Path) -> list[Path]:
    return [path for folder in (tmp_path / "blobs").glob("*/") for path in folder.iterdir()]


async def test_an_upload_goes_to_the_model_and_with_its_task(front: Open, tmp_path: Path) -> None:
    """Scheme 2; a second task with the same id finds it gone, and so does another user's."""
    async with front() as here:
        image = await post(here, "/api/uploads", PNG)
        theirs = await post(here, "/api/uploads", PNG, "u2")
        assert (await ends_with(here, [{"fileId": image["fileId"]}]))["type"] == "done"
        await wait_until(lambda: len(files(tmp_path)) == 1, description="only the other one is left")
        for task_id, file_id in (("t2", image["fileId"]), ("t3", theirs["fileId"]), ("t4", "../../etc/passwd")):
            last = await ends_with(here, [{"fileId": file_id}], task_id)
            assert (last["type"], last["code"]) == ("error", "IMAGE_NOT_FOUND")
        assert [call.images for call in here.models.calls] == [1]
        assert len(files(tmp_path)) == 1


async def test_inline_images_on_disk_and_not_in_redis(front: Open, tmp_path: Path) -> None:
    """Scheme 1 with BLOB_STORE=disk, through QStash and the relay."""
    async with front(BLOB_STORE="disk", models={"tokens_per_s": 60.0}) as here:
        inline = [{"data": base64.b64encode(data).decode()} for data in (PNG, JPEG)]
        task = await here.submit(taskId="t1", images=inline, **SERVICE)
        await here.started("t1")
        assert len(files(tmp_path)) == 2
        assert [key async for key in here.redis.scan_iter("*:blob:*")] == []
        assert (await here.events(task))[-1]["type"] == "done"
        await wait_until(lambda: not files(tmp_path), description="gone with the task")
        assert [call.images for call in here.models.calls] == [2]


async def test_an_object_of_the_bucket(front: Open, tmp_path: Path) -> None:
    """Scheme 3: PUT by the browser, GET by the daemon, deleted with the task; nothing signed is logged."""
    bucket = FakeS3()
    await bucket.start()
    bucket.objects["/images/images/own.jpg"] = ("image/jpeg", JPEG)
    settings = {
        "BLOB_STORE": "s3", "S3_ENDPOINT_URL": bucket.url, "S3_BUCKET": bucket.bucket,
        "S3_ACCESS_KEY_ID": bucket.access_key_id, "S3_SECRET_ACCESS_KEY": bucket.secret,
    }  # fmt: skip
    async with front(**settings) as here:
        wish = json.dumps({"mimeType": "image/png", "bytes": len(PNG)})
        signed = await post(here, "/api/uploads/presign", wish)
        url = URL(signed["url"], encoded=True)
        async with here.http.put(url, data=PNG, headers=signed["headers"]) as answer:
            assert answer.status == 200
        last = await ends_with(here, [{"fileKey": signed["fileKey"]}, {"fileKey": "images/own.jpg"}])
        assert last["type"] == "done"
        assert [call.images for call in here.models.calls] == [2]
        await wait_until(
            lambda: list(bucket.objects) == ["/images/images/own.jpg"], description="ours is deleted, theirs is kept"
        )
        last = await ends_with(here, [{"fileKey": "images/none.jpg"}], "t2")
        assert (last["type"], last["code"]) == ("error", "IMAGE_NOT_FOUND")
        await wait_until(lambda: "NoSuchKey" in here.logs(), description="the operator learns why")
        logs = here.logs()
    await bucket.stop()
    assert "X-Amz" not in logs
    assert bucket.secret not in logs


async def test_a_task_cancelled_while_it_waits_takes_its_images_along(front: Open, tmp_path: Path) -> None:
    """No daemon ever sees it: the gateway ends it and removes both kinds."""
    async with front(parts=("relay", "gateway"), BLOB_STORE="disk") as here:
        image = await post(here, "/api/uploads", PNG)
        inline = {"data": base64.b64encode(JPEG).decode()}
        await here.submit(taskId="t1", images=[{"fileId": image["fileId"]}, inline], **SERVICE)
        names = keys.queue_keys("q_paid_vision")
        await wait_until(lambda: here.redis.xlen(names.tasks), description="accepted")
        assert len(files(tmp_path)) == 2
        answer = await here.call("POST", "/api/tasks/t1/cancel")
        assert answer == (200, {"taskId": "t1", "state": "cancelled"})
        assert files(tmp_path) == []


async def test_a_gateway_killed_in_an_upload_leaves_nothing(front: Open, tmp_path: Path) -> None:
    """The daemon's sweep finds the part once it is older than any upload may last."""
    async with front() as here:
        sending = asyncio.Event()

        async def body() -> AsyncIterator[bytes]:
            yield JPEG
            yield b"\0" * 2 * 1024 * 1024
            sending.set()
            await asyncio.Event().wait()

        async with asyncio.TaskGroup() as group:
            upload = group.create_task(lost(here, body()))
            await sending.wait()
            await wait_until(lambda: bool(files(tmp_path)), description="a part is on disk")
            here.parts["gateway"].kill()
            await upload
        [part] = files(tmp_path)
        os.utime(part, (1, 1))
        await wait_until(lambda: not files(tmp_path), description="swept")


async def lost(front: World, body: AsyncIterator[bytes]) -> None:
    """An upload whose gateway dies."""
    with suppress(OSError, ConnectionError, Exception):
        await post(front, "/api/uploads", body)


async def test_a_relay_killed_before_it_accepts_leaves_nothing(front: Open, redis_url: str, tmp_path: Path) -> None:
    """The image lies there, its task does not exist: the sweep finds out and takes it away."""
    settings = {"BLOB_STORE": "disk", "BLOB_DIR": str(tmp_path / "blobs"), "QSTREAMD_BLOB_DISK_FREE_BYTES_MIN": "0"}
    body = GOOD | {"images": [{"data": base64.b64encode(PNG).decode()}]}
    with redis.Redis.from_url(redis_url) as client:
        with running_relay(redis_url, NODE_ENV="development", **settings) as relay:
            await relay.call(body=body)
            client.client_pause(2000)  # shorter than the patience of any client
            async with asyncio.TaskGroup() as group:
                call = group.create_task(unanswered(relay.call(body=body | {"taskId": "t2"})))
                await wait_until(lambda: len(files(tmp_path)) == 2, description="laid down")
                os.kill(relay.process.pid, signal.SIGKILL)
                relay.process.wait(5)
                await call
        for path in files(tmp_path):
            os.utime(path, (SystemClock().time() - 200,) * 2)  # also older than a part of it may be
        assert client.xlen("{bp:queue:q_paid_stream}:tasks") == 1
        async with front(parts=("daemon",), **settings):
            await wait_until(lambda: not files(tmp_path), description="one went with its task, one was swept")


async def unanswered(call: Any) -> None:
    with suppress(Exception):
        await call


async def test_a_relay_without_room_for_an_image_asks_to_come_back(redis_url: str, tmp_path: Path) -> None:
    """503 with a time: QStash keeps the message; calls without images are taken as ever."""
    settings = {"BLOB_STORE": "disk", "BLOB_DIR": str(tmp_path / "blobs"), "QSTREAMD_BLOB_DISK_BYTES_MAX": "10"}
    with running_relay(redis_url, NODE_ENV="development", **settings) as relay:
        reply = await relay.call(body=GOOD | {"images": [{"data": base64.b64encode(PNG).decode()}]})
        assert (reply.status, reply.body["code"]) == (503, "WORKER_OVERLOADED")
        assert int(reply.headers["Retry-After"]) > 0
        assert "QSTREAMD_BLOB_DISK_BYTES_MAX" in relay.words()
        assert (await relay.call()).status == 200
    assert files(tmp_path) == []


def test_a_relay_that_can_t_write_its_directory_does_not_start(redis_url: str, tmp_path: Path) -> None:
    """78 with the name of the setting: nobody restarts it for ever."""
    (tmp_path / "file").touch()
    more = {"BLOB_STORE": "disk", "BLOB_DIR": str(tmp_path / "file" / "blobs")}
    found = subprocess.run(
        [sys.executable, "-m", "daemon", "relay"], env=environment(redis_url, 0, **more),
        cwd=ROOT, capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert (found.returncode, "BLOB_DIR=" in found.stderr) == (78, True)
