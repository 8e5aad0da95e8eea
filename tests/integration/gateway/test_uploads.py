"""Images through the gateway's door: every answer of `POST /api/uploads` and `/api/uploads/presign`."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
from yarl import URL

from daemon.blobs.disk import DiskBlobs
from daemon.config import BlobSettings, Settings
from daemon.config.types import SecretStr
from daemon.dev.fake_s3 import FakeS3
from daemon.domain.clock import SystemClock
from tests.integration.gateway.conftest import Rig, running
from tests.unit.blobs.pictures import JPEG, PNG, png_of
from tests.waiting import wait_until

CLOCK = SystemClock()
MIB = 1024 * 1024
Door = Callable[..., Any]


class Reply(NamedTuple):
    """One answer of the gateway."""

    status: int
    body: dict[str, Any]
    headers: Any


@pytest.fixture
def door(settings: Settings, tmp_path: Path) -> Door:
    """Opens a gateway with the given settings of images, over a directory of the test's own."""

    @asynccontextmanager
    async def opened(**more: Any) -> AsyncIterator[Rig]:
        given = {"dir": str(tmp_path / "blobs"), "disk_free_bytes_min": 0, **more}
        async with running(settings.model_copy(update={"blobs": BlobSettings(**given)})) as rig:
            yield rig

    return opened


def sized(size: int) -> bytes:
    """A JPEG of that many bytes."""
    return JPEG[:-2] + b"\0" * (size - len(JPEG)) + JPEG[-2:]


async def send(
    rig: Rig, data: Any, path: str = "/api/uploads", *, user_id: str = "u1", bytes_max: int | None = None, **more: Any
) -> Reply:
    data = io.BytesIO(data) if isinstance(data, bytes) else data
    ticket = rig.tokens.upload_ticket(user_id, bytes_max)
    headers = {"Authorization": f"Bearer {ticket}", **more.pop("headers", {})}
    async with rig.http.post(f"{rig.url}{path}", data=data, headers=headers, **more) as answer:
        return Reply(answer.status, json.loads(await answer.read()), answer.headers)


def files(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()]


async def test_an_upload_gets_an_id_that_only_its_user_can_use(door: Door, tmp_path: Path) -> None:
    """202, and the daemon of this host reads the very bytes."""
    async with door() as rig:
        reply = await send(rig, PNG, headers={"Content-Type": "image/jpeg"})
        assert reply.status == 202
        assert set(reply.body) == {"fileId", "expiresAt"}
        assert reply.body["expiresAt"] == pytest.approx(CLOCK.time() + 86400, abs=5)
        reader = DiskBlobs(BlobSettings(dir=str(tmp_path / "blobs")), SystemClock())
        assert (await reader.read(f"file:{reply.body['fileId']}", "u1")).mime_type == "image/png"
        assert rig.process.metrics.uploads.labels("stored")._value.get() == 1


async def test_twenty_mebibytes_pass_and_one_byte_more_does_not(door: Door, tmp_path: Path) -> None:
    """Announced or in chunks; what is refused leaves nothing."""

    async def chunks(data: bytes) -> AsyncIterator[bytes]:
        for at in range(0, len(data), MIB):
            yield data[at : at + MIB]

    async with door() as rig:
        assert (await send(rig, sized(20 * MIB))).status == 202
        refused = await send(rig, sized(20 * MIB + 1))
        assert (refused.status, refused.body["code"]) == (413, "IMAGE_REJECTED")
        assert str(20 * MIB) in refused.body["message"]
        assert (await send(rig, chunks(sized(20 * MIB + 1)))).status == 413
        assert len(files(tmp_path)) == 1


async def test_a_ticket_may_allow_less(door: Door) -> None:
    async with door() as rig:
        assert (await send(rig, sized(2000), bytes_max=2000)).status == 202
        assert (await send(rig, sized(2001), bytes_max=2000)).status == 413
        assert (await send(rig, sized(2001), bytes_max=10**12)).status == 202


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (JPEG[:-20], "cut-off"),
        (png_of(60_000, 60_000) + b"\0" * 19 * MIB, "60000 x 60000 pixels"),
        (b"", "empty"),
        (b"GIF89a" + b"\0" * 10, "cut-off"),
    ],
    ids=["svg", "heic", "truncated", "19 MiB bomb", "empty", "hardly a gif"],
)
async def test_what_is_no_picture_is_415_and_says_why(door: Door, tmp_path: Path, data: bytes, word: str) -> None:
    async with door() as rig:
        reply = await send(rig, data)
        assert (reply.status, reply.body["code"]) == (415, "IMAGE_REJECTED")
        assert word in reply.body["message"]
    assert files(tmp_path) == []


async def test_a_form_is_taken_as_well(door: Door, tmp_path: Path) -> None:
    """Mini-programs can send nothing else (`wx.uploadFile`)."""
    async with door(upload_bytes_max=2000) as rig:
        for data, status in ((JPEG, 202), (sized(2000), 202), (sized(2001), 413), (b"<svg/>", 415)):
            form = aiohttp.FormData()
            form.add_field("note", "from a phone")
            form.add_field("file", data, filename="../../x.png", content_type="image/png")
            assert (await send(rig, form)).status == status
        empty = aiohttp.FormData()
        empty.add_field("note", "no file", content_type="text/plain")
        assert (await send(rig, empty)).status == 415
        broken = {"Content-Type": "multipart/form-data; boundary=b"}
        assert (await send(rig, b"--c\r\n\r\n", headers=broken)).status in {400, 415}
        nested = b"--b\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n--c\r\n\r\nx\r\n--c--\r\n--b--\r\n"
        assert (await send(rig, nested, headers=broken)).status == 415
        assert (await send(rig, b"x", headers={"Content-Type": "multipart/form-data"})).status == 400
    assert len(files(tmp_path)) == 2


async def test_what_a_form_adds_is_held_to_a_limit(door: Door) -> None:
    async with door() as rig:
        form = aiohttp.FormData()
        form.add_field("note", "x" * 70_000, content_type="text/plain")
        form.add_field("file", JPEG, filename="x.jpg")
        reply = await send(rig, form)
        assert (reply.status, "other fields" in reply.body["message"]) == (415, True)


async def test_no_ticket_no_upload(door: Door, tmp_path: Path) -> None:
    """A task's token is no ticket."""
    async with door() as rig:
        for headers in ({}, rig.auth("t1"), {"Authorization": "Bearer x"}):
            for path in ("/api/uploads", "/api/uploads/presign"):
                async with rig.http.post(f"{rig.url}{path}", data=JPEG, headers=headers) as answer:
                    assert answer.status == 401
    assert files(tmp_path) == []


async def test_one_user_can_t_fill_the_disk(door: Door) -> None:
    """Others go on."""
    async with door(uploads_per_minute=2) as rig:
        assert [(await send(rig, JPEG)).status for _ in range(3)] == [202, 202, 429]
        assert (await send(rig, JPEG, user_id="u2")).status == 202


async def test_a_used_up_share_is_507_with_a_metric_and_a_time(door: Door, tmp_path: Path) -> None:
    """By what lies there and by what the disk has left."""
    async with door(disk_bytes_max=3000) as rig:
        assert [(await send(rig, sized(1400))).status for _ in range(3)] == [202, 202, 507]
        reply = await send(rig, sized(1400))
        assert (reply.status, reply.body["code"]) == (507, "NO_ROOM")
        assert int(reply.headers["Retry-After"]) == reply.body["retryAfter"] >= 60
        assert str(tmp_path) not in str(reply.body)
        assert rig.process.metrics.uploads.labels("full")._value.get() == 2
    async with door(disk_free_bytes_min=2**50) as rig:
        assert (await send(rig, JPEG)).status == 507
    assert len(files(tmp_path)) == 2


async def test_a_directory_that_can_t_be_written_is_507(door: Door, tmp_path: Path) -> None:
    """The gateway goes on with everything else."""
    (tmp_path / "file").touch()
    async with door(dir=str(tmp_path / "file" / "blobs")) as rig:
        assert (await send(rig, JPEG)).status == 507


async def test_a_slow_upload_is_408(door: Door, tmp_path: Path) -> None:
    async def slow() -> AsyncIterator[bytes]:
        yield JPEG
        await asyncio.sleep(1)
        yield b"late"

    async with door(upload_timeout_s=0.1) as rig:
        assert (await send(rig, slow())).status == 408
    assert files(tmp_path) == []


async def test_a_client_that_leaves_leaves_nothing(door: Door, tmp_path: Path) -> None:
    """In the middle of an upload, or with less than it announced."""
    async with door() as rig:
        address = URL(rig.url)
        assert address.host is not None and address.port is not None
        reader, writer = await asyncio.open_connection(address.host, address.port)
        head = (
            f"POST /api/uploads?token={rig.tokens.upload_ticket('u1')} HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999"
        )
        writer.write(head.encode() + b"\r\n\r\n" + sized(2 * MIB))
        await writer.drain()
        await wait_until(lambda: bool(files(tmp_path)), description="the first chunk is on disk")
        writer.close()
        await wait_until(lambda: not files(tmp_path), description="the part is gone")
        reader.feed_eof()


# --- the bucket ---------------------------------------------------------------------------------------------------


@pytest.fixture
async def bucket() -> AsyncIterator[FakeS3]:
    server = FakeS3()
    await server.start()
    yield server
    await server.stop()


def of_bucket(server: FakeS3) -> dict[str, Any]:
    return {
        "s3_endpoint_url": server.url, "s3_bucket": server.bucket, "s3_access_key_id": SecretStr(server.access_key_id),
        "s3_secret_access_key": SecretStr(server.secret),
    }  # fmt: skip


async def wish(rig: Rig, **body: Any) -> Reply:
    return await send(rig, json.dumps(body), "/api/uploads/presign")


async def test_a_browser_puts_into_the_bucket_what_it_announced(door: Door, bucket: FakeS3) -> None:
    async with door(**of_bucket(bucket)) as rig:
        reply = await wish(rig, mimeType="image/png", bytes=len(PNG))
        assert reply.status == 202
        assert set(reply.body) == {"fileKey", "url", "headers", "expiresAt"}
        assert CLOCK.time() < reply.body["expiresAt"] <= CLOCK.time() + 300
        url = URL(reply.body["url"], encoded=True)
        async with rig.http.put(url, data=PNG, headers=reply.body["headers"]) as answer:
            assert answer.status == 200
        assert bucket.objects[f"/images/{reply.body['fileKey']}"] == ("image/png", PNG)
        async with rig.http.put(url, data=PNG + b"x", headers=reply.body["headers"]) as answer:
            assert answer.status == 403


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"mimeType": "image/svg+xml", "bytes": 10}, 415),
        ({"mimeType": "image/png", "bytes": 20 * MIB + 1}, 413),
        ({"mimeType": "image/png", "bytes": 0}, 413),
        ({"mimeType": "image/png"}, 400),
        ({"mimeType": "image/png", "bytes": "10"}, 400),
        ({"mimeType": "image/png", "bytes": 10, "key": "x"}, 400),
        ([], 400),
        (b'{"mimeType": "\xf0"}', 400),
    ],
)
async def test_a_wish_that_can_t_be_granted(door: Door, bucket: FakeS3, body: Any, status: int) -> None:
    """Nobody names the key himself."""
    async with door(**of_bucket(bucket)) as rig:
        raw = body if isinstance(body, bytes) else json.dumps(body)
        assert (await send(rig, raw, "/api/uploads/presign")).status == status


async def test_a_body_that_is_not_encoded_as_it_says_is_the_callers_mistake(door: Door) -> None:
    async with door() as rig:
        for path in ("/api/uploads", "/api/tasks"):
            headers = {"Content-Encoding": "gzip", "X-API-Key": "bff-key-of-sixteen-characters"}
            reply = await send(rig, b"{}", path, headers=headers)
            assert reply.status == 400, path


async def test_each_door_that_is_not_there_names_the_other(door: Door, bucket: FakeS3) -> None:
    """BLOB_STORE=s3 is for many hosts: there a disk would be the wrong one."""
    async with door() as rig:
        reply = await wish(rig, mimeType="image/png", bytes=1)
        assert (reply.status, "POST /api/uploads" in reply.body["message"]) == (501, True)
    async with door(store="s3", **of_bucket(bucket)) as rig:
        reply = await send(rig, JPEG)
        assert (reply.status, "/presign" in reply.body["message"]) == (501, True)


async def test_signed_addresses_and_tickets_reach_no_log(
    door: Door, bucket: FakeS3, capfd: pytest.CaptureFixture[str]
) -> None:
    async with door(**of_bucket(bucket)) as rig:
        await wish(rig, mimeType="image/png", bytes=10)
        await send(
            rig, b"<svg/>", f"/api/uploads?token={rig.tokens.upload_ticket('u1')}", headers={"Authorization": ""}
        )
    said = "".join(capfd.readouterr())
    assert "X-Amz" not in said
    assert "eyJ" not in said


def test_the_process_leaves_no_descriptor_open(tmp_path: Path) -> None:
    """Uploads are cheap enough to be many."""
    disk = DiskBlobs(BlobSettings(dir=str(tmp_path), disk_free_bytes_min=0), SystemClock())

    async def many() -> None:
        async def body() -> AsyncIterator[bytes]:
            yield JPEG

        for _ in range(20):
            await disk.take("u1", body(), bytes_max=10_000)

    before = len(list(Path("/proc/self/fd").iterdir()))
    asyncio.run(many())
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
