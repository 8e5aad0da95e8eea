from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from daemon.blobs.disk import CHUNK_BYTES, DiskBlobs, TooLarge
from daemon.config import BlobSettings
from daemon.domain.clock import SystemClock
from daemon.domain.errors import Code, ConfigError, DiskFull, Rejected, TaskError
from daemon.domain.messages import TaskMessage
from daemon.domain.model_io import Picture
from tests.unit.blobs.pictures import JPEG, PICTURES, PNG, png_of

MESSAGE = TaskMessage(task_id="t-1_x", queue_id="q_a.b", service_id="s", user_id="u1")


def settings(root: Path, **more: Any) -> BlobSettings:
    return BlobSettings(**{"dir": str(root / "blobs"), "disk_free_bytes_min": 0, **more})


@pytest.fixture
def disk(tmp_path: Path) -> DiskBlobs:
    return DiskBlobs(settings(tmp_path), SystemClock())


async def pieces(data: bytes, size: int = 1000) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


def files(disk: DiskBlobs) -> list[str]:
    return sorted(str(path.relative_to(disk.root)) for path in disk.root.rglob("*") if path.is_file())


async def take(disk: DiskBlobs, data: bytes = JPEG, user_id: str = "u1", bytes_max: int = 1_000_000) -> str:
    file_id, _ = await disk.take(user_id, pieces(data), bytes_max=bytes_max, expected=len(data))
    return file_id


async def code_of(disk: DiskBlobs, reference: str, user_id: str = "u1") -> Code:
    with pytest.raises(TaskError) as caught:
        await disk.read(reference, user_id)
    return caught.value.code


# --- uploads ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PICTURES)
async def test_an_upload_is_read_back_as_it_came(disk: DiskBlobs, kind: str) -> None:
    data, mime_type = PICTURES[kind]
    file_id = await take(disk, data)
    assert await disk.read(f"file:{file_id}", "u1") == Picture(mime_type, data)


async def test_what_it_is_comes_from_its_header(disk: DiskBlobs) -> None:
    _, facts = await disk.take("u1", pieces(PNG), bytes_max=1000)
    assert (facts.mime_type, facts.width, facts.height) == ("image/png", 16, 9)


async def test_another_user_s_upload_looks_like_a_missing_one(disk: DiskBlobs) -> None:
    """The same code, the same words, and nothing of it is touched by a drop."""
    file_id = await take(disk)
    with pytest.raises(Rejected) as foreign:
        await disk.read(f"file:{file_id}", "u2")
    with pytest.raises(Rejected) as missing:
        await disk.read("file:f_" + "A" * 22, "u1")
    assert str(foreign.value) == str(missing.value)
    assert foreign.value.code is Code.IMAGE_NOT_FOUND
    await disk.drop([f"file:{file_id}"], "u2")
    await disk.read(f"file:{file_id}", "u1")


@pytest.mark.parametrize(
    "reference",
    ["file:../../etc/passwd", "file:f_../../../../x", "file:", "file:f_" + "A" * 23, "file:f_" + "A" * 21 + "/", "x:y",
     "disk:../uploads/x", "disk:" + "A" * 22 + ".q/../../x.t", "file:f_" + "A" * 21 + "\n"],
)  # fmt: skip
async def test_a_reference_that_is_not_ours_names_no_file(disk: DiskBlobs, reference: str) -> None:
    """No text of a message ever becomes part of a path."""
    await take(disk)
    assert await code_of(disk, reference) is Code.IMAGE_NOT_FOUND
    await disk.drop([reference], "u1")
    assert len(files(disk)) == 1


async def test_ids_are_not_to_be_guessed(disk: DiskBlobs) -> None:
    """128 random bits, and none of the names on disk tells one."""
    ids = [await take(disk) for _ in range(20)]
    assert len(set(ids)) == 20
    assert not any(file_id in name for file_id in ids for name in files(disk))


async def test_files_and_directories_are_for_us_alone(disk: DiskBlobs) -> None:
    await take(disk)
    await disk.stage(MESSAGE, {0: Picture("image/png", PNG)})
    modes = {path.stat().st_mode & 0o777 for path in disk.root.rglob("*") if path.is_file()}
    assert modes == {0o600}
    assert {path.stat().st_mode & 0o777 for path in [disk.root, *disk.root.iterdir()]} == {0o700}


async def test_a_dropped_upload_is_gone_and_may_be_dropped_again(disk: DiskBlobs) -> None:
    reference = f"file:{await take(disk)}"
    await disk.drop([reference], "u1")
    await disk.drop([reference], "u1")
    assert files(disk) == []
    assert await code_of(disk, reference) is Code.IMAGE_NOT_FOUND


async def test_a_large_upload_holds_one_chunk_in_memory(disk: DiskBlobs, tmp_path: Path) -> None:
    """What was sent is on disk while the rest is still on its way."""
    big = JPEG[:-2] + b"\0" * (5 * CHUNK_BYTES) + b"\xff\xd9"
    seen: list[int] = []

    async def watched() -> AsyncIterator[bytes]:
        async for piece in pieces(big, 64 * 1024):
            yield piece
            seen.append(sum(path.stat().st_size for path in (disk.root / "incoming").iterdir()))

    file_id, _ = await disk.take("u1", watched(), bytes_max=len(big))
    assert all(at * 65536 - size <= CHUNK_BYTES + 65536 for at, size in enumerate(seen))
    assert (await disk.read(f"file:{file_id}", "u1")).data == big


# --- what is refused ----------------------------------------------------------------------------------------------


async def test_one_byte_too_many_is_refused_and_nothing_is_kept(disk: DiskBlobs) -> None:
    """Announced or not."""
    with pytest.raises(TooLarge, match="more than the 100 bytes"):
        await disk.take("u1", pieces(JPEG), bytes_max=100, expected=101)
    with pytest.raises(TooLarge):
        await disk.take("u1", pieces(JPEG, 7), bytes_max=len(JPEG) - 1)
    assert (not disk.root.exists()) or files(disk) == []
    await take(disk, bytes_max=len(JPEG))


async def test_a_stranger_is_refused_by_its_first_kilobyte(disk: DiskBlobs) -> None:
    """The rest of a video is not even read."""
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        for chunk in [b"\0\0\0\x14ftypisom" + b"\0" * 2000] * 1000:
            read += 1
            yield chunk

    with pytest.raises(Rejected, match="video"):
        await disk.take("u1", endless(), bytes_max=10_000_000)
    assert read == 1
    assert files(disk) == []


@pytest.mark.parametrize(
    ("data", "word"),
    [(b"", "empty"), (b"<svg xmlns='x'/>", "SVG"), (JPEG[:-30], "cut-off"), (png_of(60_000, 60_000), "pixels")],
)
async def test_no_picture_is_kept_that_a_model_can_t_read(disk: DiskBlobs, data: bytes, word: str) -> None:
    with pytest.raises(Rejected, match=word):
        await take(disk, data)
    assert files(disk) == []


async def test_an_upload_that_breaks_off_leaves_nothing(disk: DiskBlobs) -> None:
    """An error of the sender is his, not the disk's."""

    async def broken() -> AsyncIterator[bytes]:
        yield JPEG
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await disk.take("u1", broken(), bytes_max=10_000)
    assert files(disk) == []


async def test_a_cancelled_upload_leaves_nothing(disk: DiskBlobs) -> None:
    started = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield JPEG
        yield b"\0" * CHUNK_BYTES
        started.set()
        await asyncio.Event().wait()

    async with asyncio.TaskGroup() as group:
        upload = group.create_task(disk.take("u1", slow(), bytes_max=10 * CHUNK_BYTES))
        await started.wait()
        assert len(files(disk)) == 1
        upload.cancel()
    assert upload.cancelled()
    assert files(disk) == []


async def test_a_full_disk_is_told_apart(disk: DiskBlobs, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(DiskFull, match="No space left"):
        await take(disk)
    with pytest.raises(DiskFull, match="No space left"):
        await disk.stage(MESSAGE, {0: Picture("image/png", PNG), 1: Picture("image/png", PNG)})
    assert files(disk) == []


# --- inline images ------------------------------------------------------------------------------------------------


async def test_inline_images_are_laid_down_and_read_back(disk: DiskBlobs) -> None:
    """Under a random name that says whose they are; the same bytes twice are two files."""
    laid = await disk.stage(MESSAGE, {0: Picture("image/png", PNG), 3: Picture("image/jpeg", JPEG)})
    again = await disk.stage(MESSAGE, {0: Picture("image/png", PNG)})
    assert set(laid) == {0, 3}
    assert laid[0] != again[0]
    assert laid[0].endswith(".q_a.b.t-1_x")
    assert (await disk.read(laid[3], "u1")).data == JPEG
    await disk.drop(list(laid.values()), "u1")
    assert files(disk) == [f"inline/{again[0].removeprefix('disk:')}"]


# --- the directory ------------------------------------------------------------------------------------------------


async def test_a_daemon_on_another_host_says_so_to_its_operator(disk: DiskBlobs) -> None:
    """The viewer learns only that the image is gone."""
    with pytest.raises(Rejected) as caught:
        await disk.read("file:f_" + "A" * 22, "u1")
    assert "another host" in caught.value.detail
    assert "host" not in caught.value.message
    assert not disk.root.exists()


async def test_a_file_that_can_t_be_read_is_tried_again(disk: DiskBlobs) -> None:
    reference = (await disk.stage(MESSAGE, {0: Picture("image/png", PNG)}))[0]
    path = disk.root / "inline" / reference.removeprefix("disk:")
    path.unlink()
    path.mkdir()
    assert await code_of(disk, reference) is Code.STORE_ERROR
    with pytest.raises(DiskFull):
        await disk.drop([reference], "u1")


async def test_a_link_is_not_followed(disk: DiskBlobs, tmp_path: Path) -> None:
    reference = (await disk.stage(MESSAGE, {0: Picture("image/png", PNG)}))[0]
    path = disk.root / "inline" / reference.removeprefix("disk:")
    path.unlink()
    path.symlink_to(shutil.copy(__file__, tmp_path / "secret"))
    assert await code_of(disk, reference) is Code.STORE_ERROR


async def test_a_larger_file_than_allowed_is_not_read(tmp_path: Path) -> None:
    disk = DiskBlobs(settings(tmp_path, upload_bytes_max=1024), SystemClock())
    reference = (await disk.stage(MESSAGE, {0: Picture("image/png", PNG + b"\0" * 1024)}))[0]
    assert await code_of(disk, reference) is Code.IMAGE_REJECTED


def test_a_directory_that_can_t_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"BLOB_DIR=.*file/x: can't be written"):
        DiskBlobs(BlobSettings(dir=str(tmp_path / "file" / "x")), SystemClock()).make()


def test_a_directory_that_is_not_ours_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root everything may be written, so the system's answer is played."""
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ConfigError, match="Permission denied"):
        DiskBlobs(settings(tmp_path), SystemClock()).make()
