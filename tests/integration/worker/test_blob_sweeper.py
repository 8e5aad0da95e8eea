"""Nothing is orphaned: what a process that died left on disk is gone after the next sweep, and nothing else is."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from daemon.blobs.disk import DiskBlobs
from daemon.blobs.magic import picture
from daemon.blobs.orphans import exclusive_lock
from daemon.blobs.redis import RedisBlobs
from daemon.config import BlobSettings, PostgresSettings, QueueSettings, RedisSettings
from daemon.domain.clock import SystemClock
from daemon.domain.messages import ImageRef, TaskMessage
from daemon.domain.model_io import Picture
from daemon.observability.metrics import Metrics
from daemon.queues.admission import Accepted, Admission
from daemon.redis_client import keys
from daemon.redis_client.connection import connect
from daemon.redis_client.scripts import Scripts
from daemon.store.pool import Pool
from daemon.store.records import TaskRecords
from daemon.worker.blob_sweeper import BlobSweeper
from tests.unit.blobs.pictures import PNG
from tests.waiting import wait_until

QUEUE = "q_paid_vision"
CLOCK = SystemClock()


@dataclass
class Host:
    """One host: a disk, and the servers that know what became of its tasks."""

    disk: DiskBlobs
    settings: BlobSettings
    redis: Redis
    pool: Pool
    sweep: BlobSweeper
    metrics: Metrics

    async def stage(self, task_id: str) -> str:
        """An inline image of a task, as the relay lays it down."""
        task = TaskMessage(task_id=task_id, queue_id=QUEUE, service_id="s", user_id="u1")
        laid = await self.disk.stage(task, {0: Picture("image/png", PNG)})
        return laid[0].removeprefix("disk:")

    async def accept(self, task_id: str) -> None:
        """Redis knows the task."""
        await self.redis.set(keys.dedup(QUEUE, task_id), "1-1:sha", ex=60)

    async def row(self, task_id: str, state: str) -> None:
        """Postgres knows the task."""
        await self.pool.fetch(
            """INSERT INTO qstreamd.tasks (task_id, queue_id, entry_id, service_id, user_id, request_id, trace_id,
               state, message, body_sha256) VALUES ($1, $2, 'tasks/1-1', 's', 'u1', 'r', 't', $3, '{}', 'sha')""",
            task_id, QUEUE, state,
        )  # fmt: skip

    def age(self, seconds: float) -> None:
        """Make every file that much older."""
        for path in self.files():
            os.utime(path, (CLOCK.time() - seconds, CLOCK.time() - seconds))

    def files(self) -> list[Path]:
        return [path for folder in self.disk.root.glob("*/") for path in folder.iterdir()]

    def names(self) -> set[str]:
        return {path.name for path in self.files()}

    def swept(self, why: str) -> float:
        value: float = self.metrics.blobs_swept.labels(why)._value.get()
        return value


@pytest.fixture
async def host(
    redis_settings: RedisSettings, postgres_settings: PostgresSettings, tmp_path: Path
) -> AsyncIterator[Host]:
    settings = BlobSettings(dir=str(tmp_path / "blobs"), disk_free_bytes_min=0, sweep_s=0.05)
    pool = await Pool(postgres_settings).start()
    async with connect(redis_settings) as client:
        metrics = Metrics(process=False)
        sweep = BlobSweeper(RedisBlobs(client, picture), TaskRecords(pool), settings, 5000.0, metrics, CLOCK)
        yield Host(DiskBlobs(settings, CLOCK), settings, client, pool, sweep, metrics)
    await pool.close()


async def test_an_image_of_a_task_that_was_never_accepted_goes(host: Host) -> None:
    """The relay died between laying it down and accepting the task."""
    orphan, waiting = await host.stage("orphan"), await host.stage("waiting")
    await host.accept("waiting")
    await host.sweep.sweep()
    assert host.names() == {orphan, waiting}, "it may be accepted in this moment"
    host.age(61)
    await host.sweep.sweep()
    assert host.names() == {waiting}
    assert host.swept("over") == 1


@pytest.mark.parametrize("state", ["done", "failed", "cancelled", "expired"])
async def test_an_image_of_a_task_that_has_ended_goes(host: Host, state: str) -> None:
    """Its daemon died in the tail, or could not remove it then."""
    await host.stage("ended")
    await host.accept("ended")
    await host.row("ended", state)
    host.age(61)
    await host.sweep.sweep()
    assert host.names() == set()


@pytest.mark.parametrize("state", ["queued", "running", "retrying"])
async def test_an_image_of_a_task_that_may_still_run_stays(host: Host, state: str) -> None:
    """Also when Redis has forgotten the task: it will be put back from Postgres."""
    kept = await host.stage("alive")
    await host.row("alive", state)
    host.age(4999)
    await host.sweep.sweep()
    assert host.names() == {kept}


async def test_nothing_is_judged_while_a_server_is_away(host: Host) -> None:
    """Ages still count."""
    kept = await host.stage("orphan")
    host.age(61)
    (host.disk.root / "incoming" / "part").write_bytes(b"x")
    os.utime(host.disk.root / "incoming" / "part", (1, 1))
    await host.pool.close()
    await host.sweep.sweep()
    assert host.names() == {kept}
    assert host.swept("part") == 1


async def test_parts_and_uploads_go_by_age(host: Host) -> None:
    """An upload that was cut off by a kill, one whose task never came; the gauge tells what is left."""

    async def body() -> AsyncIterator[bytes]:
        yield PNG

    await host.disk.take("u1", body(), bytes_max=10_000)
    (host.disk.root / "incoming" / "x").write_bytes(b"half")
    host.age(host.settings.upload_timeout_s + 61)
    await host.sweep.sweep()
    assert [path.parent.name for path in host.files()] == ["uploads"]
    assert host.metrics.blob_disk_bytes._value.get() == len(PNG)
    host.age(host.settings.upload_ttl_s + 1)
    await host.sweep.sweep()
    assert host.files() == []
    assert (host.swept("part"), host.swept("old")) == (1, 1)


async def test_a_host_without_images_costs_nothing(host: Host) -> None:
    """No directory is made, no server asked."""
    await host.pool.close()
    await host.sweep.sweep()
    assert not host.disk.root.exists()


async def test_one_daemon_of_a_host_sweeps(host: Host) -> None:
    await host.stage("orphan")
    host.age(61)
    with exclusive_lock(host.disk.root):
        await host.sweep.sweep()
    assert len(host.files()) == 1


async def test_a_disk_in_trouble_does_not_end_the_daemon(host: Host) -> None:
    host.disk.root.write_bytes(b"a file where the directory should be")
    await host.sweep.sweep()


async def test_it_goes_on_until_it_is_cancelled(host: Host) -> None:
    async with asyncio.TaskGroup() as group:
        loop = group.create_task(host.sweep.run())
        await host.stage("orphan")
        host.age(61)
        await wait_until(lambda: not host.files(), description="swept")
        loop.cancel()


# --- how the relay lays them down -------------------------------------------------------------------------------------


def task(task_id: str = "t1", **fields: Any) -> TaskMessage:
    given = {"task_id": task_id, "queue_id": QUEUE, "service_id": "s", "user_id": "u1"}
    return TaskMessage(**{**given, "images": [ImageRef(file_id="f_x"), ImageRef(data="aGk=")], **fields})


PICTURES = {1: Picture("image/png", PNG)}


@pytest.fixture
def admission(host: Host) -> Admission:
    return Admission(Scripts(host.redis), QueueSettings(), CLOCK, host.disk)


async def test_an_accepted_image_lies_on_disk_and_nowhere_in_redis(host: Host, admission: Admission) -> None:
    verdict = await admission.accept(task(), "sha", 10, PICTURES)
    assert isinstance(verdict, Accepted)
    entries: Any = await host.redis.xrange(keys.queue_keys(QUEUE).tasks)
    [name] = host.names()
    assert f'{{"mimeType":"image/png","blob":"disk:{name}"}}'.encode() in entries[0][1][b"task"]
    assert await host.redis.exists(keys.blob(QUEUE, "t1", 1)) == 0
    assert (await host.disk.read(f"disk:{name}", "u1")).data == PNG


async def test_what_was_not_accepted_leaves_no_image(host: Host, admission: Admission) -> None:
    """A duplicate, another body, a full queue, a dry run."""
    await admission.accept(task(), "sha", 1, PICTURES)
    kept = host.names()
    await admission.accept(task(), "sha", 1, PICTURES)
    await admission.accept(task(), "other", 1, PICTURES)
    await admission.accept(task("t2"), "sha", 1, PICTURES)
    await admission.accept(task("t3"), "sha", 10, PICTURES, dry_run=True)
    assert host.names() == kept


async def test_a_redis_that_is_full_leaves_no_image_either(host: Host, admission: Admission) -> None:
    await host.redis.config_set("maxmemory", 1)
    try:
        with pytest.raises(Exception, match="memory"):
            await admission.accept(task(), "sha", 10, PICTURES)
    finally:
        await host.redis.config_set("maxmemory", 0)
    assert host.names() == set()


async def test_after_a_lost_answer_the_image_stays_until_it_is_known(host: Host, redis_settings: RedisSettings) -> None:
    """It may have been accepted; a sweep finds out."""
    async with connect(redis_settings) as client:
        admission = Admission(Scripts(client), QueueSettings(), CLOCK, host.disk)
        await host.redis.client_pause(5000, all=False)
        with suppress(Exception):
            async with asyncio.timeout(0.1):
                await admission.accept(task(), "sha", 10, PICTURES)
        assert len(host.names()) == 1
        await host.redis.client_unpause()
