"""FLUSHALL under a whole qstreamd: what runs goes on, what is lost for good is told, the stamp comes back."""

from __future__ import annotations

import asyncio
import base64
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest

from daemon.dev.embedded_redis import EmbeddedRedis
from daemon.redis_client import keys
from tests.e2e.gateway_world import World as GatewayWorld
from tests.e2e.gateway_world import talkative
from tests.e2e.gateway_world import world as gateway_world
from tests.e2e.processes import KEPT, ROOT
from tests.e2e.world import World
from tests.unit.blobs.pictures import PNG
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(120)

QUEUES: Final = "q_paid_stream,q_paid_vision"
#: several beats in a call, and a lease that a busy machine keeps
LEASE: Final = {"QSTREAMD_LEASE_S": "4", "QSTREAMD_BEAT_S": "0.5", "QSTREAMD_SELF_FENCE_S": "3"}
IMAGE: Final = {"data": base64.b64encode(PNG).decode(), "mimeType": "image/png"}


@pytest.fixture
async def own(redis_server: EmbeddedRedis, postgres_url: str, tmp_path: Path) -> AsyncIterator[World]:
    """A world on a Redis of its own, which a test may empty."""
    async with World(redis_server.url, postgres_url, tmp_path, variables=dict(LEASE)) as world:
        yield world


async def called(world: World, count: int) -> None:
    await wait_until(lambda: len(world.llm.calls) >= count, description=f"{count} calls", within_s=20)


async def test_no_running_call_is_cut_and_none_is_paid_twice(own: World) -> None:
    """Eight streams and four tasks whose images lay in Redis: the row proves whose they are."""
    daemon = await own.start_daemon(QUEUES, QUEUE_PARALLELISM_PAID_VISION="4")
    streams, images = [f"s{n}" for n in range(8)], [f"i{n}" for n in range(4)]
    await own.publish_many(streams, tokens=1000)
    await own.publish_many(images, tokens=1000, queue="q_paid_vision", images=[IMAGE])
    await called(own, 12)
    await own.redis.flushall()
    model = keys.model_permits("plain", "paid")
    await wait_until(lambda: _permits(own, model, 12), description="all permits are held again", within_s=5)
    await own.publish("after")
    await own.publish("image-after", queue="q_paid_vision", images=[IMAGE])  # waits for a slot
    for task_id in (*streams, *images, "after", "image-after"):
        done = await own.ended(task_id, within_s=40)
        assert (done["type"], done["attempt"]) == ("done", 1), (task_id, done)
    assert [call.images for call in own.llm.calls].count(1) == 5
    assert not daemon.log("lease.lost") and not daemon.log("task.restored")
    assert (await own.check(events_lost=True, calls_max=1)).calls() == 14


async def _permits(world: World, key: str, count: int) -> bool:
    return int(await world.redis.zcard(key)) == count


async def test_a_command_of_another_environment_is_refused_also_after_it(own: World) -> None:
    """Whoever runs writes the stamp again: also a daemon whose slots are all taken, which reads nothing."""
    await own.start_daemon("q_paid_stream", QUEUE_PARALLELISM_PAID_STREAM="1")
    await own.publish("t1", tokens=1000)
    await own.seen("t1", "token_batch")
    await own.redis.flushall()
    await wait_until(lambda: own.redis.get(keys.ENVIRONMENT), description="the stamp is back", within_s=5)
    refused = command(own, "queues", "pause", "q_paid_stream", "--reason", "a test")
    assert refused.returncode == 78 and "belongs to b'production'" in refused.stderr, refused
    assert not await own.redis.hexists(keys.queue_keys("q_paid_stream").control, "paused")
    assert (await own.ended("t1"))["type"] == "done"


async def test_a_process_that_does_not_start_leaves_no_stamp(own: World) -> None:
    """A development daemon that may not listen where it was told to; production starts on the same servers."""
    failing = own.new_daemon("q_paid_stream", NODE_ENV="development", OPS_HOST="203.0.113.1")
    failing.start()
    assert await failing.ended() != 0
    assert not await own.redis.exists(keys.ENVIRONMENT)
    assert not await own.sql("SELECT name FROM qstreamd.environment")
    await own.start_daemon("q_paid_stream")
    assert await own.redis.get(keys.ENVIRONMENT) == "production"
    assert [row["name"] for row in await own.sql("SELECT name FROM qstreamd.environment")] == ["production"]


async def test_viewers_of_tasks_that_are_lost_for_good_are_told(
    redis_server: EmbeddedRedis, postgres_url: str, tmp_path: Path
) -> None:
    """Three wait for the one slot, unclaimed: no row is left of them. The running one goes on to its `done`."""
    given: dict[str, Any] = {
        "QSTREAMD_COMPARE_S": "1",
        "QUEUE_PARALLELISM_PAID_STREAM": "1",
        "BLOB_DIR": str(tmp_path),
        **LEASE,
    }
    async with gateway_world(
        redis_server.url, postgres_url, models={"tokens_per_s": 400.0, "answer": talkative}, **given
    ) as here:
        running = await here.submit(taskId="runs", variables={"resume": "r", "role": "chatterbox"})
        await here.started("runs")
        waiting = [await here.submit(taskId=f"w{n}", userId=f"u{n}") for n in range(3)]
        names = keys.queue_keys("q_paid_stream")
        await wait_until(lambda: _length(here, names.tasks, 4), description="all are accepted")
        async with asyncio.TaskGroup() as group:
            watched = [group.create_task(here.events(task)) for task in (running, *waiting)]
            await wait_until(lambda: _watched(here, 4), description="all are watched")
            await here.redis.flushall()
        (*_, done), *lost = (watch.result() for watch in watched)
        assert (done["type"], done["attempt"]) == ("done", 1)
        for told in lost:
            assert [e["type"] for e in told] == ["queued", "error"]
            assert (told[1]["code"], told[1]["retryable"], "id" in told[1]) == ("WORKER_LOST", False, False)
        assert len(here.models.calls) == 1


async def _length(here: GatewayWorld, stream: str, count: int) -> bool:
    return int(await here.redis.xlen(stream)) == count


async def _watched(here: GatewayWorld, count: int) -> bool:
    async with here.http.get(f"{here.url}/metrics") as answer:
        return f"qstreamd_watched_tasks {count}.0" in await answer.text()


def command(world: World, *arguments: str) -> subprocess.CompletedProcess[str]:
    """One operator's command with the settings of a development machine."""
    kept = {k: v for k, v in os.environ.items() if k.startswith(KEPT)}
    own = {"NODE_ENV": "development", "REDIS_URL": world.redis_url, "DATABASE_URL": world.database_url,
           "SERVICES_FILE": str(world.directory / "services.toml")}  # fmt: skip
    return subprocess.run(
        [sys.executable, "-m", "daemon", *arguments], cwd=ROOT, env={**kept, **own}, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
