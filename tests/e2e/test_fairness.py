"""Who waits for whom: a flood of one user beside twenty others, and free beside paid at a model's rate.

`pytest --whole -s -k flood` prints the table of waits that docs/guides/flow-control.md shows.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from typing import Any

import pytest

from daemon.config import QueueSettings
from daemon.domain.clock import SystemClock
from daemon.domain.messages import TaskMessage
from daemon.queues.admission import Accepted, Admission
from daemon.redis_client import keys
from daemon.redis_client.scripts import Scripts
from tests.e2e.test_flow_control import order
from tests.e2e.world import World, services_toml

pytestmark = pytest.mark.timeout(300)
QUEUE = "q_paid_stream"
OTHERS = [f"user{n}" for n in range(20)]
RATED = """
[models.rated]
provider = "openai"
name = "rated"
input = ["text"]
concurrency = { paid = 100, free = 100 }
requests_per_minute = 60

[services.rated]
title = "rated"
prompt = "{{ tokens }} tokens of {{ id }}"
models = { paid = ["rated"], free = ["rated"] }
"""


async def accept(world: World, tasks: Sequence[tuple[str, str]], tokens: int) -> None:
    """Tasks as (id, user), accepted as the relay does, in this order."""
    import redis.asyncio

    client = redis.asyncio.Redis.from_url(world.redis_url)
    door = Admission(Scripts(client), QueueSettings(), SystemClock())

    async def one(task_id: str, user: str) -> None:
        given: dict[str, Any] = {"id": task_id, "tokens": tokens}
        message = TaskMessage(task_id=task_id, queue_id=QUEUE, service_id="plain", user_id=user, variables=given)
        assert isinstance(await door.accept(message, task_id, 1_000_000, {}), Accepted)

    for at in range(0, len(tasks), 100):
        await asyncio.gather(*(one(*task) for task in tasks[at : at + 100]))
    await client.aclose()


async def waits(world: World, flood: int, *, user_limit: int) -> list[float]:
    """Seconds until the task of each of twenty users started that stood behind `flood` tasks of one."""
    # Parked tasks are woken; asking unasked is for lost wake-ups, and with the short times of tests it would be a poll.
    world.variables |= {"USER_CONCURRENCY_PAID": str(user_limit), "QSTREAMD_GUARD_RETRY_S": "60"}
    daemon = await world.start_daemon(QUEUE)
    await order(world, "pause", QUEUE)
    await daemon.logged("queue.paused")
    name = f"{user_limit}-{flood}"
    await accept(world, [(f"f{name}-{n}", f"flooder{name}") for n in range(flood)], tokens=100)
    await accept(world, [(f"o{name}-{user}", user) for user in OTHERS], tokens=2)
    await order(world, "resume", QUEUE)
    await daemon.logged("queue.resumed")
    began = time.time()
    starts = [await world.seen(f"o{name}-{user}", "started", within_s=60) for user in OTHERS]
    daemon.kill()
    await world.redis.flushdb()  # a purge would tell each of ten thousand viewers; not what is looked at here
    return [max(0.0, event["timestamp"] - began) for event in starts]


async def test_others_start_long_before_a_flood_is_done(world: World) -> None:
    """A sample without a clock: behind 150 tasks that need 25 s, at three at once, nobody waits for more than a few."""
    found = await waits(world, 150, user_limit=3)
    assert len(found) == len(OTHERS)
    flood = [call for call in world.llm.calls if call.tokens > 2]
    assert len(flood) < 75, f"{len(flood)} of the flood ran before the last of the others started"


@pytest.mark.long
async def test_one_user_s_flood_does_not_hold_up_twenty_others(world: World, *, whole: bool) -> None:
    """The bound: a second for each thousand tasks in front; four times that on a machine that tests share."""
    table = {"300 in front, no limit of a user": await waits(world, 300, user_limit=10_000)}
    for flood in (300, 2_000, 10_000) if whole else (300,):
        table[f"{flood:,} in front, three at once for a user"] = found = await waits(world, flood, user_limit=3)
        assert max(found) < 2.0 + 4 * flood / 1000, found
    lines = (f"{what:<44} {' '.join(f'{second:5.1f}' for second in seconds)}\n" for what, seconds in table.items())
    sys.stdout.writelines(lines)
    before, after, *_ = table.values()
    assert max(after) < min(before)


@pytest.mark.long
async def test_paid_goes_first_at_a_model_s_rate_and_free_never_starves(world: World) -> None:
    """Twice as many paid tasks come as the rate lets through; free ones wait for those before them, not for ever."""
    (world.directory / "services.toml").write_text(services_toml() + RATED, "utf-8")
    world.variables["QSTREAMD_FREE_PATIENCE_S"] = "2"
    await world.start_daemon(f"{QUEUE},q_free_stream", QUEUE_PARALLELISM_FREE_STREAM="5")
    before, free, after = ([f"{kind}{n}" for n in range(count)] for kind, count in (("b", 14), ("f", 3), ("a", 30)))
    await world.publish_many(before, "rated", tokens=1)
    await world.publish_many(free, "rated", tokens=1, queue="q_free_stream")
    for task_id in after:
        await world.publish(task_id, "rated", tokens=1)
        await asyncio.sleep(0.5)
    await world.check(within_s=90)
    began = {task_id: (await world.seen(task_id, "started"))["timestamp"] for task_id in world.published}
    assert max(began[name] for name in before) < min(began[name] for name in free), "paid goes first"
    assert max(began[name] for name in free) < max(began[name] for name in after), "free is not left for the end"
    lines = (keys.model_keys("rated").paid_turns, keys.model_keys("rated").free_turns)
    assert [await world.redis.zcard(line) for line in lines] == [0, 0]
