"""Many viewers of many tasks on one gateway: each sees every event once, over one reading connection to Redis.

The same with 5,000 viewers of 500 tasks, and how late events come then: `python -m bench viewers`.
"""

from __future__ import annotations

import asyncio

import aiohttp

from daemon.domain import events, messages
from daemon.domain.events import Channel, Usage
from tests.integration.gateway.conftest import Open, Rig
from tests.integration.gateway.frames import all_events
from tests.waiting import WaitUntil

TASKS, EACH = 20, 10  #: and viewers of each
DELTAS = [str(number) for number in range(10)]
DONE = events.done(
    "t1", usage=Usage(), model_id="m1", content_sha256=messages.content_sha256("".join(DELTAS)), result=None
)


async def seen(rig: Rig, task_id: str) -> list[str]:
    """The ids of all events of one viewer."""
    async with rig.follow(task_id, timeout=aiohttp.ClientTimeout(50)) as answer:
        return [str(frame.id) for frame in await all_events(answer)]


async def test_every_viewer_sees_every_event(open_rig: Open, wait_until: WaitUntil) -> None:
    """Whoever joins while others are told already included; and Redis is read over one connection."""
    names = [f"t{number}" for number in range(TASKS)]
    async with open_rig(viewers_per_address=10_000) as rig, asyncio.timeout(40), asyncio.TaskGroup() as group:
        viewers = [(name, group.create_task(seen(rig, name))) for name in names for _ in range(EACH)]
        await wait_until(lambda: rig.fan_out.topics > TASKS // 2, description="half of them follow", within_s=30)
        for delta in DELTAS:
            for name in names:
                await rig.append(name, [events.token_batch(delta, Channel.TEXT)])
        await wait_until(lambda: len(rig.fan_out.viewers) == TASKS * EACH, description="all follow", within_s=60)
        reading = [client for client in await rig.redis.client_list() if client["name"] == "qstreamd-hub"]
        assert [client["cmd"] for client in reading] == ["xread"]
        for name in names:
            await rig.append(name, [DONE])
        stored = {
            name: [entry_id.decode() for entry_id, _ in await rig.redis.xrange(f"task:{name}:events")] for name in names
        }
    assert all(len(ids) == len(DELTAS) + 2 for ids in stored.values())
    assert [name for name, viewer in viewers if viewer.result() != stored[name]] == []
