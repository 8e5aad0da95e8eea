"""Images of a task: there for every attempt, its user's alone, and gone when it is over, whatever dies in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from daemon.blobs.by_scheme import BlobsByScheme
from daemon.blobs.disk import DiskBlobs
from daemon.config import BlobSettings
from daemon.domain.errors import Code, DiskFull, ProviderError
from daemon.domain.messages import ImageRef, TaskMessage
from daemon.domain.model_io import Picture
from daemon.pipeline.outcome import Done, Failed, Retrying
from daemon.services import ServiceCatalog
from tests.fakes import ANSWER, Crash, Trouble
from tests.integration.pipeline.conftest import BOOK, CLOCK, ECHO, Bench, Process, message
from tests.unit.blobs.pictures import JPEG, PNG

SEEING: ServiceCatalog = replace(
    BOOK,
    services=MappingProxyType({"echo": replace(ECHO, takes_images=True), "blind": replace(ECHO, id="blind")}),
)


@pytest.fixture
def disk(tmp_path: Path) -> DiskBlobs:
    return DiskBlobs(BlobSettings(dir=str(tmp_path / "blobs"), disk_free_bytes_min=0), CLOCK)


def seeing(bench: Bench, disk: DiskBlobs, name: str = "a") -> Process:
    """A daemon whose service takes images, all of its ports watched."""
    process = bench.process(name)
    blobs = process.recorder.wrap("blobs", BlobsByScheme({"file": disk, "disk": disk}))
    process.with_(catalog=lambda: SEEING, blobs=blobs)
    return process


async def upload(disk: DiskBlobs, user_id: str = "u_t1", data: bytes = PNG) -> ImageRef:
    async def body() -> AsyncIterator[bytes]:
        yield data

    return ImageRef(file_id=(await disk.take(user_id, body(), bytes_max=10_000))[0])


async def with_images(disk: DiskBlobs, task_id: str = "t1", **fields: Any) -> TaskMessage:
    """A task with an upload and, as the relay would write it, an inline image on disk."""
    task = message(task_id, **fields)
    laid = await disk.stage(task, {1: Picture("image/jpeg", JPEG)})
    return message(task_id, images=[await upload(disk, f"u_{task_id}"), ImageRef(blob=laid[1])], **fields)


def left(disk: DiskBlobs) -> list[str]:
    return sorted(str(path.relative_to(disk.root)) for path in disk.root.rglob("*") if path.is_file())


async def test_images_survive_a_retry_and_go_with_the_result(bench: Bench, disk: DiskBlobs) -> None:
    """Both attempts see the same bytes in the order they were sent; afterwards nothing lies there."""
    provider = bench.plan("t1", [ProviderError(detail="status 500")], ANSWER)
    process = seeing(bench, disk)
    await bench.accept(await with_images(disk))
    assert isinstance(await process.run(await process.fetch()), Retrying)
    assert len(left(disk)) == 2
    outcomes = await bench.finish_all(process)
    assert isinstance(outcomes[-1], Done)
    assert [call.pictures for call in provider.calls] == [(Picture("image/png", PNG), Picture("image/jpeg", JPEG))] * 2
    assert left(disk) == []


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"service_id": "blind"}, Code.IMAGE_REJECTED),
        ({"service_id": "nobody"}, Code.UNKNOWN_SERVICE),
        ({"expires_at": 1.0}, Code.EXPIRED),
        ({"max_attempts": 1}, Code.LLM_ERROR),
    ],
)
async def test_they_go_however_the_task_ends(bench: Bench, disk: DiskBlobs, fields: dict[str, Any], code: Code) -> None:
    bench.plan("t1", [ProviderError(detail="status 500")])
    process = seeing(bench, disk)
    await bench.accept(await with_images(disk, **fields))
    assert await bench.finish_all(process) == [Failed(code)]
    assert left(disk) == []


async def test_a_cancelled_task_takes_its_images_along(bench: Bench, disk: DiskBlobs) -> None:
    process = seeing(bench, disk)
    await bench.accept(await with_images(disk))
    await bench.client.hset("{task:t1:events}:state", "cancel", 1)
    assert await bench.finish_all(process) == [Failed(Code.CANCELLED)]
    assert left(disk) == []


async def test_another_user_s_upload_is_not_found(bench: Bench, disk: DiskBlobs) -> None:
    """And stays where it is."""
    provider = bench.plan("t1")
    process = seeing(bench, disk)
    await bench.accept(message("t1", images=[await upload(disk, "somebody else")]))
    assert await bench.finish_all(process) == [Failed(Code.IMAGE_NOT_FOUND)]
    assert (await bench.story())[-1] == "error IMAGE_NOT_FOUND"
    assert len(provider.calls) == 0
    assert len(left(disk)) == 1


async def test_images_of_a_task_by_id_go_as_well(bench: Bench, disk: DiskBlobs) -> None:
    """What `task_context` names is read as that user's and dropped with the task."""
    image = await upload(disk)
    view = """
        CREATE OR REPLACE VIEW qstreamd.task_context AS SELECT 't1'::text AS task_id, NULL::text AS job_id,
        NULL::jsonb AS refs, 'echo'::text AS service_id, 'u_t1'::text AS user_id, NULL::text AS template_id,
        '{"text": "t1"}'::jsonb AS variables, '[{"fileId": "ID"}]'::jsonb AS images"""
    await bench.pool.fetch(view.replace("ID", image.file_id or ""))
    provider = bench.plan("t1")
    process = seeing(bench, disk)
    await bench.accept(message("t1", variables=None))
    assert [type(o) for o in await bench.finish_all(process)] == [Done]
    assert [len(call.pictures) for call in provider.calls] == [1]
    assert left(disk) == []


async def test_a_crash_at_any_call_leaves_no_image(bench: Bench, disk: DiskBlobs) -> None:
    """Each port call of the course in turn is the last thing a process does; another process takes over."""
    process = seeing(bench, disk, "count")
    await bench.accept(await with_images(disk, "count"))
    await process.run(await process.fetch())
    calls = process.recorder.calls
    assert calls[-2:] == ["blobs.drop", "settlement.ack"]
    for at in range(len(calls)):
        for when in ("before", "after"):
            task_id = f"t-{at}-{when}"
            first = seeing(bench, disk, task_id)
            await bench.accept(await with_images(disk, task_id))
            first.recorder.trouble = Trouble(at, when, lambda: Crash("kill -9"))
            with pytest.raises(Crash):
                await first.run(await first.fetch())
            await asyncio.sleep(0.35)  # the dead attempt's lease and guards
            await bench.finish_all(seeing(bench, disk, f"{task_id}-2"))
            assert left(disk) == [], f"crash {when} {calls[at]}"
            assert (await bench.row(task_id))["state"] == "done"


async def test_a_store_that_does_not_drop_delays_nobody(
    bench: Bench, disk: DiskBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task is over for its viewer and for Redis; the reason is kept for the operator."""
    process = seeing(bench, disk)
    await bench.accept(await with_images(disk))
    in_flight = await process.fetch()

    async def refuse(*_: object) -> None:
        raise DiskFull("read-only")

    monkeypatch.setattr(disk, "drop", refuse)
    assert isinstance(await process.run(in_flight), Done)
    assert in_flight.trace.blobs_left == "read-only"
    assert await bench.left() == {}
    assert len(left(disk)) == 2
